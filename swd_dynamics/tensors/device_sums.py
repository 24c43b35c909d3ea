"""Sums over the weights of each parameter on an accelerator: a few kernels for all parameters together.

A column is a tensor of shape (parameters,) that stays on the device; it is NaN where a tensor does not exist. Every sum
is made from norms, because torch has one call for the norms of many tensors and none for their products: a product is
a difference of squared norms. The norms are accumulated in float64, so that the difference keeps its digits:
if |Σab| is a millionth of Σa² + Σb², ten digits are left.
"""

# pyright: reportPrivateImportUsage=false
# torch's foreach functions are private by name only.

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Tensors = Sequence[Tensor | None]

# Number of weights of which a sum or a difference of two tensors is in memory at a time, unless one tensor is larger:
# 128 MiB of float32. Half as many double the number of kernels.
TOGETHER = 2**25


def are_together(tensors: Tensors) -> bool:
    """Whether all tensors are on one accelerator, so that the functions of this module take them.

    Examples
    --------
    >>> are_together([torch.ones(2), None])
    False
    """
    devices = {tensor.device for tensor in tensors if tensor is not None}
    return len(devices) == 1 and next(iter(devices)).type != "cpu"


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device without float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def column_of_norms(tensors: Tensors, order: int) -> Tensor:
    """The 1- or 2-norm of each tensor, as a column. At least one tensor must exist.

    Examples
    --------
    >>> column_of_norms([torch.tensor([3.0, 4.0]), None], 2)
    tensor([5., nan], dtype=torch.float64)
    """
    found = _norms([tensor for tensor in tensors if tensor is not None], order)
    return _column(found, [tensor is not None for tensor in tensors], found[0].device)


def column_of_squares(tensors: Tensors) -> Tensor:
    """Σa² of each tensor, as a column. At least one tensor must exist."""
    return column_of_norms(tensors, 2).square()


def copied_together(tensors: Sequence[Tensor], into: Sequence[Tensor]) -> Tensor:
    """Σa² of each tensor, which is copied into another tensor."""
    torch._foreach_copy_(list(into), list(tensors))
    return column_of_squares(tensors)


def columns_of_changes(before: Sequence[Tensor], after: Sequence[Tensor], old: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of what a step did: Σ(Δθ)², −Σθ·Δθ with θ before the step, and the number of weights that moved.

    ``old`` is the column of Σθ² before the step. ``before`` is overwritten, so that no memory is needed for Δθ; it has
    float32 at least.

    Examples
    --------
    >>> before, after = [torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 2.0])]
    >>> [column.tolist() for column in columns_of_changes(before, after, column_of_squares(before))]
    [[4.0], [8.0], [1.0]]
    """
    new, difference = column_of_squares(after), list(before)
    torch._foreach_sub_(difference, list(after))
    moves = column_of_squares(difference)
    torch._foreach_sign_(difference)
    return moves, (moves + old - new) / 2, column_of_norms(difference, 1)


def column_of_products(left: Tensors, right: Tensors) -> Tensor:
    """Σab = (Σ(a + b)² − Σ(a − b)²)/4 of each pair, as a column. At least one tensor must exist.

    a ± b is computed in float64, so that one of the two may be far larger than the other.

    Examples
    --------
    >>> found = column_of_products([torch.tensor([3.0, 4.0]), None], [torch.tensor([1.0, 2.0]), torch.ones(1)])
    >>> found.round(decimals=12)
    tensor([11., nan], dtype=torch.float64)
    """
    device = next(tensor.device for tensor in (*left, *right) if tensor is not None)
    together, apart = (
        _of_pairs(left, right, combine, widest(device)) for combine in (torch._foreach_add, torch._foreach_sub)
    )
    return (together - apart) / 4


def columns_of_moments(momenta: Tensors, gradients: Tensors, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Columns of Σm² and Σg·m. At least one m must exist.

    ``known`` is the column of Σg², if it is known: then Σg·m = (Σ(m + g)² − Σm² − Σg²)/2, where m + g is rounded to
    float32. Without it the gradients may be scaled, so that m would be lost in that sum: it is taken in float64.
    """
    squared = column_of_squares(momenta)
    if known is None:
        return squared, column_of_products(momenta, gradients)
    return squared, (_of_pairs(momenta, gradients, torch._foreach_add) - squared - known) / 2


def column_of_distances(start: Sequence[Tensor], now: Sequence[Tensor]) -> Tensor:
    """Σ(θ − θ₀)² of each parameter, as a column."""
    return _of_pairs(start, now, torch._foreach_sub)


def _of_pairs(left: Tensors, right: Tensors, combine: Callable, least: torch.dtype = torch.float32) -> Tensor:
    """Σ(a ± b)² of each pair, as a column; a ± b is computed in a dtype that has at least these digits."""
    pairs = list(zip(left, right, strict=True))
    present = [(a, b) for a, b in pairs if a is not None and b is not None]
    found: list[Tensor] = []
    for part in _parts([a for a, _ in present]):
        lefts, rights = map(list, zip(*(_wide(a, b, least) for a, b in present[part]), strict=True))
        found += _norms(combine(lefts, rights), 2)
    device = next(tensor.device for tensor in (*left, *right) if tensor is not None)
    return _column(found, [a is not None and b is not None for a, b in pairs], device).square()


def _norms(tensors: list[Tensor], order: int) -> list[Tensor]:
    return list(torch._foreach_norm(tensors, order, dtype=widest(tensors[0].device)))


def _column(found: list[Tensor], are_present: list[bool], device: torch.device) -> Tensor:
    """A column of numbers, with NaN in the place of those that are missing."""
    if all(are_present):
        return torch.stack(found)
    missing, each = torch.full((), math.nan, dtype=widest(device), device=device), iter(found)
    return torch.stack([next(each) if is_present else missing for is_present in are_present])


def _wide(left: Tensor, right: Tensor, least: torch.dtype) -> tuple[Tensor, Tensor]:
    """Both tensors in one dtype."""
    if left.dtype is right.dtype is least:
        return left, right
    dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), least)
    return left.to(dtype), right.to(dtype)


def _parts(tensors: list[Tensor]) -> Iterator[slice]:
    """Slices of a list of tensors, each with at most ``TOGETHER`` weights or one tensor."""
    begun, weights = 0, 0
    for i, tensor in enumerate(tensors):
        if i > begun and weights + tensor.numel() > TOGETHER:
            yield slice(begun, i)
            begun, weights = i, 0
        weights += tensor.numel()
    if tensors:
        yield slice(begun, len(tensors))
