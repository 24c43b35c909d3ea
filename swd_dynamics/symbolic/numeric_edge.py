"""The edge of stability of a rule as numpy functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from swd_dynamics.errors import InputError
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.edge import GRADIENT_VARIANCE, EdgeParts, edge_parts, refuse_another_boundary
from swd_dynamics.symbolic.letters import lettered
from swd_dynamics.symbolic.modified import along
from swd_dynamics.symbolic.notation import PerWeight, cached, primed

Array = NDArray[np.float64]
Memory = tuple[Array, ...]


@dataclass(frozen=True, repr=False)
class NumericEdge:
    """The step of a rule in the mean over an oscillation, and its limit, as functions of arrays, shape (n,) each.

    Attributes
    ----------
    remember : callable (θ, gradient, memory, variance) → memory
        The memory after a step. ``gradient`` is the mean gradient of the loss, and ``variance`` that of G.
    update : callable (θ, gradient, memory) → θ′, with the memory after the step
    limit : callable (θ, memory) → h_max: the Hessian stays at or below diag(h_max)
    limit_turn : callable (θ, memory, change) → how much h_max changes with the memory, to first order
    oscillation : callable (θ, memory) → what each entry of the memory oscillates by, where θ does by 1; 0 if frozen
    response : callable (θ, memory) → how far a gradient of 1 moves each weight back in the same step
    effective_lr, decay_rate : callable (θ, memory) → η_eff and R of each weight, in the end, L2 counted as decay
    added_curvature : float or array — the λ that L2 adds to the curvature

    Examples
    --------
    Gradient descent at η = ½ has the limit 2/η:

    >>> from swd_dynamics.rules import CATALOG
    >>> numbers = numeric_edge(CATALOG["SGD"](lr=0.5))
    >>> numbers.limit(np.zeros(2), ()).tolist()
    [4.0, 4.0]
    """

    remember: Callable[..., Memory]
    update: Callable[..., Array]
    limit: Callable[..., Array]
    limit_turn: Callable[..., Array]
    oscillation: Callable[..., Memory]
    response: Callable[..., Array]
    effective_lr: Callable[..., Array]
    decay_rate: Callable[..., Array]
    added_curvature: Any

    def __repr__(self) -> str:
        return "The edge of stability in numbers: the functions remember, update, limit, limit_turn, response, …"


def numeric_edge(rule: UpdateRule) -> NumericEdge:
    """The edge of stability of a rule whose hyperparameters are all numbers or arrays.

    Raises
    ------
    InputError
        If a hyperparameter is a symbol, or the rule has a schedule.
    NotDerivable
        If the rule has no edge of stability: see :func:`~swd_dynamics.symbolic.edge.edge`.

    Examples
    --------
    Adam's second moment feels the variance of the gradient: .5·0 + .5·(3² + 1), where the mean gradient is 3.

    >>> from swd_dynamics.rules import CATALOG
    >>> numbers = numeric_edge(CATALOG["Adam"](lr=0.1, betas=(0.5, 0.5)))
    >>> zero, one = np.zeros(1), np.ones(1)
    >>> [entry.tolist() for entry in numbers.remember(zero, 3 * one, (zero, zero), one)]
    [[1.5], [5.0]]
    """
    if rule.has_schedule:
        raise InputError("the edge of stability moves with a schedule: give a number for lr, or see numeric_edges")
    refuse_another_boundary(rule)
    return _in_numbers(rule)


def numeric_edges(rule: UpdateRule, lrs: Sequence[Any]) -> list[NumericEdge]:
    """The edge of stability of a rule at each of several learning rates, which take the place of its own.

    Parameters
    ----------
    rule : UpdateRule
    lrs : sequence of number or array, shape (n,) — positive

    Raises
    ------
    InputError, NotDerivable
        As :func:`numeric_edge`, for the largest of them, at which the decay of a step is strongest too.

    Examples
    --------
    The limit 2/η of gradient descent whose learning rate is halved:

    >>> from swd_dynamics.rules import CATALOG
    >>> edges = numeric_edges(CATALOG["SGD"](lr=0.5), [0.5, 0.25])
    >>> [edge.limit(np.zeros(1), ()).tolist() for edge in edges]
    [[4.0], [8.0]]
    """
    largest = max(lrs, key=lambda lr: float(np.max(lr)))
    refuse_another_boundary(replace(rule, lr=largest))
    found: dict[bytes, NumericEdge] = {}
    for lr in lrs:
        key = np.asarray(lr, dtype=float).tobytes()
        if key not in found:
            found[key] = _in_numbers(replace(rule, lr=lr))
    return [found[np.asarray(lr, dtype=float).tobytes()] for lr in lrs]


def _in_numbers(rule: UpdateRule) -> NumericEdge:
    letters, values = lettered(rule)
    compiled, names = _compile(letters)
    functions = {**compiled}
    if unknown := [name.name for name in names if name not in values]:
        raise InputError(f"{', '.join(unknown)} is a symbol: a flow needs numbers (or arrays) for all hyperparameters")
    numbers = [values[name] for name in names]

    def called(name: str) -> Callable[..., Array]:
        return lambda theta, *arguments: _full(theta, functions[name](theta, *arguments, numbers))

    def remember(theta: Array, gradient: Array, memory: Memory, variance: Any) -> Memory:
        entries = functions["remember"](theta, gradient, memory, variance, numbers)
        return tuple(_full(theta, entry) for entry in entries)

    def oscillation(theta: Array, memory: Memory) -> Memory:
        return tuple(_full(theta, entry) for entry in functions["oscillation"](theta, memory, numbers))

    added = functions.pop("added_curvature")(numbers)
    others = {name: called(name) for name in functions if name not in ("remember", "oscillation")}
    return NumericEdge(remember=remember, oscillation=oscillation, added_curvature=added, **others)


def _full(theta: Array, value: Any) -> Array:
    array, shape = np.asarray(value, dtype=float), np.shape(theta)
    return (array if array.shape == shape else np.broadcast_to(array, shape)).copy()


@cached
def _compile(rule: UpdateRule) -> tuple[dict[str, Callable], list[sympy.Symbol]]:
    parts = edge_parts(rule)
    settled, theta, gradient = parts.settled, notation.theta, notation.gradient
    total = {notation.total: settled.total}
    memory, after = list(settled.memory), [primed(symbol) for symbol in settled.memory]
    change = [PerWeight(f"change of {symbol.name}", real=True) for symbol in memory]
    limit, turning = _of_memory(parts, parts.limit), dict(zip(parts.found.state, parts.oscillation, strict=True))
    formulas = {
        "remember": sympy.Tuple(*(_of_memory(parts, parts.remembered[symbol]).xreplace(total) for symbol in memory)),
        "update": settled.update.xreplace(total),
        "limit": limit,
        "limit_turn": along(limit, dict(zip(memory, change, strict=True))),
        "oscillation": sympy.Tuple(*(_of_memory(parts, turning.get(symbol, 0)) for symbol in memory)),
        "response": _of_memory(parts, parts.response),
        "effective_lr": _of_memory(parts, parts.effective_lr),
        "decay_rate": _of_memory(parts, parts.decay_rate),
        "added_curvature": sympy.sympify(parts.added_curvature),
    }
    given = {
        "remember": [theta, gradient, memory, GRADIENT_VARIANCE],
        "update": [theta, gradient, after],
        "limit_turn": [theta, memory, change],
        "added_curvature": [],
    }
    used: Any = set().union(*(formula.free_symbols for formula in formulas.values()))
    names = sorted(used - {theta, gradient, GRADIENT_VARIANCE, *memory, *after, *change}, key=str)
    # lambdify gives new names to symbols and subexpressions, and notation.mean would read them as single numbers
    plain = {name: formula.replace(notation.mean, sympy.Function("mean")) for name, formula in formulas.items()}
    functions = {
        name: sympy.lambdify(
            [*given.get(name, [theta, memory]), names], formula, [{"mean": np.mean}, "numpy"], cse=True, dummify=True
        )
        for name, formula in plain.items()
    }
    return functions, names


def _of_memory(parts: EdgeParts, expression: Any) -> Any:
    """An expression in the symbols of the memory, where the roots of a frozen preconditioner were positive symbols."""
    shown = parts.in_memory(sympy.sympify(expression))
    own = {symbol.name: symbol for symbol in parts.settled.memory}
    return shown.xreplace({s: own[s.name] for s in shown.free_symbols if isinstance(s, PerWeight) and s.name in own})
