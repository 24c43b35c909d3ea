"""How stiff a stochastic differential equation is: the fastest rate of its drift, followed along the paths."""

from collections.abc import Callable
from math import ceil

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROOT_EPS = float(np.sqrt(np.finfo(float).eps))
# With a = rate·dt, the stationary variance of Heun's scheme is off by the factor (1 − a + a²/4)/(1 − a + a²/2 − a³/8),
# and that of Euler and Maruyama's by 1/(1 − a/2). With these a both are off by less than 2 %.
ACCURATE = {"heun": 1 / 4, "euler-maruyama": 1 / 32}
COARSE = 1 / 2  # a at which Heun's variance is off by 8 % and Euler and Maruyama's by 33 %; both diverge from a = 2 on
LEAST = 4  # substeps in a step of the optimizer, where the drift is not stiff
MOST = 512  # with more, a single step of the optimizer would cost more than most runs
ITERATIONS = 20  # after which the fastest of two rates that differ by 10 % has nine tenths of the vector


class FastestRate:
    """The largest |eigenvalue| of a linear map at each of several paths, by the power iteration.

    Parameters
    ----------
    shape : (paths, n)

    Examples
    --------
    >>> fastest = FastestRate((1, 2))
    >>> fastest.settled(lambda vectors: vectors * [3.0, -1.0]).round(6).tolist()
    [3.0]
    """

    def __init__(self, shape: tuple[int, ...]):
        self.vectors = unit(np.random.default_rng(0).standard_normal(shape))

    def settled(self, product: Callable[[Array], Array]) -> Array:
        """The rates of all paths after twenty iterations, shape (paths,)."""
        for _ in range(ITERATIONS):
            rates = self.followed(product)
        return rates

    def followed(self, product: Callable[[Array], Array]) -> Array:
        """The rates after one more iteration; 0 where the map expands the vector, or is not finite."""
        after = product(self.vectors)
        rates = np.linalg.norm(after, axis=1)
        known = np.isfinite(rates) & (rates > 0)
        self.vectors = np.where(known[:, None], unit(np.where(known[:, None], after, 1.0)), self.vectors)
        return np.where(known, rates, 0.0)


def unit(vectors: Array) -> Array:
    """Each row divided by its norm."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def jacobian_product(drift: Callable[[Array], Array], at: Array) -> Callable[[Array], Array]:
    """The function v → J(x)·v of a drift at each path, by differences; 0 where the drift drives v apart.

    A path that runs away, as over the top of a well, needs no small steps: it diverges in truth.

    Examples
    --------
    >>> product = jacobian_product(lambda x: -x * x, np.array([[3.0], [-3.0]]))
    >>> product(np.ones((2, 1))).round(6).tolist()
    [[-6.0], [0.0]]
    """
    start, size = drift(at), ROOT_EPS * np.maximum(1.0, np.abs(at).max(axis=1, keepdims=True))

    def product(vectors: Array) -> Array:
        after = (drift(at + size * vectors) - start) / size
        return np.where((vectors * after).sum(axis=1, keepdims=True) > 0, 0.0, after)

    return product


def needed(scheme: str, stiffness: float) -> int:
    """Substeps for a stiffness η·rate, so that the scheme's error in a variance is less than 2 %.

    Examples
    --------
    >>> [needed("heun", stiffness) for stiffness in (0.1, 10.5, 1e9)]
    [4, 42, 512]
    """
    return max(LEAST, ceil(min(stiffness / ACCURATE[scheme], MOST)))
