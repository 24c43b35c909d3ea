"""The Runge–Kutta–Chebyshev step, compared with its stability polynomial from numpy and with a precise solver."""

import numpy as np
import pytest
from flows.hand_network import HandNetwork
from scipy.integrate import solve_ivp

from swd_dynamics.flows import CentralFlow
from swd_dynamics.flows.chebyshev import DAMPING, chebyshev_step
from swd_dynamics.rules import CATALOG


@pytest.mark.parametrize(("fastest", "stages"), [(1.0, 2), (7.7, 2), (7.8, 3), (17.0, 3), (100.0, 8)])
def test_stability_polynomial(fastest, stages):
    """Assert that rates μ give T_s(w₀ − w₁μ)/T_s(w₀), with numpy's Chebyshev polynomial, in s gradients."""
    calls, rates = [], np.linspace(0, fastest, 7)

    def rate(z):
        calls.append(z)
        return -rates * z

    polynomial, w0 = np.polynomial.Chebyshev.basis(stages), 1 + DAMPING / stages**2
    w1 = polynomial(w0) / polynomial.deriv()(w0)
    assert chebyshev_step(rate, np.ones(7), fastest) == pytest.approx(polynomial(w0 - w1 * rates) / polynomial(w0))
    assert len(calls) == stages


def test_all_rates_up_to_the_fastest_are_damped():
    """Assert that no rate grows, and that twice the fastest does: the number of stages is needed."""
    for fastest in (7.5, 17.0, 30.0, 100.0):
        factors = chebyshev_step(lambda z, m=fastest: -np.linspace(0, m, 200) * z, np.ones(200), fastest)
        assert np.abs(factors[1:]).max() < 1
    assert abs(chebyshev_step(lambda z: -34.0 * z, np.ones(1), 17.0)[0]) > 1


@pytest.mark.slow
def test_flow_without_oscillation_is_solved():
    """Assert that with momentum, at 2.7 times the limit, the flow with Σ = 0 is that of a precise solver.

    The distance is at most a thousandth of the path: the step is of first order, and the fast directions are at rest.
    A fourth-order Runge–Kutta method would need steps of a half here, and holds the curvature where it is itself
    unstable if it takes longer ones.
    """
    network, rule = HandNetwork(), CATALOG["AdamW"](lr=2e-3, betas=(0.9, 0.99), weight_decay=0.1)
    state = rule.start(network.start(600))
    for _ in range(500):
        state = rule(state, network.gradient(state.theta))
    flow = CentralFlow(rule, network.gradient, directions=1, oscillates=False)
    found, n = flow.solve(state.theta, 200, memory=tuple(state.memory)), len(state.theta)

    def rate(_, z):
        theta, *memory = np.split(z, 3)
        memory = flow.edge.remember(theta, network.gradient(theta), tuple(memory), 0.0)
        return np.concatenate([flow.edge.update(theta, network.gradient(theta), memory), *memory]) - z

    start = np.concatenate([state.theta, *state.memory])
    exact = solve_ivp(rate, (0, 200), start, rtol=1e-6, atol=1e-12, t_eval=[200]).y[:n, 0]
    assert found.sharpness[-1, 0] > 2.5
    assert np.linalg.norm(found.theta[-1] - exact) <= 1e-3 * np.linalg.norm(exact - state.theta)
