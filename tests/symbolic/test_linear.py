"""Linear maps and eigenvalues, compared with the theory and with steps of the rule."""

from math import sqrt

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from symbolic.algebra import beta, decays, directions, equal, eta, h, lam, lrs, theta_star
from tolerances import RADICALS, round_off

from swd_dynamics.rules import (
    L2,
    HeavyBall,
    UpdateRule,
)
from swd_dynamics.symbolic import eigenvalues, linear_map

law = settings(max_examples=15, deadline=None, derandomize=True)


@pytest.mark.parametrize(
    "rule", [UpdateRule(eta, HeavyBall(beta)), UpdateRule(eta, HeavyBall(beta), L2(lam))], ids=["no decay", "L2"]
)
def test_eigenvalues_lie_on_a_circle_of_radius_root_beta(rule):
    """Assert that the product of heavy ball's eigenvalues is β, so that where they are complex each has modulus √β."""
    one, other = eigenvalues(rule).value
    assert equal(one * other, beta)


def test_complex_eigenvalues_by_numbers():
    """Assert that at η = .1, h = 1, β = .9 they are complex, of modulus √.9, and not 2√β as printed elsewhere."""
    for value in eigenvalues(UpdateRule(0.1, HeavyBall(0.9))).value:
        number = value.subs(h, 1)
        assert sympy.im(number) != 0
        assert sympy.expand(number * sympy.conjugate(number)) == sympy.Rational(9, 10)


def numeric(rule, curvature, target=0.0):
    """The derived map with numbers put in: A and b."""
    found = linear_map(rule).results
    numbers = {h: curvature, theta_star: target}
    return (np.array(part.subs(numbers), dtype=float) for part in (found["A"], found["b"]))


@law
@given(rule=st.builds(UpdateRule, lrs, directions, decays(1)), curvature=st.floats(0.1, 3), target=st.floats(-2, 2))
@pytest.mark.slow
def test_the_map_takes_the_rules_steps(rule, curvature, target):
    """Assert that A·state + b with numbers put in is the rule's own step on f = ½h(θ − θ⋆)²."""
    matrix, constant = numeric(rule, curvature, target)
    state = rule(rule.start(1.0), curvature * (1 - target))
    for _ in range(10):
        mapped = (matrix @ [state.theta, *state.memory] + constant[:, 0]).tolist()
        scale = [*mapped, state.theta, *state.memory, target * curvature]
        state = rule(state, curvature * (state.theta - target))
        assert np.linalg.norm(np.array(mapped) - [state.theta, *state.memory]) <= round_off(1, scale)


@pytest.mark.slow
@law
@given(rule=st.builds(UpdateRule, lrs, directions, decays(1)), curvature=st.floats(0.1, 3))
def test_eigenvalues_are_those_of_the_map(rule, curvature):
    """Assert that the eigenvalues in radicals, a cubic's included, are those numpy finds of the map."""
    matrix, _ = numeric(rule, curvature)
    expected = np.sort_complex(np.linalg.eigvals(matrix).astype(complex))
    found = [complex(value.subs(h, sympy.Rational(curvature)).evalf(30)) for value in eigenvalues(rule).value]
    apart = [np.abs(np.array(found) - value).min() for value in expected]
    assert len(found) == len(expected)
    assert max(apart) <= sqrt(RADICALS)  # a double root halves the digits
    assert abs(np.prod(found) - np.linalg.det(matrix)) <= RADICALS
