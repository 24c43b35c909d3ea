"""The response of a black box, compared with closed forms, torch's own state, and the derivative of torch's update."""

from functools import cache, partial

import numpy as np
import odd_optimizers
import pytest
import torch

from swd_dynamics.bench.impulses import Push, effective_lr_of, ends_in, impulse_response
from swd_dynamics.bench.interventions import MATRICES, MIXED, bench_for
from swd_dynamics.bench.precision import DOUBLE, FINE
from swd_dynamics.bench.response import AFTERWARDS, RENEWED, Perturbation, measure_response
from swd_dynamics.bench.streams import DROP, FOLLOWED, HALVED, LEAD, PARTS, steady_gradients
from swd_dynamics.errors import InputError
from swd_dynamics.optim import SGDS, AdamS
from swd_dynamics.probe import Probe

LR, DECAY = 0.01, 0.1
ARGUMENTS = {"lr": LR, "weight_decay": DECAY}
N = 32

# Round-off of R = 1 − δ′/δ with δ = 1e-4 and weights that grow to 30: 30·eps/1e-4 is 7e-11, several times in a step.
READ = 1e-9
# The smallest impulses, 1e-4·.1, move weights by 1e-6, of which the round-off eps·30 is 7e-9.
PUSH_READ = 1e-8
# Adam is not linear in θ: a perturbation δ changes the rates by about δ·λ/σ = 1e-4·.1/.1, relative, several times.
CURVED = 1e-3
# The share of an impulse that is not measured: .9^100 = 3e-5 of it comes later, and it moves second moments by 1e-11.
MOVING = 1e-4

SGD = partial(torch.optim.SGD, **ARGUMENTS)
HEAVY_BALL = partial(torch.optim.SGD, momentum=0.9, **ARGUMENTS)
ADAMW = partial(torch.optim.AdamW, **ARGUMENTS)
# Each is measured once, when it is first asked for.
measured = cache(measure_response)


def rates(course):
    return 1 - course.after / course.before


def rates_alone(factory, steps=None):
    """R of each step from the two runs that show it, without the twenty others of a whole measurement."""
    bench = bench_for(factory)
    base = bench.run(steps)
    return rates(Perturbation(FINE.move * np.sign(bench.stream[0])).followed(bench, base, steps))


def second_moments(beta2):
    """v̂ after each step of the stream, as a sum over the gradients, shape (steps, n)."""
    gradients = steady_gradients(N)[1]
    ages = np.arange(len(gradients))
    weights = np.tril(beta2 ** np.maximum(ages[:, None] - ages, 0)) * (1 - beta2)
    return weights @ gradients**2 / (1 - beta2 ** (ages[:, None] + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (SGD, LR * DECAY),
        (ADAMW, LR * DECAY),
        (partial(SGDS, momentum=0.9, **ARGUMENTS), LR * DECAY / 0.1),
    ],
    ids=["SGD", "AdamW", "SGDS"],
)
def test_constant_rates(factory, expected):
    """Assert that R is ηλ, or ηλ/(1−β), in every step, and half of that once η is halved."""
    rate = rates(measured(factory).moved)
    np.testing.assert_allclose(rate[:HALVED], expected, rtol=0, atol=READ)
    np.testing.assert_allclose(rate[HALVED:], expected / 2, rtol=0, atol=READ)


@pytest.mark.slow
def test_adams_follows_the_second_moment():
    """Assert that every weight of AdamS shrinks by ηλ/√v̄ in each step, v̄ as the gradients themselves have it."""
    rate = rates_alone(partial(AdamS, **ARGUMENTS))
    expected = LR * DECAY / np.sqrt(second_moments(0.999).mean(axis=1, keepdims=True))
    np.testing.assert_allclose(rate[:HALVED], np.broadcast_to(expected, rate.shape)[:HALVED], rtol=0, atol=READ)


@pytest.mark.slow
def test_adam_responds_as_its_derivative():
    """Assert that the black box and the derivative of Adam's update, which looks inside, see the same R."""
    theta, gradients = steady_gradients(N)
    weight = torch.nn.Parameter(torch.from_numpy(theta.copy()))
    adam = torch.optim.Adam([weight], **ARGUMENTS)
    with Probe(adam, trajectory=True) as probe:
        for gradient in gradients[: RENEWED[0]]:
            weight.grad = torch.from_numpy(gradient.copy())
            adam.step()
    inside = probe.dataset().decay_rate_weight.values
    outside = rates_alone(partial(torch.optim.Adam, **ARGUMENTS), RENEWED[0])
    np.testing.assert_allclose(outside, inside, rtol=0, atol=CURVED * inside.max())


@pytest.mark.slow
def test_heavy_ball_moves_and_remembers():
    """Assert that an impulse moves a weight by η/(1−β), and that L2 lasts for β/(1−β) steps: two sums of βʲ."""
    response = measured(HEAVY_BALL)
    followed = FOLLOWED - np.arange(N) % PARTS
    np.testing.assert_allclose(response.impulses.effective_lr[0], LR * (1 - 0.9**followed) / 0.1, rtol=PUSH_READ)
    delay = -response.echo.left / response.echo.subtracted
    np.testing.assert_allclose(delay, 0.9 * (1 - 0.9**AFTERWARDS) / 0.1, rtol=READ / 1e-2)
    assert not np.any(response.control_echo.left)


@pytest.mark.slow
def test_impulse_measures_the_preconditioner():
    """Assert that an impulse on AdamW finds η/√v̂ of each weight, while the momentum passes it on."""
    response = measured(ADAMW)
    speed = LR / np.sqrt(second_moments(0.999))
    ages = np.arange(100)[:, None]  # .9^100 is 3e-5
    steps = DROP - LEAD + np.arange(N) % PARTS + ages
    expected = np.sum(0.1 * 0.9**ages * speed[steps, np.arange(N)], axis=0)
    np.testing.assert_allclose(response.impulses.effective_lr[0], expected, rtol=MOVING)


ROUGH = 0.25  # relative: what the audit states of η_eff where steps are rounded to bfloat16


@pytest.mark.slow
def test_rounding_to_bfloat16_does_not_hide_the_effective_lr(monkeypatch):
    """Assert that η_eff of torch's Muon is what it is with exact matrices, for eight weights in ten within 25 %."""
    bench = bench_for(partial(torch.optim.Muon, **ARGUMENTS)).times(decay=0.0)
    rounded = impulse_response(bench, bench.run(), FINE, DOUBLE)
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())
    followed = bench.run(DROP - LEAD + FOLLOWED)
    exact, _ = effective_lr_of(bench, followed, DROP, Push(1e-3, strong=True), DOUBLE)
    assert rounded.push.strong and np.mean(rounded.even) >= 0.8
    off = np.abs(rounded.effective_lr[0] / exact - 1)[rounded.even]
    assert np.mean(off < ROUGH) >= 0.8


@pytest.mark.slow
def test_strong_impulses_agree_where_small_ones_do():
    """Assert that η/(1−β) of a heavy ball is found from strong impulses too, which a linear step answers exactly."""
    bench = bench_for(HEAVY_BALL).times(decay=0.0)
    found, _ = effective_lr_of(bench, bench.run(), DROP, Push(0.5, strong=True), DOUBLE)
    np.testing.assert_allclose(found, LR / 0.1, rtol=PUSH_READ)
    assert not measured(HEAVY_BALL).impulses.push.strong


@pytest.mark.parametrize(("momentum", "ends"), [(0.98, True), (0.995, False)])
@pytest.mark.slow
def test_whether_longer_runs_may_help_is_known_from_two_runs(momentum, ends):
    """Assert that β²⁰⁰ = .02 and .37 of an impulse are told apart, of which an audit in longer runs allows a tenth."""
    bench = bench_for(partial(torch.optim.SGD, lr=LR, momentum=momentum))
    assert ends_in(bench, Push(FINE.impulse), DOUBLE) is ends


def of_parameters_alone(params):
    return HEAVY_BALL(params)


@pytest.mark.slow
@pytest.mark.parametrize("factory", [HEAVY_BALL, of_parameters_alone])
def test_control_and_exponents(factory):
    """Assert that λ = 0 and halved η and λ reach the optimizer as arguments, or through its groups."""
    response = measured(factory)
    np.testing.assert_allclose(rates(response.control), 0, rtol=0, atol=READ)
    np.testing.assert_allclose(rates(response.half_lr)[0], LR * DECAY / 2, rtol=0, atol=READ)
    np.testing.assert_allclose(rates(response.half_decay)[0], LR * DECAY / 2, rtol=0, atol=READ)


@pytest.mark.slow
def test_random_numbers_are_the_same_in_every_run():
    """Assert that noise in an optimizer's steps does not change its response, and that the caller's numbers resume."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    rate = rates_alone(odd_optimizers.Noisy)
    np.testing.assert_allclose(rate[:HALVED], LR * DECAY, rtol=0, atol=READ)
    assert torch.equal(before, torch.get_rng_state())


def test_matrices_where_nothing_else_will_do():
    """Assert that an optimizer of matrices gets matrices alone, and any other optimizer a vector too."""
    assert bench_for(partial(torch.optim.Muon, **ARGUMENTS)).shapes == MATRICES
    assert bench_for(SGD).shapes == MIXED


class NamedGroups(torch.optim.SGD):
    """Wants groups with an entry use_muon; matrices get twice the η."""

    def __init__(self, params, lr=LR, weight_decay=DECAY):
        for group in params:
            group["lr"] = lr * (1 + group["use_muon"])
        super().__init__(params, lr=lr, weight_decay=weight_decay)


class Single(torch.optim.SGD):
    """Refuses float64."""

    def step(self):
        for group in self.param_groups:
            if any(p.dtype != torch.float32 for p in group["params"]):
                raise RuntimeError("float32 is wanted")
        super().step()


class Both(NamedGroups, Single):
    """Wants both."""


@pytest.mark.parametrize("factory", [NamedGroups, partial(Single, **ARGUMENTS)])
def test_other_forms_are_tried(factory):
    """Assert that groups with use_muon, or float32, are given where nothing else will do."""
    words = bench_for(factory).given.words
    assert ("use_muon" in words, "float32" in words) == (factory is NamedGroups, factory is not NamedGroups)


@pytest.mark.slow
def test_two_other_forms_are_tried_together():
    """Assert that groups with use_muon in float32 are given where nothing else will do, and R = ηλ of each group."""
    response = measure_response(Both)
    assert "use_muon" in response.given and "float32" in response.given
    expected = np.repeat([2 * LR, LR], [24, 8]) * DECAY
    tolerance = 8 * 2.0**-24 * 0.3 / 1e-2  # roundings of weights of .3, divided by δ
    np.testing.assert_allclose(rates(response.moved)[0], expected, rtol=0, atol=tolerance)


def test_the_first_form_is_kept_where_nothing_is_unusual():
    """Assert that an optimizer that takes a matrix and a vector in float64 gets them, and nothing is said of it."""
    assert bench_for(HEAVY_BALL).given.words == ""


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (torch.optim.LBFGS, "LBFGS takes no step with gradients alone: .*closure"),
        (odd_optimizers.NeedsMore, "NeedsMore .*horizon"),
        (partial(torch.optim.SGD, lr=-1.0), "SGD .*Invalid learning rate"),
    ],
)
def test_what_cannot_be_measured_says_why(factory, message):
    """Assert that an optimizer that cannot be made or stepped is refused with its own words."""
    with pytest.raises(InputError, match=message):
        measure_response(factory)
