"""Replay against records made by hand and by torch."""

import json

import numpy as np
import pytest
import torch
import xarray
from aggregated_momentum import AggregatedMomentum
from hypothesis import given, settings
from hypothesis import strategies as st

from swd_dynamics.crosscheck import recorded_rule, replay
from swd_dynamics.errors import InputError
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.probe import record
from swd_dynamics.rules import CATALOG, DECAYS, Decoupled, NoDecay, UpdateRule
from swd_dynamics.tables import UnknownName
from swd_dynamics.tasks import quadratic, tanh_network

GRADIENTS = np.random.default_rng(0).normal(size=(40, 5))
START = np.array([1.0, -2.0, 0.5, 3.0, -0.1])


def made_by_hand(rule, dtype=float, disturb=None):
    """A record of a rule's own steps, with one step disturbed."""
    state, theta = rule.start(START), [START]
    for k, gradient in enumerate(GRADIENTS):
        state = rule(state, gradient)
        if disturb and disturb[0] == k + 1:
            state = state._replace(theta=state.theta * (1 + disturb[1]))
        theta.append(state.theta)
    data = {"theta": (("iterate", "weight"), np.array(theta, dtype)), "gradient": (("step", "weight"), GRADIENTS)}
    return xarray.Dataset(data)


@pytest.mark.slow
@settings(max_examples=40)  # each example searches several hundred causes, and there are 120 cases
@given(step=st.integers(1, 40), size=st.sampled_from([1e-13, 1e-9, 1e-3]))
def test_the_departing_step_is_found(step, size):
    """Assert that a single disturbed step is found, whichever it is and however small above round-off."""
    rule = CATALOG["AdamS"](lr=0.01, weight_decay=0.05)
    verdict = replay(rule, made_by_hand(rule, disturb=(step, size)))
    assert (verdict.status, verdict.first_departure) == ("refuted", step)


@pytest.mark.parametrize("mode", DECAYS)
@pytest.mark.slow
def test_a_direction_of_ones_own(mode):
    """Assert that a user's own direction replays under every decay, and under no other."""
    numbers = {"none": (), "corrected": (0.1, 0.2)}
    rules = {
        name: UpdateRule(0.05, Pairwise(0.5, 0.9), decay(*numbers.get(name, (0.1,)))) for name, decay in DECAYS.items()
    }
    recording = made_by_hand(rules[mode])
    assert {name: replay(rule, recording).passed for name, rule in rules.items()} == {n: n == mode for n in DECAYS}


@pytest.mark.slow
def test_single_precision_is_held_to_its_own_round_off():
    """Assert that a float32 record is judged by float32's eps, and still tells a wrong decay."""
    task = tanh_network((8,), samples=50, dtype=torch.float32)
    recording = record(torch.optim.AdamW(task.model.parameters(), lr=0.01, weight_decay=0.1), task.loss, 30)
    right, wrong = (CATALOG[n](lr=0.01, weight_decay=0.1) for n in ("AdamW", "AdamS"))
    assert replay(right, recording).passed
    assert replay(wrong, recording).first_departure == 1


def groups_recording(scheduled=False):
    task = tanh_network((4,), samples=30)
    weights = [p for p in task.model.parameters() if p.ndim > 1]
    biases = [p for p in task.model.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0, "lr": 0.02}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10) if scheduled else None
    return record(optimizer, task.loss, 25, scheduler=scheduler, model=task.model)


@pytest.mark.parametrize("scheduled", [False, True])
def test_numbers_come_from_the_recording(scheduled):
    """Assert that groups and a learning-rate schedule are read from the recording, and that they replay."""
    recording = groups_recording(scheduled)
    assert replay(recorded_rule("AdamW", recording), recording).passed
    assert not replay(recorded_rule("AdamS", recording), recording).passed


@pytest.mark.parametrize(
    ("name", "numbers", "wrong", "named"),
    [
        ("AdamW", {}, "the decay of the biases", ["two groups", "λ = 0.1 and 0,", "λ = 0.1 for all"]),
        ("Adam", {}, "that, and the kind of decay", ["two groups", "λ = 0.1 and 0,", "decoupled"]),
        ("AdamW", {"lr": 0.5, "betas": (0.5, 0.9)}, "all numbers", ["η = 0.01", "η = 0.5", "betas = (0.5, 0.9)"]),
    ],
)
def test_groups_of_the_recording_are_named(name, numbers, wrong, named):
    """Assert that a rule with one λ is told of the recording's two, alone and besides another mistake."""
    task = tanh_network((4,), samples=30)
    weights, biases = ([p for p in task.model.parameters() if (p.ndim > 1) is many] for many in (True, False))
    groups = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
    recording = record(torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1), task.loss, 10, model=task.model)
    verdict = replay(CATALOG[name](**{"lr": 0.01, "weight_decay": 0.1} | numbers), recording)
    assert verdict.first_departure == 1, wrong
    assert [words for words in named if words not in verdict.cause] == []


class Pairwise(AggregatedMomentum):
    """Aggregated momentum with an η_eff for each weight, so that preconditioned decay is not stable decay."""

    def effective_lr_by_weight(self, memory, step):
        return self.effective_lr(memory, step) * (1 + (step.theta > 0))


def step_lr(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 5, gamma=0.5)


@pytest.mark.parametrize(
    ("made", "rule", "first", "cause"),
    [
        (torch.optim.AdamW, CATALOG["Adam"], 1, "weight decay is decoupled: R = ηλ"),
        (torch.optim.Adam, CATALOG["AdamW"], 1, "weight decay joins the gradient (L2)"),
        (
            lambda p, **k: torch.optim.AdamW(p, maximize=True, **k),
            CATALOG["AdamW"],
            1,
            "the gradient has the other sign",
        ),
        (torch.optim.NAdam, CATALOG["Adam"], 1, "unknown"),
        (
            OPTIMIZERS["AdamPreconditioned"],
            CATALOG["AdamW"],
            1,
            "weight decay is preconditioned: R = λη_eff of each weight",
        ),
    ],
)
@pytest.mark.slow
def test_a_near_rule_is_named(made, rule, first, cause):
    """Assert that the kind of decay and the sign of torch's own optimizers are named, and NAdam as unknown."""
    task = quadratic((1.0, 3.0, 0.1), noise=0.1)
    recording = record(made(task.model.parameters(), lr=0.01, weight_decay=0.1), task.loss, 20)
    verdict = replay(rule(lr=0.01, weight_decay=0.1), recording)
    assert (verdict.first_departure, verdict.cause) == (first, cause)


def test_a_schedule_of_the_recording_is_named():
    """Assert that a rule with a constant η is told of the recorded schedule, and where it first matters."""
    task = quadratic((1.0, 3.0, 0.1), noise=0.1)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=0.5, weight_decay=0.25)
    recording = record(optimizer, task.loss, 12, scheduler=step_lr(optimizer))
    verdict = replay(CATALOG["AdamW"](lr=0.5, weight_decay=0.25), recording)
    assert verdict.first_departure == 6
    assert "η = 0.5 (0.125 at the end)" in verdict.cause and "the rule has η = 0.5" in verdict.cause


@pytest.mark.slow
def test_numbers_that_are_not_the_cause_are_a_remark():
    """Assert that a recorded λ that the rule's differs from is no cause if steps differ with it as well."""
    task = quadratic((1.0, 3.0, 0.1), noise=0.1)
    recording = record(torch.optim.NAdam(task.model.parameters(), lr=0.5, weight_decay=0.25), task.loss, 5)
    verdict = replay(CATALOG["Adam"](lr=0.5, weight_decay=0.125), recording)
    assert verdict.cause == "unknown" and "λ = 0.25" in verdict.why


def test_a_divergent_run_of_the_rule_is_a_refutation():
    """Assert that a rule that overflows where the record does not is refuted, not a crash."""
    recording = made_by_hand(UpdateRule(0.1, AggregatedMomentum(0.5, 0.9), NoDecay()))
    verdict = replay(UpdateRule(0.1, AggregatedMomentum(0.5, 0.9), Decoupled(1e308)), recording)
    assert verdict.status == "refuted"
    assert "not finite" in verdict.cause


def without(variable):
    return lambda recording: recording.drop_vars(variable)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("gradient"), "lacks gradient, which replay needs"),
        (without(["theta", "gradient"]), "lacks theta and gradient"),
        (lambda r: r.assign_attrs(steps_before=3), "does not begin at the optimizer's first step"),
        (lambda r: r.isel(step=slice(0)), "holds no step"),
        (lambda r: r.isel(step=slice(3)), "do not fit"),
        (lambda r: r.isel(weight=0), "do not fit"),
        (lambda r: r.assign(gradient=r["gradient"] * np.nan), "gradient of step 1 is not finite"),
        (lambda r: CATALOG["SGD"](), "needs an xarray.Dataset"),
        (lambda r: r.assign(theta=r["theta"].where(r["iterate"] < 4)), "diverged: ‖θ‖ is not finite after step 4"),
    ],
)
def test_what_a_recording_lacks_is_said(change, said):
    """Assert that a recording that cannot be replayed is refused with what it lacks."""
    rule = CATALOG["SGD"](lr=0.1)
    recording = made_by_hand(rule).assign_coords(iterate=np.arange(41))
    with pytest.raises(InputError, match=said):
        replay(rule, change(recording))


def test_arrays_must_fit_the_weights():
    """Assert that a learning rate for other weights than the recorded ones is refused with both numbers."""
    with pytest.raises(InputError, match=r"lr has shape \(2,\), but the recording has 5 weights"):
        replay(CATALOG["SGD"](lr=np.array([0.1, 0.2])), made_by_hand(CATALOG["SGD"](lr=0.1)))


@pytest.mark.slow
def test_recorded_rule_refuses_what_it_cannot_read():
    """Assert that an unknown rule, missing arguments and groups of two directions are refused with the reason."""
    recording = groups_recording()
    with pytest.raises(UnknownName, match=r"unknown optimizer .AdamX.; known: Adam"):
        recorded_rule("AdamX", recording)
    with pytest.raises(InputError, match="optimizer_arguments"):
        recorded_rule("AdamW", made_by_hand(CATALOG["SGD"](lr=0.1)))
    groups = json.loads(recording.attrs["optimizer_arguments"])
    groups[0]["eps"] = 1e-3
    with pytest.raises(InputError, match="groups differ"):
        recorded_rule("AdamW", recording.assign_attrs(optimizer_arguments=json.dumps(groups)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("fused", [False, True])
def test_a_gpu_run_replays(fused):
    """Assert that a float64 run on a GPU, fused or not, replays to round-off."""
    task = quadratic((1.0, 3.0, 0.1), noise=0.1, device="cuda")
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=0.01, weight_decay=0.1, fused=fused)
    assert replay(CATALOG["AdamW"](lr=0.01, weight_decay=0.1), record(optimizer, task.loss, 200)).passed


def two_groups_on_a_schedule():
    """A recording of AdamW with a decaying matrix and a bias without decay, on a schedule."""
    task = tanh_network((8,), samples=50)
    matrix, *others = task.model.parameters()
    groups = [{"params": [matrix]}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.003, weight_decay=0.1)
    return record(optimizer, task.loss, 12, scheduler=step_lr(optimizer))


def test_other_numbers_come_with_what_to_write():
    """Assert that a cause in the recording's numbers ends with the call that reads them, which confirms the run."""
    recording = two_groups_on_a_schedule()
    rule = CATALOG["AdamW"](lr=0.003, weight_decay=0.1)
    assert 'replay("AdamW", recording)' in replay(rule, recording).cause
    assert replay("AdamW", recording).status == "confirmed"
    with pytest.raises(InputError, match=r'replay\("AdamW", recording\)'):
        replay([rule, rule], recording)
