"""The second and third derivatives of a loss along a few directions, and its sharpest directions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.flows.functions import array_function

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)
# Relative distances for differences of gradients, where the errors of round-off and of the next derivative are equal.
FIRST, SECOND = EPS ** (1 / 3), EPS ** (1 / 4)
SETTLED = 1e-9  # the change of an eigenvalue, in units of the limit, at which sweeps end
# The square of the part of a direction that is not in the span of the other directions; below it the direction is one
# of theirs up to round-off.
INDEPENDENT = 1e-10


@dataclass(frozen=True)
class Sharpest:
    """The largest eigenvalues μ of H u = μ·diag(limit) u.

    Attributes
    ----------
    values : array, shape (p,) — μ, the largest first
    vectors, products : array, shape (n, p) — u, with uᵀ diag(limit) u = 1, and H u
    limit : array, shape (n,)
    """

    values: Array
    vectors: Array
    products: Array
    limit: Array


@dataclass(frozen=True)
class Derivatives:
    """The derivatives of a loss; what is not given is computed by central differences.

    Parameters
    ----------
    gradient : callable (θ) → array, shape (n,)
    hvp : callable (θ, vector) → H·vector, optional
    third : callable (θ, u, w) → ∇(uᵀHw), optional

    Raises
    ------
    InputError
        If one of them is not a function.

    Examples
    --------
    The loss θ³/6 has the gradient θ²/2, the Hessian θ and the third derivative 1:

    >>> cubic = Derivatives(lambda theta: theta**2 / 2)
    >>> at, u = np.array([3.0]), np.array([2.0])
    >>> cubic.times_hessian(at, u).round(7).tolist(), cubic.slope_of_curvature(at, u, u).round(6).tolist()
    ([6.0], [4.0])
    """

    gradient: Callable[[Array], Any]
    hvp: Callable[[Array, Array], Any] | None = None
    third: Callable[[Array, Array, Array], Any] | None = None

    def __post_init__(self):
        object.__setattr__(self, "gradient", array_function("gradient(theta)", self.gradient))
        if self.hvp is not None:
            object.__setattr__(self, "hvp", array_function("hvp(theta, vector)", self.hvp))
        if self.third is not None:
            object.__setattr__(self, "third", array_function("third(theta, u, w)", self.third))

    def times_hessian(self, theta: Array, vector: Array) -> Array:
        """H·v at θ, arrays of shape (n,)."""
        if self.hvp is not None:
            return self.hvp(theta, vector)
        step = FIRST * _size(theta) / max(float(np.abs(vector).max()), 1e-300)
        return (self.gradient(theta + step * vector) - self.gradient(theta - step * vector)) / (2 * step)

    def slope_of_curvature(self, theta: Array, u: Array, w: Array, gradient: Array | None = None) -> Array:
        """∇(uᵀHw) at θ, where u and w do not depend on θ, arrays of shape (n,); ``gradient`` if it is known there."""
        if self.third is not None:
            return self.third(theta, u, w)
        if self.hvp is not None:
            step = FIRST * _size(theta) / float(np.abs(w).max())
            return (self.hvp(theta + step * w, u) - self.hvp(theta - step * w, u)) / (2 * step)
        here = self.gradient(theta) if gradient is None else gradient
        return (self._bend(theta, u + w, here) - self._bend(theta, u - w, here)) / 4

    def _bend(self, theta: Array, u: Array, gradient: Array) -> Array:
        """∇(uᵀHu) by the second difference of gradients."""
        largest = float(np.abs(u).max())
        if largest == 0:
            return np.zeros_like(theta)
        step = SECOND * _size(theta) / largest
        ahead, behind = self.gradient(theta + step * u), self.gradient(theta - step * u)
        return (ahead - 2 * gradient + behind) / step**2

    def sharpest(self, theta: Array, limit: Array, vectors: Array, sweeps: int) -> Sharpest:
        """The largest eigenvalues of H u = μ·diag(limit) u, by Rayleigh–Ritz sweeps from vectors near to them.

        A sweep finds the best eigenvectors in the span of the vectors and of their products with diag(limit)⁻¹H.

        Parameters
        ----------
        theta, limit : array, shape (n,)
        vectors : array, shape (n, p)
        sweeps : int — at most so many; fewer where the eigenvalues have settled

        Examples
        --------
        The loss ½(θ₁² + 9θ₂²) with the limit (1, 3):

        >>> loss = Derivatives(lambda theta: np.array([1.0, 9.0]) * theta)
        >>> loss.sharpest(np.zeros(2), np.array([1.0, 3.0]), np.ones((2, 1)), sweeps=20).values.round(6).tolist()
        [3.0]
        """
        values = np.full(vectors.shape[1], np.inf)
        products = vectors
        for _ in range(sweeps):
            products = self._products(theta, vectors)
            more = products / limit[:, None]
            basis, turn = _orthonormal(np.column_stack([vectors, more]), limit)
            image = np.column_stack([products, self._products(theta, more)]) @ turn
            small = basis.T @ image
            found, rotation = np.linalg.eigh((small + small.T) / 2)
            keep = slice(None, -vectors.shape[1] - 1, -1)
            before, values = values, found[keep]
            vectors, products = basis @ rotation[:, keep], image @ rotation[:, keep]
            if len(before) == len(values) and np.abs(values - before).max() <= SETTLED:
                break
        return Sharpest(values, vectors, products, limit)

    def _products(self, theta: Array, vectors: Array) -> Array:
        return np.column_stack([self.times_hessian(theta, vector) for vector in vectors.T])


def _size(theta: Array) -> float:
    return max(1.0, float(np.abs(theta).max()))


def _orthonormal(block: Array, limit: Array) -> tuple[Array, Array]:
    """Vectors with the span of a block and uᵀ diag(limit) u = 1, and the matrix that makes them from the block."""
    metric = block.T @ (limit[:, None] * block)
    scale = 1 / np.sqrt(np.maximum(np.diag(metric), 1e-300))  # a vector that H maps to 0 drops out
    sizes, turned = np.linalg.eigh(metric * np.outer(scale, scale))
    good = sizes > INDEPENDENT * sizes[-1]
    turn = scale[:, None] * turned[:, good] / np.sqrt(sizes[good])
    return block @ turn, turn
