"""The modified equations that the theory states, by algebra."""

import numpy as np
import pytest
import sympy
from aggregated_momentum import AggregatedMomentum
from symbolic.algebra import beta, beta_0, beta_1, beta_2, epsilon, equal, eta, g, gdot, h, lam, tau, theta, theta_dot
from symbolic.catalogue import REPRESENTATIVES, family_of, has, share_derivations
from symbolic.quasi_hyperbolic import QuasiHyperbolic

from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG, SGD, HeavyBall, NoDecay, UpdateRule
from swd_dynamics.symbolic import lettered, modified_equation, notation

pytestmark = share_derivations

D = 1 - beta
TABLE = {
    "SGD": (-(g + lam * theta) / D, (1 + beta) * (h + lam) / (2 * D**2)),
    "SGDS": (-(g + lam * theta) / D, ((1 + beta) * h + D * lam) / (2 * D**2)),
    "SGDW": (-(g + D * lam * theta) / D, ((1 + beta) * h + D**2 * lam) / (2 * D**2)),
}


def heavy_ball(name, **arguments):
    return modified_equation(CATALOG[name](lr=eta, momentum=beta, weight_decay=lam, **arguments))


def second_in_curvature(equation):
    """F₁ with ġ = h·F₀."""
    return equation.second.subs(gdot, h * equation.first)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.slow
def test_the_table_of_heavy_ball(name):
    """Assert that F₀ and F₁ of heavy ball with each decay are those of the theory's table."""
    first, coefficient = TABLE[name]
    equation = heavy_ball(name)
    assert equal(equation.first, first)
    assert equal(second_in_curvature(equation), coefficient * first)


def test_l2_and_stable_decay_differ_at_second_order():
    """Assert that L2 and stable decay are one flow at first order, and that λ then counts (1+β)/(1−β) times in L2."""
    l2, stable = heavy_ball("SGD"), heavy_ball("SGDS")
    assert equal(l2.first, stable.first)
    of_l2, of_stable = (sympy.cancel(second_in_curvature(e) / e.first).diff(lam) for e in (l2, stable))
    assert equal(of_l2 / of_stable, (1 + beta) / (1 - beta))
    assert equal((of_l2 / of_stable).subs(beta, sympy.Rational(9, 10)), 19)


def test_gradient_descent():
    """Assert that gradient descent follows −g − (η/2)Hg."""
    equation = modified_equation(UpdateRule(eta, SGD()))
    assert equal(equation.first, -g)
    assert equal(second_in_curvature(equation), -h * g / 2)


def test_nesterov():
    """Assert that Nesterov shares heavy ball's F₀ and has F₁ = (1−β+2β²)ġ/(2(1−β)²), worked out by hand."""
    equation = modified_equation(CATALOG["SGD"](lr=eta, momentum=beta, nesterov=True))
    assert equal(equation.first, -g / D)
    assert equal(equation.second, (1 - beta + 2 * beta**2) * gdot / (2 * D**2))


@pytest.mark.slow
def test_dampening_rescales_the_gradient():
    """Assert that with dampening τ the gradient part of both orders is (1−τ) times as large, given ġ."""
    damped, plain = (modified_equation(UpdateRule(eta, HeavyBall(beta, t))) for t in (tau, 0.0))
    assert equal(damped.first, (1 - tau) * plain.first)
    assert equal(damped.second, (1 - tau) * plain.second)


@pytest.mark.slow
def test_adam_without_epsilon_is_cattaneos():
    """Assert that at ε = 0 the flow of Adam is that of Cattaneo et al. 2023, with ∇‖g‖₁ = H·sign(g)."""
    equation = modified_equation(UpdateRule(eta, CATALOG["Adam"](betas=(beta_1, beta_2), eps=0.0).direction))
    bracket = (1 + beta_1) / (1 - beta_1) - (1 + beta_2) / (1 - beta_2)
    for sign in (1, -1):
        size = sympy.Symbol("size", positive=True)
        at = {g: sign * size}
        first, second = equation.first.subs(at), equation.second.subs(gdot, -h * sign).subs(at)
        assert equal(first, -sign)
        assert equal(second, -bracket * h * sign / (2 * size))


@pytest.mark.slow
def test_epsilon_outside_the_root_is_not_epsilon_inside():
    """Assert that at ε > 0 Cattaneo's formula, with ε inside the root, differs from torch's, which is derived here."""
    equation = modified_equation(UpdateRule(eta, CATALOG["Adam"](betas=(beta_1, beta_2), eps=epsilon).direction))
    inside = -g / sympy.sqrt(g**2 + epsilon)
    numbers = {g: 1, epsilon: sympy.Rational(1, 10)}
    assert equation.first.subs(numbers) == sympy.Rational(-10, 11)
    assert inside.subs(numbers) != equation.first.subs(numbers)


@pytest.mark.slow
def test_adams_decay_turns_with_the_mean_square():
    """Assert that AdamS is AdamW with λ/√⟨g²⟩, apart from the lag and the turn of √v̄.

    That is (1+β₂)⟨gġ⟩/(2(1−β₂)⟨g²⟩) of the decay.
    """
    mean = notation.mean
    frozen = modified_equation(CATALOG["AdamW"](lr=eta, betas=(beta_1, beta_2), eps=epsilon, weight_decay=lam))
    stable = modified_equation(CATALOG["AdamS"](lr=eta, betas=(beta_1, beta_2), eps=epsilon, weight_decay=lam))
    taken = lam / sympy.sqrt(mean(g**2))
    assert equal(stable.first, frozen.first.subs(lam, taken))
    extra = -taken * theta * (1 + beta_2) / (2 * (1 - beta_2)) * mean(g * gdot) / mean(g**2)
    difference = stable.second_in_rates - frozen.second_in_rates.subs(lam, taken)
    assert equal(difference, extra)


@pytest.mark.slow
def test_adai_is_an_average_with_its_own_beta():
    """Assert that Adai's F₁ is that of an averaged momentum, (1+β₁)ġ/(2(1−β₁)), at its own β₁ = 1 − β₀g²/⟨g²⟩."""
    equation = modified_equation(UpdateRule(eta, CATALOG["Adai"](betas=(beta_0, beta_2)).direction))
    own = 1 - beta_0 * g**2 / notation.mean(g**2)
    assert equal(equation.first, -g)
    assert equal(equation.second, (1 + own) * gdot / (2 * (1 - own)))


@pytest.mark.slow
def test_aggregated_momentum_of_one_beta_is_heavy_ball():
    """Assert that a user's direction is derived like the package's own: with both β alike it is heavy ball."""
    for decay in (entry.decay(lam) for entry in map(CATALOG.get, ("SGD", "SGDW", "SGDS"))):
        mine = modified_equation(UpdateRule(eta, AggregatedMomentum(beta, beta), decay))
        known = modified_equation(UpdateRule(eta, HeavyBall(beta), decay))
        assert equal(mine.first, known.first)
        assert equal(mine.second, known.second)


@pytest.mark.slow
def test_aggregated_momentum_is_the_mean_of_two_heavy_balls():
    """Assert that without decay both orders are linear in the direction: the mean of two heavy balls, given ġ."""
    mine = modified_equation(UpdateRule(eta, AggregatedMomentum(beta_1, beta_2)))
    one, other = (modified_equation(UpdateRule(eta, HeavyBall(b))) for b in (beta_1, beta_2))
    assert equal(mine.first, (one.first + other.first) / 2)
    assert equal(mine.second, (one.second + other.second) / 2)


def test_terms_that_differ_in_constants_only_are_one_term():
    """Assert that F₀ of quasi-hyperbolic momentum is −G: −νG from the average and −(1 − ν)G from the gradient."""
    equation = modified_equation(UpdateRule(0.1, QuasiHyperbolic(0.75, 0.5)))
    assert [s.equation.rhs for s in equation.steps if s.equation.lhs.name == "F₀"] == [-notation.total]


def test_the_memory_on_its_slow_manifold():
    """Assert that heavy ball's memory is G/D − ηβĠ/D², and that the one before a step at θ is a step further back."""
    equation = heavy_ball("SGD")
    total, total_dot = g + lam * theta, gdot + lam * theta_dot
    (resting, lagging), *_ = equation.memory.values()
    assert equal(resting, total / D)
    assert equal(lagging, -beta * total_dot / D**2)
    (before,) = equation.starting.values()
    assert equal(before, resting + eta * (lagging - total_dot / D))


# What the assumptions say of each family or entry, beside the slow manifold.
SAID = {
    "clip is inactive": ("Adai",),
    "maximum holds": ("AMSGrad",),
    "maximum is the new value": ("Adamax",),
    "bias corrections are 1": ("Adam", "AMSGrad", "Adamax", "NAdam", "RAdam", "AdaBelief"),  # in Adai's v̂/v̄ they cancel
    # A held maximum does not hear of g, and AdaBelief's variance is constant at rest. Signs have a kink.
    "g is not 0": ("Adam", "Adai", "RMSprop", "Adadelta", "Adamax", "NAdam", "RAdam", "Signum", "Lion", "SGDCautious"),
    "no sign changes": ("Signum", "Lion", "SGDCautious", "AdamCautious"),
}


@pytest.mark.parametrize("name", [name for name in REPRESENTATIVES if has(name, modified_equation)])
@pytest.mark.slow
def test_kinks_are_said(name):
    """Assert that where an entry has a kink the derivation names the side it assumes."""
    said = " ".join(modified_equation(CATALOG[name](weight_decay=0.1)).assumptions)
    assert {words for words in SAID if words in said} == {
        w for w, of in SAID.items() if {name, family_of(name)} & {*of}
    }
    assert "slow manifold" in said


@pytest.mark.parametrize("decay", [NoDecay(), CATALOG["SGD"].decay(lam)], ids=["none", "L2"])
def test_second_is_second_in_rates_with_the_flow_put_in(decay):
    """Assert that the short form of F₁ in θ̇ becomes the long one with θ̇ = F₀."""
    equation = modified_equation(UpdateRule(eta, HeavyBall(beta), decay))
    assert equal(equation.second_in_rates.subs(theta_dot, equation.first), equation.second)
    assert not equation.second.has(theta_dot)


@pytest.mark.parametrize("optimum", [-3.0, -1.0, 0.0, 1.75, 2.75])
def test_rest_points_with_exact_gradients(optimum):
    """Assert that AdamW clips at 1/λ, and that SGDW rests where hθ⋆/(h + λ(1−β)) is, by the closed forms."""
    clipped = modified_equation(CATALOG["AdamW"](lr=0.1, weight_decay=0.5)).rest_point(h=2, theta_star=optimum)
    assert clipped == pytest.approx(np.clip(optimum, -2, 2), abs=1e-7)  # ε = 1e-8 widens the jump
    rule = CATALOG["SGDW"](lr=0.1, momentum=0.75, weight_decay=2.0)
    found = modified_equation(rule).rest_point(h=1.5, theta_star=optimum)
    assert found == pytest.approx(1.5 * optimum / (1.5 + 2.0 / 4), rel=1e-15)


def test_rest_points_that_are_refused():
    """Assert that a rule in symbols, a maximum that is held, and a flat loss have no rest point in numbers."""
    rules = [lettered(CATALOG["AdamW"](lr=0.1, weight_decay=0.5))[0], CATALOG["AMSGradW"](lr=0.1, weight_decay=0.5)]
    for rule in rules:
        with pytest.raises(InputError, match="symbol"):
            modified_equation(rule).rest_point(h=1, theta_star=1)
    with pytest.raises(InputError, match="h = 0"):
        modified_equation(CATALOG["SGD"](lr=0.1)).rest_point(h=0, theta_star=1)
