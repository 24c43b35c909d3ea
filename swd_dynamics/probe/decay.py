"""Decay rate R and effective learning rate η_eff of the step just taken: read, stated or derived, never guessed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from swd_dynamics.probe.tangent import Change, Response, adam_response, sgd_response, unit_change
from swd_dynamics.tensors.weights import Layout

UNKNOWN = math.nan


class Taken(NamedTuple):
    """What a step started from, one entry for each parameter.

    theta : sequence of Tensor — copies of the weights before the step
    gradients : sequence of Tensor or None — copies; None where the step used none
    first : sequence of bool — whether the parameter had no momentum buffer yet
    """

    theta: Sequence[Tensor]
    gradients: Sequence[Tensor | None]
    first: Sequence[bool]


@dataclass(frozen=True)
class Reading:
    """R and η_eff of one step.

    rates : list of Tensor, float64 — one for each parameter, of its shape, or () where all its weights decay alike
    effective_lr : list of float — one for each group, isotropic
    reasons : frozenset of str — why something is unknown (NaN); empty where everything is known
    """

    rates: list[Tensor]
    effective_lr: list[float]
    reasons: frozenset[str]


class DecayMeter:
    """Reads R and η_eff after each step of an optimizer.

    A group that publishes ``decay_rate`` and ``effective_lr`` is believed. torch's SGD, Adam and AdamW are known by
    class and arguments: decoupled decay states R = ηλ, L2 without memory too, and L2 with memory is followed by its
    tangent response (:mod:`~swd_dynamics.probe.tangent`) from the first step seen. Of anything else R and η_eff are
    unknown. A parameter that the step left alone has R = 0.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> sgd = torch.optim.SGD([weight], lr=0.5, momentum=0.75)
    >>> meter = DecayMeter(sgd, Layout((weight,), (0,), ("w",)))
    >>> reading = meter.read(Taken([torch.ones(1)], [torch.ones(1)], [True]))
    >>> reading.effective_lr, reading.rates, set(reading.reasons)
    ([2.0], [tensor(0., dtype=torch.float64)], set())
    """

    def __init__(self, optimizer: torch.optim.Optimizer, layout: Layout):
        self.optimizer = optimizer
        self.layout = layout
        self.family = family_of(optimizer)
        self.changes: dict[int, Change] = {}  # of the parameters whose L2 has a memory

    def read(self, taken: Taken) -> Reading:
        """R of each parameter and η_eff of each group, for the step just taken."""
        reasons: set[str] = set()
        rates = [self._rate(i, taken, reasons) for i in range(len(self.layout.parameters))]
        return Reading(rates, self._effective_lrs(reasons), frozenset(reasons))

    def _rate(self, i: int, taken: Taken, reasons: set[str]) -> Tensor:
        group = self.optimizer.param_groups[self.layout.groups[i]]
        if taken.gradients[i] is None:
            return self._rate_left_alone(i, taken.theta[i], reasons)
        if "decay_rate" in group:
            return _number(_published(group, "decay_rate", reasons))
        if self.family is None:
            reasons.add(self._unknown_class())
            return _number(UNKNOWN)
        if is_decoupled(self.optimizer, group):
            return _number(float(group["lr"]) * float(group["weight_decay"]))
        return self._l2_rate(i, group, taken)

    def _rate_left_alone(self, i: int, before: Tensor, reasons: set[str]) -> Tensor:
        if torch.equal(before, self.layout.parameters[i].detach()) or not bool(before.isfinite().all()):
            return _number(0.0)
        reasons.add(f"{self.layout.names[i]} moved without a gradient")
        return _number(UNKNOWN)

    def _l2_rate(self, i: int, group: dict, taken: Taken) -> Tensor:
        has_memory = self.family == "Adam" or float(group["momentum"]) != 0
        if i not in self.changes and (float(group["weight_decay"]) == 0 or not has_memory):
            return _number(float(group["lr"]) * float(group["weight_decay"]))
        response = self._response(i, group, taken)
        self.changes[i] = response.change
        return response.rate

    def _response(self, i: int, group: dict, taken: Taken) -> Response:
        parameter, theta, gradient = self.layout.parameters[i], taken.theta[i], taken.gradients[i]
        if self.family == "SGD":
            return sgd_response(self.changes.get(i) or unit_change(torch.ones(())), group, taken.first[i])
        assert gradient is not None  # parameters without one were left alone
        change = self.changes.get(i) or unit_change(theta)
        return adam_response(change, group, self.optimizer.state[parameter], theta, gradient)

    def _effective_lrs(self, reasons: set[str]) -> list[float]:
        second_moment = mean_second_moment(self.optimizer) if self.family == "Adam" else UNKNOWN
        return [self._effective_lr(group, second_moment, reasons) for group in self.optimizer.param_groups]

    def _effective_lr(self, group: dict, second_moment: float, reasons: set[str]) -> float:
        if "effective_lr" in group:
            return _published(group, "effective_lr", reasons)
        if self.family is None:
            reasons.add(self._unknown_class())
            return UNKNOWN
        if self.family == "SGD":
            return sgd_effective_lr(group, reasons)
        if math.isnan(second_moment):
            reasons.add("the second moment of the gradients is not a number")
        return _divided(float(group["lr"]), math.sqrt(second_moment))

    def _unknown_class(self) -> str:
        kind = type(self.optimizer)
        name = f"{kind.__module__}.{kind.__qualname__}"
        return f"{name} is neither torch's SGD, Adam or AdamW nor publishes decay_rate and effective_lr"


def family_of(optimizer: torch.optim.Optimizer) -> str | None:
    """``"SGD"`` or ``"Adam"`` for torch's own classes SGD, Adam and AdamW; None for any other, subclasses included."""
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim."):
        return None
    return {"SGD": "SGD", "Adam": "Adam", "AdamW": "Adam"}.get(kind.__name__)


def is_decoupled(optimizer: torch.optim.Optimizer, group: dict) -> bool:
    """Whether a group's weight decay stays out of the gradient: AdamW, by either of its names in torch."""
    return type(optimizer).__name__ == "AdamW" or bool(group.get("decoupled_weight_decay", False))


def sgd_effective_lr(group: dict, reasons: set[str]) -> float:
    """η_eff of torch.optim.SGD: η(1−τ)/(1−β), with momentum 0 η; unknown for β ≥ 1, where the sum has no limit.

    Examples
    --------
    >>> sgd_effective_lr(dict(lr=0.5, momentum=0.5, dampening=0.25), set())
    0.75
    """
    lr, beta = float(group["lr"]), float(group["momentum"])
    if beta == 0:
        return lr
    if beta >= 1:
        reasons.add(f"with momentum = {beta} no effective learning rate exists")
        return UNKNOWN
    return lr * (1 - float(group["dampening"])) / (1 - beta)


def mean_second_moment(optimizer: torch.optim.Optimizer) -> float:
    """v̄, the mean of v̂ = v/(1−β₂ᵏ) over all weights of all groups that have one; NaN if none has.

    AMSGrad has the largest v so far in place of v. Weights that never had a gradient have no v and do not count.
    """
    total, weights = 0.0, 0
    for group in optimizer.param_groups:
        beta2 = float(group["betas"][1])
        key = "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"
        for state in (optimizer.state.get(parameter, {}) for parameter in group["params"]):
            if key in state:
                total += float(state[key].sum(dtype=torch.float64)) / (1 - beta2 ** float(state["step"]))
                weights += state[key].numel()
    return total / weights if weights else UNKNOWN


def _published(group: dict, name: str, reasons: set[str]) -> float:
    try:
        value = float(group[name])
    except (TypeError, ValueError, RuntimeError):
        value = UNKNOWN
    if math.isnan(value):
        reasons.add(f"the optimizer publishes {name} = {group[name]!r}, which is not a number")
    return value


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _divided(numerator: float, denominator: float) -> float:
    return float(_number(numerator) / denominator)
