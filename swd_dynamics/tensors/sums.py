"""Sums over the weights of each parameter, computed where the tensors are and not waited for.

Each sum has one entry for each parameter. On the CPU, where reading a number costs nothing, the
entries are floats, and None stands for a tensor that does not exist. On one accelerator they are a
column, a tensor that stays there (:mod:`~swd_dynamics.tensors.device_sums`). On several devices they
are tensors of shape (), each on its device.

On the CPU numpy sums pieces that fit into the processor's cache, on one thread. torch's own
reductions use all of its threads, and where another process keeps a core busy, a reduction waits up
to 50 ms for the thread on that core, a hundred times as long as numpy takes
(tests/benchmarks/test_sums.py). The sums of the pieces are added in float64: the result is right to
about 1e-6 in float32, whatever the number of weights.
"""

# pyright: reportPrivateImportUsage=false
# torch's foreach functions are private by name only.

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from swd_dynamics.tensors import device_sums
from swd_dynamics.tensors.device_sums import are_together, widest

# Number of weights in a piece on the CPU: 512 KiB of float64, which fit into the cache of a core.
# Twice as many are read from memory twice; half as many double the calls of numpy.
PIECE = 2**16
# A float32 sum of squares below this is computed again in float64, because squares below 1e-38
# become 0. With 1e-30 the sum over a piece could be wrong in its fourth digit; with a larger number
# more sums are computed twice.
LEAST = 1e-24
# Number of weights in a piece where parameters are on several devices. It bounds the memory for a
# difference, and for widening half precision, to 128 MiB; half as many double the number of kernels.
PIECE_ON_DEVICE = 2**24

Entry = float | Tensor | None
Column = list[Entry] | Tensor  # an entry for each parameter; a tensor if they are on one accelerator
Tensors = Sequence[Tensor | None]
Vector = Any  # one-dimensional: an array on the CPU, otherwise a tensor


class Changes(NamedTuple):
    """What a step did to each parameter: Σ(Δθ)², −Σθ·Δθ, and the number of weights that moved."""

    squares: Column
    along: Column
    moved: Column


def products(left: Tensors, right: Tensors) -> Column:
    """Σab of each pair.

    Examples
    --------
    >>> products([torch.tensor([3.0, 4.0]), None], [torch.tensor([1.0, 2.0]), torch.ones(1)])
    [11.0, None]
    """
    if are_together([*left, *right]):
        return device_sums.column_of_products(left, right)
    pairs = zip(left, right, strict=True)
    return [None if a is None or b is None else _product(a, b) for a, b in pairs]


def moments(momenta: Tensors, gradients: Tensors, known: Column | None = None) -> tuple[Column, Column]:
    """Σm² and Σg·m of each parameter; m is read once. ``known`` is Σg², if it is known.

    Examples
    --------
    >>> moments([torch.tensor([3.0, 4.0])], [torch.tensor([1.0, 2.0])])
    ([25.0], [11.0])
    """
    if are_together(momenta) and are_together([*momenta, *gradients]):
        return device_sums.columns_of_moments(momenta, gradients, known if isinstance(known, Tensor) else None)
    found = [_moment(m, g) for m, g in zip(momenta, gradients, strict=True)]
    return [square for square, _ in found], [product for _, product in found]


def _moment(m: Tensor | None, g: Tensor | None) -> tuple[Any, Any]:
    if m is None or g is None:
        return None if m is None else _square(m), None
    square, product = 0.0, 0.0
    for a, b in _pairs(m, g):
        square = square + _dot(a, a)
        product = product + _dot(a, b)
    return square, product


def squares(tensors: Tensors) -> Column:
    """Σa² of each tensor.

    Examples
    --------
    >>> squares([torch.tensor([3.0, 4.0])])
    [25.0]
    """
    if are_together(tensors):
        return device_sums.column_of_squares(tensors)
    return [None if tensor is None else _square(tensor) for tensor in tensors]


def totals(tensors: Tensors) -> Column:
    """Σa of each tensor, whose entries must not be negative.

    Examples
    --------
    >>> totals([torch.tensor([3.0, 4.0])])
    [7.0]
    """
    if are_together(tensors):
        return device_sums.column_of_norms(tensors, 1)
    return [None if tensor is None else _total(tensor) for tensor in tensors]


def _total(tensor: Tensor) -> Any:
    pieces = (piece.sum() for piece in _pieces(tensor))
    return sum(piece if isinstance(piece, Tensor) else float(piece) for piece in pieces)


def changes(before: Sequence[Tensor], after: Sequence[Tensor], old: Column) -> Changes:
    """What a step did, where ``old`` is Σθ² before. Only a piece of the difference is in memory at a time.

    On an accelerator ``before`` is overwritten.

    Examples
    --------
    >>> changes([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 2.0])], old=[25.0])
    Changes(squares=[4.0], along=[8.0], moved=[1.0])
    """
    if isinstance(old, Tensor):
        return Changes(*device_sums.columns_of_changes(before, after, old))
    found = [_change(old, new) for old, new in zip(before, after, strict=True)]
    return Changes(*([entries[i] for entries in found] for i in range(3)))


def distances(start: Sequence[Tensor], now: Sequence[Tensor]) -> Column:
    """Σ(θ − θ₀)² of each parameter. Only a piece of the difference is in memory at a time."""
    if are_together([*start, *now]):
        return device_sums.column_of_distances(start, now)
    pairs = zip(start, now, strict=True)
    return [sum(_dot(d, d) for d in (a - b for a, b in _pairs(old, new))) for old, new in pairs]


def copied(tensors: Sequence[Tensor], into: Sequence[Tensor]) -> Column:
    """Σa² of each tensor, which is copied in the same pass.

    Examples
    --------
    >>> into = torch.zeros(2)
    >>> copied([torch.tensor([3.0, 4.0])], [into]), into
    ([25.0], tensor([3., 4.]))
    """
    if are_together(tensors):
        return device_sums.copied_together(tensors, into)
    if not all(_is_array(tensor) and tensor.is_contiguous() for tensor in (*tensors, *into)):
        torch._foreach_copy_(list(into), list(tensors))
        return squares(tensors)
    return [_copied(tensor, target) for tensor, target in zip(tensors, into, strict=True)]


def _copied(tensor: Tensor, target: Tensor) -> float:
    total = 0.0
    for piece, place in _pairs(tensor, target):
        np.copyto(place, piece)
        total += _dot(piece, piece)
    return total


def _change(old: Tensor, new: Tensor) -> tuple[Any, Any, Any]:
    squared, along, moved = 0.0, 0.0, 0.0
    for a, b in _pairs(old, new):
        difference = a - b
        squared = squared + _dot(difference, difference)
        along = along + _dot(a, difference)
        moved = moved + _nonzeros(difference)
    return squared, along, moved


def _square(tensor: Tensor) -> Any:
    return sum(_dot(piece, piece) for piece in _pieces(tensor))


def _product(left: Tensor, right: Tensor) -> Any:
    return sum(_dot(a, b) for a, b in _pairs(left, right))


def _pairs(left: Tensor, right: Tensor) -> Iterator[tuple[Vector, Vector]]:
    return zip(_pieces(left), _pieces(right), strict=True)


def _pieces(tensor: Tensor) -> Iterator[Vector]:
    """A tensor as vectors of bounded length; half precision is widened."""
    flat = (tensor.to_dense() if tensor.is_sparse else tensor).detach().reshape(-1)
    if _is_array(flat):
        array = flat.numpy()
        if len(array) <= PIECE:
            return iter((array,))
        return (array[i : i + PIECE] for i in range(0, len(array), PIECE))
    pieces = flat.split(PIECE if flat.device.type == "cpu" else PIECE_ON_DEVICE)
    dtype = torch.promote_types(flat.dtype, torch.float32)
    wide = (piece.to(dtype) for piece in pieces)
    return (piece.numpy() for piece in wide) if flat.device.type == "cpu" else wide


def _is_array(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


def _dot(left: Vector, right: Vector) -> Any:
    if isinstance(left, np.ndarray):
        found = float(np.dot(left, right))
        if left.itemsize < 8 and not LEAST < abs(found) < math.inf:
            # The squares are out of float32's range, although the numbers may not be.
            return float(np.dot(left.astype(float), right.astype(float)))
        return found
    return torch.dot(left, right.to(left.dtype)).to(widest(left.device))  # without waiting for it


def _nonzeros(difference: Vector) -> Any:
    if isinstance(difference, np.ndarray):  # as whole numbers: four times as fast (test_sums.py)
        return float(np.count_nonzero(difference.view(f"i{difference.itemsize}")))
    return torch.count_nonzero(difference).to(widest(difference.device))
