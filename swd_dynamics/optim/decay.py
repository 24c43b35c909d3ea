"""The decay itself: θ ← (1 − R)θ, and what rounding to half precision leaves of R."""

# pyright: reportPrivateImportUsage=false
# torch's own optimizers are built on its foreach functions, which are private by name only.

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from swd_dynamics.optim.parts import Part, readable
from swd_dynamics.optim.second_moment import sum_dtype
from swd_dynamics.tensors.sharding import local, sum_over_shards


def shrink_apart(parts: list[Part]) -> None:
    """θ ← (1 − R)θ, apart from the step. In half precision R becomes what rounding has left of it.

    That is 1 − ‖θ‖/‖θ before‖ over the weights of the group that take the step. Rounding may leave nothing: bfloat16
    has no number between 1 and 1 − 2⁻⁸.
    """
    rounded = [part for part in parts if part.in_half_precision and not is_zero(part.group["decay_rate"])]
    before = [_squared_norms(part) for part in rounded]
    for part in parts:
        shrink(part.parameters, part.group["decay_rate"])
    if not rounded:
        return
    after = [_squared_norms(part) for part in rounded]
    weights: list[Sequence[Tensor]] = [part.parameters for part in rounded]
    sums = [each.sum() for each in sum_over_shards(before + after, 2 * weights)]
    for group in {id(part.group): part.group for part in rounded}.values():
        where = [i for i, part in enumerate(rounded) if part.group is group]  # one for each of its devices
        old, new = (reduce(_added, [sums[i + of] for i in where]) for of in (0, len(rounded)))
        group["decay_rate"] = readable(_left(group["decay_rate"], old, new))


def _added(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two numbers, on an accelerator if one of them is there: the host waits for none."""
    there = one.device if one.device.type != "cpu" else other.device
    return one.to(there, non_blocking=True) + other.to(there, non_blocking=True)


def _left(decay_rate: Any, old: Any, new: Any) -> Tensor:
    """What rounding has left of R, from ‖θ‖² before and after; R itself where the weights are zero or not finite."""
    if not isinstance(decay_rate, Tensor):  # filled there, because no captured graph may copy from the host
        decay_rate = torch.full((), decay_rate, dtype=old.dtype, device=old.device)
    left = 1 - torch.copysign((new / old).sqrt(), 1 - decay_rate)
    return torch.where(left.isfinite(), left, decay_rate)


def _squared_norms(part: Part) -> Tensor:
    weights = [local(parameter) for parameter in part.parameters]
    return torch.stack(torch._foreach_norm(weights, 2, dtype=sum_dtype(weights[0]))).square()


def is_zero(decay_rate: Any) -> bool:
    """Whether R is the number 0. A tensor is not read."""
    return not isinstance(decay_rate, Tensor) and decay_rate == 0


def shrink(parameters: list[Tensor], decay_rate: Any) -> None:
    """θ ← (1 − R)θ on one device, by a number or a tensor of shape ().

    Examples
    --------
    >>> theta = torch.tensor([4.0, 8.0])
    >>> shrink([theta], 0.25)
    >>> theta
    tensor([3., 6.])
    """
    weights = [local(parameter) for parameter in parameters]
    if is_zero(decay_rate):
        return
    if not isinstance(decay_rate, Tensor):
        torch._foreach_mul_(weights, 1 - decay_rate)
        return
    decay_rate = decay_rate.to(weights[0].device)
    precise = [theta for theta in weights if theta.element_size() >= 4]
    if precise:
        torch._foreach_mul_(precise, 1 - decay_rate)
    for theta in weights:
        if theta.element_size() < 4:  # rounded to half precision, 1 − R would be 1; R itself keeps its digits
            theta.addcmul_(theta, -decay_rate)
