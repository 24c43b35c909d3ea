"""Decay rate and effective learning rate of every step, without waiting for an accelerator: read, stated or followed.

The same rules as :mod:`~swd_dynamics.probe.decay`, for a recorder that keeps no copy of the gradients.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from swd_dynamics.probe.decay import UNKNOWN, family_of, is_decoupled, sgd_effective_lr
from swd_dynamics.probe.tangent import Change, adam_response, sgd_response, unit_change
from swd_dynamics.tensors.sums import Entry, products
from swd_dynamics.tensors.weights import Layout

MEMORY = "what the momentum keeps of a small change of θ, δm/δθ: from it the decay rate of L2 goes on"


class Rates:
    """Reads R of each parameter and η_eff of each group after a step.

    Published by the optimizer: believed. Decoupled, or L2 of SGD without momentum: stated, R = ηλ. L2 of SGD with
    momentum: the tangent response, followed over every step. L2 of Adam: the same weight by weight, which costs as much
    as several steps and is done only if ``each_weight``. Anything else is unknown, NaN, and ``reasons`` say why.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, layout: Layout, each_weight: bool):
        self.optimizer, self.layout, self.each_weight = optimizer, layout, each_weight
        self.family = family_of(optimizer)
        self.reasons: set[str] = set()
        self.first: list[bool] = []
        self.changes: dict[int, Change] = {}

    @property
    def follows(self) -> bool:
        """Whether R depends on the steps before, so that every step must be seen."""
        if self.family == "Adam" and not self.each_weight:
            return False
        return bool(self.changes) or any(self._has_memory(group) for group in self.optimizer.param_groups)

    @property
    def needs_theta(self) -> bool:
        """Whether R depends on θ before the step, weight by weight."""
        return self.each_weight and self.family == "Adam" and self.follows

    def before(self) -> None:
        """Note which parameters have no momentum buffer yet."""
        if self.family == "SGD" and self.follows:
            states = (self.optimizer.state.get(parameter, {}) for parameter in self.layout.parameters)
            self.first = [state.get("momentum_buffer") is None for state in states]

    def after(self, took: Sequence[bool], theta: Sequence[Tensor] | None) -> dict[str, list[Entry]]:
        """The columns ``rate``, ``memory``, ``effective_lr``; where R differs by weight ``rate_rate``, ``decay_decay``.

        Parameters
        ----------
        took : sequence of bool
            Whether each parameter took the step: had a gradient, in a step that was not skipped.
        theta : sequence of Tensor, optional
            θ before the step, if ``needs_theta``.
        """
        seen: dict[tuple, Entry] = {}
        rows: dict[str, list[Entry]] = {"rate": [], "rate_rate": [], "decay_decay": []}
        for i, taken in enumerate(took):
            rate = self._rate(i, taken, theta, seen)
            for name, entry in zip(rows, self._moments(rate, None if theta is None else theta[i]), strict=True):
                rows[name].append(entry)
        groups = self.optimizer.param_groups
        return {**rows, "memory": self._memory(), "effective_lr": [self._effective_lr(group) for group in groups]}

    def take_up(self, memory: Sequence[float]) -> None:
        """Go on from what the column ``memory`` had after the last step, or anew."""
        one = unit_change(torch.ones(()))
        kept = {i: torch.tensor(value, dtype=torch.float64) for i, value in enumerate(memory) if math.isfinite(value)}
        self.changes = {i: one._replace(m=value) for i, value in kept.items()}

    def _memory(self) -> list[Entry]:
        """δm/δθ of each parameter that L2 with momentum acts on; None of the others."""
        if self.family != "SGD":
            return []
        found = map(self.changes.get, range(len(self.layout.parameters)))
        return [change and float(change.m / change.theta) for change in found]

    def _rate(self, i: int, taken: bool, theta: Sequence[Tensor] | None, seen: dict) -> Entry:
        group = self.optimizer.param_groups[self.layout.groups[i]]
        if "decay_rate" in group:
            return self._published(group, "decay_rate")
        if self.family is None:
            return self._unknown(self._unknown_class())
        if not taken:
            return 0.0
        if not self._has_memory(group) and i not in self.changes:
            return group["lr"] * group["weight_decay"]
        return self._followed(i, group, theta, seen)

    def _followed(self, i: int, group: dict, theta: Sequence[Tensor] | None, seen: dict) -> Entry:
        if not _is_known_here(group["lr"]) or not _is_known_here(getattr(self.optimizer, "found_inf", None)):
            return self._unknown(
                "the tangent response of L2 is followed on the host, and lr or a scaler's finding is on an accelerator"
            )
        if self.family == "Adam":
            return self._adam_rate(i, group, theta)
        change = self.changes.get(i)
        key = (self.layout.groups[i], self.first[i], change and tuple(map(float, change)))
        if key not in seen:  # parameters with the same past share one response
            seen[key] = sgd_response(change or unit_change(torch.ones(())), group, self.first[i])
        self.changes[i] = seen[key].change
        return float(seen[key].rate)

    def _adam_rate(self, i: int, group: dict, theta: Sequence[Tensor] | None) -> Entry:
        if theta is None:
            followed = "the set 'dynamics' follows it, and costs several steps"
            if self.layout.is_sharded:
                followed = "this is not followed where parameters are sharded"
            return self._unknown(f"Adam's L2 takes another rate off every weight: {followed}")
        parameter = self.layout.parameters[i]
        assert parameter.grad is not None  # it took the step
        change = self.changes.get(i) or unit_change(theta[i])
        response = adam_response(change, group, self.optimizer.state[parameter], theta[i], parameter.grad.detach())
        self.changes[i] = response.change
        return response.rate

    def _moments(self, rate: Entry, theta: Tensor | None) -> tuple[Entry, Entry, Entry]:
        """Mean of R, mean of R² and Σ(Rθ)² of a parameter; None where they follow from the first."""
        if not isinstance(rate, Tensor) or rate.ndim == 0 or theta is None:
            return rate if not isinstance(rate, Tensor) or _on_device(rate) else rate.item(), None, None
        flat = rate.double()
        mean, square = flat.mean(), flat.square().mean()
        decay = products([flat * theta.double()], [flat * theta.double()])[0]
        return (mean, square, decay) if _on_device(mean) else (mean.item(), square.item(), decay)

    def _effective_lr(self, group: dict) -> Entry:
        """η_eff; of torch's Adam None: it follows from v̄ and η."""
        if "effective_lr" in group:
            return self._published(group, "effective_lr")
        if self.family is None:
            return self._unknown(self._unknown_class())
        if self.family == "Adam":
            return None
        if not _is_known_here(group["lr"]):
            return group["lr"] * sgd_effective_lr(group | {"lr": 1.0}, self.reasons)
        return sgd_effective_lr(group, self.reasons)

    def _published(self, group: dict, name: str) -> Entry:
        value = group[name]
        if isinstance(value, Tensor) and value.numel() == 1 and _on_device(value):
            return value.detach().reshape(())
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            number = UNKNOWN
        if math.isnan(number):
            return self._unknown(f"the optimizer publishes {name} = {value!r}, which is not a number")
        return number

    def _has_memory(self, group: dict) -> bool:
        """Whether a group's decay is L2 that its memory keeps something of."""
        if self.family is None or "decay_rate" in group or is_decoupled(self.optimizer, group):
            return False
        return group["weight_decay"] != 0 and (self.family == "Adam" or group["momentum"] != 0)

    def _unknown(self, reason: str) -> float:
        self.reasons.add(reason)
        return UNKNOWN

    def _unknown_class(self) -> str:
        kind = type(self.optimizer)
        name = f"{kind.__module__}.{kind.__qualname__}"
        return f"{name} is neither torch's SGD, Adam or AdamW nor publishes decay_rate and effective_lr"


def _on_device(value: Tensor) -> bool:
    return value.device.type != "cpu"


def _is_known_here(value: object) -> bool:
    """Whether reading a number waits for nothing."""
    return not isinstance(value, Tensor) or not _on_device(value)
