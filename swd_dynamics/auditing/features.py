"""The features of an optimizer's runs that tell the kind of its weight decay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Relative difference of rates that count as equal. A mean over all weights changes by 1 % where 1 % of the weights are
# left out, so that half as much would tell rates apart that are equal.
SAME_RATE = 0.02
# Relative difference of ratios R/η_eff that count as equal. R and η_eff are measured some steps apart, in which √v̄
# drifts by up to 3 %: half as much would miss stable decay.
SAME_RATIO = 0.05
# The share of the control's response that may remain when the control is subtracted. The run with decay has other
# weights than the control, so that the two responses do not cancel exactly.
RESIDUE = 0.2
MOSTLY = 90.0  # percent of the weights that must agree; a step that divides by a norm leaves outliers among the others
NONLINEAR = 0.05  # relative difference of the rates of δ and δ/2; a smooth step has about δ/θ = 5e-4
REMEMBERED = 0.01  # in steps of decay: less decay than this after a perturbation was undone is not a memory
EXPONENT = 0.2  # how far an exponent may be from 1: L2 with momentum .9 has 1.08, since R is not quite linear in ηλ
LATE = "the effect of a gradient lasts longer than it was followed"  # why η_eff is unknown

Kind = Literal[
    "none",
    "L2",
    "decoupled",
    "stable",
    "independent",
    "corrected",
    "cautious",
    "preconditioned",
    "all the same",
    "other",
]
Found = tuple[Kind, tuple[str, ...]]


def quantiles(rates: NDArray) -> NDArray:
    """Median, 5th and 95th percentile over the weights of each row, shape (3, rows); NaN for a row of unknown rates."""
    known, percents = np.isfinite(rates), [50, 5, 95]
    complete = known.all(axis=1) & known.any(axis=1)
    found = np.full((3, len(rates)), np.nan)
    found[:, complete] = np.percentile(rates[complete], percents, axis=1) if complete.any() else np.nan
    for i in np.flatnonzero(known.any(axis=1) & ~complete):
        found[:, i] = np.percentile(rates[i, known[i]], percents)
    return found


class Phase(NamedTuple):
    """The rates of one phase of the runs, each of shape (n,).

    decay_rate : R of each weight, with the control subtracted
    control : the control's own response, with λ = 0
    effective_lr : η_eff, NaN where it is unknown
    nominal : ηλ
    weight_decay : λ
    noise : float — a decay rate below this is round-off
    """

    decay_rate: NDArray
    control: NDArray
    effective_lr: NDArray
    nominal: NDArray
    weight_decay: NDArray
    noise: float

    @property
    def isotropic(self) -> np.float64:
        """One η_eff for all weights whose own is known: (mean of η_i⁻²)^−½, just as √v̄ is the root of a mean."""
        known = self.effective_lr[np.isfinite(self.effective_lr)]
        return np.float64(np.mean(known**-2.0) ** -0.5 if len(known) else np.nan)

    @property
    def typical(self) -> np.float64:
        """The median of R."""
        return quantiles(self.decay_rate[None])[0, 0]

    @property
    def unit(self) -> np.float64:
        """The median of R/ηλ."""
        with np.errstate(all="ignore"):
            return quantiles((self.decay_rate / self.nominal)[None])[0, 0]

    @property
    def share(self) -> np.float64:
        """The median of R/λ."""
        with np.errstate(all="ignore"):
            return quantiles((self.decay_rate / self.weight_decay)[None])[0, 0]

    @property
    def gains(self) -> NDArray:
        """η_eff/η of each weight; NaN where it is unknown."""
        with np.errstate(all="ignore"):
            return self.effective_lr * self.weight_decay / self.nominal

    @property
    def ratio_over_decay(self) -> np.float64:
        """The median of R/λ, divided by the isotropic η_eff."""
        with np.errstate(all="ignore"):
            return self.share / self.isotropic

    @property
    def residue(self) -> float:
        """A median of R up to this value may be a remainder of the control's response."""
        return self.noise + RESIDUE * float(np.nan_to_num(quantiles(np.abs(self.control)[None])[0, 0]))

    @property
    def differs(self) -> bool:
        """Whether R is known, and differs from weight to weight."""
        return bool(np.isfinite(self.typical)) and not self.equals(self.typical, SAME_RATIO)

    @property
    def grows(self) -> bool:
        """Whether perturbations grow: R < 0 for nearly all weights, and the median exceeds the residue."""
        return bool(self.typical < -self.residue and np.nanpercentile(self.decay_rate, MOSTLY) < 0)

    @property
    def uniform(self) -> bool:
        """Whether R, or R/ηλ, is above 0 and equal for nearly all weights."""
        return bool(self.typical > self.noise and (self.equals(self.typical) or self.equals(self.unit * self.nominal)))

    def equals(self, rate: "float | NDArray", tolerance: float = SAME_RATE) -> bool:
        """Whether nearly all weights have this R."""
        allowed = tolerance * np.abs(rate) + RESIDUE * np.abs(self.control)
        known = np.isfinite(self.decay_rate)
        return bool(known.any() and 100 * np.mean((np.abs(self.decay_rate - rate) <= allowed)[known]) >= MOSTLY)

    def of(self, weights: NDArray) -> "Phase":
        """The same phase, of some of the weights."""
        arrays = {name: getattr(self, name)[weights] for name in self._fields if name != "noise"}
        return self._replace(**arrays)


@dataclass(frozen=True)
class AuditFeatures:
    """The features of the runs of one optimizer from which its kind of decay follows.

    lr, weight_decay : float — of the first group with λ ≠ 0; NaN where the optimizer has none
    given : str — what is unusual about the parameters that it was made from, or nothing
    still : bool — whether no weight moved
    oscillates : bool — whether perturbations of most weights change their sign; R is then that of the envelope
    held : bool — whether perturbations die out so quickly that they were renewed before each step
    coarse : the types of its state that hold fewer digits than the weights
    rounded : str — the type to which it rounds the weights, if that is shorter than float64
    ascends : bool — whether its steps follow the gradient upwards
    noise : float — a decay rate below this is round-off
    phases : dict — "first step", "settled", "gradients / 10", "lr / 2"; of the weights that decay
    memory, delay : float
        The decay that comes after a perturbation was undone, in steps of decay: its size, and with its sign.
    lr_exponent, decay_exponent : float — a and b of R ∝ ηᵃ λᵇ when settled
    mismatch : float — relative difference of the rates of δ and of δ/2
    coupling : float — relative difference of the rates of δ and of δ with other signs
    idle : float — fraction of steps and weights, when settled, without decay
    displaced : bool — whether λ moves the weights at all
    joins_gradient : bool — whether the run is the same with λ = 0 and λθ added to the gradients
    by_hand : bool
        Whether the run is the same with λ = 0 and weights multiplied by 1 − ηλ, before or after each step.
    masked : float
        c, if the run is the same with λ = 0 and c·ηλθ subtracted from those weights that the step itself makes smaller;
        NaN if it is not.
    follows : str
        The name of a number x of the parameter groups, adapted by the optimizer, so that the run is the same with
        λ = 0 and weights multiplied by 1 − ηλx; or nothing.
    proportional : bool — whether the decay of the first step is R times the weight
    by_parameter : pairs of the shape of a parameter and its median R, once settled
    undecayed : shapes of the parameters whose weights move and do not decay
    kept : pairs of the shape of a parameter and its median R, for those that λ does not move and that shrink with λ = 0
    unmoved : shapes of the parameters that never move
    pushed : float
        The size of strong impulses, relative to the rms of their tensor's gradients, where small impulses did not show
        η_eff; else NaN.
    unfollowed : str — why η_eff is unknown, or nothing
    diverged : int or None — the step, from 0, after which weights were not finite
    """

    lr: float
    weight_decay: float
    given: str
    still: bool
    oscillates: bool
    held: bool
    coarse: Sequence[str]
    rounded: str
    ascends: bool
    noise: float
    phases: dict[str, Phase]
    memory: float
    delay: float
    lr_exponent: float
    decay_exponent: float
    mismatch: float
    coupling: float
    idle: float
    displaced: bool
    joins_gradient: bool
    by_hand: bool
    masked: float
    follows: str
    proportional: bool
    by_parameter: Sequence[tuple[tuple[int, ...], float]]
    undecayed: Sequence[tuple[int, ...]]
    kept: Sequence[tuple[tuple[int, ...], float]]
    unmoved: Sequence[tuple[int, ...]]
    pushed: float
    unfollowed: str
    diverged: int | None

    @property
    def later(self) -> dict[str, Phase]:
        """The phases after the first step, in which η_eff is measured."""
        return {name: phase for name, phase in self.phases.items() if name != "first step"}

    @property
    def uniform_phases(self) -> tuple[dict[str, Phase], bool]:
        """The phases, if R is the same for all weights in each, without memory; and whether the first step is omitted.

        The first step is omitted if it has no decay. There are no phases if R differs or is remembered.
        """
        first = self.phases["first step"]
        late = np.abs(np.nan_to_num(first.decay_rate)).max() <= self.noise
        readable = {name: phase for name, phase in self.later.items() if np.isfinite(phase.typical)}
        phases = readable if late else {"first step": first, **readable}
        remembers = self.memory > REMEMBERED
        if remembers or len(readable) < 2 or not all(phase.uniform for phase in phases.values()):
            return {}, late
        return phases, late

    @property
    def responds(self) -> bool:
        """Whether R is above round-off in any phase."""
        return any(np.abs(np.nan_to_num(phase.decay_rate)).max() > self.noise for phase in self.phases.values())

    @property
    def ratios(self) -> NDArray:
        """R/η_eff in each later phase: the median of R, divided by the isotropic η_eff."""
        with np.errstate(all="ignore"):
            return np.array([phase.typical / phase.isotropic for phase in self.later.values()])

    @property
    def keeps_first_lr(self) -> bool:
        """Whether R = c·ηλ of every weight has the η of the start, because R was the same after η was halved."""
        before, after = (self.phases.get(name) for name in ("gradients / 10", "lr / 2"))
        if before is None or after is None or abs(self.lr_exponent - 1) > SAME_RATIO:
            return False
        same = abs(after.typical - before.typical) <= SAME_RATIO * abs(before.typical)
        return bool(before.uniform and after.uniform and same and before.equals(after.decay_rate))

    @property
    def ratio_over_decay(self) -> float:
        """R/η_eff divided by λ, the median of the later phases."""
        return float(np.median([phase.ratio_over_decay for phase in self.later.values()]))

    @property
    def tells_stable(self) -> bool:
        """Whether R ∝ η_eff could be told from R ∝ η in these runs.

        Either η_eff/η changes from phase to phase, by more than ratios may differ that count as equal; or the step is
        linear in the gradient, with one η_eff/η for all weights.
        """
        gains = np.array([phase.gains for phase in self.later.values()])
        typical = np.array([quantiles(row[None])[0, 0] for row in gains])
        if not np.isfinite(typical).all():
            return False
        linear = np.abs(gains / typical[:, None] - 1) <= SAME_RATIO
        known = np.isfinite(gains)
        changes = np.ptp(typical) > 2 * SAME_RATIO * np.median(typical)
        return bool(changes or 100 * np.mean(linear[known]) >= MOSTLY)
