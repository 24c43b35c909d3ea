"""Richardson's extrapolation: the terms of a distance that is a series in the learning rate."""

from dataclasses import dataclass
from itertools import pairwise
from math import log2

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Terms:
    """The terms η^(p−1) and η^p of a distance, each with its size at the smallest η.

    Attributes
    ----------
    order : float — p, the order that is expected
    lower : float — size of the term η^(p−1), which a flow of order p does not have
    leading : float — size of the term η^p
    whole : float — size of the whole distance
    uncertain : float — how far either size may be off: what the last extrapolation changed, and the noise
    noise : float — the part of it that comes from the solver's error and from round-off
    degree : int — of the polynomial whose coefficients these are

    Examples
    --------
    Sizes of 1 and 3: the term η^p is the larger one, and at the smallest learning rates the distance falls by 7/4 as
    η is halved, from 1·2 + 3·4 to 1 + 3 with p = 2 (divided by η: from 7 to 4).

    >>> round(2 ** (Terms(2, 1.0, 3.0, 4.0, 0.0, 0.0, 4).measured - 1), 6)
    1.75
    """

    order: float
    lower: float
    leading: float
    whole: float
    uncertain: float
    noise: float
    degree: int

    @property
    def certainly_lower(self) -> float:
        """What is left of the lower term if it is as small as the uncertainty allows."""
        return max(self.lower - self.uncertain, 0.0)

    @property
    def measured(self) -> float:
        """The order at the smallest η, with the sizes as they were extrapolated.

        It is near p where the term η^p is the larger one, near p − 1 where the lower term is, and above p where
        neither is.
        """
        return self._order(self.lower)

    @property
    def measured_error(self) -> float:
        """How far the order moves if the lower term is changed by ``uncertain``."""
        ends = (self.certainly_lower, self.lower + self.uncertain)
        return max(abs(self._order(lower) - self.measured) for lower in ends)

    def _order(self, lower: float) -> float:
        rest = self.whole - self.lower - self.leading
        if self.lower + self.leading + self.uncertain < rest:
            return self.order + log2((2 * rest + self.leading) / (rest + self.leading))
        both = lower + self.leading
        return self.order - 1 + log2((2 * self.leading + lower) / both) if both > 0 else float("nan")


def largest_share(allowed: float) -> float:
    """The size of the lower term, relative to the leading term, at which the order is ``allowed`` too low.

    Examples
    --------
    With sizes of 1 and 3 the order is 1 − log₂(7/4) too low:

    >>> round(largest_share(1 - float(np.log2(7 / 4))), 6)
    0.333333
    """
    falls = 2 ** (1 - allowed)
    return (2 - falls) / (falls - 1)


def terms(lrs: Array, distances: list[Array], noise: Array, order: float) -> Terms:
    """The terms η^(p−1) and η^p of distances that are a series in η.

    A polynomial in η goes through d/η^(p−1) at the smallest learning rates. Its degree is the degree at which the
    coefficients are known best: a higher degree leaves less of the next terms and more of the noise.

    Parameters
    ----------
    lrs : array, shape (m,)
        Falling.
    distances : list of m arrays, shape (times, n) each
        d at the same times for every learning rate.
    noise : array, shape (m,)
        The largest error of each distance.
    order : float
        p.

    Examples
    --------
    d = 5η² + 7η³, seen down to η = ⅛:

    >>> lrs = 0.5 ** np.arange(4)
    >>> found = terms(lrs, [np.full((1, 1), 5 * lr**2 + 7 * lr**3) for lr in lrs], np.zeros(4), order=2)
    >>> round(found.lower, 9), round(found.leading * 8**2, 9)
    (0.0, 5.0)
    """
    smallest, last = lrs[-1], len(lrs) - 1
    values = np.array([d / (lr / smallest) ** (order - 1) for d, lr in zip(distances, lrs, strict=True)])
    noise = noise / (lrs / smallest) ** (order - 1)
    fits = [_fit(lrs / smallest, values, noise, degree) for degree in range(1, last + 1)]
    found = []
    for degree, ((before, _), (after, noisy)) in enumerate(pairwise(fits), 2):
        changed = max(_size(after[i] - before[i]) for i in (0, 1))
        sizes = (_size(after[0]), _size(after[1]), _size(values[-1]))
        found.append(Terms(order, *sizes, changed + noisy, noisy, degree))
    return min(found, key=lambda each: each.uncertain)


def _fit(x: Array, values: Array, noise: Array, degree: int) -> tuple[Array, float]:
    """The coefficients of 1 and x of a polynomial through the last values, and how much of the noise is in them."""
    inverse = np.linalg.inv(np.vander(x[-degree - 1 :], increasing=True))[:2]
    noisy = float((np.abs(inverse) @ noise[-degree - 1 :]).max())
    return np.tensordot(inverse, values[-degree - 1 :], axes=1), noisy


def _size(distance: Array) -> float:
    """The largest length over all times."""
    return float(np.linalg.norm(distance, axis=1).max())
