"""The order of factors in a product and of terms in a sum, the same wherever a formula is printed."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import sympy
from sympy import Expr

from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.form import is_turned
from swd_dynamics.symbolic.names import symbol_text
from swd_dynamics.symbolic.notation import PerWeight

FIRST = ("β", "β₀", "β₁", "β₂", "τ", "η", "s", "h", "λ", "ε", "k", "R")  # in a product, after other scalars
LAST = ("m", "v", "G", "g", "Ġ", "ġ", "θ", "θ̇", "θ⋆")  # in a product, after other entries of the memory


@dataclass(frozen=True)
class Term:
    """A term of a sum: its sign, a positive number and the factors above and below the bar, each with its power."""

    negative: bool
    number: Any
    above: tuple[Expr, ...]
    below: tuple[Expr, ...]


@lru_cache(maxsize=4096)
def term_of(expression: Any) -> Term:
    """The parts of a term, its sums positive where η and λ are small.

    Examples
    --------
    >>> beta, g = sympy.symbols("β g", positive=True)
    >>> term_of((beta - 1) * g / 2)
    Term(negative=True, number=1/2, above=(g, 1 - β), below=())
    """
    number: Any = sympy.S.One
    above, below = [], []
    for factor in sympy.Mul.make_args(expression):
        if factor.is_Number and factor.is_finite:
            number *= factor
            continue
        base, power = factor.as_base_exp() if factor.is_Pow else (factor, sympy.S.One)
        if base.is_Add and power.is_Integer and is_turned(base):
            number, base = number * (-1) ** power, -base
        if base.is_Add and power.is_Integer and (content := _content(base)) != 1:
            number, base = number * content**power, base / content
        under = power.is_Rational and power.is_negative
        (below if under else above).append(sympy.Pow(base, -power if under else power))
    return Term(bool(number.is_negative), abs(number), _sorted(above), _sorted(below))


def _content(sum_: Any) -> Any:
    """The number that every term of a sum has as a factor: a whole number, or one with the bar that all terms have."""
    content = sum_.primitive()[0]
    return content if content.is_Integer or content.q == common_bar(sum_) else sympy.S.One


def _sorted(factors) -> tuple[Expr, ...]:
    return tuple(sorted(factors, key=_place))


def is_variable(symbol: Any) -> bool:
    """Whether a symbol is one of the quantities that a step or a flow changes."""
    return isinstance(symbol, PerWeight) and symbol_text(symbol) not in FIRST


@lru_cache(maxsize=4096)
def _place(factor: Any) -> tuple:
    """The place of a factor in a product."""
    base: Any = factor.base if factor.is_Pow else factor
    base = base.args[0] if isinstance(base, notation.decayed) else base
    inner: Any = base.args[0] if isinstance(base, sympy.Abs | sympy.sign) else base
    if isinstance(inner, sympy.Symbol) and is_variable(inner):
        name = symbol_text(inner).removesuffix("′")
        return (5, LAST.index(name) if name in LAST else -1, name)
    if isinstance(base, sympy.Symbol):
        name = symbol_text(base)
        return (7, 0, name) if base == notation.z else (1, FIRST.index(name) if name in FIRST else -1, name)
    if isinstance(base, sympy.Add):
        factors = {part for term in base.args for part in sympy.Mul.make_args(cast(Expr, term))}
        varies = any(is_variable(part) for part in factors) and not base.has(notation.mean)
        weighs = any(map(is_variable, base.free_symbols))  # as √v + ε does: after the sums of hyperparameters
        return (6 if varies else 2 + weighs / 2, len(base.args), str(sorted(map(str, base.free_symbols))))
    return (0 if base.is_number else 4, 0, str(base))


def in_order(terms) -> list[Expr]:
    """The terms of a sum in the order in which they are printed."""
    symbols = set().union(*(term.free_symbols for term in terms))
    is_first = not symbols or any(not isinstance(symbol, PerWeight) for symbol in symbols)
    ordered = sorted(
        terms, key=lambda term: _place_of_number(term, is_first) if term.is_number else _place_in_sum(term)
    )
    first = next((i for i, term in enumerate(ordered) if not term_of(term).negative), 0)
    return [ordered[first], *ordered[:first], *ordered[first + 1 :]]


def _place_of_number(term: Any, is_first: bool) -> tuple:
    """First among hyperparameters, as in 1 − β; last among weights and curvatures, as in h + 1 and √v + 1e-08."""
    return (1 if is_first else 3, 0 if term.is_Rational else 0.5, [])


@lru_cache(maxsize=4096)
def _place_in_sum(term: Any) -> tuple:
    parts = term_of(term)
    powers = [sympy.degree(term, notation.z) if factor.has(notation.z) else 0 for factor in parts.above[-1:]]
    if term == notation.z or any(powers):
        return (0, -int(powers[0]) if powers else -1)
    places = [_place(factor) for factor in (*parts.above, *parts.below)]
    variables = [place for place in map(_place, parts.above) if place[0] >= 5]
    if term.is_Symbol and symbol_text(term) == "ε":
        return (3,)
    if variables:
        return (2, variables[-1], len(parts.above), places)
    powers = [factor.as_base_exp()[1] for factor in parts.above]
    degree = sum(int(power) if power.is_Integer else 1 for power in powers)
    return (1, degree, places)


def common_bar(expr) -> Any:
    """The number by which every term of a sum is divided, if it is the same and the only divisor."""
    bars = {number.q if number.is_Rational else 0 for number, _ in (term.as_coeff_Mul() for term in expr.args)}
    divided = any(power.exp.is_negative for power in expr.atoms(sympy.Pow))
    return 1 if len(bars) > 1 or divided or 0 in bars else bars.pop()
