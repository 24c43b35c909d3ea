"""What a sweep keeps of each run."""

from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# A run ends where its loss is larger than this many times the loss of its first step. Such a loss grows
# exponentially, so that with 1e3 or 1e9 the same runs would end, some steps earlier or later.
TOO_LARGE = 1e6

NUMBERS = {
    "test_error": "error on data that are never trained on, after the last step",
    "best_test_error": "the smallest test error of all evaluations",
    "train_loss": "loss on all training data after the last step, without weight decay",
    "gradient_norm": "‖g‖ of the loss on all training data after the last step, without weight decay",
    "weight_norm": "‖θ‖ after the last step",
    "decay_rate": "R of the last step, the fraction of the weights that decay subtracted; NaN for L2 and where unknown",
    "decay_ratio": "R/η_eff of the last step; NaN for L2 and where unknown",
    "effective_lr": "η_eff of the last step; NaN where unknown",
    "diverged_at": "number of the step, from 1, whose loss was not finite or too large; NaN if there was none",
}
CURVES = {
    "test_error_curve": "error on data that are never trained on",
    "train_loss_curve": "loss on all training data, without weight decay",
}


class Outcomes(NamedTuple):
    """What some runs of a sweep came to.

    Attributes
    ----------
    cells : list of int — the numbers of their cells
    values : dict of str to array — every name of NUMBERS, shape (cells,), and of CURVES, shape (cells, evaluations)
    reasons : dict of int to str — for a cell that failed, the reason
    """

    cells: list[int]
    values: dict[str, NDArray]
    reasons: dict[int, str]


def failed(cell: int, evaluations: int, reason: str) -> Outcomes:
    """The outcome of a run that ended with an error: its values are NaN.

    Examples
    --------
    >>> failed(3, 2, "no memory").values["train_loss_curve"]
    array([[nan, nan]])
    """
    values = {name: np.full(1, nan) for name in NUMBERS} | {name: np.full((1, evaluations), nan) for name in CURVES}
    return Outcomes([cell], values, {cell: reason})
