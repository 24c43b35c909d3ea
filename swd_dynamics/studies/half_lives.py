"""Weights without gradient: their path by a rule, their half-life, and the roots by which they shrink or return."""

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.rules import UpdateRule
from swd_dynamics.symbolic import lettered, long_run_decay_rate
from swd_dynamics.symbolic.linear import find_linear_map


def without_gradient(rule: UpdateRule, theta: NDArray, steps: int) -> NDArray:
    """The weights of a rule whose gradient is 0, before each step and after the last. Shape (steps + 1, n).

    Examples
    --------
    Decoupled decay leaves 1 − ηλ = ¾ of a weight. The sign of L2's λθ moves it by η = ½, whatever λ is.

    >>> from swd_dynamics.rules import CATALOG
    >>> without_gradient(CATALOG["SGDW"](lr=0.5, weight_decay=0.5), np.ones(1), 2).ravel().tolist()
    [1.0, 0.75, 0.5625]
    >>> without_gradient(CATALOG["Signum"](lr=0.5, weight_decay=1e-6), np.ones(1), 2).ravel().tolist()
    [1.0, 0.5, 0.0]
    """
    return with_gradients(rule, theta, np.zeros((steps, len(theta))))


def with_gradients(rule: UpdateRule, theta: NDArray, gradients: NDArray) -> NDArray:
    """The weights of a rule with given gradients, shape (steps, n), before each step and after the last."""
    state, path = rule.start(theta), [theta]
    for gradient in gradients:
        state = rule(state, gradient)
        path.append(state.theta)
    return np.array(path)


def half_life(path: NDArray) -> tuple[NDArray, NDArray]:
    """Steps until half of each weight is left, and whether the path comes to that. Shapes (weights,).

    Between two steps |θ| is interpolated. A path that is too short is continued with the mean rate of its second half.

    Examples
    --------
    >>> half_life(np.array([[8.0], [6.0], [2.0]]))[0].tolist()
    [1.5]
    >>> slow = half_life(0.99 ** np.arange(11.0)[:, None])[0]
    >>> bool(np.isclose(slow, np.log(0.5) / np.log(0.99)))
    True
    """
    left = np.abs(path / path[0])
    reached = (left <= 0.5).any(axis=0)
    k, each = np.argmax(left <= 0.5, axis=0), np.arange(left.shape[1])
    before, after = left[k - 1, each], left[k, each]
    half = len(left) // 2
    with np.errstate(divide="ignore", invalid="ignore"):
        within = k - 1 + (before - 0.5) / (before - after)
        beyond = (len(left) - 1 - half) * np.log(2) / (np.log(left[half]) - np.log(left[-1]))
    return np.where(reached, within, beyond), reached


def long_run_half_life(rule: UpdateRule) -> float:
    """ln 2/−ln(1 − R) with the derived decay rate R of a rule, which must be real.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> round(long_run_half_life(CATALOG["SGDW"](lr=0.5, momentum=0.9, weight_decay=1.0)), 12)
    1.0
    """
    return float(np.log(2) / -np.log1p(-float(long_run_decay_rate(rule).value)))


def largest_root(rule: UpdateRule) -> float:
    """The largest |eigenvalue| of Adam's linear map at zero curvature where its second moment has faded, √v = 0.

    Examples
    --------
    Without decay a weight stays where it is:

    >>> from swd_dynamics.rules import CATALOG
    >>> largest_root(CATALOG["Adam"](lr=0.1, weight_decay=1e-300))
    1.0
    """
    letters, values = lettered(rule)
    found = find_linear_map(letters)
    matrix = found.at_zero_curvature().xreplace(dict.fromkeys(found.roots, 0)).xreplace(values)
    return float(np.abs(np.linalg.eigvals(np.array(matrix, dtype=float))).max())
