"""Real runs on f = ½hθ² with a frozen preconditioner, for every rule of the catalogue that then has a linear step.

A weight is 1e-150, so that its squared gradient is 0 in float64, and β₂ is so near to 1 that v does not fade.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from swd_dynamics.optim import OPTIMIZERS, WithDecay
from swd_dynamics.rules import CATALOG, State
from swd_dynamics.rules.decay import mode_of
from swd_dynamics.studies.training import LATE

STILL = 1 - 2.0**-40  # a β₂ that keeps v constant: in the steps of a run v fades by 1e-9 of itself at most
TINY, GROWN = 1e-150, 1e100  # the first weight, whose square is 0; and the growth up to which v does not feel a square
BETA = 0.9
# The arguments of each family, with the second moment frozen.
FAMILIES: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": BETA},
    "Adam": {"betas": (BETA, STILL), "eps": 0.0},
    "AMSGrad": {"betas": (BETA, STILL), "eps": 0.0},
    "Adai": {"betas": (0.1, STILL)},
    "RMSprop": {"alpha": STILL, "momentum": BETA, "eps": 0.0},
    "Adagrad": {"eps": 0.0},
    "Adadelta": {"rho": STILL},
    "Adamax": {"betas": (BETA, STILL), "eps": 0.0},
    "NAdam": {"betas": (BETA, STILL), "eps": 0.0},
    "RAdam": {"betas": (BETA, STILL), "eps": 0.0},
    "AdaBelief": {"betas": (BETA, STILL), "eps": 0.0},
}
# The entries of a rule's memory and of torch's state that begin at 0, and those of torch's state that begin at v.
AT_REST = {"m", "exp_avg", "momentum_buffer", "mu_product", "beta1_product", "beta1_prod"}
AT_V = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum", "exp_inf"}


class Cells(NamedTuple):
    """Runs that share a learning rate and a λ are a row. lrs and decays have the shape (rows, 1), h and v (rows, n)."""

    lrs: NDArray
    decays: NDArray
    curvatures: NDArray
    v: NDArray


def family_of(name: str) -> str:
    """The family of an entry of the catalogue: its name without the suffix of its decay.

    Examples
    --------
    >>> family_of("NAdamW"), family_of("AMSGradS")
    ('NAdam', 'AMSGrad')
    """
    return name.removesuffix(CATALOG[name].decay.suffix or "")


def entries(family: str) -> list[str]:
    """The entries of a family whose step is linear with a frozen preconditioner: all but those with cautious decay."""
    return [name for name in CATALOG if family_of(name) == family and mode_of(CATALOG[name].decay) != "cautious"]


def arguments_of(name: str) -> dict[str, Any]:
    """The arguments of an entry; lr_max is 1 where its decay has one, so that R = λη or λη²."""
    largest = {"lr_max": 1.0} if "lr_max" in CATALOG[name].decay_arguments else {}
    return FAMILIES[family_of(name)] | largest


def real_optimizer(name: str) -> Callable[..., torch.optim.Optimizer] | None:
    """The real optimizer of an entry; None if neither torch nor this package has one."""
    family, mode = family_of(name), mode_of(CATALOG[name].decay)
    if name in OPTIMIZERS:
        uncapped = {"max_decay_rate": math.inf} if mode == "stable" and family in ("Adam", "AMSGrad") else {}
        return lambda groups, **arguments: OPTIMIZERS[name](groups, **arguments, **uncapped)
    if mode == "decoupled" and family in OPTIMIZERS:
        return lambda groups, **arguments: WithDecay(OPTIMIZERS[family](groups, **arguments), "decoupled")
    return None


def converges(name: str, cells: Cells, third: int, **arguments: Any) -> NDArray:
    """Whether each run is never larger in its last third than in the one before, of the real optimizer or of the rule.

    The first third is left to the transients of the start. A run that overflows has diverged, and so has a run that has
    grown 1e100-fold: its second moment would begin to move.

    Parameters
    ----------
    name : str — an entry of the catalogue
    cells : Cells
    third : int — steps of a third of a run
    **arguments — of the optimizer, instead of those of its family
    """
    arguments = arguments_of(name) | arguments
    make = real_optimizer(name)
    step = _by_rule(name, cells, arguments) if make is None else _by_torch(make, cells, arguments)
    peaks = np.zeros((3, *np.broadcast_shapes(cells.lrs.shape, cells.curvatures.shape)))
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(3 * third):
            peaks[k // third] = np.maximum(peaks[k // third], np.abs(step()))  # NaN stays
        return (peaks[2] <= peaks[1]) & (peaks.max(axis=0) < GROWN * TINY)


def _by_torch(make: Callable[..., torch.optim.Optimizer], cells: Cells, arguments: dict) -> Callable[[], NDArray]:
    """A function that takes a step of a real optimizer, in which each row of runs is a parameter group."""
    h, v = (torch.tensor(np.ascontiguousarray(each)) for each in (cells.curvatures, cells.v))
    rows = [torch.full_like(row, TINY).requires_grad_() for row in h]
    optimizer = make([{"params": [row]} for row in rows], lr=1.0, **arguments)
    lrs, decays = (np.broadcast_to(each, (len(rows), 1))[:, 0] for each in (cells.lrs, cells.decays))
    for group, row, lr, decay in zip(optimizer.param_groups, rows, lrs, decays, strict=True):
        group["lr"], group["weight_decay"] = float(lr), float(decay)
        row.grad = torch.ones_like(row)
    optimizer.step()  # makes the state, which is then put where it is wanted
    for i, row in enumerate(rows):
        _begin(optimizer.state[row], v[i])
        row.data.fill_(TINY)

    def step() -> NDArray:
        for row, curvature in zip(rows, h, strict=True):
            torch.mul(row.detach(), curvature, out=row.grad)
        optimizer.step()
        return torch.stack([row.detach() for row in rows]).numpy()

    return step


def _begin(state: dict[str, Any], v: torch.Tensor) -> None:
    for key, value in state.items():
        if key == "step":
            state[key] = torch.tensor(LATE)
        elif key in AT_REST:
            state[key] = torch.zeros_like(value) if isinstance(value, torch.Tensor) else 0.0
        elif key in AT_V:
            state[key] = v.clone()


def _by_rule(name: str, cells: Cells, arguments: dict) -> Callable[[], NDArray]:
    """The same for the rule itself, on torch's tensors."""
    h = torch.tensor(cells.curvatures)
    lrs, decays, v = (
        torch.tensor(np.broadcast_to(each, h.shape).copy()) for each in (cells.lrs, cells.decays, cells.v)
    )
    rule = CATALOG[name](lr=lrs, weight_decay=decays, **arguments)
    kind = type(rule.direction.rest(v))
    memory = kind(*(0 * v if field in AT_REST else v.clone() for field in kind._fields))
    state = State(torch.full_like(h, TINY), memory, int(LATE))

    def step() -> NDArray:
        nonlocal state
        state = rule(state, h * state.theta)
        return state.theta.numpy()

    return step
