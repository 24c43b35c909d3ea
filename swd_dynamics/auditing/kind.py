"""The kind of weight decay that an optimizer has, by the features of its runs."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.auditing.features import (
    NONLINEAR,
    NOTHING,
    SAME_RATE,
    SAME_RATIO,
    AuditFeatures,
    quantiles,
)

Kind = Literal["none", "L2", "decoupled", "stable", "other"]
Found = tuple[Kind, tuple[str, ...]]
KINDS: tuple[Kind, ...] = ("none", "L2", "decoupled", "stable", "other")

REMEMBERED = 0.01  # in steps of decay: less decay than this after a perturbation was undone is not a memory
SOME = 0.02  # the share of steps and weights without decay that is worth a remark: a smaller share may be chance
COUPLED = 0.2  # relative: how far the median of R may be from ηλ, if each step depends on the norm of all weights
EXPONENT = 0.2  # how far an exponent may be from 1: L2 with momentum .9 has 1.08, since R is not quite linear in ηλ


def kind_of(features: AuditFeatures) -> tuple[Kind, tuple[str, ...]]:
    """The kind of decay, and the reasons for it in words.

    none
        A perturbation of the weights does not shrink more than with λ = 0, and λ does not move the weights.
    L2
        With λ = 0 and λθ added to the gradients the optimizer takes the same steps, and R is not ηλ.
    decoupled
        With λ = 0 and weights multiplied by 1 − ηλ before or after each step the optimizer takes the same steps; or
        R = ηλ for every weight, in every phase (first steps may be without decay). In an optimizer without memory and
        preconditioner the decay is then stable decay and L2 as well. R = c·ηλ is decoupled in other units.
    stable
        R/η_eff is one constant for all weights, whatever the scale of the gradients and η are, and R is not ηλ.
    other
        The decay is none of these, or could not be measured: the reasons say what was seen.
    """
    if features.diverged is not None:
        return "other", (f"the run diverged: weights are not finite after step {features.diverged + 1}",)
    found = _nothing(features) or _l2(features) or _by_hand(features) or _unclear(features) or _uniform(features)
    kind, reasons = found or ("other", _remains(features))
    return kind, (*reasons, *_remarks(features, kind))


def _nothing(features: AuditFeatures) -> Found | None:
    """No decay."""
    if features.still:
        return "other", ("no weight moved, so that the decay could not be measured",)
    if features.weight_decay == 0:
        return "none", ("its weight_decay is 0",)
    if features.responds or features.displaced:
        return None
    idle = max(np.abs(np.nan_to_num(phase.control)).max() for phase in features.phases.values())
    if idle > NOTHING:
        said = "a perturbation of the weights behaves as with λ = 0, where it changes by up to"
        return "none", (f"{said} {idle:.1g} of its size in a step",)
    known = not np.isnan(features.weight_decay)
    has = f", and weight_decay = {features.weight_decay:g} changes nothing" if known else ""
    return "none", (f"a perturbation of the weights is constant, R = 0{has}",)


def _l2(features: AuditFeatures) -> Found | None:
    """Decay that joins the gradient."""
    simple = all(phase.equals(phase.nominal) for phase in features.phases.values())
    if not features.joins_gradient or simple:
        return None
    said = []
    if features.memory > REMEMBERED:
        said.append(f"{_remembered(features)}; that is the mark of L2")
    if features.phases["settled"].differs:
        said.append(_range(features))
    return "L2", ("with λ = 0 and λθ added to the gradients the steps are the same", *said)


def _unclear(features: AuditFeatures) -> Found | None:
    """Decay that is not linear, or that cannot be told from something else."""
    if np.isnan(features.weight_decay):
        said = "no control is possible: there is no weight_decay to set to 0, and a perturbation is not constant"
    elif not features.responds:
        said = f"weight_decay moves the weights, but R < {NOTHING:g}: nonlinear, or too weak to be measured"
    elif features.mismatch > NONLINEAR and not features.coarse:
        said = f"nonlinear: the rates of δ and δ/2 differ by {features.mismatch:.0%}"
    else:
        return None
    return "other", (said,)


def _by_hand(features: AuditFeatures) -> Found | None:
    """Decoupled decay, in any optimizer."""
    units = np.array([phase.unit for phase in features.later.values()])
    if not features.by_hand or not (np.abs(units - 1) <= COUPLED).all():
        return None
    said = "R = ηλ: with λ = 0 and the weights multiplied by 1 − ηλ in each step the steps are the same"
    return "decoupled", (said, *_same(features))


def _same(features: AuditFeatures) -> tuple[str, ...]:
    """The other kinds that decoupled decay is as well: where η_eff = η, and where nothing transforms the gradient."""
    is_stable = _constant(features.ratios, SAME_RATIO) and abs(features.ratio_over_decay - 1) <= SAME_RATIO
    same = ["stable decay"] * is_stable + ["L2"] * features.joins_gradient
    return (f"here the same as {' and '.join(same)}",) if same else ()


def _uniform(features: AuditFeatures) -> Found | None:
    """Decoupled or stable decay: the same R for all weights, without memory."""
    first = features.phases["first step"]
    late = np.abs(np.nan_to_num(first.decay_rate)).max() <= NOTHING
    readable = {name: phase for name, phase in features.later.items() if np.isfinite(phase.typical)}
    phases = readable if late else {"first step": first, **readable}
    remembers = features.memory > REMEMBERED
    if remembers or len(readable) < 2 or not all(phase.uniform for phase in phases.values()):
        return None
    when = "later phase" if late else "phase"
    but = ("the first step has no decay",) if late else ()
    units = np.array([phase.unit for phase in phases.values()])
    unit, ratio = float(np.median(units)), features.ratio_over_decay
    stable, decoupled = _constant(features.ratios, SAME_RATIO), _constant(units, SAME_RATE)
    is_stable = stable and abs(ratio - 1) <= SAME_RATIO
    if decoupled and abs(unit - 1) <= SAME_RATE:
        return "decoupled", (f"R = ηλ for every weight, in every {when}", *but, *_same(features))
    if decoupled and not is_stable:
        return "decoupled", (f"R = {unit:.3g}·ηλ for every weight, in every {when}: decoupled in other units", *but)
    if stable:
        of_decay = "λ" if is_stable else f"{ratio:.3g} λ"
        return "stable", (f"R/η_eff = {of_decay} for every weight, also when the gradients and η change", *but)
    return None


def _range(features: AuditFeatures) -> str:
    _, low, high = quantiles(features.phases["settled"].decay_rate[None])[:, 0]
    return f"R differs from weight to weight: {low:.2g} to {high:.2g} once settled"


def _ratio(features: AuditFeatures) -> list[str]:
    """How R/η_eff of decoupled decay behaves."""
    if not _constant(features.ratios, SAME_RATIO):
        course = " to ".join(f"{ratio:.2g}" for ratio in features.ratios)
        return [f"R/η_eff changes from {course}: not stable"]
    unit = features.ratio_over_decay
    same = abs(unit - 1) <= SAME_RATIO
    return [] if same else [f"R/η_eff = {unit:.3g} λ is constant too: stable in other units"]


def _constant(values: NDArray, tolerance: float) -> bool:
    return bool(np.isfinite(values).all() and np.ptp(values) <= tolerance * abs(np.median(values)))


def _remembered(features: AuditFeatures) -> str:
    """What the memory does after a perturbation was undone."""
    if not features.delay >= 0.5:
        return "perturb the weights and undo it: an effect remains in the optimizer state"
    steps = f"{features.delay:.2g} steps"
    return f"perturb the weights and undo it: the effect lasts about {steps}, because momentum remembers it"


def _remains(features: AuditFeatures) -> tuple[str, ...]:
    """What was seen of a decay that is none of the kinds."""
    units = [phase.unit for phase in features.phases.values() if np.isfinite(phase.unit)]
    said = [f"R/ηλ is {', '.join(f'{unit:.3g}' for unit in units)} from phase to phase"]
    shares = [rate for _, rate in features.by_parameter]
    if max(shares) - min(shares) > SAME_RATIO * max(shares):
        said.append("R is " + ", ".join(f"{rate:.2g} on shape {shape}" for shape, rate in features.by_parameter))
    elif features.phases["settled"].differs:
        said.append(_range(features))
    if features.memory > REMEMBERED:
        said.append(_remembered(features))
    return tuple(said)


def _remarks(features: AuditFeatures, kind: Kind) -> tuple[str, ...]:
    """What is worth knowing besides the kind."""
    if kind == "none" or features.still:
        return ()
    said = []
    if features.oscillates:
        said.append("a perturbation of the weights oscillates; R is the rate of its envelope")
    if features.coarse:
        said.append(f"its state is kept as {', '.join(features.coarse)}, in which small changes are lost")
    if features.undecayed:
        said.append(f"parameters of shape {', '.join(map(str, features.undecayed))} do not decay")
    if kind == "L2" and features.mismatch > NONLINEAR and not features.coarse:
        said.append(f"nonlinear: the rates of δ and δ/2 differ by {features.mismatch:.0%}")
    if kind != "L2" and not features.proportional and not features.coarse:
        said.append("nonlinear: the decay of the first step is not R times the weight")
    if SOME < features.idle < 1 - SOME:
        said.append(f"a weight does not decay in {features.idle:.0%} of the steps")
    if any(phase.grows for phase in features.phases.values()):
        said.append("R < 0 in a phase: a perturbation of the weights grows")
    if kind == "decoupled" and np.isfinite(features.ratios).all():
        said += _ratio(features)
    if features.unfollowed:
        so = "" if kind == "L2" else ", so that stable decay cannot be recognised"
        said.append(f"η_eff is unknown{so}: {features.unfollowed}")
    for symbol, exponent in (("η", features.lr_exponent), ("λ", features.decay_exponent)):
        if abs(exponent - 1) > EXPONENT:
            said.append(f"R ∝ {symbol}^{exponent:.2f}")
    return tuple(said)
