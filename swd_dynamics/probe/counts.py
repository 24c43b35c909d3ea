"""How many steps were taken, in agreement with the optimizer's own count for each parameter.

An optimizer counts the steps of each parameter, and leaves out steps in which the parameter had no
gradient, or which a gradient scaler skipped. If parameters are trained in turns, no count is the
number of steps. So that number is kept beside the counts that belong to it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.probe.warned import warn

NOTE = "optimizer_steps"  # the fact in run.json: a number of steps, and the counts after them
UNSURE = (
    "the optimizer's state is that of an earlier step, and its counts do not say which: rows are"
    " kept up to step {step}; if that is wrong, give step= to a probe with resume=True"
)


class Counted(NamedTuple):
    """A number of steps, and the optimizer's count of each parameter after them.

    step : int
    counts : sequence of int or None — None where the optimizer has not counted yet

    Examples
    --------
    Two parameters were trained in turns, one for 50 steps and then the other for 40; since then the
    second took 10 more:

    >>> Counted(90, [50, 40]).step_at([50, 50])
    (100, True)
    """

    step: int
    counts: Sequence[int | None]

    def agrees(self, step: int, optimizer: torch.optim.Optimizer, parameters: Any) -> bool:
        """Whether the optimizer's counts say that so many steps were taken.

        Few counts are read, because a count may be on an accelerator.
        """
        is_counted = False
        for parameter, before in zip(parameters, self.counts, strict=True):
            now = _count(optimizer, parameter)
            if now is not None and now - (before or 0) == step - self.step:
                return True
            is_counted = is_counted or now is not None
        return not is_counted

    def step_at(self, counts: Sequence[int | None]) -> tuple[int, bool]:
        """The number of steps when the optimizer has these counts, and whether that is sure."""
        pairs = [(b or 0, n or 0) for b, n in zip(self.counts, counts, strict=True)]
        changes = [now - before for before, now in pairs]
        if min(changes, default=0) >= 0:
            return self.step + max(changes, default=0), True
        whole = [now for before, now in pairs if before == self.step]
        if whole:  # the count of a parameter that took every step is the number of steps
            return whole[0], True
        return max(0, self.step + min(changes)), False

    def resumed_at(self, counts: Sequence[int | None]) -> int:
        """The number of steps when the optimizer has these counts, with a warning if unsure."""
        step, is_sure = self.step_at(counts)
        if not is_sure:
            warn(UNSURE.format(step=step))
        return step


def counts_of(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> list[int | None]:
    """The optimizer's count of each parameter's steps; None where it has none."""
    return [_count(optimizer, parameter) for parameter in parameters]


def _count(optimizer: torch.optim.Optimizer, parameter: Tensor) -> int | None:
    state = optimizer.state.get(parameter, {})
    count = state.get("step") if isinstance(state, dict) else None
    try:
        return None if count is None else int(count)
    except (TypeError, ValueError, RuntimeError):  # it is not one number
        return None


def noted(notes: Any, parameters: int) -> Counted | None:
    """The numbers that run.json notes, or None."""
    found = notes.get(NOTE)
    if found is None:
        return None
    numbers = [found.get("step"), *found.get("counts", [])] if isinstance(found, dict) else []
    are_counts = all(each is None or (type(each) is int and each >= 0) for each in numbers)
    if len(numbers) != parameters + 1 or numbers[0] is None or not are_counts:
        raise InputError(f"run.json is damaged: {NOTE} must be a step and {parameters} counts")
    return Counted(numbers[0], numbers[1:])
