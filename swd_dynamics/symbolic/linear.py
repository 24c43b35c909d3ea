"""A rule on a quadratic f = ½h(θ − θ⋆)²: its linear map and its eigenvalues.

An adaptive direction is linear once its preconditioner is frozen. The preconditioner is found, not declared: it is the
entries of the memory that depend on the gradient nonlinearly. An entry that no gradient reaches (a product of βs) has
the value at which it comes to rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import sympy
from sympy import Expr, Matrix, Rational, Symbol

from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import Derivation, DerivationStep, NotDerivable, StableWhile, stated, substituted
from swd_dynamics.symbolic.form import by_curvature, one_minus
from swd_dynamics.symbolic.letters import exact, lettered, symbols_of
from swd_dynamics.symbolic.modified import affine
from swd_dynamics.symbolic.names import symbol_text
from swd_dynamics.symbolic.notation import Letter, PerWeight, cached, primed, z
from swd_dynamics.symbolic.printer import text
from swd_dynamics.symbolic.tangent import SMOOTH, at_small_gradients, mean_at_rest, same_at_samples
from swd_dynamics.symbolic.trace import Trace, long_run, trace, trace_steps

# Number of entries of the state up to which results are derived in symbols. With 4 that takes seconds, with 6 minutes,
# and the formulas fill pages: the numbers that are known are put in first.
READABLE = 3


@dataclass(frozen=True)
class LinearMap:
    """One step on the state (θ, memory): state′ = matrix·state + constant, with G = h(θ − θ⋆) and λθ added by L2.

    Attributes
    ----------
    state : tuple of Symbol — θ and the memory that is not frozen
    matrix, constant : Matrix, in h, θ⋆ and the symbols of ``roots``
    response : Matrix — the change of the state after the step for a unit that is added to the gradient of the loss
    roots : dict of Symbol to Expr — the roots √v and √v̄ that the symbols of a frozen preconditioner stand for
    conditions : tuple of str — what is assumed
    decay_symbols : frozenset of Symbol — the symbols of the decay's strength
    steps : tuple of DerivationStep
    """

    state: tuple[Symbol, ...]
    matrix: Matrix
    constant: Matrix
    response: Matrix
    roots: dict[Symbol, Expr]
    conditions: tuple[str, ...]
    decay_symbols: frozenset[Symbol]
    steps: tuple[DerivationStep, ...]

    def at_zero_curvature(self) -> Matrix:
        """The matrix where the gradient does not depend on θ."""
        return self.matrix.subs(notation.curvature, 0)


def linear_map(rule: UpdateRule) -> Derivation:
    """The linear map of a rule on f = ½h(θ − θ⋆)², with its preconditioner frozen.

    Parameters
    ----------
    rule : UpdateRule

    Returns
    -------
    Derivation
        ``.results``: the matrix ``A`` and the constant ``b`` of state′ = A·state + b, where the state is θ and the
        memory.

    Raises
    ------
    NotDerivable
        If the step is not linear even with its preconditioner frozen.

    Examples
    --------
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> linear_map(UpdateRule(0.5, SGD())).value
    Matrix([[1 - h/2]])
    """

    def derive(found: LinearMap, _):
        return {"A": found.matrix, "b": found.constant}, ()

    return derived_from_map(rule, "The linear map on f = ½h(θ − θ⋆)²", derive)


def eigenvalues(rule: UpdateRule) -> Derivation:
    """The eigenvalues of the linear map on f = ½h(θ − θ⋆)², as a tuple of expressions in h.

    Raises NotDerivable where the roots of the characteristic polynomial have no formula in radicals that can be read:
    that is from the fourth degree on.

    Examples
    --------
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> eigenvalues(UpdateRule(0.5, SGD())).value
    (1 - h/2,)
    """

    def derive(found: LinearMap, numbers: dict):
        polynomial = characteristic(with_numbers_if_large(found.matrix, numbers))
        step = stated("The characteristic polynomial of this linear map is 0", polynomial.as_expr(), 0)
        return {"z": roots(polynomial)}, (step,)

    return derived_from_map(rule, "The eigenvalues on f = ½h(θ − θ⋆)²", derive)


def derived_from_map(
    rule: UpdateRule,
    title: str,
    derive: Callable[[LinearMap, dict], tuple[dict[str, Any], Sequence[DerivationStep]]],
    infinite: tuple[str, ...] = (),
    undefined: tuple[str, ...] = (),
) -> Derivation:
    """What ``derive`` makes of a rule's linear map and the exact numbers of its symbols: results and steps.

    A step without an equation is an assumption. Results that are ``infinite`` or ``undefined`` where the map is
    unstable become so as soon as numbers make the map unstable.
    """
    letters, values = lettered(rule)
    found = find_linear_map(letters)
    numbers = exact(values)
    results, steps = derive(found, numbers)
    results = {name: substituted(result, found.roots) for name, result in results.items()}
    shown = [DerivationStep(s.done, s.equation.xreplace(found.roots)) for s in steps if s.equation is not None]
    assumptions = [*found.conditions, *(step.done for step in steps if step.equation is None)]
    stable = StableWhile(found.matrix.xreplace(found.roots), infinite, undefined) if infinite else None
    derivation = Derivation(title, results, (*found.steps, *shown), tuple(assumptions), stable_while=stable)
    return derivation.with_numbers(values, numbers)


@cached
def find_linear_map(rule: UpdateRule) -> LinearMap:
    """The linear map of a rule whose hyperparameters are symbols."""
    traced = trace(rule)
    settled, active, frozen_roots = _frozen(long_run(traced))
    new = dict(zip(map(primed, settled.memory), settled.remembered, strict=True))
    pull = notation.curvature * (notation.theta - notation.theta_star)
    total = settled.total.xreplace({notation.gradient: pull})
    state = (notation.theta, *active)
    after = [settled.update.xreplace(new), *(new[primed(symbol)] for symbol in active)]
    after, said = at_small_gradients(Matrix(after), settled, active)
    response: Any = after.diff(notation.total) * settled.total.diff(notation.gradient)
    after = after.xreplace({notation.total: total})
    matrix = after.jacobian(state).applyfunc(by_curvature)
    constant = after.subs(dict.fromkeys(state, 0)).applyfunc(by_curvature)
    frozen = _frozen_names(frozen_roots)
    unreached = _names(s for s in settled.memory if s not in active and symbol_text(s) not in frozen.split(" and "))
    conditions = (
        *settled.conditions,
        *(
            [f"the preconditioner is frozen: {frozen} {'are' if ' and ' in frozen else 'is'} constant"]
            if frozen
            else []
        ),
        *([f"{unreached} does not depend on the gradients, and is at its limit"] if unreached else []),
        *(each for each in said if each not in settled.conditions),
    )
    mapped = sympy.MatAdd(sympy.MatMul(matrix, Matrix(state), evaluate=False), constant, evaluate=False)
    matrix_step = stated(
        "On the quadratic, g = h(θ − θ⋆): the step is linear",
        Matrix([primed(s) for s in state]),
        mapped.xreplace(frozen_roots),
    )
    letters, steps = frozenset(symbols_of(rule.decay)), (*trace_steps(traced), matrix_step)
    return LinearMap(state, matrix, constant, response.applyfunc(_factored), frozen_roots, conditions, letters, steps)


def _factored(expression: Any) -> Expr:
    return one_minus(sympy.factor(expression))


def _names(symbols) -> str:
    return " and ".join(map(symbol_text, symbols))


def _frozen_names(roots: dict[Symbol, Expr]) -> str:
    return _names(value.as_base_exp()[0] for letter, value in roots.items() if isinstance(letter, PerWeight))


def _frozen(settled: Trace) -> tuple[Trace, tuple[Symbol, ...], dict[Symbol, Expr]]:
    """The trace with a frozen preconditioner, the memory that still moves, and the roots √v and √v̄ of its new symbols.

    A frozen entry of the memory is written as the square of a symbol, and so is a mean of frozen entries: with a symbol
    for √v, all that follows is rational algebra. A root of anything else that stands still gets a symbol too.
    """
    settled = _hold_sizes(_hold_squares(settled))
    entries = dict(zip(settled.memory, settled.remembered, strict=True))
    frozen = {symbol for symbol, expression in entries.items() if expression == symbol}
    resting = _resting(entries, frozen)
    roots = {symbol: PerWeight(f"root_{symbol.name}", positive=True) for symbol in frozen}
    squares = {symbol: root**2 for symbol, root in roots.items()}
    changes = {symbol: value.xreplace(squares) for symbol, value in resting.items()}
    changes |= {primed(symbol): value for symbol, value in changes.items()}
    held = settled.map(lambda e: e.xreplace(changes))
    means = {mean for e in (held.decay_rate, held.move, *held.remembered) for mean in e.atoms(notation.mean)}
    active = tuple(s for s in settled.memory if s not in resting)
    moving = {notation.theta, notation.total, *active, *map(primed, active)}
    if coupled := {mean: mean_at_rest(mean, moving) for mean in means if mean.free_symbols & moving}:
        held = held.map(lambda e: e.xreplace(coupled))
        held = replace(held, conditions=(*held.conditions, SMOOTH))
        means = {mean for e in (held.decay_rate, held.move, *held.remembered) for mean in e.atoms(notation.mean)}
    mean_roots = {mean: Letter(f"root_{i}", positive=True) for i, mean in enumerate(sorted(means, key=str))}
    held = held.map(lambda e: e.xreplace({mean: root**2 for mean, root in mean_roots.items()}))
    back: dict[Symbol, Any] = {r: sympy.sqrt(PerWeight(symbol.name, positive=True)) for symbol, r in roots.items()}
    back |= {root: sympy.sqrt(mean.xreplace(back)) for mean, root in mean_roots.items()}
    still = {power for e in (held.decay_rate, held.move, *held.remembered) for power in _irrational(e, moving)}
    letters = {power: Letter(f"root {i}", positive=True) for i, power in enumerate(sorted(still, key=str))}
    held = held.map(
        lambda e: e.replace(lambda part: _root_of(part) in letters, lambda part: letters[_root_of(part)] ** part.exp.p)
    )
    back |= {letter: power.xreplace(back) for power, letter in letters.items()}
    return held, active, back


def _resting(entries: dict[Symbol, Expr], frozen: set[Symbol]) -> dict[Symbol, Expr]:
    """Where the entries come to rest that hear of no gradient but through frozen entries, one after another."""
    resting: dict[Symbol, Expr] = {symbol: symbol for symbol in frozen}
    moving = {*entries, notation.theta, notation.total} - frozen
    while True:
        waiting: dict[Symbol, Any] = {s: e.xreplace(resting) for s, e in entries.items() if s not in resting}
        ready = {s: e for s, e in waiting.items() if not e.free_symbols & moving - {s}}
        if not ready:
            return resting
        resting |= {symbol: _rest_point(symbol, expression) for symbol, expression in ready.items()}


def _hold_squares(settled: Trace) -> Trace:
    """The trace with every entry made of G² constant, and with G² at the value that keeps these entries constant."""
    square = PerWeight("square", positive=True)
    for symbol, expression in zip(settled.memory, settled.remembered, strict=True):
        fed = expression.xreplace({notation.total**2: square})
        others = {notation.theta, notation.total, *settled.memory} - {symbol}
        if fed.has(square) and not fed.free_symbols & others:
            slope, rest = affine(fed - symbol, square)
            held = {notation.total**2: sympy.cancel(-rest / slope), expression: symbol}
            settled = settled.map(lambda e, held=held: e.xreplace(held))
    return settled


def _irrational(expression: Any, moving: set[Symbol]) -> set[Expr]:
    """The outermost positive roots in an expression of what stands still."""
    root = _root_of(expression)
    if root is not None and not expression.free_symbols & moving:
        return {root} if root.is_positive else set()
    return set().union(*(_irrational(part, moving) for part in expression.args))


def _root_of(expression: Any) -> Any:
    """√x for √x, 1/√x and √x³; None for what has no root in it."""
    if isinstance(expression, sympy.Pow) and expression.exp.is_Rational and not expression.exp.is_Integer:
        base, power = cast(Expr, sympy.factor(expression.base)), cast(Rational, expression.exp)
        return sympy.Pow(base, Rational(1, power.q))
    return None


def _hold_sizes(settled: Trace) -> Trace:
    """The trace with every other entry constant that hears of sizes alone: −G and −m for G and m change nothing.

    AdaBelief's v, which follows (G − m′)², is such an entry.
    """
    entries = dict(zip(settled.memory, settled.remembered, strict=True))
    moving = {notation.theta, notation.total, *settled.memory} - {s for s, e in entries.items() if e == s}
    for symbol, expression in entries.items():
        heard = moving & expression.free_symbols - {symbol}
        turned = expression.xreplace({other: -other for other in heard})
        if heard and same_at_samples(turned, expression):
            # Entries that hear of this entry may hear of sizes alone once this entry is constant.
            return _hold_sizes(settled.map(lambda e, sum_=expression, symbol=symbol: _held(e, sum_, symbol)))
    return settled


def _held(expression: Any, sum_: Any, symbol: Symbol) -> Any:
    """The expression with the symbol for a sum, also where the sum is a part of a longer sum, as in βu + γδ² + ε."""
    if not sum_.is_Add:
        return expression.xreplace({sum_: symbol})
    parts = {*sum_.args}
    return expression.replace(
        lambda e: e.is_Add and parts <= {*e.args},
        lambda e: symbol + sympy.Add(*(term for term in e.args if term not in parts)),
    )


def _rest_point(symbol: Symbol, expression: Expr) -> Expr:
    slope, rest = affine(expression - symbol, symbol)
    if slope == 0:
        raise NotDerivable(
            f"the memory entry {symbol_text(symbol)} changes by {text(rest)} in every step and has no rest point: a"
            " linear map needs one. Use Flow(rule, …, order='state'), in which the memory is a variable"
        )
    return cast(Expr, sympy.cancel(-rest / slope))


def with_numbers_if_large(matrix: Matrix, known: dict) -> Matrix:
    """A matrix in symbols, or with the known numbers where formulas in symbols would fill pages."""
    return matrix if matrix.rows <= READABLE else matrix.xreplace(known)


def characteristic(matrix: Matrix) -> sympy.Poly:
    """The characteristic polynomial of a matrix, in z, up to a factor that has no z."""
    in_own_letter = cast(Expr, matrix.charpoly().as_expr(z))  # charpoly(z) would rename a z that is in the matrix too
    return sympy.Poly(sympy.numer(sympy.together(in_own_letter)), z)


def roots(polynomial: sympy.Poly) -> tuple[Expr, ...]:
    """The roots of a polynomial in radicals, factor by factor; NotDerivable where they have no formula."""
    found: list[Expr] = []
    for factor, times in sympy.factor_list(polynomial.as_expr(), z)[1]:
        of_factor = radicals(sympy.Poly(factor, z))
        if len(of_factor) != sympy.degree(factor, z):
            raise NotDerivable(
                f"the factor {factor} of the characteristic polynomial has no short formula for its roots: give numbers"
                " to linear_map, and take them from the matrix"
            )
        found += of_factor * times
    return tuple(found)


def radicals(polynomial: sympy.Poly) -> list[Expr]:
    """The roots of a polynomial as expressions; fewer than its degree where they have no formula that can be read."""
    if polynomial.degree() > 3 and polynomial.free_symbols_in_domain:  # Ferrari's formula takes minutes and pages
        return []
    if polynomial.degree() > 2:
        return sympy.roots(polynomial, multiple=True)
    _, *rest = (cast(Expr, sympy.factor(c / polynomial.LC())) for c in polynomial.all_coeffs())
    if len(rest) < 2:
        return [one_minus(sympy.factor(-c)) for c in rest]
    half, product = one_minus(sympy.factor(-rest[0] / 2)), one_minus(rest[1])
    root = sympy.sqrt(half**2 - product)
    return [half + root, half - root]
