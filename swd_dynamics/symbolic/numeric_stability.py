"""The linear map of a rule and its stability limit as numpy functions of the rule's hyperparameters."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from swd_dynamics.checks import check
from swd_dynamics.errors import InputError
from swd_dynamics.rules.gate import as_rule
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.letters import lettered
from swd_dynamics.symbolic.linear import LinearMap, find_linear_map
from swd_dynamics.symbolic.notation import cached
from swd_dynamics.symbolic.stability import stability_limit
from swd_dynamics.symbolic.symbols import keyword_of
from swd_dynamics.tables import listed

CURVATURE = "h"  # its name among the numbers of a linear map
# Where the hyperparameters of the catalogue's rules lie; one's own direction may have a field of another meaning.
INTERVALS = {"lr": "(0, inf)", "lr_max": "(0, inf)", "weight_decay": "[0, inf)", "eps": "[0, inf)", "v": "[0, inf)"}
INTERVALS |= dict.fromkeys(("momentum", "dampening", "beta_1", "beta_2"), "[0, 1)")


@dataclass(frozen=True, repr=False)
class NumericStability:
    """The stability of a rule on f = ½hθ² in numbers, for many values of its hyperparameters at once.

    Both methods take hyperparameters by name, as ``lr``, ``weight_decay``, ``momentum`` or ``beta_1``. Each is a number
    or an array, and arrays are broadcast. A hyperparameter that is not given has its number in the rule. The frozen
    memory of an adaptive direction, as ``v``, has no number in the rule and must be given; ⟨v⟩ is its mean.

    Examples
    --------
    Heavy ball with stable decay at β = ½, for two learning rates: h_max = (1 + β)(2 − ηλ/(1−β))/η

    >>> from swd_dynamics.rules import CATALOG
    >>> rule = CATALOG["SGDS"](lr=0.1, momentum=0.5, weight_decay=1.0)
    >>> numeric_stability(rule).limit(lr=np.array([0.25, 0.5]))
    array([9., 3.])

    Above the limit the largest |z| exceeds 1:

    >>> (numeric_stability(rule).growth(np.array([8.9, 9.1]), lr=0.25) > 1).tolist()
    [False, True]
    """

    rule: UpdateRule

    def growth(self, curvature: Any, **numbers: Any) -> NDArray:
        """The largest |z| of the eigenvalues z of the linear map at a curvature h, shaped like the arguments."""
        if CURVATURE in numbers:
            raise InputError("h is the curvature, and is given twice: give it only as the first argument of growth")
        _check_numbers(numbers)
        matrices = self._matrix({CURVATURE: curvature, **numbers})
        return np.abs(np.linalg.eigvals(matrices)).max(axis=-1)

    def limit(self, **numbers: Any) -> NDArray:
        """The derived h at which the rule becomes unstable. It is negative where the decay alone is unstable.

        Raises
        ------
        NotDerivable
            If the limit has no formula: see :func:`swd_dynamics.symbolic.stability_limit`.
        InputError
            As by ``growth``, if a name is not a symbol of the rule, or a number is not allowed, as lr = −1.
        """
        _check_numbers(numbers)
        return self._limit(numbers)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the numbers on which the linear map depends, besides h.

        Examples
        --------
        >>> from swd_dynamics.rules import CATALOG
        >>> numeric_stability(CATALOG["AdamS"](lr=0.1, weight_decay=0.1)).names
        ('v', 'beta_1', 'eps', 'lr', 'weight_decay')
        """
        return tuple(name for name in self._matrix.names if name != CURVATURE)

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers that the rule has for these names.

        Examples
        --------
        >>> from swd_dynamics.rules import CATALOG
        >>> numeric_stability(CATALOG["SGD"](lr=0.1, momentum=0.9)).numbers
        {'momentum': 0.9, 'lr': 0.1}
        """
        return {name: self._matrix.defaults[name] for name in self.names if name in self._matrix.defaults}

    @cached_property
    def _matrix(self) -> "ByName":
        letters, values = lettered(self.rule)
        found = find_linear_map(letters)
        return by_name(found.matrix, found).with_numbers(values)

    @cached_property
    def _limit(self) -> "ByName":
        letters, values = lettered(self.rule)
        limit = by_name(_limit_in_symbols(letters), find_linear_map(letters))
        return replace(
            limit.with_numbers(values), unused=self.names
        )  # a frozen v may be in the linear map and not in the limit

    def __repr__(self) -> str:
        return f"The stability of {self.rule.name} in numbers: the functions growth and limit"


def _check_numbers(numbers: Mapping[str, Any]) -> None:
    for name, value in numbers.items():
        if name in INTERVALS:
            check(name, value, INTERVALS[name])


def numeric_stability(rule: UpdateRule) -> NumericStability:
    """The largest eigenvalue and the stability limit of a rule, as functions of arrays of its hyperparameters.

    Raises
    ------
    NotDerivable
        If the step is not linear even with its preconditioner frozen.
    InputError
        If the rule has a schedule.

    Examples
    --------
    Gradient descent at η = ½, where z = 1 − h/2:

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> numeric_stability(UpdateRule(0.5, SGD())).growth(np.array([1.0, 5.0])).tolist()
    [0.5, 1.5]
    """
    rule = as_rule(rule)
    if rule.has_schedule:
        raise InputError("a rule with a schedule is another map at every step: give a number for lr")
    find_linear_map(lettered(rule)[0])  # refuses a rule that has none
    return NumericStability(rule)


@cached
def _limit_in_symbols(letters: UpdateRule) -> Any:
    return stability_limit(letters).value


@dataclass(frozen=True, repr=False)
class ByName:
    """An expression, or a matrix of expressions, as a function of numbers by the names of its symbols."""

    function: Callable[..., Any]
    names: tuple[str, ...]
    defaults: Mapping[str, Any]
    unused: tuple[str, ...] = ()  # names that may be given and have no effect

    def with_numbers(self, values: Mapping[sympy.Symbol, Any]) -> "ByName":
        """The same function, with a number for each of these symbols that is not given in a call."""
        return replace(self, defaults={keyword_of(symbol): value for symbol, value in values.items()})

    def __call__(self, numbers: Mapping[str, Any]) -> NDArray:
        known = {**self.defaults, **numbers}
        if unknown := [name for name in numbers if name not in (*self.names, *self.defaults, *self.unused)]:
            raise InputError(f"{unknown[0]} is not a symbol of this rule; it has {listed(unknown[0], self.names)}")
        if missing := [name for name in self.names if name not in known]:
            raise InputError(f"{', '.join(missing)} has no number in this rule: give one, as {missing[0]}=1.0")
        arrays = [np.asarray(known[name], dtype=float) for name in self.names]
        shape = np.broadcast_shapes(*(array.shape for array in arrays), *(np.shape(each) for each in numbers.values()))
        return _stacked(self.function(*arrays), shape)


def by_name(expression: Any, found: LinearMap) -> ByName:
    """A matrix or a formula that was derived from a linear map, as a function of numbers by name.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> letters, values = lettered(CATALOG["SGD"](lr=0.25, momentum=0.5))
    >>> found = find_linear_map(letters)
    >>> by_name(found.matrix, found).with_numbers(values)({"h": 8.0}).tolist()
    [[-1.0, -0.125], [8.0, 0.5]]
    """
    full = sympy.sympify(expression).xreplace(found.roots)
    full = full.xreplace({symbol: notation.PerWeight(symbol.name) for symbol in _per_weight(full)})
    symbols = sorted(full.free_symbols, key=str)
    full = full.replace(notation.mean, sympy.Function("mean"))
    entries = full.tolist() if isinstance(full, sympy.MatrixBase) else full
    function = sympy.lambdify(symbols, entries, modules=[{"mean": np.mean}, "numpy"], dummify=True)
    return ByName(function, tuple(map(keyword_of, symbols)), {})


def _per_weight(expression: Any) -> Iterable[Any]:
    """The entries of the memory, which are positive in a root and real in a step: they are one symbol here."""
    return {symbol for symbol in expression.free_symbols if isinstance(symbol, notation.PerWeight)}


def _stacked(entries: Any, shape: tuple[int, ...]) -> NDArray:
    """Nested lists of arrays as one array, with the rows and columns of the lists as its last axes."""
    if not isinstance(entries, list):
        return np.broadcast_to(np.asarray(entries, dtype=float), shape).copy()
    rows = [[np.broadcast_to(np.asarray(e, dtype=float), shape) for e in row] for row in entries]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
