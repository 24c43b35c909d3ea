"""The time of a flow under a schedule: the learning rate between two steps, its integral, and where it jumps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import nextafter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.errors import InputError
from swd_dynamics.rules.update import UpdateRule

Array = NDArray[np.float64]
# Steps. A schedule that changes by more than a hundredth within so short a time jumps there.
AT_ONCE = 1e-6
# Of the largest learning rate: where three values half a step apart bend by more, the integration begins again. A tenth
# would break smooth warm-ups into single steps; with ten times as much, a pulse of a hundredth could be stepped over.
BEND = 1e-3
# Of the integral over one step: two Gauss rules must agree to this, or the step is halved, at most so many times.
AGREED, MOST_HALVINGS = 1e-13, 45
GAUSS = [np.polynomial.legendre.leggauss(points) for points in (3, 6)]


@dataclass(frozen=True)
class Clock:
    """A rule's learning rate as a function of time for a number of steps.

    A schedule that is defined only at whole steps, or that jumps right behind a whole step, is constant within that
    step: the optimizer uses the value at the whole step.

    Parameters
    ----------
    rule : UpdateRule
    steps : int

    Raises
    ------
    InputError
        If the schedule gives a value that is not a finite number ≥ 0 at one of the steps.

    Examples
    --------
    A learning rate of ½ in step 1 only, and of ¼ in the others:

    >>> from swd_dynamics.rules import SGD
    >>> clock = Clock(UpdateRule(lambda k: 0.5 if k == 1 else 0.25, SGD()), 3)
    >>> clock.times.tolist(), clock.breaks
    ([0.0, 0.25, 0.75, 1.0], [0, 1, 2, 3])
    """

    rule: UpdateRule
    steps: int

    def __post_init__(self):
        for k, lr in enumerate(self._whole):
            if not (np.isfinite(lr).all() and (lr >= 0).all()):
                raise InputError(
                    f"the schedule gives lr = {lr} at step {k}: a flow needs a finite number ≥ 0 at every step"
                )

    @cached_property
    def lrs(self) -> Array:
        """The largest η at each step, shape (steps,)."""
        return np.array([float(np.max(lr)) for lr in self._whole])

    @cached_property
    def times(self) -> Array:
        """∫η dk from 0 to each whole step, shape (steps + 1,), for one learning rate for all weights."""
        if not self.rule.has_schedule:
            return float(np.max(self.rule.lr)) * np.arange(self.steps + 1, dtype=float)
        over = [self._integral(k) for k in range(self.steps)]
        return np.concatenate([[0.0], np.cumsum(over)])

    @cached_property
    def breaks(self) -> list[int]:
        """The whole steps between which the learning rate is smooth, with both ends."""
        ends = {0, self.steps}
        if self.rule.has_schedule:
            halves = np.array([self.at(j / 2) for j in range(2 * self.steps)]).reshape(2 * self.steps, -1)
            bends = np.abs(np.diff(halves, 2, axis=0)).max(axis=1, initial=0.0) > BEND * halves.max()
            for j in np.flatnonzero(bends) + 1:
                ends |= {int(j) // 2, (int(j) + 1) // 2}
        return sorted(ends)

    def at(self, k: float) -> Any:
        """η at any time before the end of the last step; within a step that the schedule does not define, its own."""
        whole = int(k)
        return self._whole[whole] if self._held[whole] else self.rule.lr_at(k)

    def between(self, first: int, last: int) -> UpdateRule:
        """The rule with a schedule that is continuous on [first, last]: at the end it has the limit from the left."""
        if not self.rule.has_schedule:
            return self.rule
        latest = nextafter(last, first)
        return replace(self.rule, lr=lambda k: self.at(min(max(k, first), latest)))

    @cached_property
    def _whole(self) -> list[Array]:
        return [np.asarray(self.rule.lr_at(k), dtype=float) for k in range(self.steps)]

    @cached_property
    def _held(self) -> NDArray[np.bool_]:
        """Whether the learning rate is constant within each step."""
        return np.array([self._is_held(k) for k in range(self.steps)])

    def _is_held(self, k: int) -> bool:
        try:
            values: Any = [np.asarray(self.rule.lr_at(k + s), dtype=float) for s in (0, AT_ONCE, 0.5)]
        except (TypeError, KeyError, IndexError, ValueError):
            return True
        first, after, middle = values
        jumps = bool((np.abs(after - first) > 0.01 * np.maximum(np.abs(first), np.abs(after))).any())
        return jumps or not np.isfinite(middle).all()

    def _integral(self, k: int) -> float:
        if self._held[k]:
            return float(self._whole[k])
        agreed = AGREED * float(self.lrs.max())
        return _integral(lambda s: float(self.rule.lr_at(s)), k, k + 1, agreed, MOST_HALVINGS)


def _integral(of: Callable[[float], float], low: float, high: float, agreed: float, halvings: int) -> float:
    """∫ of a function by Gauss's rule, with the interval halved where two rules differ."""
    middle, half = (low + high) / 2, (high - low) / 2
    rough, fine = (half * sum(w * of(middle + half * x) for x, w in zip(*rule, strict=True)) for rule in GAUSS)
    if abs(fine - rough) <= agreed or halvings == 0:
        return fine
    return sum(_integral(of, *ends, agreed, halvings - 1) for ends in ((low, middle), (middle, high)))
