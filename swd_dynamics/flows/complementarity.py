"""A small complementarity problem of symmetric matrices: which directions oscillate at the edge, and how much."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Places = tuple[NDArray[np.intp], NDArray[np.intp]]
# Of the size of the problem: the mean product of S and F, and the error of F, at which the search ends.
EXACT = 1e-13
NEARER = 0.1  # the share of the product at which each step aims; smaller shares shorten steps more often
INSIDE = 0.95  # the share of the way to the boundary that a step may go
MOST_STEPS = 100


def solve_complementarity(constant: Array, slope: Callable[[Array], Array]) -> Array:
    """The symmetric S with S ⪰ 0, F = constant + slope(S) ⪰ 0 and S·F = 0.

    Newton steps for SF + FS = 2μ with a falling μ: the path of the log barrier. Before, a congruence gives each
    diagonal entry the same size.

    Parameters
    ----------
    constant : array, shape (k, k)
    slope : callable (S) → array, shape (k, k)
        A linear function of symmetric matrices, monotone: ⟨S, slope(S)⟩ > 0 unless S = 0.
        Of ``constant`` and of what ``slope`` returns, the symmetric part counts.

    Returns
    -------
    array, shape (k, k)

    Examples
    --------
    Of two directions that do not interact, the direction in which the constant is negative takes part:

    >>> found = solve_complementarity(np.diag([-1.0, 1.0]), lambda s: 2 * s)
    >>> found.round(9).tolist()
    [[0.5, 0.0], [0.0, 0.0]]
    """
    k = len(constant)
    constant = (constant + constant.T) / 2
    if k == 0 or np.linalg.eigvalsh(constant)[0] >= 0:
        return np.zeros((k, k))
    if k == 1:
        return -constant / slope(np.ones((1, 1)))
    basis, places = _basis(k), _places(k)
    images = np.array([_symmetric(slope(each)) for each in basis])
    size = np.maximum(images.diagonal(axis1=1, axis2=2)[np.diag_indices(k)], 1e-300) ** -0.25
    outer = np.outer(size, size)
    unit = float(np.abs(outer * constant).max())
    # slope is linear, and outer·(a basis matrix) is a multiple of the basis matrix
    scaled = outer * outer[places][:, None, None] * images
    return outer * _on_the_path(outer * constant / unit, basis, scaled) * unit


def _symmetric(matrix: Any) -> Array:
    return (matrix + matrix.T) / 2


def _basis(k: int) -> Array:
    """The symmetric matrices of which a vector of entries is made: the diagonal first, then the rows above it."""
    rows, columns = _places(k)
    basis = np.zeros((len(rows), k, k))
    for each, row, column in zip(basis, rows, columns, strict=True):
        each[row, column] = each[column, row] = 1.0
    return basis


def _places(k: int) -> Places:
    above = np.triu_indices(k, 1)
    return np.append(np.arange(k), above[0]), np.append(np.arange(k), above[1])


def _on_the_path(constant: Array, basis: Array, images: Array) -> Array:
    k, unit = len(constant), np.eye(len(constant))
    places, point = _places(k), np.array([unit, unit])
    flat = np.array([basis, images]).reshape(2, len(basis), k * k)
    for _ in range(MOST_STEPS):
        s, f = point
        error = constant + (s[places] @ flat[1]).reshape(k, k) - f
        product = float((s * f).sum()) / k
        if product <= EXACT and np.abs(error).max() <= EXACT:
            break
        both = basis @ f + s @ images
        matrix = (both + both.swapaxes(1, 2))[:, *places].T
        ahead = NEARER * product * unit - s @ f - s @ error
        coefficients = np.linalg.solve(matrix, (ahead + ahead.T)[places])
        moves = (coefficients @ flat).reshape(2, k, k)
        moves[1] += error
        point = point + _share_inside(point, moves) * moves
    return point[0]


def _share_inside(matrices: Array, moves: Array) -> float:
    """The share of some moves that leaves each of the positive matrices positive; 1 if the whole moves do."""
    inverse = np.linalg.inv(np.linalg.cholesky(matrices))
    lowest = float(np.linalg.eigvalsh(inverse @ moves @ inverse.swapaxes(1, 2)).min())
    return 1.0 if lowest > -INSIDE else -INSIDE / lowest
