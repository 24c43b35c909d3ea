"""Flows that are hard to solve: stiff, large, far from where they start, or under a schedule that jumps."""

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from tolerances import SOLVED

from swd_dynamics.errors import InputError
from swd_dynamics.flows import AssumptionFailed, Flow, FlowDiverged
from swd_dynamics.flows.ode import MOST_STIFF
from swd_dynamics.rules import (
    CATALOG,
    SGD,
    Adai,
    AMSGrad,
    Decoupled,
    HeavyBall,
    Muon,
    StepDecay,
    UpdateRule,
    Warmup,
)
from swd_dynamics.rules.shaped import shaped

pytestmark = pytest.mark.slow  # solves stiff flows

ADAMW = CATALOG["AdamW"](lr=0.01)


@pytest.mark.parametrize("hvp", [None, lambda theta, vector: vector], ids=["without hvp", "with hvp"])
def test_the_flow_of_default_adamw_passes_its_minimum(hvp):
    """Assert that the flow of the sign of a gradient, with a slope of 1e8 at the minimum, comes to rest there."""
    solution = Flow(ADAMW, lambda theta: theta - 1, hvp).solve([0.0], steps=300)
    assert abs(solution.theta[-1, 0] - 1) <= SOLVED
    before = (1 - np.exp(-0.01 * 0.5)) / 0.01  # dθ/dt = 1 − λθ at t = ½
    assert abs(solution.theta[50, 0] - before) <= 1e-7  # ε changes the speed by ε/|g| = 2e-8


def test_the_second_order_flow_of_adam_ends():
    """Assert that F₀ + ηF₁ of default Adam follows its closed form on f = ½(θ − 1)² from 0.

    With x = 1 − θ the lags of m and v give dx/dt = −1 + c/x, c = η(β₂/(1−β₂) − β₁/(1−β₁)), so that x goes to c = 9.9:
    t = −(x − 1) − c·ln((c − x)/(c − 1)).
    """
    flow = Flow(CATALOG["Adam"](lr=0.01), lambda theta: theta - 1, lambda theta, vector: vector, order=2)
    x, c = 1 - flow.solve([0.0], steps=300).theta[:, 0], 0.01 * (999 - 9)
    assert np.abs(1 - x - c * np.log((c - x) / (c - 1)) - 0.01 * np.arange(301)).max() <= 1e-6  # ε/|g| again


def test_a_large_flow_needs_no_matrix():
    """Assert that ten thousand weights are followed without a matrix of their size, which has 800 MB."""
    h = np.linspace(0.1, 10.0, 10_000)
    flow = Flow(UpdateRule(0.01, SGD()), lambda theta: h * theta)
    tracemalloc.start()
    theta = flow.solve(np.ones(len(h)), steps=100).theta
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.abs(theta[-1] - np.exp(-h)).max() <= SOLVED
    assert peak < 100e6


def test_a_large_stiff_flow_is_refused_with_the_step():
    """Assert that more weights than an implicit method can take are refused where the flow becomes stiff."""
    start = np.linspace(0.2, 3.0, MOST_STIFF + 1)
    with pytest.raises(FlowDiverged, match="stiff") as raised:
        Flow(ADAMW, lambda theta: theta).solve(start, steps=100)
    assert raised.value.step == pytest.approx(20, abs=1)  # the first weight is at its minimum after .2/η steps


def test_a_field_that_is_not_a_number_is_refused_at_once():
    """Assert that Adai's F₁, which is 0/0 where a gradient is 0, is refused at step 0."""
    h = np.array([1.0, 2.0])
    parts = UpdateRule(0.01, Adai()), lambda theta: h * (theta - [0.0, 1.0]), lambda theta, vector: h * vector
    with pytest.raises(FlowDiverged, match="not a number") as raised:
        Flow(*parts, order=2).solve([1.0, 1.0], steps=10)
    assert raised.value.step == 0


def test_a_flow_may_go_far():
    """Assert that a minimum two million starts away is reached."""
    solution = Flow(UpdateRule(0.1, SGD()), lambda theta: theta - 2e6).solve([0.0], steps=400)
    assert abs(solution.theta[-1, 0] / 2e6 - 1) <= SOLVED


def test_a_large_memory_is_not_divergence():
    """Assert that v = g² past a million times the weights is followed, as an independent solver follows it."""
    lr, b1, b2, h = 1e-3, 0.9, 0.99, 2e3
    solution = Flow(CATALOG["AdamW"](lr=lr, betas=(b1, b2)), lambda theta: h * theta, order="state").solve(
        [1.0], steps=50
    )

    def change(k, z):
        theta, m, v = z
        m_new, v_new = b1 * m + (1 - b1) * h * theta, b2 * v + (1 - b2) * (h * theta) ** 2
        step = m_new / (1 - b1 ** (k + 1)) / (np.sqrt(v_new / (1 - b2 ** (k + 1))) + 1e-8)
        return -lr * (0.01 * theta + step), m_new - m, v_new - v

    known = solve_ivp(change, (0, 50), [1.0, 0.0, 0.0], "Radau", rtol=1e-10, atol=1e-10).y[0, -1]
    assert solution.memory[1].max() > 1e6
    assert abs(solution.theta[-1, 0] - known) <= SOLVED


def test_tiny_gradients_are_followed_as_large_ones():
    """Assert that without ε Adam's full-state flow is the same for gradients of 1 and of 1e-12.

    v is then 1e-24, far below the absolute tolerance that suits the weights.
    """
    rule = CATALOG["Adam"](lr=1e-2, betas=(0.5, 0.9), eps=0.0)
    large, tiny = (
        Flow(rule, lambda theta, c=c: c * theta, order="state").solve([1.0], steps=40).theta for c in (1.0, 1e-12)
    )
    assert np.abs(large - tiny).max() <= SOLVED


TABLE = [0.5 if k == 500 else 1e-4 for k in range(600)]
PULSES = {
    "an interval": lambda k: 0.5 if 500 <= k < 501 else 1e-4,
    "a whole step": lambda k: 0.5 if k == 500 else 1e-4,
    "a table": lambda k: TABLE[k],
}


@pytest.mark.parametrize("order", [1, "state"])
@pytest.mark.parametrize("name", PULSES)
def test_a_pulse_of_one_step_is_not_overlooked(name, order):
    """Assert that a learning rate of ½ in one step of 600 takes θ to exp(−½ − 599·1e-4), for gradient descent."""
    solution = Flow(UpdateRule(PULSES[name], SGD()), lambda theta: theta, order=order).solve([1.0], steps=600)
    assert abs(solution.theta[-1, 0] - np.exp(-0.5 - 599e-4)) <= SOLVED
    assert solution.solver_error <= SOLVED


@pytest.mark.parametrize("order", [1, "state"])
def test_schedules_of_the_table_are_integrated_across_their_kinks(order):
    """Assert that a warm-up and a step decay give θ = exp(−∫η) with the integral known."""
    rule = UpdateRule(Warmup(StepDecay(0.1, step_size=30, gamma=0.1), steps=10, start_factor=0.5), SGD())
    solution = Flow(rule, lambda theta: theta, order=order).solve([1.0], steps=60)
    assert abs(solution.theta[-1, 0] - np.exp(-(0.1 * 7.5 + 0.1 * 20 + 0.01 * 30))) <= SOLVED


def test_a_learning_rate_that_ends_at_zero():
    """Assert that a flow stands still while the learning rate is 0."""
    rule = UpdateRule(lambda k: 0.1 if k < 10 else 0.0, HeavyBall(0.5))
    theta = Flow(rule, lambda theta: theta).solve([1.0], steps=20).theta[:, 0]
    assert np.abs(theta[10:] - np.exp(-2)).max() <= SOLVED


def test_a_maximum_that_rises_is_refused():
    """Assert that AMSGrad's flow, which holds its maximum, is refused from the step on at which g² grows.

    On f = θ⁴/4 − θ²/2 the gradient θ³ − θ is largest at 1/√3; with θ falling from 2 it shrinks all the way, and with
    θ rising from .1 it grows at once.
    """
    flow = Flow(UpdateRule(0.01, AMSGrad()), lambda theta: theta**3 - theta)
    assert flow.solve([2.0], steps=20).theta[-1, 0] < 2
    with pytest.raises(AssumptionFailed) as raised:
        flow.solve([0.1], steps=20)
    assert raised.value.step == 1


def test_a_clip_that_is_active_is_refused_where_it_matters():
    """Assert that Adai's flow is refused at order 2 where β₁ is clipped, and followed at order 1, where F₀ = −g.

    β₁ = 1 − β₀g²/⟨g²⟩ of the weight with the small gradient is past 1 − ε.
    """
    h = np.array([1.0, 0.01])
    parts = UpdateRule(0.01, Adai(betas=(0.1, 0.9))), lambda theta: h * theta, lambda theta, vector: h * vector
    with pytest.raises(AssumptionFailed) as raised:
        Flow(*parts, order=2).solve([1.0, 1.0], steps=10)
    assert raised.value.step == 0
    theta = Flow(*parts, order=1).solve([1.0, 1.0], steps=10).theta[-1]
    assert np.abs(theta - np.exp(-0.1 * h)).max() <= SOLVED


@dataclass(frozen=True)
class Independent:
    """R = λ, whatever the learning rate."""

    weight_decay: float

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, step):
        return self.weight_decay


def test_a_decay_that_is_not_proportional_to_the_learning_rate():
    """Assert that R = λ has no flow of order 1, as λθ/η has no limit, and that its full state decays as exp(−λk)."""
    rule = UpdateRule(0.1, SGD(), Independent(0.02))
    with pytest.raises(InputError):
        Flow(rule, lambda theta: 0 * theta).solve([1.0], steps=10)
    theta = Flow(rule, lambda theta: 0 * theta, order="state").solve([1.0], steps=10).theta[:, 0]
    assert np.abs(theta - np.exp(-0.02 * np.arange(11))).max() <= SOLVED


def test_a_direction_of_matrices():
    """Assert that the flow of Muon with its memory is (step − state)/η, and that another size is refused."""
    rule = shaped(UpdateRule(0.1, Muon(coarse=False), Decoupled(0.5)), ((2, 2),))
    flow = Flow(rule, lambda theta: theta - 1.0, order="state")
    at = np.arange(8.0)
    state = rule(flow.state_at(at, 1), at[:4] - 1.0)
    np.testing.assert_allclose(flow.field(at), (np.concatenate([state.theta, state.memory.m]) - at) / 0.1, rtol=1e-12)
    with pytest.raises(InputError, match="4 entries"):
        flow.field(np.arange(6.0))
