"""Derived Jacobians as functions of arrays, against differences of what they are the Jacobians of."""

import numpy as np
import pytest
from aggregated_momentum import AggregatedMomentum
from symbolic.catalogue import REPRESENTATIVES, has, share_derivations

from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG, L2, Cosine, HeavyBall, Stable, State, UpdateRule
from swd_dynamics.symbolic import NotDerivable, modified_equation, numeric_equation, numeric_linear_map

pytestmark = share_derivations

HESSIAN = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 3.0]])
AT, ALONG = np.array([0.3, -0.4, 0.7]), np.array([0.2, 0.9, -0.5])
OPTIMUM = np.array([1.0, 0.2, -0.5])

# A stencil of ∛eps = 6e-6: truncation and round-off are about its square, 4e-11, of what is differenced.
STENCIL = np.cbrt(np.finfo(float).eps)
DIFFERENCES = 1e-9

# The map is linear, so that differences over a unit are right up to round-off.
LINEAR = 1e-13


@pytest.mark.parametrize("name", [name for name in REPRESENTATIVES if has(name, modified_equation)])
@pytest.mark.slow
def test_the_turn_of_the_flow(name):
    """Assert that dF₀/dt along the rates v and Hv is the derivative of F₀ on a quadratic, means and all."""
    equation = numeric_equation(CATALOG[name](lr=0.1, weight_decay=0.5))
    still = np.zeros(3)
    held = equation.held(AT, HESSIAN @ (AT - OPTIMUM), still, still, 0.1)

    def first(theta):
        return equation.first(theta, HESSIAN @ (theta - OPTIMUM), held)

    turn = equation.turn(AT, HESSIAN @ (AT - OPTIMUM), ALONG, HESSIAN @ ALONG, held)
    expected = (first(AT + STENCIL * ALONG) - first(AT - STENCIL * ALONG)) / (2 * STENCIL)
    assert np.abs(turn - expected).max() <= DIFFERENCES * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize(
    "rule",
    [
        CATALOG["SGD"](lr=0.1, weight_decay=0.5),
        CATALOG["SGDW"](lr=0.1, momentum=0.9, weight_decay=0.5, nesterov=True),
        UpdateRule(0.1, AggregatedMomentum(0.5, 0.8), Stable(0.2)),
        UpdateRule(np.array([0.1, 0.05, 0.2]), HeavyBall(0.9, 0.1), L2(np.array([0.0, 0.5, 1.0]))),
    ],
    ids=["SGD", "Nesterov", "a user's", "groups"],
)
def test_the_linear_map_of_many_weights(rule):
    """Assert that the map of θ and memory is that of the rule's own step on a quadratic with coupled weights."""
    matrix = numeric_linear_map(rule)(HESSIAN)
    rest = rule.start(AT).memory

    def step(z):
        theta, *memory = z.reshape(-1, 3)
        state = rule(State(theta, type(rest)(*memory), 10), HESSIAN @ (theta - OPTIMUM))
        return np.concatenate([state.theta, *state.memory])

    origin = step(np.zeros(len(matrix)))
    columns = np.column_stack([step(unit) - origin for unit in np.eye(len(matrix))])
    assert np.abs(matrix - columns).max() <= LINEAR


def test_what_has_no_linear_map():
    """Assert that a preconditioner of unknown value, and a schedule, are refused with the reason."""
    with pytest.raises(NotDerivable, match="preconditioner frozen"):
        numeric_linear_map(CATALOG["Adam"](lr=0.1))
    with pytest.raises(InputError, match="give a number for lr"):
        numeric_linear_map(UpdateRule(Cosine(0.1, 9), HeavyBall(0.9)))
