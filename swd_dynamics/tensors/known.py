"""What is known of optimizers: one entry for each class, in the words of torch's groups and state.

A probe reads the decay rate R and the effective learning rate η_eff of a class that has an entry
by its rule. To teach the probe another optimizer is one entry more. Lion with decoupled decay:

>>> KNOWN["mylib.Lion"] = Known(is_decoupled=lambda group: True)
>>> del KNOWN["mylib.Lion"]
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from swd_dynamics.tensors.tangent import Change, Response, adam_response, sgd_response

Group = Mapping[str, Any]  # one of an optimizer's param_groups


class Taken(NamedTuple):
    """What a parameter took a step with.

    state : mapping — the parameter's optimizer state after the step
    theta, gradient : Tensor or None — θ before the step, and the gradient that the step used; None
        where a response needs neither
    first : bool — whether the parameter had no momentum buffer before the step
    """

    state: Mapping[str, Any]
    theta: Any
    gradient: Any
    first: bool


def _second_beta(group: Group) -> Any:
    betas = group.get("betas")
    return betas[1] if isinstance(betas, tuple | list) and len(betas) > 1 else None


@dataclass(frozen=True)
class Known:
    """What is known of one class of optimizers.

    Attributes
    ----------
    momenta : tuple of str
        Keys of the state; the first one that a parameter has holds its momentum m.
    second_moments : tuple of str
        The same for the second moment v of the gradients.
    beta2 : callable (group) → β₂
        v̂ = v/(1 − β₂ᵏ); 0 if the optimizer does not correct v, None if it has no v.
    divides : bool
        Whether a step is divided by √v̂ + ε, so that η_eff is η·gain/√v̄.
    gain : callable (group) → float, optional
        η_eff (where a step is divided, η_eff·√v̄) in units of η: how far a unit of gradient moves a
        weight in the end. NaN where the momentum never dies out. None if it is not known.
    is_decoupled : callable (group) → bool, optional
        Whether R = ηλ is subtracted from the weights; else λθ is added to the gradient (L2). None
        if that is not known: then R and η_eff are those that the optimizer publishes itself.
    remembers : callable (group) → bool
        Whether R of L2 depends on the steps before. If not, R = ηλ.
    response : callable (Change, group, Taken) → Response, optional
        The tangent response of L2 (:mod:`~swd_dynamics.tensors.tangent`), for groups that remember.
    by_weight : bool
        Whether the response differs from weight to weight.

    Examples
    --------
    With momentum ¾ a unit of gradient moves a weight by η/(1 − ¾) in the end:

    >>> KNOWN["torch.optim.sgd.SGD"].gain(dict(momentum=0.75, dampening=0.0))
    4.0
    """

    momenta: tuple[str, ...] = ("exp_avg", "momentum_buffer")
    second_moments: tuple[str, ...] = ("max_exp_avg_sq", "exp_avg_sq")
    beta2: Callable[[Group], Any] = _second_beta
    divides: bool = False
    gain: Callable[[Group], float] | None = None
    is_decoupled: Callable[[Group], bool] | None = None
    remembers: Callable[[Group], bool] = lambda group: False
    response: Callable[[Change, Group, Taken], Response] | None = None
    by_weight: bool = False

    @property
    def keeps_memory(self) -> bool:
        """Whether L2 is followed by one number for each parameter, which a restart can continue."""
        return self.response is not None and not self.by_weight

    def momentum(self, state: Mapping[str, Any]) -> Any:
        """m of a parameter with this state, or None."""
        return _first(state, self.momenta)

    def second_moment(self, state: Mapping[str, Any]) -> Any:
        """v of a parameter with this state, with AMSGrad the largest v so far; or None."""
        return _first(state, self.second_moments)


def _first(state: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((state[key] for key in keys if state.get(key) is not None), None)


def _sgd_gain(group: Group) -> float:
    beta = float(group["momentum"])
    if beta == 0:
        return 1.0
    return (1 - float(group["dampening"])) / (1 - beta) if beta < 1 else math.nan


_SGD = Known(
    momenta=("momentum_buffer",),
    gain=_sgd_gain,
    is_decoupled=lambda group: False,
    remembers=lambda group: float(group["momentum"]) != 0,
    response=lambda change, group, taken: sgd_response(change, group, taken.first),
)
_ADAM = Known(
    momenta=("exp_avg",),
    divides=True,
    gain=lambda group: 1.0,
    is_decoupled=lambda group: bool(group.get("decoupled_weight_decay", False)),
    remembers=lambda group: True,
    response=lambda change, group, taken: adam_response(change, group, taken.state, taken.theta, taken.gradient),
    by_weight=True,
)
UNKNOWN = Known()

KNOWN: dict[str, Known] = {
    "torch.optim.sgd.SGD": _SGD,
    "torch.optim.adam.Adam": _ADAM,
    "torch.optim.adamw.AdamW": replace(_ADAM, is_decoupled=lambda group: True),
    # These publish their own R and η_eff.
    "swd_dynamics.optim.sgdw.SGDW": Known(momenta=("momentum_buffer",), second_moments=()),
    "swd_dynamics.optim.sgds.SGDS": Known(momenta=("momentum_buffer",), second_moments=()),
    "swd_dynamics.optim.adams.AdamS": Known(momenta=("exp_avg",), divides=True),
    "swd_dynamics.optim.adais.AdaiS": Known(momenta=("exp_avg",)),
}


def known(optimizer: torch.optim.Optimizer) -> Known:
    """The entry of an optimizer's class; ``UNKNOWN`` for any other class, subclasses included.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> known(torch.optim.AdamW([weight])).divides, known(torch.optim.RMSprop([weight])).divides
    (True, False)
    """
    return KNOWN.get(class_name(optimizer), UNKNOWN)


def class_name(optimizer: torch.optim.Optimizer) -> str:
    """The name of an optimizer's class with its module, as the table has it."""
    kind = type(optimizer)
    return f"{kind.__module__}.{kind.__qualname__}"
