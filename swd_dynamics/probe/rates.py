"""Decay rate R and effective learning rate η_eff of every step: published, stated or followed.

Nothing here waits for an accelerator, and nothing is guessed: what is not known is NaN, with a reason.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from swd_dynamics.tensors.groups import PUBLISHED
from swd_dynamics.tensors.known import Taken, class_name, known
from swd_dynamics.tensors.sums import Entry, products
from swd_dynamics.tensors.tangent import Change, unit_change
from swd_dynamics.tensors.weights import Layout

UNKNOWN = math.nan


class Rates:
    """Reads R of each parameter and η_eff of each group after a step.

    Δθ = −R·θ − (update). A class that :mod:`~swd_dynamics.tensors.known` knows is read by its rule.
    For decoupled decay, and for L2 without memory, R = ηλ. For L2 with momentum R is defined by a
    test: perturb the weights, and see which fraction of the perturbation one step removes. That
    fraction is followed from step to step: with SGD as one number for each parameter, with Adam
    weight by weight, which costs as much as several steps and is done only if ``by_weight``. Any
    other optimizer is believed if it publishes both ``decay_rate`` and ``effective_lr`` in its
    groups; otherwise R and η_eff are NaN, and ``reasons`` say why.

    Examples
    --------
    With momentum ¾, η_eff = η/(1 − ¾). No weight decay subtracts nothing:

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> sgd = torch.optim.SGD([weight], lr=0.5, momentum=0.75)
    >>> rates = Rates(sgd, Layout((weight,), (0,), ("w",)), by_weight=False)
    >>> row = rates.after([True], None)
    >>> row["effective_lr"], row["rate"]
    ([2.0], [0.0])
    """

    def __init__(self, optimizer: torch.optim.Optimizer, layout: Layout, by_weight: bool):
        self.optimizer, self.layout = optimizer, layout
        self.known = known(optimizer)
        self.by_weight = by_weight
        self.reasons: set[str] = set()
        self.first: list[bool] = []
        self.changes: dict[int, Change] = {}
        self.of_weights: list[Entry] = []  # R of the last step: a number, or a tensor like the parameter

    @property
    def follows(self) -> bool:
        """Whether R depends on the steps before, so that every step must be seen."""
        if self.known.by_weight and not self.by_weight:
            return False
        return bool(self.changes) or any(map(self._remembers, self.optimizer.param_groups))

    @property
    def needs_theta(self) -> bool:
        """Whether R depends on θ before the step, weight by weight."""
        return self.by_weight and self.known.by_weight and self.follows

    def before(self) -> None:
        """Note which parameters have no momentum buffer yet."""
        if self.follows and not self.known.by_weight:
            self.first = [self.known.momentum(state) is None for state in self._states()]

    def after(self, took: Sequence[bool], theta: Sequence[Tensor] | None) -> dict[str, list[Entry]]:
        """The columns of the step just taken.

        Parameters
        ----------
        took : sequence of bool
            Whether each parameter took the step: had a gradient, in a step that was not skipped.
        theta : sequence of Tensor, optional
            θ before the step, if ``needs_theta``.

        Returns
        -------
        dict
            ``rate``, ``memory``, ``effective_lr``; and, filled where R differs from weight to weight,
            ``rate_rate``, ``decay_decay``, ``rate_min``, ``rate_max``.
        """
        seen: dict[tuple, Entry] = {}
        self.of_weights = [self._rate(i, taken, theta, seen) for i, taken in enumerate(took)]
        moments = [_moments(rate, None if theta is None else theta[i]) for i, rate in enumerate(self.of_weights)]
        names = ("rate", "rate_rate", "decay_decay", "rate_min", "rate_max")
        rows = {name: list(entries) for name, entries in zip(names, zip(*moments, strict=True), strict=True)}
        groups = self.optimizer.param_groups
        effective_lr = [self._effective_lr(group) for group in groups]
        return {**rows, "memory": self._memory(), "effective_lr": effective_lr}

    def take_up(self, memory: Sequence[float]) -> None:
        """Continue from the column ``memory`` of the last step, or begin with an unperturbed memory."""
        one = unit_change(torch.ones(()))
        self.changes = {
            i: one._replace(m=torch.tensor(value, dtype=torch.float64))
            for i, value in enumerate(memory)
            if math.isfinite(value)
        }

    def _states(self) -> Iterator[dict]:
        return (self.optimizer.state.get(parameter, {}) for parameter in self.layout.parameters)

    def _memory(self) -> list[Entry]:
        """δm/δθ of each parameter that L2 with momentum acts on; None for the others."""
        if not self.known.keeps_memory:
            return []
        found = map(self.changes.get, range(len(self.layout.parameters)))
        return [change and float(change.m / change.theta) for change in found]

    def _rate(self, i: int, taken: bool, theta: Sequence[Tensor] | None, seen: dict) -> Entry:
        group = self.optimizer.param_groups[self.layout.groups[i]]
        if not taken:
            return 0.0
        if self.known.is_decoupled is None:
            return self._published(group, "decay_rate")
        if not self._remembers(group) and i not in self.changes:
            return group["lr"] * group["weight_decay"]
        return self._followed(i, group, theta, seen)

    def _followed(self, i: int, group: dict, theta: Sequence[Tensor] | None, seen: dict) -> Entry:
        if self.known.response is None:
            return self._unknown(f"how {class_name(self.optimizer)} responds to L2 is not known")
        if not _is_here(group["lr"]) or not _is_here(getattr(self.optimizer, "found_inf", None)):
            return self._unknown(
                "the tangent response of L2 is followed on the host, and lr or a scaler's finding is on an accelerator"
            )
        if self.known.by_weight:
            return self._followed_by_weight(i, group, theta)
        change = self.changes.get(i)
        key = (self.layout.groups[i], self.first[i], change and tuple(map(float, change)))
        if key not in seen:  # parameters with the same past share one response
            taken = Taken({}, None, None, self.first[i])
            start = change or unit_change(torch.ones(()))
            seen[key] = self.known.response(start, group, taken)
        self.changes[i] = seen[key].change
        return float(seen[key].rate)

    def _followed_by_weight(self, i: int, group: dict, theta: Sequence[Tensor] | None) -> Entry:
        if theta is None:
            name = type(self.optimizer).__name__
            how = "quantities='dynamics' follows it, and costs as much as several steps"
            if self.layout.is_sharded:
                how = "it is not followed where parameters are sharded"
            return self._unknown(f"with L2 and {name}, R differs from weight to weight: {how}")
        assert self.known.response is not None
        parameter = self.layout.parameters[i]
        assert parameter.grad is not None  # it took the step
        state = self.optimizer.state[parameter]
        taken = Taken(state, theta[i], parameter.grad.detach(), first=False)
        change = self.changes.get(i) or unit_change(theta[i])
        response = self.known.response(change, group, taken)
        self.changes[i] = response.change
        return response.rate

    def _effective_lr(self, group: dict) -> Entry:
        """η_eff; of an optimizer that divides by √v̂ it is η_eff·√v̄."""
        if self.known.is_decoupled is None:
            return self._published(group, "effective_lr")
        gain = UNKNOWN if self.known.gain is None else self.known.gain(group)
        if self.known.gain is None:
            self._unknown(f"the effective learning rate of {class_name(self.optimizer)} is not known")
        elif math.isnan(gain):
            self._unknown(
                f"with momentum = {group['momentum']} no effective learning rate exists: the momentum never dies out"
            )
        return group["lr"] * gain if not _is_here(group["lr"]) else float(group["lr"]) * gain

    def _published(self, group: dict, name: str) -> Entry:
        if not all(each in group for each in PUBLISHED):
            return self._unknown(
                f"{class_name(self.optimizer)} is neither torch's SGD, Adam or AdamW nor publishes"
                " decay_rate and effective_lr"
            )
        value = group[name]
        if isinstance(value, Tensor) and value.numel() == 1 and not _is_here(value):
            return value.detach().reshape(())
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            number = UNKNOWN
        if math.isnan(number):
            seen = "NaN" if isinstance(value, float) else f"a {type(value).__name__}"
            return self._unknown(f"the optimizer publishes a {name} that is not one number: {seen}")
        return number

    def _remembers(self, group: dict) -> bool:
        """Whether a group has L2 decay whose R depends on the steps before."""
        decoupled = self.known.is_decoupled
        if decoupled is None or decoupled(group) or not group["weight_decay"]:
            return False
        return self.known.remembers(group)

    def _unknown(self, reason: str) -> float:
        self.reasons.add(reason)
        return UNKNOWN


def _moments(rate: Entry, theta: Tensor | None) -> tuple[Entry, ...]:
    """Mean of R and R², Σ(Rθ)², smallest and largest R of a parameter; where R is one number, that."""
    if not isinstance(rate, Tensor):
        return rate, None, None, None, None
    if rate.ndim == 0 or theta is None:
        return rate if not _is_here(rate) else rate.item(), None, None, None, None
    if not rate.numel():
        return 0.0, None, None, None, None
    flat = rate.double()
    decay = products([flat * theta.double()], [flat * theta.double()])[0]
    mean, square, low, high = flat.mean(), flat.square().mean(), flat.amin(), flat.amax()
    if _is_here(mean):
        return mean.item(), square.item(), decay, low.item(), high.item()
    return mean, square, decay, low, high


def _is_here(value: object) -> bool:
    """Whether reading a number waits for nothing."""
    return not isinstance(value, Tensor) or value.device.type == "cpu"
