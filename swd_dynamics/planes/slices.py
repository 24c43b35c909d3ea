"""A plane in a larger space: where it lies, and a field seen on it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from swd_dynamics.errors import InputError
from swd_dynamics.planes.systems import PlainField, StateField, WeightsField

Array = NDArray[np.float64]
DENSE = 20  # weights: up to so many all eigenvectors of the Hessian are computed, of more only the two that are wanted
LANCZOS = 1e-8  # relative, of the leading eigenvalues
PARALLEL = 1e-8  # of a direction's length: what must be left of the second beside the first


@dataclass(frozen=True)
class Slice:
    """A system on the plane origin + a·basis₁ + b·basis₂, its field projected onto it.

    Attributes
    ----------
    system : PlainField, WeightsField or StateField
    origin : array, shape (n,)
    basis : array, shape (n, 2) — orthonormal
    labels : tuple of str — of a and b
    """

    system: PlainField | WeightsField | StateField
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
        """The length of the field at a point, and of what of it points out of the plane."""
        field = self.whole(self.embedded(point))
        return float(np.linalg.norm(field)), float(np.linalg.norm(field - self.basis @ (field @ self.basis)))

    def jacobian(self, point: Array) -> Array:
        where = self.embedded(point)
        with np.errstate(all="ignore"):
            return np.column_stack([self.system.tangent(where, along) @ self.basis for along in self.basis.T])

    def multipliers(self, point: Array) -> NDArray[np.complex128] | None:
        with np.errstate(all="ignore"):
            return self.system.multipliers(self.embedded(point))


def cut(system: PlainField | WeightsField | StateField, origin: Array, directions) -> Slice:
    """The slice of a system through ``origin``: along two vectors, ``"leading"``, or the plane it is if ``None``.

    Raises
    ------
    InputError
        If the directions are no two independent vectors of the right length, or a word other than ``"leading"``.
    """
    if directions is None:
        return Slice(system, np.zeros(2), np.eye(2), system.labels)
    if not isinstance(system, WeightsField):
        raise InputError("a slice is one of weights: give a rule, or a Flow of order 1 or 2, with directions")
    if isinstance(directions, str):
        if directions != "leading":
            raise InputError(f"directions = {directions!r} is not allowed: give two vectors, or 'leading'")
        curvatures, basis = leading(system, origin)
        first, second = (f"eigenvector {i} of the Hessian, h = {h:.3g}" for i, h in enumerate(curvatures, 1))
        return Slice(system, origin, basis, (f"a, along {first}", f"b, along {second}"))
    return Slice(
        system, origin, _orthonormal(directions, len(origin)), ("a, along direction 1", "b, along direction 2")
    )


def leading(system: WeightsField, origin: Array) -> tuple[Array, Array]:
    """The two largest eigenvalues of the Hessian at a point and their eigenvectors, shape (2,) and (n, 2).

    By Lanczos' method from Hessian-vector products; the sign is the one that makes the largest entry positive.
    """
    n = len(origin)
    if n <= DENSE:
        values, vectors = np.linalg.eigh(np.column_stack([system.hvp(origin, unit) for unit in np.eye(n)]))
    else:
        options: Any = {"k": 2, "which": "LA", "v0": np.random.default_rng(0).normal(size=n), "tol": LANCZOS}
        products: Any = LinearOperator
        hessian = products((n, n), matvec=lambda vector: system.hvp(origin, vector.ravel()), dtype=float)
        values, vectors = eigsh(hessian, **options)
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
