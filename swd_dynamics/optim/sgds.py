"""SGDS: stochastic gradient descent with stable weight decay."""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from swd_dynamics.checks import check
from swd_dynamics.errors import InputError
from swd_dynamics.optim.optimizer import StableDecayOptimizer, readable, shrink
from swd_dynamics.optim.parts import Part, Scaling

BUFFER = "momentum_buffer"


class SGDS(StableDecayOptimizer):
    """Stochastic gradient descent with stable weight decay.

    With momentum β > 0, dampening τ and m₁ = g₁ (torch's seed, undamped)::

        m ← βm + (1 − τ)g
        η_eff = η(1 − τ)/(1 − β),  R = λη_eff
        θ ← (1 − R)θ − ηm            (Nesterov: g + βm for m)

    With momentum 0 dampening does nothing in torch: η_eff = η and θ ← (1 − ηλ)θ − ηg. (The authors' file takes
    R = ηλ(1 − τ) there.)

    Parameters
    ----------
    params : iterable of torch.Tensor, of (name, tensor) pairs, or of parameter groups
    lr : float or Tensor
        η ≥ 0.
    momentum : float
        β in [0, 1).
    dampening : float
        τ in [0, 1).
    weight_decay : float
        λ ≥ 0.
    nesterov : bool
        Look ahead along the momentum; needs momentum > 0 and dampening = 0.
    maximize : bool
        Climb the loss instead of descending it; the decay still shrinks the weights.
    foreach, fused : bool, optional
        Which of torch's kernels for SGD to use, as in torch.optim.SGD. The decay is a multiplication before the kernel;
        with momentum 0 the kernel takes it along.

    Raises
    ------
    InputError
        If an argument is outside its range.

    Notes
    -----
    State of a parameter: ``momentum_buffer`` (m), with momentum only; as torch.optim.SGD's, whose ``state_dict`` can be
    loaded.

    Source: Xie, Sato & Sugiyama 2020, 2011.11152; momentum as in torch.optim.SGD.

    Examples
    --------
    On f = ½θ² from θ = 1: m = 1, R = .25·.5/(1 − .5) = .25, θ ← (1 − .25)·1 − .25·1.

    >>> theta = torch.ones(1, requires_grad=True)
    >>> optimizer = SGDS([theta], lr=0.25, momentum=0.5, weight_decay=0.5)
    >>> (theta**2 / 2).sum().backward()
    >>> optimizer.step()
    >>> theta.item(), optimizer.param_groups[0]["decay_rate"]
    (0.5, 0.25)
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

    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse arguments outside their range."""
        check("lr", group["lr"], "[0, inf)")
        check("momentum", group["momentum"], "[0, 1)")
        check("dampening", group["dampening"], "[0, 1)")
        check("weight_decay", group["weight_decay"], "[0, inf)")
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise InputError(
                f"nesterov needs momentum in (0, 1) and dampening = 0, not {group['momentum']} and {group['dampening']}"
            )

    def check_parameters(self, group: dict[str, Any]) -> None:
        """Refuse parameters that torch's fused kernel cannot be trusted with."""
        for parameter in group["params"] if group["fused"] else []:
            if reason := why_not_fused(parameter):
                raise InputError(f"fused=True is not allowed here: {reason}; leave fused away, or take foreach=True")

    def update(self, parts: list[Part], scaling: Scaling) -> None:
        """Take the step."""
        for group in self.param_groups:
            effective = effective_lr(readable(group["lr"]), group["momentum"], group["dampening"])
            rate = scaling.unless_refused(group["weight_decay"] * effective, otherwise=0.0)
            self.publish(group, effective, rate)
        for part in parts:
            if part.group["momentum"] == 0:
                descend(part, [], scaling)
                continue
            shrink(part.parameters, part.group["decay_rate"])
            for some in alike(part):
                descend_with_momentum(some, scaling)


def alike(part: Part) -> list[Part]:
    """The parameters that have a momentum buffer apart from those that have none yet: no kernel takes both at once."""
    new = [i for i, state in enumerate(part.states) if state.get(BUFFER) is None]
    if len(new) in (0, len(part.states)):
        return [part]
    return [part.subset(new), part.subset([i for i in range(len(part.states)) if i not in set(new)])]


def descend_with_momentum(part: Part, scaling: Scaling) -> None:
    """torch's own step of SGD, and its buffers put into the state."""
    buffers = [state.get(BUFFER) for state in part.states]
    is_new = buffers[0] is None
    descend(part, buffers, scaling)
    for state, buffer in zip(part.states, buffers, strict=True):
        state[BUFFER] = buffer
        if is_new and scaling.found_inf is not None and buffer is not None:
            # torch leaves it uninitialised where the scaler refuses the step
            buffer.copy_(scaling.unless_refused(buffer, otherwise=0.0))


def descend(part: Part, buffers: list[Tensor | None], scaling: Scaling) -> None:
    """torch's own step of SGD. Without momentum its L2 is decoupled decay, and takes ηλ off in the same pass."""
    group = part.group
    sgd(
        part.parameters,
        part.gradients,
        buffers,
        foreach=group["foreach"],
        fused=group["fused"],
        grad_scale=scaling.scale,
        found_inf=scaling.found_inf,
        weight_decay=0.0 if buffers else group["weight_decay"],
        momentum=group["momentum"],
        lr=readable(group["lr"]),
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
    )


def why_not_fused(parameter: Tensor) -> str:
    """Why torch's fused SGD cannot be trusted with a parameter, or nothing."""
    if hasattr(parameter, "to_local"):
        return "torch's fused SGD takes no sharded parameters"
    if parameter.device.type == "cpu" and not fused_sgd_moves(parameter.dtype):
        return (
            f"torch {torch.__version__} leaves {parameter.dtype} weights where they are on the CPU (its issue 191763)"
        )
    return ""


@cache
def fused_sgd_moves(dtype: torch.dtype) -> bool:
    """Whether torch's fused SGD on the CPU moves weights at all: up to torch 2.13 it skips those of half precision.

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
    """How far a unit of gradient moves a weight in the end: η(1 − τ)/(1 − β), or η without momentum.

    Examples
    --------
    >>> effective_lr(0.5, momentum=0.75, dampening=0.5), effective_lr(0.5, momentum=0.0, dampening=0.5)
    (1.0, 0.5)
    """
    return lr * (1 - dampening) / (1 - momentum) if momentum else lr
