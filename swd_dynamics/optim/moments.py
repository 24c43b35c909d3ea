"""The state with which a parameter starts, in the layout of torch.optim.Adam."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from swd_dynamics.optim.parts import Part


def start_at_zero(part: Part, names: Iterable[str], wide: bool = False) -> None:
    """Give every new parameter a step count of 0, and zeros of its shape under each name.

    The count is on the parameter's device if torch's kernel needs it there (fused, capturable), else on the CPU. With
    ``wide`` the zeros are in float32 where the parameter is in half precision.
    """
    for parameter, state in zip(part.parameters, part.states, strict=True):
        if "step" not in state:
            state["step"] = as_count(0.0, parameter, part.group)
            kept = at_least_float32(parameter) if wide else parameter.dtype
            for name in names:
                state[name] = torch.zeros_like(parameter, dtype=kept, memory_format=torch.preserve_format)


def as_count(step: Any, parameter: Tensor, group: dict[str, Any]) -> Tensor:
    """A number of steps as torch's kernels count it: in float32 at least, since bfloat16 counts to 256 only."""
    if isinstance(step, Tensor):
        return step if step.dtype in (torch.float32, torch.float64) else step.to(torch.float32)
    fused, there = group.get("fused"), "cpu"
    if fused or group.get("capturable"):
        there = parameter.device
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 and not fused else torch.float32
    return torch.full((), float(step), dtype=dtype, device=there)


def at_least_float32(tensor: Tensor) -> torch.dtype:
    """The dtype of a tensor, or float32 if that is more precise."""
    return torch.promote_types(tensor.dtype, torch.float32)
