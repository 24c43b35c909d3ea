"""Does a flow follow the iterates to the order it claims? η is halved, and the terms of their distance are compared."""

from __future__ import annotations  # signatures in help() then say ArrayLike and not all that it stands for

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil, log2
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.checks import check, shown, whole_number
from swd_dynamics.crosscheck.richardson import Terms, largest_share, terms
from swd_dynamics.errors import InputError
from swd_dynamics.flows import AssumptionFailed, FlowDiverged, Solution
from swd_dynamics.flows.clock import Clock
from swd_dynamics.flows.flow import LATE, Flow
from swd_dynamics.flows.functions import array_function
from swd_dynamics.rules.decay import Corrected
from swd_dynamics.rules.gate import as_rule
from swd_dynamics.rules.update import State, UpdateRule
from swd_dynamics.symbolic.modified import KINKED, modified_equation
from swd_dynamics.verdict import Status, Verdict

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)
# Fraction of the whole distance at the smallest η. If the terms above or below the two that are judged are a larger
# fraction, they decide. With much less, the next term of a right flow could be taken for a higher order.
MOST = 0.75
CROSSED = (
    "a gradient changes its sign, which the modified equation excludes: take a shorter t, another start, or order"
    " 'state', which has no kink there"
)


def rule_iterates(rule: UpdateRule, state: State, gradient: Callable, steps: int) -> np.ndarray:
    """θ of a rule's own steps from a state, shape (steps + 1, n).

    Steps that diverge end in numbers that are not finite.

    Examples
    --------
    Gradient descent on f = ½θ² at η = ½ halves θ.

    >>> from swd_dynamics.rules import SGD
    >>> rule = UpdateRule(0.5, SGD())
    >>> rule_iterates(rule, rule.start(np.array([8.0])), lambda theta: theta, steps=3).ravel()
    array([8., 4., 2., 1.])
    """
    rule, gradient = as_rule(rule), array_function("gradient(theta)", gradient)
    theta = [state.theta]
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            state = rule(state, gradient(state.theta))
            theta.append(state.theta)
    return np.array(theta)


def convergence_order(
    flow: Flow,
    theta0: ArrayLike,
    *,
    t: float,
    lrs: Sequence[float],
    allowed: float = 0.05,
    detects: float = 0.05,
    expected: float | None = None,
    iterates: Callable[[UpdateRule, State, Callable, int], np.ndarray] = rule_iterates,
    name: str = "order",
    **solver,
) -> Verdict:
    """The order at which a flow follows the iterates it models.

    The distance of iterates and flow is a series in η. A flow of order p has none of the terms below η^p, and a wrong
    F₁ leaves a term of order η in a flow of order 2. Richardson's extrapolation over the halvings separates the two
    terms η^(p−1) and η^p, and says how well each is known.

    Parameters
    ----------
    flow : Flow
        Its rule is followed at each of ``lrs`` in turn. Where the weights have different learning rates, the largest
        of them is meant; where the rule has a schedule, the first. A schedule keeps its course in time: at half the
        learning rate every value holds for twice as many steps.
    theta0 : array, shape (n,)
    t : float
        Time that is covered, t = ηk; with a schedule, η is its first value. The state starts on its slow manifold, and
        the number of steps is large, so that there is no transient.
    lrs : sequence of float
        At least five learning rates, each half the previous learning rate.
    allowed : float
        How far the order may lie from the expected order.
    detects : float
        The largest relative error of F₁ that a confirmed verdict may have missed; at order 1, of F₀.
    expected : float, optional
        The order that is expected; by default the flow's own order (1 for "state").
    iterates : callable (rule, state, gradient, steps) → array, shape (steps + 1, n)
        By default the iterates of the rule itself; a study gives those of a real optimizer.
    **solver
        ``method`` and ``tolerance`` of :meth:`Flow.solve`.

    Returns
    -------
    Verdict
        ``measured`` is the order at the smallest η: p − 1 + log₂((2 + x)/(1 + x)), where x is the extrapolated size of
        the term η^(p−1), relative to the term η^p. ``why`` says how far the extrapolation may be off, and an order
        that is too low is refuted only if every x within this error is too large. Inconclusive, with a cause that says
        which η to give, where ``lrs`` are too large to tell the terms apart, a gradient changes its sign where the
        modified equation excludes that, the solver's error is too large, or an
        error of ``detects`` could not have been seen. Evidence: ``lr``, ``error`` (max_k‖θ_k − θ(ηk)‖),
        ``solver_error``, and ``smallest_seen``, the smallest relative error of F₁ (at order 1, of F₀) that would have
        been refuted.

    Raises
    ------
    InputError
        If ``lrs`` are fewer than five or not halvings, or t is less than a step.

    Notes
    -----
    Source: backward error analysis and Richardson's extrapolation, Hairer, Lubich & Wanner 2006, ch. IX; Hairer,
    Nørsett & Wanner 1993, II.9.

    Examples
    --------
    On f = ½θ² gradient descent is at (1−η)ᵏ and its flow of order 1 at e⁻ᵗ, t = ηk: their distance is of order η¹.

    >>> from swd_dynamics.rules import SGD
    >>> flow = Flow(UpdateRule(0.1, SGD()), lambda theta: theta)
    >>> verdict = convergence_order(flow, [1.0], t=1.0, lrs=[2.0**-k for k in range(4, 9)])
    >>> verdict.status, round(verdict.measured, 3)
    ('confirmed', 1.0)
    """
    if not isinstance(flow, Flow):
        raise InputError(f"flow = {shown(flow)} is not a Flow: give Flow(rule, gradient)")
    lr = np.asarray(lrs, dtype=float)
    if len(lr) < 5 or not np.allclose(lr[:-1] / lr[1:], 2):
        raise InputError(
            f"lrs = {lr.tolist()} is not allowed: give at least five learning rates, each half the previous one"
        )
    check("t", t, "(0, inf)")
    check("allowed", allowed, "(0, 1)")
    check("detects", detects, "(0, inf)")
    order = expected if expected is not None else (1 if flow.order == "state" else flow.order)
    steps = whole_number("the steps in t at the largest of lrs", round(t / lr[0]), least=1)
    said: dict[str, Any] = {
        "name": name,
        "claim": f"The order-{flow.order} flow is followed with an error of order {_power(order)}",
        "predicted": float(order),
        "allowed": float(allowed),
    }
    runs: list[_Run] = []
    for i, each in enumerate(lr):
        try:
            runs.append(_run(flow, theta0, each, steps * 2**i, 2**i, iterates, solver))
        except (FlowDiverged, AssumptionFailed) as failed:
            return _open(said, f"at η = {each:g} {failed}")
        if not np.isfinite(runs[-1].error):
            return _open(said, f"the steps diverged at η = {each:g}: give smaller lrs")
    error, solver_error, noise = np.array([(run.error, run.solver_error, run.noise) for run in runs]).T
    late = _late(runs[-1].distance)
    distances = [run.distance[late:] for run in runs]
    found = terms(lr, distances, noise, order)
    below = terms(lr, distances, noise, order - 1)  # a wrong F₀ in a flow of order 2
    share, unit = largest_share(allowed), _effect(flow, runs[-1], lr[-1], order, theta0, solver)
    seen = (share * (found.leading + found.uncertain) + 2 * found.uncertain) / unit
    far_too_low = below.certainly_lower > MOST * below.whole
    status, cause = ("refuted", None) if far_too_low else _judged(found, share, lr[0], seen, detects)
    if status != "confirmed" and _crosses_a_kink(flow, runs[0], theta0, solver):
        status, cause = "inconclusive", CROSSED
    best = below if far_too_low else found
    return Verdict(
        **said,
        measured=best.measured,
        why=f"at η = {lr[-1]:.2g} the order is measured to within {best.measured_error:.1g}, and a relative error of"
        f" {seen:.1g} in F{'₁' if order == 2 else '₀'} would be refuted",
        status=status,
        cause=cause,
        evidence={"lr": lr, "error": error, "solver_error": solver_error, "smallest_seen": seen},
    )


def _crosses_a_kink(flow: Flow, run: _Run, theta0, solver: dict) -> bool:
    """Whether a G changes its sign where the formula of the flow excludes G = 0: in the steps, the flow, or its limit.

    The limit is the flow of F₀, which all steps follow as η → 0. With a long memory, as that of β₂ = .999, no step
    need have come that far at the learning rates of a test.
    """
    if flow.order != 2 or KINKED not in modified_equation(flow.rule).assumptions:
        return False
    steps = len(run.solution.theta) - 1
    limit = replace(flow, order=1, rule=_at_rate(flow.rule, float(run.solution.time[1]), steps))
    paths = [run.solution.theta, run.solution.theta[1:] + run.distance]
    with suppress(FlowDiverged, AssumptionFailed):
        paths.append(limit.solve(theta0, steps=steps, **solver).theta)
    total = np.array([flow.gradient(at) + flow.rule.decay.added_gradient(at) for path in paths for at in path])
    return bool(((total.min(axis=0) <= 0) & (total.max(axis=0) >= 0)).any())


def _open(said: dict[str, Any], cause: str) -> Verdict:
    """The verdict where there are no distances."""
    return Verdict(
        **said, measured=float("nan"), why="there is no distance to judge", status="inconclusive", cause=cause
    )


def _power(order: float) -> str:
    return "η" if order == 1 else f"η^{order:g}"


def _late(distance: Array) -> int:
    """The first time that counts: half the time at which the smallest η has its largest distance.

    The starting memory is right to the order of the flow. What is left of its transient fades with the number of steps
    and is not a series in η, so that the times at which the transient is fading do not count.
    """
    return int(np.linalg.norm(distance, axis=1).argmax()) // 2


def _judged(found: Terms, share: float, largest: float, seen: float, detects: float) -> tuple[Status, str | None]:
    """The status; and where nothing can be concluded, the cause and what to do.

    The order is too low if the lower term is certainly more than a share of the leading term; where η is so large that
    a wrong F might not have been seen, only if the lower term is certainly the larger one. The order is too high if
    both terms are certainly the smaller part of the distance. It is right if neither is so, the leading term is known,
    and a wrong F would have left a lower term that is certain.
    """
    blind = seen > detects
    if found.certainly_lower > (1 if blind else share) * (found.leading + found.uncertain):
        return "refuted", None
    if not blind and found.lower + found.leading + found.uncertain < (1 - MOST) * found.whole:
        return "refuted", None
    if not blind and 2 * found.uncertain <= found.leading:
        return "confirmed", None
    if found.noise > found.uncertain / 2:
        return "inconclusive", "the solver's error is too large: give a smaller tolerance, or larger learning rates"
    excess = max(4 * found.uncertain / max(found.leading, found.uncertain), 1.2 * seen / detects if blind else 2)
    halved = largest / 2 ** ceil(log2(excess))
    return (
        "inconclusive",
        f"η is too large to tell the orders apart: give lrs that are halved from η = {halved:.2g}",
    )


@dataclass(frozen=True)
class _Run:
    """Iterates and flow at one learning rate.

    distance : array, shape (times, n) — θ_k − θ(ηk) at the times of the largest learning rate's steps
    error : float — the largest distance at any step
    solver_error, noise : float — of the flow; of the flow and the iterates together
    """

    solution: Solution
    distance: Array
    error: float
    solver_error: float
    noise: float


def _run(flow: Flow, theta0, lr: float, steps: int, every: int, iterates: Callable, solver: dict) -> _Run:
    flow = replace(flow, rule=_at_rate(flow.rule, lr, steps))
    solution = flow.solve(theta0, steps=steps, **solver)
    rule, state = flow.rule, flow.starting_state(theta0)
    if flow.order == "state":
        state = rule.start(state.theta)
    elif rule.has_schedule:
        rule = replace(rule, lr=lambda k: flow.rule.lr(k - LATE))
    theta = iterates(rule, state, flow.gradient, steps)
    with np.errstate(over="ignore", invalid="ignore"):
        apart = theta - solution.theta
        error = float(np.linalg.norm(apart, axis=1).max())
        round_off = EPS * np.sqrt(steps) * float(np.linalg.norm(theta, axis=1).max())
    return _Run(solution, apart[every::every], error, solution.solver_error, solution.solver_error + round_off)


def _at_rate(rule: UpdateRule, lr: float, steps: int) -> UpdateRule:
    """The rule at another learning rate; groups keep their shares, and a schedule keeps its course in time."""
    if not rule.has_schedule:
        each = lr * (np.asarray(rule.lr) / np.max(rule.lr)) if np.ndim(rule.lr) else lr
        return replace(rule, lr=each, decay=_in_proportion(rule.decay, lr / np.max(rule.lr)))
    check("the schedule's first learning rate", rule.lr_at(0), "(0, inf)")
    factor = lr / float(rule.lr_at(0))
    course = Clock(rule, ceil(steps * factor) + 1)
    decay = _in_proportion(rule.decay, factor)
    return replace(rule, lr=lambda k: factor * course.at(factor * k), decay=decay)


def _in_proportion(decay: Any, factor: Any) -> Any:
    """The decay at learning rates that are multiplied by a factor: η/η_max of corrected decay is kept."""
    return replace(decay, lr_max=factor * decay.lr_max) if isinstance(decay, Corrected) else decay


def _effect(flow: Flow, finest: _Run, lr: float, order: float, theta0, solver: dict) -> float:
    """How far F₁ as a whole moves the weights at the smallest η (at order 1: F₀); NaN if not at all, or not known."""
    theta, time = finest.solution.theta, finest.solution.time
    if order == 1:
        speed = np.gradient(theta, finest.solution.steps, axis=0)
        pace = np.gradient(time, finest.solution.steps)
        moved = time[:, None] * speed / np.where(pace > 0, pace, np.inf)[:, None]
    elif order == 2 and flow.order == 2:
        without = replace(flow, order=1, rule=_at_rate(flow.rule, lr, len(theta) - 1))
        moved = theta - without.solve(theta0, steps=len(theta) - 1, **solver).theta
    else:
        return float("nan")
    return float(np.linalg.norm(moved, axis=1).max()) or float("nan")
