"""Rules that derivations refused, on which they did not end, or for which they picked a wrong root."""

import numpy as np
import pytest
import sympy
from symbolic.algebra import equal, eta, g, h, lam, root, root_mean, theta, theta_star
from symbolic.odd_directions import (
    AdaBelief,
    AdaDelta,
    Averages,
    Delayed,
    EpsInside,
    FrozenMomentum,
    PlainDecay,
    PlainMomentum,
    PowerDecay,
    RMSprop,
    SlottedDecay,
    UnfrozenMomentum,
)

from swd_dynamics.rules import CATALOG, L2, SGD, Decoupled, HeavyBall, Stable, UpdateRule
from swd_dynamics.symbolic import (
    NotDerivable,
    eigenvalues,
    fixed_point,
    lettered,
    long_run_decay_rate,
    modified_equation,
    notation,
    numeric_equation,
    stability_limit,
)

pytestmark = pytest.mark.slow  # derivations that once took minutes

R = sympy.Rational
EPS = R(1, 10**8)
THREE = Averages((0.1, 0.5, 0.9), (1.0, 0.5, 2.0))


def test_a_strong_stable_decay():
    """Assert that AdamS at η = 1, λ = 3, ε = 10⁻⁸ has the limit 19(√v+ε)(2−3/√v̄), which needs √v̄ > 3/2."""
    limit = stability_limit(CATALOG["AdamS"](lr=1.0, weight_decay=3.0)).value
    assert equal(limit, 19 * (root + EPS) * (2 - 3 / root_mean))


def test_three_buffers_rest():
    """Assert that running means of g with the weights 1, ½ and 2 and λ = .1 rest where 3.5·h(θ−θ⋆) + .1·θ = 0."""
    assert equal(fixed_point(UpdateRule(0.1, THREE, Decoupled(0.1))).value, 35 * h * theta_star / (35 * h + 1))


def test_three_betas_have_three_symbols():
    """Assert that a tuple of three in a field named betas becomes β₁, β₂ and β₃."""
    _, values = lettered(UpdateRule(0.1, THREE))
    betas = {symbol.name: number for symbol, number in values.items() if symbol.name.startswith("β")}
    assert betas == {"β₁": 0.1, "β₂": 0.5, "β₃": 0.9}


def test_epsilon_inside_the_root():
    """Assert that with ε in the root the limit is Adam's 38 with √(v+ε)/η in the place of √v/η."""
    limit = stability_limit(UpdateRule(0.1, EpsInside())).value
    v = notation.PerWeight("v", positive=True)
    assert sympy.simplify(limit - 380 * sympy.sqrt(v + EPS)) == 0


@pytest.mark.parametrize("decay", [None, Stable(0.1)], ids=["none", "stable"])
def test_adabelief(decay):
    """Assert that frozen AdaBelief has Adam's limit, and that its v, which no steady gradient feeds, rests at ε/(1−β₂).

    Its flow is then −g/(√(ε/(1−β₂)) + ε), and its R/η is λ/√(ε/(1−β₂)).
    """
    rule = UpdateRule(0.1, AdaBelief(), decay) if decay else UpdateRule(0.1, AdaBelief())
    rate = R(1, 100) / root_mean if decay else 0
    assert equal(stability_limit(rule).value, 190 * (root + EPS) * (2 - rate))
    rest = sympy.sqrt(EPS / (1 - R(999, 1000)))
    expected = -g / (rest + EPS) - (theta / rest / 10 if decay else 0)
    assert sympy.simplify(modified_equation(rule).first - expected) == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_momentum_behind_a_root(sign):
    """Assert F₁ of RMSprop with momentum as worked out by hand, for gradients of either sign.

    u = g/(|g|+ε) has u̇ = εġ/(|g|+ε)² and, by the lag of v, u₁ = α|g|ġ/((1−α)(|g|+ε)²). F₀ is −u/(1−β), and F₁ is
    −(u₁ − βu̇/(1−β))/(1−β) + ½u̇/(1−β).
    """
    alpha, momentum, eps, size = R(9, 10), R(1, 2), R(1, 10), R(2)
    equation = modified_equation(UpdateRule(0.1, RMSprop(0.9, 0.5, 0.1)))
    turn, lag = (part / (size + eps) ** 2 for part in (eps, alpha * size / (1 - alpha)))
    second = (-lag + momentum * turn / (1 - momentum) + turn / 2) / (1 - momentum)
    at = {g: sign * size, notation.gradient_dot: 3}
    assert equation.first.subs(at) == -sign * size / (size + eps) / (1 - momentum)
    assert equation.second.subs(at) == 3 * second


def test_two_preconditioners():
    """Assert that frozen AdaDelta, whose two means of squares rest at one value, is gradient descent: h < 2/η."""
    assert stability_limit(UpdateRule(0.1, AdaDelta(0.9, 1e-6))).value == 20


def test_eigenvalues_without_a_short_formula():
    """Assert that the eigenvalues of four entries, which have Ferrari's formula at best, are refused."""
    with pytest.raises(NotDerivable):
        eigenvalues(UpdateRule(0.1, THREE))


@pytest.mark.parametrize("kind", [PlainMomentum, UnfrozenMomentum, FrozenMomentum])
@pytest.mark.parametrize("decay", [SlottedDecay, PlainDecay, Decoupled])
def test_classes_of_any_kind(kind, decay):
    """Assert that plain classes, dataclasses that can change and slots give heavy ball's limit, as exact decimals."""
    rule = UpdateRule(0.1, kind(0.9), decay(0.1))
    assert stability_limit(rule).value == R(19) * (2 - R(1, 100))
    assert long_run_decay_rate(rule).value == R(1, 100)
    assert numeric_equation(rule).first(np.ones(1), np.ones(1), ()) == pytest.approx([-10.1])


@pytest.mark.parametrize("kind", [PlainMomentum, UnfrozenMomentum])
def test_what_can_change_is_derived_anew(kind):
    """Assert that a result is not the one kept for the β that an object had before."""
    rule = UpdateRule(0.1, kind(0.9))
    assert stability_limit(rule).value == 38
    rule.direction.h = 0.5
    assert stability_limit(rule).value == 30


LONG_RUN = [
    (CATALOG["SGD"](lr=1.0, momentum=0.1, weight_decay=2.0), 1 + (0.9 + np.sqrt(0.41)) / 2),
    (CATALOG["SGDS"](lr=1.0, momentum=0.99999, weight_decay=1e-6), 0.1),
    (CATALOG["SGDW"](lr=0.5, momentum=0.99, weight_decay=0.5), 0.25),
    (UpdateRule(0.5, HeavyBall(0.5)), 0.0),
]


@pytest.mark.parametrize(("rule", "rate"), LONG_RUN, ids=["L2", "stable", "decoupled", "none"])
def test_the_largest_root_that_theta_excites(rule, rate):
    """Assert R in closed form: of z² + .9z + .1 = 0 the root of largest modulus, and never the momentum's own."""
    assert float(long_run_decay_rate(rule).value) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("direction", [THREE, Delayed()], ids=["three buffers", "delayed"])
def test_the_long_run_of_a_longer_memory(direction):
    """Assert that R of L2 is 1 − z for the largest z that numpy finds in the rule's own step without gradients."""
    rule = UpdateRule(0.5, direction, L2(0.05))
    kind = type(direction.rest(0.0))
    columns = []
    for unit in np.eye(1 + len(direction.rest(0.0))):
        state = rule(rule.start(float(unit[0]))._replace(memory=kind(*map(float, unit[1:])), step=1), 0.0)
        columns.append([state.theta, *state.memory])
    largest = max(np.linalg.eigvals(np.array(columns).T), key=abs)
    found = 1 - complex(long_run_decay_rate(rule).value)
    assert abs(found) == pytest.approx(abs(largest), rel=1e-9)
    assert found.real == pytest.approx(largest.real, rel=1e-9)


def test_a_decay_that_is_not_in_proportion_to_lr():
    """Assert that R = λη² is λθ in F₁ and not in F₀, and that R = λ, of no order in η, is refused."""
    equation = modified_equation(UpdateRule(0.1, SGD(), PowerDecay(0.25, power=2)))
    assert equal(equation.first, -g)
    assert equal(equation.second_in_rates, notation.gradient_dot / 2 - theta / 4)
    numbers = numeric_equation(UpdateRule(0.1, SGD(), PowerDecay(0.25, power=2)))
    assert numbers.second(*[np.array([2.0])] * 4, ()).tolist() == [0.5]
    for lr, weight_decay in ((0.1, 0.25), (eta, lam), (sympy.Symbol("a", positive=True), lam)):
        with pytest.raises(NotDerivable):
            modified_equation(UpdateRule(lr, SGD(), PowerDecay(weight_decay, power=0)))
    assert stability_limit(UpdateRule(0.5, SGD(), PowerDecay(0.25, power=0))).value == R(7, 2)
