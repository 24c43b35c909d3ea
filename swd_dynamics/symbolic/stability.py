"""Where a rule on f = ½h(θ−θ*)² becomes unstable, and how fast its decay acts in the long run.

Both are read off the characteristic polynomial of the linear map of :mod:`swd_dynamics.symbolic.linear`.
"""

from typing import Any, cast

import numpy as np
import sympy
from sympy import Expr, Matrix, Symbol

from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import Derivation, DerivationStep, NotDerivable, stated
from swd_dynamics.symbolic.form import SMALL, by_curvature, one_minus
from swd_dynamics.symbolic.linear import LinearMap, characteristic, derived_from_map, radicals, roots
from swd_dynamics.symbolic.notation import z

# Number of sample points at which it is decided which of several boundaries comes first. A boundary that is the first
# for a share p of all values is missed with probability (1−p)²⁴, 8 % for p = 1/10. With half as many points it is 28 %,
# and twice as many points take twice as long.
SAMPLES = 24


def stability_limit(rule: UpdateRule) -> Derivation:
    """The largest curvature h at which the rule is still stable on f = ½h(θ−θ*)², from the Jury conditions.

    Returns
    -------
    Derivation
        ``.value``: an expression, ∞ if every curvature is stable. If the values of symbols decide which condition is
        violated first, the conditions are compared at random sample values, and ``.assumptions`` says so. If the first
        condition differs between samples, the result is the minimum of all limits that came first at some sample.

    Raises
    ------
    NotDerivable
        If, for the numbers given, the rule is unstable even at arbitrarily small curvature: its decay alone is
        unstable.

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
    return derived_from_map(rule, "The stability limit on f = ½h(θ−θ*)²", _stability)


def long_run_decay_rate(rule: UpdateRule) -> Derivation:
    """The fraction R by which one step shrinks a perturbation of θ, in the long run, at zero curvature.

    R = 1 − z for the eigenvalue z that tends to 1 as the decay vanishes. A complex R means that θ oscillates.

    Examples
    --------
    R of stable decay is ηλ/(1−β) from the first step on:

    >>> from swd_dynamics.rules import CATALOG
    >>> long_run_decay_rate(CATALOG["SGDS"](lr=0.1, momentum=0.75, weight_decay=0.5)).value
    1/5
    """
    return derived_from_map(rule, "The long-run decay rate at zero curvature", _long_run)


def _stability(found: LinearMap, numbers: dict):
    h = notation.curvature
    polynomial = characteristic(found.matrix)
    done = "The characteristic polynomial of that matrix, up to a factor"
    steps = [stated(done, Symbol("p"), polynomial.as_expr())]
    boundaries: list[Expr] = []
    for done, condition in _critical(polynomial).items():
        edges = [edge for edge in _roots_in(condition, h) if edge.is_nonpositive is not True]
        steps += [stated(f"Jury: {done}", h, edge) for edge in edges]
        if not edges:
            steps.append(DerivationStep(f"Jury: {done}: at no h > 0", by_curvature(condition)))
        boundaries += [edge for edge in edges if edge not in boundaries]
    first, samples = _first_boundaries(found.matrix, boundaries, numbers)
    if len(boundaries) > 1 and samples:
        steps.append(DerivationStep(f"which boundary comes first was decided at {samples} sample points", None))
    if not first:
        return {"h_max": sympy.oo}, tuple(steps)
    return {"h_max": first[0] if len(first) == 1 else sympy.Min(*first, evaluate=False)}, tuple(steps)


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


def _roots_in(condition: Expr, h: Symbol) -> list[Expr]:
    numerator = sympy.numer(sympy.together(condition))
    factors = [factor for factor, _ in sympy.factor_list(numerator)[1] if factor.has(h)]
    return [one_minus(root) for factor in factors for root in radicals(sympy.Poly(factor, h))]


def _first_boundaries(matrix: Matrix, boundaries: list[Expr], numbers: dict) -> tuple[list[Expr], int]:
    """The boundaries at which stability is lost first, and at how many sample points of the open symbols."""
    h = notation.curvature
    symbols = sorted((matrix.free_symbols | {s for b in boundaries for s in b.free_symbols}) - {h}, key=str)
    is_open = any(symbol not in numbers for symbol in symbols)
    entries = sympy.lambdify([h, *symbols], matrix, dummify=True)
    values = [sympy.lambdify(symbols, boundary, dummify=True) for boundary in boundaries]
    generator = np.random.default_rng(0)
    seen: dict[int, None] = {}
    tried = 0
    for _ in range(SAMPLES if is_open else 1):
        point = [float(numbers[s]) if s in numbers else _sample(s, generator) for s in symbols]

        def is_unstable(curvature, point=point):
            return np.abs(np.linalg.eigvals(np.array(entries(curvature, *point), dtype=float))).max() > 1

        sampled = [(value(*point), i) for i, value in enumerate(values)]
        edges = sorted((float(v), i) for v, i in sampled if np.isreal(v) and v > 0)
        if is_unstable((edges[0][0] if edges else 1.0) / 2):
            continue
        tried += 1
        for j, (edge, i) in enumerate(edges):
            beyond = (edge + edges[j + 1][0]) / 2 if j + 1 < len(edges) else 2 * edge
            if is_unstable(beyond):
                seen[i] = None
                break
    if not tried:
        raise NotDerivable(
            "the rule is unstable at every small curvature: look at its decay and at its memory's constants"
        )
    return [boundaries[i] for i in seen], tried if is_open else 0


def _sample(symbol: Any, generator: np.random.Generator) -> float:
    """A plausible value: small learning rates and decays, and numbers between 0 and 1 for all other symbols."""
    if symbol.name in SMALL:
        return 10 ** generator.uniform(-4, -0.5)
    return generator.uniform(0.05, 0.98)


def _long_run(found: LinearMap, numbers: dict):
    polynomial = characteristic(found.at_zero_curvature())
    symbols = sorted(polynomial.free_symbols_in_domain, key=str)
    generator = np.random.default_rng(0)
    point = {s: numbers.get(s, _sample(s, generator)) for s in symbols}
    point |= dict.fromkeys(found.decay_symbols, 1e-9)  # a decay so small that its root is the nearest to 1
    slow = min(roots(polynomial), key=lambda root: abs(complex(root.subs(point).evalf()) - 1))
    step = stated(
        "At h = 0 the characteristic polynomial vanishes; R = 1 − z for the root near 1", polynomial.as_expr(), 0
    )
    powers: Any = slow.atoms(sympy.Pow)
    if not any(power.exp.is_Rational and power.exp.q > 1 for power in powers):
        return {"R": one_minus(sympy.factor(1 - slow))}, (step,)
    said = DerivationStep("R is complex where the root is of a negative number: θ then oscillates as it shrinks", None)
    return {"R": 1 - slow}, (step, *_to_first_order(polynomial, found.decay_symbols), said)


def _to_first_order(polynomial: sympy.Poly, decay_symbols) -> list[DerivationStep]:
    """R where λ is small, from p(z, λ) = 0 at z = 1, λ = 0: dR/dλ = −dz/dλ = p_λ/p_z."""
    p = polynomial.as_expr()
    undecayed = dict.fromkeys(decay_symbols, 0) | {z: 1}
    steps = []
    for letter in decay_symbols:
        slope = (p.diff(letter) / p.diff(z)).subs(undecayed)
        rate = one_minus(sympy.factor(slope)) * letter
        steps.append(stated("To first order in the decay", notation.decay_rate, rate))
    return steps
