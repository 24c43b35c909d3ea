"""Fixed points: those the theory states, and that a rule put there stays there."""

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from symbolic.algebra import (
    beta,
    beta_0,
    beta_1,
    beta_2,
    decays,
    directions,
    epsilon,
    equal,
    h,
    lam,
    lrs,
    root,
    root_mean,
    tau,
    theta,
    theta_star,
)
from tolerances import round_off

from swd_dynamics.rules import CATALOG, Step, UpdateRule
from swd_dynamics.symbolic import fixed_point, modified_equation, notation

eta = notation.lr
MOMENTA = {
    "heavy ball": {"momentum": beta},
    "dampened": {"momentum": beta, "dampening": tau},
    "Nesterov": {"momentum": beta, "nesterov": True},
}


@pytest.mark.parametrize("name", ["SGD", "SGDS"])
@pytest.mark.parametrize("arguments", MOMENTA.values(), ids=MOMENTA)
def test_l2_and_stable_decay_rest_where_gradient_descent_does(name, arguments):
    """Assert that L2 and stable decay come to rest at hθ⋆/(h+λ), whatever the momentum."""
    found = fixed_point(CATALOG[name](lr=eta, weight_decay=lam, **arguments)).value
    assert equal(found, h * theta_star / (h + lam))


@pytest.mark.parametrize("arguments", MOMENTA.values(), ids=MOMENTA)
def test_decoupled_decay_is_weakened_by_momentum(arguments):
    """Assert that decoupled decay comes to rest at hθ⋆/(h+λ(1−β)/(1−τ))."""
    found = fixed_point(CATALOG["SGDW"](lr=eta, weight_decay=lam, **arguments)).value
    assert equal(found, h * theta_star / (h + lam * (1 - beta) / (1 - arguments.get("dampening", 0))))


@pytest.mark.parametrize("family", ["Adam", "AMSGrad"])
@pytest.mark.slow
def test_adam_frozen(family):
    """Assert that frozen Adam rests where h(θ − θ⋆) + λcθ = 0, c = 1 (L2), √v+ε (decoupled), (√v+ε)/√v̄ (stable)."""
    weights = {"": 1, "W": root + epsilon, "S": (root + epsilon) / root_mean}
    for decay, weight in weights.items():
        rule = CATALOG[family + decay](lr=eta, betas=(beta_1, beta_2), eps=epsilon, weight_decay=lam)
        found = fixed_point(rule)
        assert equal(h * (found.value - theta_star) + lam * weight * found.value, 0)
        assert any("frozen" in assumption for assumption in found.assumptions)
        # L2 moves the minimum of the loss itself: its fixed point is the same without noise
        assert any("exact gradients" in each for each in found.assumptions) == bool(decay)


@pytest.mark.parametrize("name", ["Adai", "AdaiW", "AdaiS"])
@pytest.mark.slow
def test_adai(name):
    """Assert that every decay of Adai, whose momentum is an average, comes to rest at hθ⋆/(h+λ)."""
    rule = CATALOG[name](lr=eta, betas=(beta_0, beta_2), eps=epsilon, weight_decay=lam)
    assert equal(fixed_point(rule).value, h * theta_star / (h + lam))


def test_full_batch_adamw():
    """Assert that in full batch AdamW (ε = 0) can rest at ±1/λ, on the side of θ⋆ that the gradient points to."""
    flow = modified_equation(CATALOG["AdamW"](lr=eta, eps=0.0, weight_decay=lam)).first
    for side in (1, -1):
        at = {notation.gradient: h * (side / lam - side * 2 / lam), theta: side / lam}
        assert equal(flow.subs(at), 0)


@pytest.mark.slow
def test_full_batch_adams():
    """Assert that AdamS (ε = 0) can rest one weight where λ|θ| = rms(g), the others at θ⋆: at (1, −1.891, .5)."""
    flow = modified_equation(CATALOG["AdamS"](lr=eta, eps=0.0, weight_decay=0.1)).first
    where = -6 / (3 + sympy.sqrt(3) / 10)
    gradient = 3 * (where + 2)
    squares = {notation.mean(notation.gradient**2): gradient**2 / 3}
    assert sympy.simplify(flow.xreplace(squares).subs({notation.gradient: gradient, theta: where})) == 0
    assert round(float(where), 3) == -1.891


@settings(max_examples=25, deadline=None, derandomize=True)
@given(rule=st.builds(UpdateRule, lrs, directions, decays(2)), curvature=st.floats(0.1, 3), target=st.floats(-2, 2))
@pytest.mark.slow
def test_a_rule_stays_at_its_fixed_point(rule, curvature, target):
    """Assert that a rule of numbers, put on its fixed point with its memory at rest, stays there."""
    at = {h: sympy.Rational(curvature), theta_star: sympy.Rational(target)}
    where = float(fixed_point(rule).value.xreplace(at))
    gradient = curvature * (where - target)
    total = gradient + rule.decay.added_gradient(where)
    memory = rule.direction.rest(where)
    for _ in range(1500):  # .95 to the power of this is below an eps
        memory = rule.direction.remember(memory, Step(where, total, rule.lr, k=2))
    state = rule.start(where)._replace(memory=memory, step=1)
    assert abs(rule(state, gradient).theta - where) <= round_off(
        1500, [where, rule.lr * max(map(abs, memory), default=0)]
    )


def test_a_mean_is_given_apart_from_the_weights_own_value():
    """Assert that v and its mean are two numbers, and that one number for both is said to be one."""
    rest = fixed_point(CATALOG["AdamS"](lr=0.01, weight_decay=0.5, eps=0.0))
    apart, alike = rest(h=1, theta_star=1, v=9, v_mean=4), rest(h=1, theta_star=1, v=9)
    assert float(apart) == pytest.approx(1 / (1 + 0.5 * 3 / 2))
    assert float(alike) == pytest.approx(1 / (1 + 0.5))
    assert any("v has the same number" in said for said in alike.assumptions)
    assert not any("v has the same number" in said for said in apart.assumptions)


def test_a_fixed_point_assumes_stability():
    """Assert that the assumption is stated even where no curvature is stable, R = 3 > 2."""
    found = fixed_point(CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=3))
    assert any("stable" in each for each in found.assumptions)
