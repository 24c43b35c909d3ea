"""Functions with kinks, each on the side on which a rule is between kinks, and what is assumed with that."""

from collections.abc import Sequence
from typing import Any, TypeVar

import sympy
from sympy import Symbol

from swd_dynamics.symbolic.notation import PerWeight, clip, maximum
from swd_dynamics.symbolic.printer import text

Traced = TypeVar("Traced", bound=Any)

HOLDS = "the maximum holds what it remembers (between its kinks)"
FADES = "the maximum is the new value, since what it remembers fades (between its kinks)"
INACTIVE = "the clip is inactive (between its kinks)"
ONE_SIGN = "no sign changes (between its kinks)"


def between_kinks(traced: Traced, memory: Sequence[Symbol]) -> tuple[Traced, tuple[str, ...]]:
    """A trace without maxima, clips and cases, and the assumptions with which these left it.

    max(m, new) is m, since a maximum over all steps is seldom exceeded. max(βm, new) is the new value, because βm has
    faded by the time that a gradient of the same size comes again. Of cases, the first is taken.

    Examples
    --------
    AMSGrad's maximum holds:

    >>> from swd_dynamics.symbolic import notation
    >>> from swd_dynamics.symbolic.trace import Trace
    >>> v = PerWeight("v", real=True)
    >>> held = maximum(v, notation.total**2)
    >>> settled, said = between_kinks(Trace(notation.lr, notation.gradient, (v,), (held,), 0, v), [v])
    >>> settled.remembered, said
    ((v,), ('the maximum holds what it remembers (between its kinks)',))
    """
    said: dict[str, None] = {}

    def larger(first, second):
        fades = _share(first, memory)
        said[HOLDS if fades is None and _is_held(first, memory) else FADES] = None
        return second if fades is not None else first

    def unclipped(value, low, high):
        said[INACTIVE] = None
        return value

    def first_case(*cases):
        value, condition = cases[0]
        if condition is not sympy.true:
            said[f"the first of the cases of a formula holds: {text(condition)}"] = None
        return value

    def settle(expression):
        expression = sympy.sympify(expression).replace(maximum, larger).replace(clip, unclipped)
        return expression.replace(sympy.Piecewise, first_case)

    settled = traced.map(settle)
    if traced.has(sympy.sign):
        said[ONE_SIGN] = None
    return settled, tuple(said)


def _is_held(value: Any, memory: Sequence[Symbol]) -> bool:
    return any(value.has(symbol) for symbol in memory)


def _share(value: Any, memory: Sequence[Symbol]) -> Any:
    """β of β·m, where m is an entry of the memory; None for m itself and for anything else."""
    share, entry = value.as_independent(PerWeight, as_Add=False)
    return share if entry in memory and share != 1 else None
