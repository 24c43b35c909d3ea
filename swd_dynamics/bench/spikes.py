"""A spike: the gradients of one step are a thousand times as large. How large are the steps, and for how long?"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.bench.interventions import Bench, Track
from swd_dynamics.bench.streams import DROP

SPIKE_FACTOR = 1e3  # of the gradients; √v of Adam with β₂ = .999 becomes about thirty times as large
SPIKE_PACE = (
    2  # the spike comes after 240 steps, and 240 steps are followed: with half as many, v̂ is still a mean of few
)
USUAL_STEPS = 100  # steps before the spike, whose rms is a weight's usual step; it is known to 7 %
WITHIN = 2.0  # a step this many times larger or smaller than usual is not back to usual; its scatter is 1.1


class SpikeResponse(NamedTuple):
    """How an optimizer answers to one spike. Sizes are relative to those of the run without the spike.

    Attributes
    ----------
    peak, lowest : float — the largest and the smallest step from the spike on
    recovery : int or None
        The steps, counted from the spike, until step sizes stay within WITHIN of usual; None: more than ``followed``.
    followed : int — the number of steps that were followed
    """

    peak: float
    lowest: float
    recovery: int | None
    followed: int


def spike_response(bench: Bench) -> SpikeResponse:
    """The steps after a spike, compared with the same steps without the spike; with λ = 0.

    Decay is switched off because it would pull back, for a long time, the weights that the spike has moved. The size of
    a step is √(mean over weights of (Δθᵢ/usual Δθᵢ)²), so that all weights count alike.

    Raises
    ------
    InputError
        If a step fails.

    Examples
    --------
    Gradient descent takes one step that is 1000 times too large, and forgets it. The sign of a gradient has no size.

    >>> import torch
    >>> from functools import partial
    >>> from swd_dynamics.bench.interventions import bench_for
    >>> found = spike_response(bench_for(partial(torch.optim.SGD, lr=0.5)))
    >>> round(found.peak, 6), found.recovery
    (1000.0, 1)
    """
    bench = replace(bench, pace=SPIKE_PACE, decay=0.0)
    end, spiked = SPIKE_PACE * DROP, SPIKE_PACE * DROP // 2
    plain = bench.run(end)
    push = {spiked: (SPIKE_FACTOR - 1) * bench.stream[1][spiked]}
    return answer_to_spike(plain, bench.run(end, push=push), spiked)


def answer_to_spike(plain: Track, hit: Track, spiked: int) -> SpikeResponse:
    """The answer to a spike in step ``spiked``, from the runs without and with the spike.

    Steps in which no weight moves without the spike do not count. Numbers are NaN if a weight is not finite.

    Examples
    --------
    Steps of size 1, then 8, 4, 2, 1, 1: the third step after the spike is within a factor of 2 again.

    >>> def track(steps):
    ...     ends = np.cumsum([0.0, *steps])[:, None]
    ...     return Track(ends[:-1], ends[1:])
    >>> answer_to_spike(track(np.ones(8)), track([1, 1, 1, 8, 4, 2, 1, 1]), spiked=3)
    SpikeResponse(peak=8.0, lowest=1.0, recovery=2, followed=5)
    """
    steps = plain.after - plain.before
    usual = np.sqrt(np.mean(steps[max(0, spiked - USUAL_STEPS) : spiked] ** 2, axis=0))
    sizes, without = _sizes(hit, usual)[spiked:], _sizes(plain, usual)[spiked:]
    if not np.isfinite([*sizes, *without]).all() or not without.any():
        return SpikeResponse(float("nan"), float("nan"), None, len(sizes))
    ratio = np.divide(sizes, without, out=np.ones_like(sizes), where=without > 0)
    unusual = np.flatnonzero((ratio > WITHIN) | (ratio < 1 / WITHIN))
    recovery = int(unusual[-1]) + 1 if len(unusual) else 0
    back = recovery if recovery < len(ratio) else None
    return SpikeResponse(float(ratio.max()), float(ratio.min()), back, len(ratio))


def _sizes(run: Track, usual: NDArray) -> NDArray:
    """The size of each step, relative to the usual steps of the weights that move; shape (steps,)."""
    moves = usual > 0
    with np.errstate(all="ignore"):  # of a run that diverged
        return np.sqrt(np.mean(((run.after - run.before)[:, moves] / usual[moves]) ** 2, axis=1))
