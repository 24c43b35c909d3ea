"""SGDS: stochastic gradient descent with stable weight decay."""

from typing import Any

import torch
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.hyperparameter import check
from swd_dynamics.optim.optimizer import StableDecayOptimizer, loss_gradient


class SGDS(StableDecayOptimizer):
    """Stochastic gradient descent with stable weight decay.

    With momentum β > 0, dampening τ and m₁ = g₁ (torch's seed, undamped)::

        m ← βm + (1 − τ)g
        η_eff = η(1 − τ)/(1 − β),  R = λη_eff
        θ ← (1 − R)θ − ηm            (Nesterov: g + βm for m)

    With momentum 0 dampening does nothing: η_eff = η and θ ← (1 − ηλ)θ − ηg.

    Parameters
    ----------
    params : iterable of torch.Tensor, of (name, tensor) pairs, or of parameter groups
    lr : float
        η > 0.
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

    Raises
    ------
    InputError
        If an argument is outside its range.

    Notes
    -----
    State of a parameter: ``momentum_buffer`` (m), with momentum only. After each step every parameter group holds the
    floats ``decay_rate`` (R) and ``effective_lr`` (η_eff). A parameter without gradient skips the step.

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
        lr=1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov=False,
        *,
        maximize=False,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse arguments outside their range."""
        check("lr", group["lr"], "(0, inf)")
        check("momentum", group["momentum"], "[0, 1)")
        check("dampening", group["dampening"], "[0, 1)")
        check("weight_decay", group["weight_decay"], "[0, inf)")
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise InputError(
                f"nesterov needs momentum in (0, 1) and dampening = 0, not {group['momentum']} and {group['dampening']}"
            )

    def update(self, work: list[tuple[dict[str, Any], list[Tensor]]]) -> None:
        """Take the step."""
        for group, parameters in work:
            self.publish(group, effective_lr(group["lr"], group["momentum"], group["dampening"]))
            for parameter in parameters:
                direction = self._direction(parameter, group)
                parameter.mul_(1 - group["decay_rate"]).add_(direction, alpha=-float(group["lr"]))

    def _direction(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """m, g + βm, or without momentum g."""
        gradient, momentum, state = loss_gradient(parameter, group), group["momentum"], self.state[parameter]
        if momentum == 0:
            return gradient
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = gradient.clone(memory_format=torch.preserve_format)
        else:
            state["momentum_buffer"].mul_(momentum).add_(gradient, alpha=1 - group["dampening"])
        buffer = state["momentum_buffer"]
        return gradient.add(buffer, alpha=momentum) if group["nesterov"] else buffer


def effective_lr(lr, momentum, dampening):
    """How far a unit of gradient moves a weight in the end: η(1 − τ)/(1 − β), or η without momentum.

    Examples
    --------
    >>> effective_lr(0.5, momentum=0.75, dampening=0.5), effective_lr(0.5, momentum=0.0, dampening=0.5)
    (1.0, 0.5)
    """
    return lr * (1 - dampening) / (1 - momentum) if momentum else lr
