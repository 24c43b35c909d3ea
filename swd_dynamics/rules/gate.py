"""The gate for rules: what a user gives in the place of a rule is taken, or refused with what to give instead."""

from typing import Any

from swd_dynamics.checks import shown
from swd_dynamics.errors import InputError
from swd_dynamics.rules.catalog import CATALOG, Entry
from swd_dynamics.rules.directions.sgd import SGD, HeavyBall, Nesterov, sgd_family
from swd_dynamics.rules.update import UpdateRule

EXAMPLE = 'CATALOG["AdamW"](lr=0.01, weight_decay=0.1)'
METHODS = {  # by which an object that is only a part of a rule is recognised
    "a direction": ("remember", "UpdateRule(0.1, HeavyBall(0.9)), with lr first"),
    "a decay": ("added_gradient", "UpdateRule(0.1, SGD(), Stable(0.05)), with lr and the direction first"),
    "a recording": ("data_vars", f"{EXAMPLE}. The rule comes first and the recording second"),
    "a Flow": ("starting_memory", "the rule itself, flow.rule"),
    "a torch optimizer": ("zero_grad", f"its rule, as {EXAMPLE}"),
}


def as_rule(given: Any, name: str = "rule") -> UpdateRule:
    """The rule, if it is one. Anything else is refused, with what to give instead.

    The name of an optimizer, or an entry of the catalogue without its brackets, is refused too: a default learning rate
    would decide the result without a word.

    Parameters
    ----------
    given : anything
    name : str
        What the message calls it.

    Raises
    ------
    InputError
        If it is not an UpdateRule.

    Examples
    --------
    >>> as_rule("SGD")
    Traceback (most recent call last):
    swd_dynamics.errors.InputError: rule = 'SGD' is only a name: give CATALOG["SGD"](lr=…) with your own numbers
    """
    if isinstance(given, UpdateRule):
        return given
    raise InputError(f"{name} = {shown(given)} {_problem(given)}")


def as_entry(given: Any, name: str = "name") -> Entry:
    """The entry of the catalogue with a name; an entry is taken as it is.

    Raises
    ------
    UnknownName
        If the catalogue has no such name.
    InputError
        If it is neither a name nor an entry.

    Examples
    --------
    >>> as_entry("AdamS"), as_entry(CATALOG["AdamS"])
    (CATALOG["AdamS"], CATALOG["AdamS"])
    """
    if isinstance(given, Entry):
        return given
    if not isinstance(given, str):
        raise InputError(f'{name} = {shown(given)} is not allowed: give the name of a rule, as "AdamW"')
    return CATALOG[given]


def entry_of(direction: Any, decay: type) -> Entry | None:
    """The entry of the catalogue that makes rules with such a direction and decay; None if there is none.

    Parameters
    ----------
    direction : Direction
    decay : type — out of DECAYS

    Examples
    --------
    >>> from swd_dynamics.rules import Stable
    >>> entry_of(HeavyBall(0.9), Stable)
    CATALOG["SGDS"]
    """
    family = sgd_family if isinstance(direction, SGD | HeavyBall | Nesterov) else type(direction)
    alike = (entry for entry in CATALOG.values() if (entry.family, entry.decay) == (family, decay))
    return next(alike, None)


def _problem(given: Any) -> str:
    """What is wrong with it, and what to give instead."""
    if isinstance(given, Entry):
        return f"has no numbers yet, because you forgot the brackets: give {given!r}(lr=…)"
    if isinstance(given, str):
        return f"is only a name: give {CATALOG[given]!r}(lr=…) with your own numbers"
    kind = given if isinstance(given, type) else type(given)
    if hasattr(given, "zero_grad") and kind.__name__ in CATALOG:
        return f'is a torch optimizer and not a rule: give its rule, CATALOG["{kind.__name__}"](lr=…)'
    for what, (method, instead) in METHODS.items():
        if hasattr(given, method):
            return f"is {what} and not a rule: give {instead}"
    if given is UpdateRule:
        return "is the class and not a rule: give UpdateRule(0.1, SGD()), for example"
    return f"is not an UpdateRule: give one, as {EXAMPLE} or UpdateRule(0.1, SGD())"
