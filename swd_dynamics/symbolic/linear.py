"""A rule on a quadratic f = ½h(θ−θ*)²: its linear map, eigenvalues, stability limit and long-run decay.

An adaptive direction is linear once its preconditioner is frozen. Which entries of the memory are the preconditioner is
found, not declared: those that depend on the gradient nonlinearly. Entries that hear of no gradient at all (a product
of βs) stand at their own rest point.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import sympy
from sympy import Expr, Matrix, Symbol

from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import Derivation, DerivationStep, NotDerivable
from swd_dynamics.symbolic.form import by_curvature, one_minus
from swd_dynamics.symbolic.modified import affine
from swd_dynamics.symbolic.notation import PerWeight, exact, lettered, primed
from swd_dynamics.symbolic.trace import Trace, long_run, trace, trace_steps

z: Any = Symbol("z")  # Any: sympy annotates generators as strings and numbers only
SAMPLES = 24  # sample points at which it is decided which of several boundaries comes first


@dataclass(frozen=True)
class LinearMap:
    """One step on the state (θ, memory): state′ = matrix·state + constant, with G = h(θ−θ*) + what L2 adds."""

    state: tuple[Symbol, ...]
    matrix: Matrix
    constant: Matrix
    roots: dict[Symbol, Expr]
    conditions: tuple[str, ...]
    decay_letters: frozenset[Symbol]
    steps: tuple[DerivationStep, ...]

    def at_zero_curvature(self) -> Matrix:
        """The matrix where the gradient does not depend on θ."""
        return self.matrix.subs(notation.curvature, 0)


def linear_map(rule: UpdateRule) -> Derivation:
    """The linear map of a rule on f = ½h(θ−θ*)², its preconditioner frozen.

    Parameters
    ----------
    rule : UpdateRule

    Returns
    -------
    Derivation
        ``.results``: the ``matrix`` A and the ``constant`` b of state′ = A·state + b, the state being θ and the memory.

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
    return _answer(
        rule, "The linear map on f = ½h(θ−θ*)²", lambda found, _: ({"A": found.matrix, "b": found.constant}, ())
    )


def eigenvalues(rule: UpdateRule) -> Derivation:
    """The eigenvalues of the linear map on f = ½h(θ−θ*)², as a tuple of expressions in h.

    Raises NotDerivable where the characteristic polynomial has no roots in radicals.

    Examples
    --------
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> eigenvalues(UpdateRule(0.5, SGD())).value
    (1 - h/2,)
    """

    def derive(found: LinearMap, _):
        polynomial = _characteristic(found.matrix)
        roots = _roots(polynomial)
        step = DerivationStep(
            "The characteristic polynomial of that matrix vanishes", sympy.Eq(polynomial.as_expr(), 0, evaluate=False)
        )
        return {"z": roots}, (step,)

    return _answer(rule, "The eigenvalues on f = ½h(θ−θ*)²", derive)


def stability_limit(rule: UpdateRule) -> Derivation:
    """The largest curvature h at which the rule is still stable on f = ½h(θ−θ*)², from the Jury conditions.

    Returns
    -------
    Derivation
        ``.value``: an expression, ∞ if every curvature is stable. Where letters leave open which of several conditions
        is violated first, that is decided at sample points, and ``.assumptions`` says so; if it changes from sample to
        sample the result is the smallest of those that occur.

    Raises
    ------
    NotDerivable
        If the rule is stable at no small curvature for the numbers given (its decay alone is unstable).

    Notes
    -----
    As h grows from a stable value, stability is first lost where one of Jury's three critical conditions vanishes.
    Source: Jury 1964.

    Examples
    --------
    Gradient descent is stable up to h = 2/η:

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> stability_limit(UpdateRule(0.5, SGD())).value
    4
    """
    return _answer(rule, "The stability limit on f = ½h(θ−θ*)²", _stability)


def long_run_decay_rate(rule: UpdateRule) -> Derivation:
    """The fraction R by which a change of θ shrinks in a step, in the long run, at zero curvature.

    It is 1 − z for the eigenvalue z that tends to 1 as the decay vanishes; a complex R means that θ oscillates.

    Examples
    --------
    Stable decay takes ηλ/(1−β) off from the first step on:

    >>> from swd_dynamics.rules import CATALOG
    >>> long_run_decay_rate(CATALOG["SGDS"](lr=0.1, momentum=0.75, weight_decay=0.5)).value
    1/5
    """
    return _answer(rule, "The long-run decay rate at zero curvature", _long_run)


def _answer(rule: UpdateRule, title: str, derive) -> Derivation:
    letters, values = lettered(rule)
    found = find_linear_map(letters)
    numbers = exact(values)
    results, steps = derive(found, numbers)
    results = {name: in_square_roots(result, found.roots) for name, result in results.items()}
    steps = tuple(
        DerivationStep(s.done, s.equation if s.equation is None else s.equation.xreplace(found.roots)) for s in steps
    )
    assumptions = [*found.conditions, *(step.done for step in steps if step.equation is None)]
    shown = tuple(step for step in steps if step.equation is not None)
    derivation = Derivation(title, results, (*found.steps, *shown), tuple(assumptions))
    return derivation.with_numbers(values, numbers)


@lru_cache(maxsize=256)
def find_linear_map(rule: UpdateRule) -> LinearMap:
    """The linear map of a lettered rule."""
    traced = trace(rule)
    step, active, roots = _frozen(long_run(traced))
    new = dict(zip(map(primed, step.memory), step.remembered, strict=True))
    pull = notation.curvature * (notation.theta - notation.theta_star)
    total = step.total.xreplace({notation.gradient: pull})
    update = (1 - step.decay_rate) * notation.theta - step.lr * step.move
    state = (notation.theta, *active)
    after = [update.xreplace(new), *(new[primed(symbol)] for symbol in active)]
    after = Matrix([expression.xreplace({notation.total: total}) for expression in after])
    matrix = after.jacobian(state).applyfunc(by_curvature)
    if matrix.free_symbols & set(state):
        raise NotDerivable(
            f"with {_frozen_names(roots) or 'nothing'} frozen the step is still not linear in {_names(state)}"
        )
    constant = after.subs(dict.fromkeys(state, 0)).applyfunc(by_curvature)
    frozen = _frozen_names(roots)
    settled = _names(s for s in step.memory if s not in active and s.name not in frozen.split(", "))
    conditions = (
        *step.conditions,
        *([f"the preconditioner is frozen: {frozen} stands still"] if frozen else []),
        *([f"{settled}, which no gradient reaches, has come to rest"] if settled else []),
    )
    shown = Matrix([primed(s) for s in state]), sympy.MatMul(matrix, Matrix(state), evaluate=False)
    matrix_step = DerivationStep(
        "On the quadratic G is linear in θ, and so is the step",
        sympy.Eq(shown[0], sympy.MatAdd(shown[1], constant, evaluate=False), evaluate=False).xreplace(roots),
    )
    letters = frozenset().union(*(sympy.sympify(value).free_symbols for value in vars(rule.decay).values()))
    return LinearMap(state, matrix, constant, roots, conditions, letters, (*trace_steps(traced), matrix_step))


def _names(symbols) -> str:
    return ", ".join(symbol.name for symbol in symbols)


def _frozen_names(roots: dict[Symbol, Expr]) -> str:
    return _names(value.as_base_exp()[0] for letter, value in roots.items() if isinstance(letter, PerWeight))


def _frozen(step: Trace) -> tuple[Trace, tuple[Symbol, ...], dict[Symbol, Expr]]:
    """The trace with its preconditioner as letters, the memory that still moves, and what those letters stand for.

    A frozen entry is written as the square of a letter, and a mean of frozen entries too: with √v a letter, all that
    follows is rational algebra.
    """
    step = _hold_squares(step)
    entries = dict(zip(step.memory, step.remembered, strict=True))
    frozen = {symbol for symbol, expression in entries.items() if expression == symbol}
    still: dict[Symbol, Expr] = {s: s for s in frozen}
    for symbol, expression in entries.items():
        others = (expression.free_symbols & {*step.memory, notation.theta, notation.total}) - frozen - {symbol}
        if symbol not in frozen and not others:
            still[symbol] = _rest_point(symbol, expression)
    roots = {symbol: PerWeight(f"root_{symbol.name}", positive=True) for symbol in frozen}
    changes = {**still, **{symbol: root**2 for symbol, root in roots.items()}}
    changes |= {primed(symbol): value for symbol, value in changes.items()}
    held = step.map(lambda e: e.xreplace(changes))
    means = {
        e for expression in (held.decay_rate, held.move, *held.remembered) for e in expression.atoms(notation.mean)
    }
    active = tuple(s for s in step.memory if s not in still)
    moving = {notation.theta, notation.total, *active, *map(primed, active)}
    if coupled := [e for e in means if e.free_symbols & moving]:
        raise NotDerivable(
            f"a mean over weights couples them, {coupled[0]}: a linear map of one weight needs it frozen"
        )
    mean_roots = {e: Symbol(f"root_{i}", positive=True) for i, e in enumerate(sorted(means, key=str))}
    held = held.map(lambda e: e.xreplace({e: root**2 for e, root in mean_roots.items()}))
    back = {root: sympy.sqrt(PerWeight(symbol.name, positive=True)) for symbol, root in roots.items()}
    back |= {root: sympy.sqrt(e.xreplace(back)) for e, root in mean_roots.items()}
    return held, active, back


def _hold_squares(step: Trace) -> Trace:
    """The trace with G² at the value that keeps the entries fed by it where they are, and those entries at a stand."""
    square = PerWeight("square", positive=True)
    for symbol, expression in zip(step.memory, step.remembered, strict=True):
        fed = expression.xreplace({notation.total**2: square})
        if fed.has(square) and not fed.free_symbols & ({notation.theta, notation.total, *step.memory} - {symbol}):
            slope, rest = affine(fed - symbol, square)
            held = {notation.total**2: sympy.cancel(-rest / slope), expression: symbol}
            step = step.map(lambda e, held=held: e.xreplace(held))
    return step


def _rest_point(symbol: Symbol, expression: Expr) -> Expr:
    solutions = sympy.solve(expression - symbol, symbol)
    if len(solutions) != 1:
        raise NotDerivable(f"the memory entry {symbol.name} has {len(solutions)} rest points; one is needed")
    return solutions[0]


def in_square_roots(result, roots: dict[Symbol, Expr]):
    """The result with √v in the place of the letters that stood for it."""
    return tuple(r.xreplace(roots) for r in result) if isinstance(result, tuple) else result.xreplace(roots)


def _characteristic(matrix: Matrix) -> sympy.Poly:
    return sympy.Poly(matrix.charpoly(z).as_expr(), z)


def _roots(polynomial: sympy.Poly) -> tuple[Expr, ...]:
    """The roots of every factor, in radicals."""
    roots: list[Expr] = []
    for factor, times in sympy.factor_list(sympy.numer(sympy.together(polynomial.as_expr())), z)[1]:
        found = _radicals(sympy.Poly(factor, z))
        if len(found) != sympy.degree(factor, z):
            raise NotDerivable(f"the characteristic polynomial {factor} has no roots in radicals")
        roots += found * times
    return tuple(roots)


def _radicals(polynomial: sympy.Poly) -> list[Expr]:
    if polynomial.degree() > 2:
        return sympy.roots(polynomial, multiple=True)
    _, *rest = (cast(Expr, sympy.factor(c / polynomial.LC())) for c in polynomial.all_coeffs())
    if len(rest) == 1:
        return [one_minus(sympy.factor(-rest[0]))]
    half, product = one_minus(sympy.factor(-rest[0] / 2)), one_minus(rest[1])
    root = sympy.sqrt(half**2 - product)
    return [half + root, half - root]


def _critical(polynomial: sympy.Poly) -> dict[str, Expr]:
    """Jury's critical conditions: as h grows from stability, one of them vanishes first as a root leaves the circle."""
    coefficients = polynomial.all_coeffs()  # from zⁿ down to z⁰
    n = len(coefficients) - 1
    upper = Matrix(n - 1, n - 1, lambda i, j: coefficients[j - i] if j >= i else 0)
    lower = Matrix(n - 1, n - 1, lambda i, j: coefficients[2 * n - 2 - i - j] if i + j >= n - 2 else 0)
    conditions = {
        "a root leaves at z = 1 where p(1) = 0": polynomial.eval(1),
        "a root leaves at z = −1 where p(−1) = 0": polynomial.eval(-1),
        "a pair of complex roots leaves where this determinant vanishes": (upper - lower).det(),
    }
    return {done: cast(Expr, sympy.factor(condition)) for done, condition in conditions.items()}


def _stability(found: LinearMap, numbers: dict):
    h = notation.curvature
    polynomial = sympy.Poly(sympy.numer(sympy.together(found.matrix.charpoly(z).as_expr())), z)
    steps = [
        DerivationStep(
            "The characteristic polynomial of that matrix, up to a factor", _equation("p", polynomial.as_expr())
        )
    ]
    boundaries: list[Expr] = []
    for done, condition in _critical(polynomial).items():
        at = [edge for edge in _roots_in(condition, h) if edge.is_nonpositive is not True]
        steps += [DerivationStep(f"Jury: {done}", _equation(h, edge)) for edge in at]
        steps += [] if at else [DerivationStep(f"Jury: {done}: at no h > 0", by_curvature(condition))]
        boundaries += [edge for edge in at if edge not in boundaries]
    first, samples = _first_boundaries(found.matrix, boundaries, numbers)
    if len(boundaries) > 1 and samples:
        steps.append(DerivationStep(f"which boundary comes first was decided at {samples} sample points", None))
    limit = {0: sympy.oo, 1: next(iter(first), None)}.get(len(first)) or sympy.Min(*first, evaluate=False)
    return {"h_max": limit}, tuple(steps)


def _equation(left, right) -> sympy.Eq:
    return cast(sympy.Eq, sympy.Eq(Symbol(left) if isinstance(left, str) else left, right, evaluate=False))


def _roots_in(condition: Expr, h: Symbol) -> list[Expr]:
    numerator = sympy.numer(sympy.together(condition))
    factors = [factor for factor, _ in sympy.factor_list(numerator)[1] if factor.has(h)]
    return [one_minus(root) for factor in factors for root in _radicals(sympy.Poly(factor, h))]


def _first_boundaries(matrix: Matrix, boundaries: list[Expr], numbers: dict) -> tuple[list[Expr], int]:
    """The boundaries at which stability is lost first, at sample points of the letters that are left open."""
    h = notation.curvature
    letters = sorted((matrix.free_symbols | {s for b in boundaries for s in b.free_symbols}) - {h}, key=str)
    open_letters = [letter for letter in letters if letter not in numbers]
    entries = sympy.lambdify([h, *letters], matrix)
    values = [sympy.lambdify(letters, boundary) for boundary in boundaries]
    generator = np.random.default_rng(0)
    seen: dict[int, None] = {}
    tried = 0
    for _ in range(SAMPLES if open_letters else 1):
        point = [float(numbers[s]) if s in numbers else _sample(s, generator) for s in letters]

        def radius(curvature, point=point):
            return np.abs(np.linalg.eigvals(np.array(entries(curvature, *point), dtype=float))).max()

        at = sorted((float(v), i) for i, value in enumerate(values) if np.isreal(v := value(*point)) and v > 0)
        if radius((at[0][0] if at else 1.0) / 2) > 1:
            continue
        tried += 1
        for j, (edge, i) in enumerate(at):
            beyond = (edge + at[j + 1][0]) / 2 if j + 1 < len(at) else 2 * edge
            if radius(beyond) > 1:
                seen[i] = None
                break
    if not tried:
        raise NotDerivable(
            "the rule is unstable at every small curvature: look at its decay and at its memory's constants"
        )
    return [boundaries[i] for i in seen], tried if open_letters else 0


def _sample(letter: Any, generator: np.random.Generator) -> float:
    """A plausible value: small learning rates and decays, anything between 0 and 1 for the rest."""
    if letter.name in ("eta", "lambda", "epsilon"):
        return 10 ** generator.uniform(-4, -0.5)
    return generator.uniform(0.05, 0.98)


def _long_run(found: LinearMap, numbers: dict):
    polynomial = _characteristic(found.at_zero_curvature())
    roots = _roots(polynomial)
    letters = sorted(polynomial.free_symbols_in_domain, key=str)
    generator = np.random.default_rng(0)
    point = {s: numbers.get(s, _sample(s, generator)) for s in letters}
    point |= dict.fromkeys(found.decay_letters, 1e-9)
    slow = min(roots, key=lambda root: abs(complex(root.subs(point).evalf()) - 1))
    step = DerivationStep(
        "At h = 0 the characteristic polynomial vanishes; R = 1 − z for the root near 1",
        sympy.Eq(polynomial.as_expr(), 0, evaluate=False),
    )
    powers: Any = slow.atoms(sympy.Pow)
    radical = any(power.exp.q > 1 for power in powers if power.exp.is_Rational)
    if not radical:
        return {"R": one_minus(sympy.factor(1 - slow))}, (step,)
    said = DerivationStep("R is complex where the root is of a negative number: θ then oscillates as it shrinks", None)
    return {"R": 1 - slow}, (step, *_to_first_order(polynomial, found.decay_letters), said)


def _to_first_order(polynomial: sympy.Poly, decay_letters) -> tuple[DerivationStep, ...]:
    """R where λ is small, from p(z, λ) = 0 at z = 1, λ = 0: dR/dλ = −dz/dλ = p_λ/p_z."""
    steps = []
    for letter in decay_letters:
        undecayed = dict.fromkeys(decay_letters, 0) | {z: 1}
        slope = (polynomial.as_expr().diff(letter) / polynomial.as_expr().diff(z)).subs(undecayed)
        rate = sympy.Eq(notation.decay_rate, one_minus(sympy.factor(slope)) * letter, evaluate=False)
        steps.append(DerivationStep("To first order in the decay", rate))
    return tuple(steps)
