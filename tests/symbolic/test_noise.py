"""The stationary covariance: the theory's values, scipy's solver, and rules that are run in noise."""

from dataclasses import dataclass

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_lyapunov
from symbolic.algebra import beta, beta_1, beta_2, decays, directions, epsilon, equal, eta, h, lam, lrs
from symbolic.odd_directions import Averages, Delayed
from symbolic.quasi_hyperbolic import QuasiHyperbolic

from swd_dynamics.arithmetic import where
from swd_dynamics.rules import CATALOG, L2, SGD, HeavyBall, Stable, UpdateRule
from swd_dynamics.symbolic import NotDerivable, lettered, noise_floor, notation, stability_limit, stationary_covariance
from swd_dynamics.symbolic.noise import settled_by_noise

sigma = notation.noise
NESTEROV = {"momentum": 0.9, "nesterov": True}
THEORY = {  # Var θ of the theory at η = .1, β = .9, h = 1, σ = 1, with six digits
    "SGD": (0.468096, {"momentum": 0.9}),
    "SGDW": (0.466636, {"momentum": 0.9}),
    "SGDS": (0.246732, {"momentum": 0.9}),
    "SGD with Nesterov": (0.284825, NESTEROV),
    "SGDS with Nesterov": (0.204380, NESTEROV),
}


@pytest.mark.parametrize("name", THEORY)
@pytest.mark.slow
def test_values_of_the_theory(name):
    """Assert the six digits of the theory for the SGD family at λ = .1."""
    variance, arguments = THEORY[name]
    rule = CATALOG[name.split()[0]](lr=0.1, weight_decay=0.1, **arguments)
    assert round(float(stationary_covariance(rule)(h=1, sigma=1).value), 6) == variance


@pytest.mark.parametrize(
    ("b", "lr", "at", "value"), [(0.9, 0.1, 1, 19 / 37), (0.9, 0.5, 3, 95 / 69), (0.5, 1.0, 2, 1.5)]
)
def test_heavy_ball_without_decay(b, lr, at, value):
    """Assert Var = ησ²(1+β)/(h(1−β)(2(1+β)−ηh)) in symbols, and its values in the theory."""
    rule = UpdateRule(eta, HeavyBall(beta))
    known = eta * sigma**2 * (1 + beta) / (h * (1 - beta) * (2 * (1 + beta) - eta * h))
    assert equal(stationary_covariance(rule).value, known)
    assert float(stationary_covariance(UpdateRule(lr, HeavyBall(b)))(h=at, sigma=1).value) == pytest.approx(value)


def numeric_map(rule: UpdateRule, curvature: float) -> tuple[np.ndarray, np.ndarray]:
    """A and b of a linear rule, from steps that it takes in floats."""
    kind = type(rule.direction.rest(0.0))
    size = 1 + len(rule.direction.rest(0.0))

    def after(state, gradient):
        began = rule.start(float(state[0]))._replace(memory=kind(*map(float, state[1:])), step=1)
        ended = rule(began, curvature * began.theta + gradient)
        return np.array([ended.theta, *ended.memory], dtype=float)

    return np.array([after(unit, 0.0) for unit in np.eye(size)]).T, after(np.zeros(size), 1.0)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(rule=st.builds(UpdateRule, lrs, directions, decays(1)), curvature=st.floats(0.1, 3))
@pytest.mark.slow
def test_scipy_solves_the_same_equation(rule, curvature):
    """Assert that Var θ and ρ₁ are those of scipy's Lyapunov solver, for A and b from steps of the rule in floats."""
    matrix, response = numeric_map(rule, curvature)
    if abs(np.linalg.eigvals(matrix)).max() > 0.999:  # nearer to 1 scipy's own digits are lost
        return
    covariance = solve_discrete_lyapunov(matrix, np.outer(response, response))
    found = stationary_covariance(rule)(h=curvature, sigma=1).results
    assert float(found["Var θ"]) == pytest.approx(covariance[0, 0], rel=1e-8)
    assert float(found["ρ₁"]) == pytest.approx((matrix @ covariance)[0, 0] / covariance[0, 0], abs=1e-8)


@pytest.mark.parametrize("direction", [Averages((0.9, 0.5, 0.3), (0.5, 0.3, 0.2)), Delayed()], ids=["4", "7"])
@pytest.mark.slow
def test_many_entries(direction):
    """Assert that the covariance of 4 and of 7 entries of the state is scipy's, and that symbols are refused there."""
    rule = UpdateRule(0.1, direction, L2(0.1))
    matrix, response = numeric_map(rule, 1.5)
    covariance = solve_discrete_lyapunov(matrix, np.outer(response, response))
    assert float(stationary_covariance(rule)(h=1.5, sigma=1).value) == pytest.approx(covariance[0, 0], rel=1e-10)
    with pytest.raises(NotDerivable, match=r"give numbers for .*η"):
        stationary_covariance(lettered(rule)[0])


LIMITED = ("SGD", "SGDW", "SGDS", "AdamW", "AdamS", "AdaiW", "RMSpropS", "NAdam")


@pytest.mark.parametrize("name", LIMITED)
@pytest.mark.slow
def test_it_diverges_at_the_stability_limit(name):
    """Assert that the denominator of Var θ is 0 at the derived limit, and that Var θ is positive just below it."""
    rule = CATALOG[name](lr=0.1, weight_decay=0.1, **({"momentum": 0.9} if name.startswith("SGD") else {}))
    variance, limit = stationary_covariance(rule).value, stability_limit(rule).value
    at = {symbol: sympy.Rational(1, 4) for symbol in variance.free_symbols - {h}}
    limit = limit.subs(at)
    below = sympy.fraction(sympy.together(variance.subs(at)))[1]
    scale = below.subs(h, limit / 2)
    assert abs(complex(sympy.N(below.subs(h, limit) / scale, 30))) < 1e-25
    near, half = (
        variance.subs(at).subs(h, limit * share) for share in (sympy.Rational(999, 1000), sympy.Rational(1, 2))
    )
    assert near > 100 * half > 0


RUN = [  # curvature 1, noise 1; a user's own direction, and adaptive ones whose √v the noise sets
    pytest.param(CATALOG["SGDW"](lr=0.1, momentum=0.9, weight_decay=0.1), id="SGDW"),
    pytest.param(CATALOG["SGDS"](lr=0.1, weight_decay=0.1, **NESTEROV), id="SGDS with Nesterov"),
    pytest.param(UpdateRule(0.3, QuasiHyperbolic(0.8, 0.7), L2(0.2)), id="quasi-hyperbolic"),
    pytest.param(CATALOG["AdamW"](lr=0.02, weight_decay=0.5), id="AdamW"),
    pytest.param(CATALOG["AdamS"](lr=0.02, weight_decay=0.5), id="AdamS"),
    pytest.param(CATALOG["AdaBelief"](lr=0.02, weight_decay=0.5), id="AdaBelief"),
    pytest.param(CATALOG["RMSpropW"](lr=0.02, momentum=0.5, alpha=0.99, weight_decay=0.5), id="RMSpropW"),
]


@pytest.mark.parametrize("rule", RUN)
@pytest.mark.slow
def test_a_run_in_noise(rule):
    """Assert Var θ of 4000 weights that train in noise. Over 600 steps the sampling error is about .5 %.

    v counts the gradient without noise too, h²·Var θ, which is 1 % of the noise here at most, and fluctuates by 3 %.
    """
    generator = np.random.default_rng(0)
    state, squares = rule.start(np.zeros(4000)), []
    for k in range(1000):
        state = rule(state, state.theta + generator.standard_normal(4000))
        squares += [np.mean(state.theta**2)] if k >= 400 else []
    found = stationary_covariance(rule)(h=1, sigma=1)
    frozen = {str(s): value for s, value in found.results.items() if s in ("v", "s")}
    assert float(found(**frozen).value if frozen else found.value) == pytest.approx(np.mean(squares), rel=0.025)


def test_the_floor_is_half_the_curvature_times_the_variance():
    """Assert ΔL = ½h·Var θ, and that small learning rates have ησ²/(4(1−β)) at any curvature without decay."""
    rule = UpdateRule(eta, HeavyBall(beta))
    floor = noise_floor(rule).value
    assert equal(floor, h * stationary_covariance(rule).value / 2)
    assert equal(sympy.limit(floor / eta, eta, 0), sigma**2 / (4 * (1 - beta)))


@pytest.mark.slow
def test_what_noise_makes_of_the_memory():
    """Assert v = σ² of Adam, E[(g − m)²] of AdaBelief by hand, and no value for a maximum and a sum."""
    adam = {"lr": eta, "betas": (beta_1, beta_2), "eps": epsilon, "weight_decay": lam}

    def named(name, **arguments):
        return {symbol.name: value for symbol, value in settled_by_noise(CATALOG[name](**arguments)).items()}

    assert named("AdamW", **adam) == {"v": sigma**2}
    assert named("AMSGrad", **adam) == {"v": sigma**2, "v_max": None}
    lag = 2 * beta_1**2 * sigma**2 / (1 + beta_1)  # β₁²·(variance of g − m before the step), σ² + σ²(1−β₁)/(1+β₁)
    assert equal(named("AdaBelief", **adam)["s"], lag + epsilon / (1 - beta_2))
    letters, _ = lettered(CATALOG["Adagrad"](weight_decay=0.1))
    assert [*settled_by_noise(letters).values()] == [None]


@pytest.mark.slow
def test_the_value_of_v_is_a_result_where_v_is():
    """Assert that v = σ² stands beside a Var θ that has v in it, but not beside one that has a maximum in it."""
    assert [*stationary_covariance(CATALOG["AdamS"](weight_decay=0.1)).results] == ["Var θ", "ρ₁", "v"]
    assert [*stationary_covariance(CATALOG["AMSGrad"](weight_decay=0.1)).results] == ["Var θ", "ρ₁"]


@dataclass(frozen=True)
class Halved(HeavyBall):
    """η_eff is halved where the momentum is negative."""

    def effective_lr(self, memory, step):
        return step.lr * where(memory.m > 0, 1, 0.5)


def test_a_decay_that_depends_on_a_sign_is_refused():
    """Assert that R with a case that noise changes has no covariance, though between kinks it has a linear map."""
    rule = UpdateRule(0.1, Halved(0.5), Stable(0.1))
    assert stability_limit(rule).value > 0
    with pytest.raises(NotDerivable, match="sign"):
        stationary_covariance(rule)


def test_gradient_descent_has_no_memory():
    """Assert Var = ησ²/(h(2−ηh)) and ρ₁ = 1 − ηh of gradient descent."""
    found = stationary_covariance(UpdateRule(eta, SGD())).results
    assert equal(found["Var θ"], eta * sigma**2 / (h * (2 - eta * h)))
    assert equal(found["ρ₁"], 1 - eta * h)


@pytest.mark.parametrize("together", [True, False])
def test_beyond_the_limit_noise_has_no_floor(together):
    """Assert that Var θ and ΔL of heavy ball are ∞ at the limit 2(1+β)/η = 38 and beyond, and finite just below."""
    rule = CATALOG["SGD"](lr=0.1, momentum=0.9)
    for derive in (noise_floor, stationary_covariance):
        found = derive(rule)
        at = [found(h=h, sigma=1) if together else found(sigma=1)(h=h) for h in (37.9, 38, 38.1, 50)]
        assert 0 < float(at[0].value) < np.inf and not any("unstable" in each for each in at[0].assumptions)
        assert [each.value for each in at[1:]] == [sympy.oo] * 3
        assert all("unstable" in each.assumptions[-1] for each in at[1:])


@pytest.mark.slow
def test_beyond_the_limit_at_a_given_preconditioner():
    """Assert that Adam's variance is ∞ where its linear map, with v given, has an eigenvalue beyond the unit circle."""
    found = stationary_covariance(CATALOG["AdamS"](lr=0.1, weight_decay=0.1))(sigma=1)
    assert found(h=5000, v=1).value is sympy.oo and float(found(h=5, v=1).value) > 0
