"""The state with which a parameter starts, in the layout of torch.optim.Adam."""

from collections.abc import Iterable

import torch
from torch import Tensor

from swd_dynamics.optim.parts import Part

WEIGHT = "exp_avg_weight"


def start_at_zero(part: Part, names: Iterable[str]) -> None:
    """Give every new parameter a step count of 0, and zeros of its shape under each name.

    The count is on the parameter's device if torch's kernel needs it there (fused, capturable), else on the CPU.
    """
    fused, capturable = part.group.get("fused"), part.group.get("capturable")
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 and not fused else torch.float32
    for parameter, state in zip(part.parameters, part.states, strict=True):
        if "step" not in state:
            there = parameter.device if fused or capturable else "cpu"
            state["step"] = torch.zeros((), dtype=dtype, device=there)
            for name in names:
                state[name] = torch.zeros_like(
                    parameter, dtype=kept_dtype(parameter, name), memory_format=torch.preserve_format
                )


def kept_dtype(parameter: Tensor, name: str) -> torch.dtype:
    """The dtype of a piece of state: never half precision for the weight of AdaiS's first moment, which would stall."""
    return torch.promote_types(parameter.dtype, torch.float32) if name == WEIGHT else parameter.dtype
