"""Jury's test in exact arithmetic: at which h all roots of a polynomial in z lie inside the unit circle."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, cast

import sympy
from sympy import Expr, Matrix, Rational

from swd_dynamics.symbolic.derivation import NotDerivable
from swd_dynamics.symbolic.notation import curvature as h
from swd_dynamics.symbolic.notation import z


def critical(polynomial: sympy.Poly) -> dict[str, Expr]:
    """Jury's critical conditions: as h grows from stability, one of them vanishes first as a root leaves the circle.

    Examples
    --------
    For z² − hz + ¼, where a root is at 1 if h = 5/4, and no pair of complex roots has a product other than ¼:

    >>> list(critical(sympy.Poly(z**2 - h * z + Rational(1, 4), z)).values())
    [-(4*h - 5)/4, (4*h + 5)/4, 3/4]
    """
    coefficients = polynomial.all_coeffs()  # from zⁿ down to z⁰
    n = len(coefficients) - 1
    upper = Matrix(n - 1, n - 1, lambda i, j: coefficients[j - i] if j >= i else 0)
    lower = Matrix(n - 1, n - 1, lambda i, j: coefficients[2 * n - 2 - i - j] if i + j >= n - 2 else 0)
    conditions = {
        "A root z leaves the unit circle at z = 1, where p(1) = 0": polynomial.eval(1),
        "A root z leaves the unit circle at z = −1, where p(−1) = 0": polynomial.eval(-1),
        "Two complex roots leave the unit circle where Jury's determinant is 0": (upper - lower).det(),
    }
    return {done: cast(Expr, sympy.factor(condition)) for done, condition in conditions.items()}


def stable_intervals(polynomial: sympy.Poly, conditions: Sequence[sympy.Poly] | None = None) -> list[tuple[Expr, Expr]]:
    """The intervals of h > 0 in which all roots lie inside the unit circle.

    The ends are the real roots of the conditions, each isolated exactly, and between two of them the coefficients are
    rational, so that nothing is rounded.

    Parameters
    ----------
    polynomial : Poly in z, whose coefficients are polynomials in h over the rational numbers
    conditions : of Poly in h — those of :func:`critical`, where they are known already

    Returns
    -------
    list of (Expr, Expr)
        In ascending order. A value of h at which a root only touches the circle does not end an interval.

    Examples
    --------
    z − (1 − h/2) has its root inside the circle up to h = 4:

    >>> stable_intervals(sympy.Poly(z - 1 + h / 2, z))
    [(0, 4)]
    """
    if conditions is None:
        conditions = [sympy.Poly(condition, h) for condition in critical(polynomial).values()]
    if any(condition.is_zero for condition in conditions):
        return stable_intervals(_without_fixed_roots(polynomial))
    edges = [sympy.S.Zero, *_positive_roots(conditions), sympy.oo]
    intervals: list[tuple[Expr, Expr]] = []
    for left, right in pairwise(edges):
        inside = polynomial.as_expr().subs(h, _between(left, right))
        if is_stable(sympy.Poly(inside, z).all_coeffs()):
            goes_on = bool(intervals) and intervals[-1][1] == left
            intervals.append((intervals.pop()[0] if goes_on else left, right))
    return intervals


def is_stable(coefficients: Sequence[Any]) -> bool:
    """Whether all roots of a polynomial with rational coefficients lie inside the unit circle, decided exactly.

    Source: Schur 1918. p has all roots inside if |p(0)| < |leading coefficient| and the polynomial of one degree less,
    (aₙp − a₀p*)/z, has; p* is p with its coefficients in reverse.

    Examples
    --------
    The roots of z² − z + ½ have modulus √½, those of z² − 5/2·z + 1 are 2 and ½:

    >>> is_stable([1, -1, Rational(1, 2)]), is_stable([1, Rational(-5, 2), 1])
    (True, False)
    """
    bars = sympy.ilcm(1, *(sympy.fraction(c)[1] for c in coefficients))
    whole = [int(c * bars) for c in coefficients]  # from zⁿ down to z⁰
    while len(whole) > 1:
        first, last = whole[0], whole[-1]
        if abs(last) >= abs(first):
            return False
        whole = [first * a - last * b for a, b in zip(whole[:-1], whole[:0:-1], strict=True)]
        shared = int(sympy.igcd(*whole)) if len(whole) > 1 else 1
        whole = [c // shared for c in whole]
    return True


def in_rationals(expression: Expr, *generators: Any) -> sympy.Poly:
    """A polynomial whose coefficients are numbers, over the rational ones: to 60 digits where a number is irrational.

    Examples
    --------
    >>> in_rationals(h / sympy.sqrt(4) + h**2, h).as_expr()
    h**2 + h/2
    """
    terms = sympy.Poly(expression, *generators).terms()
    rational = {powers: _rational(coefficient) for powers, coefficient in terms}
    return sympy.Poly.from_dict(rational, *generators, domain="QQ")


def _rational(number: Any) -> Any:
    return number if number.is_Rational else Rational(str(sympy.N(number, 60)))


def complex_value(expression: Expr) -> complex:
    """The value of an expression without symbols; ∞ where it has none."""
    value = sympy.N(expression, 30)
    return complex(value) if value.is_finite else complex(math.inf)


def _without_fixed_roots(polynomial: sympy.Poly) -> sympy.Poly:
    """The polynomial without the roots z = ±1 that it has at every h: they neither grow nor shrink."""
    rest = polynomial
    for fixed in (1, -1):
        while rest.degree() > 0 and sympy.Poly(rest.eval(fixed), h).is_zero:
            rest = rest.quo(sympy.Poly(z - fixed, z))
    if rest == polynomial:
        raise NotDerivable("a pair of roots stays on the unit circle at every h: no h is stable or unstable")
    return rest


def _positive_roots(conditions: Iterable[sympy.Poly]) -> list[Expr]:
    """The positive real roots of polynomials in h with rational coefficients, in ascending order, each once."""
    product: sympy.Poly = math.prod(conditions, start=sympy.Poly(1, h, domain="QQ"))
    roots: Any = product.sqf_part().real_roots() if product.degree() > 0 else []
    return [root for root in roots if sympy.N(root) > 0]


def _between(left: Expr, right: Expr) -> Any:
    """A rational number between two real numbers, with as few digits as do it."""
    if right is sympy.oo:
        return Rational(str(sympy.N(2 * left + 1, 15)))
    for digits in (4, 15, 60):
        middle = Rational(str(sympy.N((left + right) / 2, digits)))
        if sympy.N(middle - left, 15) > 0 and sympy.N(right - middle, 15) > 0:
            break
    return middle
