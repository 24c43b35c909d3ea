"""The rule that a recorded scenario is compared with, and the rule with the optimizer's own numbers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from swd_dynamics.crosscheck.causes import changed_by, rule_numbers, with_rule_numbers
from swd_dynamics.crosscheck.near_rules import NEAR_RULES, AlteredRule, NearRule
from swd_dynamics.crosscheck.recorded_rule import with_shapes
from swd_dynamics.errors import InputError
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.tables import UnknownName, nearest

if TYPE_CHECKING:
    import xarray


def altered_for(rule: UpdateRule, recording: "xarray.Dataset", allowed: Sequence[NearRule]) -> AlteredRule:
    """The rule with the scenario's factors on η and λ, and with the changes that a user allows.

    Raises
    ------
    InputError
        If the rule has no place for one of the changes.
    """
    lr, factor = rule.lr * recording["lr_factor"].values, recording["weight_decay_factor"].values
    decay: Any = rule.decay
    if hasattr(decay, "weight_decay"):
        decay = replace(decay, weight_decay=decay.weight_decay * factor)
    tensor, group = recording["weight_parameter"].values, recording["weight_group"].values
    scaled = with_shapes(replace(rule, lr=lambda k: lr[k], decay=decay), recording)
    plain = AlteredRule(
        scaled,
        tensor,
        group,
        dimensions=recording["weight_dimensions"].values,
        built_with=(rule.lr, rule.weight_decay),
    )
    altered = changed_by(plain, allowed)
    if altered is None:
        raise InputError(
            f"allow: {', '.join(near.cause for near in allowed)} has no place in {rule}; near rules that have:"
            f" {', '.join(near_rules_of(rule))}"
        )
    return altered


def near_rules_of(rule: UpdateRule) -> list[str]:
    """The names of the near rules that have a place in a rule, in two groups of tensors.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> [name for name in near_rules_of(CATALOG["SGDW"](0.5, weight_decay=0.5)) if "eps" in name or "sign" in name]
    []
    """
    decay: Any = rule.decay
    if hasattr(decay, "weight_decay"):
        decay = replace(decay, weight_decay=np.full(2, decay.weight_decay))
    two = np.arange(2)
    built_with = (rule.lr, rule.weight_decay)
    altered = AlteredRule(replace(rule, decay=decay), two, two, dimensions=two + 1, built_with=built_with)
    return [name for name, near in NEAR_RULES.items() if near.change(altered) is not None]


def chosen_near_rules(names: str | Sequence[str], rule: UpdateRule) -> list[NearRule]:
    """The near rules of these names.

    Raises
    ------
    UnknownName
        If there is none of a name; the message lists the near rules that have a place in the rule, the nearest first.
    """
    chosen = [names] if isinstance(names, str) else names
    for name in chosen:
        if name not in NEAR_RULES:
            known = ", ".join(nearest(str(name), near_rules_of(rule)))
            raise UnknownName(f"unknown near rule {name!r}; those of {rule.name} are {known}")
    return [NEAR_RULES[name] for name in chosen]


class OwnNumbers(NamedTuple):
    """Which numbers of the optimizer differ from the rule's, and whether that alone explains every step."""

    said: str
    explains: bool


def own_numbers(
    rule: UpdateRule, recordings: "Sequence[xarray.Dataset]", takes: "Callable[[UpdateRule, xarray.Dataset], bool]"
) -> OwnNumbers | None:
    """The rule with the numbers of the optimizer's parameter group; None if they are the rule's.

    takes : whether a rule takes every step of a recording
    """
    first_group = json.loads(recordings[0].attrs["optimizer_arguments"])[0]
    own = {name: tuple(value) if isinstance(value, list) else value for name, value in first_group.items()}
    numbers = rule_numbers(rule)
    differ = [name for name, value in numbers.items() if name in own and not np.array_equal(own[name], value)]
    if not differ:
        return None
    said = ", and ".join(f"the optimizer's {name} {_said(own[name], numbers[name])}" for name in differ)
    try:
        changed = with_rule_numbers(rule, {name: own[name] for name in differ})
        explains = all(takes(changed, each) for each in recordings)
    except (InputError, TypeError, ValueError):  # numbers that the rule has no place for
        explains = False
    return OwnNumbers(said, explains)


def _said(own: Any, rules: Any) -> str:
    with np.errstate(over="ignore"):
        rounded = isinstance(own, float) and isinstance(rules, float) and own == float(np.float32(rules))
    are = "are" if isinstance(own, tuple) else "is"
    return f"{are} {rules} rounded to float32" if rounded else f"{are} {own}, but the rule's {are} {rules}"
