"""The weight decay with which two optimizers have the same mean decay rate."""

from __future__ import annotations  # signatures in help() then say ArrayLike and not all that it stands for

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from swd_dynamics.arithmetic import is_symbolic
from swd_dynamics.checks import check
from swd_dynamics.crosscheck.recorded_rule import direction_arguments, groups_of, spans_of
from swd_dynamics.errors import InputError
from swd_dynamics.rules.catalog import CATALOG, Entry
from swd_dynamics.rules.decay import L2, Cautious, DecayStep, Preconditioned, Stable, mode_of
from swd_dynamics.rules.direction import Direction, Step
from swd_dynamics.rules.directions import RAdam
from swd_dynamics.rules.gate import as_rule
from swd_dynamics.rules.update import UpdateRule

if TYPE_CHECKING:
    import xarray

SAME_NUMBER = 1e-6  # relative: an optimizer may keep η as float32
SECOND_MOMENTS = ("v", "v_max")  # the names of the second moment in a direction's memory; v̄ is its mean


@dataclass(frozen=True)
class EquivalentDecay:
    """A weight decay and its decay rate.

    Attributes
    ----------
    weight_decay : float — λ
    decay_rate : float — mean R of a step

    Examples
    --------
    With momentum ¾ stable decay needs a quarter of decoupled decay's λ: both have R = ½·⅛.

    >>> sgdw, sgds = (CATALOG[name](lr=0.5, momentum=0.75, weight_decay=0.125) for name in ("SGDW", "SGDS"))
    >>> found = equivalent_weight_decay(sgdw, sgds)
    >>> found.weight_decay, found.decay_rate, found.time_scale
    (0.03125, 0.0625, 16.0)
    """

    weight_decay: float
    decay_rate: float

    @property
    def time_scale(self) -> float:
        """1/R, the number of steps in which decay alone leaves 1/e of a weight."""
        return 1 / self.decay_rate

    def __str__(self) -> str:
        rate = f"R = {self.decay_rate:.3g} a step, which leaves 1/e of a weight in {self.time_scale:.3g} steps"
        return f"λ = {self.weight_decay:.3g}: {rate}"


def equivalent_weight_decay(
    from_: UpdateRule, to: UpdateRule, statistics: xarray.Dataset | ArrayLike | None = None
) -> EquivalentDecay:
    """The λ with which ``to`` has the mean decay rate of ``from_``, so that both decay equally over a run.

    With η_eff = η(1−τ)/(1−β) for SGD and η/√v̄ for Adam, the mean ⟨⟩ over the steps and λ′ the λ of ``to``::

        R = λη (decoupled),  R = λη_eff (stable, and L2 to first order in η)
        λ′ = ⟨R⟩ of from_ / ⟨R/λ′⟩ of to

    Where η and v̄ are constant, λ of AdamW becomes λ√v̄ of AdamS. With L2 the rate is an average: with heavy ball it
    settles to 1 − (larger root of z² − (1+β−ηλ)z + β), which is λη_eff only to first order; with Adam every weight has
    a rate of its own.

    *Assumes* that the new run has the given second moments. Decay affects the second moments: with stronger decay
    gradients stay larger, so that R of AdamS is smaller.

    Parameters
    ----------
    from_, to : UpdateRule
        Two rules of any families, each with one η (or a schedule, a function of the step) and one λ; the λ of ``to`` is
        ignored. Translate each parameter group by itself. If a scheduler changed η in a recorded run of ``from_``, a
        number as η of ``from_`` stands for the recorded η, and a number as η of ``to`` for the same schedule times the
        ratio of the two numbers.
    statistics : xarray.Dataset, number or array of shape (steps,), optional
        v̄, the mean over all weights of Adam's v̂ = v/(1−β₂ᵏ): one number for all steps, or one for each step; or a
        recording of an Adam run by :func:`swd_dynamics.record`, which gives v̄ as (η/η_eff)². If the run is one of
        Adam and ``from_`` is too, it must have the η, the λ and the kind of decay of ``from_``. Not needed if neither
        rule has v̄. A schedule needs the steps, from a recording or an array. Recorded steps with η = 0 do not count.
        If the run has several groups, v̄ is the mean over the weights of all of them, and ``from_`` must have the η and
        the λ of one of them.

    Raises
    ------
    InputError
        If v̄ is needed and not given, unknown or not positive, or the recorded optimizer has no v̄; if the recorded
        optimizer has another η, λ or kind of decay than ``from_``; if a rule's R follows an η_eff that is not made of v̄
        alone, as RAdam's, Adagrad's, Adamax's and Lion's are not; if a rule has no decay, more than one η or λ, or a
        schedule without steps; if a scheduler gave the recorded groups different η and ``from_`` has a number.

    Source: the definition of stable decay, Xie, Sato & Sugiyama 2020, 2011.11152; the ratio is its consequence.

    Examples
    --------
    At √v̄ = ¼ η_eff of AdamS is four times η of AdamW, so that a quarter of λ is enough: R = .5·.125 = 1/16.

    >>> adamw, adams = (CATALOG[name](lr=0.125, weight_decay=0.5) for name in ("AdamW", "AdamS"))
    >>> found = equivalent_weight_decay(adamw, adams, 1 / 16)
    >>> found, found.time_scale
    (EquivalentDecay(weight_decay=0.125, decay_rate=0.0625), 16.0)
    """
    moments = _second_moments(statistics)
    for role, rule in (("from_", from_), ("to", to)):
        _check_rule(role, rule, moments)
    if hasattr(statistics, "attrs"):
        _check_same_run(from_, statistics)
        moments = moments._replace(lr=_changing_lr(from_, statistics))
    rate = _mean_decay_rate("from_", _scheduled(from_, from_, moments), moments, from_)
    return EquivalentDecay(rate / _mean_decay_rate("to", _scheduled(_per_unit(to), from_, moments), moments, to), rate)


class SecondMoments(NamedTuple):
    """v̄ of each step.

    steps : array, shape (steps,), or None — the number of steps before each step; None stands for any step
    v : array, shape (steps,) — v̄; NaN where it is unknown
    unknown : str — why v̄ may be unknown
    spans : array, shape (steps,), or None — how many steps each recorded step stands for; None stands for one
    lr : array, shape (steps,), or None — the recorded η of the run of ``from_``, where η changed along it
    """

    steps: np.ndarray | None
    v: np.ndarray
    unknown: str
    spans: np.ndarray | None = None
    lr: np.ndarray | None = None


def _second_moments(statistics) -> SecondMoments:
    if hasattr(statistics, "attrs"):
        return _recorded(statistics)
    if statistics is None:
        return SecondMoments(None, np.array([math.nan]), "give a recording of an Adam run, or v̄ itself")
    check("v̄", statistics, "(0, inf)")
    v = np.asarray(statistics, dtype=float)
    if v.ndim > 1 or not v.size:
        raise InputError(f"v̄ has shape {v.shape}: give one number, or one for each step")
    return SecondMoments(np.arange(v.size) if v.ndim else None, np.atleast_1d(v), "")


def _recorded(recording) -> SecondMoments:
    """v̄ as (η·gain/η_eff)², where the gain is η_eff/η at v̄ = 1: 1/(1−β) of RMSprop, and 1 of Adam.

    η and η_eff are summed over groups, because a group with η = 0 says nothing about v̄.
    """
    missing = [name for name in ("step", "lr", "effective_lr") if name not in recording.variables]
    if missing:
        raise InputError(f"the recording lacks {' and '.join(missing)}, which a translation of weight decay needs")
    lr, effective_lr = (np.asarray(recording[name], float).sum(axis=1) for name in ("lr", "effective_lr"))
    steps = np.asarray(recording["step"])[lr > 0] - 1 + max(0, int(recording.attrs.get("steps_before", 0)))
    spans = spans_of(recording)[lr > 0]
    if not len(steps):
        raise InputError("the recording holds no step with η > 0")
    name = str(recording.attrs.get("optimizer", "an unknown optimizer"))
    if not (name in CATALOG and _is_adaptive(CATALOG[name]().direction)):
        unknown = f"whether a recording of {name} has it is unknown, so give v̄ itself"
        return SecondMoments(steps, np.full(len(steps), math.nan), unknown, spans)
    gain = _gain(CATALOG[name], groups_of(recording) if "optimizer_arguments" in recording.attrs else [{}])
    with np.errstate(all="ignore"):
        v = (gain * lr / effective_lr)[lr > 0] ** 2
    v = np.where((v > 0) & np.isfinite(v), v, math.nan)
    return SecondMoments(steps, v, f"it is unknown or 0 in {np.isnan(v).sum()} of the recorded steps", spans)


def _gain(entry: Entry, groups: list[dict[str, Any]]) -> float:
    """η_eff/η at v̄ = 1; NaN where groups differ in it, because one η_eff is recorded for all of them."""
    each = {_effective_lr(entry.family(**own), 1.0, 1.0) for own in direction_arguments(entry, groups)}
    return each.pop() if len(each) == 1 else math.nan


def _is_adaptive(direction: Direction) -> bool:
    """Whether η_eff is known where v̄ is known, and only there."""
    return _is_translated(direction) and math.isnan(_effective_lr(direction, 1.0, math.nan))


def _is_translated(direction: Direction) -> bool:
    """Whether η_eff is made of η and v̄ alone, in every step, and v is a running mean: a sum of squares is not v̄."""
    if isinstance(direction, RAdam) or getattr(direction, "by_tensor", False):
        return False
    if not math.isfinite(_effective_lr(direction, 1.0, 1.0)):
        return False
    memory = direction.rest(math.nan)
    steady = memory._replace(**{name: 1.0 for name in SECOND_MOMENTS if name in memory._fields})
    after = direction.remember(steady, Step(math.nan, 1.0, 1.0, k=math.inf))
    return all(abs(getattr(after, name) - 1) < SAME_NUMBER for name in ("v",) if name in memory._fields)


def _effective_lr(direction: Direction, lr: float, v: float) -> float:
    """η_eff of a direction if only v̄ of its memory is known. v̄ is the mean of v̂, so no bias is corrected (k = ∞)."""
    memory = direction.rest(math.nan)
    known = {name: v for name in SECOND_MOMENTS if name in memory._fields}
    return float(direction.effective_lr(memory._replace(**known), Step(math.nan, math.nan, lr, k=math.inf)))


def _decay_rate(rule: UpdateRule, step: int, v: float) -> float:
    """R; for L2 to first order: η_eff times the decay's addition to the gradient for each unit of θ."""
    lr, joins = rule.lr_at(step), rule.decay.added_gradient(1.0)
    seen = DecayStep(math.nan, lr, step + 1, effective_lr=lambda: _effective_lr(rule.direction, lr, v))
    rate = rule.decay.decay_rate(seen)
    return float(rate + (joins * _effective_lr(rule.direction, lr, v) if joins else 0.0))


def _mean_decay_rate(role: str, rule: UpdateRule, moments: SecondMoments, given: UpdateRule | None = None) -> float:
    """The mean R of a rule; errors show the rule that the user gave, where it is another one."""
    shown = rule if given is None else given
    steps = [0] if moments.steps is None else moments.steps.tolist()
    rates = [_decay_rate(rule, step, v) for step, v in zip(steps, moments.v.tolist(), strict=True)]
    rate = float(np.average(rates, weights=moments.spans))
    if math.isnan(rate) and np.isnan(moments.v).any():
        raise InputError(f"{role} = {shown} needs v̄, the mean second moment of the gradients: {moments.unknown}")
    if not 0 < rate < math.inf:
        raise InputError(f"{role} = {shown} has the decay rate {rate:g}: there is no decay to translate")
    return rate


def _check_rule(role: str, rule: UpdateRule, moments: SecondMoments) -> None:
    as_rule(rule, role)
    if rule.has_schedule and moments.steps is None:
        raise InputError(f"{role} has a schedule, so the steps must be known: give a recording, or v̄ for each step")
    for name, value in (("lr", rule.lr_at(0)), ("weight_decay", rule.weight_decay)):
        if np.ndim(value) or is_symbolic(value):
            schedule = "for a schedule give a function of the step, or " if name == "lr" and np.ndim(value) == 1 else ""
            shown = f"{np.ravel(value)[0]:g}, … ({np.size(value)} numbers)" if np.ndim(value) else value
            raise InputError(
                f"{name} of {role} = {shown} is not one number: {schedule}translate each parameter group by itself"
            )
    if isinstance(rule.decay, Cautious | Preconditioned):
        raise InputError(
            f"{role} = {rule} has a decay rate of its own for each weight: a translation is one number for all weights"
        )
    if isinstance(rule.decay, Stable | L2) and not _is_translated(rule.direction):
        raise InputError(
            f"{role} = {rule} decays in proportion to η_eff, and the η_eff of {type(rule.direction).__name__} is not"
            " made of η and v̄ alone: only its decoupled decay can be translated. Record a run with each weight decay"
            " and compare decay_rate"
        )


def _is_of_family(rule: UpdateRule, recording: Any) -> bool:
    """Whether the recorded optimizer has η_eff of v̄ as the rule has, or neither has it."""
    name = str(recording.attrs.get("optimizer", ""))
    return name in CATALOG and _is_adaptive(CATALOG[name]().direction) == _is_adaptive(rule.direction)


def _changing_lr(rule: UpdateRule, recording: Any) -> np.ndarray | None:
    """The recorded η of each step in which some η is not 0, if η changed and the rule has one number."""
    lrs = np.asarray(recording["lr"], dtype=float)
    if rule.has_schedule or not rule.lr or not _is_of_family(rule, recording) or (lrs == lrs[0]).all():
        return None
    taken = lrs[lrs.sum(axis=1) > 0]
    moving = taken[:, (taken > 0).any(axis=0)]
    if not np.allclose(moving, moving[:, :1], rtol=SAME_NUMBER, atol=0):
        raise InputError(
            f"from_ has lr = {rule.lr:g}, but in the recording η changes, and otherwise in each of its"
            f" {moving.shape[1]} groups: give the η of one group as a function of the step"
        )
    return moving[:, 0]


def _check_same_run(rule: UpdateRule, recording: Any) -> None:
    """Refuse a recorded optimizer of the rule's family that decays otherwise; what is not recorded is not compared."""
    name = str(recording.attrs.get("optimizer", ""))
    if not _is_of_family(rule, recording) or "optimizer_arguments" not in recording.attrs:
        return
    groups = groups_of(recording)
    decoupled = any(group.get("decoupled_weight_decay") for group in groups)  # torch's Adam with this argument
    recorded = "decoupled" if decoupled else mode_of(CATALOG[name].decay)
    given = mode_of(rule.decay) or recorded
    if given != recorded:
        raise InputError(
            f"from_ = {rule} has {given} decay, but the recording is one of {name}, which has {recorded} decay:"
            " give the rule of the run that was recorded"
        )
    lrs = np.asarray(recording["lr"], dtype=float)
    lr_is_constant = not rule.has_schedule and bool((lrs == lrs[0]).all())
    numbers = {"weight_decay": [group["weight_decay"] for group in groups if "weight_decay" in group]}
    numbers |= {"lr": lrs[0].tolist()} if lr_is_constant else {}
    for number, values in numbers.items():
        own = rule.lr_at(0) if number == "lr" else rule.weight_decay
        if values and not np.isclose(own, values, rtol=SAME_NUMBER, atol=0).any():
            seen = " or ".join(f"{value:g}" for value in dict.fromkeys(values))
            raise InputError(
                f"from_ has {number} = {own:g}, but the recorded {name} has {number} = {seen}: give the rule of the"
                " run that was recorded"
            )


def _scheduled(rule: UpdateRule, from_: UpdateRule, moments: SecondMoments) -> UpdateRule:
    """The rule with the recorded η, times the ratio of its η to that of ``from_``; as it is where η is known."""
    if moments.lr is None or moments.steps is None or rule.has_schedule:
        return rule
    lrs = dict(zip(moments.steps.tolist(), (moments.lr * (rule.lr / from_.lr)).tolist(), strict=True))
    return replace(rule, lr=lrs.__getitem__)


def _per_unit(rule: UpdateRule) -> UpdateRule:
    """The rule with λ = 1."""
    decay: Any = rule.decay
    try:
        return replace(rule, decay=replace(decay, weight_decay=1.0))
    except TypeError:
        raise InputError(f"to = {rule!r} has no λ: its decay must be a dataclass with a weight_decay") from None
