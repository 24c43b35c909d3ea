"""η_eff: how far an impulse, which is added to one gradient, moves each weight in the end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.bench.drive import Action
from swd_dynamics.bench.interventions import Bench, Track
from swd_dynamics.bench.precision import Sizes
from swd_dynamics.bench.streams import DROP, END, FOLLOWED, HALVED, LEAD, PARTS, gradient_scales, impulses

# The largest factor, in a tenth of the steps followed, by which a tail that an exponential describes shrinks. It is
# .82 for a momentum of .99. A tail that shrinks less is a drift.
SLOWEST = 0.8
ROUNDING = 300.0  # units of the largest weight: a change of a weight that is round-off, summed over 200 steps


class Allowed(NamedTuple):
    """When η_eff counts as known.

    difference : relative, of the responses to two impulses
    missing : the share of η_eff that may come after the steps followed
    share : of the weights of which this must be true

    Of the strong impulses, which are for steps that are rounded, a weight whose responses differ more is left out.
    """

    difference: float
    missing: float
    share: float


# √v̄ drifts by 3 % between the steps of one impulse and of the other. Rates within 2 % count as equal.
PROPORTIONAL = Allowed(difference=0.05, missing=0.02, share=0.9)
# A matrix step in bfloat16 (torch's Muon) has a round-off of 1 % of its largest entry, which 20 steps of momentum sum
# up. With half the difference η_eff of Muon would be unknown; twice the difference would be the factor 2 itself.
ROUGH = Allowed(difference=0.25, missing=0.1, share=0.8)
# Each is twice the one before it. Relative to the rms of a tensor's gradients, because a step of a matrix mixes its
# entries, so that an entry with small gradients would answer to the impulses of the others.
STRENGTHS = (0.1, 0.2, 0.4, 0.8)

Seen = tuple[NDArray, NDArray]  # η_eff of each weight in a phase, and the fraction of it after the steps followed


@dataclass(frozen=True)
class Push:
    """The size of impulses: ``strength`` times the scale of each weight's gradients.

    If the impulses are ``strong``, the scale is the rms of its tensor's gradients. Strong impulses are given up and
    down in two runs, so that a response of even order cancels.
    """

    strength: float
    strong: bool = False

    def impulses(self, bench: Bench) -> dict[int, NDArray]:
        """What is added to the gradient of some steps, shape (n,)."""
        scales = gradient_scales(sum(bench.sizes))
        tensors = np.split(scales, np.cumsum(bench.sizes)[:-1])
        of_tensor = np.concatenate([np.full(len(part), np.sqrt(np.mean(part**2))) for part in tensors])
        factor = self.strength * (of_tensor / scales if self.strong else 1.0)
        return {k: factor * impulse for k, impulse in impulses(sum(bench.sizes), bench.pace).items()}


class ImpulseResponse(NamedTuple):
    """η_eff as impulses show it; n weights.

    effective_lr : array, shape (phases, n) — how far a unit of gradient moves each weight in the end
    unfinished : array, shape (phases, n) — the fraction of it that comes after the steps followed
    hard_pushed : array, shape (n,) — η_eff of the first phase, from larger impulses
    push, allowed : the impulses, and how far ``hard_pushed`` may be from proportional
    """

    effective_lr: NDArray
    unfinished: NDArray
    hard_pushed: NDArray
    push: Push
    allowed: Allowed

    @property
    def even(self) -> NDArray:
        """Whether a weight moves in proportion to the impulses, shape (n,)."""
        with np.errstate(all="ignore"):
            return np.abs(self.hard_pushed / self.effective_lr[0] - 1) < self.allowed.difference


def in_proportion(small: NDArray, large: NDArray, allowed: Allowed) -> bool:
    """Whether enough weights answer to two impulses with the same η_eff, all in one direction.

    An optimizer that ascends has η_eff < 0. Weights that answer to neither impulse do not count.

    Examples
    --------
    >>> in_proportion(np.array([1.0, 2.0, 0.0]), np.array([1.01, 1.99, 0.0]), PROPORTIONAL)
    True
    >>> in_proportion(np.array([1.0, 0.0]), np.array([1.0, 2.0]), PROPORTIONAL)
    False
    """
    answer = (small != 0) | (large != 0)
    if not answer.any():
        return False
    with np.errstate(all="ignore"):
        even = np.abs(large / small - 1) < allowed.difference
    sign = np.sign(np.median(small[answer]))
    return bool(np.mean((even & (sign * small > 0))[answer]) >= allowed.share)


def impulse_response(bench: Bench, base: Track, sizes: Sizes, unit: float) -> ImpulseResponse:
    """η_eff from small impulses; from strong impulses, where small ones are lost or not answered in proportion.

    Of the strong impulses those are taken whose double has twice the response. If there are none, the response to the
    small impulses is returned.
    """
    small, large = Push(sizes.impulse), Push(sizes.large_impulse)
    first, hard = (effective_lr_of(bench, base, DROP, push, unit) for push in (small, large))
    if in_proportion(first[0], hard[0], PROPORTIONAL):
        return _completed(bench, base, first, hard, (small, PROPORTIONAL), unit)
    before = None
    for strength in STRENGTHS:
        here = effective_lr_of(bench, base, DROP, Push(strength, strong=True), unit)
        if before is not None and in_proportion(before[0], here[0], ROUGH):
            return _completed(bench, base, before, here, (Push(strength / 2, strong=True), ROUGH), unit)
        before = here
    return _completed(bench, base, first, hard, (small, PROPORTIONAL), unit)


def _completed(
    bench: Bench, base: Track, first: Seen, hard: Seen, by: tuple[Push, Allowed], unit: float
) -> ImpulseResponse:
    """The response of all phases to the impulses that gave the ``first`` phase; ``hard`` is that of larger impulses.

    The second phase is followed with constant η.
    """
    pace, constant = bench.pace, {bench.pace * HALVED: lambda *_: None}
    steady = bench.run(pace * (HALVED - LEAD + FOLLOWED) + PARTS, actions=constant)
    found = [
        first,
        effective_lr_of(bench, steady, HALVED, by[0], unit, actions=constant),
        effective_lr_of(bench, base, END, by[0], unit),
    ]
    total, missing = zip(*found, strict=True)
    return ImpulseResponse(np.array(total), np.array(missing), hard[0], *by)


def ends_in(bench: Bench, push: Push, unit: float) -> bool:
    """Whether the effect of an impulse on any weight may end in the steps for which this bench follows it.

    If no weight has received all but a tenth of its η_eff by then, :func:`impulse_response` leaves η_eff unknown. To
    find that out takes a tenth of the steps of all measurements.
    """
    base = bench.run(bench.pace * (DROP - LEAD + FOLLOWED))
    _, missing = effective_lr_of(bench, base, DROP, push, unit)
    return bool((np.abs(missing) < ROUGH.missing).any())


def effective_lr_of(
    bench: Bench,
    base: Track,
    end: int,
    push: Push,
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
    push : Push
        The impulses.
    unit : float
        The unit round-off of the weights.
    """
    pace = bench.pace
    start, tenth = pace * (end - LEAD), pace * FOLLOWED // 10
    all_impulses = push.impulses(bench)
    added = {k: all_impulses[k] for k in range(start, start + PARTS)}
    shift = _shift(bench, base, start + pace * FOLLOWED, added, actions, both=push.strong)
    late, later = shift[-1 - tenth] - shift[-1 - 2 * tenth], shift[-1] - shift[-1 - tenth]
    with np.errstate(all="ignore"):
        ratio = np.minimum(np.abs(later / late), SLOWEST)
        missing = np.abs(later / shift[-1]) * ratio / (1 - ratio)
        effective_lr = shift[-1] / sum(added.values())
        rounding = ROUNDING * unit * np.max(np.abs(base.after[: len(shift)]), axis=0)
    return effective_lr, np.where(np.abs(later) > rounding, missing, 0.0)


def _shift(bench: Bench, base: Track, steps: int, added: dict[int, NDArray], actions, both: bool) -> NDArray:
    """How far the weights of a run with impulses are behind those without, shape (steps, n).

    With ``both`` it is half the distance between the runs with impulses up and down.
    """
    up = bench.run(steps, push=added, actions=actions)
    if not both:
        return -up.minus(base).after
    down = bench.run(steps, push={k: -impulse for k, impulse in added.items()}, actions=actions)
    return -up.minus(down).after / 2
