"""Where a rule on f = ½h(θ − θ⋆)² becomes unstable, and how fast its decay acts in the long run.

Both are read off the characteristic polynomial of the linear map of :mod:`swd_dynamics.symbolic.linear`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import sympy
from sympy import Expr, Matrix, Rational, Symbol

from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.arrange import shortest
from swd_dynamics.symbolic.derivation import Derivation, DerivationStep, NotDerivable, stated
from swd_dynamics.symbolic.form import SMALL, one_minus
from swd_dynamics.symbolic.jury import complex_value, critical, in_rationals, stable_intervals
from swd_dynamics.symbolic.linear import (
    LinearMap,
    characteristic,
    derived_from_map,
    radicals,
    roots,
    with_numbers_if_large,
)
from swd_dynamics.symbolic.notation import curvature as h
from swd_dynamics.symbolic.notation import shown_name, z

# Number of sample points at which it is decided which of several boundaries comes first. A boundary that is the first
# for a share p of all values is missed with probability (1−p)²⁴, 8 % for p = 1/10. With half as many points it is 28 %,
# and twice as many points take twice as long.
SAMPLES = 24

# Number of points that are drawn for one that is kept: a point at which no curvature is stable says nothing. Values
# that are stable for a share of 2 % of all draws are found with probability 98 %; with half as many draws, 86 %.
DRAWS = 8

# How far, relative to its size, a formula for a boundary may be from the boundary that was isolated exactly. A formula
# with cube roots loses half of the 15 digits of a number at worst; boundaries nearer to each other than this are one.
SAME = 1e-7

OSCILLATES = "R is complex{where}: θ then oscillates as it shrinks"
UNSTABLE = "the rule is unstable at every small curvature{where}: look at its decay and at its memory's constants"


def stability_limit(rule: UpdateRule) -> Derivation:
    """The curvature h at which a rule on f = ½h(θ − θ⋆)² first becomes unstable as h grows from 0.

    Returns
    -------
    Derivation
        ``.value``: an expression, ∞ if every curvature is stable. Where it has no formula, it is a root of a polynomial
        that ``float`` evaluates. A rule that is stable again at some larger h has that said in ``.assumptions``. If the
        values of symbols decide which condition is violated first, the conditions are compared at random sample values,
        and ``.assumptions`` says so. If the first condition differs between samples, the result is the minimum of all
        limits that came first at some sample.

    Raises
    ------
    NotDerivable
        If, for the numbers given, the rule is unstable even at arbitrarily small curvature: its decay alone is
        unstable. Or if the limit is a root without a formula, of a polynomial whose coefficients are symbols.

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
    return derived_from_map(rule, "The stability limit on f = ½h(θ − θ⋆)²", _stability)


def long_run_decay_rate(rule: UpdateRule) -> Derivation:
    """The fraction R by which one step shrinks a perturbation of θ, in the long run, at zero curvature.

    R = 1 − z for the eigenvalue z of largest modulus among those that a perturbation of θ excites. A complex R means
    that θ oscillates, and an R above 1 that θ changes its sign at every step.

    Examples
    --------
    R of stable decay is ηλ/(1−β) from the first step on:

    >>> from swd_dynamics.rules import CATALOG
    >>> long_run_decay_rate(CATALOG["SGDS"](lr=0.1, momentum=0.75, weight_decay=0.5)).value
    1/5
    """
    return derived_from_map(rule, "The long-run decay rate at zero curvature", _long_run)


def _stability(found: LinearMap, numbers: dict):
    known = _numbers(found, numbers)
    is_open = bool(found.matrix.free_symbols - {h, *known})
    polynomial = characteristic(with_numbers_if_large(found.matrix, known))
    conditions = critical(polynomial)
    done = "The characteristic polynomial of this linear map"
    steps = [stated(done, Symbol("p"), polynomial.as_expr())]
    boundaries: dict[Expr, None] = {}
    unsolved: list[Expr] = []
    for degree, (done, condition) in zip((1, 1, len(polynomial.all_coeffs()) - 2), conditions.items(), strict=True):
        edges, without_formula = _roots_in(condition, 3 if is_open else 2)
        steps += [stated(done + _never(edge, found, known), h, edge) for edge in edges]
        steps += [stated(f"{done}: a polynomial in h", factor, 0) for factor in without_formula]
        if not edges and not without_formula:
            steps.append(
                DerivationStep(f"{done}: this happens at no h > 0", shortest(condition / polynomial.LC() ** degree))
            )
        boundaries |= dict.fromkeys(edges)
        unsolved += without_formula
    is_only = len(boundaries) == 1 and not unsolved
    jury = _Jury(polynomial, tuple(conditions.values()), tuple(boundaries), is_only)
    first, said = jury.at_samples(found, known) if is_open else jury.at(known)
    steps += [DerivationStep(sentence, None) for sentence in said]
    limit = sympy.Min(*first, evaluate=False) if len(first) > 1 else first[0]
    return {"h_max": limit}, tuple(steps)


def _never(edge: Expr, found: LinearMap, known: dict) -> str:
    """The remark that a formula for h is positive for none of the values that its symbols may have; otherwise empty."""
    symbols = sorted(edge.free_symbols - {*known}, key=str)
    generator = np.random.default_rng(0)
    for _ in range(SAMPLES if symbols else 1):
        point = known | {symbol: _sample(symbol, found, False, generator) for symbol in symbols}
        value = complex_value(cast(Expr, edge.xreplace(point)))
        if value.real > 0 and abs(value.imag) <= SAME * value.real:
            return ""
    return f": this happens at h > 0 at none of {SAMPLES} sample points" if symbols else ": this happens at no h > 0"


def _numbers(found: LinearMap, numbers: dict) -> dict[Symbol, Any]:
    """The number of each symbol that has one, also of a root of hyperparameters."""
    roots_too = {letter: value.xreplace(numbers) for letter, value in found.roots.items()}
    return numbers | {letter: value for letter, value in roots_too.items() if not value.free_symbols}


def _roots_in(condition: Expr, degree: int) -> tuple[list[Expr], list[Expr]]:
    """The roots in h that may be positive, and the factors whose roots have no formula, or are of a higher degree."""
    edges: list[Expr] = []
    without_formula = []
    numerator = sympy.numer(sympy.together(condition))
    for factor, _ in sympy.factor_list(numerator, h)[1] if numerator.has(h) else ():
        polynomial = sympy.Poly(factor, h)
        found = radicals(polynomial) if polynomial.degree() <= degree else []
        if len(found) == polynomial.degree():
            edges += [edge for edge in map(one_minus, found) if edge.is_nonpositive is not True]
        else:
            without_formula.append(factor)
    return edges, without_formula


@dataclass(frozen=True)
class _Jury:
    """Jury's conditions of a characteristic polynomial, and the formulas for the h at which they vanish."""

    polynomial: sympy.Poly
    conditions: tuple[Expr, ...]
    boundaries: tuple[Expr, ...]
    is_only: bool  # whether there is one boundary, so that one sample shows it

    def at(self, point: dict) -> tuple[list[Expr], list[str]]:
        """The limit where all symbols have numbers, and in which sense it is one."""
        stable = self._stable_intervals(point)
        if not stable:
            raise NotDerivable(UNSTABLE.format(where=""))
        limit = stable[0][1]
        again = [f"between {sympy.N(low, 6)} and {sympy.N(high, 6)}" for low, high in stable[1:]]
        said = [f"the rule is stable again at h {' and '.join(again)}: the limit is the first one"] if again else []
        return [limit if limit is sympy.oo else self._formula(limit, point) or sympy.N(limit, 15)], said

    def at_samples(self, found: LinearMap, known: dict) -> tuple[list[Expr], list[str]]:
        """The formulas of the limits that come first at some sample of the open symbols, and what is to be said."""
        generator = np.random.default_rng(0)
        symbols = sorted(found.matrix.free_symbols - {h, *known}, key=str)
        first: dict[Expr, None] = {}
        tried = again = never = 0
        for draw in range(DRAWS * SAMPLES):
            any_size = 2 * draw >= DRAWS * SAMPLES
            if tried == SAMPLES or (tried and any_size) or (first and self.is_only):
                break
            point = known | {symbol: _sample(symbol, found, any_size, generator) for symbol in symbols}
            stable = self._stable_intervals(point)
            tried, again = tried + bool(stable), again + (len(stable) > 1)
            if stable and stable[0][1] is sympy.oo:
                never += 1
            elif stable:
                first[self._formula_in_symbols(stable[0][1], point)] = None
        if not tried:
            raise NotDerivable(UNSTABLE.format(where=f" at each of {DRAWS * SAMPLES} sample points"))
        said = [f"which boundary comes first was decided at {tried} sample points"] if len(self.boundaries) > 1 else []
        said += [f"at {again} of {tried} sample points the rule is stable again at some larger h"] if again else []
        said += [f"at {never} of {tried} sample points every h is stable"] if first and never else []
        return list(first) or [sympy.oo], said

    def _stable_intervals(self, point: dict) -> list[tuple[Expr, Expr]]:
        """The intervals of h in which the rule is stable, if it is stable at small h."""
        polynomial = sympy.Poly(in_rationals(self.polynomial.as_expr().xreplace(point), z, h), z)
        conditions = [in_rationals(cast(Expr, condition.xreplace(point)), h) for condition in self.conditions]
        stable = stable_intervals(polynomial, conditions)
        return stable if stable and stable[0][0] == 0 else []

    def _formula(self, limit: Expr, point: dict) -> Expr | None:
        """The boundary that has this value."""
        number = float(limit)
        apart = {edge: abs(complex_value(cast(Expr, edge.xreplace(point))) - number) for edge in self.boundaries}
        nearest = min(apart, key=lambda edge: apart[edge], default=None)
        return nearest if nearest is not None and apart[nearest] <= SAME * number else None

    def _formula_in_symbols(self, limit: Expr, point: dict) -> Expr:
        formula = self._formula(limit, point)
        if formula is None:
            raise NotDerivable("the limit is a root of a polynomial that has no formula: give numbers for the symbols")
        return formula


def _sample(symbol: Any, found: LinearMap, any_size: bool, generator: np.random.Generator) -> Any:
    """A plausible value: small learning rates and decays, a root √v of any size, and other symbols between 0 and 1.

    Where nothing is stable at such values, the other symbols may have any size too.
    """
    if shown_name(symbol) in SMALL:
        value = 10 ** generator.uniform(-4, -0.5)
    elif symbol in found.roots or any_size:
        value = 10 ** generator.uniform(-4, 4)
    else:
        value = generator.uniform(0.05, 0.98)
    return Rational(f"{-value if symbol.is_negative else value:.4g}")


def _long_run(found: LinearMap, numbers: dict):
    known = _numbers(found, numbers)
    matrix = found.at_zero_curvature()
    is_open = bool(matrix.free_symbols - {*known})
    polynomial = _excited(with_numbers_if_large(matrix, known))
    done = "At h = 0, the characteristic polynomial without the factors that a perturbation of θ does not excite."
    step = stated(f"{done} R = 1 − z for its root z of largest modulus", polynomial.as_expr(), 0)
    if not is_open and polynomial.degree() > 2:  # formulas with cube roots would lose half of their digits
        numbered = in_rationals(polynomial.as_expr().xreplace(known), z).sqf_part()
        slow = sympy.N(_largest(numbered.nroots(n=50, maxsteps=500), {}), 15)
        said = [DerivationStep(OSCILLATES.format(where=""), None)] if slow.is_real is False else []
        return {"R": 1 - slow}, (step, *_to_first_order(polynomial, found.decay_symbols), *said)
    slow = _largest(roots(polynomial), _sample_of_small_decay(found, known) if is_open else known)
    powers: Any = slow.atoms(sympy.Pow)
    if not any(power.exp.is_Rational and power.exp.q > 1 for power in powers):
        return {"R": one_minus(sympy.factor(1 - slow))}, (step,)
    said = [DerivationStep(OSCILLATES.format(where=" where the root is of a negative number"), None)]
    said += [DerivationStep("R belongs to the root z that is the largest where the decay is weak", None)] * is_open
    return {"R": 1 - slow}, (step, *_to_first_order(polynomial, found.decay_symbols), *said)


def _excited(matrix: Matrix) -> sympy.Poly:
    """The characteristic polynomial without the roots of modes that begin and end outside θ.

    After k steps θ = 1 has become the entry Aᵏ₁₁, whose generating function is det(z − B)/det(z − A), where B is A
    without its first row and column. What cancels in it is not excited.
    """
    whole, rest = characteristic(matrix), sympy.Poly(1, z)
    if matrix.rows > 1:
        rest = characteristic(cast(Matrix, matrix[1:, 1:]))
    return sympy.Poly(sympy.denom(sympy.cancel(rest.as_expr() / whole.as_expr())), z)


def _sample_of_small_decay(found: LinearMap, known: dict) -> dict:
    """Numbers for all symbols with which the root of the decay is the largest one."""
    generator = np.random.default_rng(0)
    symbols = sorted(found.matrix.free_symbols - {*known}, key=str)
    small = dict.fromkeys(found.decay_symbols, Rational(1, 10**30))
    return {symbol: _sample(symbol, found, False, generator) for symbol in symbols} | known | small


def _largest(candidates: Sequence[Expr], point: dict) -> Expr:
    """The root of largest modulus, the first of those that have it."""
    size = {root: sympy.Abs(sympy.N(root.xreplace(point), 50)) for root in candidates}
    return max(size, key=lambda root: sympy.N(size[root], 40))


def _to_first_order(polynomial: sympy.Poly, decay_symbols) -> list[DerivationStep]:
    """R where λ is small, from p(z, λ) = 0 at z = 1, λ = 0: dR/dλ = −dz/dλ = p_λ/p_z."""
    p = polynomial.as_expr()
    undecayed = dict.fromkeys(decay_symbols, 0) | {z: 1}
    steps = []
    for letter in decay_symbols & p.free_symbols:
        slope = (p.diff(letter) / p.diff(z)).subs(undecayed)
        rate = one_minus(sympy.factor(slope)) * letter
        steps.append(stated("To first order in the decay", notation.decay_rate, rate))
    return steps
