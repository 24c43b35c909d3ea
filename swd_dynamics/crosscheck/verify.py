"""Does an optimizer do what its paper says? It is driven, and every step is held against the rule."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from swd_dynamics.arithmetic import is_symbolic
from swd_dynamics.crosscheck.near_rules import NEAR_RULES, Near, Variant
from swd_dynamics.crosscheck.replay import departures
from swd_dynamics.crosscheck.round_off import allowed_round_off
from swd_dynamics.crosscheck.verdict import Verdict, judge
from swd_dynamics.errors import InputError
from swd_dynamics.rules.update import UpdateRule

if TYPE_CHECKING:
    import xarray

WHY = "the largest departure in units of what rounding may do, 8·eps·√k or, where a rule is ill-conditioned, more"
UNKNOWN = "unknown"


def verify(
    factory: Callable[[Any], Any],
    rule: UpdateRule,
    *,
    steps: int = 200,
    seed: int = 0,
    allow: str | Sequence[str] = (),
) -> Verdict:
    """Hold a torch optimizer against a rule: does it do what its paper says?

    The optimizer is put through the scenarios of :data:`swd_dynamics.probe.stream.SCENARIOS`, in float64: gradients
    fixed beforehand, loud and quiet, of changing sign, with zeros; one parameter group, then two with their own η and λ
    on a schedule. Every step is compared as in :func:`~swd_dynamics.crosscheck.replay.replay`, from the optimizer's own
    θ. Where the two part, the near rules of :data:`~swd_dynamics.crosscheck.near_rules.NEAR_RULES`, and pairs of them,
    are tried; one that explains *every* step to round-off is the cause.

    Parameters
    ----------
    factory : callable
        Takes parameters, or parameter groups, and returns the optimizer. If it takes no groups, there are none.
    rule : UpdateRule
        With one η and one λ, those that the factory gives the optimizer.
    steps : int
        Of each scenario, 2 or more.
    seed : int
        Of the weights and the gradients.
    allow : str or sequence of str
        Near rules that are no fault here, as "eps-on-mean-root": the rule is changed so before it is compared.

    Returns
    -------
    Verdict
        Confirmed if the departure is at most 8·eps·√k at every step k (where the rule is ill-conditioned, more: see
        :func:`~swd_dynamics.crosscheck.round_off.allowed_round_off`); ``measured`` is the largest, in units of what is
        allowed. Else refuted: ``first_departure`` is the earliest step (from 1) in any scenario, ``cause`` what
        explains all departures, or "unknown". Inconclusive, with the reason as ``cause``, if the optimizer cannot be
        driven. Evidence: ``departure``, ``allowed`` and ``recording``, dictionaries over the scenarios.

    Raises
    ------
    InputError
        If the factory makes no torch optimizer, the rule has a schedule or arrays, or ``allow`` has no place in it.

    Notes
    -----
    A rule without weight decay cannot tell where decay enters. A parameter without any gradient is not tried: torch
    leaves it alone, with a step count of its own, which is no part of a rule. Causes are looked for in plain SGD, heavy
    ball, Nesterov, Adam and AMSGrad; of other directions only in the decay.

    Examples
    --------
    >>> import torch
    >>> from swd_dynamics.rules import CATALOG
    >>> adamw = lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1)
    >>> verify(adamw, CATALOG["AdamW"](lr=0.01, weight_decay=0.1), steps=20).passed
    True
    >>> verdict = verify(adamw, CATALOG["AdamS"](lr=0.01, weight_decay=0.1), steps=20)
    >>> verdict.first_departure, verdict.cause
    (1, 'weight decay is decoupled: it takes off ηλ')
    """
    _check(rule, steps, seed)
    from swd_dynamics.probe.stream import SCENARIOS, drive  # torch only when it is needed

    allowed = [NEAR_RULES[name] for name in ([allow] if isinstance(allow, str) else allow)]
    driven = [_held(rule, drive(factory, scenario, steps, seed), allowed) for scenario in SCENARIOS]
    return _verdict(rule, driven)


class Held(NamedTuple):
    """A recording, the rule with its factors, how far they are apart, and how far they may be, shape (steps,)."""

    recording: "xarray.Dataset"
    variant: Variant
    departure: np.ndarray
    allowed: np.ndarray

    @property
    def excess(self) -> np.ndarray:
        """The departures in units of what is allowed."""
        return np.nan_to_num(self.departure / self.allowed, nan=np.inf, posinf=np.inf)

    @property
    def first(self) -> int | None:
        """The first departing step, from 1."""
        outside = self.excess > 1
        return int(np.argmax(outside)) + 1 if outside.any() else None

    def is_explained(self, causes: Sequence[Near]) -> bool:
        """Whether the rule with these changes takes every recorded step, to round-off."""
        changed = _changed(self.variant, causes)
        if changed is None:
            return False
        each = departures(changed, self.recording["theta"].values, self.recording["gradient"].values)
        return all(departure <= allowed for departure, allowed in zip(each, self.allowed, strict=True))


def _changed(variant: Variant, causes: Sequence[Near]) -> Variant | None:
    changed: Variant | None = variant
    for near in causes:
        changed = None if changed is None else near.change(changed)
    return changed


def _held(rule: UpdateRule, recording, allowed: Sequence[Near]) -> Held:
    """The rule with the factors of a recording, and what is allowed for, against the recording."""
    lr, rates = rule.lr * recording["lr_factor"].values, recording["weight_decay_factor"].values
    decay: Any = rule.decay
    if hasattr(decay, "rate"):
        decay = replace(decay, rate=decay.rate * rates)
    tensor, group = recording["weight_parameter"].values, recording["weight_group"].values
    variant = _changed(Variant(replace(rule, lr=lambda step: lr[step], decay=decay), tensor, group), allowed)
    if variant is None:
        raise InputError(f"allow: {', '.join(near.cause for near in allowed)} has no place in {rule}")
    theta, gradients = recording["theta"].values, recording["gradient"].values
    departure = np.array(list(departures(variant, theta, gradients)))
    return Held(recording, variant, departure, allowed_round_off(variant, theta, gradients))


def _check(rule: UpdateRule, steps: int, seed: int) -> None:
    if not isinstance(rule, UpdateRule):
        raise InputError(f"rule = {rule!r} is not an UpdateRule: take one from CATALOG")
    if not isinstance(steps, int) or steps < 2:
        raise InputError(f"steps = {steps!r} is not allowed: it must be a whole number, 2 or more")
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed = {seed!r} is not allowed: it must be a whole number, 0 or more")
    for name, value in (("lr", rule.lr), ("weight_decay", getattr(rule.decay, "rate", 0.0))):
        if callable(value) or np.ndim(value) or is_symbolic(value):
            raise InputError(
                f"{name} = {value} is not one number: schedule and groups are verify's own, give the first"
            )


def _verdict(rule: UpdateRule, driven: list[Held]) -> Verdict:
    name = driven[0].recording.attrs["optimizer"]
    departed = [held for held in driven if held.first is not None]
    earliest = min(departed, key=lambda held: held.first or 0, default=None)
    verdict = judge(
        f"verify {name}",
        f"{name} steps as the rule says, {sum(len(h.departure) for h in driven)} times in {len(driven)} scenarios",
        predicted=0.0,
        measured=max(float(held.excess.max(initial=0.0)) for held in driven),
        allowed=1.0,
        why="; ".join([WHY, *_remarks(rule, driven, earliest)]),
        first_departure=earliest and earliest.first,
        evidence={
            "departure": {held.recording.attrs["scenario"]: held.departure for held in driven},
            "allowed": {held.recording.attrs["scenario"]: held.allowed for held in driven},
            "recording": {held.recording.attrs["scenario"]: held.recording for held in driven},
        },
    )
    if departed:
        return replace(verdict, status="refuted", cause=likely_cause(driven))
    raised = dict.fromkeys(held.recording.attrs["raised"] for held in driven if held.recording.attrs["raised"])
    return replace(verdict, status="inconclusive", cause="; ".join(raised)) if raised else verdict


def _remarks(rule: UpdateRule, driven: list[Held], earliest: Held | None) -> Iterator[str]:
    if earliest is not None and earliest.first is not None:
        at = earliest.first - 1
        yield f"at first {earliest.departure[at]:.1e} of ‖θ‖, {earliest.excess[at]:.1e} of these units"
        yield f"in {', '.join(repr(h.recording.attrs['scenario']) for h in driven if h.first is not None)}"
    for recording in (held.recording for held in driven if held.recording.attrs["diverged_at_step"] >= 0):
        yield f"in {recording.attrs['scenario']!r} θ diverged at step {recording.attrs['diverged_at_step']}"
    if any(held.recording.attrs["ungrouped"] for held in driven):
        yield "the optimizer takes no parameter groups, so that they are not tried"
    if not np.any(getattr(rule.decay, "rate", 0.0)):
        yield "weight decay is 0, so that where it enters is not tried"


def likely_cause(driven: Sequence[Held]) -> str:
    """What explains every step of every recording: a near rule, else two of them, else "unknown".

    Near rules that explain them equally well are one map on these recordings, and all are named.
    """
    near = list(NEAR_RULES.values())
    singles = [(each,) for each in near]
    pairs = [pair for pair in combinations(near, 2) if pair[0].line != pair[1].line]
    for candidates in (singles, pairs):
        found = [causes for causes in candidates if all(held.is_explained(causes) for held in driven)]
        if found:
            return ", or the same here: ".join("; and ".join(each.cause for each in causes) for causes in found)
    return UNKNOWN
