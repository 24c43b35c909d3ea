"""Changes of form before a formula is printed: of several ways to write it, the shortest."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import sympy
from sympy import Expr

from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.form import one_minus
from swd_dynamics.symbolic.notation import PerWeight, shown_name
from swd_dynamics.symbolic.order import is_variable
from swd_dynamics.symbolic.printer import has_decimals, text
from swd_dynamics.symbolic.size import expanded_terms

# Number of terms of a sum from which other ways to write it are tried, and up to which they are. A sum of
# 60 terms takes half a second, and no way to write it is short.
FEWEST, MOST = 3, 60

FEW = 8  # terms of a numerator up to which each is tried above the denominator by itself: 1 − v/w for (w − v)/w

POWERS_OF = ("h", "η", "s", "λ")  # a sum may be collected by powers of these


def arranged(expression: Any) -> Any:
    """The same expression, equation or matrix, written shortly; a polynomial in z is monic.

    Examples
    --------
    >>> beta = sympy.Symbol("β", positive=True)
    >>> text(arranged((beta - 1) * notation.z**2 + (1 - beta**2) * notation.z - beta + beta**2))
    'z² − (1 + β)z + β'
    """
    if isinstance(expression, sympy.Eq):
        return _arranged_equation(expression)
    if isinstance(expression, sympy.MatrixBase):
        return expression.applyfunc(lambda entry: entry if has_decimals(entry) else shortest(entry))
    if isinstance(expression, tuple | sympy.MatrixExpr) or has_decimals(expression):
        return expression
    return _arranged(expression)


@lru_cache(maxsize=1024)
def _arranged(expression: Any) -> Any:
    if expression.has(notation.z) and expression.is_polynomial(notation.z):
        return _monic(sympy.Poly(expression, notation.z))
    if expression.is_Add and any(map(is_variable, expression.free_symbols)):
        return sympy.Add(*map(arranged, expression.args))
    return expression.replace(_is_long_sum, shortest)


def _arranged_equation(equation: Any) -> Any:
    left, right = equation.args
    is_matrix = isinstance(left, sympy.MatrixBase | sympy.MatrixExpr)
    sides = (left, right) if is_matrix else (arranged(left), arranged(right))
    return sympy.Eq(*sides, evaluate=False)


def _monic(polynomial: sympy.Poly) -> Expr:
    lead = polynomial.LC()
    terms = [shortest(sympy.cancel(c / lead)) * notation.z**power for (power,), c in polynomial.terms()]
    return cast(Expr, sympy.Add(*terms))


def _is_long_sum(expression: Any) -> bool:
    return expression.is_Add and FEWEST <= len(expression.args) <= MOST and not expression.is_number


@lru_cache(maxsize=1024)
def shortest(expression: Any) -> Expr:
    """Of an expression as it is, factored, and collected by powers, the form whose text is the shortest."""
    masks = _masks(expression)
    masked = _with_masks(expression, masks)
    if expanded_terms(masked) > MOST:
        return expression
    outer = {part: sympy.Dummy("outer") for part in _outer_roots(masked)}
    masked = masked.xreplace(outer)
    ways = [masked, one_minus(sympy.factor(masked))]
    above, below = sympy.fraction(sympy.together(masked))
    symbols: Any = above.free_symbols
    small = [s for s in symbols if shown_name(s) in POWERS_OF]
    sizes = [s for s in symbols if s in masks.values() or (isinstance(s, PerWeight) and s not in small)]
    each = [[s] for s in small] if len(small) > 1 else []
    for gens in filter(None, (small, sizes, *each)):
        ways += _collected(above, below, sorted(gens, key=str))
    terms = sympy.Add.make_args(sympy.expand(above))
    ways += [sympy.Add(*(one_minus(sympy.cancel(term / below)) for term in terms))] if len(terms) <= FEW else []
    back, whole = ({mask: part for part, mask in letters.items()} for letters in (masks, outer))
    return cast(Expr, min((expression, *(way.xreplace(whole).xreplace(back) for way in ways)), key=_length))


def _outer_roots(masked: Any) -> set[Any]:
    """The outermost powers with a root that have other roots in them, whose letters they would hide."""
    if masked.is_Pow and not masked.exp.is_Integer:
        return {masked}
    return set().union(*map(_outer_roots, masked.args))


def _length(expression: Any) -> int:
    """The length of a formula to a reader, to whom h(1 − β) is shorter than h − βh."""
    said = text(expression)
    return len(said) + 3 * sum(map(str.isalpha, said))


def _masks(expression: Any) -> dict[Any, Any]:
    """A symbol for each root and each function in an expression, so that what is left is a rational function."""
    roots = {sympy.sqrt(p.base) for p in expression.atoms(sympy.Pow) if p.exp.is_Rational and p.exp.q == 2}
    functions = [f for f in expression.atoms(sympy.Function) if not any(root.has(f) for root in roots)]
    return {part: sympy.Dummy(f"{part}", positive=True) for part in (*roots, *functions)}


def _with_masks(expression: Any, masks: dict[Any, Any]) -> Any:
    inside = {mask: part.base for part, mask in masks.items() if part.is_Pow}
    bases = {base: mask**2 for mask, base in inside.items() if not base.is_Add}
    # functions first: a letter for √v inside a mean over weights would leave the mean, as a number does
    expression = expression.xreplace({part: mask for part, mask in masks.items() if not part.is_Pow})
    expression = expression.replace(
        lambda e: e.is_Pow and sympy.sqrt(e.base) in masks and e.exp.is_Rational,
        lambda e: masks[sympy.sqrt(e.base)] ** (2 * e.exp),
    )
    return expression.xreplace(bases)


def _collected(above: Expr, below: Expr, powers_of: Sequence[Any]) -> list[Expr]:
    """A fraction with its numerator collected by powers, over one bar and with a bar for each term."""
    whole, parts = one_minus(sympy.factor(below)), []
    for powers, coefficient in sympy.Poly(above, *powers_of).terms():
        monomial = sympy.Mul(*(base**power for base, power in zip(powers_of, powers, strict=True)))
        parts.append((sympy.factor(coefficient), monomial))
    over_each = (one_minus(coefficient / whole) * monomial for coefficient, monomial in parts)
    return [sympy.Add(*(one_minus(c) * monomial for c, monomial in parts)) / whole, sympy.Add(*over_each)]


def plus_minus(pair: tuple) -> tuple[Any, Any] | None:
    """b and c of a pair b + √(b² − c), b − √(b² − c): half the sum and the product of two roots; None for other tuples,
    and for numbers, which need no formula.

    Examples
    --------
    >>> b, c = sympy.symbols("b c", positive=True)
    >>> plus_minus((b + sympy.sqrt(b**2 - c), b - sympy.sqrt(b**2 - c)))
    (b, c)
    """
    if len(pair) != 2 or not pair[0].is_Add or pair[0].is_number:
        return None
    for root in pair[0].args:
        half = pair[0] - root
        if root.is_Pow and root.exp == sympy.Rational(1, 2) and pair[1] == half - root:
            product = sympy.Add(*(term for term in sympy.Add.make_args(half**2 - root.base)))
            return half, shortest(product)
    return None


def is_cubic(roots: Any) -> bool:
    """Whether a tuple has roots of a polynomial of degree 3 or more in radicals, which no reader can use.

    Examples
    --------
    >>> h = sympy.Symbol("h")
    >>> is_cubic((sympy.sqrt(h), -sympy.sqrt(h))), is_cubic((h ** sympy.Rational(1, 3),))
    (False, True)
    """
    powers = sympy.Tuple(*roots).atoms(sympy.Pow) if isinstance(roots, tuple) else ()
    return any(isinstance(power.exp, sympy.Rational) and power.exp.q > 2 for power in powers)


def free_names(expressions: tuple) -> tuple[str, str]:
    """Two names for parts of a formula that no symbol in it has."""
    taken = {shown_name(s) for expression in expressions for s in expression.free_symbols}
    return next(pair for pair in (("b", "c"), ("p", "q"), ("B", "C"), ("P", "Q")) if not taken & {*pair})


def named_parts(expression: Any) -> tuple[Any, dict[str, Any]]:
    """The expression with a name for a clip or a maximum that is in it several times, and what the name stands for."""
    counts = {part: expression.count(part) for part in expression.atoms(notation.clip, notation.maximum)}
    if not (repeated := [part for part, times in counts.items() if times > 1]):
        return expression, {}
    part = max(repeated, key=lambda part: len(text(part)))
    name = free_names((expression,))[1]
    return expression.xreplace({part: sympy.Symbol(name)}), {name: part}
