"""The stability of the settled oscillation, compared with the theory and with Floquet multipliers of exact orbits."""

from typing import NamedTuple

import numpy as np
import pytest
import sympy
from scipy.optimize import brentq, root
from symbolic.algebra import beta, equal, eta, lam

from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG
from swd_dynamics.rules.update import State
from swd_dynamics.symbolic import BurstRoots, NotDerivable, numeric_oscillation, settled_oscillation
from swd_dynamics.symbolic.oscillation import FOURTH, MODE_CURVATURE, MODE_SLOPE, MULTIPLIER, VARIANCE, over_modes

LATE = 10**6


@pytest.mark.slow
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


@pytest.mark.slow
def test_decay_adds_its_ratio_to_the_curvatures():
    """Assert that −h(1), which is added to the curvature of a slow mean, is R/η_eff with each kind of decay."""
    ratios = {"SGD": lam, "SGDW": lam * (1 - beta), "SGDS": lam}
    for name, ratio in ratios.items():
        found = settled_oscillation(CATALOG[name](lr=eta, momentum=beta, weight_decay=lam)).results["h(μ)"]
        assert equal(-found.subs(MULTIPLIER, 1), ratio)


# The loss ½Sx² + ax³/6 + bx⁴/24 + ½κ(y − y₀)² with the sharpness S = 4 + (y − 3) + ½q(y − 3)², of which y₀ is such
# that an oscillation of x with the size σ holds y at 3: κ(y₀ − 3) = ½σ² + 3R/η_eff.
CUBIC, QUARTIC, BEND, KAPPA, LIMIT = 0.7, -2.0, 3.0, 0.01, 4.0


class Landscape(NamedTuple):
    """The loss for one y₀."""

    centre: float

    def gradient(self, theta):
        """∇L at θ = (x, y)."""
        x, y = theta
        sharpness = LIMIT + (y - 3) + BEND * (y - 3) ** 2 / 2
        along = sharpness * x + CUBIC * x**2 / 2 + QUARTIC * x**3 / 6
        return np.array([along, x**2 / 2 * (1 + BEND * (y - 3)) + KAPPA * (y - self.centre)])


def floquet(rule, loss, guess):
    """The size of the orbit of period two near a guess, and ln μ of one step: half of that of two steps of the rule."""
    kind = type(rule.direction.rest(np.zeros(2)))

    def step(state):
        theta, *memory = np.split(state, len(state) // 2)
        after = rule(State(theta, kind(*memory), LATE), loss.gradient(theta))
        return np.concatenate([after.theta, *after.memory])

    def twice(state):
        return step(step(state))

    orbit = root(lambda state: twice(state) - state, guess, tol=1e-14).x
    assert np.abs(twice(orbit) - orbit).max() <= 1e-12
    one = 1e-5 * np.eye(len(orbit))
    jacobian = np.array([(twice(orbit + each) - twice(orbit - each)) / 2e-5 for each in one]).T
    size = abs(orbit[0] - step(orbit)[0]) / 2
    return size, np.log(np.linalg.eigvals(jacobian).astype(complex)) / 2


RULES = {
    "gradient descent": ("SGD", {}),
    "heavy ball": ("SGD", {"momentum": 0.5}),
    "much momentum": ("SGD", {"momentum": 0.9}),
    "L2": ("SGD", {"momentum": 0.5, "weight_decay": 0.005}),
    "decoupled": ("SGDW", {"momentum": 0.5, "weight_decay": 0.01}),
    "Nesterov, stable": ("SGDS", {"momentum": 0.5, "weight_decay": 0.005, "nesterov": True}),
}


def compared(name, more, sigma, averaged=True):
    """The relative error of the leading root, compared with the nearest Floquet multiplier of the exact orbit."""
    arguments = {"weight_decay": 0.0} | more

    def oscillation(lr):
        return numeric_oscillation(CATALOG[name](**arguments, lr=float(lr)))

    lr = brentq(lambda lr: oscillation(lr).limit - LIMIT, 0.05, 1.5)
    found = oscillation(lr)
    ratio = -float(found.curvature(1.0).real)
    loss = Landscape(3 + (sigma**2 / 2 + 3 * ratio) / KAPPA)
    momenta = []
    if len(found.matrix) > 1:  # a guess of the momentum at (σ, 3); the orbit is then solved for
        turning = found.matrix[1, 0] + LIMIT * found.response[1]
        resting = 3 * (found.matrix[1, 0] - ratio * found.response[1]) / (1 - found.matrix[1, 1])
        momenta = [-sigma * turning / (1 + found.matrix[1, 1]), resting]
    size, exact = floquet(CATALOG[name](**arguments, lr=lr), loss, np.array([sigma, 3.0, *momenta]))
    assert size == pytest.approx(sigma, rel=0.05)
    # the curvatures of S: along y it is q, and along x L₄ and what the turning direction adds, 2·1²/(S − κ)
    bend = 0.5 * size**2 * np.diag([QUARTIC + 2 / (LIMIT - KAPPA), BEND]) * averaged
    curvatures, vectors = np.linalg.eigh(np.diag([LIMIT, KAPPA]) + bend)
    roots = found.roots(curvatures, vectors.T @ [CUBIC, 1.0], fourth_derivative=QUARTIC, variance=size**2)
    assert roots.frequency > 0
    return np.abs(exact - roots.leading).min() / abs(roots.leading)


@pytest.mark.parametrize(("name", "more"), RULES.values(), ids=RULES)
@pytest.mark.slow
def test_roots_are_the_floquet_multipliers_of_an_orbit(name, more):
    """Assert that the roots are ln μ of the linearised steps of the rule on its orbit, up to relative errors of σ².

    So a half of the size has a quarter of the error; less than 0.35 of it is asked for, because of the next order.
    """
    large, small = (compared(name, more, sigma) for sigma in (0.04, 0.02))
    assert small < 0.35 * large
    assert small < 1e-3


@pytest.mark.slow
def test_curvatures_of_the_loss_alone_are_not_enough():
    """Assert that without ½σ²S in the loss the error of a root is ten times as large, and of order σ only."""
    more = {"momentum": 0.5}
    large, small = (compared("SGD", more, sigma, averaged=False) for sigma in (0.04, 0.02))
    assert small > 0.4 * large
    assert small > 10 * compared("SGD", more, 0.02)


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
    for variance in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError, match="variance"):
            found.roots([1.0], [1.0], fourth_derivative=0.0, variance=variance)


@pytest.mark.parametrize(("curvature", "slope", "fourth"), [(np.nan, 1.0, 0.0), (1.0, np.inf, 0.0), (1.0, 1.0, np.nan)])
def test_measurements_of_a_run_that_diverged_are_refused(curvature, slope, fourth):
    """Assert that a number that is not finite is refused."""
    found = numeric_oscillation(CATALOG["SGD"](lr=0.5))
    with pytest.raises(InputError, match="not finite"):
        found.roots([curvature], [slope], fourth_derivative=fourth, variance=0.1)


def test_no_root_of_the_oscillation():
    """Assert that growth and frequency are NaN where no root belongs to the oscillation."""
    roots = BurstRoots(np.array([0.1 + 0j]), np.array([0.0]))
    assert np.isnan(roots.growth) and np.isnan(roots.frequency)


@pytest.mark.slow
def test_the_derivation_names_its_symbols_in_ascii():
    """Assert that LaTeX of all steps is ASCII, and that each symbol has a meaning."""
    found = settled_oscillation(CATALOG["SGDS"](lr=eta, momentum=beta, weight_decay=lam))
    assert found.latex(steps=True).isascii()
    meanings = {str(row.symbol): row.meaning for row in found.symbols}
    assert {"μ", "hⱼ", "Sⱼ", "σ²", "L₄", "S", "L̄"} <= {*meanings}
    assert "a hyperparameter of the rule" not in [meanings[name] for name in ("μ", "hⱼ", "Sⱼ", "ρ", "δⱼ")]
