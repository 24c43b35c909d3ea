"""What SGDS and SGDW share: torch's step of SGD, and before it a decay proportional to the effective learning rate."""

from abc import abstractmethod
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from swd_dynamics.checks import check
from swd_dynamics.errors import InputError
from swd_dynamics.optim.decay import is_zero, shrink_apart
from swd_dynamics.optim.layout import in_same_order
from swd_dynamics.optim.optimizer import StableDecayOptimizer
from swd_dynamics.optim.parts import Part, Scaling, readable

BUFFER = "momentum_buffer"


class SGDFamily(StableDecayOptimizer):
    """torch's SGD with the decay as a multiplication of the weights: θ ← (1 − R)θ − η·(step of SGD).

    A new member gives one method: ``decay_ratio(group)`` returns R/η_eff of a parameter group, a float.
    """

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov=False,
        *,
        maximize=False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
        }
        super().__init__(params, defaults)

    @abstractmethod
    def decay_ratio(self, group: dict[str, Any]) -> float: ...

    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse arguments outside their range, and parameters for which torch's fused SGD is wrong."""
        check("lr", group["lr"], "[0, inf)")
        check("momentum", group["momentum"], "[0, 1)")
        check("dampening", group["dampening"], "[0, 1)")
        check("weight_decay", group["weight_decay"], "[0, inf)")
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise InputError(
                f"nesterov needs momentum in (0, 1) and dampening = 0, not {group['momentum']} and {group['dampening']}"
            )
        for parameter in group["params"] if group["fused"] else []:
            if reason := why_not_fused_sgd(parameter):
                raise InputError(f"fused=True is not allowed here: {reason}; omit fused, or take foreach=True")

    def update(self, parts: list[Part], scaling: Scaling) -> None:
        """Take the step."""
        for group in self.param_groups:
            effective = effective_lr(readable(group["lr"]), group["momentum"], group["dampening"])
            ratio = readable(self.decay_ratio(group))
            rate = 0.0 if is_zero(ratio) else scaling.unless_refused(ratio * effective, otherwise=0.0)
            self.publish(group, effective, rate)
        in_kernel = [self._decay_in_kernel(part.group) for part in parts]
        shrink_apart([part for part, ratio in zip(parts, in_kernel, strict=True) if not ratio])
        for part, ratio in zip(parts, in_kernel, strict=True):
            if part.group["momentum"] == 0:
                descend(in_same_order(part, ()), [], scaling, ratio)
                continue
            for some in alike(part):
                descend_with_momentum(some, scaling)

    def _decay_in_kernel(self, group: dict[str, Any]) -> float:
        """The λ with which torch's kernel shrinks the weights itself: L2 without momentum is decoupled decay.

        The kernel takes no tensor for it.
        """
        ratio = readable(self.decay_ratio(group))
        return 0.0 if group["momentum"] or isinstance(ratio, Tensor) else ratio


def alike(part: Part) -> list[Part]:
    """The parameters with a momentum buffer, and those that have none yet: no kernel takes both in one call."""
    new = [i for i, state in enumerate(part.states) if state.get(BUFFER) is None]
    if len(new) in (0, len(part.states)):
        return [part]
    old = [i for i in range(len(part.states)) if i not in set(new)]
    return [part.subset(new), part.subset(old)]


def descend_with_momentum(part: Part, scaling: Scaling) -> None:
    """torch's own step of SGD; the new momentum buffers go into the optimizer state."""
    part = in_same_order(part, (BUFFER,))
    buffers = [state.get(BUFFER) for state in part.states]
    is_new = buffers[0] is None
    descend(part, buffers, scaling)
    for state, buffer in zip(part.states, buffers, strict=True):
        state[BUFFER] = buffer
        if is_new and scaling.found_inf is not None and buffer is not None:
            # Where the gradient scaler refuses the step, torch leaves a new buffer uninitialised.
            buffer.copy_(scaling.unless_refused(buffer, otherwise=0.0))


def descend(part: Part, buffers: list[Tensor | None], scaling: Scaling, weight_decay: float = 0.0) -> None:
    """torch's own step of SGD."""
    group, gradients = part.group, part.gradients
    if group["nesterov"] and not group["fused"] and takes_foreach(part):  # that kernel adds βm to them in place
        gradients = [gradient.clone() for gradient in gradients]
    sgd(
        part.parameters,
        gradients,
        buffers,
        foreach=group["foreach"],
        fused=group["fused"],
        grad_scale=scaling.scale,
        found_inf=scaling.found_inf,
        weight_decay=weight_decay,
        momentum=group["momentum"],
        lr=readable(group["lr"]),
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
    )


def takes_foreach(part: Part) -> bool:
    """Whether torch takes its foreach kernel; by default on accelerators."""
    foreach = part.group["foreach"]
    return part.parameters[0].device.type != "cpu" if foreach is None else foreach


def why_not_fused_sgd(parameter: Tensor) -> str:
    """Why torch's fused SGD is wrong for a parameter; empty where it is right."""
    if hasattr(parameter, "to_local"):
        return "torch's fused SGD takes no sharded parameters"
    if parameter.device.type == "cpu" and not fused_sgd_moves(parameter.dtype):
        version, dtype = torch.__version__, parameter.dtype
        return f"torch {version} leaves {dtype} weights where they are on the CPU (its issue 191763)"
    return ""


@cache
def fused_sgd_moves(dtype: torch.dtype) -> bool:
    """Whether torch's fused SGD moves weights of this dtype on the CPU: up to torch 2.13 half precision stays.

    Examples
    --------
    >>> fused_sgd_moves(torch.float32)
    True
    """
    theta = torch.zeros(64, dtype=dtype, device="cpu", requires_grad=True)
    theta.grad = torch.ones_like(theta)
    torch.optim.SGD([theta], lr=1.0, fused=True).step()
    return bool((theta == -1).all())


def effective_lr(lr, momentum, dampening):
    """η_eff = η(1 − τ)/(1 − β), the distance by which a unit of gradient moves a weight in the end; η if β = 0.

    Examples
    --------
    >>> effective_lr(0.5, momentum=0.75, dampening=0.5), effective_lr(0.5, momentum=0.0, dampening=0.5)
    (1.0, 0.5)
    """
    return lr * (1 - dampening) / (1 - momentum) if momentum else lr
