"""The state that a parameter starts with, laid out as torch.optim.Adam lays out its own."""

from collections.abc import Iterable

import torch

from swd_dynamics.optim.work import Part


def start_at_zero(part: Part, names: Iterable[str]) -> None:
    """Give every parameter that is new a step count of 0, and zeros of its shape under each name.

    The count lies on the parameter's device where torch's kernel wants it there (fused, capturable), else on the CPU.
    """
    fused, capturable = part.group.get("fused"), part.group.get("capturable")
    dtype = torch.float32 if fused else torch.get_default_dtype()
    for parameter, state in zip(part.parameters, part.states, strict=True):
        if "step" not in state:
            there = parameter.device if fused or capturable else "cpu"
            state["step"] = torch.zeros((), dtype=dtype, device=there)
            for name in names:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
