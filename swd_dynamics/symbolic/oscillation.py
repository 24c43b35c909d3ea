"""The settled oscillation at the edge of stability: how a small perturbation of it grows or fades.

At the edge the iterates are a slow mean and an oscillation of the size σ along one direction u. A larger oscillation
pushes the mean towards smaller sharpness S, a smaller S lets the oscillation shrink, and so on: the two are a pair of
coupled oscillators. Whether their motion fades or grows into bursts depends on how quickly the rule lets either answer,
and both answers are read off one function: the curvature h(μ) at which the rule's linear map has the eigenvalue μ.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Expr, Symbol

from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import Derivation, DerivationStep, NotDerivable, stated
from swd_dynamics.symbolic.edge import EdgeParts, edge_parts, refuse_another_boundary
from swd_dynamics.symbolic.form import one_minus
from swd_dynamics.symbolic.letters import exact, lettered
from swd_dynamics.symbolic.linear import characteristic
from swd_dynamics.symbolic.notation import Letter, cached
from swd_dynamics.symbolic.notation import z as eigenvalue

# What a loss and a run have at the edge. No rule can have a hyperparameter or a memory of these names.
VARIANCE = Letter("σ²", positive=True)
MODE_CURVATURE = Letter("hⱼ", real=True)
MODE_SLOPE = Letter("Sⱼ", real=True)
FOURTH = Letter("L₄", real=True)
SLOPE_NORM = Letter("‖∇S‖", positive=True)
CURVATURE_ALONG = Letter("h_∇S", real=True)
MULTIPLIER: Any = Letter("μ")
SIZE_CHANGE = Letter("ρ", real=True)
MEAN_CHANGE = Letter("δⱼ", real=True)

NAMED = {
    "S": "sharpness uᵀHu along the direction u that oscillates",
    "L̄": "the loss in the mean over the oscillation, L + ½σ²S, whose slope the slow mean follows",
    "δS": "change of the curvature that the oscillation meets",
}


class over_modes(sympy.Function):
    """The sum over all eigenvectors j. No rule uses it: it is in results only."""

    nargs = 1

    def _latex(self, printer, exp=None):
        return rf"\sum_j {printer._print(self.args[0])}"


@dataclass(frozen=True)
class OscillationParts:
    """What decides whether the oscillation at the edge settles, in symbols.

    Attributes
    ----------
    edge : EdgeParts
    curvature : Expr — h(μ), the curvature at which the linear map has the eigenvalue μ
    of_size : Expr — h(−μ) − h_max: the added curvature at which the size of the oscillation is multiplied by μ
    of_mean : Expr — −h(μ): what is added to the curvature of a slow mean that is multiplied by μ in each step
    """

    edge: EdgeParts
    curvature: Expr
    of_size: Expr
    of_mean: Expr

    @property
    def characteristic(self) -> Expr:
        """The function of μ whose zeros are the factors by which a perturbation grows in each step."""
        summed: Any = over_modes
        pushed_back = summed(MODE_SLOPE**2 / (MODE_CURVATURE + self.of_mean))
        return self.of_size - VARIANCE * FOURTH / 3 + VARIANCE * pushed_back


def settled_oscillation(rule: UpdateRule) -> Derivation:
    """The stability of the settled oscillation at the edge of stability: the equation for the growth of its bursts.

    The oscillation that holds the curvature at its limit is itself stable if a small change of its size σ fades. Each
    step multiplies such a change by a zero μ of ``F``, its Floquet multiplier. With |μ| < 1 for all zeros the
    oscillation settles; a pair of complex zeros with |μ| > 1 lets it grow in bursts.

    Returns
    -------
    Derivation
        ``.results``:

        ======== ==================================================================================================
        F        the characteristic function of μ, one term for each eigenvector j of the Hessian of L̄ = L + ½σ²S
        h(μ)     the curvature at which the rule's linear map has the eigenvalue μ; h(−1) is the limit h_max
        ω²       the square of the frequency of slow bursts, in radians per step
        ζ_min    slow bursts fade if ζ = h_max·(h_∇S − c·L₄σ²/3)/(σ²‖∇S‖²) is above this number. Here h_∇S is the
                 curvature along ∇S with the decay R/η_eff added, and c is 1 for heavy ball without decay
        ======== ==================================================================================================

    Raises
    ------
    NotDerivable
        As :func:`edge` does, or if weights differ in their learning rate, as with a preconditioner.

    Notes
    -----
    Assumes that one direction oscillates, with small σ, and that the modulation is slow compared with the oscillation.
    The sum has the critical direction too, whose curvature is near to the limit. The curvatures hⱼ are those of L̄ and
    not of L: ½σ²S adds to the curvatures as much as the term of L₄ does to the growth. Gradient descent in one
    dimension has a stable oscillation if (∂S)²/S > L₄/3, the condition of period doubling.
    Source: theory of this project; the pair of sharpness and oscillation is that of Damian, Nichani & Lee 2023,
    2209.15594, for gradient descent.

    Examples
    --------
    Gradient descent has h(μ) = (1 − μ)/η, and heavy ball the threshold 2((1+β)/(1−β))², which is 18 at β = ½:

    >>> from swd_dynamics.rules import CATALOG
    >>> settled_oscillation(CATALOG["SGD"](lr=0.5)).results["h(μ)"]
    2 - 2*μ
    >>> settled_oscillation(CATALOG["SGD"](lr=0.5, momentum=0.5)).results["ζ_min"]
    18
    """
    letters, values = lettered(rule)
    parts = oscillation_parts(letters)
    refuse_another_boundary(rule)
    steps = (*parts.edge.found.steps, *_explain(parts))
    derivation = Derivation("The settled oscillation", _results(parts), steps, _assumptions(parts), named=NAMED)
    return derivation.with_numbers(values, exact(values))


@cached
def oscillation_parts(rule: UpdateRule) -> OscillationParts:
    """The parts of which the stability of the settled oscillation is made, for a rule in symbols.

    Raises
    ------
    NotDerivable
        If the rule has no edge of stability, or weights differ in their learning rate.
    """
    parts = edge_parts(rule)
    if not parts.has_one_rate:
        raise NotDerivable(
            "weights differ in their effective learning rate, and the equation of the settled oscillation holds where"
            " all have the same. CentralFlow follows such a rule at its edge, and takes the oscillation as settled"
        )
    # A gradient enters the state in one column, so the characteristic polynomial is linear in h.
    polynomial = sympy.Poly(characteristic(parts.found.matrix).as_expr(), notation.curvature)
    at_eigenvalue: Any = -polynomial.coeff_monomial(1) / polynomial.coeff_monomial(notation.curvature)
    curvature = _plain(at_eigenvalue.xreplace({eigenvalue: MULTIPLIER}))
    of_size = _plain(curvature.subs(MULTIPLIER, -MULTIPLIER) - parts.limit)
    return OscillationParts(parts, curvature, of_size, _plain(-curvature))


def _plain(expression: Any) -> Expr:
    return one_minus(sympy.factor(expression))


def _results(parts: OscillationParts) -> dict[str, Any]:
    frequency, threshold = _of_slow_bursts(parts)
    return {"F": parts.characteristic, "h(μ)": parts.curvature, "ω²": frequency, "ζ_min": threshold}


def _of_slow_bursts(parts: OscillationParts) -> tuple[Expr, Expr]:
    """ω² and ζ_min, from the two functions to second order in s = ln μ: a₁s + a₂s², and R/η_eff + b₁s + b₂s²."""
    a_1, a_2 = _slopes(parts.of_size)
    b_1, b_2 = _slopes(parts.of_mean)
    frequency = VARIANCE * SLOPE_NORM**2 / (a_1 * b_1)
    threshold = parts.edge.limit * (a_1 * b_2 + a_2 * b_1) / (a_1**2 * b_1)
    return _plain(frequency), _plain(threshold)


def _slopes(function: Expr) -> tuple[Any, Any]:
    """The coefficients of s and s² of a function of μ = eˢ."""
    first: Any = MULTIPLIER * function.diff(MULTIPLIER)
    second: Any = MULTIPLIER * first.diff(MULTIPLIER)
    return first.subs(MULTIPLIER, 1), second.subs(MULTIPLIER, 1) / 2


def _weight_of_fourth(parts: OscillationParts) -> Expr:
    """The factor c of L₄σ²/3 in ζ."""
    return _plain(_slopes(parts.of_mean)[0] / _slopes(parts.of_size)[0])


def _explain(parts: OscillationParts) -> Iterator[DerivationStep]:
    summed: Any = over_modes
    change, size, mean = Symbol("δS"), SIZE_CHANGE, MEAN_CHANGE
    done = "A step multiplies a weight by μ where the curvature is h(μ), with which the linear map has this eigenvalue"
    yield stated(done, Symbol("h(μ)"), parts.curvature)
    done = "Each step turns the oscillation over: h(−μ) multiplies its size by μ, and the limit h(−1) keeps the size"
    yield stated(done, Symbol("h_max"), parts.edge.limit)
    done = "Its size σ(1 + ρ), in which ρ is multiplied by μ, thus needs a change of the curvature by (h(−μ) − h_max)ρ"
    yield stated(done, change, parts.of_size * size)
    done = "The curvature changes with the slow mean, by Sⱼ along the eigenvector j, and with the size, by L₄σ²/6"
    yield stated(done, change, summed(MODE_SLOPE * mean) + VARIANCE * FOURTH / 3 * size)
    done = "The slow mean follows the slope of L̄ = L + ½σ²S, to which ρ adds: (hⱼ − h(μ))δⱼ is"
    yield stated(done, (MODE_CURVATURE + parts.of_mean) * mean, -VARIANCE * MODE_SLOPE * size)
    yield stated("Together, for each factor μ of a perturbation", parts.characteristic, 0)
    frequency, threshold = _of_slow_bursts(parts)
    done = "Where bursts are slow, μ = exp(s) with a small s, and curvatures are below ω by η_eff: s = ±iω with"
    yield stated(done, Symbol("ω²"), frequency)
    decay = parts.edge.decay_rate / parts.edge.effective_lr
    damped = CURVATURE_ALONG + _plain(decay) - _weight_of_fourth(parts) * FOURTH * VARIANCE / 3
    done = "To the next order, with the curvature h_∇S along ∇S, they fade if this number is above ζ_min"
    yield stated(done, Symbol("ζ"), parts.edge.limit * damped / (VARIANCE * SLOPE_NORM**2))
    yield stated("The number that it is compared with", Symbol("ζ_min"), threshold)


def _assumptions(parts: OscillationParts) -> tuple[str, ...]:
    return (
        *parts.edge.found.conditions,
        "one direction oscillates, and σ² is small",
        "the gradient is that of the whole loss, which has four derivatives",
    )
