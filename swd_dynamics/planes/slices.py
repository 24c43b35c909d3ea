"""A plane in a space of more dimensions: where it lies, and the projection of a field onto it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from swd_dynamics.errors import InputError
from swd_dynamics.planes.systems import System, WeightsField

Array = NDArray[np.float64]
# Weights. Of up to so many the whole Hessian is diagonalised, which costs one product for each weight. With more
# weights Lanczos' method is cheaper; with very few it is not defined.
DENSE = 20
LANCZOS = 1e-8  # relative error of the two leading eigenvalues; a hundredth of it would cost more products
# Of a direction's length: the least component of the second direction across the first. Directions that are nearer to
# parallel would give a plane that is decided by round-off.
PARALLEL = 1e-8


@dataclass(frozen=True)
class Slice:
    """A system on the plane origin + a·basis₁ + b·basis₂, with its field projected onto the plane.

    Attributes
    ----------
    system : System
    origin : array, shape (n,)
    basis : array, shape (n, 2) — orthonormal
    labels : tuple of str — of a and b
    """

    system: System
    origin: Array
    basis: Array
    labels: tuple[str, str]

    @property
    def is_slice(self) -> bool:
        """Whether the system has more dimensions than the plane."""
        return len(self.origin) > 2

    def embedded(self, point: Array) -> Array:
        return self.origin + self.basis @ point

    def projected(self, where: Array) -> Array:
        return (where - self.origin) @ self.basis

    def whole(self, where: Array) -> Array:
        """The field in all its dimensions; NaN where it is not defined."""
        try:
            with np.errstate(all="ignore"):
                return self.system.field(where)
        except InputError:
            raise
        except (ArithmeticError, ValueError):
            return np.full(len(where), np.nan)

    def field(self, point: Array) -> Array:
        return self.whole(self.embedded(point)) @ self.basis

    def parts(self, point: Array) -> tuple[float, float]:
        """The length of the field at a point, and the length of its component out of the plane."""
        field = self.whole(self.embedded(point))
        out = field - self.basis @ (field @ self.basis)
        return float(np.linalg.norm(field)), float(np.linalg.norm(out))

    def jacobian(self, point: Array) -> Array:
        where = self.embedded(point)
        with np.errstate(all="ignore"):
            return np.column_stack([self.system.tangent(where, along) @ self.basis for along in self.basis.T])

    def multipliers(self, point: Array) -> NDArray[np.complex128] | None:
        with np.errstate(all="ignore"):
            return self.system.multipliers(self.embedded(point))


def cut(system: System, origin: Array, directions) -> Slice:
    """The slice of a system through ``origin``, along two vectors or along ``"leading"`` eigenvectors of the Hessian.

    With ``directions=None`` the system is two-dimensional, and the slice is its whole plane.

    Raises
    ------
    InputError
        If the directions are not two independent vectors of the right length, or a word other than ``"leading"``.
    """
    if directions is None:
        return Slice(system, np.zeros(2), np.eye(2), system.labels)
    if not isinstance(system, WeightsField):
        raise InputError("a slice is one of weights: give a rule, or a Flow of order 1 or 2, with directions")
    if not isinstance(directions, str):
        basis = _orthonormal(directions, len(origin))
        return Slice(system, origin, basis, ("a, along direction 1", "b, along direction 2"))
    if directions != "leading":
        raise InputError(f"directions = {directions!r} is not allowed: give two vectors, or 'leading'")
    curvatures, basis = leading(lambda vector: system.linear.hessian_times(origin, vector), len(origin))
    first, second = (f"eigenvector {i} of the Hessian, h = {h:.3g}" for i, h in enumerate(curvatures, 1))
    return Slice(system, origin, basis, (f"a, along {first}", f"b, along {second}"))


def leading(product: Callable[[Array], Array], n: int) -> tuple[Array, Array]:
    """The two largest eigenvalues of a symmetric matrix and their eigenvectors, shape (2,) and (n, 2).

    They are found from products with vectors, for large n by Lanczos' method. The largest entry of each eigenvector is
    positive.

    Examples
    --------
    >>> values, vectors = leading(lambda vector: np.array([1.0, 5.0, 3.0]) * vector, 3)
    >>> values.tolist(), vectors.T.tolist()
    ([5.0, 3.0], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    """
    if n <= DENSE:
        columns = [product(unit) for unit in np.eye(n)]
        values, vectors = np.linalg.eigh(np.column_stack(columns))
    else:
        start = np.random.default_rng(0).normal(size=n)
        options: Any = {"k": 2, "which": "LA", "v0": start, "tol": LANCZOS}
        operator: Any = LinearOperator
        matrix = operator((n, n), matvec=lambda vector: product(vector.ravel()), dtype=float)
        values, vectors = eigsh(matrix, **options)
    order = np.argsort(values)[:-3:-1]
    chosen = vectors[:, order]
    signs = np.sign(chosen[np.abs(chosen).argmax(axis=0), [0, 1]])
    return values[order], chosen * signs


def _orthonormal(directions: ArrayLike, n: int) -> Array:
    try:
        vectors = np.asarray(directions, dtype=float)
    except (TypeError, ValueError):
        raise InputError("directions are not two vectors of numbers of the same length") from None
    if vectors.shape != (2, n) or not np.isfinite(vectors).all():
        raise InputError(f"directions have shape {vectors.shape}: give two vectors of {n} finite numbers each")
    basis, triangle = np.linalg.qr(vectors.T)
    lengths = np.linalg.norm(vectors, axis=1)
    if (np.abs(np.diag(triangle)) <= PARALLEL * lengths).any():
        raise InputError("the two directions are parallel, or one is zero: they span no plane")
    return basis * np.sign(np.diag(triangle))
