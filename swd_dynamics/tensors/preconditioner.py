"""By what an optimizer divides each weight's step."""

from collections.abc import Iterable

import torch
from torch import Tensor

from swd_dynamics.errors import InputError

ADAPTIVE = ("Adam", "AdamW", "AdamS")
ISOTROPIC = ("SGD", "SGDS", "AdaiS")
HOMES = ("torch.optim.", "swd_dynamics.optim.")


def preconditioner_of(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor] | None = None) -> Tensor | None:
    """D, by which an optimizer divides each weight's step: √v̂ + ε of Adam, AdamW and AdamS; None for SGD and its like.

    v̂ = v/(1 − β₂ᵏ), with AMSGrad the largest v so far in place of v. A weight that has taken no step while others have
    gets D = ∞: it does not move. Before the first step v̂ is not defined, and D is NaN. Its shape is (n,).

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        torch's SGD, Adam or AdamW, or SGDS, AdamS or AdaiS, whose learning rate is the same for every weight.
    parameters : iterable of Tensor, optional
        Of these, in this order; by default all of the optimizer's, in its order.

    Raises
    ------
    InputError
        If the optimizer is any other, subclasses included, or a parameter is not one of its.

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
    if not _is_adaptive(optimizer):
        return None
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    chosen = groups if parameters is None else parameters
    unmoved = torch.inf if any("step" in state for state in optimizer.state.values()) else torch.nan
    pieces = []
    for i, parameter in enumerate(chosen):
        if parameter not in groups:
            raise InputError(f"parameter {i} is not one of the {type(optimizer).__name__}'s: give those that it trains")
        pieces.append(_divisor(parameter, groups[parameter], optimizer.state.get(parameter, {}), unmoved))
    return torch.cat(pieces)


def _is_adaptive(optimizer: torch.optim.Optimizer) -> bool:
    kind = type(optimizer)
    name = kind.__name__ if kind.__module__.startswith(HOMES) else None
    if name in ADAPTIVE + ISOTROPIC:
        return name in ADAPTIVE
    raise InputError(
        f"what {kind.__module__}.{kind.__qualname__} divides its steps by is not known: it is of "
        f"{', '.join(ADAPTIVE)}, and 1 of {', '.join(ISOTROPIC)}; give one of these, or none for the plain Hessian"
    )


def _divisor(parameter: Tensor, group: dict, state: dict, unmoved: float) -> Tensor:
    dtype = working(parameter.dtype)
    if "step" not in state:
        return torch.full((parameter.numel(),), unmoved, dtype=dtype, device=parameter.device)
    v = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    correction = 1 - float(group["betas"][1]) ** float(state["step"])
    return ((v.to(dtype) / correction).sqrt() + float(group["eps"])).reshape(-1)


def working(dtype: torch.dtype) -> torch.dtype:
    """What vectors are kept in: never half precision."""
    return torch.promote_types(dtype, torch.float32)
