"""Where SGDS, AdamS and AdaiS behave otherwise than torch's optimizers, on purpose: each difference is tried out.

``optim.conformance`` writes the outcomes below its table.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import nn

from swd_dynamics.errors import InputError
from swd_dynamics.optim import SGDS, AdamS


class Difference(NamedTuple):
    """One trial: what is tried, with which optimizers, and what comes of it with each."""

    what: str
    trial: Callable[[Any], str]
    torchs: type
    ours: type
    outcomes: tuple[str, str]
    why: str

    def measured(self) -> tuple[str, str]:
        """What comes of it now, with torch's optimizer and with this package's."""
        return _outcome(self.trial, self.torchs), _outcome(self.trial, self.ours)


def _outcome(trial: Callable[[Any], str], optimizer: type) -> str:
    try:
        return trial(optimizer)
    except InputError:
        return "InputError"
    except (RuntimeError, TypeError, ValueError) as error:
        return type(error).__name__


def _ones(*shape: int, **other: Any) -> nn.Parameter:
    parameter = nn.Parameter(torch.ones(*shape, **other))
    parameter.grad = torch.ones_like(parameter)
    return parameter


def _takes(**arguments: Any) -> Callable[[Any], str]:
    def trial(optimizer: Any) -> str:
        optimizer([_ones(3)], **arguments).step()
        return "a step"

    return trial


def complex_parameter(optimizer: Any) -> str:
    optimizer([_ones(2, dtype=torch.complex64)]).step()
    return "a step"


def foreach_nesterov(optimizer: Any) -> str:
    parameter = _ones(3)
    optimizer([parameter], lr=0.1, momentum=0.5, nesterov=True, foreach=True).step()
    return "stays" if (parameter.grad == 1).all() else "overwritten"


def fused_of_another_order(optimizer: Any) -> str:
    """Weights in the order of channels_last, whose gradient lies in memory row by row."""
    ends = []
    for kernel in ({"fused": True}, {"foreach": False}):
        parameter = nn.Parameter(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last))
        parameter.grad = torch.arange(120.0).reshape(2, 3, 4, 5)
        optimizer(
            [parameter], lr=0.1, **{"eps": 10.0} if optimizer in (torch.optim.AdamW, AdamS) else {}, **kernel
        ).step()
        ends.append(parameter.detach())
    return "right weights" if torch.allclose(*ends) else "wrong weights"


def fused_with_gaps(optimizer: Any) -> str:
    parameter = nn.Parameter(torch.ones(40, 2)[:, 0])
    parameter.grad = torch.ones(40)
    optimizer([parameter], lr=0.1, fused=True).step()
    moved = parameter != 1
    return "right weights" if moved.all() else "wrong weights"


def momentum_set_later(optimizer: Any) -> str:
    each = optimizer([_ones(3)], lr=0.1, momentum=0.5)
    each.step()
    each.param_groups[0]["momentum"] = 1.5
    each.step()
    return "a step"


def momentum_loaded(optimizer: Any) -> str:
    each = optimizer([_ones(3)], lr=0.1, momentum=0.5)
    state = deepcopy(each.state_dict())
    state["param_groups"][0]["momentum"] = 1.5
    try:
        each.load_state_dict(state)
    except InputError:
        return f"refused, momentum {each.param_groups[0]['momentum']}"
    return "loaded"


def half_precision_count(optimizer: Any) -> str:
    each = optimizer([_ones(3)])
    each.step()
    state = deepcopy(each.state_dict())
    state["state"][0]["step"] = torch.tensor(256, dtype=torch.bfloat16)
    each.load_state_dict(state)
    each.step()
    return f"counts {each.state[each.param_groups[0]['params'][0]]['step'].item():.0f}"


def differentiable(optimizer: Any) -> str:
    optimizer([_ones(3)], differentiable=True)
    return "allowed"


TORCH = "2.13"  # whose outcomes these are
BETAS = (torch.tensor(0.9), torch.tensor(0.99))
SGDs, ADAMs = (torch.optim.SGD, SGDS), (torch.optim.AdamW, AdamS)
DIFFERENT = [
    Difference("a complex parameter", complex_parameter, *SGDs, ("a step", "RuntimeError"), "R is of real weights"),
    Difference("`differentiable=True`", differentiable, *SGDs, ("allowed", "TypeError"), "R is a number"),
    Difference("betas as tensors", _takes(betas=BETAS), *ADAMs, ("a step", "InputError"), "v̄ needs β₂ on the host"),
    Difference(
        "lr as a tensor, with foreach",
        _takes(lr=torch.tensor(0.1), foreach=True),
        *ADAMs,
        ("ValueError", "a step"),
        "on the CPU it is read once a step",
    ),
    Difference("momentum = 1", _takes(momentum=1.0), *SGDs, ("a step", "InputError"), "η_eff is not finite"),
    Difference(
        "momentum set to 1.5 between steps", momentum_set_later, *SGDs, ("a step", "InputError"), "weights grow"
    ),
    Difference(
        "momentum 1.5 in a loaded state_dict",
        momentum_loaded,
        *SGDs,
        ("loaded", "refused, momentum 0.5"),
        "a refused state leaves the optimizer as it was",
    ),
    Difference(
        "p.grad after foreach Nesterov",
        foreach_nesterov,
        *SGDs,
        ("overwritten", "stays"),
        "others read it after the step",
    ),
    Difference(
        "fused AdamW, memory with gaps",
        fused_with_gaps,
        *ADAMs,
        ("wrong weights", "InputError"),
        "torch checks no strides",
    ),
    Difference(
        "fused SGD, memory with gaps",
        fused_with_gaps,
        *SGDs,
        ("wrong weights", "InputError"),
        "torch checks no strides",
    ),
    Difference(
        "fused AdamW, a gradient in another memory order",
        fused_of_another_order,
        *ADAMs,
        ("wrong weights", "right weights"),
        "the gradient is copied",
    ),
    Difference(
        "fused SGD, a gradient in another memory order",
        fused_of_another_order,
        *SGDs,
        ("wrong weights", "right weights"),
        "the gradient is copied",
    ),
    Difference(
        "a count of 256 loaded in bfloat16",
        half_precision_count,
        *ADAMs,
        ("counts 256", "counts 257"),
        "kept in float32",
    ),
]
