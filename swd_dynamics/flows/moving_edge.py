"""The edge of stability of a rule at each step of a run: under a schedule the limit moves."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from swd_dynamics.flows.clock import Clock
from swd_dynamics.rules.decay import NoDecay
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import NumericEdge, numeric_edges

# Relative: a change of η from one step to the next by more is a jump, and no part of the rate at which the limit moves.
# With a tenth of it, the last steps of a linear fall would all be jumps; with 1, a drop to a half would be a slope.
ABRUPT = 0.1
# Of the largest η: what stands for an η of 0, at which the limit is infinite.
NO_STEP = 1e-12


class EdgeAt(NamedTuple):
    """The edge of stability before a step.

    Attributes
    ----------
    now : NumericEdge — of the step that follows
    limit : NumericEdge — from which the limit is taken
    ahead : NumericEdge
        From which the limit is taken one step later, for the rate at which it moves; where η jumps in between, from
        ``limit``, because a jump has no rate.
    """

    now: NumericEdge
    limit: NumericEdge
    ahead: NumericEdge


def moving_edge(rule: UpdateRule, steps: int, *, limit_of_decay: bool = True) -> list[EdgeAt]:
    """The edge before each of so many steps and after the last, under a schedule, with or without decay in the limit.

    Raises
    ------
    InputError
        If the schedule gives a value that is not a finite number ≥ 0 at one of the steps.
    NotDerivable
        If the rule has no edge of stability.

    Examples
    --------
    Gradient descent whose η falls slowly, and then at once. The limit 2/η moves ahead of the slope, and not ahead of
    the jump:

    >>> from swd_dynamics.rules import SGD
    >>> edges = moving_edge(UpdateRule(lambda k: (0.5, 0.48, 0.24)[k], SGD()), 3)
    >>> [round(float(edge.limit.limit(np.zeros(1), ())[0]), 2) for edge in edges]
    [4.0, 4.17, 8.33, 8.33]
    >>> [round(float(edge.ahead.limit(np.zeros(1), ())[0]), 2) for edge in edges]
    [4.17, 4.17, 8.33, 8.33]
    """
    lrs = _learning_rates(rule, steps)
    now = numeric_edges(rule, lrs)
    limits = now if limit_of_decay else numeric_edges(replace(rule, decay=NoDecay()), lrs)
    ahead = [limits[k if _is_jump(lrs[k], lrs[k + 1]) else k + 1] for k in range(steps + 1)]
    return [EdgeAt(*each) for each in zip(now[:-1], limits[:-1], ahead, strict=True)]


def _learning_rates(rule: UpdateRule, steps: int) -> list[Any]:
    """η of so many steps, and of two more: these are the last η again where the schedule ends with a jump, or at all.

    After the last step there is a solution still, which needs its limit and the rate of the limit.
    """
    clock = Clock(rule, steps)  # refuses what is not a finite number ≥ 0
    lrs = [np.asarray(clock.at(k), dtype=float) for k in range(steps)]
    smallest = NO_STEP * max(float(lr.max()) for lr in lrs)
    lrs = [np.maximum(lr, smallest) for lr in lrs]
    for k in (steps, steps + 1):
        try:
            after = np.asarray(rule.lr_at(k), dtype=float)
        except (TypeError, KeyError, IndexError, ValueError):
            after = lrs[-1]
        lrs.append(lrs[-1] if _is_jump(lrs[-1], after) else after)
    return [lr if lr.ndim else float(lr) for lr in lrs]


def _is_jump(before: Any, after: Any) -> bool:
    within = np.abs(np.subtract(after, before)) <= ABRUPT * np.maximum(before, after)
    return not bool(np.all(within))
