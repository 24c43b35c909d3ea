"""The state with which a parameter starts, in the layout of torch.optim.Adam."""

from collections.abc import Iterable

import torch
from torch import Tensor

from swd_dynamics.optim.parts import Part


def start_at_zero(part: Part, names: Iterable[str], wide: bool = False) -> None:
    """Give every new parameter a step count of 0, and zeros of its shape under each name.

    The count is on the parameter's device if torch's kernel needs it there (fused, capturable), else on the CPU. With
    ``wide`` the zeros are in float32 where the parameter is in half precision.
    """
    fused, capturable = part.group.get("fused"), part.group.get("capturable")
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 and not fused else torch.float32
    for parameter, state in zip(part.parameters, part.states, strict=True):
        if "step" not in state:
            there = parameter.device if fused or capturable else "cpu"
            state["step"] = torch.zeros((), dtype=dtype, device=there)
            kept = at_least_float32(parameter) if wide else parameter.dtype
            for name in names:
                state[name] = torch.zeros_like(parameter, dtype=kept, memory_format=torch.preserve_format)


def at_least_float32(tensor: Tensor) -> torch.dtype:
    """The dtype of a tensor, or float32 if that is more precise."""
    return torch.promote_types(tensor.dtype, torch.float32)
