"""What a torch optimizer holds: η and λ in its parameter groups, and the types of its state."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer


def numbers_of(group: Mapping[str, Any]) -> dict[str, float]:
    """η and every λ of a parameter group as plain numbers. What is not a number is omitted.

    Examples
    --------
    >>> numbers_of({"lr": torch.tensor(0.5), "weight_decay": 0.25, "momentum": 0.75})
    {'lr': 0.5, 'weight_decay': 0.25}
    """
    named = {name: value for name, value in group.items() if name == "lr" or names_decay(name)}
    return {name: float(value) for name, value in named.items() if _is_number(value)}


def names_decay(name: str) -> bool:
    """Whether an entry of a parameter group is a strength of weight decay, as libraries name it.

    Examples
    --------
    >>> names_decay("weight_decay"), names_decay("adamw_wd"), names_decay("weight_decouple")
    (True, True, False)
    """
    return name.startswith("weight_decay") or name == "wd" or name.endswith("_wd")


def decay_of(numbers: Mapping[str, float]) -> float:
    """λ among the stated numbers of a group: the first λ other than 0, else 0; NaN if there is none.

    Examples
    --------
    >>> decay_of({"lr": 0.5, "weight_decay": 0.0, "adamw_wd": 0.25}), decay_of({"lr": 0.5})
    (0.25, nan)
    """
    decays = [value for name, value in numbers.items() if name != "lr"]
    return next(filter(None, decays), decays[0] if decays else np.nan)


def real_number(value: Any) -> float | None:
    """An entry of a parameter group as a number, None unless it is a finite real number; a count is not.

    Examples
    --------
    >>> real_number(torch.tensor(0.5)), real_number(3), real_number((0.5, 0.25))
    (0.5, None, None)
    """
    is_real = isinstance(value, float) or (
        isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()
    )
    number = float(value) if is_real else np.nan
    return number if np.isfinite(number) else None


def coarse_state(optimizer: Optimizer, parameters: Sequence[Parameter]) -> dict[str, str]:
    """The names of the state that is kept for each weight with fewer digits than the weight, and its types.

    A state with a single number, as a step count, is not listed.
    """
    found = {}
    for parameter in parameters:
        state = optimizer.state.get(parameter, {})
        for name, value in state.items() if isinstance(state, Mapping) else ():
            if isinstance(value, Tensor) and value.numel() == parameter.numel() > 1:
                found |= {name: type_of(value)} if is_coarse(value, parameter) else {}
    return found


def is_coarse(value: Tensor, weights: Tensor) -> bool:
    """Whether a tensor holds fewer digits than the weights: shorter floating-point numbers, or codes of 8 bits."""
    if value.is_floating_point():
        return value.element_size() < weights.element_size()
    return value.dtype in (torch.int8, torch.uint8)


def type_of(value: Tensor) -> str:
    """The type of a tensor in torch's words, as ``bfloat16``."""
    return str(value.dtype).removeprefix("torch.")


def _is_number(value: Any) -> bool:
    is_one = isinstance(value, Tensor) and value.numel() == 1
    return is_one or (isinstance(value, int | float) and not isinstance(value, bool))
