"""What is known about torch's optimizers: one entry for each class, in the words of torch's groups.

A probe reads the decay rate R and the effective learning rate η_eff of a class by its entry. One
more entry teaches the probe another optimizer. Lion with decoupled decay:

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

    Attributes
    ----------
    state : mapping — the parameter's optimizer state after the step
    theta, gradient : Tensor or None — θ before the step, and the gradient that the step used; None
        if the response needs neither
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
    """What is known about one class of optimizers.

    Attributes
    ----------
    momenta : tuple of str
        Keys of the state; the first of them that a parameter has holds its momentum m.
    second_moments : tuple of str
        The same for the second moment v of the gradients.
    beta2 : callable (group) → β₂
        v̂ = v/(1 − β₂ᵏ). β₂ = 0 if the optimizer does not correct v, None if it has no v.
    divides : bool
        Whether a step is divided by √v̂ + ε, so that η_eff is η·gain/√v̄.
    centre : str
        The key of a mean whose square is subtracted from v, as centred RMSprop does; "" if none.
    gain : callable (group) → float or None, optional
        η_eff in units of η, or η_eff·√v̄ if a step is divided: how far a unit of gradient moves a
        weight in the end. NaN if the momentum never dies out; None if the gain is not known.
    is_decoupled : callable (group) → bool, optional
        Whether R = ηλ is subtracted from the weights. If not, λθ is added to the gradient (L2).
        None if that is not known: then R and η_eff are the ones that the optimizer publishes.
    remembers : callable (group) → bool
        Whether R of L2 depends on earlier steps. If not, R = ηλ.
    response : callable (Change, group, Taken) → Response, optional
        The tangent response of L2 (:mod:`~swd_dynamics.tensors.tangent`), for groups that remember.
    by_weight : bool
        Whether the response differs from weight to weight.
    writes_gradients : callable (group) → bool or None
        Whether a step writes into the gradients. None if that is not known: then the probe keeps a
        copy of the gradients in the first step, and in the others only if that step wrote.

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
    centre: str = ""
    gain: Callable[[Group], float | None] | None = None
    is_decoupled: Callable[[Group], bool] | None = None
    remembers: Callable[[Group], bool] = lambda group: False
    response: Callable[[Change, Group, Taken], Response] | None = None
    by_weight: bool = False
    writes_gradients: Callable[[Group], bool | None] = lambda group: None

    @property
    def keeps_memory(self) -> bool:
        """Whether R of L2 needs one number for each parameter, from which it can continue."""
        return self.response is not None and not self.by_weight

    def momentum(self, state: Mapping[str, Any]) -> Any:
        """m of a parameter with this state, or None."""
        return _first(state, self.momenta)

    def second_moment(self, state: Mapping[str, Any]) -> Any:
        """v of a parameter with this state, or None; with AMSGrad the largest v so far."""
        v, centre = _first(state, self.second_moments), state.get(self.centre)
        return v if v is None or centre is None else v - centre.square()


def _first(state: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    for key in keys:
        value = state.get(key)
        if value is not None:
            return value
    return None


def _sgd_gain(group: Group) -> float:
    beta = float(group["momentum"])
    if beta == 0:
        return 1.0
    return (1 - float(group["dampening"])) / (1 - beta) if beta < 1 else math.nan


def _in_nesterov(group: Group) -> bool | None:
    """Not known with Nesterov's momentum: torch's foreach kernel writes where nothing decays."""
    return None if group["nesterov"] else False


def _never(group: Group) -> bool:
    return False


_SGD = Known(
    momenta=("momentum_buffer",),
    gain=_sgd_gain,
    is_decoupled=lambda group: False,
    remembers=lambda group: float(group["momentum"]) != 0,
    response=lambda change, group, taken: sgd_response(change, group, taken.first),
    writes_gradients=_in_nesterov,
)
_ADAM = Known(
    momenta=("exp_avg",),
    divides=True,
    gain=lambda group: 1.0,
    is_decoupled=lambda group: bool(group.get("decoupled_weight_decay", False)),
    remembers=lambda group: True,
    response=lambda change, group, taken: adam_response(
        change,
        group,
        taken.state,
        taken.theta,
        taken.gradient,
    ),
    by_weight=True,
    writes_gradients=_never,
)
_PUBLISHING_SGD = Known(
    momenta=("momentum_buffer",),
    second_moments=(),
    writes_gradients=_in_nesterov,
)
_RMSPROP = Known(
    momenta=("momentum_buffer",),
    second_moments=("square_avg",),
    beta2=lambda group: 0.0,
    divides=True,
    centre="grad_avg",
    gain=lambda group: 1 / (1 - beta) if (beta := float(group["momentum"])) < 1 else math.nan,
    is_decoupled=lambda group: False,
    remembers=lambda group: True,
    writes_gradients=_never,
)
# With lr_decay η_eff depends on the number of the step.
_ADAGRAD = replace(
    _RMSPROP,
    momenta=(),
    second_moments=("sum",),
    centre="",
    gain=lambda group: 1.0 if group["lr_decay"] == 0 else None,
)
# η_eff has a number of its own for each weight, which is not made of v alone.
_ADADELTA = replace(_ADAGRAD, second_moments=("square_avg",), divides=False, gain=None)
_ADAMAX = replace(_ADADELTA, momenta=("exp_avg",), second_moments=())
_NADAM = replace(_ADAM, response=None, by_weight=False)
# η_eff depends on the number of the step, and the first steps are not divided by √v̂.
_RADAM = replace(_NADAM, divides=False, gain=None)
UNKNOWN = Known()

KNOWN: dict[str, Known] = {
    "torch.optim.sgd.SGD": _SGD,
    "torch.optim.adam.Adam": _ADAM,
    "torch.optim.adamw.AdamW": replace(_ADAM, is_decoupled=lambda group: True),
    "torch.optim.rmsprop.RMSprop": _RMSPROP,
    "torch.optim.adagrad.Adagrad": _ADAGRAD,
    "torch.optim.adadelta.Adadelta": _ADADELTA,
    "torch.optim.adamax.Adamax": _ADAMAX,
    "torch.optim.nadam.NAdam": _NADAM,
    "torch.optim.radam.RAdam": _RADAM,
    "torch.optim._muon.Muon": Known(
        momenta=("momentum_buffer",),
        second_moments=(),
        is_decoupled=lambda group: True,
        writes_gradients=_never,
    ),
    "torch.optim._adafactor.Adafactor": Known(
        momenta=(),
        second_moments=(),
        is_decoupled=lambda group: True,
        writes_gradients=_never,
    ),
    # These publish their own R and η_eff.
    "swd_dynamics.optim.sgdw.SGDW": _PUBLISHING_SGD,
    "swd_dynamics.optim.sgds.SGDS": _PUBLISHING_SGD,
    "swd_dynamics.optim.adams.AdamS": Known(momenta=("exp_avg",), divides=True, writes_gradients=_never),
    "swd_dynamics.optim.adais.AdaiS": Known(momenta=("exp_avg",), writes_gradients=_never),
}


def known(optimizer: torch.optim.Optimizer) -> Known:
    """The entry of an optimizer's class, or ``UNKNOWN``. A subclass needs an entry of its own.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> known(torch.optim.RMSprop([weight])).second_moments
    ('square_avg',)
    >>> known(torch.optim.LBFGS([weight])) is UNKNOWN
    True
    """
    return KNOWN.get(class_name(optimizer), UNKNOWN)


def class_name(optimizer: torch.optim.Optimizer) -> str:
    """The name of an optimizer's class with its module, which is the key of the table."""
    kind = type(optimizer)
    return f"{kind.__module__}.{kind.__qualname__}"
