"""The variance of weights in noise as functions of numbers, and the second moment that noise and scatter make."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.letters import exact, lettered
from swd_dynamics.symbolic.noise import stationary_covariance
from swd_dynamics.symbolic.notation import PerWeight
from swd_dynamics.symbolic.trace import trace


def numeric_covariance(rule: UpdateRule) -> Callable[[Any, Any], Any]:
    """Var θ and 1 − ρ₁ at σ = 1 as a function of h and of the second moment v that all weights share.

    Examples
    --------
    Gradient descent has Var θ = η/(h(2 − ηh)) and ρ₁ = 1 − ηh:

    >>> from swd_dynamics.rules import SGD
    >>> numeric_covariance(UpdateRule(0.5, SGD()))(2.0, 1.0)
    [0.25, 1.0]
    """
    results: dict[str, Any] = stationary_covariance(rule)(sigma=1).results
    variance, rho = (results[name].replace(notation.mean, lambda each: each) for name in ("Var θ", "ρ₁"))
    return sympy.lambdify([notation.curvature, PerWeight("v", positive=True)], [variance, 1 - rho])


def moments_in_noise(rule: UpdateRule, curvature: ArrayLike) -> NDArray:
    """v of noise and scatter together, v = σ² + E[G²] at σ = 1, for each of some curvatures.

    G is the gradient without noise, (h + λ)θ with L2 and hθ without, and Var θ depends on v. Var θ falls as v grows, so
    that there is one v, and halving intervals finds it. A negative Var θ says that steps with this v diverge.
    Assumes that v hardly fluctuates, β₂ → 1.

    Examples
    --------
    Adam at β₁ = 0 has Var θ = η/(h(2√v − ηh)). With η = 1 and h = 1, v = 1 + Var θ = 1 + 1/(2√v − 1):

    >>> from swd_dynamics.rules import CATALOG
    >>> (v,) = moments_in_noise(CATALOG["Adam"](lr=1.0, betas=(0.0, 0.9), eps=0.0), [1.0])
    >>> float(round(v - 1 - 1 / (2 * v**0.5 - 1), 12))
    0.0
    """
    law, (letters, values) = numeric_covariance(rule), lettered(rule)
    slope: Any = trace(letters).total.diff(notation.theta).xreplace(exact(values))
    added = float(slope)  # λ of L2
    return np.array([_balanced(lambda v, h=h: 1 + (h + added) ** 2 * law(h, v)[0]) for h in np.atleast_1d(curvature)])


def _balanced(moment: Callable[[float], float]) -> float:
    """v where a function of v, which falls where it is above 1, is v."""

    def is_below(v: float) -> bool:
        return not 1 <= moment(v) <= v

    low, high = 1.0, 2.0
    while is_below(high):
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return high
