"""The edge of stability of a rule: the curvature at which a step turns an oscillation over, and what then moves slowly.

At the edge the iterates are a slow mean and an oscillation δ, which each step turns over: δ′ = −δ. The mean of the
gradient is then g + ½∇⟨H, Σ⟩ with Σ = E[δδᵀ], because the gradient is not linear. The slow flow is the rule itself with
this gradient. All that depends on the rule is read off its trace and its linear map.
"""

from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Expr, Matrix, S, Symbol

from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import Derivation, DerivationStep, NotDerivable, stated
from swd_dynamics.symbolic.form import one_minus
from swd_dynamics.symbolic.letters import exact, lettered
from swd_dynamics.symbolic.linear import LinearMap, find_linear_map
from swd_dynamics.symbolic.names import symbol_text
from swd_dynamics.symbolic.notation import PerWeight, cached
from swd_dynamics.symbolic.stability import stability_limit
from swd_dynamics.symbolic.tangent import same_at_samples
from swd_dynamics.symbolic.trace import Trace, long_run, trace

# At the edge of stability. No rule can have a hyperparameter or a memory of these names.
CURVATURE_SLOPE = PerWeight("∇⟨H, Σ⟩", real=True)
GRADIENT_VARIANCE = PerWeight("var G", nonnegative=True)
SHARPNESS_SLOPE = PerWeight("∇S", real=True)

NAMED = {
    "ηᵢ": "effective learning rate of this weight: how far a gradient of 1 moves it in each step, in the end",
    "R∞": "fraction of the weights that a step subtracts in the long run, by decay and by L2: the result R",
    "H": "Hessian of the loss",
    "δ": "the oscillation, which each step turns over",
    "Σ": "covariance E[δδᵀ] of the oscillation",
    "S": "sharpness uᵀHu along the direction u that oscillates",
    "σ²": "variance of the oscillation along u, where one direction oscillates",
}
SHARPNESS_RATE = "dS/dk due to decay"  # a part: those of g and Σ balance it at the edge, where S is constant
IN_ALL = ("ηᵢ", "R∞", "H", "δ", "Σ", "S")  # σ² is named only where all weights have one η_eff


class inner(sympy.Function):
    """The inner product of two vectors of all weights. No rule uses it: it is in results only."""

    nargs = 2

    def _latex(self, printer, exp=None):
        left, right = map(printer._print, self.args)
        return rf"\left\langle {left}, {right} \right\rangle"


@dataclass(frozen=True)
class EdgeParts:
    """What a rule does at its edge of stability, in symbols; letters stand for the roots of a frozen preconditioner.

    Attributes
    ----------
    found : LinearMap
    settled : Trace — the step after many steps and between its kinks
    limit : Expr — the curvature h at which the linear map has the eigenvalue −1
    oscillation : tuple of Expr — its eigenvector: what the entries of (θ, memory) turn over, for a θ of 1
    response : Expr — how far a gradient of 1 moves a weight back in the same step
    effective_lr : Expr — how far a gradient that stays 1 moves a weight in each step, in the end
    decay_rate : Expr — R, the share of θ that is subtracted in each step, in the end, also by L2
    added_curvature : Expr — the λ that L2 adds to the curvature
    remembered : dict of Symbol to Expr — each entry of the memory after a step, in the mean over the oscillation
    """

    found: LinearMap
    settled: Trace
    limit: Expr
    oscillation: tuple[Expr, ...]
    response: Expr
    effective_lr: Expr
    decay_rate: Expr
    added_curvature: Expr
    remembered: dict[Symbol, Expr]

    def in_memory(self, expression: Any) -> Any:
        """An expression with the roots of the preconditioner written out."""
        return expression.xreplace(self.found.roots)

    @property
    def has_one_rate(self) -> bool:
        """Whether all weights have the same η_eff, which no memory changes."""
        return not self.effective_lr.has(PerWeight) and not self.found.roots


def edge(rule: UpdateRule) -> Derivation:
    """The edge of stability of a rule: its limit, what oscillates there, and the slow flow beside the oscillation.

    Full-batch training often sharpens until the largest curvature reaches the limit of the optimizer, and then stays
    there: an oscillation δ with covariance Σ = E[δδᵀ] adds ½∇⟨H, Σ⟩ to the mean gradient, and Σ is such that the
    sharpness does not rise any further.

    Returns
    -------
    Derivation
        ``.results``, in which v is the preconditioner's entry of the memory where the rule has one:

        ========= =================================================================================================
        h_max     the limit: the Hessian H of the loss stays at or below diag(h_max)
        m, …      what the memory does while θ oscillates as (−1)ᵏ
        ηᵢ, R     how far a constant gradient of 1 moves this weight in each step, and the share of θ that a step
                  subtracts. η_eff of stable decay is one number for all weights; ηᵢ is a weight's own
        R/ηᵢ      decay in units of the gradient; if it is one number for all weights, the run leaves the edge where
                  it is above ⟨−g, ∇S⟩/⟨θ, ∇S⟩
        dθ/dk     the slow flow −η_eff(g + ½∇⟨H, Σ⟩) − Rθ, per step
        dv/dk, …  the rate of change of the preconditioner, which also feels the variance of the oscillating gradient
        dS/dk …   ``"dS/dk due to decay"``: decay's part of the rate of change of the sharpness S = uᵀHu. At the
                  edge, where S stays at its limit, the parts of the gradient and of the oscillation balance it
        ========= =================================================================================================

    Raises
    ------
    NotDerivable
        If the step has no linear map, as that of a sign, if no curvature is unstable, or if stability is first lost
        through an eigenvalue that is not −1.

    Notes
    -----
    Assumes full batches, a loss with three derivatives, and that the preconditioner changes little in one oscillation.
    Adam's v does change where the mean gradient g of a weight is not small compared with √v: then its h_max is larger
    where g² = v, by a factor of 1.1 for β = (.9, .99) and 1.01 for (.9, .999). ``full_limit`` derives it.
    In several dimensions det(A + 1) = 0 is det(diag(h_max) − H) = 0: with H u = diag(h_max) u the step turns u over.
    Source: without weight decay and momentum Cohen, Damian, Talwalkar, Kolter & Lee 2024, 2410.24206.

    Examples
    --------
    Heavy ball at η = ½, β = ½ with stable decay of λ = ¼: η_eff = η/(1−β) = 1, R = λη_eff, and the limit on the
    curvature is (1+β)(2−R)/η:

    >>> from swd_dynamics.rules import CATALOG
    >>> found = edge(CATALOG["SGDS"](lr=0.5, momentum=0.5, weight_decay=0.25))
    >>> [found.results[name] for name in ("h_max", "ηᵢ", "R", "R/ηᵢ")]
    [21/4, 1, 1/4, 1/4]
    >>> found.results["dθ/dk"]
    -g - θ/4 - ∇⟨H, Σ⟩/2
    """
    letters, values = lettered(rule)
    numbers = exact(values)
    parts = edge_parts(letters)
    shown = parts.in_memory
    refuse_another_boundary(rule)
    steps = [DerivationStep(step.done, shown(step.equation)) for step in (*parts.found.steps, *_explain(parts))]
    named = {name: said for name, said in NAMED.items() if name in IN_ALL or parts.has_one_rate}
    derivation = Derivation("The edge of stability", _results(parts), tuple(steps), _assumptions(parts), named=named)
    return derivation.with_numbers(values, numbers)


@cached
def edge_parts(rule: UpdateRule) -> EdgeParts:
    """The parts of which the edge of stability is made, for a rule in symbols.

    Raises
    ------
    NotDerivable
        If the step has no linear map, or no curvature gives it the eigenvalue −1.
    """
    found, settled = find_linear_map(rule), long_run(trace(rule))
    matrix: Any = found.at_zero_curvature()
    slope: Any = found.matrix.diff(notation.curvature)
    gradient = slope[:, 0]  # the column by which a gradient enters the state
    added = sympy.diff(settled.total, notation.theta)
    turned = -_solved(matrix + sympy.eye(matrix.rows), gradient)  # x = Ax + gradient·hθ, turned over: x′ = −x
    if turned[0] == 0:
        raise NotDerivable("no curvature gives the step an eigenvalue −1: the rule has no edge of stability")
    limit = _plain(1 / turned[0])
    without = matrix - added * gradient * sympy.eye(matrix.rows)[:1, :]  # L2 counted as a gradient
    effective_lr, decay_rate = _long_run(without, gradient)
    shares = -_solved(without + sympy.eye(matrix.rows), gradient)  # the state that a turning G of 1 turns over
    return EdgeParts(
        found=found,
        settled=settled,
        limit=limit,
        oscillation=tuple(_plain(entry * limit) for entry in turned),
        response=_plain(-gradient[0]),
        effective_lr=effective_lr,
        decay_rate=_plain(decay_rate + added * effective_lr),
        added_curvature=added,
        remembered=_in_the_mean(settled, found, shares),
    )


def _solved(matrix: Any, column: Any) -> Any:
    return matrix.LUsolve(column).applyfunc(sympy.cancel)


def _plain(expression: Any) -> Expr:
    return one_minus(sympy.factor(expression))


def _long_run(matrix: Any, gradient: Any) -> tuple[Expr, Expr]:
    """η_eff and R of θ′ − θ = −η_eff·G − Rθ, with the rest of the memory at rest while G is constant."""
    if matrix.rows == 1:
        return _plain(-gradient[0]), _plain(1 - matrix[0, 0])
    rest = sympy.eye(matrix.rows - 1) - matrix[1:, 1:]
    per_gradient, per_weight = _solved(rest, gradient[1:, :]), _solved(rest, matrix[1:, :1])
    moved = gradient[0] + (matrix[:1, 1:] * per_gradient)[0]
    kept = matrix[0, 0] + (matrix[:1, 1:] * per_weight)[0]
    return _plain(-moved), _plain(1 - kept)


def _in_the_mean(settled: Trace, found: LinearMap, shares: Any) -> dict[Symbol, Expr]:
    """The memory after a step in the mean over the oscillation: f(G, M) + ½·var G·f″, along what oscillates."""
    turning = {notation.total: S.One, **dict(zip(found.state[1:], shares[1:], strict=True))}
    mean: dict[Symbol, Expr] = {}
    for symbol, after in zip(settled.memory, settled.remembered, strict=True):
        slope = sum((after.diff(each) * share for each, share in turning.items()), S.Zero)
        bend = sum((slope.diff(each) * share for each, share in turning.items()), S.Zero)
        mean[symbol] = after + bend * GRADIENT_VARIANCE / 2
    return mean


@cached  # a flow, and the same flow without its oscillation, ask for the same rule
def refuse_another_boundary(rule: UpdateRule) -> None:
    """Raise NotDerivable if a run with this rule becomes unstable before its linear map has the eigenvalue −1.

    Examples
    --------
    Gradient descent is unstable from 2/η on, where its step has this eigenvalue:

    >>> from swd_dynamics.rules import CATALOG
    >>> refuse_another_boundary(CATALOG["SGD"](lr=0.5))
    """
    letters, values = lettered(rule)
    parts = edge_parts(letters)
    limit = one_minus(parts.in_memory(parts.limit)).xreplace(exact(values))
    first = stability_limit(rule).value
    if first is sympy.oo:
        raise NotDerivable("every curvature is stable: the rule has no edge of stability")
    if not same_at_samples(sympy.nsimplify(first, rational=True), limit):
        raise NotDerivable(
            "the step becomes unstable through an eigenvalue that is not −1: it does not oscillate with period two"
            " there. stability_limit gives the curvature"
        )


def _results(parts: EdgeParts) -> dict[str, Any]:
    shown = parts.in_memory
    turned = zip(parts.found.state[1:], parts.oscillation[1:], strict=True)
    results = {"h_max": shown(parts.limit), **{symbol_text(symbol): shown(entry) for symbol, entry in turned}}
    results |= {"ηᵢ": shown(parts.effective_lr), "R": shown(parts.decay_rate), "R/ηᵢ": shown(_ratio(parts))}
    results |= {"dθ/dk": shown(_slow(parts))}
    results |= {f"d{symbol_text(symbol)}/dk": rate for symbol, rate in _slow_memory(parts).items()}
    return results | {SHARPNESS_RATE: shown(_slowed(parts))}


def _ratio(parts: EdgeParts) -> Expr:
    return _plain(parts.decay_rate / parts.effective_lr)


def _slow(parts: EdgeParts) -> Expr:
    mean = notation.gradient + CURVATURE_SLOPE / 2
    return -parts.effective_lr * mean - parts.decay_rate * notation.theta


def _slow_memory(parts: EdgeParts) -> dict[Symbol, Expr]:
    """The rates of change of the entries that the linear map has frozen, where they are exact in the variance."""
    rates: dict[Symbol, Expr] = {}
    for symbol in (symbol for symbol in parts.settled.memory if symbol not in parts.found.state):
        rate = sympy.expand(parts.remembered[symbol] - symbol)
        if rate.diff(GRADIENT_VARIANCE).is_number or not _moves(rate.diff(GRADIENT_VARIANCE), parts):
            rates[symbol] = _plain(rate)
    return {symbol: rate for symbol, rate in rates.items() if rate.has(GRADIENT_VARIANCE)}


def _moves(expression: Any, parts: EdgeParts) -> bool:
    return bool(expression.free_symbols & {notation.total, *parts.settled.memory})


def _slowed(parts: EdgeParts) -> Any:
    """−⟨Rθ, ∇S⟩, with what is the same for all weights before the bracket."""
    if parts.decay_rate == 0:
        return S.Zero
    same, varying = parts.decay_rate.as_independent(PerWeight, as_Add=False)
    return -same * inner(varying * notation.theta, SHARPNESS_SLOPE)


def _explain(parts: EdgeParts):
    done = "At the edge the linear map has the eigenvalue −1: det(A + 1) = 0, at the curvature"
    yield stated(done, notation.curvature, parts.limit)
    if len(parts.found.state) > 1:
        done = "Its eigenvector, what each step turns over, for a θ of 1"
        yield stated(done, Matrix(parts.found.state), Matrix(parts.oscillation))
    done = "The gradient has a mean over the oscillation, which the third derivative of the loss adds to"
    mean_total = parts.settled.total + CURVATURE_SLOPE / 2
    yield stated(done, Symbol("E[G]"), mean_total)
    done = "In the end, how far a gradient of 1 moves this weight in each step"
    yield stated(done, Symbol("ηᵢ"), parts.effective_lr)
    done = "and the share of θ that each step subtracts in the long run, also by L2: the result R"
    yield stated(done, Symbol("R∞"), parts.decay_rate)
    yield stated("The slow flow, for one step", Symbol("dθ/dk"), _slow(parts))
    for symbol, rate in _slow_memory(parts).items():
        done = f"{symbol_text(symbol)} feels the variance of G too, where G is its mean"
        yield stated(done, Symbol(f"d{symbol_text(symbol)}/dk"), rate)
    if parts.decay_rate != 0:
        yield stated("What decay adds to the rate of change of the sharpness S", Symbol(SHARPNESS_RATE), _slowed(parts))
    if parts.has_one_rate:
        yield from _explain_one_direction(parts)


def _explain_one_direction(parts: EdgeParts):
    slope, ratio = SHARPNESS_SLOPE, _ratio(parts)
    pull = -notation.gradient - ratio * notation.theta
    product: Any = inner
    done = "If one direction oscillates, its variance keeps S constant, with ∇⟨H, Σ⟩ = σ²∇S"
    yield stated(done, Symbol("σ²"), 2 * product(pull, slope) / product(slope, slope))
    if parts.decay_rate != 0:
        done = "Decay takes the run off the edge where this variance is 0: from this R/ηᵢ on"
        yield stated(done, ratio, product(-notation.gradient, slope) / product(notation.theta, slope))


def _assumptions(parts: EdgeParts) -> tuple[str, ...]:
    return (*parts.found.conditions, "the gradient is that of the whole loss, which has three derivatives")
