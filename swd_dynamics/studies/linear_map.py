"""Where a run on a task rests, and how a small perturbation of this point grows by the derived linear map."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from swd_dynamics.studies.methods import Method
from swd_dynamics.symbolic import eigenvalues, fixed_point, notation
from swd_dynamics.tasks import Task


class Rest(NamedTuple):
    """The point where a run on the digits rests, with the largest curvature there and its direction."""

    theta: np.ndarray
    curvature: float
    steepest: np.ndarray


def crossing(function: Callable[[float], float], low: float, high: float, halvings: int = 50) -> float:
    """The point between ``low`` and ``high`` where a function turns negative, by bisection.

    NaN if the function is not positive at ``low`` and negative at ``high``.
    """
    if not function(low) > 0 > function(high):
        return float("nan")
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2


def resting_decay(method: Method) -> float:
    """The c with which a rule rests where ∇L + cθ = 0, from its derived fixed point hθ⋆/(h + c)."""
    rest = fixed_point(method.rule(lr=notation.lr)).value
    return 1 / float(rest.subs({notation.curvature: 1.0, notation.theta_star: 1.0})) - 1


@lru_cache(maxsize=4)
def rest_point(task: Task, c: float) -> Rest:
    """The zero of ∇L + cθ by Newton's method."""
    theta = np.zeros_like(task.theta)
    for _ in range(30):
        step = np.linalg.solve(task.hessian(theta) + c * np.eye(theta.size), task.gradient(theta) + c * theta)
        theta = theta - step
        if np.abs(step).max() < 1e-7:  # the remaining error is of the order of its square
            break
    curvatures, vectors = np.linalg.eigh(task.hessian(theta))
    return Rest(theta, float(curvatures[-1]), vectors[:, -1])


def spectral_radius(method: Method, curvature: float) -> Callable[[float], float]:
    """The largest |eigenvalue| of the derived linear map as a function of η."""
    roots = [root.subs(notation.curvature, curvature) for root in eigenvalues(method.rule(lr=notation.lr)).value]
    return lambda lr: max(abs(complex(root.subs(notation.lr, lr))) for root in roots)
