"""Does an optimizer do what its paper says? It is driven, and every step is held against the rule."""

import json
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from swd_dynamics.arithmetic import is_symbolic
from swd_dynamics.crosscheck.replay import departures
from swd_dynamics.errors import InputError
from swd_dynamics.rules.directions.sgd import SGD, HeavyBall, Nesterov, sgd_family
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.verdict import Verdict, judge
from swd_dynamics.verification.near_rules import NEAR_RULES, Near, Variant
from swd_dynamics.verification.round_off import allowed_round_off

if TYPE_CHECKING:
    import xarray

WHY = "the largest departure in units of what rounding may do, 8·eps·√k or, where a rule is ill-conditioned, more"
UNKNOWN = "unknown"
MOST_STEPS = 100_000  # as many as memory holds with ease; a fault that shows later is one of rounding


def verify(
    factory: Callable[[Any], Any],
    rule: UpdateRule,
    *,
    steps: int = 200,
    seed: int = 0,
    allow: str | Sequence[str] = (),
) -> Verdict:
    """Hold a torch optimizer against a rule: does it do what its paper says?

    The optimizer is put through the scenarios of :data:`swd_dynamics.bench.drive.SCENARIOS`, in float64: gradients
    fixed beforehand, loud and quiet, of changing sign, with zeros; one parameter group, then two with their own η and λ
    on a schedule. Every step is compared as in :func:`~swd_dynamics.crosscheck.replay.replay`, from the optimizer's own
    θ. Where the two part, the rule is tried with the optimizer's own numbers (η, λ, β, ε, … of its parameter group),
    then the near rules of :data:`~swd_dynamics.verification.near_rules.NEAR_RULES`, and pairs of them; what explains
    *every* step to round-off is the cause.

    Parameters
    ----------
    factory : callable
        Takes parameters, or parameter groups, and returns the optimizer. If it takes no groups, there are none.
    rule : UpdateRule
        With one η and one λ, those that the factory gives the optimizer.
    steps : int
        Of each scenario, 2 to 100 000.
    seed : int
        Of the weights and the gradients.
    allow : str or sequence of str
        Near rules that are no fault here, as "eps-on-mean-root": the rule is changed so before it is compared.

    Returns
    -------
    Verdict
        Confirmed if the departure is at most 8·eps·√k at every step k (where the rule is ill-conditioned, more: see
        :func:`~swd_dynamics.verification.round_off.allowed_round_off`); ``measured`` is the largest, in units of
        what is allowed. Else refuted: ``first_departure`` is the earliest step (from 1) in any scenario, ``cause`` what
        explains all departures, or "unknown". Inconclusive, with the reason as ``cause``, if the optimizer cannot be
        driven. Evidence: ``departure``, ``allowed`` and ``recording``, dictionaries over the scenarios.

    Raises
    ------
    InputError
        If the factory makes no torch optimizer, or splits its parameters into groups; if the rule has a schedule or
        arrays, or ``allow`` has no place in it.

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
    _check(rule)
    steps, seed = _whole("steps", steps, 2, MOST_STEPS), _whole("seed", seed, 0)
    from swd_dynamics.bench.drive import SCENARIOS, drive  # torch only when it is needed

    allowed = [NEAR_RULES[name] for name in ([allow] if isinstance(allow, str) else allow)]
    driven = [_held(rule, drive(factory, scenario, steps, seed), allowed) for scenario in SCENARIOS]
    return _verdict(rule, driven, _own_numbers(rule, driven, allowed))


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
    if hasattr(decay, "weight_decay"):
        decay = replace(decay, weight_decay=decay.weight_decay * rates)
    tensor, group = recording["weight_parameter"].values, recording["weight_group"].values
    variant = _changed(Variant(replace(rule, lr=lambda step: lr[step], decay=decay), tensor, group), allowed)
    if variant is None:
        raise InputError(f"allow: {', '.join(near.cause for near in allowed)} has no place in {rule}")
    theta, gradients = recording["theta"].values, recording["gradient"].values
    departure = np.array(list(departures(variant, theta, gradients)))
    return Held(recording, variant, departure, allowed_round_off(variant, theta, gradients))


class OwnNumbers(NamedTuple):
    """What numbers of the optimizer differ from the rule's, and whether that alone explains every step."""

    said: str
    explains: bool


def _own_numbers(rule: UpdateRule, driven: Sequence[Held], allowed: Sequence[Near]) -> OwnNumbers | None:
    """The rule with the numbers in the optimizer's parameter group; None if they are the rule's or nothing departs."""
    found = json.loads(driven[0].recording.attrs["optimizer_arguments"])
    own = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    numbers = _numbers(rule)
    differ = [name for name, value in numbers.items() if name in own and not np.array_equal(own[name], value)]
    if not differ or all(held.first is None for held in driven):
        return None
    said = "the optimizer's " + "; its ".join(f"{name} {_said(own[name], numbers[name])}" for name in differ)
    try:
        changed = _with_numbers(rule, numbers | {name: own[name] for name in differ})
        explains = all(_held(changed, held.recording, allowed).first is None for held in driven)
    except (InputError, TypeError, ValueError):  # numbers that the rule has no place for
        explains = False
    return OwnNumbers(said, explains)


def _numbers(rule: UpdateRule) -> dict[str, Any]:
    """A rule's numbers, under the names that they have in torch."""
    direction, decay = cast(Any, rule.direction), cast(Any, rule.decay)
    numbers = {"lr": rule.lr, **({"weight_decay": decay.weight_decay} if hasattr(decay, "weight_decay") else {})}
    if isinstance(direction, SGD | HeavyBall | Nesterov):
        own = {name: getattr(direction, name, 0.0) for name in ("momentum", "dampening")}
        return {**numbers, **own, "nesterov": isinstance(direction, Nesterov)}
    names = [field.name for field in fields(direction)] if is_dataclass(direction) else []
    return {**numbers, **{name: getattr(direction, name) for name in names}}


def _with_numbers(rule: UpdateRule, numbers: dict[str, Any]) -> UpdateRule:
    """The rule with other numbers."""
    rest = {name: value for name, value in numbers.items() if name not in ("lr", "weight_decay")}
    direction, decay = rule.direction, rule.decay
    if isinstance(direction, SGD | HeavyBall | Nesterov):
        direction = sgd_family(**rest)
    elif rest:
        direction = replace(cast(Any, direction), **rest)
    if "weight_decay" in numbers:
        decay = replace(cast(Any, decay), weight_decay=numbers["weight_decay"])
    return UpdateRule(numbers["lr"], direction, decay)


def _said(own: Any, rules: Any) -> str:
    with np.errstate(over="ignore"):
        rounded = isinstance(own, float) and isinstance(rules, float) and own == float(np.float32(rules))
    are = "are" if isinstance(own, tuple) else "is"
    return f"{are} {rules} rounded to float32" if rounded else f"{are} {own}, the rule's {rules}"


def _whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or (most is not None and number > most):
        to = "or more" if most is None else f"to {most}"
        raise InputError(f"{name} = {value!r} is not allowed: it must be a whole number, {least} {to}")
    return number


def _check(rule: UpdateRule) -> None:
    if not isinstance(rule, UpdateRule):
        raise InputError(f"rule = {rule!r} is not an UpdateRule: take one from CATALOG")
    for name, value in (("lr", rule.lr), ("weight_decay", rule.weight_decay)):
        if callable(value) or np.ndim(value) or is_symbolic(value):
            raise InputError(
                f"{name} = {value} is not one number: schedule and groups are verify's own, give the first"
            )


def _verdict(rule: UpdateRule, driven: list[Held], own: OwnNumbers | None) -> Verdict:
    name = driven[0].recording.attrs["optimizer"]
    departed = [held for held in driven if held.first is not None]
    earliest = min(departed, key=lambda held: held.first or 0, default=None)
    verdict = judge(
        f"verify {name}",
        f"{name} steps as {rule.name} does, {sum(len(h.departure) for h in driven)} times in {len(driven)} scenarios",
        predicted=0.0,
        measured=max(float(held.excess.max(initial=0.0)) for held in driven),
        allowed=1.0,
        why="; ".join([WHY, *_remarks(rule, driven, earliest, own)]),
        first_departure=earliest and earliest.first,
        evidence={
            "departure": {held.recording.attrs["scenario"]: held.departure for held in driven},
            "allowed": {held.recording.attrs["scenario"]: held.allowed for held in driven},
            "recording": {held.recording.attrs["scenario"]: held.recording for held in driven},
        },
    )
    if departed:
        cause = own.said if own and own.explains else likely_cause(driven)
        return replace(verdict, status="refuted", cause=cause)
    raised = dict.fromkeys(held.recording.attrs["raised"] for held in driven if held.recording.attrs["raised"])
    return replace(verdict, status="inconclusive", cause="; ".join(raised)) if raised else verdict


def _remarks(rule: UpdateRule, driven: list[Held], earliest: Held | None, own: OwnNumbers | None) -> Iterator[str]:
    if earliest is not None and earliest.first is not None:
        at = earliest.first - 1
        yield f"at first {earliest.departure[at]:.1e} of ‖θ‖, {earliest.excess[at]:.1e} of these units"
        yield f"in {', '.join(repr(h.recording.attrs['scenario']) for h in driven if h.first is not None)}"
        for name, dtype in json.loads(earliest.recording.attrs["in_lower_precision"]).items():
            yield f"its {name} is {dtype}, with fewer digits than the weights"
    if own and not own.explains:
        yield f"{own.said}, which does not explain all of it"
    for recording in (held.recording for held in driven if held.recording.attrs["diverged_at_step"] >= 0):
        yield f"in {recording.attrs['scenario']!r} θ diverged at step {recording.attrs['diverged_at_step']}"
    if any(held.recording.attrs["ungrouped"] for held in driven):
        yield "the optimizer takes no parameter groups, so that they are not tried"
    if not np.any(rule.weight_decay):
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
