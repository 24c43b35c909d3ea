"""One parameter along a recorded run beside the laws of norm and rotation, and what may be said of the two."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SMALL = 0.01  # of the largest η: nothing is foreseen for the end of a schedule that falls to 0
CLOSE = 0.15  # relative: a norm or an angle that is nearer to its law is said to follow it; nearer is within noise
# Relative: a law that changed by less while an equilibrium is reached is steady. With three times as much, pure noise
# under a schedule that falls to 0 linearly is off by more than CLOSE.
STEADY = 0.05


class Course(NamedTuple):
    """One parameter along a run, in windows of steps.

    Attributes
    ----------
    parameter : str
    shape : tuple of int
    steps : array, shape (windows,) — the middle step of each window
    norm, norm_law : array, shape (windows,) — ‖θ‖ as recorded, and at the equilibrium of the window's η and gradients
    angle, angle_law : array, shape (windows,) — the angle by which a step turns the parameter, in radians
    time : array, shape (windows,) — the number of steps in which a departure from the equilibrium falls to 1/e
    unknown : str — why the last window has no law, or nothing
    shares : array, shape (windows,), or () — η of the window divided by the largest η of the run
    """

    parameter: str
    shape: tuple[int, ...]
    steps: NDArray
    norm: NDArray
    norm_law: NDArray
    angle: NDArray
    angle_law: NDArray
    time: NDArray
    unknown: str = ""
    shares: NDArray = np.ones(1)

    @property
    def out_of_reach(self) -> NDArray:
        """The windows in which η fell so far that the run is too short for its law, but not for that of the largest η.

        The time of an equilibrium is taken to be proportional to 1/η.
        """
        return (self.shares <= SMALL) | ((self.time * self.shares <= self.steps) & (self.steps < self.time))

    @property
    def is_out_of_reach(self) -> bool:
        """Whether that is so at the end of the run."""
        return bool(self.out_of_reach[-1])

    @property
    def last_with_law(self) -> int:
        """The number of windows up to the end of the law's line: it ends where only a smaller η follows."""
        within = np.nonzero(~self.out_of_reach)[0]
        return int(within[-1]) + 1 if len(within) else 0

    @property
    def usable(self) -> list[int]:
        """The windows with a law in reach and finite numbers."""
        numbers = np.array([self.norm, self.angle, self.norm_law, self.angle_law, self.time])
        is_usable = np.logical_and(np.isfinite(numbers).all(axis=0), ~self.out_of_reach)
        return np.nonzero(is_usable)[0].tolist()

    @property
    def judged(self) -> int | None:
        """The window that the law is compared in: the last one, or an earlier one if the last cannot be used.

        Of earlier windows it is the last with a steady law: under a law that changes faster, weights are behind it for
        that reason alone.
        """
        end = len(self.steps) - 1
        return next((i for i in reversed(self.usable) if i == end or self._is_steady(i)), None)

    @property
    def shown(self) -> int | None:
        """The window whose numbers are printed: the one that is judged, and without it the last that has a law."""
        return next(reversed(self.usable), None) if self.judged is None else self.judged

    def _is_steady(self, i: int) -> bool:
        """Whether the law changed little for as long as an equilibrium takes, and since the window before."""
        before = int(np.argmax(self.steps >= self.steps[i] - self.time[i]))
        since = slice(max(0, min(before, i) - 1), i)
        laws = (law[since] / law[i] for law in (self.norm_law, self.angle_law))
        return bool(self.time[i] <= self.steps[i]) and all((np.abs(law - 1) <= STEADY).all() for law in laws)

    @property
    def said(self) -> str:
        """What the window that is judged says of the law, and why it is not the last one, if it is not."""
        window = self.shown
        if window is None:
            return self.unknown or "no law for the small η at the end"
        if window != self.judged:
            return self._not_judged(window)
        if window == len(self.steps) - 1:
            return self._verdict(window)
        later = self.unknown or "η is too small for its law"
        return f"at step {self.steps[window]:.0f}: {self._verdict(window)}; at the end: {later}"

    def _not_judged(self, i: int) -> str:
        """Why no window is judged: the run is too short even for its largest η, or the law changes too fast."""
        if self.time[i] > self.steps[i]:
            return self._too_early(i)
        return "not judged: the law changes faster than weights follow"

    def _too_early(self, i: int) -> str:
        """That an equilibrium takes longer than the run even with its largest η, as in every window in reach."""
        even = "even with the largest η " if (self.shares < 1 - SMALL).any() else ""
        return f"too early: {even}an equilibrium takes about {(self.time * self.shares)[i]:.0f} steps"

    @property
    def is_too_early(self) -> bool:
        """Whether the run is too short for an equilibrium in the window that is shown."""
        return self.shown is not None and bool(self.time[self.shown] > self.steps[self.shown])

    @property
    def follows(self) -> bool:
        """Whether norm and angle agree with the law in a window that is judged."""
        return self.judged is not None and not self.is_too_early and not self._off(self.judged)

    def _off(self, i: int) -> list[str]:
        pairs = ((self.norm, self.norm_law), (self.angle, self.angle_law))
        return [name for name, pair in zip(("norm", "angle"), pairs, strict=True) if _is_off(*pair, i)]

    def _verdict(self, i: int) -> str:
        if self.time[i] > self.steps[i]:
            return self._too_early(i)
        off = self._off(i)
        if not off:
            return "at its equilibrium"
        behind = "" if self._is_steady(i) else "the law changed faster than weights follow, or "
        why = f"{behind}the loss depends on ‖θ‖, or gradients of different steps are alike"
        return f"{' and '.join(off)} off: {why}"


def _is_off(seen: NDArray, law: NDArray, i: int) -> bool:
    return abs(seen[i] / law[i] - 1) > CLOSE
