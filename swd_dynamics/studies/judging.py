"""Verdicts that several studies need: on a relative difference, on two curves, and on many weights at once."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.verdict import Verdict, judge


def farthest(values: ArrayLike, value: float) -> float:
    """The one of some values that differs most from a given value.

    Examples
    --------
    >>> farthest([1.0, 4.0, 2.0], 3.0)
    1.0
    """
    flat = np.ravel(values)
    return float(flat[np.argmax(np.abs(flat - value))])


def judge_relative(name: str, claim: str, predicted: float, measured: float, relative: float, why: str) -> Verdict:
    """The verdict on a number, confirmed if |measured − predicted| ≤ relative·predicted.

    Examples
    --------
    >>> judge_relative("half", "A half is .5", 0.5, 0.75, relative=0.5, why="for example").allowed
    0.25
    """
    allowed = relative * predicted
    return judge(name, claim, predicted=predicted, measured=measured, allowed=allowed, why=why)


def judge_curve(
    name: str, claim: str, predicted: NDArray | float, measured: NDArray, allowed: float, why: str
) -> Verdict:
    """The verdict on a curve, confirmed if |measured/predicted − 1| ≤ allowed at every step.

    Examples
    --------
    >>> predicted, measured = np.array([0.5, 0.5]), np.array([0.5, 0.625])
    >>> judge_curve("half", "It is always .5", predicted, measured, allowed=0.5, why="for example").measured
    0.25
    """
    largest = np.max(np.abs(measured / predicted - 1))
    why = f"{why}; the largest relative error of all steps is measured"
    return judge(name, claim, predicted=0.0, measured=largest, allowed=allowed, why=why)


def judge_weights(
    name: str, claim: str, predicted: NDArray, measured: NDArray, allowed: ArrayLike, why: str
) -> Verdict:
    """The verdict on many weights: that on the weight with the largest |measured − predicted|/allowed.

    Its evidence holds ``measured`` and ``allowed`` of all weights.

    Examples
    --------
    >>> predicted, measured = np.array([0.5, 0.5]), np.array([0.25, 0.625])
    >>> judge_weights("halves", "It is .5", predicted, measured, [1.0, 0.25], why="for example").measured
    0.625
    """
    allowed = np.broadcast_to(allowed, predicted.shape)
    i = int(np.argmax(np.abs(predicted - measured) / allowed))
    return judge(
        name,
        f"{claim}, each of {len(predicted)} weights",
        predicted=predicted[i],
        measured=measured[i],
        allowed=allowed[i],
        why=why,
        evidence={"measured": measured, "allowed": allowed},
    )


def vertex(x: NDArray, y: NDArray) -> float:
    """Where the parabola through the smallest of some equidistant values and its neighbours is smallest.

    It stays between the first and the last x.

    Examples
    --------
    The smallest value of (x − .7)² at whole x is at 1.

    >>> x = np.arange(4.0)
    >>> round(vertex(x, (x - 0.7) ** 2), 12)
    0.7
    """
    j = int(np.clip(np.argmin(y), 1, len(y) - 2))
    before, here, after = y[j - 1 : j + 2]
    bend = before - 2 * here + after
    shift = 0.5 * (before - after) / bend if bend > 0 else np.sign(before - after)
    return float(np.clip(x[j] + shift * (x[1] - x[0]), x[0], x[-1]))
