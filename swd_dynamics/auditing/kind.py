"""What kind of weight decay an optimizer has, by what its runs showed: the thresholds, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Kind = Literal["none", "L2", "decoupled", "stable", "other"]
Found = tuple[Kind, tuple[str, ...]]
KINDS: tuple[Kind, ...] = ("none", "L2", "decoupled", "stable", "other")

NOTHING = 1e-10  # a rate below this is round-off: 30·eps/1e-4 is 7e-11, of δ = 1e-4 beside a θ that may grow to 30
SAME = 0.02  # relative: rates that agree so far are one; drawing 1 % of the weights out of a mean moves it by less
RATIO = 0.05  # relative: R and η_eff are taken some steps apart, and √v̄ drifts by up to 3 % in between
RESIDUE = 0.2  # of the control's response: the run with decay has other weights, so that it cancels but for that much
MEMORY = 0.01  # in steps: what the memory takes off after a change is gone, over what the last step took off
MOSTLY = 90.0  # percent of the weights that must agree: a response through norms leaves outliers
SOME = 0.02  # of the steps and weights: fewer may be chance
COUPLED = 0.2  # of ηλ: what the median over the weights keeps of a response through norms
EXPONENT = 0.2  # L2 behind momentum .9 has 1.08, since R is not quite linear in ηλ
NONLINEAR = 0.05  # relative difference of the rates of δ and δ/2; what is smooth differs by about δ/θ = 5e-4


def quantiles(rates: NDArray) -> NDArray:
    """Median, 5th and 95th percentile over the weights of each row, shape (3, rows); NaN of a row with none known."""
    rows = [row[np.isfinite(row)] for row in rates]
    return np.array([np.percentile(row, [50, 5, 95]) if len(row) else np.full(3, np.nan) for row in rows]).T


class Phase(NamedTuple):
    """R of each weight net of the control, the control's own response, η_eff (NaN: unknown), ηλ, λ; shape (n,)."""

    decay_rate: NDArray
    control: NDArray
    effective_lr: NDArray
    nominal: NDArray
    weight_decay: NDArray

    @property
    def isotropic(self) -> np.float64:
        """One η_eff for all weights whose own is known, (mean of η_i⁻²)^−½, as √v̄ is the root of a mean."""
        known = self.effective_lr[np.isfinite(self.effective_lr)]
        return np.float64(np.mean(known**-2.0) ** -0.5 if len(known) else np.nan)

    @property
    def typical(self) -> np.float64:
        """The median R."""
        return quantiles(self.decay_rate[None])[0, 0]

    @property
    def unit(self) -> np.float64:
        """The median of R/ηλ."""
        with np.errstate(all="ignore"):
            return quantiles((self.decay_rate / self.nominal)[None])[0, 0]

    @property
    def ratio_over_decay(self) -> np.float64:
        """The median of R/λ over the one η_eff."""
        with np.errstate(all="ignore"):
            return quantiles((self.decay_rate / self.weight_decay)[None])[0, 0] / self.isotropic

    @property
    def residue(self) -> float:
        """What a median R may be without being one."""
        return NOTHING + RESIDUE * float(np.nan_to_num(quantiles(np.abs(self.control)[None])[0, 0]))

    @property
    def differs(self) -> bool:
        """Whether R is known, and differs from weight to weight."""
        return bool(np.isfinite(self.typical)) and not self.equals(self.typical, RATIO)

    @property
    def grows(self) -> bool:
        """Whether R < 0 in the median, and for nearly all weights, by more than a residue."""
        return bool(self.typical < -self.residue and np.nanpercentile(self.decay_rate, MOSTLY) < 0)

    @property
    def uniform(self) -> bool:
        """Whether nearly all weights have one R, or one R/ηλ, and it is above 0."""
        return bool(self.typical > NOTHING and (self.equals(self.typical) or self.equals(self.unit * self.nominal)))

    def equals(self, rate: "float | NDArray", tolerance: float = SAME) -> bool:
        """Whether nearly all weights have this R."""
        allowed = tolerance * np.abs(rate) + RESIDUE * np.abs(self.control)
        known = np.isfinite(self.decay_rate)
        return bool(known.any() and 100 * np.mean((np.abs(self.decay_rate - rate) <= allowed)[known]) >= MOSTLY)

    def of(self, weights: NDArray) -> "Phase":
        """The same, of some of the weights."""
        return Phase(*(values[weights] for values in self))


@dataclass(frozen=True)
class Seen:
    """What the runs of one optimizer showed.

    lr, weight_decay : float — NaN where the optimizer has none; of the first group with λ ≠ 0
    still : bool — whether no weight was moved
    oscillates : bool — whether a change of most weights changes its sign; R is that of its envelope then
    coarse : types of its state that hold fewer digits than the weights
    phases : dict — "first step", "settled", "gradients / 10", "lr / 2"; of the weights that are decayed
    memory, delay : float — steps' worth of decay that outlive a change of θ: its size, and with its sign
    lr_exponent, decay_exponent : float — R ∝ η^a λ^b when settled
    mismatch : float — between the rates of δ and δ/2, relative
    coupling : float — between the rates of two patterns of signs of δ, relative
    idle : float — share of steps and weights, when settled, in which nothing is taken off
    displaced : bool — whether λ moves the weights at all
    joins_gradient : bool — whether λ = 0 and gradients with λθ added give the same run
    by_hand : bool — whether λ = 0 and weights multiplied by 1 − ηλ before, or after, each step give the same run
    proportional : bool — whether the first step takes off R times the weight itself
    by_parameter : pairs of a shape and the median R of such a parameter, once settled
    undecayed : shapes of the parameters whose weights are not decayed
    unfollowed : str — why η_eff is unknown, where it is
    diverged : int or None — the step after which weights were not finite
    """

    lr: float
    weight_decay: float
    still: bool
    oscillates: bool
    coarse: Sequence[str]
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
    proportional: bool
    by_parameter: Sequence[tuple[tuple[int, ...], float]]
    undecayed: Sequence[tuple[int, ...]]
    unfollowed: str
    diverged: int | None

    @property
    def later(self) -> dict[str, Phase]:
        """The phases after the first step, in which η_eff is known."""
        return {name: phase for name, phase in self.phases.items() if name != "first step"}

    @property
    def responds(self) -> bool:
        """Whether decay is seen in any phase: R above round-off."""
        return any(np.abs(np.nan_to_num(phase.decay_rate)).max() > NOTHING for phase in self.phases.values())

    @property
    def ratios(self) -> NDArray:
        """R/η_eff in each later phase, isotropic."""
        with np.errstate(all="ignore"):
            return np.array([phase.typical / phase.isotropic for phase in self.later.values()])

    @property
    def ratio_over_decay(self) -> float:
        """R/η_eff over λ, the median of the phases."""
        return float(np.median([phase.ratio_over_decay for phase in self.later.values()]))


def kind_of(seen: Seen) -> tuple[Kind, tuple[str, ...]]:
    """The kind of decay, and the evidence for it in words.

    none
        A change of θ does not shrink more than with λ = 0, and λ moves nothing.
    L2
        With λ = 0 and λθ added to the gradients the optimizer takes the same steps, and R is not ηλ.
    decoupled
        With λ = 0 and weights multiplied by 1 − ηλ before, or after, each step the optimizer takes the same steps; or
        R = ηλ for every weight, in every phase (but for first steps without decay). In an optimizer without memory or
        preconditioner that is stable decay and L2 as well. R = c·ηλ is decoupled in other units.
    stable
        R/η_eff is one constant for all weights, through a change of the gradients' scale and of η, and R is not ηλ.
    other
        None of these, or not to be told: the evidence says what was seen.
    """
    if seen.diverged is not None:
        return "other", (f"the run diverged: weights not finite after step {seen.diverged + 1}",)
    found = _nothing(seen) or _l2(seen) or _by_hand(seen) or _unclear(seen) or _uniform(seen)
    kind, evidence = found or ("other", _remains(seen))
    return kind, (*evidence, *_remarks(seen, kind))


def _nothing(seen: Seen) -> Found | None:
    """No decay."""
    if seen.still:
        return "other", ("it moved no weight here, so that its decay was not seen",)
    if seen.weight_decay == 0:
        return "none", ("its weight_decay is 0",)
    if seen.responds or seen.displaced:
        return None
    idle = max(np.abs(np.nan_to_num(phase.control)).max() for phase in seen.phases.values())
    if idle > NOTHING:
        return "none", (f"a change of θ does what it does with λ = 0, up to {idle:.1g} of it in a step, and no more",)
    has = "" if np.isnan(seen.weight_decay) else f", and weight_decay = {seen.weight_decay:g} changes nothing"
    return "none", (f"a change of θ stays as it is, R = 0{has}",)


def _l2(seen: Seen) -> Found | None:
    """Decay that takes the way of the gradient."""
    simple = all(phase.equals(phase.nominal) for phase in seen.phases.values())
    if not seen.joins_gradient or simple:
        return None
    said = [_remembered(seen)] if seen.memory > MEMORY else []
    if seen.phases["settled"].differs:
        said.append(_spread(seen))
    return "L2", ("with λ = 0 and λθ added to the gradients it takes the same steps", *said)


def _unclear(seen: Seen) -> Found | None:
    """No linear decay to speak of."""
    if np.isnan(seen.weight_decay):
        said = "no control possible: it has no weight_decay to set to 0, and a change of θ does not stay as it is"
    elif not seen.responds:
        said = f"weight_decay moves the weights, but R < {NOTHING:g}: nonlinear, or too weak to be seen"
    elif seen.mismatch > NONLINEAR and not seen.coarse:
        said = f"nonlinear: the rates of δ and δ/2 differ by {seen.mismatch:.0%}"
    else:
        return None
    return "other", (said,)


def _by_hand(seen: Seen) -> Found | None:
    """Decoupled decay, whatever else the optimizer does with θ."""
    units = np.array([phase.unit for phase in seen.later.values()])
    if not seen.by_hand or not (np.abs(units - 1) <= COUPLED).all():
        return None
    said = "R = ηλ: with λ = 0 and weights multiplied by 1 − ηλ in each step it takes the same steps"
    return "decoupled", (said, *_same(seen))


def _same(seen: Seen) -> tuple[str, ...]:
    """What decoupled decay is as well, where η_eff = η, and where nothing comes between gradient and weight."""
    same = ["stable decay"] if _constant(seen.ratios, RATIO) and abs(seen.ratio_over_decay - 1) <= RATIO else []
    same += ["L2"] if seen.joins_gradient else []
    return (f"here the same as {' and '.join(same)}",) if same else ()


def _uniform(seen: Seen) -> Found | None:
    """Decoupled or stable: one R for all weights, without memory."""
    late = np.abs(np.nan_to_num(seen.phases["first step"].decay_rate)).max() <= NOTHING
    readable = {name: phase for name, phase in seen.later.items() if np.isfinite(phase.typical)}
    phases = readable if late else {"first step": seen.phases["first step"], **readable}
    if seen.memory > MEMORY or len(readable) < 2 or not all(phase.uniform for phase in phases.values()):
        return None
    when = "later phase" if late else "phase"
    but = ("the first step takes nothing off",) if late else ()
    units = np.array([phase.unit for phase in phases.values()])
    unit, ratio = float(np.median(units)), seen.ratio_over_decay
    stable, decoupled = _constant(seen.ratios, RATIO), _constant(units, SAME)
    is_stable = stable and abs(ratio - 1) <= RATIO
    if decoupled and abs(unit - 1) <= SAME:
        return "decoupled", (f"R = ηλ for every weight, in every {when}", *but, *_same(seen))
    if decoupled and not is_stable:
        return "decoupled", (f"R = {unit:.3g}·ηλ for every weight, in every {when}: decoupled in other units", *but)
    if stable:
        units_of = "λ" if is_stable else f"{ratio:.3g} λ"
        return "stable", (f"R/η_eff = {units_of} for every weight, through changes of the gradients and of η", *but)
    return None


def _spread(seen: Seen) -> str:
    """From where to where R goes over the weights."""
    _, low, high = quantiles(seen.phases["settled"].decay_rate[None])[:, 0]
    return f"R differs from weight to weight, {low:.2g} to {high:.2g} once settled"


def _ratio(seen: Seen) -> list[str]:
    """What R/η_eff of decoupled decay does."""
    if not _constant(seen.ratios, RATIO):
        return [f"R/η_eff moves, {' to '.join(f'{ratio:.2g}' for ratio in seen.ratios)}: not stable"]
    unit = seen.ratio_over_decay
    return [] if abs(unit - 1) <= RATIO else [f"R/η_eff = {unit:.3g} λ stands still too: stable in other units"]


def _constant(values: NDArray, tolerance: float) -> bool:
    return bool(np.isfinite(values).all() and np.ptp(values) <= tolerance * abs(np.median(values)))


def _remembered(seen: Seen) -> str:
    """What the memory does with a change of θ that is taken back."""
    if not seen.delay >= 0.5:
        return "a change of θ that is taken back leaves a trace in the memory"
    return f"a change of θ that is taken back acts on for {seen.delay:.2g} steps"


def _remains(seen: Seen) -> tuple[str, ...]:
    """What was seen of a decay that is none of the kinds."""
    units = [phase.unit for phase in seen.phases.values() if np.isfinite(phase.unit)]
    said = [f"R/ηλ is {', '.join(f'{unit:.3g}' for unit in units)} from phase to phase"]
    shares = [rate for _, rate in seen.by_parameter]
    if max(shares) - min(shares) > RATIO * max(shares):
        said.append("R is " + ", ".join(f"{rate:.2g} on shape {shape}" for shape, rate in seen.by_parameter))
    elif seen.phases["settled"].differs:
        said.append(_spread(seen))
    if seen.memory > MEMORY:
        said.append(_remembered(seen))
    return tuple(said)


def _remarks(seen: Seen, kind: Kind) -> tuple[str, ...]:
    """What is worth knowing beside the kind."""
    if kind == "none" or seen.still:
        return ()
    said = ["a change of θ oscillates; R is its envelope"] if seen.oscillates else []
    if seen.coarse:
        said.append(f"it keeps its state as {', '.join(seen.coarse)}: small changes are lost in it")
    if seen.undecayed:
        said.append(f"parameters of shape {', '.join(map(str, seen.undecayed))} are not decayed")
    if kind == "L2" and seen.mismatch > NONLINEAR and not seen.coarse:
        said.append(f"nonlinear: the rates of δ and δ/2 differ by {seen.mismatch:.0%}")
    if kind != "L2" and not seen.proportional and not seen.coarse:
        said.append("nonlinear: the first step takes off something else than R times the weight")
    if SOME < seen.idle < 1 - SOME:
        said.append(f"in {seen.idle:.0%} of the steps nothing is taken off a weight")
    if any(phase.grows for phase in seen.phases.values()):
        said.append("R < 0 in between: a change of θ grows")
    if kind == "decoupled" and np.isfinite(seen.ratios).all():
        said += _ratio(seen)
    if seen.unfollowed:
        so = "" if kind == "L2" else ", so that stable or not is not told"
        said.append(f"η_eff is unknown{so}: {seen.unfollowed}")
    for letter, exponent in (("η", seen.lr_exponent), ("λ", seen.decay_exponent)):
        if abs(exponent - 1) > EXPONENT:
            said.append(f"R ∝ {letter}^{exponent:.2f}")
    return tuple(said)
