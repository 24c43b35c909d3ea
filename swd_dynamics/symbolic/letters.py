"""A rule with a symbol for every number in it, and the number of each symbol."""

import dataclasses
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import sympy
from sympy import Symbol

from swd_dynamics.arithmetic import is_symbolic
from swd_dynamics.rules.decay import Corrected
from swd_dynamics.rules.gate import as_rule
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic.notation import (
    HYPERPARAMETERS,
    OF_LARGEST,
    SHOWN,
    Letter,
    PerWeight,
    lr,
    lr_share,
    numbered,
    shown_name,
)


def lettered(rule: UpdateRule) -> tuple[UpdateRule, dict[Symbol, Any]]:
    """The rule with a symbol for every number in it, and the number of each symbol.

    A zero stays a zero: without dampening there is no τ. A sympy expression stays as it is, and so does a value that is
    not a float, because an int or a bool is structure. A schedule becomes a symbol, and an array becomes a symbol with
    a value for every weight. No symbol has the name of a symbol of the user's, or of one that a derivation shows.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> rule, values = lettered(CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.05))
    >>> rule.direction
    HeavyBall(momentum=β, dampening=0)
    >>> values
    {η: 0.1, β: 0.9, λ: 0.05}
    """
    values: dict[Symbol, Any] = {}
    rule = as_rule(rule)
    lr_letter = _letter_lr(rule, values)
    letters = _Letters(values, {shown_name(symbol) for symbol in (*SHOWN, *values, *own_symbols(rule))})
    direction = letters.of_fields(rule.direction)
    if isinstance(rule.decay, Corrected):
        return UpdateRule(lr_letter, direction, _corrected(rule, rule.decay, lr_letter, letters)), values
    return UpdateRule(lr_letter, direction, letters.of_fields(rule.decay)), values


def _corrected(rule: UpdateRule, given: Corrected, lr_letter: Any, letters: "_Letters") -> Any:
    """Corrected decay with η/κ in the place of η_max: κ, the ratio of the two, is fixed as η → 0."""
    decay = letters.of_fields(dataclasses.replace(given, lr_max=lr_share))
    lr_max = given.lr_max
    if not (is_symbolic(rule.lr) or is_symbolic(lr_max) or rule.has_schedule):
        ratio = _array(rule.lr) / _array(lr_max)
        letter = (PerWeight if ratio.ndim else Letter)(OF_LARGEST, positive=True)
        letters.values[letter] = ratio if ratio.ndim else float(ratio)
        return dataclasses.replace(decay, lr_max=lr_letter / letter)
    same = is_symbolic(lr_max) and lr_max == rule.lr
    return dataclasses.replace(decay, lr_max=lr_letter / (1 if same else Letter(OF_LARGEST, positive=True)))


def with_symbols(rule: UpdateRule, but: Sequence[str]) -> UpdateRule:
    """The rule with a symbol for every number in it, but for the hyperparameters of these names.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> with_symbols(CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.05), but=["lr"])
    UpdateRule(lr=0.1, direction=HeavyBall(momentum=β, dampening=0), decay=Stable(weight_decay=λ))
    """
    letters, _ = lettered(rule)
    direction, decay = _restored(letters.direction, rule.direction, but), _restored(letters.decay, rule.decay, but)
    return UpdateRule(rule.lr if "lr" in but else letters.lr, direction, decay)


def _restored(part: Any, original: Any, names: Sequence[str]) -> Any:
    numbers = {name: value for name, value in hyperparameters(original).items() if name in names}
    return dataclasses.replace(part, **numbers)


def hyperparameters(part) -> dict[str, Any]:
    """The hyperparameters of a direction or a decay by name: the fields of a dataclass, or any object's attributes."""
    if dataclasses.is_dataclass(part):
        return {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.init}
    return dict(getattr(part, "__dict__", {}))


def symbols_of(part) -> set[Symbol]:
    """The symbols in the hyperparameters of a direction or a decay, also of a direction that wraps another."""
    found: set[Symbol] = set()
    for value in hyperparameters(part).values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            found |= entry.free_symbols if is_symbolic(entry) else set()
            found |= symbols_of(entry) if dataclasses.is_dataclass(entry) else set()
    return found


def own_symbols(rule: UpdateRule) -> set[Symbol]:
    """The symbols in a rule's learning rate and hyperparameters."""
    of_lr = rule.lr.free_symbols if is_symbolic(rule.lr) else set()
    return {*of_lr, *symbols_of(rule.direction), *symbols_of(rule.decay)}


def _letter_lr(rule: UpdateRule, values: dict[Symbol, Any]):
    if is_symbolic(rule.lr) and rule.lr.free_symbols:
        return rule.lr
    if rule.has_schedule or np.ndim(rule.lr) == 0:
        values[lr] = rule.lr if rule.has_schedule else float(rule.lr)
        return lr
    each = _array(rule.lr)
    largest = float(each.max())  # groups: one η for the time t = ηk, and each weight's share of it
    values[lr], values[lr_share] = largest, each / largest
    return lr * lr_share


@dataclasses.dataclass(frozen=True)
class _Letters:
    """The symbols for a rule's numbers: the number of each, and the names that are taken."""

    values: dict[Symbol, Any]
    taken: set[str]

    def of_fields(self, part: Any) -> Any:
        """A direction or a decay with a symbol for each of its numbers."""
        letters = {name: self._of_field(part, name, value) for name, value in hyperparameters(part).items()}
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            return dataclasses.replace(part, **letters)
        twin = copy(part)
        getattr(twin, "__dict__", {}).update(letters)
        return twin

    def _of_field(self, part, field: str, value):
        names = HYPERPARAMETERS.get(f"{type(part).__name__}.{field}", HYPERPARAMETERS.get(field, field))
        if not isinstance(value, tuple | list):
            return self._of(names if isinstance(names, str) else field, value)
        if isinstance(names, str) or len(names) != len(value):
            stem = names if isinstance(names, str) else names[0][0]
            names = [numbered(stem, i) for i in range(1, len(value) + 1)]
        return tuple(self._of(name, entry) for name, entry in zip(names, value, strict=True))

    def _of(self, name: str, value):
        if isinstance(value, float | np.floating):
            if value == 0 or not np.isfinite(value):
                return 0 if value == 0 else value
            symbol = Symbol(self._named(name), positive=bool(value > 0), negative=bool(value < 0))
        elif isinstance(value, np.ndarray) or type(value).__name__ == "Tensor":
            value = _array(value)
            sign = {"nonnegative": True} if (value >= 0).all() else {"real": True}
            symbol = PerWeight(self._named(name), **sign)
        else:
            return value
        self.values[symbol] = value
        self.taken.add(shown_name(symbol))
        return symbol

    def _named(self, name: str) -> str:
        """The name of the symbol: that of the field itself where its letter is taken, as a direction's beta."""
        free = self._free(name)
        is_own = free == shown_name(name) and free in HYPERPARAMETERS.values()
        return name if is_own else free

    def _free(self, name: str) -> str:
        """The name, with a number if it is taken, as by a field of that name in the direction and in the decay."""
        others = (numbered(name, i) for i in range(2, len(self.taken) + 3))
        return next(free for free in map(shown_name, (name, *others)) if free not in self.taken)


def _array(value: Any) -> np.ndarray:
    """An array of numbers, also from a torch tensor on any device."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=float)


def exact(values: dict[Symbol, Any]) -> dict[Symbol, sympy.Expr]:
    """The single numbers among the values, as the exact decimals that the user typed: .9 is 9/10."""
    return {s: sympy.Rational(repr(float(v))) for s, v in values.items() if isinstance(v, float | int | np.floating)}
