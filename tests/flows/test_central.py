"""The central flow, compared with closed forms and with runs of the rule itself at the edge of stability."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from flows.hand_network import HandNetwork

from swd_dynamics.errors import InputError
from swd_dynamics.flows import CentralFlow, Flow, FlowDiverged
from swd_dynamics.rules import (
    CATALOG,
    L2,
    SGD,
    Decoupled,
    HeavyBall,
    Nesterov,
    NoDecay,
    Stable,
    UpdateRule,
)
from swd_dynamics.symbolic import NotDerivable

# f = Σ ½(1 + yᵢ)xᵢ² − bᵢyᵢ: in the valley x = 0 the curvatures 1 + y rise, and the oscillation of x holds them back.
B = np.array([0.02, 0.01])


def valley(theta):
    x, y = theta[:2], theta[2:]
    return np.concatenate([(1 + y) * x, x**2 / 2 - B])


def valley_hvp(theta, vector):
    x, y, u, w = theta[:2], theta[2:], vector[:2], vector[2:]
    return np.concatenate([(1 + y) * u + x * w, x * u])


def valley_third(theta, u, w):
    return np.concatenate([u[2:] * w[:2] + u[:2] * w[2:], u[:2] * w[:2]])


IN_VALLEY = {
    "SGD": (UpdateRule(0.5, SGD()), 4.0, 0.0),
    "SGD, L2": (UpdateRule(0.5, SGD(), L2(1e-3)), 4.0 - 1e-3, 1e-3),
    "heavy ball, decoupled": (UpdateRule(0.5, HeavyBall(0.5), Decoupled(1e-3)), 1.5 * (2 - 5e-4) / 0.5, 5e-4),
    "heavy ball, stable": (UpdateRule(0.5, HeavyBall(0.5), Stable(1e-3)), 1.5 * (2 - 1e-3) / 0.5, 1e-3),
    "Nesterov, stable": (UpdateRule(0.5, Nesterov(0.5), Stable(1e-3)), 1.5 * (2 - 1e-3) / (0.5 * 2), 1e-3),
}


@pytest.mark.parametrize(("rule", "limit", "ratio"), IN_VALLEY.values(), ids=IN_VALLEY)
@pytest.mark.slow
def test_valley_in_closed_form(rule, limit, ratio):
    """Assert that in the valley both curvatures come to the limit, and Σ to diag(2(b − (R/η_eff)·y))."""
    top = limit - 1
    start = np.concatenate([np.zeros(2), top - np.array([0.05, 0.03])])
    solution = CentralFlow(rule, valley, valley_hvp, valley_third, directions=2).solve(start, 120)
    assert solution.sharpness[-1] == pytest.approx(1.0, abs=1e-6)
    u = solution.critical[-1]
    sigma = u @ solution.covariance[-1] @ u.T
    # only the diagonal of Σ pulls at y: where two curvatures are the same, the rest is free
    assert np.diag(sigma)[:2] == pytest.approx(2 * (B - ratio * top), abs=1e-6)


@pytest.mark.slow
def test_differences_in_place_of_derivatives():
    """Assert that without hvp or third the flow is the same, up to the error of differences."""
    rule = IN_VALLEY["heavy ball, stable"][0]
    start = np.array([0.01, 0.0, 4.9, 4.8])
    exact = CentralFlow(rule, valley, valley_hvp, valley_third).solve(start, 150)
    for given in ({"hvp": valley_hvp}, {}):
        found = CentralFlow(rule, valley, **given).solve(start, 150)
        assert np.abs(found.theta - exact.theta).max() <= 1e-6
        assert np.abs(found.variance - exact.variance).max() <= 1e-6


@pytest.mark.slow
def test_far_below_the_limit_it_is_the_rule():
    """Assert that where nothing oscillates the flow takes the rule's steps, but for the first steps of the momentum."""
    rule, h = UpdateRule(0.01, HeavyBall(0.5), Decoupled(0.1)), np.array([0.5, 1.0])
    flow = CentralFlow(rule, lambda theta: h * theta, directions=1)
    start = np.array([1.0, -2.0])
    solution, state = flow.solve(start, 50), Flow(rule, lambda theta: h * theta).starting_state(start)
    for _ in range(50):
        state = rule(state, h * state.theta)
    assert np.abs(solution.theta[-1] - state.theta).max() <= 1e-4  # η·θ times what is left of (1−β)³/8
    assert not solution.variance.any()


NETWORK = HandNetwork()
SETTLED = 150  # steps of the flow from the start, after which it is at the edge
CASES = {
    "GD": UpdateRule(0.22, SGD()),
    "GD, stable": UpdateRule(0.22, SGD(), Stable(0.015)),
    "heavy ball, L2": UpdateRule(0.33, HeavyBall(0.5), L2(0.002)),
    "Nesterov, decoupled": UpdateRule(0.165, Nesterov(0.5), Decoupled(0.01)),
}
# The shortest every day, the others with the slow tests.
each_case = pytest.mark.parametrize(
    "name", ["GD", *(pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != "GD")]
)


def flow_of(rule, **options):
    return CentralFlow(rule, NETWORK.gradient, loss=NETWORK.loss, directions=2, **options)


@cache
def start():
    return NETWORK.start(1000)


@cache
def solved(name, steps=350):
    return flow_of(CASES[name]).solve(start(), steps)


@cache
def run(name, steps=200):
    """A run of the rule from the predicted oscillation on: its iterates, their slow mean, and ‖δ‖² of each step."""
    return iterates(CASES[name], flow_of(CASES[name]).oscillating(solved(name), SETTLED), steps)


def iterates(rule, state, steps):
    found = [state.theta]
    for _ in range(steps):
        state = rule(state, NETWORK.gradient(state.theta))
        found.append(state.theta)
    theta = np.array(found)
    mean = (theta[:-2] + 2 * theta[1:-1] + theta[2:]) / 4
    return theta, mean, ((theta[1:-1] - mean) ** 2).sum(axis=1)


@each_case
@pytest.mark.slow
def test_runs_follow_the_central_flow(name):
    """Assert that a run at the edge ends fifty times as near to the central flow as to the flow of first order.

    Both have the decay of the rule. The eigenvalue stays within 1 % of the derived limit.
    """
    theta, mean, _ = run(name)
    solution = solved(name)
    first = Flow(CASES[name], NETWORK.gradient).solve(solution.theta[SETTLED], len(theta) - 1, tolerance=1e-6)
    distance = np.linalg.norm(mean[-1] - solution.theta[SETTLED + len(mean)])
    assert np.linalg.norm(mean[-1] - first.theta[-2]) >= 50 * distance
    assert solution.sharpness[SETTLED:, 0] == pytest.approx(1.0, abs=0.01)


@each_case
@pytest.mark.slow
def test_variance_and_loss_of_runs(name):
    """Assert that the mean of ‖δ‖² and the mean loss of a run are those that the flow predicts, within 2 % and 1 %.

    The oscillation swings about its settled size, with a period of some 50 steps; a mean over 200 steps has a few of
    them.
    """
    theta, mean, variance = run(name)
    stretch = slice(SETTLED + 1, SETTLED + 1 + len(mean))
    assert solved(name).variance[stretch].mean() == pytest.approx(variance.mean(), rel=0.02)
    losses = np.mean([NETWORK.loss(each) for each in theta[1:-1]])
    assert solved(name).loss[stretch].mean() == pytest.approx(losses, rel=0.01)


@pytest.mark.slow
def test_secant_curvature_is_the_limit_with_decay():
    """Assert that the curvature between iterates of a run is the limit with its decay, and not the limit without."""
    theta, _, _ = run("GD, stable")
    gradients = np.array([NETWORK.gradient(each) for each in theta])
    turned, pulled = np.diff(theta, 2, axis=0), np.diff(gradients, 2, axis=0)  # second differences have no drift
    secant = ((turned * pulled).sum(1) / (turned**2).sum(1))[20:].mean()
    limits = [flow_of(CASES["GD, stable"], limit_of_decay=each).limit for each in (True, False)]
    with_decay, without = (float(each.limit(theta[0], ())[0]) for each in limits)
    assert without - with_decay == pytest.approx(0.015)
    assert abs(secant - with_decay) <= (without - with_decay) / 4


@pytest.mark.parametrize(("share", "lives"), [(0.75, True), (1.4, False)])
@pytest.mark.slow
def test_decay_lifts_a_run_off_the_edge(share, lives):
    """Assert that above the predicted decay, and not below it, the oscillation of flow and run dies."""
    solution = solved("GD")
    decay = share * solution.lifting_decay[SETTLED]
    rule = replace(CASES["GD"], decay=Stable(decay))
    found = flow_of(rule).solve(solution.theta[SETTLED], 40)  # later the sharpness rises to the limit again
    _, mean, variance = iterates(rule, flow_of(CASES["GD"]).oscillating(solution, SETTLED), 40)
    assert (found.variance[-1] > 0) == lives
    assert (variance[-1] > 0.01 * variance[0]) == lives
    assert (found.sharpness[-1, 0] > 0.999) == lives
    assert np.linalg.norm(mean[-1] - found.theta[-2]) <= 0.1 * np.linalg.norm(mean[-1] - mean[0])


@pytest.mark.slow
def test_bursts_have_the_predicted_mean():
    """Assert that heavy ball with decay oscillates in bursts, with the mean of ‖δ‖² that is predicted, within 10 %.

    The bursts are ten times the mean and more; some five of them are in 200 steps.
    """
    rule, begin = UpdateRule(0.33, HeavyBall(0.5), Stable(0.012)), 60
    solution = flow_of(rule).solve(NETWORK.start(1150), begin + 200)
    _, _, variance = iterates(rule, flow_of(rule).oscillating(solution, begin), 200)
    predicted = solution.variance[begin + 1 : begin + 1 + len(variance)]
    assert variance.max() >= 10 * predicted.max()
    assert variance.mean() == pytest.approx(predicted.mean(), rel=0.1)


# Rule, steps before the comparison, how many times nearer, and the error of the variance; None where it never settles.
ADAPTIVE = [
    pytest.param(
        CATALOG["RMSpropS"](lr=4e-4, weight_decay=0.005), 500, 100, 0.03, id="RMSprop, stable", marks=pytest.mark.slow
    ),
    pytest.param(
        CATALOG["RMSpropW"](lr=4e-4, weight_decay=0.3), 500, 100, 0.03, id="RMSprop, decoupled", marks=pytest.mark.slow
    ),
    pytest.param(CATALOG["RMSprop"](lr=1e-3), 250, 25, 0.03, id="two directions", marks=pytest.mark.slow),
    pytest.param(
        CATALOG["AdamW"](lr=1e-3, betas=(0.5, 0.99), weight_decay=0.0), 300, 20, None, id="Adam", marks=pytest.mark.slow
    ),
]


def mean_state(rule, steps):
    """A run's slow mean of weights and memory after some steps, and its state there."""
    state, last = rule.start(NETWORK.start(600)), []
    for _ in range(steps + 1):
        state = rule(state, NETWORK.gradient(state.theta))
        last = [*last[-2:], state]
    middle = [(a + 2 * b + c) / 4 for a, b, c in zip(*([s.theta, *s.memory] for s in last), strict=True)]
    return middle[0], tuple(middle[1:]), last[1]


def control_of(flow):
    """The same flow with Σ = 0, which follows the sharpest direction only."""
    return replace(flow, oscillates=False, directions=1)


@pytest.mark.parametrize(("rule", "steps", "times", "allowed"), ADAPTIVE)
def test_adaptive_runs_follow_the_central_flow(rule, steps, times, allowed):
    """Assert that an adaptive run stays by the central flow, and many times nearer than by the same flow with Σ = 0.

    The eigenvalue of the preconditioned Hessian stays within 1 % of the limit, and the variance is right.
    """
    theta, memory, state = mean_state(rule, steps)
    _, mean, variance = iterates(rule, state, 200)
    flow = CentralFlow(rule, NETWORK.gradient, directions=4)
    found, plain = (each.solve(theta, 200, memory=memory) for each in (flow, control_of(flow)))
    near, far = (np.linalg.norm(mean[-1] - each.theta[-2]) for each in (found, plain))
    assert far >= times * near
    assert found.sharpness[50:, 0] == pytest.approx(1.0, abs=0.01)
    assert plain.sharpness[-1, 0] > 1.1
    if allowed:
        assert found.variance[50:-1].mean() == pytest.approx(variance[49:].mean(), rel=allowed)


# Rule, steps before the comparison and in it, how many times nearer (less than half of what was seen), and how far the
# loss may be off. That of Adam, 2e-6, is the oscillation's alone, and in bursts 4 to 21 % above the flow's, because
# their mean curvature is below the limit; that of AdamS is nearly all the slow mean's.
WITH_MOMENTUM = [
    pytest.param(CATALOG["Adam"](lr=1e-3, betas=(0.9, 0.99)), 700, 600, 6, 0.3, id="Adam"),
    pytest.param(CATALOG["AdamS"](lr=2e-3, betas=(0.9, 0.99), weight_decay=2e-3), 500, 800, 6, 0.02, id="AdamS"),
]
OTHER_STARTS = (0.0, 1e-7, 1e-6, -1e-6)  # relative changes of θ, after which the bursts come at other steps


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "before", "steps", "times", "loss_off"), WITH_MOMENTUM)
def test_bursts_of_adam_have_the_predicted_mean(rule, before, steps, times, loss_off):
    """Assert that runs of Adam with β₁ = .9 stay by the central flow, with the variance and loss that it predicts.

    The runs oscillate in bursts, whose steps depend on rounding. So the means are over the second half of four runs
    that start 1e-6 apart, with some ten bursts each: ‖δ‖² of one run is up to 13 % off, and the mean of four within
    10 %.
    """
    theta, memory, state = mean_state(rule, before)
    starts = [state._replace(theta=state.theta * (1 + change)) for change in OTHER_STARTS]
    runs = [iterates(rule, each, steps) for each in starts]
    flow = CentralFlow(rule, NETWORK.gradient, loss=NETWORK.loss, directions=4)
    found, plain = (each.solve(theta, steps, memory=memory) for each in (flow, control_of(flow)))
    near, far = (np.mean([np.linalg.norm(mean[-1] - each.theta[-2]) for _, mean, _ in runs]) for each in (found, plain))
    assert far >= times * near
    half = steps // 2
    variance = np.mean([variance[half:].mean() for _, _, variance in runs])
    assert found.variance[half:].mean() == pytest.approx(variance, rel=0.1)
    losses = np.mean([NETWORK.loss(each) for iterated, _, _ in runs for each in iterated[half:]])
    assert found.loss[half:].mean() == pytest.approx(losses, rel=loss_off)


@pytest.mark.parametrize("third", [None, lambda theta, u, w: 0 * theta], ids=["differences", "exact"])
def test_parabola(third):
    """Assert that a parabola below the limit is followed, and above it has a message: a run with it diverges."""

    def flow(*curvatures):
        h = np.array(curvatures)
        return CentralFlow(UpdateRule(0.5, SGD()), lambda theta: h * theta, third=third)

    assert not flow(3.9, 1.0).solve([1.0, 1.0], 5).variance.any()
    for curvatures in ((5.0, 1.0), (5.0, 4.9)):
        with pytest.raises(FlowDiverged, match="parabola") as caught:
            flow(*curvatures).solve([1.0, 1.0], 5)
        assert caught.value.step == 0


@pytest.mark.slow
def test_memory_at_the_start():
    """Assert that a v of 0 is refused in words, without a warning, and that a v near to 0 stays positive.

    With v = g² some of the weights have a v that is a millionth of the median. A step of the flow takes differences of
    three steps of the rule, which were larger than the least v.
    """
    zero = np.zeros_like(NETWORK.first)
    for eps in (1e-8, 0.0):
        with pytest.raises(InputError, match="memory="):
            flow = CentralFlow(CATALOG["RMSprop"](lr=4e-4, eps=eps), NETWORK.gradient)
            flow.solve(NETWORK.start(600), 5, memory=(zero,))
    rule = CATALOG["AdamW"](lr=2e-3, betas=(0.9, 0.99), weight_decay=0.1)
    solution = CentralFlow(rule, NETWORK.gradient, directions=4).solve(NETWORK.start(600), 60)
    assert solution.memory[1].min() > 0


@pytest.mark.slow
def test_what_cannot_be_followed():
    """Assert that a rule without an edge, a missing gradient, and a point without an oscillation are refused."""
    with pytest.raises(NotDerivable):
        CentralFlow(CATALOG["Lion"](lr=0.1), valley).solve(np.zeros(4), 1)
    with pytest.raises(InputError, match="directions"):
        CentralFlow(UpdateRule(0.1, SGD()), valley, directions=0)
    with pytest.raises(InputError, match="gradient"):
        CentralFlow(UpdateRule(0.1, SGD()), None)
    flow = CentralFlow(UpdateRule(0.1, SGD(), NoDecay()), valley)
    with pytest.raises(InputError, match="no direction"):
        flow.oscillating(flow.solve(np.zeros(4), 1), 0)
