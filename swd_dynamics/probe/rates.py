"""Decay rate R and effective learning rate η_eff of every step: published, stated or followed.

No step waits for an accelerator, and nothing is guessed: an unknown value is NaN, with a reason.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from swd_dynamics.tensors.groups import PUBLISHED
from swd_dynamics.tensors.known import Taken, class_name, known
from swd_dynamics.tensors.sums import Entry, products
from swd_dynamics.tensors.tangent import Change, unit_change
from swd_dynamics.tensors.versions import version
from swd_dynamics.tensors.weights import Layout

UNKNOWN = math.nan


class Published:
    """Whether a step writes R or η_eff into a parameter group.

    They may be in the group without being published: a checkpoint of another optimizer leaves them
    there, and a hyperparameter may be called ``decay_rate``. During the step each of them is replaced
    by an equal object, so that the same number, written again, is noticed.

    Examples
    --------
    >>> group = {"decay_rate": 0.5, "effective_lr": 2.0}
    >>> untouched = Published(group)
    >>> untouched.end()
    >>> written = Published(group)
    >>> group["decay_rate"] = 0.5
    >>> written.end()
    >>> untouched.is_written, written.is_written
    (False, True)
    """

    def __init__(self, group: dict):
        self._group = group
        self.is_written = False
        self._before = {name: group[name] for name in PUBLISHED if name in group}
        self._versions = {name: version(value) for name, value in self._before.items()}
        self._during = {name: _equal_object(value) for name, value in self._before.items()}
        group.update(self._during)

    def end(self) -> None:
        """Compare the group with what it was before the step, and put that back."""
        for name in PUBLISHED:
            value = self._group.get(name)
            if value is not self._during.get(name) or version(value) != self._versions.get(name):
                self.is_written = True
            elif name in self._before:
                self._group[name] = self._before[name]


def _equal_object(value: Any) -> Any:
    """The same number as a new object, which shares the memory of a tensor; else the value."""
    if isinstance(value, Tensor):
        return value if value.requires_grad else value.detach()
    is_number = isinstance(value, float | int) and not isinstance(value, bool)
    return value * 1.0 if is_number else value


class Rates:
    """Reads R of each parameter and η_eff of each group after a step.

    Δθ = −R·θ − update. What is known of torch's optimizers is in
    :data:`~swd_dynamics.tensors.known.KNOWN`.
    With decoupled decay, and with L2 without momentum, R = ηλ. For L2 with momentum R is defined by
    a test: perturb the weights, and see what fraction of the perturbation one step removes. That
    fraction is followed from step to step. With SGD it is one number for each parameter. With Adam
    it differs from weight to weight, which takes as long as several steps and is done only if
    ``by_weight``. An optimizer of another class may publish ``decay_rate`` and ``effective_lr`` in
    its groups; each is used if the optimizer writes at least one of them in the step. Otherwise R and
    η_eff are NaN, and ``reasons`` say why. All other arguments are those that the step began with.

    Examples
    --------
    With momentum ¾, η_eff = η/(1 − ¾). Without weight decay R = 0:

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> sgd = torch.optim.SGD([weight], lr=0.5, momentum=0.75)
    >>> rates = Rates(sgd, Layout((weight,), (0,), ("w",)), by_weight=False)
    >>> rates.before()
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
        # R of each parameter in the last step: a number, or a tensor of the parameter's shape.
        self.of_weights: list[Entry] = []
        self._groups: list[dict] = []  # the arguments with which the step began
        self._published: list[Published] = []

    @property
    def follows(self) -> bool:
        """Whether R depends on earlier steps, so that the probe must see every step."""
        if self.known.by_weight and not self.by_weight:
            return False
        return bool(self.changes) or any(map(self._remembers, self.optimizer.param_groups))

    @property
    def needs_theta(self) -> bool:
        """Whether R depends on θ before the step, weight by weight."""
        return self.by_weight and self.known.by_weight and self.follows

    def before(self) -> None:
        """Note the arguments of the step, and which parameters have no momentum buffer yet."""
        groups = self.optimizer.param_groups
        self._groups = [dict(group) for group in groups]
        if self.known.is_decoupled is None:
            self._published = [Published(group) for group in groups]
        if self.follows and not self.known.by_weight:
            self.first = [self.known.momentum(state) is None for state in self._states()]

    def after(self, took: Sequence[bool], theta: Sequence[Tensor] | None) -> dict[str, list[Entry]]:
        """The columns of the step that was just taken.

        Parameters
        ----------
        took : sequence of bool
            Whether each parameter took the step: it had a gradient, and the step was not skipped.
        theta : sequence of Tensor, optional
            θ before the step, if ``needs_theta``.

        Returns
        -------
        dict
            ``rate``, ``memory`` and ``effective_lr``; and, filled where R differs from weight to
            weight, ``rate_rate``, ``decay_decay``, ``rate_min`` and ``rate_max``.
        """
        for published in self._published:
            published.end()
        seen: dict[tuple, Entry] = {}
        self.of_weights = [self._rate(i, taken, theta, seen) for i, taken in enumerate(took)]
        before = [None] * len(took) if theta is None else theta
        moments = [_moments(*pair) for pair in zip(self.of_weights, before, strict=True)]
        names = ("rate", "rate_rate", "decay_decay", "rate_min", "rate_max")
        rows = dict(zip(names, map(list, zip(*moments, strict=True)), strict=True))
        effective_lr = [self._effective_lr(g) for g in range(len(self._groups))]
        return {**rows, "memory": self._memory(), "effective_lr": effective_lr}

    def take_up(self, memory: Sequence[float]) -> None:
        """Continue after the last recorded step.

        Parameters
        ----------
        memory : sequence of float
            δm/δθ of each parameter after that step; where it is NaN, R is followed from a new
            perturbation.
        """
        one = unit_change(torch.ones(()))
        self.changes = {
            i: one._replace(m=torch.tensor(value, dtype=torch.float64))
            for i, value in enumerate(memory)
            if math.isfinite(value)
        }

    def _states(self) -> Iterator[dict]:
        return (self.optimizer.state.get(parameter, {}) for parameter in self.layout.parameters)

    def _memory(self) -> list[Entry]:
        """δm/δθ of each parameter that L2 with momentum acts on; None for the other parameters."""
        if not self.known.keeps_memory:
            return []
        found = map(self.changes.get, range(len(self.layout.parameters)))
        return [change and float(change.m / change.theta) for change in found]

    def _rate(self, i: int, taken: bool, theta: Sequence[Tensor] | None, seen: dict) -> Entry:
        if not taken:
            return 0.0
        if self.known.is_decoupled is None:
            return self._published_in(self.layout.groups[i], "decay_rate")
        group = self._groups[self.layout.groups[i]]
        if not self._remembers(group) and i not in self.changes:
            return group["lr"] * group["weight_decay"]
        return self._followed(i, group, theta, seen)

    def _followed(self, i: int, group: dict, theta: Sequence[Tensor] | None, seen: dict) -> Entry:
        if self.known.response is None:
            return self._unknown(f"how {class_name(self.optimizer)} responds to L2 is not known")
        if not _is_here(group["lr"]) or not _is_here(getattr(self.optimizer, "found_inf", None)):
            where = "lr or the result of a gradient scaler is on an accelerator"
            return self._unknown(f"R of L2 is followed on the host, but {where}")
        if self.known.by_weight:
            return self._followed_by_weight(i, group, theta)
        change = self.changes.get(i)
        key = (self.layout.groups[i], self.first[i], change and tuple(map(float, change)))
        if key not in seen:  # parameters with the same history share one response
            taken = Taken({}, None, None, self.first[i])
            start = change or unit_change(torch.ones(()))
            seen[key] = self.known.response(start, group, taken)
        self.changes[i] = seen[key].change
        return float(seen[key].rate)

    def _followed_by_weight(self, i: int, group: dict, theta: Sequence[Tensor] | None) -> Entry:
        if theta is None:
            name = type(self.optimizer).__name__
            how = "quantities='dynamics' follows R, which takes as long as several steps"
            if self.layout.is_sharded:
                how = "R is not followed where parameters are sharded"
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

    def _effective_lr(self, g: int) -> Entry:
        """η_eff of a group; for an optimizer that divides by √v̂, η_eff·√v̄."""
        if self.known.is_decoupled is None:
            return self._published_in(g, "effective_lr")
        group = self._groups[g]
        gain = None if self.known.gain is None else self.known.gain(group)
        if gain is None:
            name = class_name(self.optimizer)
            gain = self._unknown(f"the effective learning rate of {name} is not known")
        elif math.isnan(gain):
            why = f"with momentum = {group['momentum']} the momentum never dies out"
            self._unknown(f"no effective learning rate exists: {why}")
        return group["lr"] * gain if not _is_here(group["lr"]) else float(group["lr"]) * gain

    def _published_in(self, g: int, name: str) -> Entry:
        group, kind = self.optimizer.param_groups[g], class_name(self.optimizer)
        if not any(each in group for each in PUBLISHED):
            return self._unknown(
                f"{kind} is neither an optimizer that is known here nor publishes decay_rate and effective_lr"
            )
        if not self._published[g].is_written:
            has = " and ".join(each for each in PUBLISHED if each in group)
            here = "does not write it in this step: another optimizer may have left it, or it is a hyperparameter"
            return self._unknown(f"{kind} has {has} in its groups, but {here}")
        if name not in group:
            has = next(each for each in PUBLISHED if each in group)
            return self._unknown(f"{kind} publishes {has}, but no {name}")
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
        """Whether a group has L2 decay whose R depends on earlier steps."""
        decoupled = self.known.is_decoupled
        if decoupled is None or decoupled(group) or not group["weight_decay"]:
            return False
        return self.known.remembers(group)

    def _unknown(self, reason: str) -> float:
        self.reasons.add(reason)
        return UNKNOWN


def _moments(rate: Entry, theta: Tensor | None) -> tuple[Entry, ...]:
    """Mean of R and of R², Σ(Rθ)², smallest and largest R of a parameter.

    Where R is one number for the parameter, only the first is given.
    """
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
    """Whether a number can be read without waiting for an accelerator."""
    return not isinstance(value, Tensor) or value.device.type == "cpu"
