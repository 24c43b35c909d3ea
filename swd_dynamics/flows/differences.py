"""Derivatives by central differences, which are NaN where a function has a kink."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)
# A central difference over a step h has an error of about (h/L)² from the next derivatives, for a function that varies
# on the scale L, and of ε·|x|/h from round-off; they are equal near h³ = ε·|x|·L². Halved, the step would double the
# round-off; doubled, it would make the first error fourfold.


def differences(function: Callable[[Array], Array], at: Array, along: Array, reach: ArrayLike | None = None) -> Array:
    """The derivative J·v of a function along a vector v, by central differences; NaN at a kink.

    The result is right to about 1e-10 of what the function changes by over its ``reach``. A kink is recognised by a
    second stencil that is sixteen times larger: there the two one-sided derivatives of a smooth function differ by
    sixteen times as much, and at a kink they differ by the same amount.

    Parameters
    ----------
    function : callable (array, shape (n,)) → array, shape (m,)
    at, along : array, shape (n,)
    reach : number or array, shape (n,), optional
        How far each argument can change before the function ceases to be nearly linear, for example the size of a
        window; by default the largest |argument|, or 1 if that is larger.

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

    A function that varies on the scale of a millionth:

    >>> fast = differences(lambda x: np.sin(1e6 * x), np.zeros(1), np.ones(1), reach=1e-6)
    >>> round(float(fast[0]) / 1e6, 8)
    1.0
    """
    reach = np.broadcast_to(max(1.0, float(np.abs(at).max())) if reach is None else reach, np.shape(at))
    moved = np.abs(along) / reach
    unit = 1 / max(float(moved.max()), 1e-300)  # times ``along``: as far as the reach allows
    size = max(1.0, float((np.abs(at) / reach)[moved > 0].max(initial=0.0)))
    step = unit * (EPS * size) ** (1 / 3)
    centre = function(at)
    shifts = (step, -step, 16 * step, -16 * step)
    slopes = [(function(at + shift * along) - centre) / shift for shift in shifts]
    near, far = np.abs(slopes[0] - slopes[1]), np.abs(slopes[2] - slopes[3])
    largest = np.maximum(np.abs(slopes[0]), np.abs(slopes[1])).max()
    kink = (near > 0.5 * far) & (near > 1e-6 * largest)
    return np.where(kink, np.nan, (slopes[0] + slopes[1]) / 2)
