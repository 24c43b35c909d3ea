"""What the symbols of a derivation mean, and the names by which they are given numbers."""

import re
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
import sympy
from sympy import Symbol

from swd_dynamics.errors import InputError
from swd_dynamics.symbolic.lines import columns
from swd_dynamics.symbolic.names import GREEK, HAT, corrected_text, number_text, symbol_latex, symbol_text
from swd_dynamics.symbolic.notation import HYPERPARAMETERS, before, shown_name
from swd_dynamics.tables import nearest

ENTRIES = ("₁₁", "₁₂", "₁₃", "₂₂", "₂₃", "₃₃")  # of a covariance

MEANINGS = {
    "θ": "a weight",
    "θ̇": "rate of change of θ along the flow, dθ/dt with t = ηk",
    "θ⋆": "minimum of the quadratic f = ½h(θ − θ⋆)²",
    "g": "gradient of the loss, without weight decay",
    "ġ": "rate of change of g along the flow",
    "G": "gradient that the direction receives: g, with L2 decay g + λθ",
    "Ġ": "rate of change of G along the flow",
    "h": "curvature of the quadratic f = ½h(θ − θ⋆)²",
    "η": "learning rate",
    "s": "learning rate of a weight divided by the largest learning rate: lr is an array, and ηs is its entry",
    "η_max": "largest learning rate of the schedule",
    "κ": "η/η_max, the learning rate divided by the largest one of its schedule: corrected decay has R = κηλ",
    "k": "number of the step, from 1",
    "R": "fraction of the weights that a step subtracts: Δθ = −Rθ − update",
    "z": "factor by which one step multiplies an eigenvector of the linear map",
    "β": "momentum",
    "τ": "dampening of the momentum",
    "β₀": "factor of Adai's adaptive momentum 1 − β₀v/⟨v⟩",
    "β₁": "decay of the first moment m",
    "β₂": "decay of the second moment v",
    "ε": "constant added to the denominator",
    "λ": "strength of the weight decay",
    "m": "first moment or momentum: an entry of the optimizer's state",
    "v": "second moment: an entry of the optimizer's state",
    "σ": "standard deviation of the noise in each gradient of a weight",
    "C": "number of weights of a layer",
    "Γ": "‖g‖·‖θ‖ of a layer whose loss does not depend on ‖θ‖: the norm of its gradient at ‖θ‖ = 1",
    "‖θ‖": "norm of the weights of a layer",
    "Var θ": "variance of a weight in noise",
    **{f"b{digit}": "change of the state for a unit that is added to the gradient" for digit in "₁₂₃"},
    **{f"Σ{digits}": "covariance of two entries of the state (θ, memory)" for digits in ENTRIES},
    **{f"w{digit}": "weight of an older gradient in the momentum" for digit in "₀₁₂"},
    "ρₖ": "correlation of the momentum with the momentum k steps later",
    "cₖ": "correlation of a move with the move k steps later",
    "S": "sum of the correlations of the moves",
    "⟨·⟩": "mean over all weights",
    "‖·‖": "norm √(Σx²) over all weights",
    "∇⟨H, Σ⟩": "gradient of the mean of δᵀHδ, for an oscillation δ with covariance Σ = E[δδᵀ]",
    "var G": "variance of G by the oscillation",
    "∇S": "gradient of the sharpness S = uᵀHu, where u is the direction that oscillates",
    "σ²": "variance of the oscillation along u",
    "hⱼ": "curvature of the mean loss over the oscillation, L + ½σ²S, along the eigenvector j of its Hessian",
    "Sⱼ": "slope of the sharpness S along the eigenvector j",
    "μ": "Floquet multiplier: factor by which one step multiplies a perturbation of the oscillation",
    "ρ": "relative change of the size σ of the oscillation",
    "δⱼ": "change of the slow mean of the weights along the eigenvector j",
    "L₄": "fourth derivative of the loss along u",
    "‖∇S‖": "norm of the gradient of the sharpness",
    "h_∇S": "curvature of L + ½σ²S along ∇S",
}
KEYWORDS = {
    "η": "lr",
    "η_max": "lr_max",
    "κ": "kappa",
    "β": "momentum",
    "τ": "dampening",
    "ε": "eps",
    "λ": "weight_decay",
    "Γ": "Gamma",
}
KEYWORDS |= {"∇⟨H, Σ⟩": "curvature_slope", "var G": "gradient_variance", "∇S": "sharpness_slope"}
KEYWORDS |= {"σ²": "variance", "hⱼ": "curvatures", "Sⱼ": "slopes", "L₄": "fourth_derivative"}
KEYWORDS |= {"‖∇S‖": "slope_norm", "h_∇S": "curvature_along_slope"}
# In no result:
SHOWN_ONLY = ("ρ", "δⱼ", "⟨·⟩", "‖·‖", "‖θ‖", "Var θ", "ρₖ", "cₖ", *(f"Σ{digits}" for digits in ENTRIES))
KEYWORDS |= dict.fromkeys(SHOWN_ONLY, "")


class Meaning(NamedTuple):
    """A symbol, its meaning, the name by which a call gives it a number, and its number in the rule.

    Brackets that stand for a function, as ⟨·⟩ for the mean, have an empty name.
    """

    symbol: Symbol
    meaning: str
    keyword: str
    value: Any


class SymbolTable(tuple[Meaning, ...]):
    """The symbols of a derivation, as a table in a terminal and in Jupyter."""

    __slots__ = ()

    def __repr__(self) -> str:
        rows = [(symbol_text(row.symbol), row.keyword, _value(row), row.meaning) for row in self]
        rows = [("symbol", "name", "value", "meaning"), *rows]
        widths = [max(columns(row[i]) for row in rows) for i in range(3)]
        return "\n".join(_padded(row, widths) for row in rows)

    def _repr_markdown_(self) -> str:
        named = [(row, f"`{row.keyword}`" if row.keyword else "") for row in self]
        rows = [f"| ${symbol_latex(row.symbol)}$ | {name} | {_value(row)} | {row.meaning} |" for row, name in named]
        return "\n".join(["| symbol | name | value | meaning |", "|---|---|---|---|", *rows])


def _padded(row, widths) -> str:
    cells = [cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=False)]
    return "  ".join([*cells, row[-1]])


def _value(row: Meaning) -> str:
    return "" if row.value is None else value_text(row.value)


def value_text(value: Any) -> str:
    """The number of a symbol as text, the smallest and the largest of several, or "a schedule"."""
    if callable(value):
        return "a schedule"
    if np.ndim(value):
        low, high = np.min(value, initial=np.inf), np.max(value, initial=-np.inf)
        return f"{number_text(low)} … {number_text(high)}"
    return number_text(value)


def keyword_of(symbol: Symbol) -> str:
    """The name by which a symbol is given a number: its own field, what torch calls it, or its letter in ASCII.

    Examples
    --------
    >>> from swd_dynamics.symbolic import notation
    >>> [keyword_of(symbol) for symbol in (notation.lr, notation.theta_star, notation.gradient_dot, Symbol("β₁"))]
    ['lr', 'theta_star', 'g_dot', 'beta_1']

    A direction's own field beta keeps its name, although its letter is that of the momentum:

    >>> keyword_of(Symbol("beta"))
    'beta'
    """
    shown = shown_name(symbol)
    return KEYWORDS.get(shown, ascii_name(symbol)) if symbol.name == shown else symbol.name


def ascii_name(symbol: Symbol) -> str:
    """The name of a symbol in ASCII."""
    name = normalize("NFD", shown_name(symbol)).replace("⋆", "_star").replace("′", "_after")
    name = re.sub("(.)\u0307", r"\1_dot", name.replace(HAT, "_hat"))
    name = re.sub("[₀-₉]+", lambda digits: "_" + normalize("NFKC", digits[0]), name)
    return "".join(GREEK.get(letter, letter) for letter in name)


def table_of(symbols: set[Symbol], values: dict[Symbol, Any]) -> SymbolTable:
    """The table of these symbols, without those of a quantity after the step."""
    each_once = {(shown_name(s), type(s) is Symbol): s for s in (*symbols, *values) if before(s) is None}
    shown = each_once.values()  # v once, though steps have a real v and results a positive one
    order = [*MEANINGS]
    ranked = sorted(shown, key=lambda s: (order.index(n) if (n := shown_name(s)) in order else len(order), str(s)))
    return SymbolTable(Meaning(s, _meaning(s, values), keyword_of(s), values.get(s)) for s in ranked)


def _meaning(symbol: Symbol, values: dict) -> str:
    if HAT in symbol.name:
        return corrected_text(symbol)
    name = shown_name(symbol)
    is_plain = type(symbol) is Symbol and name not in HYPERPARAMETERS.values() and name not in ("β₀", "β₁", "β₂")
    if name in MEANINGS and not is_plain:
        return MEANINGS[name]
    return "an entry of the optimizer's state" if not is_plain else "a hyperparameter of the rule"


def numbers_by_name(symbols: set[Symbol], known: dict[Symbol, Any], given: dict[str, Any]) -> dict[Symbol, Any]:
    """The symbols with the numbers that are given by name; a float is the decimal that was typed.

    Raises
    ------
    InputError
        If a name is not that of one symbol, or a value is neither a number nor a sympy expression.
    """
    found = {}
    for name, value in given.items():
        named = [s for s in symbols if name in _names(s)]
        if len(named) != 1:
            raise InputError(_unknown(name, named, symbols, known))
        found[named[0]] = exact_number(name, value)
    return found


def _names(symbol: Symbol) -> set[str | None]:
    shown = shown_name(symbol)
    return {keyword_of(symbol), ascii_name(symbol), symbol.name, shown, KEYWORDS.get(shown)}


def exact_number(name: str, value: Any) -> Any:
    """A number as the decimal that was typed, or a sympy expression as it is."""
    if isinstance(value, sympy.Expr):
        return value
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and np.isfinite(value):
        return sympy.Rational(repr(float(value)))
    raise InputError(f"{name} = {value!r} is not allowed: give one number or a sympy expression")


def _unknown(name: str, named: list, symbols: set[Symbol], known: dict[Symbol, Any]) -> str:
    if named:
        return f"two symbols of this derivation are called {name}: rename yours"
    if has := [s for s in known if name in (keyword_of(s), ascii_name(s), shown_name(s))]:
        return f"{name} has a number in this rule already, {known[has[0]]}: derive from a rule with another {name}"
    keywords = {keyword_of(s): shown_name(s) for s in symbols}
    there = ", ".join(f"{k} ({keywords[k]})" if k != keywords[k] else k for k in nearest(name, keywords))
    return f"{name} is not a symbol of this result; " + (f"its symbols are {there}" if there else "it has no symbols")
