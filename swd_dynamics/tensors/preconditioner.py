"""The preconditioner of an optimizer: the number by which the step of each weight is divided."""

from collections.abc import Iterable

import torch
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.tensors.known import KNOWN, UNKNOWN, Known, class_name, known


def preconditioner_of(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[Tensor] | None = None,
) -> Tensor | None:
    """D, by which an optimizer divides the step of each weight, shape (n,).

    D = √v̂ + ε for Adam, AdamW, AdamS and NAdam, with v̂ = v/(1 − β₂ᵏ); with AMSGrad v is the largest v
    so far. For RMSprop and Adagrad D = √v + ε, without bias correction, and with centred RMSprop v is
    the variance. D is None for SGD, SGDW, SGDS and AdaiS, whose learning rate is the same for every weight.
    A weight that has taken no step when others have taken steps does not move, and its D is ∞.
    Before the first step v̂ is not defined, and D is NaN.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        An optimizer whose class is in :data:`~swd_dynamics.tensors.known.KNOWN`.
    parameters : iterable of Tensor, optional
        The parameters whose D is returned, in this order; by default all of the optimizer's.

    Raises
    ------
    InputError
        If the optimizer is of another class (a subclass, too), or does not have a parameter.

    Source: Kingma & Ba 2015, 1412.6980; Cohen et al. 2022, 2207.14484.

    Examples
    --------
    After one step v̂ = g², so that D = |g| + ε.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> adam = torch.optim.Adam([weight], eps=0.5)
    >>> weight.grad = torch.tensor([1.0, -4.0])
    >>> adam.step()
    >>> preconditioner_of(adam).round(decimals=4)
    tensor([1.5000, 4.5000])
    """
    found = known(optimizer)
    if not _is_stated(found):
        stated = (name.rpartition(".")[2] for name, each in KNOWN.items() if _is_stated(each))
        raise InputError(
            f"the preconditioner of {class_name(optimizer)} is not known: known are"
            f" {', '.join(stated)}; give one of these, or no optimizer for the plain Hessian"
        )
    if not found.divides:
        return None
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    chosen = groups if parameters is None else parameters
    unmoved = torch.inf if any("step" in state for state in optimizer.state.values()) else torch.nan
    pieces = []
    for i, parameter in enumerate(chosen):
        if parameter not in groups:
            name = type(optimizer).__name__
            raise InputError(f"parameter {i} does not belong to the {name}: give parameters of it")
        state = optimizer.state.get(parameter, {})
        pieces.append(_divisor(found, parameter, groups[parameter], state, unmoved))
    return torch.cat(pieces)


def step_divisor(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[Tensor],
) -> Tensor | None:
    """D·η̄/η of each weight, shape (n,), with η of its group and the mean η̄ over the optimizer's weights.

    So η̄ divided by this is the learning rate of a weight, also where the groups' learning rates
    differ. Where they are equal, or η̄ = 0, it is D, and None for D = 1. It is ∞ where η = 0.

    Raises
    ------
    InputError
        As in :func:`preconditioner_of`.

    Examples
    --------
    Two weights with η = 1 and two with η = 3 have η̄ = 2.

    >>> slow, fast = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    >>> sgd = torch.optim.SGD([{"params": [slow], "lr": 1.0}, {"params": [fast], "lr": 3.0}])
    >>> step_divisor(sgd, [slow, fast])
    tensor([2.0000, 2.0000, 0.6667, 0.6667])
    """
    chosen = list(parameters)
    divisor = preconditioner_of(optimizer, chosen)
    own = {p: float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    mean = sum(lr * p.numel() for p, lr in own.items()) / sum(p.numel() for p in own)
    if len(set(own.values())) == 1 or mean == 0:
        return divisor
    ratios = [mean / own[p] if own[p] else torch.inf for p in chosen]
    pairs = zip(chosen, ratios, strict=True)
    scale = torch.cat([torch.full((p.numel(),), x, dtype=working(p.dtype), device=p.device) for p, x in pairs])
    return scale if divisor is None else divisor * scale


def _is_stated(entry: Known) -> bool:
    """Whether an entry says by what a step is divided."""
    # A class that does not divide its steps has a known gain, or publishes η_eff.
    publishes = entry is not UNKNOWN and entry.is_decoupled is None
    return entry.divides or entry.gain is not None or publishes


def _divisor(entry: Known, parameter: Tensor, group: dict, state: dict, unmoved: float) -> Tensor:
    dtype, v = working(parameter.dtype), entry.second_moment(state)
    if "step" not in state:
        return torch.full((parameter.numel(),), unmoved, dtype=dtype, device=parameter.device)
    correction = 1 - float(entry.beta2(group)) ** float(state["step"])
    return ((v.to(dtype) / correction).sqrt() + float(group["eps"])).reshape(-1)


def working(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which vectors are kept: half precision is widened."""
    return torch.promote_types(dtype, torch.float32)
