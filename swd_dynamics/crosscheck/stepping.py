"""The steps of a rule beside recorded steps: how far the two differ, and how far rounding lets them differ."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from swd_dynamics.rules.update import State
from swd_dynamics.verdict import LIMIT

ROUND_OFFS = 8.0  # two dozen roundings a step, in two orders of evaluation, add up to a few units in the last place


class Stepping(Protocol):
    """What replay compares with a recording: an update rule, or any object with the same two methods."""

    def start(self, theta) -> State: ...

    def __call__(self, state: State, gradient) -> State: ...


def allowed_departure(steps: int, eps: float) -> np.ndarray:
    """8·eps·√k for the steps 1 … ``steps``."""
    return ROUND_OFFS * eps * np.sqrt(np.arange(1, steps + 1))


def own_steps(rule: Stepping, theta: np.ndarray, gradients: np.ndarray) -> Iterator[np.ndarray]:
    """θ after each of the rule's own steps. Each begins at the *recorded* θ, with the state of the rule's last step."""
    state = rule.start(theta[0])
    for k, gradient in enumerate(gradients):
        with np.errstate(all="ignore"):  # a wrong pairing may run anywhere: that is its result
            state = rule(State(theta[k], state.memory, k), gradient)
        yield state.theta


def departures(rule: Stepping, theta: np.ndarray, gradients: np.ndarray) -> Iterator[float]:
    """The error of each step relative to ‖θ‖, one step after another; 0 where neither result is finite."""
    for k, own in enumerate(own_steps(rule, theta, gradients)):
        yield departure_of(own, theta, k)


def departure_of(own: np.ndarray, theta: np.ndarray, k: int) -> float:
    """The error of one step, relative to ‖θ‖: the rule's weights after the step compared with the recorded weights."""
    both_left = not np.isfinite(norms_of(np.array([own, theta[k + 1]]))).any()
    return 0.0 if both_left else relative(own, theta[k + 1], theta, k)


def relative(one: np.ndarray, other: np.ndarray, theta: np.ndarray, k: int) -> float:
    """‖one − other‖ / max(‖θ(0)‖, ‖θ(k)‖, ‖θ(k+1)‖)."""
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(one - other) / max(*norms_of(theta[[0, k, k + 1]]), 1e-300))


def norms_of(theta: np.ndarray) -> np.ndarray:
    """‖θ‖ of each row."""
    with np.errstate(all="ignore"):
        return np.linalg.norm(theta, axis=1)


def largest_error(worst: float) -> str:
    """The largest error in a sentence, from its ratio to the limit."""
    return f"Largest error: {worst:.2g} times what rounding can explain {LIMIT}."


def wrong_by(departure: float) -> str:
    """How wrong the first wrong step is, in a sentence."""
    return f"At the first wrong step the weights are off by {100 * departure:.2g} % of their norm."
