"""Whether weight decay survives in bfloat16, where a weight that changes by less than half a digit does not change.

A bfloat16 has 8 significant bits. θ ← θ(1 − R), rounded, is θ again if Rθ is less than half the distance to the next
bfloat16, which is between 2⁻⁹θ and 2⁻⁸θ. So with R < 2⁻⁹ decay that is applied on its own is always lost, whatever
the number of steps. Decay that is added to an update before it is rounded is kept in the mean, because the update
decides in which direction the sum is rounded. Copies of the weights in float32, compensated sums and stochastic
rounding keep it as well.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import bfloat16, dtype

from swd_dynamics.bench.interventions import MATRICES, Bench
from swd_dynamics.errors import InputError

WEAK, STRONG = 2.0**-11, 2.0**-6  # R: four times below the limit of 2⁻⁹, and four times above that of 2⁻⁸
SHRINKAGE = {WEAK: 200, STRONG: 20}  # steps: weights shrink by 9 % and by 27 %, which is 25 and 70 units of rounding
# Many weights, so that rounding, of 2 % of a weight in 200 steps, is 1 % of the shrinkage in the mean. With a quarter
# as many the shares would scatter by 2 %.
LARGE_SHAPES = {True: ((24, 16), (16, 8)), False: ((24, 16), (64,))}  # whether the optimizer takes matrices alone
LARGEST_FACTOR = 1e4  # times λ: with a larger λ an optimizer that hardly decays would not be itself


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
    large = replace(bench, given=replace(bench.given, shapes=LARGE_SHAPES[bench.shapes == MATRICES]))
    full = _made_by_decay(large, factor, wanted, bench.given.dtype)
    low = _made_by_decay(large, factor, wanted, bfloat16)
    if np.isfinite(full).all() and not np.isfinite(low).all():
        raise InputError("weights are not finite in bfloat16")
    with np.errstate(all="ignore"):
        return float(np.dot(low, full) / np.dot(full, full))


def _made_by_decay(bench: Bench, factor: float, wanted: float, of: dtype) -> NDArray:
    """How much further the weights are with decay than without, shape (n,)."""
    bench = replace(bench, given=replace(bench.given, dtype=of))
    with_decay, without = (bench.times(decay=times).run(SHRINKAGE[wanted]) for times in (factor, 0.0))
    return with_decay.after[-1] - without.after[-1]
