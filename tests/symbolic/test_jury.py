"""Jury's test in rational numbers, compared with roots that are known and with limits in closed form."""

from math import pi, sin

import numpy as np
import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from symbolic.algebra import eta
from symbolic.odd_directions import Averages, Damped, Delayed, ThreeGradients

from swd_dynamics.rules import L2, SGD, Decoupled, NoDecay, UpdateRule
from swd_dynamics.symbolic import NotDerivable, stability_limit
from swd_dynamics.symbolic.jury import is_stable, stable_intervals
from swd_dynamics.symbolic.notation import curvature as h
from swd_dynamics.symbolic.notation import z

R = sympy.Rational
moduli = st.fractions(-2, 2, max_denominator=99).filter(lambda root: abs(root) != 1)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(real=st.lists(moduli, max_size=4), pairs=st.lists(st.tuples(moduli, moduli), max_size=2))
@pytest.mark.slow
def test_the_exact_test_of_known_roots(real, pairs):
    """Assert that a polynomial made of roots is stable where all of them, real and complex, lie inside the circle."""
    polynomial, sizes = sympy.Poly(1, z), [abs(root) for root in real]
    for root in real:
        polynomial *= sympy.Poly(z - R(root), z)
    for a, b in pairs:  # the roots a ± ib
        polynomial *= sympy.Poly((z - R(a)) ** 2 + R(b) ** 2, z)
        sizes.append(a * a + b * b)
    if 1 not in sizes:
        assert is_stable(polynomial.all_coeffs()) == all(size < 1 for size in sizes)


def test_what_no_float_can_tell():
    """Assert that roots 10⁻⁴⁰ inside and outside of the circle are told apart."""
    little = R(1, 10**40)
    assert is_stable([1, -1 + little])
    assert not is_stable([1, -1 - little])


def test_a_root_that_stays_on_the_circle_does_not_count():
    """Assert that a factor z − 1, which no h moves, is left out: z − (1 − h/2) is stable up to 4 as before."""
    assert stable_intervals(sympy.Poly(sympy.expand((z - 1) * (z - 1 + h / 2)), z)) == [(0, 4)]
    with pytest.raises(NotDerivable):
        stable_intervals(sympy.Poly(sympy.expand((z**2 + 1) * (z - 1 + h / 2)), z))


@pytest.mark.slow
def test_late_gradients():
    """Assert that gradients five steps old are stable up to 2·sin(π/22)/η, where a pair leaves at the angle π/11.

    z⁵(z − 1) = −ηh on the circle: 2·sin(φ/2) = ηh and 5φ + (φ + π)/2 = π.
    """
    limit = stability_limit(UpdateRule(0.5, Delayed())).value
    assert float(limit) == pytest.approx(2 * sin(pi / 22) / 0.5, rel=1e-14)  # the number is rounded once


@pytest.mark.slow
def test_a_negative_hyperparameter():
    """Assert that g + a(g − g_before) with a = −.3 and η = ½ is stable up to 20/3, as its hand calculation says.

    p(z) = z² − z + ηh((1+a)z − a): a pair leaves at −aηh = 1, where h = 20/3, and z = −1 at ηh(1+2a) = 2, where h = 10.
    """
    for a in (-0.3, R(-3, 10)):
        assert stability_limit(UpdateRule(0.5, Damped(a=a))).value == R(20, 3)


GAP = ThreeGradients((2.4, 1.5, 0.6))


@pytest.mark.slow
def test_a_gap_in_the_stable_set_is_said():
    """Assert the first exit of a rule that is stable again, and that both are said: x = ηh to 5/6, and 10/9 to 4/3.

    z³ + (2.4x−1)z² + 1.5xz + .6x: the pair leaves where 1 − 2.1x + 1.08x² = 0, and −1 where 1.5x = 2.
    """
    found = stability_limit(UpdateRule(0.5, GAP))
    assert found.value == R(5, 3)
    assert any("2.22222 and 2.66667" in assumption for assumption in found.assumptions)
    in_symbols = stability_limit(UpdateRule(eta, GAP))
    assert sympy.simplify(in_symbols.value - 5 / (6 * eta)) == 0
    assert any("stable again" in assumption for assumption in in_symbols.assumptions)


@pytest.mark.slow
def test_symbols_without_a_formula_are_refused_and_never_infinite():
    """Assert that the limit of degree five in h, with η as a symbol, is refused."""
    with pytest.raises(NotDerivable):
        stability_limit(UpdateRule(eta, Delayed()))


def largest_modulus(rule, curvature):
    """The largest modulus of the eigenvalues of the rule's own step on ½hθ², taken of each unit vector."""
    kind = type(rule.direction.rest(0.0))
    columns = []
    for unit in np.eye(1 + len(rule.direction.rest(0.0))):
        state = rule.start(float(unit[0]))._replace(memory=kind(*map(float, unit[1:])), step=1)
        state = rule(state, curvature * state.theta)
        columns.append([state.theta, *state.memory])
    return np.abs(np.linalg.eigvals(np.array(columns).T)).max()


betas, weights = st.floats(0.05, 0.95), st.floats(-0.5, 2)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    direction=st.builds(Averages, st.tuples(betas, betas, betas), st.tuples(weights, weights, weights)),
    decay=st.sampled_from([NoDecay(), Decoupled(0.1), L2(0.1)]),
)
def test_the_limit_of_three_buffers(direction, decay):
    """Assert that no eigenvalue of the rule's own step is outside the circle below the limit, and one is above it."""
    rule = UpdateRule(0.1, direction, decay)
    assume(sum(direction.weights) > 0.1)  # else the gradient is climbed
    limit = float(stability_limit(rule).value)
    below = [share * min(limit, 1e4) for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)]
    assert max(largest_modulus(rule, curvature) for curvature in below) < 1
    assert np.isinf(limit) or largest_modulus(rule, 1.001 * limit) > 1


@pytest.mark.slow
def test_samples_of_any_size():
    """Assert that a limit is found though it needs a user's symbol outside of 0 … 1: c > 3/2 where R = 3/c."""
    c = sympy.Symbol("c", positive=True)
    assert sympy.simplify(stability_limit(UpdateRule(1.0, SGD(), Decoupled(3 / c))).value - (2 - 3 / c)) == 0
    with pytest.raises(NotDerivable):
        stability_limit(UpdateRule(1.0, SGD(), Decoupled(3 + c)))
