"""Flows against closed forms."""

import numpy as np
import pytest
from aggregated_momentum import AggregatedMomentum
from scipy.linalg import expm
from tolerances import SLOPE, SOLVED

from swd_dynamics.errors import InputError
from swd_dynamics.flows import Flow, FlowDiverged
from swd_dynamics.rules import CATALOG, SGD, Cosine, Decoupled, HeavyBall, NoDecay, Stable, UpdateRule

H = np.array([1.0, 3.0, 0.1])
START = np.array([1.0, -2.0, 0.5])


def gradient(theta):
    return H * theta


def hvp(theta, vector):
    return H * vector


def assert_close(found, expected):
    assert np.linalg.norm(found - expected) <= SOLVED * np.linalg.norm(START)


def test_first_order_is_gradient_flow():
    """Assert that gradient descent to first order is θ₀·exp(−ht), at every step."""
    solution = Flow(UpdateRule(0.1, SGD()), gradient).solve(START, steps=20)
    assert_close(solution.theta, START * np.exp(-np.outer(solution.time, H)))
    assert solution.time[-1] == pytest.approx(2.0)
    assert solution.solver_error <= SOLVED * np.linalg.norm(START)


def test_second_order_has_the_known_rate():
    """Assert that gradient descent to second order decays at h(1 + ηh/2)."""
    solution = Flow(UpdateRule(0.1, SGD()), gradient, hvp, order=2).solve(START, t=1.0)
    assert_close(solution.theta[-1], START * np.exp(-H * (1 + 0.1 * H / 2)))


@pytest.mark.parametrize("name", ["SGD", "SGDW", "SGDS"])
def test_second_order_of_heavy_ball_against_the_table(name):
    """Assert that on a quadratic heavy ball has, with each decay, the rate that theory gives."""
    lr, beta, decay = 0.01, 0.5, 0.2
    d = 1 - beta
    first, second = {
        "SGD": ((H + decay) / d, (1 + beta) * (H + decay)),
        "SGDW": ((H + d * decay) / d, (1 + beta) * H + d**2 * decay),
        "SGDS": ((H + decay) / d, (1 + beta) * H + d * decay),
    }[name]
    rate = first + lr * second * first / (2 * d**2)
    flow = Flow(CATALOG[name](lr=lr, momentum=beta, weight_decay=decay), gradient, hvp, order=2)
    assert_close(flow.solve(START, t=0.5).theta[-1], START * np.exp(-0.5 * rate))


@pytest.mark.slow
def test_state_flow_is_the_matrix_exponential():
    """Assert that the full-state flow of heavy ball on a quadratic is exp(A − 1) of its linear map A."""
    lr, beta, h = 0.1, 0.9, 2.0
    rule = UpdateRule(lr, HeavyBall(beta), NoDecay())
    step = np.array([[1 - lr * h, -lr * beta], [h, beta]])
    solution = Flow(rule, lambda theta: h * theta, order="state").solve([1.0], steps=30)
    expected = expm(30 * (step - np.eye(2))) @ [1.0, 0.0]
    assert_close(np.array([solution.theta[-1, 0], solution.memory[0][-1, 0]]), expected)


def test_schedule_is_followed_in_time():
    """Assert that under a schedule the flow is θ₀·exp(−h·∫η), with the integral of the cosine known."""
    rule = UpdateRule(Cosine(0.1, steps=40), SGD())
    solution = Flow(rule, gradient).solve(START, steps=40)
    assert_close(solution.theta[-1], START * np.exp(-H * 0.1 * 40 / 2))
    assert solution.time[-1] == pytest.approx(sum(rule.lr_at(k) for k in range(40)))


@pytest.mark.parametrize("order", [1, 2, "state"])
@pytest.mark.slow
def test_groups_are_one_flow(order):
    """Assert that with arrays for lr and decay each weight has the flow of its own group."""
    together = UpdateRule(np.array([0.1, 0.05, 0.1]), HeavyBall(0.5), Decoupled(np.array([0.0, 0.2, 0.3])))
    theta = Flow(together, gradient, hvp, order).solve(START, steps=10).theta
    for i, (lr, decay) in enumerate([(0.1, 0.0), (0.05, 0.2), (0.1, 0.3)]):
        alone = UpdateRule(lr, HeavyBall(0.5), Decoupled(decay))
        flow = Flow(alone, lambda x, i=i: H[i] * x, lambda x, v, i=i: H[i] * v, order)
        assert_close(theta[:, i], flow.solve(START[i : i + 1], steps=10).theta[:, 0])


@pytest.mark.slow
def test_starting_state_has_no_transient():
    """Assert that the starting memory differs from the memory of a long run by a term of order η²."""

    def difference(lr):
        flow = Flow(UpdateRule(lr, AggregatedMomentum(0.5, 0.8), Stable(0.1)), gradient, hvp, 2)
        state = flow.starting_state(START)
        for _ in range(round(0.02 / lr)):
            state = flow.rule(state, gradient(state.theta))
        return np.abs(np.array(flow.starting_memory(state.theta)) - np.array(state.memory)).max()

    order = np.log2(difference(4e-5) / difference(2e-5))
    assert abs(order - 2) <= SLOPE


def test_divergence_is_a_clear_error():
    """Assert that a flow with a pole at t = ½ raises FlowDiverged with step 5 of .1."""
    with pytest.raises(FlowDiverged, match="diverged") as raised:
        Flow(UpdateRule(0.1, SGD()), lambda theta: -(theta**3)).solve([1.0], steps=100)
    assert raised.value.step == pytest.approx(5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Flow("SGD", gradient), "rule = 'SGD'"),
        (lambda: Flow(UpdateRule(0.1, SGD()), START), "is not a function"),
        (lambda: Flow(UpdateRule(lambda k: 1 - k, SGD()), gradient).solve(START, steps=5), "lr = -1.0 at step 2"),
        (lambda: Flow(UpdateRule(0.1, SGD()), gradient, order=3), "order = 3 is not allowed"),
        (lambda: Flow(UpdateRule(0.1, SGD()), gradient, order=2), "needs hvp"),
        (lambda: Flow(UpdateRule(Cosine(0.1, 9), SGD()), gradient, hvp, order=2), "constant learning rate"),
        (lambda: Flow(UpdateRule(lambda k: H / 10, SGD()), gradient), "one for every weight"),
        (lambda: Flow(UpdateRule(0.1, SGD()), gradient).solve(START), "neither steps nor t is given"),
        (lambda: Flow(UpdateRule(0.1, SGD()), gradient).solve(START, steps=0), "steps = 0 is not allowed"),
        (lambda: Flow(UpdateRule(0.1, SGD()), gradient).solve(START, steps=1.5), "whole number"),
        (lambda: Flow(UpdateRule(0.1, SGD()), gradient).solve(START, t=np.nan), "t = nan is not allowed"),
        (lambda: Flow(UpdateRule(0.1, SGD()), gradient).solve("here", steps=1), "not a vector of numbers"),
        (
            lambda: Flow(UpdateRule(0.1, SGD()), gradient).solve(START, steps=1, method="Euler"),
            "unknown method 'Euler'",
        ),
        (lambda: Flow(UpdateRule(0.1, SGD()), gradient).solve(START, steps=1, tolerance=-1), "tolerance = -1"),
        (lambda: Flow(UpdateRule(0.1, SGD()), lambda x: x[:1]).solve(START, steps=1), r"of shape \(1,\) at theta0"),
        (lambda: Flow(UpdateRule(0.1, SGD()), lambda x: x * np.nan).solve(START, steps=1), "not finite"),
        (lambda: Flow(UpdateRule(0.1, SGD()), lambda: 0).solve(START, steps=1), "gradient.theta. failed"),
        (
            lambda: Flow(UpdateRule(0.1, SGD()), gradient, gradient, 2).solve(START, steps=1),
            "hvp.theta, vector. failed",
        ),
        (lambda: Flow(UpdateRule(0.1, SGD()), gradient).solve([np.nan], steps=1), "finite"),
        (lambda: Flow(UpdateRule(Cosine(0.1, 9), SGD()), gradient).solve(START, t=1.0), "give steps"),
    ],
)
def test_bad_input(make, said):
    """Assert that a flow that cannot be solved is refused with the reason."""
    with pytest.raises(InputError, match=said):
        make()
