"""The tangent response of L2: the fraction of a perturbation of θ that the next step removes.

With the gradients held fixed, a perturbation δ of a weight acts through λθ alone: through θ itself,
and through what θ has left in the optimizer state. The formulas are the derivative of torch's own
update (torch.optim.SGD and Adam, ``_single_tensor_*``). They use no other part of this package, so
that the recording is independent of the theory that it tests.

The fraction R of the perturbation that a step removes is (δ − δ′)/δ, computed without that
difference. After a step all perturbations of a weight are divided by one number, which keeps them
from under- and overflow and does not change R.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

# The least |δ| by which a response is divided, where the larger of |δ| and |δm| is 1. If δ passes
# exactly through 0, R is finite but visibly absurd. A floor above 1e-16 would change other
# responses.
FLOOR = 1e-100


class Change(NamedTuple):
    """What a perturbation of θ has become, in the weights and in the optimizer state.

    theta, m, v, v_max : Tensor, float64
        δ, δm, δv, δv_max; of the parameter's shape, or () where all weights respond alike.
    """

    theta: Tensor
    m: Tensor
    v: Tensor
    v_max: Tensor


class Response(NamedTuple):
    """The decay rate R of a step, in the perturbation's shape, and the perturbation after it."""

    rate: Tensor
    change: Change


def unit_change(like: Tensor) -> Change:
    """δ = 1 in every weight; the optimizer state is not perturbed."""
    theta = torch.ones_like(like, dtype=torch.float64)
    return Change(theta, *(torch.zeros_like(theta) for _ in range(3)))


def sgd_response(change: Change, group: Mapping[str, Any], first: bool) -> Response:
    """The response of torch.optim.SGD with L2, with or without momentum: one for all weights.

    δG = λδ; δm′ = βδm + (1−τ)δG, or δG in the first step, where torch starts the buffer without
    dampening. R = η·δm′/δ; with Nesterov's momentum R = η(δG + βδm′)/δ; without momentum R = ηλ.

    Parameters
    ----------
    change : Change, shape ()
    group : dict
        torch's parameter group: ``lr``, ``weight_decay``, ``momentum``, ``dampening``,
        ``nesterov``.
    first : bool
        Whether this step starts the momentum buffer.

    Source: torch.optim.SGD. ``maximize`` changes the sign of the gradient before the decay is
    added, which does not change R.

    Examples
    --------
    With momentum ½, η = ¼ and λ = 1 the first step removes ¼ and leaves δ = ¾, δm = 1. The second
    removes η(½·1 + ¾)/¾ = 5/12:

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
    change: Change,
    group: Mapping[str, Any],
    state: Mapping[str, Any],
    theta: Tensor,
    gradient: Tensor,
) -> Response:
    """The response of torch.optim.Adam with L2, one number for each weight.

    With G = g + λθ and δG = λδ: δm′ = β₁δm + (1−β₁)δG and δv′ = β₂δv + 2(1−β₂)G·δG. Both are
    divided by their bias corrections, and

    R = (η/δ)·[δm̂/(√v̂ + ε) − m̂·δv̂/(2√v̂(√v̂ + ε)²)].

    With AMSGrad, δv_max′ takes the place of δv′. It is δv′ where the new v is the largest so far,
    and δv_max elsewhere. At v̂ = 0, where a weight was 0 and has never had a gradient, the second
    term is 0/0 and counts as 0.

    Parameters
    ----------
    change : Change, shape of the parameter
    group : dict
        torch's parameter group.
    state : dict
        The parameter's state *after* the step: ``step``, ``exp_avg``, ``exp_avg_sq``,
        ``max_exp_avg_sq``.
    theta, gradient : Tensor
        θ before the step, and the gradient that the step used.

    Source: torch.optim.Adam.

    Examples
    --------
    In the first step m̂/√v̂ = G/|G| whatever G is. So, with ε = 0, the step removes nothing:

    >>> weight = torch.nn.Parameter(torch.full((1,), 2.0, dtype=torch.float64))
    >>> adam = torch.optim.Adam([weight], lr=0.5, betas=(0.5, 0.75), eps=0.0, weight_decay=0.25)
    >>> theta, weight.grad = weight.detach().clone(), torch.ones_like(weight)
    >>> adam.step()
    >>> group, state = adam.param_groups[0], adam.state[weight]
    >>> response = adam_response(unit_change(theta), group, state, theta, weight.grad)
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
    state: Mapping[str, Any],
    v_change: Tensor,
    v_max_change: Tensor,
    amsgrad: bool,
) -> tuple[Tensor, Tensor]:
    """The second moment by which Adam divides, and its perturbation."""
    v = state["exp_avg_sq"].double()
    if not amsgrad:
        return v, v_change
    v_max = state["max_exp_avg_sq"].double()
    return v_max, torch.where(v == v_max, v_change, v_max_change)


def _quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, with 0/0 = 0."""
    return torch.where(numerator == 0, 0.0, numerator / denominator)


def _step_taken(before: Change, removed: Tensor, memory: Change) -> Response:
    """R = (δ − δ′)/δ, and the perturbations after the step.

    They are divided by the larger of δ and δm of each weight.
    """
    divisor = torch.where(before.theta.abs() < FLOOR, FLOOR, before.theta)
    after = memory._replace(theta=before.theta - removed)
    largest = torch.maximum(after.theta.abs(), after.m.abs())
    scale = torch.where(largest == 0, 1.0, largest)
    return Response(removed / divisor, Change(*(part / scale for part in after)))
