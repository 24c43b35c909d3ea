"""The equilibrium of a layer whose loss does not depend on the length of its weights, as before a normalisation.

The gradient of such a layer is perpendicular to θ and ‖g‖ = Γ/‖θ‖, and along θ the curvature is 0. Where the gradients
of different steps are independent, noise lengthens the weights and decay shortens them. They balance where ‖θ‖² is C
times the Var θ of the Lyapunov equation at h = 0, for C weights with noise of variance σ² = Γ²/(C‖θ‖²) each. The decay
rate and the preconditioner depend on σ as the rule says, and from that follows which power of ‖θ‖ has one value.
Nothing about a particular optimizer is put in.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import sympy
from sympy import Matrix, Symbol

from swd_dynamics.checks import check
from swd_dynamics.errors import InputError
from swd_dynamics.rules.shaped import is_by_tensor
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.balance import (
    NO_FORMULA,
    SIGMA,
    Balance,
    Law,
    Motion,
    balance_steps,
    in_formulas,
    in_leading_order,
    in_numbers,
    without_eps,
)
from swd_dynamics.symbolic.derivation import Derivation, NotDerivable, stated
from swd_dynamics.symbolic.form import one_minus
from swd_dynamics.symbolic.letters import exact, lettered
from swd_dynamics.symbolic.linear import READABLE, characteristic, find_linear_map
from swd_dynamics.symbolic.names import symbol_text
from swd_dynamics.symbolic.noise import (
    MEAN_SQUARE,
    lyapunov_steps,
    moments_of,
    positive,
    refuse_jumps,
    settled_by_noise,
)
from swd_dynamics.symbolic.notation import Letter, cached, z
from swd_dynamics.symbolic.orthogonal import law_of_matrices
from swd_dynamics.symbolic.signs import law_of_signs

INVARIANT = "the loss does not depend on ‖θ‖: the gradient is perpendicular to θ, and its norm is Γ/‖θ‖"
WHOLE = (
    "the layer is the whole model: a mean over all weights, ⟨v⟩, is that of its own weights. With layers of other"
    " gradients beside it, its norm and theirs depend on each other"
)
INDEPENDENT = "the gradients of different steps are independent and have the mean 0"
LEADING = (
    "the formulas are of leading order in the decay: for all digits give numbers to the rule, shape=… and gradient=…"
)
STEPS = "the number of steps is that for small departures from the equilibrium, with R to first order in the decay"


def equilibrium(rule: UpdateRule, *, shape: int | tuple[int, ...] | None = None, gradient: float | None = None):
    """The norm and the rotation of a layer that is normalised, where noise and decay balance.

    Parameters
    ----------
    rule : UpdateRule
    shape : int or tuple of int, optional
        The number C of the layer's weights or their shape. A direction that looks at shapes needs it.
    gradient : float, optional
        Γ > 0, the norm that the layer's gradient would have at ‖θ‖ = 1. Where one of both is not given, or the rule has
        symbols, the results are formulas in C and Γ.

    Returns
    -------
    Derivation
        ``.results``: ``‖θ‖``, the length ``‖Δθ‖/‖θ‖`` of a step, the ``angle`` by which a step turns the weights, in
        radians, and the number of ``steps`` in which a small departure of ‖θ‖ falls to 1/e of itself.

    Raises
    ------
    NotDerivable
        If there is no decay; if the value of the preconditioner in noise is not known, as that of a maximum; or if the
        step is neither linear nor a sign or orthogonalisation of a linear memory.

    Notes
    -----
    ‖θ‖⁴ has one value for SGD, ‖θ‖² for Adam with decoupled decay, where it does not depend on Γ, and ‖θ‖³ for Adam
    with stable decay or L2. Source: van Laarhoven 2017, 1706.05350, for the idea; Wan et al. 2021, 2006.08419, for SGD;
    Kosson et al. 2023, 2305.17212, for AdamW and Lion, to leading order.

    Examples
    --------
    Gradient descent with decoupled decay has Var θ = ησ²/(λ(2 − ηλ)):

    >>> from swd_dynamics.rules import SGD, Decoupled, UpdateRule
    >>> rule = UpdateRule(0.5, SGD(), Decoupled(0.4))
    >>> print(equilibrium(rule).text())
    ‖θ‖ = (0.694444Γ²)^(1/4)
    ‖Δθ‖/‖θ‖ = 0.632456
    angle = 0.643501
    steps = 1.25
    >>> round(float(equilibrium(rule, shape=100, gradient=3.6)), 9), round((3.6**2 / 1.44) ** 0.25, 9)
    (1.732050808, 1.732050808)
    """
    sizes = _sizes(shape)
    if gradient is not None:
        check("gradient", gradient, "(0, inf)")
    letters, values = lettered(rule)
    numbers = exact(values)
    law = _law(rule, letters, numbers, sizes)
    known: dict[Any, Any] = {} if sizes is None else {notation.layer_size: sympy.Integer(prod(sizes))}
    known |= {} if gradient is None else {notation.layer_gradient: sympy.Rational(repr(float(gradient)))}
    balance, said = _formulas_of(law.exact, law.leading)
    steps = balance_steps(balance.power, balance.results) if balance else ()
    if law.numbers and sizes is not None and (gradient is not None or not law.needs_gradient):
        found, said = in_numbers(law.numbers, prod(sizes), gradient or 1.0), ()
    elif balance is None:
        raise NotDerivable(NO_FORMULA)
    else:
        found = balance
    conditions = (INVARIANT, INDEPENDENT, *law.conditions, *said)
    derivation = Derivation(TITLE, found.results, (*law.steps, *steps), conditions)
    return _real(derivation.with_numbers(values | known, numbers | known))


TITLE = "The equilibrium of a layer whose loss does not depend on ‖θ‖"


def _law(rule: UpdateRule, letters: UpdateRule, numbers: Mapping[Symbol, Any], sizes: tuple[int, ...] | None) -> Law:
    if is_by_tensor(letters):
        return law_of_matrices(rule, sizes)
    refuse_jumps(letters)
    return law_of_signs(letters, numbers) or _linear_law(letters, numbers)


def _sizes(shape: Any) -> tuple[int, ...] | None:
    if shape is None:
        return None
    sizes = shape if isinstance(shape, tuple | list) else (shape,)
    if not sizes or any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1 for n in sizes):
        raise InputError(f"shape = {shape!r} is not allowed: give the number of weights, or a tuple of whole numbers")
    return tuple(map(int, sizes))


@lru_cache(maxsize=128)
def _formulas_of(exactly: Motion | None, leading: Motion | None) -> tuple[Balance | None, tuple[str, ...]]:
    """The balance as formulas, exact where it is a law of powers, otherwise to leading order; and what is assumed."""
    for motion, order in ((exactly, ()), (leading, (LEADING,))):
        if motion is not None:
            plain, said = without_eps(motion)
            if balance := in_formulas(plain):
                return balance, (*said, *order, STEPS)
    return None, ()


def _real(derivation: Derivation) -> Derivation:
    """The derivation with its numbers as decimals; a number that is not positive says that the rule is unstable."""
    results = {name: sympy.N(each, 15) if each.is_number else each for name, each in derivation.results.items()}
    if not all(each.is_real and each >= 0 for each in results.values() if each.is_number):
        raise NotDerivable("there is no equilibrium with these numbers: the decay is so strong that steps overshoot")
    return replace(derivation, results=results)


def _linear_law(rule: UpdateRule, numbers: Mapping[Symbol, Any]) -> Law:
    """The law of a rule in symbols that is linear once its preconditioner is frozen."""
    law, both = _linear_formulas(rule)
    matrix = both.xreplace(dict(numbers))
    is_known = not matrix.free_symbols - {SIGMA}
    return replace(law, numbers=_in_numbers(matrix)) if is_known else law


@cached
def _linear_formulas(rule: UpdateRule) -> tuple[Law, Matrix]:
    """The same without numbers, and the matrix A|b in symbols: they are the same for every η, λ and Γ."""
    found = find_linear_map(rule)
    matrix, response = found.at_zero_curvature(), found.response
    settled = settled_by_noise(rule)
    means = {positive(symbol): value for symbol, value in settled.items() if value is not None}
    used = (matrix.free_symbols | response.free_symbols) & {*found.roots}
    closed = {letter: found.roots[letter].xreplace(means) for letter in used}
    steps = (*found.steps, *lyapunov_steps(matrix, response))
    wanted: set[Any] = set().union(*(found.roots[letter].free_symbols for letter in used))
    for symbol, value in settled.items():
        if positive(symbol) in wanted and value is None:
            raise NotDerivable(
                f"which value {symbol_text(symbol)} has in noise has no formula here: a maximum and a sum of squares"
                " grow, and an equilibrium needs a running mean"
            )
    steps += tuple(stated(MEAN_SQUARE.format(symbol_text(s)), s, means[s]) for s in sorted(wanted & {*means}, key=str))
    exactly = leading = None
    if matrix.rows <= READABLE:
        moments, polynomial = moments_of(matrix, response, {}), characteristic(matrix)
        # not η_max, say: only strengths of the decay, with which p(1) = 0 and θ stays where it is put
        small = [s for s in found.decay_symbols if polynomial.eval(1).subs(s, 0) == 0]
        exactly = Motion(moments.variance * SIGMA**2, moments.gap, _rate(polynomial, small))
        leading = Motion(*(in_leading_order(each, small) for each in exactly))
        exactly, leading = (Motion(*(each.xreplace(closed) for each in motion)) for motion in (exactly, leading))
        steps += (stated("Solved for the variance of θ", Letter("Var θ"), exactly.variance),)
    steps = tuple(s._replace(equation=s.equation.xreplace(found.roots)) for s in steps)
    has_mean = any(found.roots[letter].has(notation.mean) for letter in used)
    conditions = (*found.conditions, *([WHOLE] if has_mean else []))
    return Law(exactly, leading, None, steps, conditions), matrix.row_join(response).xreplace(closed)


def _rate(polynomial: Any, small: list[Symbol]) -> Any:
    """R where the decay is weak, from p(1 − R) = 0: R = p(1)/p′(1), to leading order."""
    at_one = in_leading_order(polynomial.eval(1), small)
    slope = polynomial.diff(z).eval(1).xreplace(dict.fromkeys(small, sympy.S.Zero))
    return one_minus(sympy.factor(at_one / slope))


def _in_numbers(matrix: Matrix):
    """Var θ, 1 − ρ₁ and R as floats, of the matrix A|b as a function of σ."""
    evaluate = sympy.lambdify(SIGMA, matrix.tolist(), "numpy")

    def motion(sigma: float) -> Motion | None:
        both = np.array(evaluate(sigma), dtype=float)
        a, b = both[:, :-1], both[:, -1]
        largest = np.abs(np.linalg.eigvals(a)).max() if np.isfinite(both).all() else np.inf
        if largest >= 1:
            return None
        noise = sigma**2 * np.outer(b, b)
        size = len(b)
        pairs = (a[:, None, :, None] * a[None, :, None, :]).reshape(size**2, size**2)  # np.kron(a, a), in a tenth of it
        covariance = np.linalg.solve(np.eye(size**2) - pairs, noise.ravel()).reshape(size, size)
        variance = covariance[0, 0]
        moved = a - np.eye(size)  # (A − 1)Σ(A − 1)ᵀ + σ²bbᵀ is the covariance of Δθ: no digits are lost
        squared = (moved @ covariance @ moved.T + noise)[0, 0]
        return Motion(variance, squared / (2 * variance), 1 - largest)

    return motion
