"""How many digits an optimizer's weights keep, and how large a change must be so that it can be read in them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DOUBLE = 2.0**-53  # the unit round-off of float64
TYPES = {2.0**-8: "bfloat16", 2.0**-11: "float16", 2.0**-24: "float32"}  # by their unit round-off


class Sizes(NamedTuple):
    """The sizes of what is changed in a run.

    move : δ, a perturbation of θ, which is .1 to .3 at first
    impulse, large_impulse : divided by the gradients' scale
    """

    move: float
    impulse: float
    large_impulse: float


# In float64. Ten times as large a δ would show that a step is curved in θ; a tenth would lose a digit of δ′/δ to
# round-off. The impulse moves second moments by 1e-8; half as much doubles the round-off. The large impulse is large
# enough for state of 8 bits to change.
FINE = Sizes(move=1e-4, impulse=1e-4, large_impulse=1e-2)
# In float32 and below: half as much would double the round-off, which is 1e-3 of a decay δ·1e-3 that is summed over
# 120 steps. An impulse meets a gradient of 0, so that the large impulse is like an ordinary gradient.
COARSE = Sizes(move=1e-2, impulse=0.1, large_impulse=1.0)


def sizes_for(unit: float) -> Sizes:
    """The sizes of the changes that can be read in weights with this unit round-off."""
    return FINE if unit == DOUBLE else COARSE


def unit_round_off(weights: NDArray) -> float:
    """The largest relative error of rounding to the coarsest floating-point type that holds these weights exactly.

    Weights that are not finite are ignored.

    Examples
    --------
    >>> thirds = np.array([1 / 3, 2 / 3])
    >>> unit_round_off(thirds) == 2**-53, unit_round_off(thirds.astype(np.float32)) == 2**-24
    (True, True)
    """
    significand, _ = np.frexp(weights[np.isfinite(weights)])
    for unit in TYPES if significand.size else ():
        scaled = significand.astype(float) / unit
        if np.array_equal(scaled, np.rint(scaled)):
            return unit
    return DOUBLE
