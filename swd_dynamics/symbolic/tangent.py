"""A step that is smooth and not linear, linearised where a direction comes to rest."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import sympy
from sympy import Expr, Matrix, Rational, Symbol

from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import NotDerivable, refuse_longer
from swd_dynamics.symbolic.modified import slow_manifold
from swd_dynamics.symbolic.names import symbol_text
from swd_dynamics.symbolic.notation import Letter
from swd_dynamics.symbolic.printer import text
from swd_dynamics.symbolic.trace import Trace

SMOOTH = (
    "the step is not linear, and is linearised where G = 0 and the optimizer state is at rest: with a weight decay, the"
    " result holds for a small θ⋆"
)

# Digits with which two expressions are evaluated, and how far apart equal ones may be: half of the digits are for what
# a subtraction of numbers near to each other loses.
DIGITS, ROUNDED = 30, 1e-15

NOT_FINITE = (sympy.zoo, sympy.oo, -sympy.oo, sympy.nan)


def at_small_gradients(after: Matrix, settled: Trace, active: Sequence[Symbol]) -> tuple[Matrix, list[str]]:
    """A step that is linear in θ, G and the memory, as it is; another one linearised where the direction is at rest.

    Parameters
    ----------
    after : Matrix, shape (1 + entries of the memory, 1)
        θ and the memory after the step, in θ, G and the memory before the step.
    settled : Trace — the trace from which they come
    active : of Symbol — the entries of the memory that are not frozen

    Returns
    -------
    Matrix, list of str
        The linear step, and what is assumed if the step was not linear.

    Raises
    ------
    NotDerivable
        If the step has a kink, a jump or no finite slope where the direction is at rest.

    Examples
    --------
    G/(1 + G²) has the slope 1 at G = 0:

    >>> from swd_dynamics.symbolic.trace import Trace
    >>> step = Matrix([notation.theta - notation.total / (1 + notation.total**2)])
    >>> at_small_gradients(step, Trace(notation.lr, notation.gradient, (), (), sympy.S.Zero, notation.total), ())[0]
    Matrix([[-G + θ]])
    """
    for row in after:
        refuse_longer(row, "a step with its memory put in")
    inputs = (notation.total, *active)
    smooth, jumps = _without_jumps(after, inputs)
    slopes = smooth.jacobian(inputs)
    if not jumps and not _varying(smooth, (notation.theta, *inputs)):
        return after, []
    rest = dict.fromkeys(inputs, sympy.S.Zero) | _memory_at_rest(settled, active)
    settle = _Rest(rest, jumps)
    level, slopes = smooth.applyfunc(settle.value), slopes.applyfunc(settle.value)
    if slopes.has(notation.theta) or _varying(level, [notation.theta]):
        raise NotDerivable("the step is not linear in θ even where G = 0: it has no linear map")
    moved = Matrix([symbol - rest[symbol] for symbol in inputs])
    linear = cast(Matrix, level + slopes * moved)
    is_linear = all(same_at_samples(*pair) for pair in zip(smooth.flat(), linear.flat(), strict=True))
    return linear, [] if is_linear else [SMOOTH]


def mean_at_rest(mean: Any, moving: set[Symbol]) -> Any:
    """A mean over weights as it is, to first order, where what moves is at 0: a mean of squares is constant there.

    Examples
    --------
    >>> v, m = notation.PerWeight("v", positive=True), notation.PerWeight("m", real=True)
    >>> mean_at_rest(notation.mean(sympy.sqrt(v - m**2)), {m})
    mean(sqrt(v))
    """
    (inner,) = mean.args
    none = dict.fromkeys(inner.free_symbols & moving, sympy.S.Zero)
    if any(sympy.diff(inner, symbol).xreplace(none) != 0 for symbol in none):
        raise NotDerivable(
            f"the mean over weights ⟨{text(inner)}⟩ couples the weights: a linear map of one weight needs it constant"
        )
    return mean.func(inner.xreplace(none))


def _varying(step: Matrix, inputs: Sequence[Symbol]) -> set[Symbol]:
    return {*step.jacobian(inputs).free_symbols} & {*inputs}


class _Rest:
    """Expressions where the direction is at rest; what is not finite there, or not smooth, is refused."""

    def __init__(self, rest: Mapping[Any, Any], jumps: dict[Symbol, Expr]):
        self.rest, self.jumps = rest, jumps

    def value(self, expression: Any) -> Any:
        found = expression.xreplace(self.rest)
        endless = found.has(*NOT_FINITE)
        if endless and not self.jumps:
            raise NotDerivable(
                "where G = 0 and the optimizer state is at rest, the step has no finite slope: it has no linear map,"
                " and no curvature at which it becomes unstable. Add an eps to what divides there"
            )
        if kinks := [part for jump, part in self.jumps.items() if endless or found.has(jump)]:
            raise NotDerivable(
                f"the step is not linear, and {' and '.join(map(text, kinks))}"
                f" {'jump' if len(kinks) > 1 else 'jumps'} where the optimizer comes to"
                " rest: it has no linear map there, and no curvature at which it becomes unstable. The flow between the"
                " kinks is that of modified_equation"
            )
        return found


def _without_jumps(after: Matrix, inputs: Sequence[Symbol]) -> tuple[Matrix, dict[Symbol, Expr]]:
    """The matrix with a letter j for each sign(x), and with j·x for |x|, and what each letter stands for.

    A letter has no slope. So |x| has the slope j, in which the kink is still seen, and x·|x| has the slope 2·j·x, which
    is 0 at 0 like the true one.
    """
    moving = {*inputs}
    found = {part.args[0] for part in after.atoms(sympy.sign, sympy.Abs) if part.free_symbols & moving}
    letters = {inner: Letter(f"jump {i}", real=True) for i, inner in enumerate(sorted(found, key=str))}
    changes: dict[Any, Any] = {sympy.sign(inner): jump for inner, jump in letters.items()}
    changes |= {sympy.Abs(inner): jump * inner for inner, jump in letters.items()}
    return cast(Matrix, after.xreplace(changes)), {jump: sympy.sign(inner) for inner, jump in letters.items()}


def _memory_at_rest(settled: Trace, active: Sequence[Symbol]) -> dict[Symbol, Any]:
    """The memory that a step without gradient leaves as it is: 0, or what its equations give."""
    none = dict.fromkeys((notation.total, *active), sympy.S.Zero)
    entries = dict(zip(settled.memory, settled.remembered, strict=True))
    if all(entries[symbol].xreplace(none) == 0 for symbol in active):
        return {}
    found, constants = slow_manifold(settled.map(lambda e: e.xreplace({notation.total: sympy.S.Zero})))
    if drifting := [symbol_text(symbol) for symbol in active if symbol in constants]:
        raise NotDerivable(f"{' and '.join(drifting)} has no rest point: the step cannot be linearised about one")
    return {symbol: found[symbol] for symbol in active}


def same_at_samples(left: Any, right: Any) -> bool:
    """Whether two expressions are equal at three points, where different expressions agree by chance only.

    Multiplying both out would be a proof, and may take minutes where roots are inside of roots.

    Examples
    --------
    >>> x = sympy.Symbol("x")
    >>> same_at_samples((x + 1) ** 2, x**2 + 2 * x + 1), same_at_samples((x + 1) ** 2, x**2 + 1)
    (True, False)
    """
    generator = np.random.default_rng(0)
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    for _ in range(3):
        point = {symbol: Rational(f"{generator.uniform(0.1, 0.9):.4f}") for symbol in symbols}
        apart = sympy.N((left - right).xreplace(point), DIGITS)
        if not apart.is_number or abs(complex(apart)) > ROUNDED:
            return False
    return True
