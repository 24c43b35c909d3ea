"""Decay rates R = 1 − δ′/δ, read from a perturbation δ of the weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from swd_dynamics.bench.interventions import Track

# The smallest singular value, relative to the largest, for fitting a recurrence of two steps. A perturbation that
# shrinks by one factor satisfies many such recurrences, up to a round-off of 1e-9.
SINGULAR = 1e-6


@dataclass(frozen=True)
class Reader:
    """How rates are read.

    least : float — the smallest δ that can be read
    enough : int — the steps of a window that must be readable for a rate
    held : bool — whether δ was set anew before each step
    oscillates : bool — whether δ changes its sign, so that R is that of its envelope
    """

    least: float
    enough: int
    held: bool = False
    oscillates: bool = False

    def steps(self, change: "Track") -> NDArray:
        """R of each step and weight, NaN where the perturbation has died out. Shape (steps, n)."""
        with np.errstate(all="ignore"):
            rate = 1 - change.after / change.before
        return np.where(np.abs(change.before) > self.least, rate, np.nan)

    def mean(self, change: "Track", window: slice) -> NDArray:
        """R of each weight over W steps, 1 − (|δ_end|/|δ_start|)^(1/W), as long as δ can be read. Shape (n,).

        Where δ is held, R is the mean of 1 − δ′/δ.
        """
        before, after = change.before[window], change.after[window]
        if self.held or len(before) == 1:
            return self.steps(change)[window].mean(axis=0)
        readable = np.abs(before) > self.least
        last = len(before) - 1 - np.argmax(readable[::-1], axis=0)
        with np.errstate(all="ignore"):
            left = np.abs(np.take_along_axis(after, last[None], axis=0)[0] / before[0])
            rate = 1 - left ** (1 / (last + 1))
        return np.where(readable[0] & (last + 1 >= self.enough), rate, np.nan)

    def rates(self, change: "Track", window: slice) -> NDArray:
        """R of each weight over a window, or R of the envelope where δ oscillates."""
        rate = self.mean(change, window)
        if not self.oscillates or len(change.before[window]) == 1:
            return rate
        envelope = envelope_rate(change, window)
        return np.where(np.isfinite(envelope) & np.isfinite(rate), envelope, rate)

    def changes_sign(self, change: "Track") -> NDArray:
        """Whether δ of each weight changes its sign in a step, shape (n,)."""
        with np.errstate(all="ignore"):
            return np.any((change.before * change.after < 0) & (np.abs(change.before) > self.least), axis=0)


def envelope_rate(change: "Track", window: slice) -> NDArray:
    """R of the envelope of each weight's perturbation, if it satisfies δ″ = aδ′ − bδ with b > 0. Shape (n,).

    1 − √b where the recurrence has complex roots; 1 − the larger root where both roots are real.
    """
    course = np.nan_to_num(change.before[window].T, posinf=0.0, neginf=0.0)
    pairs = np.stack([course[:, 1:-1], -course[:, :-2]], axis=-1)
    a, b = (np.linalg.pinv(pairs, rcond=SINGULAR) @ course[:, 2:, None])[..., 0].T
    with np.errstate(all="ignore"):
        real = (np.abs(a) + np.sqrt(np.maximum(a**2 - 4 * b, 0.0))) / 2
        return 1 - np.where(b > 0, np.where(a**2 < 4 * b, np.sqrt(b), real), np.nan)
