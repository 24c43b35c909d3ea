"""The modified equation of a rule, to second order in the learning rate.

A flow dθ/dt = F₀ + ηF₁ with t = ηk follows the iterates up to O(η²). The memory is on its slow manifold,
M = M₀(θ, G) + ηM₁(θ, G, θ̇, Ġ), which it reaches after a few times 1/(1−β) steps. The time derivative ġ of the gradient
is a symbol, so the derivation needs no Hessian: to evaluate the flow, put in the Hessian-vector product ġ = H·dθ/dt.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy
from sympy import Expr, S, Symbol

from swd_dynamics.checks import check
from swd_dynamics.errors import InputError
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import Derived, NotDerivable, refuse_longer, refuse_wider, stated
from swd_dynamics.symbolic.form import gathered, one_minus, tidy, with_letters_below
from swd_dynamics.symbolic.letters import exact, lettered
from swd_dynamics.symbolic.names import symbol_text
from swd_dynamics.symbolic.notation import Letter, PerWeight, cached, maximum, primed
from swd_dynamics.symbolic.printer import text
from swd_dynamics.symbolic.trace import Trace, long_run, trace, trace_steps

_s = Letter("s", real=True)  # the distance along a change of symbols, with respect to which expressions are derived

FAR = 1e9  # of the first interval in which a rest point is looked for: no weight in training is larger

KINKED = "g is not 0, where the formula has a kink or a pole"

INFINITE = (sympy.zoo, sympy.oo, -sympy.oo, sympy.nan)


@dataclass(frozen=True, repr=False)
class ModifiedEquation(Derived):
    """dθ/dt = F₀ + ηF₁, and the memory that belongs to it.

    Attributes
    ----------
    title, results, steps, assumptions, values : as those of a :class:`Derivation`; the results are ``F₀`` and ``F₁``
    memory : dict of Symbol to (Expr, Expr) — M₀ and M₁ of each entry, the memory *after* the step at θ
    constants : dict of Symbol to Expr — the entries that are constant (a maximum that holds), and where they start
    starting : dict of Symbol to Expr — the memory *before* the step at θ that puts a run on its slow manifold, with η

    The last three are in symbols, even where the rule had numbers: ``values`` gives the number of each symbol.

    Examples
    --------
    Heavy ball at β = ½: F₀ = −g/(1−β) and F₁ = ġ(1+β)/(2(1−β)²). Its m comes to rest at g/(1−β), in symbols.

    >>> from swd_dynamics.rules import CATALOG
    >>> equation = modified_equation(CATALOG["SGD"](lr=0.1, momentum=0.5))
    >>> equation.first, equation.second
    (-2*g, 3*ġ)
    >>> {entry.name: at_rest for entry, (at_rest, _) in equation.memory.items()}
    {'m': -g/(β - 1)}
    """

    memory: dict = field(default_factory=dict)
    constants: dict = field(default_factory=dict)
    starting: dict = field(default_factory=dict)

    @property
    def first(self) -> Expr:
        """F₀ in θ and g."""
        return self.results["F₀"]

    @property
    def second(self) -> Expr:
        """F₁ in θ, g and ġ."""
        return self.results["F₁"].xreplace({notation.theta_dot: self.first})

    @property
    def second_in_rates(self) -> Expr:
        """F₁ in θ, g and the rates θ̇ = F₀ and ġ: the short form."""
        return self.results["F₁"]

    def rest_point(self, *, h: float, theta_star: float) -> float:
        """Where F₀ = 0 on f = ½h(θ − θ⋆)² with exact gradients: a weight comes to rest there if the steps are small.

        The weight is alone, so that a mean over all weights is its own value. Where F₀ jumps from above 0 to below 0,
        as that of Adam does where g = 0, the weight rests at the jump.

        Parameters
        ----------
        h : float — the curvature, above 0
        theta_star : float — the minimum θ⋆

        Raises
        ------
        InputError
            If h is not above 0, if F₀ has symbols besides θ and g, or if F₀ does not bring large weights back.

        Examples
        --------
        AdamW leaves a weight as it is up to 1/λ = 2, and clips it there:

        >>> from swd_dynamics.rules import CATALOG
        >>> equation = modified_equation(CATALOG["AdamW"](lr=0.01, weight_decay=0.5))
        >>> [round(equation.rest_point(h=1, theta_star=optimum), 6) for optimum in (1.0, 1.5, 3.0)]
        [1.0, 1.5, 2.0]
        """
        check("h", h, "(0, inf)")
        check("theta_star", theta_star, "(-inf, inf)")
        first = self.first.replace(notation.mean, lambda each: each)
        if unknown := first.free_symbols - {notation.theta, notation.gradient}:
            names = ", ".join(sorted(symbol_text(str(symbol)) for symbol in unknown))
            raise InputError(f"F₀ contains {names}: a rest point in numbers needs a rule with a number for each symbol")
        pull = first.xreplace({notation.gradient: h * (notation.theta - theta_star)})
        return _downward_crossing(sympy.lambdify(notation.theta, pull, "numpy"), 1 + 2 * abs(theta_star))


def _downward_crossing(function: Callable[[np.float64], Any], far: float) -> float:
    """Where a function changes from above 0 to below 0: found by halving the interval −far to far, made wider first."""
    low, high = np.float64(-far), np.float64(far)
    with np.errstate(all="ignore"):  # at a pole of F₀, which may be what is looked for
        while not function(low) > 0 > function(high):
            low, high = 2 * low, 2 * high
            if not high < FAR * far:
                raise InputError("F₀ does not bring large weights back: there is no rest point (try weight_decay ≥ 0)")
        while low < (middle := (low + high) / 2) < high:
            low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return float(middle) + 0.0  # not −0


def modified_equation(rule: UpdateRule) -> ModifiedEquation:
    """The flow that an optimizer's iterates follow to second order in η.

    Parameters
    ----------
    rule : UpdateRule
        Hyperparameters may be numbers, sympy expressions or arrays. The result does not depend on the learning rate.

    Returns
    -------
    ModifiedEquation
        ``.first`` is F₀, ``.second`` is F₁ in θ, g and ġ, and ``.second_in_rates`` the same in the rates θ̇ = F₀ and ġ,
        which is shorter; with ``.assumptions``, ``.latex()``, and the steps of the derivation.

    Raises
    ------
    NotDerivable
        If the memory's equations cannot be solved one after another, or the memory has no slow manifold.

    Notes
    -----
    Assumes that β is fixed as η → 0 (the memory is fast), that no gradient is 0, and that no kink is crossed.
    Source: backward error analysis, Hairer, Lubich & Wanner 2006, ch. IX; for Adam, Cattaneo, Klusowski & Shigida 2023,
    2309.00079.

    Examples
    --------
    Gradient descent follows θ̇ = −g − (η/2)·Hg, so F₁ = ġ/2 with ġ = H·F₀:

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> equation = modified_equation(UpdateRule(0.1, SGD()))
    >>> equation.first, equation.second
    (-g, ġ/2)
    >>> equation
    The modified equation dθ/dt = F₀ + ηF₁
        F₀ = −g
        F₁ = ġ/2
    Assumptions:
    - the optimizer state is on its slow manifold, and its constants (β) are fixed as η → 0
    - the learning rate is constant
    7 steps: print this derivation, or see .steps and .symbols
    """
    letters, values = lettered(rule)
    equation = _derive(letters)
    _refuse_growth(letters, exact(values))
    return equation.with_numbers(values, exact(values))


def _refuse_growth(letters: UpdateRule, numbers: dict) -> None:
    """Raise NotDerivable if a memory entry leaves its rest point, with the numbers that are known."""
    for symbol, kept in _kept_shares(letters):
        share = kept.xreplace(numbers)
        if share.is_number and sympy.Abs(share) > 1:
            raise NotDerivable(
                f"the memory entry {symbol.name} is multiplied by {sympy.N(share, 6)} in every step while G is"
                " constant: it has no rest point. Use Flow(rule, …, order='state'), in which the memory is a variable"
            )


@cached
def _kept_shares(rule: UpdateRule) -> tuple[tuple[Symbol, Any], ...]:
    """Each memory entry, and how much of a change of it is left after a step at its rest point."""
    settled = long_run(trace(rule))
    at_rest, _ = slow_manifold(settled)
    entries = zip(settled.memory, settled.remembered, strict=True)
    return tuple((symbol, sympy.diff(remembered, symbol).xreplace(at_rest)) for symbol, remembered in entries)


@cached
def _derive(rule: UpdateRule) -> ModifiedEquation:
    traced = trace(rule)
    settled = long_run(traced)
    memory0, constants = slow_manifold(settled)
    fast = [symbol for symbol in settled.memory if symbol not in constants]
    moving = {notation.theta: notation.theta_dot, notation.total: notation.total_dot}
    rates0 = {symbol: along(memory0[symbol], moving) for symbol in fast}
    memory1 = _first_correction(settled, memory0, rates0, fast)
    new0 = {primed(symbol): memory0[symbol] for symbol in settled.memory}
    first, rest = _in_orders(settled.displacement.xreplace(new0), settled)
    shift = {primed(symbol): memory1[symbol] for symbol in fast}
    lag, _ = _in_orders(along(settled.displacement, shift).xreplace(new0), settled)
    lag += rest
    turn = along(first, moving)
    second = lag - turn / 2
    if sympy.Tuple(first, second).has(*INFINITE):
        raise NotDerivable(
            "the move is infinite where the memory is at rest: something is divided by 0 there. Add an eps to what"
            " divides, or use Flow(rule, …, order='state'), in which the memory is a variable"
        )
    first, second = one_minus(gathered(first)), _tidied(second)
    shown = _in_gradients(settled)
    lags = {symbol: memory1[symbol] - rates0[symbol] for symbol in fast}
    starts = _starting_values(traced, memory0, lags, constants, shown)
    return ModifiedEquation(
        title="The modified equation dθ/dt = F₀ + ηF₁",
        results={"F₀": shown(first), "F₁": shown(second)},
        steps=(*trace_steps(traced), *_explain(memory0, memory1, first, lag, turn, second)),
        assumptions=_assumptions(settled, constants, second, rest),
        memory={symbol: (shown(memory0[symbol]), shown(memory1.get(symbol, S.Zero))) for symbol in settled.memory},
        constants=starts,
        starting=starts | {s: shown(memory0[s] + notation.lr * lags[s]) for s in fast},
    )


def slow_manifold(settled: Trace) -> tuple[dict[Symbol, Expr], tuple[Symbol, ...]]:
    """Where the memory comes to rest while θ and G are constant, and the entries that keep any value they have."""
    found: dict[Symbol, Expr] = {}
    constants = []
    for symbol, expression in _in_order(settled, found):
        slope, rest = affine(expression.xreplace(found) - symbol, symbol)
        if slope == 0 and rest == 0:
            constants.append(symbol)
            found[symbol] = symbol
        elif slope == 0:
            raise NotDerivable(
                f"the memory entry {symbol.name} changes without end while G is constant: it has no rest point, and the"
                " rule no modified equation. Use Flow(rule, …, order='state'), in which the memory is a variable"
            )
        else:
            found[symbol] = sympy.cancel(-rest / slope) if not rest.has(sympy.Abs) else -rest / slope
    return found, tuple(constants)


def _in_order(settled: Trace, known: dict[Symbol, Expr]):
    """The memory's equations, each as soon as all other entries in it are known."""
    waiting = dict(zip(settled.memory, settled.remembered, strict=True))
    while waiting:
        ready = [s for s, e in waiting.items() if not (e.free_symbols & set(waiting)) - {s}]
        if not ready:
            names = ", ".join(symbol.name for symbol in waiting)
            raise NotDerivable(
                f"the memory entries {names} feed on each other in a circle; they must build one on another"
            )
        yield ready[0], waiting.pop(ready[0])


def affine(expression: Expr, symbol: Symbol) -> tuple[Expr, Expr]:
    """a and b where the expression is a·symbol + b."""
    slope = sympy.expand(sympy.diff(expression, symbol))
    rest = expression.subs(symbol, 0)
    if slope.has(symbol) or slope.has(sympy.nan, sympy.zoo):
        raise NotDerivable(
            f"the memory entry {symbol.name} feeds on itself nonlinearly: its rest point has no formula. Use"
            " Flow(rule, …, order='state'), in which the memory is a variable"
        )
    return slope, sympy.expand(rest) if slope == 0 else rest


def along(expression, change: Mapping[Any, Any]) -> Any:
    """The derivative of an expression along a change of its symbols, where a sign is constant.

    A mean changes by the mean of the change.
    """
    signs = {part: PerWeight(f"sign {i}", real=True) for i, part in enumerate(expression.atoms(sympy.sign))}
    moved = expression.xreplace(signs).xreplace({symbol: symbol + _s * rate for symbol, rate in change.items()})
    return sympy.diff(moved, _s).subs(_s, 0).xreplace({mask: part for part, mask in signs.items()})


def _first_correction(settled: Trace, memory0, rates0, fast) -> dict[Symbol, Expr]:
    """M₁ from M₀(t) + ηM₁ = remember(M₀(t−η) + ηM₁, G) at order η: M₁ = ∂remember/∂M · (M₁ − Ṁ₀)."""
    known: dict[Symbol, Expr] = {}
    lagging: dict[Symbol, Expr] = {}
    for symbol, expression in _in_order(settled, known):
        if symbol not in fast:
            continue
        unknown = PerWeight(f"first order of {symbol.name}", real=True)  # no memory entry can have this name
        change = {**lagging, symbol: unknown - rates0[symbol]}
        response = along(expression, change).xreplace(memory0)
        slope, rest = affine(response - unknown, unknown)
        known[symbol] = -rest / slope
        lagging[symbol] = known[symbol] - rates0[symbol]
    return known


def _in_gradients(settled: Trace):
    """A function that writes G and Ġ of an expression in g, θ, ġ and θ̇."""
    rates = {notation.theta: notation.theta_dot, notation.gradient: notation.gradient_dot}
    total_dot = along(settled.total, rates)
    return lambda e: e.xreplace({notation.total_dot: total_dot, notation.total: settled.total})


def _starting_values(traced, memory0, lags, constants, shown) -> dict[Symbol, Expr]:
    """Where a maximum that holds starts: at the value it is compared with on the slow manifold, to first order."""
    starts = {}
    moves = {symbol: notation.lr * lag for symbol, lag in lags.items()}
    for symbol, expression in zip(traced.memory, traced.remembered, strict=True):
        if symbol in constants:
            new = expression.replace(maximum, lambda held, new: new)
            at_rest = new.xreplace(memory0)
            starts[symbol] = shown(at_rest + along(new, moves).xreplace(memory0))
    return starts


def _in_orders(expression: Any, settled: Trace) -> tuple[Expr, Expr]:
    """The coefficients of η⁰ and η¹ of (θ′ − θ)/η, or of a part of it.

    A memory that sums η·G has an η that its move divides out. A decay that is not in proportion to η leaves one: of
    R = λη² the part λη, which is of the next order; of R = λ the part λ/η, which has no limit.
    """
    lr = settled.lr_letter
    if not expression.has(lr):
        return expression, S.Zero
    expression = sympy.cancel(expression)
    if not expression.has(lr):
        return expression, S.Zero
    first, rest = expression.subs(lr, 0), expression.diff(lr).subs(lr, 0)
    if first.has(*INFINITE) or rest.has(*INFINITE):
        raise NotDerivable(
            f"(θ′ − θ)/η = {text(expression)} has no expansion F₀ + η·F₁ as η → 0. If a decay rate R does not shrink"
            " with the learning rate, at a constant learning rate Decoupled(weight_decay=R/lr) is the same map"
        )
    return first, rest


def _tidied(expression: Expr) -> Expr:
    """The expression in its printed form, unless there is too much of it to be read."""
    refuse_longer(expression, "a part of F₁")
    refuse_wider(with_letters_below(expression)[0], "a part of F₁")
    return tidy(expression)


def _assumptions(settled: Trace, constants, second: Expr, rest: Expr) -> tuple[str, ...]:
    divided = any(p.exp.is_negative and p.base.has(notation.total) for p in second.atoms(sympy.Pow))
    kinked = divided or second.has(sympy.Abs) or settled.has(sympy.sign)
    return (
        "the optimizer state is on its slow manifold, and its constants (β) are fixed as η → 0",
        "the learning rate is constant",
        *(["each part of a step that is not proportional to η counts at its own order in η"] if rest != 0 else []),
        *([KINKED] if kinked else []),
        *settled.conditions,
        *(f"{symbol_text(symbol)} is constant" for symbol in constants),
    )


def _explain(memory0, memory1, first, lag, turn, second):
    for symbol in memory1:
        yield stated(
            f"Order 0 of {symbol_text(symbol)}: its limit while G is constant",
            Symbol(f"{symbol_text(symbol)}⁽⁰⁾"),
            one_minus(memory0[symbol]),
        )
    for symbol, correction in memory1.items():
        yield stated(
            f"Order 1 of {symbol_text(symbol)}: its lag behind a G that changes",
            Symbol(f"{symbol_text(symbol)}⁽¹⁾"),
            _tidied(correction),
        )
    yield stated("Order 0 of (θ′ − θ)/η is the first-order flow", Symbol("F₀"), first)
    yield stated("Order 1 of (θ′ − θ)/η comes from the lag of the optimizer state", Symbol("U₁"), _tidied(lag))
    yield stated("F₀ changes along the flow: half of this rate of change is subtracted", Symbol("Ḟ₀"), _tidied(turn))
    yield stated("F₁ = U₁ − ½·dF₀/dt, with θ̇ = F₀ and ġ the rate of change of g", Symbol("F₁"), second)
