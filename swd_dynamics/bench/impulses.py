"""η_eff: how far an impulse, which is added to one gradient, moves each weight in the end."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.bench.drive import Action
from swd_dynamics.bench.interventions import Bench, Track
from swd_dynamics.bench.streams import DROP, END, FOLLOWED, HALVED, LEAD, PARTS, impulses

# The largest factor, in a tenth of the steps followed, by which a tail that an exponential describes shrinks. It is
# .82 for a momentum of .99. A tail that shrinks less is a drift.
SLOWEST = 0.8
ROUNDING = 300.0  # units of the largest weight: a change of a weight that is round-off, summed over 200 steps


def effective_lrs_of(bench: Bench, base: Track, strength: float, unit: float) -> tuple[NDArray, NDArray]:
    """η_eff of each phase and weight, and the fraction of it after the steps followed, both of shape (phases, n).

    The second phase is followed with constant η.
    """
    pace, constant = bench.pace, {bench.pace * HALVED: lambda *_: None}
    steady = bench.run(pace * (HALVED - LEAD + FOLLOWED) + PARTS, actions=constant)
    found = [
        effective_lr_of(bench, base, DROP, strength, unit),
        effective_lr_of(bench, steady, HALVED, strength, unit, actions=constant),
        effective_lr_of(bench, base, END, strength, unit),
    ]
    total, missing = zip(*found, strict=True)
    return np.array(total), np.array(missing)


def effective_lr_of(
    bench: Bench,
    base: Track,
    end: int,
    strength: float,
    unit: float,
    actions: Mapping[int, Action] | None = None,
) -> tuple[NDArray, NDArray]:
    """η_eff of each weight in the phase that ends at step ``end``, and the fraction of it after the steps followed.

    The later fraction is that of an exponential tail, which goes on to shrink as it did in the last tenth of the steps.

    Parameters
    ----------
    base : Track
        The run without impulses.
    end : int
        DROP, HALVED or END.
    strength : float
        The size of the impulses, divided by the gradients' scales.
    unit : float
        The unit round-off of the weights.
    """
    pace = bench.pace
    start, tenth = pace * (end - LEAD), pace * FOLLOWED // 10
    all_impulses = impulses(sum(bench.sizes), pace)
    push = {k: strength * all_impulses[k] for k in range(start, start + PARTS)}
    shift = -bench.run(start + pace * FOLLOWED, push=push, actions=actions).minus(base).after
    late, later = shift[-1 - tenth] - shift[-1 - 2 * tenth], shift[-1] - shift[-1 - tenth]
    with np.errstate(all="ignore"):
        ratio = np.minimum(np.abs(later / late), SLOWEST)
        missing = np.abs(later / shift[-1]) * ratio / (1 - ratio)
        effective_lr = shift[-1] / sum(push.values())
        rounding = ROUNDING * unit * np.max(np.abs(base.after[: len(shift)]), axis=0)
    return effective_lr, np.where(np.abs(later) > rounding, missing, 0.0)
