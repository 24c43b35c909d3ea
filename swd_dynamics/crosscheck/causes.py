"""Why steps differ from a rule: other numbers, or a near rule, with which every step agrees."""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple, cast

import numpy as np

from swd_dynamics.crosscheck.near_rules import NEAR_RULES, AlteredRule, NearRule
from swd_dynamics.crosscheck.recorded_rule import groups_of, per_weight, recorded_lr, with_shapes
from swd_dynamics.crosscheck.stepping import Stepping, departures
from swd_dynamics.errors import InputError
from swd_dynamics.rules.directions.sgd import SGD, HeavyBall, Nesterov, sgd_family
from swd_dynamics.rules.gate import entry_of
from swd_dynamics.rules.update import UpdateRule

NO_CAUSE = "unknown"
# Weights up to which pairs of near rules are tried. They take about ten seconds with so many; with ten times as many
# a user would wait for minutes.
FEW_WEIGHTS = 20_000
# Tried alone, where no other single near rule explains the steps. In pairs they would take half as long again.
SELDOM = ("cautious", "preconditioned", "corrected", "decay-grows", "default-lr", "betas-swapped-in-corrections",
          "count-of-all-tensors", "count-of-a-groups-tensors")  # fmt: skip
SYMBOLS = {"lr": "η", "weight_decay": "λ"}
COUNTS = {2: "two", 3: "three", 4: "four"}


def changed_by(altered: AlteredRule, causes: Sequence[NearRule]) -> AlteredRule | None:
    """The rule with some changes; None if it has no place for one of them."""
    changed: AlteredRule | None = altered
    for near in causes:
        changed = None if changed is None else near.change(changed)
    return changed


def takes_every_step(rule: Stepping, theta: np.ndarray, gradients: np.ndarray, allowed: np.ndarray) -> bool:
    """Whether the rule takes every recorded step, to what is allowed."""
    each = departures(rule, theta, gradients)
    return all(departure <= most for departure, most in zip(each, allowed, strict=True))


def likely_cause(explains: Callable[[Sequence[NearRule]], bool], *, pairs: bool = True) -> str:
    """The near rule that explains every step, or else two near rules together, or else "unknown".

    If several near rules explain every step, they are the same map on these steps, and all are named.

    Parameters
    ----------
    explains : callable
        Takes near rules, and returns whether the rule with these changes takes every step.
    pairs : bool
        Whether to try two near rules together.

    Examples
    --------
    >>> likely_cause(lambda causes: causes == (NEAR_RULES["no-eps"],))
    'there is no ε'
    """
    return cause_in_words(explaining(explains, pairs=pairs))


def explaining(explains: Callable[[Sequence[NearRule]], bool], *, pairs: bool = True) -> list[tuple[str, ...]]:
    """The names of the near rules that explain every step, each alone or two together; none if nothing does.

    Examples
    --------
    >>> explaining(lambda causes: causes == (NEAR_RULES["no-eps"],))
    [('no-eps',)]
    """
    usual = [name for name in NEAR_RULES if name not in SELDOM]
    both = [pair for pair in combinations(usual, 2) if _can_both_be(*pair)] if pairs else []
    for candidates in ([(name,) for name in usual], [(name,) for name in SELDOM], both):
        found = [names for names in candidates if explains(tuple(NEAR_RULES[name] for name in names))]
        if found:
            return found
    return []


def _can_both_be(one: str, other: str) -> bool:
    return NEAR_RULES[one].line != NEAR_RULES[other].line


def cause_in_words(found: Sequence[Sequence[str]]) -> str:
    """The causes in words, from the names of near rules that explain every step; "unknown" if there are none."""
    said = ["; and ".join(NEAR_RULES[name].cause for name in names) for names in found]
    return ", or the same here: ".join(said) or NO_CAUSE


class Explanation(NamedTuple):
    """Why a recording differs from a rule, as far as that is known.

    cause : str — what explains every step, or "unknown"
    remark : str — other numbers of the recording that do not explain every step, or nothing
    """

    cause: str
    remark: str = ""


def explanation(
    rule: UpdateRule, recording: Any, theta: np.ndarray, gradients: np.ndarray, allowed: np.ndarray
) -> Explanation:
    """Look for the cause: the recording's own numbers and parameter groups, then near rules, then both."""
    tensor, group = (_labels(recording, name, theta.shape[1]) for name in ("weight_parameter", "weight_group"))

    def near(base: UpdateRule) -> str:
        def explains(causes: Sequence[NearRule]) -> bool:
            changed = changed_by(AlteredRule(with_shapes(base, recording), tensor, group), causes)
            return changed is not None and takes_every_step(changed, theta, gradients, allowed)

        return likely_cause(explains, pairs=theta.shape[1] <= FEW_WEIGHTS)

    own = differing_numbers(rule, recording, theta.shape[1])
    if own is not None and own.rule is not None:
        if takes_every_step(with_shapes(own.rule, recording), theta, gradients, allowed):
            entry = entry_of(rule.direction, type(rule.decay))
            advice = f'; replay("{entry.name}", recording) takes the recording\'s own numbers' if entry else ""
            return Explanation(own.said + advice)
        besides = near(own.rule)
        if besides != NO_CAUSE:
            return Explanation(f"{own.said}; and in the recording {besides}")
    return Explanation(near(rule), not_all(own.said) if own else "")


def not_all(said: str) -> str:
    """The remark that other numbers are not the whole cause."""
    return f"{said[0].upper()}{said[1:]}. This alone does not explain every step."


def _labels(recording: Any, name: str, weights: int) -> np.ndarray:
    """The tensor or the group of each weight; one for all where the recording does not say."""
    return np.asarray(recording[name], int) if name in recording else np.zeros(weights, int)


class Differing(NamedTuple):
    """The numbers of a recording that differ from a rule's, in words; and the rule with these numbers, if it can be."""

    said: str
    rule: UpdateRule | None


def differing_numbers(rule: UpdateRule, recording: Any, weights: int) -> Differing | None:
    """The recorded numbers that are not the rule's; None if all are, or if the recording does not say its numbers."""
    try:
        groups = groups_of(recording)
    except InputError:
        return None
    if len(groups) > 1 and "weight_group" not in recording:
        return None
    own = {name: values for name in rule_numbers(rule) if (values := _of_groups(groups, name)) is not None}
    if "lr" in recording and recording["lr"].size:
        own["lr"] = _ends(np.asarray(recording["lr"], float))
    differ = [name for name in own if not _is_same(rule, name, own[name], recording, weights)]
    if not differ:
        return None
    said = ", and ".join(f"{SYMBOLS.get(name, name)} {_are(own[name])}" for name in differ)
    rules = " and ".join(f"{SYMBOLS.get(name, name)} {_of_rule(rule, name)}" for name in differ)
    count = f"{COUNTS.get(len(groups), len(groups))} groups with " if len(groups) > 1 else ""
    always = " in every step" * ("at the end" in said) + " for all weights" * (len(groups) > 1)
    said = f"the recording has {count}{said}, but the rule has {rules}{always * ('array' not in rules)}"
    return Differing(said, _with_recorded(rule, differ, own, recording))


def _of_groups(groups: Sequence[dict], name: str) -> list | None:
    """A number of each group; None where a group has none."""
    if not all(isinstance(group.get(name), int | float | list) for group in groups):
        return None
    return [tuple(group[name]) if isinstance(group[name], list) else group[name] for group in groups]


def _ends(lrs: np.ndarray) -> list:
    """The first learning rate of each group, and in words the last one if it changes."""
    first, last, changes = lrs[0], lrs[-1], np.ptp(lrs, axis=0) > 0
    return [f"{_number(a)} ({_number(b)} at the end)" if c else a for a, b, c in zip(first, last, changes, strict=True)]


def _is_same(rule: UpdateRule, name: str, values: list, recording: Any, weights: int) -> bool:
    """Whether the rule has these numbers of the groups."""
    if name == "lr" and "lr" in recording:
        recorded = recorded_lr(recording)
        at = recorded if callable(recorded) else lambda _: recorded
        steps = range(recording.sizes["step"])
        return all(np.equal(np.broadcast_to(rule.lr_at(k), weights), at(k)).all() for k in steps)
    if name in SYMBOLS:
        rules = rule.lr_at(0) if name == "lr" else rule.weight_decay
        return bool(np.all(np.equal(rules, per_weight(values, recording))))
    return all(np.array_equal(value, rule_numbers(rule)[name]) for value in values)


def _with_recorded(rule: UpdateRule, names: Sequence[str], own: dict[str, list], recording: Any) -> UpdateRule | None:
    """The rule with these recorded numbers; None if it cannot have them."""
    numbers: dict[str, Any] = {}
    for name in names:
        if name == "lr" and "lr" in recording:
            numbers[name] = recorded_lr(recording)
        elif name in SYMBOLS:
            numbers[name] = per_weight(own[name], recording)
        elif any(value != own[name][0] for value in own[name]):  # a rule has one direction for all weights
            return None
        else:
            numbers[name] = own[name][0]
    try:
        return with_rule_numbers(rule, numbers)
    except (InputError, TypeError, ValueError):  # numbers that the rule has no place for
        return None


def _are(values: Sequence[Any]) -> str:
    """The numbers of all groups: "= 0.1 and 0", or "= 0.1" where they are the same."""
    said = list(map(_number, values))
    if len(set(said)) == 1:
        return f"= {said[0]}"
    if len(said) <= max(COUNTS):
        return f"= {', '.join(said[:-1])} and {said[-1]}"
    return f"= {', '.join(said[:3])}, …"


def _number(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_number, value))})"
    return str(value) if isinstance(value, bool | str) else str(float(value)).removesuffix(".0")


def _of_rule(rule: UpdateRule, name: str) -> str:
    value = rule_numbers(rule)[name]
    if callable(value):
        return "on a schedule"
    return f"= {_number(value)}" if isinstance(value, tuple) or np.ndim(value) == 0 else "as an array"


def rule_numbers(rule: UpdateRule) -> dict[str, Any]:
    """A rule's numbers, under the names that they have in torch."""
    decay = cast(Any, rule.decay)
    decays = {"weight_decay": decay.weight_decay} if hasattr(decay, "weight_decay") else {}
    return {"lr": rule.lr, **decays, **_made_of(rule.direction)[1]}


def with_rule_numbers(rule: UpdateRule, numbers: dict[str, Any]) -> UpdateRule:
    """The rule with some numbers changed."""
    family, own = _made_of(rule.direction)
    direction = family(**{name: numbers.get(name, own[name]) for name in own})
    decay = rule.decay
    if "weight_decay" in numbers:
        decay = replace(cast(Any, decay), weight_decay=numbers["weight_decay"])
    return UpdateRule(numbers.get("lr", rule.lr), direction, decay)


def _made_of(direction: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What makes such a direction, and the numbers that it is made of, under the names that they have in torch."""
    if isinstance(direction, SGD | HeavyBall | Nesterov):
        numbers = {name: getattr(direction, name, 0.0) for name in ("momentum", "dampening")}
        return sgd_family, {**numbers, "nesterov": isinstance(direction, Nesterov)}
    if not is_dataclass(direction) or isinstance(direction, type):
        return lambda: direction, {}
    return partial(replace, direction), {each.name: getattr(direction, each.name) for each in fields(direction)}
