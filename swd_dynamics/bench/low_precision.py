"""Whether weight decay survives in bfloat16 and other short types, where less than half a digit changes nothing.

A bfloat16 has 8 significant bits. θ ← θ(1 − R), rounded, is θ again if Rθ is less than half the distance to the next
bfloat16, which is between 2⁻⁹θ and 2⁻⁸θ. So with R < 2⁻⁹ decay that is applied on its own is always lost, whatever
the number of steps. Decay that is added to an update before it is rounded is kept in the mean, because the update
decides in which direction the sum is rounded. Copies of the weights in float32, compensated sums and stochastic
rounding keep it as well.
"""

from dataclasses import replace
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import bfloat16, dtype

from swd_dynamics.bench.interventions import MATRICES, Bench, Track
from swd_dynamics.bench.streams import DROP
from swd_dynamics.errors import InputError
from swd_dynamics.tensors.rounding import name_of

WEAK, STRONG = 2.0**-11, 2.0**-6  # R: four times below the limit of 2⁻⁹, and four times above that of 2⁻⁸
SHRINKAGE = {WEAK: 200, STRONG: 20}  # steps: weights shrink by 9 % and by 27 %, which is 25 and 70 units of rounding
# Many weights, so that rounding, of 2 % of a weight in 200 steps, is 1 % of the shrinkage in the mean. With a quarter
# as many the shares would scatter by 2 %.
LARGE_SHAPES = {True: ((24, 16), (16, 8)), False: ((24, 16), (64,))}  # whether the optimizer takes matrices alone
LARGEST_FACTOR = 1e4  # times λ: with a larger λ an optimizer that hardly decays would not be itself
# How much the weights shrink while the optimizer's own decay is measured, and the fewest and most steps for that. With
# half the shrinkage, rounding would scatter the share √2 times as much.
SHRUNK, FEWEST, MOST = 0.1, 20, 4 * DROP


class Kept(NamedTuple):
    """What is left of an optimizer's steps where weights and gradients are of a short type.

    decay : float — the share of the shrinkage by weight decay
    scatter : float — the standard error of that share, from its scatter over the weights
    moved : float — the share of the way that the weights go without decay
    steps : int
    """

    decay: float
    scatter: float
    moved: float
    steps: int


def kept_in(bench: Bench, of: dtype, decay_rate: float) -> Kept:
    """What is left of the weight decay, and of the steps without decay, in weights and gradients of a type.

    Four runs, as in :func:`kept_in_bfloat16`, with the optimizer's own η and λ, until the weights shrink by a tenth;
    of 960 steps at most.

    Parameters
    ----------
    bench : Bench
    of : torch.dtype
    decay_rate : float
        The R of the optimizer, from which the number of steps follows.

    Raises
    ------
    InputError
        If the optimizer fails in that type, or its weights are not finite.

    Examples
    --------
    SGD adds λθ to the gradient and rounds once, so that the decay is kept:

    >>> import torch
    >>> from functools import partial
    >>> from swd_dynamics.bench.interventions import bench_for
    >>> bench = bench_for(partial(torch.optim.SGD, lr=0.01, weight_decay=0.1))
    >>> kept_in(bench, torch.bfloat16, 0.001).decay > 0.9
    True
    """
    steps = int(np.clip(SHRUNK / decay_rate if decay_rate > 0 else FEWEST, FEWEST, MOST))
    large = replace(_with_many_weights(bench), pace=ceil(steps / DROP))
    full = _pair(large, 1.0, steps, bench.given.dtype)
    low = _pair(large, 1.0, steps, of)
    _check_finite(full, low, of)
    wanted, left = _by_decay(full), _by_decay(low)
    with np.errstate(all="ignore"):
        share = _share(left, wanted)
        scatter = float(np.linalg.norm((left - share * wanted) * wanted) / np.dot(wanted, wanted))
        ways = (pair[1].after[-1] - pair[1].before[0] for pair in (low, full))
        return Kept(share, scatter, _share(*ways), steps)


def kept_in_bfloat16(bench: Bench, decay_rate: float, wanted: float) -> float:
    """The share of the shrinkage by weight decay that is left where weights and gradients are bfloat16.

    The optimizer runs with decay and without, in bfloat16 and in full precision: four runs on the same gradients. Let
    D be the difference that decay makes to the weights. The share is ⟨D, D_full⟩/⟨D_full, D_full⟩.

    Parameters
    ----------
    bench : Bench
    decay_rate : float
        The R of the optimizer as the bench makes it.
    wanted : float
        The R that it shall have, WEAK or STRONG; λ is multiplied to this end.

    Returns
    -------
    float
        NaN if R is unknown, or λ would have to be multiplied by more than LARGEST_FACTOR.

    Raises
    ------
    InputError
        If the optimizer fails in bfloat16, or its weights are not finite.

    Examples
    --------
    AdamW multiplies the weights by 1 − R, and rounds.

    >>> import torch
    >>> from functools import partial
    >>> from swd_dynamics.bench.interventions import bench_for
    >>> bench = bench_for(partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, foreach=False))
    >>> kept_in_bfloat16(bench, decay_rate=0.001, wanted=WEAK) < 0.01
    True
    """
    factor = wanted / decay_rate if decay_rate > 0 else np.nan
    if not factor < LARGEST_FACTOR:
        return float("nan")
    large, steps = _with_many_weights(bench), SHRINKAGE[wanted]
    full, low = (_pair(large, factor, steps, of) for of in (bench.given.dtype, bfloat16))
    _check_finite(full, low, bfloat16)
    with np.errstate(all="ignore"):
        return _share(_by_decay(low), _by_decay(full))


def _with_many_weights(bench: Bench) -> Bench:
    return replace(bench, given=replace(bench.given, shapes=LARGE_SHAPES[bench.shapes == MATRICES]))


def _pair(bench: Bench, factor: float, steps: int, of: dtype) -> tuple[Track, Track]:
    """The runs with λ multiplied by a factor, and with λ = 0, in weights of a type."""
    bench = replace(bench, given=replace(bench.given, dtype=of))
    with_decay, without = (bench.times(decay=times).run(steps) for times in (factor, 0.0))
    return with_decay, without


def _by_decay(pair: tuple[Track, Track]) -> NDArray:
    """How much further the weights are with decay than without, shape (n,)."""
    with np.errstate(invalid="ignore"):
        return pair[0].after[-1] - pair[1].after[-1]


def _check_finite(full: tuple[Track, Track], low: tuple[Track, Track], of: dtype) -> None:
    is_finite = [all(np.isfinite(run.after[-1]).all() for run in pair) for pair in (full, low)]
    if is_finite == [True, False]:
        raise InputError(f"weights are not finite in {name_of(of)}")


def _share(part: NDArray, whole: NDArray) -> float:
    return float(np.dot(part, whole) / np.dot(whole, whole))
