"""Derivatives by central differences, which are NaN where a function has a kink."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Relative to the size of the argument: the stencil ∛ε, at which truncation and round-off of a central difference are
# about equal. Halved, the round-off doubles; doubled, the truncation error grows fourfold.
STENCIL = float(np.finfo(float).eps) ** (1 / 3)


def differences(function: Callable[[Array], Array], at: Array, along: Array) -> Array:
    """The derivative J·v of a function along a vector v, by central differences; NaN at a kink.

    The result is right to about 1e-10 of the function's own size. A kink is recognised by a second stencil that is
    sixteen times larger: there the two one-sided derivatives of a smooth function differ by sixteen times as much,
    and at a kink they differ by the same amount.

    Parameters
    ----------
    function : callable (array, shape (n,)) → array, shape (m,)
    at, along : array, shape (n,)

    Returns
    -------
    array, shape (m,)

    Examples
    --------
    The derivative of x² at 3 along the vector 2 is 12. At its kink |x| has no derivative.

    >>> round(float(differences(lambda x: x * x, np.array([3.0]), np.array([2.0]))[0]), 8)
    12.0
    >>> differences(np.abs, np.zeros(1), np.ones(1)).tolist()
    [nan]
    """
    scale = max(1.0, float(np.abs(at).max()))
    step = STENCIL * scale / max(float(np.linalg.norm(along)), 1e-300)
    centre = function(at)
    shifts = (step, -step, 16 * step, -16 * step)
    slopes = [(function(at + shift * along) - centre) / shift for shift in shifts]
    near, far = np.abs(slopes[0] - slopes[1]), np.abs(slopes[2] - slopes[3])
    largest = np.maximum(np.abs(slopes[0]), np.abs(slopes[1])).max()
    kink = (near > 0.5 * far) & (near > 1e-6 * largest)
    return np.where(kink, np.nan, (slopes[0] + slopes[1]) / 2)
