"""The critical step: how many times the step of an optimizer may be taken before the loss rises."""

import math
from collections.abc import Callable

# The relative error of the critical step, about. With half of it a search takes .3 passes more.
TOLERANCE = 0.01
# Until the critical step is enclosed, a search goes further by a factor between these at once. A
# larger second one may jump over the first rise of a loss that then falls again; with half of it a
# bad guess takes a pass more. A larger first one takes a pass more from a good guess.
NEXT, FACTOR = 1.5, 8.0
# Below and above these shares of the optimizer's step the critical step is 0 or ∞.
SMALLEST, LARGEST = 1e-3, 1e6
PASSES = 40  # at most; after half of them the enclosure is bisected


def critical_step(
    loss: Callable[[float], float],
    start: float = 1.0,
    rounding: float = 0.0,
) -> float:
    """The smallest s > 0 with L(θ + sΔθ) ≥ L(θ), by some five values of the loss.

    On a quadratic the mean slope (L(θ + sΔθ) − L(θ))/s is linear in s, so that its zero is found by
    one secant. Elsewhere the zero is enclosed first.

    Parameters
    ----------
    loss : callable (s) → L(θ + sΔθ), a number
        A loss that is not finite counts as one that has risen.
    start : float
        A guess.
    rounding : float
        The relative error of the loss. A smaller change of the loss says neither that it falls nor
        that it rises: the search then goes on with larger steps.

    Returns
    -------
    float
        0 if the loss rises however small the step is, ∞ if it falls however large the step is, NaN
        if L(θ) is not finite, or if no fall of the loss before its rise is larger than the rounding.
        A rise between two of the values, after which the loss falls again, can be overlooked.

    Source: Kalra, Gagnon-Audet, Gromov, Mediratta, Niu, Miller & Shvartsman 2026, 2601.16979; Kalra
    & Barkeshli 2024, 2406.09405.

    Examples
    --------
    L = ½hθ² at θ = 1 with h = 4 and the step Δθ = −ηhθ at η = 1/8: |θ + sΔθ| = |1 − s/2| is 1 again
    at s = 4, where the learning rate sη is 2/h.

    >>> critical_step(lambda s: 2 * (1 - s / 2) ** 2)
    4.0
    """
    before = loss(0.0)
    if not math.isfinite(before):
        return math.nan

    def mean_slope(s: float) -> float:
        change = loss(s) - before
        if abs(change) < rounding * abs(before):
            return math.nan  # neither a fall nor a rise
        return change / s if math.isfinite(change / s) else math.inf

    at = start if SMALLEST <= start <= LARGEST else 1.0
    at, first = _resolved(mean_slope, at)
    return at if math.isnan(first) else _search(mean_slope, (at, first))


def _resolved(mean_slope: Callable[[float], float], at: float) -> "Point":
    """The first step, from a guess on, after which the loss has changed; (NaN, NaN) if there is none."""
    slope = mean_slope(at)
    while math.isnan(slope):
        if at >= LARGEST:
            return math.nan, math.nan
        at = min(FACTOR * at, LARGEST)
        slope = mean_slope(at)
    return at, slope


def _search(mean_slope: Callable[[float], float], first: "Point") -> float:
    """The first zero of the mean slope, from a point at which the slope is known."""
    (at, _), points = first, [first]
    while len(points) < PASSES:
        low = max((point for point in points if point[1] < 0), default=None)
        high = min((point for point in points if point[1] >= 0), default=None)
        if low is None and at <= SMALLEST:
            return 0.0
        if high is None and at >= LARGEST:
            return math.inf
        zero = _secant(points) if len(points) < PASSES // 2 else math.nan
        if abs(zero - at) <= TOLERANCE * at:
            return zero
        if low and high and high[0] - low[0] <= TOLERANCE * low[0]:
            return high[0]
        at = _next(at, zero if len(points) > 1 else at, low, high)
        slope = mean_slope(at)
        if math.isnan(slope):
            if low:
                return at  # the loss has fallen and risen again, to its first value
            if len(points) > 1 and not zero > 0:
                return 0.0  # towards s = 0 the mean slope does not fall to 0
            return at if mean_slope(at / 2) < 0 else math.nan  # at is the zero if the loss is lower half-way
        points.append((at, slope))
    return at


Point = tuple[float, float]  # s, and the mean slope of the loss from 0 to s


def _secant(points: list[Point]) -> float:
    """The zero of the line through the last two points, if the line rises."""
    if len(points) < 2:
        return math.nan
    (first, below), (second, above) = sorted(points[-2:])
    rise = above - below
    return second - above * (second - first) / rise if 0 < rise < math.inf else math.nan


def _next(last: float, zero: float, low: Point | None, high: Point | None) -> float:
    """Where the mean slope is evaluated next: at the zero of the secant, if that is in reach."""
    if low and high:
        return zero if low[0] <= zero <= high[0] else math.sqrt(low[0] * high[0])
    least, most = (last / FACTOR, last / NEXT) if high else (NEXT * last, FACTOR * last)
    return min(max(zero, least), most) if math.isfinite(zero) else (least if high else most)
