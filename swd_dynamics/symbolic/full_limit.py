"""The limit at the edge of stability if the preconditioner, too, turns over in each step.

The limit of :func:`~swd_dynamics.symbolic.edge.edge` takes the preconditioner as constant in an oscillation. But v has
2g·Hδ where the mean gradient g of a weight is not 0, and turns over with it. So does the step that v divides.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import Expr

from swd_dynamics.errors import InputError
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import NotDerivable
from swd_dynamics.symbolic.form import one_minus
from swd_dynamics.symbolic.letters import exact, lettered
from swd_dynamics.symbolic.modified import along
from swd_dynamics.symbolic.notation import PerWeight, cached, primed
from swd_dynamics.symbolic.trace import long_run, trace

Array = NDArray[np.float64]


def full_limit(rule: UpdateRule) -> Expr:
    """The curvature h at which a step turns over an oscillation of θ and of all entries of the memory.

    Let G turn over between 1 and −1. Each entry x of the memory then turns over by what x′ = f(x, G) gives for x′ = −x,
    linearised at the memory of the slow motion, and θ′ = −θ gives the curvature.

    Returns
    -------
    Expr — in G, the mean gradient (with λθ of L2), and in the slow motion of the memory, as m′ and v′

    Raises
    ------
    NotDerivable
        If no curvature turns θ over, or the memory has no oscillation of its own.

    Notes
    -----
    Assumes late steps, weights that are not coupled in this oscillation (a mean over all weights, as in AdamS, is taken
    as constant), and memory entries that are linear in themselves, as moving averages are.

    Examples
    --------
    Adam without momentum: the curvature is larger than 2√v/η, by a factor of 1/(1 − gm/3v) for β₂ = ½:

    >>> from swd_dynamics.rules import CATALOG
    >>> full_limit(CATALOG["Adam"](lr=0.5, betas=(0, 0.5), eps=0.0))
    12*v′**(3/2)/(-G*m′ + 3*v′)
    """
    letters, values = lettered(rule)
    one = 1 / _turned(letters)
    return one_minus(sympy.factor(one.xreplace(exact(values))))


def numeric_full_limit(rule: UpdateRule) -> Callable[[Array, tuple[Array, ...]], Array]:
    """The limit of :func:`full_limit` for a rule in numbers, as its reciprocal, which is finite where v is positive.

    Raises
    ------
    InputError
        If a hyperparameter is a symbol.
    NotDerivable
        As :func:`full_limit`.

    Returns
    -------
    callable (G, memory) → 1/h of each weight, shape (n,); not positive where no curvature turns the weight over

    Examples
    --------
    With v = g² the formula above has the curvature 12/(3 − 1) = 6, where the constant v has 4:

    >>> from swd_dynamics.rules import CATALOG
    >>> one = np.ones(1)
    >>> turned = numeric_full_limit(CATALOG["Adam"](lr=0.5, betas=(0.0, 0.5), eps=0.0))
    >>> round(1 / float(turned(one, (one, one))[0]), 9)
    6.0
    """
    letters, values = lettered(rule)
    compiled, names = _compiled(letters)
    if unknown := [name.name for name in names if name not in values]:
        raise InputError(f"{', '.join(unknown)} is a symbol: give numbers, or take full_limit for a formula")
    numbers = [values[name] for name in names]

    def turned(gradient: Array, memory: tuple[Array, ...]) -> Array:
        found = np.asarray(compiled(gradient, memory, numbers), dtype=float)
        return np.broadcast_to(found, np.shape(gradient)).copy()

    return turned


@cached
def _compiled(rule: UpdateRule) -> tuple[Callable, list[sympy.Symbol]]:
    turned = _turned(rule).replace(notation.mean, sympy.Function("mean"))
    after = [primed(symbol) for symbol in trace(rule).memory]
    names: Any = sorted(turned.free_symbols - {notation.total, *after}, key=str)
    words = [{"mean": np.mean}, "numpy"]
    return sympy.lambdify([notation.total, after, names], turned, words, cse=True, dummify=True), names


@cached
def _turned(rule: UpdateRule) -> Any:
    """1/h: what θ turns over, where G does by 1 and L2 has its own share in G."""
    settled = long_run(trace(rule))
    means = {each: PerWeight(f"mean {i}", real=True) for i, each in enumerate(_means(settled.update))}
    update = settled.update.xreplace(means)
    shares = _turning_memory(settled)
    change = {notation.total: 1, **{primed(symbol): -share for symbol, share in shares.items()}}
    back = -along(update, change)  # how far G moves θ back in the same step
    kept = sympy.diff(update, notation.theta)
    if back == 0:
        raise NotDerivable("no curvature turns θ over: the rule has no edge of stability")
    added = sympy.diff(settled.total, notation.theta)
    whole = {symbol: each for each, symbol in means.items()}
    turned = (back / (1 + kept - added * back)).xreplace(whole)
    return sympy.cancel(turned.xreplace({symbol: primed(symbol) for symbol in settled.memory}))


def _means(expression: Any) -> list[Any]:
    return sorted(expression.atoms(notation.mean), key=str)


def _turning_memory(settled: Any) -> dict[Any, Any]:
    """What each entry of the memory turns over before the step, where G turns over by 1: f(x, 1) = −x, linearised."""
    unknown = [PerWeight(f"turned {symbol.name}", real=True) for symbol in settled.memory]
    change = {notation.total: 1, **dict(zip(settled.memory, unknown, strict=True))}
    rows = [along(f, change) + x for f, x in zip(settled.remembered, unknown, strict=True)]
    found: Any = sympy.solve(rows, unknown, dict=True) if rows else [{}]
    if not found or not set(unknown) <= set(found[0]):
        raise NotDerivable("the memory of the rule has no linear oscillation: only moving averages have")
    return {symbol: found[0][x] for symbol, x in zip(settled.memory, unknown, strict=True)}
