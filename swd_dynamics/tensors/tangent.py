"""The tangent response of L2 weight decay: how much of a small change of θ the next step takes back.

With the gradients held fixed, a change δ of a weight lives on through λθ alone: in θ itself, and in what the memory
keeps of it. The formulas are the derivative of torch's own update (torch.optim.SGD and Adam, ``_single_tensor_*``);
nothing else of this package is used, so that the recording stays a witness against its theory.

The fraction R of the change that a step takes off is read as (δ − δ′)/δ without forming the difference. After a step
all changes of a weight are divided by one number; R does not see it, and it keeps them from under- and overflowing.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

FLOOR = (
    1e-100  # a response that passes exactly through zero is divided by this instead: R stays finite, and visibly absurd
)


class Change(NamedTuple):
    """What a small change of θ has become: in the weights and in the optimizer's memory.

    theta, m, v, v_max : Tensor, float64
        δ, δm, δv, δv_max; of the parameter's shape, or () where all weights respond alike.
    """

    theta: Tensor
    m: Tensor
    v: Tensor
    v_max: Tensor


class Response(NamedTuple):
    """A step's decay rate R, shaped like the change, and the change after the step."""

    rate: Tensor
    change: Change


def unit_change(like: Tensor) -> Change:
    """δ = 1 in every weight, and the memory as it is."""
    theta = torch.ones_like(like, dtype=torch.float64)
    return Change(theta, *(torch.zeros_like(theta) for _ in range(3)))


def sgd_response(change: Change, group: Mapping[str, Any], first: bool) -> Response:
    """The response of torch.optim.SGD with L2, with or without momentum: one number for all weights.

    δG = λδ, δm′ = βδm + (1−τ)δG (δG on the first step, where torch seeds the buffer undamped), and
    R = η·δm′/δ; Nesterov: η(δG + βδm′)/δ; no momentum: ηλ.

    Parameters
    ----------
    change : Change, shape ()
    group : dict
        torch's parameter group: ``lr``, ``weight_decay``, ``momentum``, ``dampening``, ``nesterov``.
    first : bool
        Whether the momentum buffer is seeded by this step.

    Source: torch.optim.SGD. ``maximize`` turns the gradient round before the decay is added, and leaves R as it is.

    Examples
    --------
    The first step with momentum .5, ηλ = ¼ takes ¼, the second 1 − ⅝/¾ + ¼ = (¼·¾ + ½·¼)/¾:

    >>> group = dict(lr=0.25, weight_decay=1.0, momentum=0.5, dampening=0.0, nesterov=False)
    >>> one = sgd_response(unit_change(torch.ones(())), group, first=True)
    >>> two = sgd_response(one.change, group, first=False)
    >>> float(one.rate), round(float(two.rate) * 12, 12)
    (0.25, 5.0)
    """
    lr, decay, beta = (float(group[name]) for name in ("lr", "weight_decay", "momentum"))
    added = decay * change.theta
    m = added if first else beta * change.m + (1 - float(group["dampening"])) * added
    if beta == 0:
        return _step_taken(change, lr * added, change)
    step = added + beta * m if group["nesterov"] else m
    return _step_taken(change, lr * step, change._replace(m=m))


def adam_response(
    change: Change, group: Mapping[str, Any], state: Mapping[str, Any], theta: Tensor, gradient: Tensor
) -> Response:
    """The response of torch.optim.Adam with L2, one number for each weight.

    With G = g + λθ and δG = λδ: δm′ = β₁δm + (1−β₁)δG, δv′ = β₂δv + 2(1−β₂)G·δG, both divided by their bias
    corrections, and

    R = (η/δ)·[δm̂/(√v̂ + ε) − m̂·δv̂/(2√v̂(√v̂ + ε)²)].

    AMSGrad: δv_max′ = δv′ where the new v is the largest, else δv_max, stands for δv′. At v̂ = 0, where a weight was 0
    and has never had a gradient, the second term, 0/0, is 0.

    Parameters
    ----------
    change : Change, shape of the parameter
    group : dict
        torch's parameter group.
    state : dict
        The parameter's state *after* the step: ``step``, ``exp_avg``, ``exp_avg_sq``, ``max_exp_avg_sq``.
    theta, gradient : Tensor
        θ before the step, and the gradient the step used.

    Source: torch.optim.Adam.

    Examples
    --------
    On the first step m̂/√v̂ = G/|G| whatever G: with ε = 0 nothing of a change is taken back.

    >>> weight = torch.nn.Parameter(torch.full((1,), 2.0, dtype=torch.float64))
    >>> adam = torch.optim.Adam([weight], lr=0.5, betas=(0.5, 0.75), eps=0.0, weight_decay=0.25)
    >>> theta, weight.grad = weight.detach().clone(), torch.ones_like(weight)
    >>> adam.step()
    >>> response = adam_response(unit_change(theta), adam.param_groups[0], adam.state[weight], theta, weight.grad)
    >>> response.rate.item()
    0.0
    """
    lr, decay, eps = (float(group[name]) for name in ("lr", "weight_decay", "eps"))
    (beta1, beta2), step = (float(beta) for beta in group["betas"]), float(state["step"])
    total = (-gradient if group["maximize"] else gradient).double() + decay * theta.double()
    added = decay * change.theta
    m = beta1 * change.m + (1 - beta1) * added
    v = beta2 * change.v + 2 * (1 - beta2) * total * added
    held, held_change = _normaliser(state, v, change.v_max, group["amsgrad"])
    root = (held / (1 - beta2**step)).sqrt()
    through_m = m / (1 - beta1**step) / (root + eps)
    m_hat = state["exp_avg"].double() / (1 - beta1**step)
    through_v = _quotient(m_hat * held_change / (1 - beta2**step), 2 * root * (root + eps) ** 2)
    memory = Change(change.theta, m, v, held_change if group["amsgrad"] else change.v_max)
    return _step_taken(change, lr * (through_m - through_v), memory)


def _normaliser(
    state: Mapping[str, Any], v_change: Tensor, v_max_change: Tensor, amsgrad: bool
) -> tuple[Tensor, Tensor]:
    """The second moment that Adam divides by, and its change."""
    v = state["exp_avg_sq"].double()
    if not amsgrad:
        return v, v_change
    v_max = state["max_exp_avg_sq"].double()
    return v_max, torch.where(v == v_max, v_change, v_max_change)


def _quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, with 0/0 = 0."""
    return torch.where(numerator == 0, 0.0, numerator / denominator)


def _step_taken(before: Change, taken_off: Tensor, memory: Change) -> Response:
    """R = (δ − δ′)/δ, and the changes after the step, divided by the larger of δ and δm of each weight."""
    divisor = torch.where(before.theta.abs() < FLOOR, FLOOR, before.theta)
    after = memory._replace(theta=before.theta - taken_off)
    largest = torch.maximum(after.theta.abs(), after.m.abs())
    scale = torch.where(largest == 0, 1.0, largest)
    return Response(taken_off / divisor, Change(*(part / scale for part in after)))
