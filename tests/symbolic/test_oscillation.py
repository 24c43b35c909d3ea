"""The stability of the settled oscillation, compared with the theory and with Floquet multipliers of exact orbits."""

import numpy as np
import pytest
import sympy
from scipy.optimize import fsolve, root
from symbolic.algebra import beta, equal, eta, lam

from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG
from swd_dynamics.rules.update import State
from swd_dynamics.symbolic import NotDerivable, numeric_oscillation, settled_oscillation
from swd_dynamics.symbolic.oscillation import FOURTH, MODE_CURVATURE, MODE_SLOPE, MULTIPLIER, VARIANCE, over_modes

LATE = 10**6


def test_heavy_ball_is_that_of_the_theory():
    """Assert that cF = G + (Γσ²/S)·[Σⱼ cSⱼ²/(chⱼ + G) − L₄/3] with G = (eˢ−1)(1−βe⁻ˢ)/(1−β) and Γ = 2(1+β)/(1−β)."""
    found = settled_oscillation(CATALOG["SGD"](lr=eta, momentum=beta)).results["F"]
    one_mode = found.replace(over_modes, lambda term: term)
    c, mu = eta / (1 - beta), MULTIPLIER
    g, gamma, sharpness = (mu - 1) * (1 - beta / mu) / (1 - beta), 2 * (1 + beta) / (1 - beta), 2 * (1 + beta) / eta
    bracket = c * MODE_SLOPE**2 / (c * MODE_CURVATURE + g) - FOURTH / 3
    assert equal(sympy.together(c * one_mode), sympy.together(g + gamma * VARIANCE / sharpness * bracket))


@pytest.mark.parametrize(("momentum", "least"), [(0.0, 2), (0.5, 18), (0.8, 162), (0.9, 722)])
def test_slow_bursts_of_heavy_ball(momentum, least):
    """Assert that slow bursts fade with heavy ball if ζ is above 2((1+β)/(1−β))²."""
    assert settled_oscillation(CATALOG["SGD"](lr=0.1, momentum=momentum)).results["ζ_min"] == least


def test_decay_adds_its_ratio_to_the_curvatures():
    """Assert that −h(1), which is added to the curvature of a slow mean, is R/η_eff with each kind of decay."""
    ratios = {"SGD": lam, "SGDW": lam * (1 - beta), "SGDS": lam}
    for name, ratio in ratios.items():
        found = settled_oscillation(CATALOG[name](lr=eta, momentum=beta, weight_decay=lam)).results["h(μ)"]
        assert equal(-found.subs(MULTIPLIER, 1), ratio)


# The loss ½(1 + y)x² + ax³/6 + bx⁴/24 + ½κ(y − 4)²: S = 1 + y at x = 0, with ∂S = (a, 1) and L₄ = b.
CUBIC, FOURTH_DERIVATIVE, KAPPA = 0.7, -2.0, 0.3


def gradient(theta):
    x, y = theta
    along = (1 + y) * x + CUBIC * x**2 / 2 + FOURTH_DERIVATIVE * x**3 / 6
    return np.array([along, x**2 / 2 + KAPPA * (y - 4)])


def steps_of(rule):
    """Two steps of a rule as a map of the state (θ, memory)."""
    kind = type(rule.direction.rest(np.zeros(2)))

    def twice(state):
        theta, *memory = np.split(state, len(state) // 2)
        now = State(theta, kind(*memory), LATE)
        for _ in range(2):
            now = rule(now, gradient(now.theta))
        return np.concatenate([now.theta, *now.memory])

    return twice


def floquet(rule, guess):
    """The state of an orbit of period two near a guess, and the Floquet multipliers of one step."""
    twice = steps_of(rule)
    orbit = root(lambda state: twice(state) - state, guess, method="lm", options={"xtol": 1e-14, "ftol": 1e-14}).x
    assert np.abs(twice(orbit) - orbit).max() <= 1e-13
    one = 1e-6 * np.eye(len(orbit))
    jacobian = np.array([(twice(orbit + each) - twice(orbit - each)) / 2e-6 for each in one]).T
    return orbit, np.log(np.linalg.eigvals(jacobian).astype(complex)) / 2


RULES = {
    "gradient descent": ("SGD", {}),
    "heavy ball": ("SGD", {"momentum": 0.5}),
    "much momentum": ("SGD", {"momentum": 0.9}),
    "L2": ("SGD", {"momentum": 0.5, "weight_decay": 0.05}),
    "decoupled": ("SGDW", {"momentum": 0.5, "weight_decay": 0.1}),
    "Nesterov, stable": ("SGDS", {"momentum": 0.7, "weight_decay": 0.05, "nesterov": True}),
}


@pytest.mark.parametrize(("name", "more"), RULES.values(), ids=RULES)
def test_roots_are_the_floquet_multipliers_of_an_orbit(name, more):
    """Assert that the roots are ln μ of the linearised steps of the rule around its orbit, up to errors of order σ³.

    What is left out is of order σ²·ω in a root, with ω ∝ σ: half of the size has an eighth of the error, and less than
    a third is asked for.
    """
    errors = []
    for sigma in (0.04, 0.02):
        lr = _lr_of(name, more, sigma)
        rule = CATALOG[name](**({"weight_decay": 0.0} | more), lr=lr)
        found = numeric_oscillation(rule)
        orbit, exact = floquet(rule, np.array([sigma, found.limit - 1, *_memory(found, sigma)]))
        x = np.abs((orbit[0] - rule_once(rule, orbit)[0]) / 2)
        assert x > 0.5 * sigma
        # L̄ = L + ½σ²S: S has the curvature b + 2·1²/(S − κ) along x, which the step of x does not feel as slow
        curvatures, slopes = np.linalg.eigh(_averaged(found.limit, x))
        roots = found.roots(curvatures, slopes.T @ [CUBIC, 1.0], fourth_derivative=FOURTH_DERIVATIVE, variance=x**2)
        errors.append(np.abs(exact - roots.leading).min() / np.abs(roots.leading))
    assert errors[1] < 0.3 * errors[0] + 1e-7
    assert errors[1] < 2e-3


def _memory(found, sigma):
    """A guess of the momentum where θ = σ turns over; the orbit is then solved for."""
    if len(found.matrix) == 1:
        return []
    turning = found.matrix[1, 0] + found.limit * found.response[1]
    return [-sigma * turning / (1 + found.matrix[1, 1]), 0.0]


def rule_once(rule, state):
    """θ after one step."""
    theta, *memory = np.split(state, len(state) // 2)
    return rule(State(theta, type(rule.direction.rest(np.zeros(2)))(*memory), LATE), gradient(theta)).theta


def _averaged(limit, sigma):
    """The Hessian of L + ½σ²S at x = 0."""
    bend = np.array([[FOURTH_DERIVATIVE + 2 / (limit - KAPPA), 0.0], [0.0, 0.0]])
    return np.diag([limit, KAPPA]) + 0.5 * sigma**2 * bend


def _lr_of(name, more, sigma):
    """The learning rate at which y rests at S = 1 + y = h_max, where σ²/2 + κ(y − 4) + (R/η_eff)·y = 0."""

    def gap(lr):
        rule = CATALOG[name](**({"weight_decay": 0.0} | more), lr=float(lr[0]))
        found = numeric_oscillation(rule)
        ratio = -float(found.curvature(1.0).real)
        y = (4 * KAPPA - sigma**2 / 2) / (KAPPA + ratio)
        return found.limit - 1 - y

    return float(fsolve(gap, [2 * (1 + more.get("momentum", 0.0)) / 5 / (1 + 2 * more.get("nesterov", 0))])[0])


@pytest.mark.parametrize("name", ["Adam", "RMSprop"])
def test_rules_whose_weights_differ_are_refused(name):
    """Assert that a rule with a preconditioner has no such equation."""
    with pytest.raises(NotDerivable, match="differ"):
        settled_oscillation(CATALOG[name](lr=0.1))
    with pytest.raises(NotDerivable, match="differ"):
        numeric_oscillation(CATALOG[name](lr=0.1))


def test_wrong_arguments_are_refused():
    """Assert that symbols, schedules, arrays of two shapes and a variance of 0 are refused."""
    with pytest.raises(InputError, match="symbol"):
        numeric_oscillation(CATALOG["SGD"](lr=eta))
    with pytest.raises(InputError, match="schedule"):
        numeric_oscillation(CATALOG["SGD"](lr=lambda k: 0.1))
    found = numeric_oscillation(CATALOG["SGD"](lr=0.5))
    with pytest.raises(InputError, match="shapes"):
        found.roots([1.0, 2.0], [1.0], fourth_derivative=0.0, variance=0.1)
    with pytest.raises(InputError, match="variance"):
        found.roots([1.0], [1.0], fourth_derivative=0.0, variance=0.0)


def test_the_derivation_names_its_symbols_in_ascii():
    """Assert that LaTeX of all steps is ASCII, and that each symbol has a meaning."""
    found = settled_oscillation(CATALOG["SGDS"](lr=eta, momentum=beta, weight_decay=lam))
    assert found.latex(steps=True).isascii()
    meanings = {str(row.symbol): row.meaning for row in found.symbols}
    assert {"μ", "hⱼ", "Sⱼ", "σ²", "L₄", "S", "L̄"} <= {*meanings}
    assert "a hyperparameter of the rule" not in [meanings[name] for name in ("μ", "hⱼ", "Sⱼ", "ρ", "δⱼ")]
