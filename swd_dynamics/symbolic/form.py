"""Changes of form only: the same expression, written in the usual way."""

from functools import lru_cache
from typing import Any, cast

import sympy
from sympy import Expr, Rational, Symbol

from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.notation import Letter, PerWeight, shown_name

KINKED = (notation.maximum, notation.clip, *notation.LAWLESS)  # functions whose sign is not asked for

# Symbols of small numbers. Where the sign of a sum is in question they count as 1/1000, and all other symbols as 1/2.
SMALL = ("η", "λ", "ε")


RATES = (notation.total_dot, notation.gradient_dot, notation.theta_dot)


def tidy(expression: Expr) -> Expr:
    """The same expression, collected by the rates of change, with each coefficient as one fraction."""
    expression = cast(Expr, expression.replace(sympy.sign, _of_factors).replace(sympy.Abs, _sizes_of_factors))
    means = sorted(_kept(expression), key=_by_rate)
    masks = {part: PerWeight(f"mask {i}") for i, part in enumerate(means)}
    size, sign = Letter("size", positive=True), Letter("sign", real=True, nonzero=True)
    parts = {sympy.Abs(notation.total): size, sympy.sign(notation.total): sign, notation.total: sign * size}

    def in_size_and_sign(e):
        return _of_one_sign(e.xreplace(parts), sign)

    # √(cG²) is √c·|G|, and for that G² must be |G|² before the root is taken
    masked = expression.xreplace(masks).replace(
        lambda e: e.is_Pow and not e.exp.is_Integer and e.base.has(notation.total),
        lambda e: sympy.Pow(cast(Expr, sympy.factor(in_size_and_sign(e.base))), e.exp),
    )
    compact, sums = with_letters_below(in_size_and_sign(masked))
    collected = sympy.collect(sympy.expand(compact), (*RATES, *masks.values()), evaluate=False)
    each = {rate: cast(Expr, sympy.factor(c)).xreplace(sums) for rate, c in collected.items()}
    back = {size * sign: notation.total, size: sympy.Abs(notation.total), sign: sympy.sign(notation.total)}
    unmask = {mask: part for part, mask in masks.items()}
    tidied = sympy.Add(*(rate * one_minus(_as_one_fraction(c, sign)).subs(back) for rate, c in each.items()))
    return cast(Expr, tidied.xreplace(unmask))


def with_letters_below(expression: Any) -> tuple[Any, dict[Any, Any]]:
    """The expression with a letter for each sum by which something is divided, and what each letter stands for.

    Otherwise powers of these sums are multiplied out: RMSprop with momentum then has hundreds of terms instead of ten.

    Examples
    --------
    >>> from sympy.abc import a, b
    >>> with_letters_below((1 + a) / (a + b) ** 2)
    ((a + 1)/sum 0**2, {sum 0: a + b})
    """
    below = {power.base for power in expression.atoms(sympy.Pow) if power.exp.is_negative and power.base.is_Add}
    letters = {
        base: Letter(f"sum {i}", positive=True) if base.is_positive else Letter(f"sum {i}")
        for i, base in enumerate(sorted(below - {*_inside(below)}, key=str))
    }
    return expression.xreplace(letters), {letter: base for base, letter in letters.items()}


def _inside(sums: set[Any]) -> set[Any]:
    """The sums of a set that are parts of other ones."""
    return {part for part in sums if any(other != part and other.has(part) for other in sums)}


def _of_factors(inner: Any) -> Any:
    return sympy.sign(sympy.factor(inner))


def _sizes_of_factors(inner: Any) -> Any:
    return sympy.Abs(sympy.factor(inner))


def _kept(expression: Any) -> set[Any]:
    """The outermost functions of G that are kept as they are: means, and all others but sign(G) and |G|."""
    if isinstance(expression, notation.mean):
        return {expression}
    if isinstance(expression, sympy.Function) and expression.has(notation.total):
        return set() if expression.args == (notation.total,) and _is_kink(expression) else {expression}
    return set().union(*map(_kept, expression.args))


def _is_kink(function: Any) -> bool:
    return isinstance(function, sympy.sign | sympy.Abs)


def gathered(sum_: Any) -> Any:
    """A sum with terms that differ in their constants only as one term: −G for −νG − (1 − ν)G.

    Examples
    --------
    >>> nu = Symbol("nu", positive=True)
    >>> gathered(-nu * notation.total - (1 - nu) * notation.total)
    -G
    """
    coefficients: dict[Any, list[Any]] = {}
    for term in sympy.Add.make_args(sum_):
        constant, varying = term.as_independent(PerWeight, as_Add=False)
        coefficients.setdefault(varying, []).append(constant)
    each = {v: c[0] if len(c) == 1 else one_minus(sympy.factor(sympy.Add(*c))) for v, c in coefficients.items()}
    return sympy.Add(*(constant * varying for varying, constant in each.items()))


def _by_rate(mean: Any) -> tuple[bool, str]:
    """Means of a rate of change first: the terms of a flow are collected by these."""
    return not mean.has(*RATES), str(mean)


def _as_one_fraction(coefficient: Any, sign: Symbol) -> Expr:
    """A coefficient as one fraction, factored, with sign² = 1.

    The powers of the sign are taken out first and the fraction is factored before it is expanded: in the other order
    RMSprop with momentum takes ten times as long.
    """
    factored = _of_one_sign(sympy.factor(_of_one_sign(coefficient, sign)), sign)
    numerator, denominator = sympy.fraction(factored)
    if not numerator.has(sign):
        return cast(Expr, factored)
    odd = sympy.rem(sympy.Poly(numerator, sign), sympy.Poly(sign**2 - 1, sign)).as_expr()
    return cast(Expr, sympy.factor(odd / denominator))


def _of_one_sign(expression: Any, sign: Symbol) -> Any:
    """The expression with the powers of a sign as 1 or as the sign itself."""
    powers = {power: sign ** (power.exp % 2) for power in expression.atoms(sympy.Pow) if power.base == sign}
    return expression.xreplace({**powers, sympy.Abs(sign): sympy.S.One})


def one_minus(expression: Any) -> Expr:
    """1 − β for −(β − 1), 2 − ηλ for −(ηλ − 2): every sum is written so that it is positive where η and λ are small.

    Examples
    --------
    >>> beta = Symbol("beta", positive=True)
    >>> one_minus((beta - 1) * (beta + 1) / (beta - 1) ** 3)
    (beta + 1)/(1 - beta)**2
    """
    turned = expression.replace(
        lambda e: e.is_Pow and e.exp.is_Integer and is_turned(e.base),
        lambda e: (-1) ** e.exp * sympy.Pow(-e.base, e.exp),
    )
    if turned.is_Add:
        return sympy.Add(*map(_turn_factors, turned.args))
    return _turn_factors(turned)


def _turn_factors(term: Any) -> Expr:
    if not term.is_Mul:
        return term
    turned = [factor for factor in term.args if is_turned(factor)]
    rest = sympy.Mul(*(factor for factor in term.args if factor not in turned))
    return sympy.Mul((-1) ** len(turned), rest, *(-factor for factor in turned))


@lru_cache(maxsize=4096)
def is_turned(base: Any) -> bool:
    """Whether a sum of symbols is negative where η and λ are small. A sum with a maximum or a clip is left as it is."""
    if not base.is_Add or base.has(*KINKED):
        return False
    plain = base.replace(notation.decayed, lambda beta, k: Rational(1, 4)).replace(notation.mean, lambda x: x)
    small = {s: Rational(1, 1000) if shown_name(s) in SMALL else Rational(1, 2) for s in plain.free_symbols}
    return bool(plain.xreplace(small).is_negative)


def by_curvature(expression: Any) -> Expr:
    """The expression collected by powers of h, with each coefficient factored."""
    collected = sympy.collect(sympy.expand(expression), notation.curvature, evaluate=False)
    return sympy.Add(*(power * one_minus(sympy.factor(c)) for power, c in collected.items()))
