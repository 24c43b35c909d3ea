"""The stochastic differential equation that a rule with noisy gradients follows, to second order in the learning rate.

Independent noise σξ in each gradient adds a random walk to the flow:

    dθ = (F₀ + ηF₁) dt + √η·σ·(B₀ + ηB₁) dW

The rule is linear in the gradient once its preconditioner is frozen, so that F and B are read off its linear map on
f = ½h(θ − θ⋆)². The slow eigenvalue of the map is z = exp(η(μ₀ + ημ₁)), and μ₀ + ημ₁ is the eigenvalue of the flow. B
gives the SDE the stationary variance that solves the Lyapunov equation of the map.
"""

from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Expr, Symbol

from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import Derivation, DerivationStep, NotDerivable, stated
from swd_dynamics.symbolic.form import by_curvature, one_minus
from swd_dynamics.symbolic.letters import lettered
from swd_dynamics.symbolic.linear import LinearMap, derived_from_map, with_numbers_if_large
from swd_dynamics.symbolic.noise import NOISY, lyapunov_steps, moments_of, refuse_jumps
from swd_dynamics.symbolic.notation import Letter, z
from swd_dynamics.symbolic.notation import curvature as h
from swd_dynamics.symbolic.trace import trace

FAST = "the memory is fast: its constants (β) are fixed as η → 0, and the learning rate is constant"
LATE = "many more steps than the memory is long were taken: B has the variance of θ that is reached then"


@dataclass(frozen=True)
class Diffusion:
    """F and B of a rule as polynomials in h, with the symbols of a frozen preconditioner of its linear map.

    Attributes
    ----------
    pull, decay : Expr — F₀ = −pull·g − decay·θ
    turn, lag : Expr — F₁ = turn·ġ + lag·θ̇, where θ̇ = F₀ and ġ = H·θ̇
    stir, stir_lag : Expr — B₁ = (stir·H + stir_lag)·B₀, where B₀ = pull
    eigenvalue : tuple of two Expr — μ₀ and μ₁
    variance : tuple of two Expr — V₁ and V₂, where Var θ = σ²(ηV₁ + η²V₂) to second order
    polynomial : Expr — the characteristic polynomial of the map, in z
    """

    pull: Expr
    decay: Expr
    turn: Expr
    lag: Expr
    stir: Expr
    stir_lag: Expr
    eigenvalue: tuple[Expr, Expr]
    variance: tuple[Expr, Expr]
    polynomial: Expr


def stochastic_equation(rule: UpdateRule) -> Derivation:
    """The SDE dθ = (F₀ + ηF₁) dt + √η·σ·(B₀ + ηB₁) dW of a rule whose gradients have noise of variance σ².

    With F₀ and B₀ alone the relative error of the stationary variance is of order η, with all four of order η². F₁
    alone does not help: the noise of a step is of the same order as what F₁ changes.

    The four are better than F₀ and B₀ only where ηF₁ is much smaller than F₀. With momentum β and curvature h this
    needs ηh below 2(1−β)⁴/(1+β)³, which is 3·10⁻⁵ at β = .9. :class:`~swd_dynamics.flows.SDE` says where this is from.

    Returns
    -------
    Derivation
        ``.results``: F₀ in θ and g, F₁ in the rates θ̇ = F₀ and ġ, B₀, and B₁ in the curvature h.

    Raises
    ------
    NotDerivable
        If the rule has no linear map, if its memory does not come to rest as η → 0, or if it has more than three
        entries of the state and a symbol besides η.

    Notes
    -----
    Assumes that the preconditioner of an adaptive direction is frozen, and that the memory is fast: β is fixed as
    η → 0. Terms of order η²σ² with higher derivatives of the loss are left out. Where the curvature at the minimum is
    0, as on θ⁴, they are as large as the terms with F₁ and B₁, which then do not help.
    For the mean the error is of order η². B is fitted to the stationary variance: as long as the start is remembered,
    the variance is off by a term η²σ²·const·exp(2μt), whose relative order is η where there is momentum, because a
    momentum holds a part of the noise back. Source: Li, Tai & E 2019, 1811.01558, for SGD with F₁ and B₀; Zygalakis
    2011, SIAM J. Sci. Comput. 33, 102, for B₁ of gradient descent.

    Examples
    --------
    Gradient descent follows dθ = −(g + (η/2)Hg) dt + √η·σ·(1 + (η/2)H) dW:

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> print(stochastic_equation(UpdateRule(0.5, SGD())).text())
    F₀ = −g
    F₁ = ġ/2
    B₀ = 1
    B₁ = h/2
    """
    letters, _ = lettered(rule)

    def derive(found: LinearMap, numbers: dict):
        refuse_jumps(letters)
        parts = diffusion_of(letters, found, numbers)
        theta, theta_dot, gradient = notation.theta, notation.theta_dot, notation.gradient
        results: dict[str, Any] = {
            "F₀": -parts.pull * gradient - parts.decay * theta,
            "F₁": parts.turn * notation.gradient_dot + parts.lag * theta_dot,
            "B₀": parts.pull,
            "B₁": by_curvature((parts.stir * h + parts.stir_lag) * parts.pull),
        }
        return results, (*_explained(found, parts, results), *(DerivationStep(s, None) for s in (NOISY, FAST, LATE)))

    return derived_from_map(rule, "The SDE dθ = (F₀ + ηF₁) dt + √η·σ·(B₀ + ηB₁) dW", derive)


def diffusion_of(letters: UpdateRule, found: LinearMap, numbers: dict) -> Diffusion:
    """F and B of a rule in symbols, from its linear map; numbers are put in where the state has more than 3 entries."""
    lr = trace(letters).lr_letter
    known = {symbol: number for symbol, number in numbers.items() if symbol != lr}
    matrix: Any = with_numbers_if_large(found.matrix, known)
    whole = (z * sympy.eye(matrix.rows) - matrix).det(method="berkowitz")
    rates = _slow_root(whole, lr)
    variance = _in_powers(moments_of(found.matrix, found.response, known, {h, lr}).variance, lr)
    pull, decay = _of_curvature(-rates[0])
    turn, lag = _of_curvature(sympy.cancel(rates[1] / rates[0]))
    spread = -2 * (rates[0] * variance[1] + rates[1] * variance[0])  # 2B₀B₁, as B² = −2μ·Var θ/(ησ²)
    stir, stir_lag = _of_curvature(sympy.cancel(spread / (2 * pull**2)))
    return Diffusion(pull, decay, turn, lag, stir, stir_lag, rates, variance, whole)


def _slow_root(whole: Any, lr: Symbol) -> tuple[Expr, Expr]:
    """μ₀ and μ₁ of the root exp(η(μ₀ + ημ₁)) of a polynomial in z, which is 1 at η = 0."""

    def at_rest(*by: Any) -> Any:
        """A partial derivative of the polynomial at z = 1 and η = 0."""
        return sympy.factor((sympy.diff(whole, *by) if by else whole).subs({z: 1, lr: 0}))

    slope = at_rest(z)
    if at_rest() != 0 or slope == 0:
        raise NotDerivable(
            "as η → 0 the step does not leave the weights as they are, or the memory does not come to rest: the rule"
            " has no slow motion that an SDE for θ could follow"
        )
    first = -at_rest(lr) / slope
    bend = at_rest(lr, lr) / 2 + first * at_rest(z, lr) + first**2 * (at_rest(z, z) + slope) / 2
    return _factored(first), _factored(-bend / slope)


def _in_powers(variance: Any, lr: Symbol) -> tuple[Expr, Expr]:
    """V₁ and V₂ of a variance ηV₁ + η²V₂ + …"""
    per_lr = sympy.cancel(variance / lr)
    return _factored(per_lr.subs(lr, 0)), _factored(per_lr.diff(lr).subs(lr, 0))


def _of_curvature(expression: Any) -> tuple[Expr, Expr]:
    """a and b of a·h + b."""
    polynomial = sympy.Poly(sympy.expand(expression), h)
    return _factored(polynomial.coeff_monomial(h)), _factored(polynomial.coeff_monomial(1))


def _factored(expression: Any) -> Expr:
    return one_minus(sympy.factor(expression))


def _explained(found: LinearMap, parts: Diffusion, results: dict[str, Any]):
    """The derivation of F and B, step by step."""
    mu, eta = [Letter("μ₀"), Letter("μ₁")], notation.lr
    yield stated("The characteristic polynomial of this linear map is 0", parts.polynomial, 0)
    said = "Its slow root is z = exp(η(μ₀ + ημ₁)). Order 1 in η of p(z) = 0"
    yield stated(said, mu[0], parts.eigenvalue[0])
    yield stated("Order 2 in η of p(z) = 0", mu[1], parts.eigenvalue[1])
    yield stated("A flow with this μ₀ on the quadratic, where g = h(θ − θ⋆)", Letter("F₀"), results["F₀"])
    yield stated("μ₁/μ₀ is linear in h, so that F₁ follows θ̇ = F₀ and ġ = hθ̇", Letter("F₁"), results["F₁"])
    yield from lyapunov_steps(found.matrix, found.response)
    variance = notation.noise**2 * (eta * parts.variance[0] + eta**2 * parts.variance[1])
    yield stated("Solved for the variance of θ, to second order in η", Letter("Var θ"), variance)
    balance = -eta * notation.noise**2 * (Letter("B₀") + eta * Letter("B₁")) ** 2 / (2 * (mu[0] + eta * mu[1]))
    yield stated("The SDE has the stationary variance −ησ²B²/(2μ)", Letter("Var θ"), balance)
    yield stated("Both variances are equal to first order in η", Letter("B₀"), results["B₀"])
    yield stated("and to second order", Letter("B₁"), results["B₁"])
