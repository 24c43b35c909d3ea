"""The central flow under a schedule, compared with runs of torch's optimizers under torch's own schedulers."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from flows.hand_network import HandNetwork
from flows.test_central import control_of, mean_state

from swd_dynamics.errors import InputError
from swd_dynamics.flows import CentralFlow, moving_edge
from swd_dynamics.rules import (
    CATALOG,
    L2,
    SGD,
    Constant,
    Cosine,
    HeavyBall,
    Linear,
    NoDecay,
    Stable,
    UpdateRule,
    Warmup,
)

NETWORK = HandNetwork()
LR, SETTLED, STEPS = 0.22, 150, 200
DECAYS = {"no decay": NoDecay(), "L2": L2(0.015)}
# The schedule, and torch's with its largest η: η falls by a half in 200 steps, as to 0 in 400; or it rises by a half.
SCHEDULES = {
    "linear": (Linear(LR, steps=400), LR, partial(torch.optim.lr_scheduler.PolynomialLR, total_iters=400)),
    "cosine": (Cosine(LR, steps=400), LR, partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=400)),
    "rising": (
        Warmup(Constant(1.5 * LR), steps=STEPS, start_factor=2 / 3),
        1.5 * LR,
        partial(torch.optim.lr_scheduler.LinearLR, start_factor=2 / 3, total_iters=STEPS),
    ),
}


def flow_of(lr, decay, **options):
    return CentralFlow(UpdateRule(lr, SGD(), decay), NETWORK.gradient, loss=NETWORK.loss, directions=2, **options)


@cache
def settled(decay):
    """The slow mean at the edge at constant η, and a state of a run with its settled oscillation."""
    flow = flow_of(LR, DECAYS[decay])
    solution = flow.solve(NETWORK.start(1000), SETTLED)
    return solution.theta[-1], flow.oscillating(solution, SETTLED).theta


@cache
def at_constant_lr(decay):
    """The central flow at constant η, from the slow mean at the edge on."""
    return flow_of(LR, DECAYS[decay]).solve(settled(decay)[0], STEPS)


def torch_run(optimizer_of, theta, scheduler_of, steps):
    """The iterates of a torch optimizer under a torch scheduler, from θ on, and their slow mean."""
    weights = torch.nn.Parameter(torch.tensor(theta))
    optimizer = optimizer_of(weights)
    scheduler, found = scheduler_of(optimizer), [theta]
    for _ in range(steps):
        weights.grad = torch.tensor(NETWORK.gradient(weights.detach().numpy()))
        optimizer.step()
        scheduler.step()
        found.append(weights.detach().numpy().copy())
    run = np.array(found)
    return run, (run[:-2] + 2 * run[1:-1] + run[2:]) / 4


@cache
def sgd_run(name, decay):
    """A run of torch's SGD under a schedule, from the settled oscillation on."""
    _, lr, scheduler_of = SCHEDULES[name]
    weight_decay = getattr(DECAYS[decay], "weight_decay", 0.0)
    return torch_run(
        lambda weights: torch.optim.SGD([weights], lr=lr, weight_decay=weight_decay),
        settled(decay)[1],
        scheduler_of,
        STEPS,
    )


def last_distance(mean, solution):
    return float(np.linalg.norm(mean[-1] - solution.theta[-2]))


@pytest.mark.parametrize("decay", ["no decay", pytest.param("L2", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["linear", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cosine", "rising"))]
)
@pytest.mark.slow
def test_sgd_under_a_schedule(name, decay):
    """Assert that a run under a schedule ends by the central flow, and has the mean loss that it predicts within 4 %.

    It is many times as near to it as to the same slow motion without oscillation, and to the central flow at the first
    η: eight times where η falls, and a hundred times where η rises. The errors where η falls are those of the
    oscillation: it does not follow at once when the fall begins, and it fades after the flow has left the edge.
    """
    begin, _ = settled(decay)
    run, mean = sgd_run(name, decay)
    flow = flow_of(SCHEDULES[name][0], DECAYS[decay])
    found, plain = (each.solve(begin, STEPS) for each in (flow, control_of(flow)))
    constant = at_constant_lr(decay)
    least = (100 if name == "rising" else 8) * last_distance(mean, found)
    assert min(last_distance(mean, each) for each in (plain, constant)) >= least
    losses = np.mean([NETWORK.loss(each) for each in run[1:-1]])
    assert found.loss[1:-1].mean() == pytest.approx(losses, rel=0.04)
    assert abs(constant.loss[1:-1].mean() / losses - 1) >= 0.1


@pytest.mark.slow
def test_the_rate_of_the_limit(monkeypatch):
    """Assert that with the rate of the limit the flow is at the limit of a rising η, and without it above the limit.

    Without the rate the excess is what ten steps of the rise add, because a step takes back a tenth of an excess; and
    the run is ten times as far from such a flow.
    """
    flow, (begin, _) = flow_of(SCHEDULES["rising"][0], NoDecay()), settled("no decay")
    found = flow.solve(begin, STEPS)
    monkeypatch.setattr(moving_edge, "ABRUPT", 0.0)  # each change of η is then a jump, and no part of the rate
    without = flow.solve(begin, STEPS)
    assert found.sharpness[:, 0] == pytest.approx(1.0, abs=2e-4)
    rise = 10 * 0.5 / STEPS / (1 + 0.5 * np.arange(50, STEPS) / STEPS)
    assert without.sharpness[50:-1, 0] - 1 == pytest.approx(rise, rel=0.15)
    _, mean = sgd_run("rising", "no decay")
    assert last_distance(mean, without) >= 10 * last_distance(mean, found)


@pytest.mark.slow
def test_jumps_are_pieces():
    """Assert that where η is constant in pieces, the flow is that of the pieces, each from the end of the last.

    Each piece begins a search for its sharpest directions, which ends where eigenvalues have settled to 1e-9. The
    directions are then right to 3e-5, and σ² and the loss of a step, which are linear in them, to some 1e-4.
    """
    pieces, decay = [(1.3 * LR, 20), (LR / 2, 20), (1.5 * LR, 20)], Stable(0.01)
    rates = np.concatenate([np.full(steps, lr) for lr, steps in pieces])
    rule = UpdateRule(lambda k: float(rates[k]), HeavyBall(0.3), decay)
    theta, memory = settled("no decay")[0], None
    flow = CentralFlow(rule, NETWORK.gradient, loss=NETWORK.loss, directions=2)
    whole = flow.solve(theta, sum(steps for _, steps in pieces))
    found = []
    for lr, steps in pieces:
        solution = replace(flow, rule=replace(rule, lr=lr)).solve(theta, steps, memory=memory)
        theta, memory = solution.theta[-1], tuple(entry[-1] for entry in solution.memory)
        found.append(solution)
    assert whole.variance[[0, 30, 50]].astype(bool).tolist() == [True, False, True]
    for name, allowed in {"theta": 1e-5, "sharpness": 1e-5, "variance": 5e-4, "loss": 5e-4}.items():
        joined = np.concatenate([getattr(solution, name)[:-1] for solution in found])
        assert np.abs(getattr(whole, name)[:-1] - joined).max() <= allowed * np.abs(joined).max()


ADAPTIVE = [pytest.param(0.0, id="RMSprop"), pytest.param(0.3, id="decoupled decay")]


@pytest.mark.slow
@pytest.mark.parametrize("weight_decay", ADAPTIVE)
def test_rmsprop_under_a_schedule(weight_decay):
    """Assert that torch's RMSprop under a linear schedule stays at its limit, by the central flow, with its mean loss.

    The run is fifteen times as near to it as to the same flow with Σ = 0, and to that at the first η.
    """
    lr, scheduler_of = 4e-4, partial(torch.optim.lr_scheduler.PolynomialLR, total_iters=400)
    rule = CATALOG["RMSpropW"](lr=lr, weight_decay=weight_decay)
    theta, memory, state = mean_state(rule, 500)

    class Decoupled(torch.optim.RMSprop):
        def step(self, closure=None):
            with torch.no_grad():
                self.param_groups[0]["params"][0].mul_(1 - weight_decay * self.param_groups[0]["lr"])
            return super().step(closure)

    def begun(parameter):
        optimizer = Decoupled([parameter], lr=lr, alpha=0.99, eps=1e-8)
        optimizer.state[parameter] = {"step": torch.tensor(500.0), "square_avg": torch.tensor(state.memory[0])}
        return optimizer

    run, mean = torch_run(begun, state.theta, scheduler_of, STEPS)
    flow = CentralFlow(replace(rule, lr=Linear(lr, steps=400)), NETWORK.gradient, loss=NETWORK.loss, directions=4)
    others = control_of(flow), replace(flow, rule=rule)
    found, *rest = (each.solve(theta, STEPS, memory=memory) for each in (flow, *others))
    assert min(last_distance(mean, each) for each in rest) >= 15 * last_distance(mean, found)
    assert found.sharpness[50:150, 0] == pytest.approx(1.0, abs=1e-3)
    losses = np.mean([NETWORK.loss(each) for each in run[1:-1]])
    assert found.loss[1:-1].mean() == pytest.approx(losses, rel=0.005)


@pytest.mark.slow
def test_lifting_decay_under_a_schedule():
    """Assert that the decay which ends the oscillation is smaller by what the rising limit takes, in closed form.

    On f = ½(1 + y)x² − y/50 the oscillation is σ² = 2(1/50 − λy − ρ/η), where the limit 2/η rises by ρ in a step. It
    is 0 at λ = (1/50 − ρ/η)/y.
    """

    def gradient(theta):
        return np.array([(1 + theta[1]) * theta[0], theta[0] ** 2 / 2 - 0.02])

    rise = 2e-3  # of the limit 4, in each step
    flow = CentralFlow(UpdateRule(lambda k: 2 / (4 + rise * k), SGD()), gradient)
    solution = flow.solve([0.0, 2.95], 60)
    lr, y = 2 / (4 + rise * 60), solution.theta[-1, 1]
    assert 1 + y == pytest.approx(4 + rise * 60, abs=1e-4)
    assert solution.variance[-1] == pytest.approx(2 * (0.02 - rise / lr), rel=1e-2)
    assert solution.lifting_decay[-1] == pytest.approx((0.02 - rise / lr) / y, rel=1e-2)


@pytest.mark.slow
def test_learning_rate_of_zero():
    """Assert that a schedule may end at 0 or warm up from 0, and that what is not a learning rate is refused."""
    flow = flow_of(Cosine(LR, steps=30), NoDecay())
    solution = flow.solve(settled("no decay")[0], 40)
    assert np.ptp(solution.theta[30:], axis=0).max() <= 1e-10
    warmed = flow_of(lambda k: LR * min(k / 20, 1), NoDecay()).solve(NETWORK.start(1000), 30)
    assert np.isfinite(warmed.theta).all()
    with pytest.raises(InputError, match="step 3"):
        flow_of(lambda k: 0.1 if k < 3 else -0.1, NoDecay()).solve(NETWORK.start(1000), 10)
