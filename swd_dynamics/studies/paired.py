"""Verdicts on runs from several seeds, compared seed by seed, and the number of seeds that would decide a claim.

Two optimizers that start from the same weights and draw the same batches differ less than two seeds do. So the
difference is taken for each seed first. Its mean over n seeds has the standard error s/√n, where s is the standard
deviation of the n differences, and its confidence interval is that of Student's t with n − 1 degrees of freedom.
"""

from math import inf, isfinite, nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.errors import InputError
from swd_dynamics.verdict import NOTHING, Status, Verdict

# The probability that the interval of a difference contains the true one. With .99 an interval from five seeds is two
# thirds wider, and fewer claims are decided; with .8 a fifth of all decisions would be chance.
CONFIDENCE = 0.95
POWER = 0.8  # the probability that so many seeds decide a claim, if difference and spread are those observed
BORDER = 100  # needed seeds for each one there is: the mean is a third of its standard error or less from the border
NEXT_TO_IT = ", as the mean is next to the border of what is allowed"
MOST_SEEDS = 10**6  # where more are needed, the difference is as good as none


class PairedDifference(NamedTuple):
    """The mean difference of two methods over seeds.

    mean : float — of the differences, one for each seed
    deviation : float — their standard deviation, with n − 1 in its denominator
    seeds : int — n
    comparisons : int — how many differences are judged together; by Bonferroni's correction each interval is that of
        the confidence 1 − (1 − CONFIDENCE)/comparisons, so that all of them hold together with CONFIDENCE or more

    Examples
    --------
    >>> PairedDifference(mean=3.0, deviation=2.0, seeds=4).standard_error
    1.0
    """

    mean: float
    deviation: float
    seeds: int
    comparisons: int = 1

    @property
    def standard_error(self) -> float:
        """Of the mean: s/√n."""
        return self.deviation / sqrt(self.seeds)

    @property
    def t(self) -> float:
        """Student's t: the mean in units of its standard error.

        Examples
        --------
        >>> PairedDifference(mean=3.0, deviation=2.0, seeds=4).t
        3.0
        """
        return self.mean / self.standard_error if self.standard_error else inf * self.mean

    @property
    def half_width(self) -> float:
        """Half of the confidence interval of the mean.

        Examples
        --------
        With one degree of freedom t is 12.706 at 95 %, because its distribution is Cauchy's.

        >>> round(PairedDifference(mean=0.0, deviation=sqrt(2), seeds=2).half_width, 3)
        12.706
        """
        return _student(self._upper, self.seeds - 1) * self.standard_error

    @property
    def _upper(self) -> float:
        """The probability below the upper end of the interval."""
        return 1 - (1 - CONFIDENCE) / 2 / self.comparisons

    def seeds_needed(self, bound: float = 0.0) -> int | None:
        """How many seeds would show on which side of a bound the mean lies, with probability POWER.

        The smallest n with (t_CONFIDENCE + t_POWER)·s/√n ≤ |mean − bound|, both t with n − 1 degrees of freedom. It
        supposes that mean and spread are those observed, so with few seeds it is a rough number.

        Returns
        -------
        int or None
            None where even MOST_SEEDS would not do, or a value is not a number.

        Examples
        --------
        A difference of half a standard deviation needs 34 pairs (Cohen 1988).

        >>> PairedDifference(mean=0.5, deviation=1.0, seeds=5).seeds_needed()
        34
        """
        effect = abs(self.mean - bound)

        def enough(seeds: int) -> bool:
            sides = _student(self._upper, seeds - 1) + _student(POWER, seeds - 1)
            return sides * self.deviation <= effect * sqrt(seeds)

        if not isfinite(effect + self.deviation) or not enough(MOST_SEEDS):
            return None
        low, high = 1, MOST_SEEDS  # the first is too few, the last is enough
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high


def paired_difference(one: ArrayLike, other: ArrayLike, comparisons: int = 1) -> PairedDifference:
    """The mean of one − other over seeds.

    Parameters
    ----------
    one : array, shape (seeds,)
    other : array, shape (seeds,), or float
        From the same seeds in the same order; or one number, where ``one`` is compared with a prediction.
    comparisons : int
        How many differences are judged together.

    Raises
    ------
    InputError
        With fewer than two seeds, or other shapes.

    Examples
    --------
    >>> paired_difference([3.0, 5.0], [1.0, 1.0])
    PairedDifference(mean=3.0, deviation=1.4142135623730951, seeds=2, comparisons=1)
    """
    values, others = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if values.ndim != 1 or others.shape not in ((), values.shape) or len(values) < 2:
        shapes = f"{values.shape} and {others.shape}"
        raise InputError(f"values of shapes {shapes} cannot be paired: give one value a seed, of at least two seeds")
    differences = values - others
    if not np.isfinite(differences).all():
        return PairedDifference(nan, nan, len(values), comparisons)
    return PairedDifference(float(differences.mean()), float(differences.std(ddof=1)), len(values), comparisons)


def judge_more(
    name: str,
    claim: str,
    larger: ArrayLike,
    smaller: ArrayLike,
    *,
    least: float = 0.0,
    comparisons: int = 1,
    why: str,
    **more,
) -> Verdict:
    """The verdict on "the first is larger than the second by more than so much, in the mean over seeds".

    Confirmed if the whole confidence interval of the difference lies above ``least``, refuted if the whole
    interval lies below, else inconclusive; the cause then says how many seeds would decide.

    Examples
    --------
    >>> said = {"name": "for example", "claim": "The first is larger", "why": "for example"}
    >>> judge_more(larger=[2.0, 3.1, 4.2], smaller=[1.0, 2.0, 3.0], **said).status
    'confirmed'
    >>> print(judge_more(larger=[2.0, 3.1, 4.2], smaller=[1.0, 2.0, 4.0], **said))
    ? inconclusive: The first is larger
        cause: 3 seeds do not decide it, about 6 would
        predicted > 0, measured 0.7667, allowed any more (for example; the mean of 3 seeds, known to ±
        1.23 at 95 %)
    """
    found = paired_difference(larger, smaller, comparisons)
    low, high = found.mean - found.half_width, found.mean + found.half_width
    status: Status = "confirmed" if low > least else "refuted" if high < least else "inconclusive"
    return _verdict(name, claim, f"> {least:g}", "any more", found, status, found.seeds_needed(least), why, more)


def judge_same(name: str, claim: str, one: ArrayLike, other: ArrayLike, *, margin: float, why: str, **more) -> Verdict:
    """The verdict on "the two differ by no more than a margin, in the mean over seeds".

    Confirmed if the whole confidence interval of the difference lies within ± margin, refuted if the whole interval
    lies outside, else inconclusive. That a difference is not significant does not confirm that there is none.

    Examples
    --------
    A slope was measured from three seeds, and −1 was predicted.

    >>> said = {"name": "slope", "claim": "The slope is −1", "why": "for example"}
    >>> judge_same(one=[-1.02, -0.99, -1.0], other=-1.0, margin=0.1, **said).status
    'confirmed'
    >>> judge_same(one=[-0.02, 0.01, 0.0], other=-1.0, margin=0.1, **said).status
    'refuted'
    >>> judge_same(one=[-1.0, -0.7, -1.1], other=-1.0, margin=0.1, **said).cause
    '3 seeds do not decide it, about 309 would, as the mean is next to the border of what is allowed'
    """
    found = paired_difference(one, other)
    size, half = abs(found.mean), found.half_width
    status: Status = "confirmed" if size + half <= margin else "refuted" if size - half > margin else "inconclusive"
    needed = found.seeds_needed(float(np.copysign(margin, found.mean)))
    is_number = np.ndim(other) == 0  # then the prediction is shown, and not the difference from it
    shown = found._replace(mean=found.mean + float(other)) if is_number else found  # pyright: ignore[reportArgumentType]
    return _verdict(name, claim, float(other) if is_number else 0.0, margin, shown, status, needed, why, more)  # pyright: ignore[reportArgumentType]


def planted(errors: ArrayLike, base: ArrayLike, difference: float) -> NDArray:
    """The errors of a made-up optimizer: the scatter of a real one over the seeds, and a mean that is known.

    It is the negative control of a comparison. A difference of the size that the study looks for is planted, and the
    false claim that there is no such difference, or the opposite one, has to be refuted in spite of the scatter. A
    study with too few seeds for differences of that size fails it.

    Parameters
    ----------
    errors : array, shape (seeds,) — those of the optimizer whose scatter is taken
    base : array, shape (seeds,) — those of the optimizer with which the made-up one is compared
    difference : float — the mean of the result minus the mean of ``base``

    Examples
    --------
    >>> planted([1.0, 3.0], [5.0, 6.0], difference=0.5).tolist()
    [5.0, 7.0]
    """
    values = np.asarray(errors, dtype=float)
    return values - values.mean() + np.asarray(base, dtype=float).mean() + difference


def _verdict(name, claim, predicted, allowed, found: PairedDifference, status: Status, needed, why, more) -> Verdict:
    if status == "inconclusive" and "cause" not in more:
        would = "and no reachable number would" if needed is None else f"about {max(needed, found.seeds + 1)} would"
        at_the_border = needed is None or needed > BORDER * found.seeds
        said = f"{found.seeds} seeds do not decide it, {would}{NEXT_TO_IT * at_the_border}"
        more = more | {"cause": said if isfinite(found.mean) else "some runs gave no number"}
    measured = found.mean if isfinite(found.mean) else NOTHING
    return Verdict(name, claim, predicted, measured, allowed, why + _known(found), status, seeds=found.seeds, **more)


def _known(found: PairedDifference) -> str:
    """How well a mean is known, in words; nothing where there is no number, because the cause then says so."""
    if not isfinite(found.mean):
        return ""
    said = f"; the mean of {found.seeds} seeds, known to ± {found.half_width:.3g} at {100 * CONFIDENCE:.0f} %"
    return said + f" for all {found.comparisons} comparisons together" * (found.comparisons > 1)


def _student(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))
