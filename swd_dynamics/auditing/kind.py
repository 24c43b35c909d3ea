"""The kind of weight decay that an optimizer has, by the features of its runs."""

from typing import get_args

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.auditing.features import (
    EXPONENT,
    LATE,
    NONLINEAR,
    REMEMBERED,
    SAME_RATE,
    SAME_RATIO,
    AuditFeatures,
    Found,
    Kind,
    quantiles,
)
from swd_dynamics.auditing.powers import power_of_lr
from swd_dynamics.auditing.weightwise import cautious, preconditioned

KINDS: tuple[Kind, ...] = get_args(Kind)

LASTS = 0.5  # steps: a shorter delay of an effect that remains is no duration, because decay of both signs is summed
SOME = 0.02  # the share of steps and weights without decay that is worth a remark: a smaller share may be chance
COUPLED = 0.2  # relative: how far the median of R may be from ηλ, if each step depends on the norm of all weights
NO_POWER = 0.005  # an exponent that would be printed as 0.00: R does not depend on η or λ


def kind_of(features: AuditFeatures) -> tuple[Kind, tuple[str, ...]]:
    """The kind of decay, and the reasons for it in words.

    none
        A perturbation of the weights does not shrink more than with λ = 0, and λ does not move the weights.
    L2
        With λ = 0 and λθ added to the gradients the optimizer takes the same steps, and R is not ηλ.
    decoupled
        With λ = 0 and weights multiplied by 1 − ηλ before or after each step the optimizer takes the same steps; or
        R = ηλ for every weight, in every phase (first steps may be without decay). R = c·ηλ is decoupled in other
        units; R = ηλx follows a step size x that the optimizer adapts.
    stable
        R/η_eff is one constant for all weights, whatever the scale of the gradients and η are, and R is not ηλ. If
        η_eff/η differs between weights, it must also change from phase to phase, so that R ∝ η_eff can be seen.
    independent
        R of every weight depends on λ and on how η changes, but not on how large η is: R = cλη/η₀ with the first η as
        η₀, or R = cλ throughout. In papers also "fully decoupled".
    corrected
        R ∝ η² for every weight when η changes in a run: R = λη²/η₀ with the first η as η₀, as AdamC, or R = cλη².
    cautious
        With λ = 0 and ηλθ subtracted, after each step, from those weights that the step itself makes smaller, the
        steps are the same.
    preconditioned
        R differs from weight to weight and R/η_eff of each weight is one constant, whatever the gradients and η are,
        but λθ does not join the gradient.
    all the same
        The decay is L2, decoupled and stable at once, because the optimizer has neither momentum nor preconditioner:
        then R = ηλ and η_eff = η.
    other
        The decay is none of these, or could not be measured: the reasons say what was seen.
    """
    if features.diverged is not None:
        return "other", (f"the run diverged: weights are not finite after step {features.diverged + 1}",)
    in_turn = (_nothing, _l2, power_of_lr, _by_hand, cautious, _unclear, _uniform, preconditioned)
    kind, reasons = next(filter(None, (find(features) for find in in_turn)), ("other", _remains(features)))
    return kind, (*reasons, *_remarks(features, kind))


def _nothing(features: AuditFeatures) -> Found | None:
    """No decay."""
    if features.still:
        return "other", ("no weight moved, so that the decay could not be measured",)
    if features.kept and not features.displaced:
        return "other", (_kept(features),)
    if features.weight_decay == 0:
        on = "switch it on with --args weight_decay=0.1, or in Python with partial(…, weight_decay=0.1)"
        return "none", (f"decay is switched off, because weight_decay is 0: {on}",)
    if features.responds or features.displaced:
        return None
    idle = max(np.abs(np.nan_to_num(phase.control)).max() for phase in features.phases.values())
    if idle > features.noise:
        said = "a perturbation of the weights behaves as with λ = 0, where it changes by up to"
        return "none", (f"{said} {idle:.1g} of its size in a step",)
    known = not np.isnan(features.weight_decay)
    has = f", and weight_decay = {features.weight_decay:g} changes nothing" if known else ""
    return "none", (f"a perturbation of the weights is constant, R = 0{has}",)


def _kept(features: AuditFeatures) -> str:
    """Which parameters shrink though the λ of the parameter groups does not move them, and what to do."""
    rates = ", ".join(f"{rate:.3g} on shape {shape}" for shape, rate in features.kept)
    table = " (the table does not contain this R)" if features.weight_decay else ""
    return (
        f"with λ = 0 a perturbation of the weights still shrinks, R = {rates}{table}: the optimizer has a λ that its"
        " parameter groups do not set (of an inner optimizer, for example), or pulls the weights back in another way."
        " To measure this decay, give audit a class that takes weight_decay, and weight_decay as an argument of audit"
    )


def _l2(features: AuditFeatures) -> Found | None:
    """Decay that joins the gradient."""
    simple = all(phase.equals(phase.nominal) for phase in features.phases.values())
    if not features.joins_gradient or simple or features.follows:
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
        said = "no control is possible, because there is no weight_decay to set to 0, and a perturbation changes"
    elif not features.responds:
        said = (
            f"weight_decay moves the weights, but R < {features.noise:.1g}: it is nonlinear, or too weak to be measured"
        )
    elif features.mismatch > NONLINEAR and not features.coarse:
        said = f"nonlinear: half a perturbation has a rate that differs by {features.mismatch:.0%}"
    else:
        return None
    return "other", (said,)


def _by_hand(features: AuditFeatures) -> Found | None:
    """Decoupled decay, in any optimizer."""
    if features.follows:
        x = features.follows
        said = f"R = ηλ·{x}, where the optimizer adapts {x!r} in its parameter groups: with λ = 0 and the weights"
        also = ("here the same as L2",) if features.joins_gradient else ()
        return "decoupled", (f"{said} multiplied by 1 − ηλ·{x} in each step the steps are the same", *also)
    units = np.array([phase.unit for phase in features.later.values()])
    if not features.by_hand or not (np.abs(units - 1) <= COUPLED).all():
        return None
    said = "R = ηλ: with λ = 0 and the weights multiplied by 1 − ηλ in each step the steps are the same"
    return _or_all(features, (said,))


def _or_all(features: AuditFeatures, reasons: tuple[str, ...]) -> Found:
    """Decoupled decay with R = ηλ, or all kinds at once."""
    same = _same(features)
    if len(same) == 2:
        why = "there is neither momentum nor a preconditioner"
        return "all the same", (f"L2, decoupled and stable decay are the same here, because {why}", *reasons)
    return "decoupled", (*reasons, *(f"here the same as {name}" for name in same))


def _same(features: AuditFeatures) -> list[str]:
    """The other kinds that decoupled decay is as well: where η_eff = η, and where nothing transforms the gradient."""
    is_stable = features.tells_stable and _constant(features.ratios, SAME_RATIO)
    is_stable = is_stable and abs(features.ratio_over_decay - 1) <= SAME_RATIO
    return ["stable decay"] * is_stable + ["L2"] * features.joins_gradient


def _uniform(features: AuditFeatures) -> Found | None:
    """Decoupled or stable decay: the same R for all weights, without memory."""
    phases, late = features.uniform_phases
    if not phases:
        return None
    when = "later phase" if late else "phase"
    but = ("the first step has no decay",) if late else ()
    units = np.array([phase.unit for phase in phases.values()])
    unit, ratio = float(np.median(units)), features.ratio_over_decay
    stable = features.tells_stable and _constant(features.ratios, SAME_RATIO)
    decoupled, is_stable = _constant(units, SAME_RATE), stable and abs(ratio - 1) <= SAME_RATIO
    if decoupled and abs(unit - 1) <= SAME_RATE:
        return _or_all(features, (f"R = ηλ for every weight, in every {when}", *but))
    if decoupled and not is_stable:
        return "decoupled", (f"R = {unit:.3g}·ηλ for every weight, in every {when} (decoupled in other units)", *but)
    if stable:
        of_decay = "λ" if is_stable else f"{ratio:.3g} λ"
        return "stable", (f"R/η_eff = {of_decay} for every weight, also when the gradients and η change", *but)
    return None


def needs_longer_runs(features: AuditFeatures) -> bool:
    """Whether decay may be stable, but the effect of a gradient lasts too long for that to be seen in these runs."""
    settled_anyway = features.diverged is not None or features.joins_gradient or bool(features.follows)
    if features.unfollowed != LATE or settled_anyway:
        return False
    phases, _ = features.uniform_phases
    return bool(phases) and _nothing(features) is None and any(abs(p.unit - 1) > SAME_RATE for p in phases.values())


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
    return (
        [] if same or not features.tells_stable else [f"R/η_eff = {unit:.3g} λ is constant too: stable in other units"]
    )


def _constant(values: NDArray, tolerance: float) -> bool:
    return bool(np.isfinite(values).all() and np.ptp(values) <= tolerance * abs(np.median(values)))


def _remembered(features: AuditFeatures) -> str:
    """What the memory does after a perturbation was undone."""
    if not features.delay >= LASTS:
        return "perturb the weights and undo it: an effect remains in the optimizer state"
    steps = f"{features.delay:.2g}"
    steps += " step" if steps == "1" else " steps"
    return f"perturb the weights and undo it: the effect lasts about {steps}, because momentum remembers it"


def states_duration(features: AuditFeatures) -> bool:
    """Whether the measured delay is how long an effect lasts; not where it is negative, or an effect remains."""
    return features.delay >= (LASTS if features.memory > REMEMBERED else 0)


def _remains(features: AuditFeatures) -> tuple[str, ...]:
    """What was seen of a decay that is none of the kinds."""
    units = [phase.unit for phase in features.phases.values() if np.isfinite(phase.unit)]
    said = [f"R/ηλ is {', '.join(f'{unit:.3g}' for unit in units)} from phase to phase"]
    if features.keeps_first_lr:
        said.insert(
            0,
            "R is proportional to the η that the optimizer was built with; a later change of η does not change R,"
            " so that the decay ignores schedules",
        )
    by_parameter = [(shape, rate) for shape, rate in features.by_parameter if np.isfinite(rate)]
    rates = np.array([rate for _, rate in by_parameter])
    if len(rates) > 1 and np.ptp(rates) > max(SAME_RATIO * np.abs(rates).max(), features.phases["settled"].residue):
        said.append("R is " + ", ".join(f"{rate:.3g} on shape {shape}" for shape, rate in by_parameter))
    elif features.phases["settled"].differs:
        said.append(_range(features))
    if features.memory > REMEMBERED:
        said.append(_remembered(features))
    if features.uniform_phases[0] and _constant(features.ratios, SAME_RATIO):
        said.append("R/η_eff is constant, but η_eff/η is too: whether R follows η_eff cannot be seen")
    return tuple(said)


def _remarks(features: AuditFeatures, kind: Kind) -> tuple[str, ...]:
    """What is worth knowing besides the kind."""
    given = [f"it was given {features.given}"] if features.given else []
    if features.still:
        return tuple(given)
    said = given + [_kept(features)] * bool(features.kept and features.displaced)
    if features.unmoved:
        said.append(f"parameters of shape {', '.join(map(str, features.unmoved))} never move")
    if features.rounded:
        said.append(f"its steps are rounded to {features.rounded}, so that R < {features.noise:.1g} cannot be seen")
    if kind == "none":
        return tuple(said)
    if features.ascends:
        said.append("its steps follow the gradient upwards")
    if features.held:
        said.append("a perturbation of the weights dies out within a few steps; it was renewed before each step")
    if features.oscillates:
        said.append("a perturbation of the weights oscillates; R is the rate of its envelope")
    if features.coarse:
        said.append(f"its state is kept as {', '.join(features.coarse)}, in which small changes are lost")
    if features.undecayed:
        said.append(f"parameters of shape {', '.join(map(str, features.undecayed))} do not decay")
    if kind == "L2" and features.mismatch > NONLINEAR and not features.coarse:
        said.append(f"nonlinear: half a perturbation has a rate that differs by {features.mismatch:.0%}")
    if kind != "L2" and not features.proportional and not features.coarse:
        said.append("nonlinear: the decay of the first step is not R times the weight")
    if SOME < features.idle < 1 - SOME:
        said.append(f"a weight does not decay in {features.idle:.0%} of the steps")
    if any(phase.grows for phase in features.phases.values()):
        said.append("R < 0 in a phase: a perturbation of the weights grows")
    if kind == "decoupled" and not features.follows and np.isfinite(features.ratios).all():
        said += _ratio(features)
    if np.isfinite(features.pushed) and not features.unfollowed:
        size = f"{features.pushed:.3g} of the rms of their tensor"
        why = "because a small change is lost to rounding or moves the weights out of proportion"
        said.append(f"η_eff is known to 25 % for eight weights in ten: gradients were changed by {size}, {why}")
    if features.unfollowed:
        so = "" if kind == "L2" else ", so that stable decay cannot be recognised"
        said.append(f"η_eff is unknown{so}: {features.unfollowed}")
    if features.follows or kind in ("independent", "corrected"):
        return tuple(said)  # the reason says how R follows η
    for symbol, exponent in (("η", features.lr_exponent), ("λ", features.decay_exponent)):
        if abs(exponent - 1) > EXPONENT:
            said.append(
                f"R does not depend on {symbol}"
                if abs(exponent) < NO_POWER
                else f"R is proportional to {symbol}^{exponent:.2f}"
            )
    return tuple(said)
