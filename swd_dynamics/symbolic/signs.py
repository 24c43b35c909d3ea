"""The equilibrium of rules that move by the sign of a momentum, as Signum and Lion do.

The correlation of the signs of two Gaussian numbers with the correlation ρ is (2/π)·arcsin ρ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import sympy
from sympy import Matrix, Symbol

from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.balance import Law
from swd_dynamics.symbolic.correlation import STRAIGHT, CorrelatedMotion, Filter, Output, responses
from swd_dynamics.symbolic.derivation import NotDerivable, stated
from swd_dynamics.symbolic.form import one_minus
from swd_dynamics.symbolic.noise import expected
from swd_dynamics.symbolic.notation import Letter, decayed, primed
from swd_dynamics.symbolic.trace import Trace, trace, trace_steps, without_bias

SIGN = Output(1, lambda rho: 2 / np.pi * np.arcsin(np.clip(rho, -1, 1)), 2 / np.pi)

RESPONSE = (
    "The sign is that of x, to which a unit of gradient adds w₀ in its own step, w₁ one step later, and so on. So the"
    " correlation of x with x k steps later is ρₖ = Σⱼwⱼwⱼ₊ₖ/Σⱼwⱼ²"
)
ARCSINE = "Signs k steps apart have the correlation (van Vleck & Middleton 1966)"
MANY_STEPS = "many steps were taken, so that bias corrections are 1"


def law_of_signs(letters: UpdateRule, numbers: Mapping[Symbol, Any]) -> Law | None:
    """The law of a rule in symbols that moves by the sign of a linear memory; None for another rule.

    Parameters
    ----------
    letters : UpdateRule
    numbers : dict of Symbol to number

    Raises
    ------
    NotDerivable
        If a symbol of the direction has no number.

    Examples
    --------
    Signs of gradients are independent, and with decoupled decay θ is a sum of (1 − ηλ)ᵏ·η·sign.

    >>> from swd_dynamics.rules import CATALOG
    >>> from swd_dynamics.symbolic.notation import exact, lettered
    >>> rule, values = lettered(CATALOG["SignumW"](lr=0.5, momentum=0.0, weight_decay=1.0))
    >>> law = law_of_signs(rule, exact(values))
    >>> round(float(law.numbers(1.0).variance), 12), round(0.5**2 / (1 - 0.5**2), 12)
    (0.333333333333, 0.333333333333)
    """
    traced = trace(letters).map(without_bias)
    signs = traced.move.atoms(sympy.sign)
    if len(signs) != 1:
        return None
    (sign,) = signs
    size, after = cast(Any, traced.move).xreplace({sign: sympy.S.One}), _after(traced)
    gradients = (notation.total, *traced.memory)
    inner = sympy.expand(sign.args[0].xreplace(after))
    linear = [inner, *map(sympy.expand, traced.remembered)]
    is_sign = traced.move == size * sign and not size.free_symbols & {*gradients, *after, notation.theta}
    if not is_sign or not all(_is_linear(each, gradients) for each in linear):
        return None
    return _law_of_signs(letters, traced, inner, size, numbers)


def _after(traced: Trace) -> dict[Symbol, Any]:
    return dict(zip(map(primed, traced.memory), traced.remembered, strict=True))


def _is_linear(expression: Any, inputs: Sequence[Symbol]) -> bool:
    if expression.has(notation.theta) or not expression.is_polynomial(*inputs):
        return False
    return all(sum(powers) == 1 for powers, c in sympy.Poly(expression, *inputs).terms() if c != 0)


def _law_of_signs(letters: UpdateRule, traced: Trace, inner: Any, size: Any, numbers: Mapping[Symbol, Any]) -> Law:
    memory: Any = [*traced.memory]
    remembered: Any = Matrix([*traced.remembered])
    feed = remembered.jacobian(memory) if memory else sympy.zeros(0, 0)
    column = remembered.diff(notation.total)
    row = Matrix([[inner.diff(symbol) for symbol in memory]])
    direct = inner.diff(notation.total)
    parts = [sympy.Matrix(each).xreplace(dict(numbers)) for each in (feed, column, row, [[direct]])]
    if unknown := set().union(*(part.free_symbols for part in parts)):
        names = " and ".join(sorted(map(notation.shown_name, unknown)))
        raise NotDerivable(
            f"the sum of the correlations of all steps has no formula for a sign: give a number for {names} to the rule"
        )
    feed_, column_, row_, direct_ = (np.array(part, dtype=float).reshape(part.shape) for part in parts)
    filtered = Filter(feed_, column_.ravel(), row_.ravel(), float(direct_[0, 0]))
    states, weights = responses(filtered)
    covariance = Matrix(states.T @ states) * notation.noise**2 if memory else None
    filtering = {
        symbol: numbers[symbol] for symbol in (*inner.free_symbols, *remembered.free_symbols) if symbol in numbers
    }
    decay = (
        traced.decay_rate.xreplace(_after(traced))
        .xreplace(filtering)
        .replace(notation.mean, lambda x: expected(sympy.expand(x), memory, covariance))
    )
    output = replace(SIGN, square=size**2)
    pull = traced.total.diff(notation.theta)
    motion = CorrelatedMotion(letters.lr, output, filtered, weights, decay, pull)
    first = [row * feed**j * column for j in range(2)] if memory else []
    shown = Matrix([direct, *(one_minus(sympy.factor(each[0])) for each in first)])
    names = Matrix([Letter(f"w{digit}") for digit in "₀₁₂"[: len(shown)]])
    steps = (
        *trace_steps(trace(letters)),
        stated(RESPONSE, names, shown),
    )
    steps += (stated(ARCSINE, Letter("cₖ"), 2 * sympy.asin(Letter("ρₖ")) / sympy.pi),)
    conditions = (*traced.conditions, *([MANY_STEPS] if trace(letters).has(decayed) else []))
    return motion.law(numbers, steps, (*conditions, *([STRAIGHT] if pull != 0 else [])))
