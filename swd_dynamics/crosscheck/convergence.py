"""Does a flow follow the iterates to the order it claims? The slope of their distance as η is halved."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from swd_dynamics.errors import InputError
from swd_dynamics.flows.flow import Flow
from swd_dynamics.rules.update import State, UpdateRule
from swd_dynamics.verdict import Verdict, judge

# The largest error of the solver, as a fraction of the distance that is measured. It moves a slope by less than .01;
# twice as much would move it by .02 of the .05 that are allowed, half as much would ask more of the solver.
NEGLIGIBLE = 0.01


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
    expected: float | None = None,
    iterates: Callable[[UpdateRule, State, Callable, int], np.ndarray] = rule_iterates,
    name: str = "order",
    **solver,
) -> Verdict:
    """The order at which a flow follows the iterates it models.

    Parameters
    ----------
    flow : Flow
        Its rule's learning rate is replaced by each of ``lrs`` in turn.
    theta0 : array, shape (n,)
    t : float
        Time covered, t = ηk. The memory starts on its slow manifold and the step count is large, so that there is no
        transient.
    lrs : sequence of float
        At least five learning rates, each half the previous learning rate.
    allowed : float
        How far the slope may lie from the expected order.
    expected : float, optional
        The flow's own order if not given (1 for "state").
    iterates : callable (rule, state, gradient, steps) → array, shape (steps + 1, n)
        By default the iterates of the rule itself; a study gives those of a real optimizer.
    **solver
        ``method`` and ``tolerance`` of :meth:`Flow.solve`.

    Returns
    -------
    Verdict
        ``measured`` is the least-squares slope of log max_k‖θ_k − θ(ηk)‖ over log η. Inconclusive where the solver's
        own error is not below a hundredth of the smallest distance. Evidence: ``lr``, ``error``, ``solver_error``.

    Raises
    ------
    InputError
        If ``lrs`` are fewer than five or not halvings.

    Notes
    -----
    Source: backward error analysis, Hairer, Lubich & Wanner 2006, ch. IX.

    Examples
    --------
    On f = ½θ² gradient descent is at (1−η)ᵏ and its flow of order 1 at e⁻ᵗ, t = ηk: their distance is of order η¹.

    >>> from swd_dynamics.rules import SGD
    >>> flow = Flow(UpdateRule(0.1, SGD()), lambda theta: theta)
    >>> verdict = convergence_order(flow, [1.0], t=1.0, lrs=[2.0**-k for k in range(4, 9)])
    >>> verdict.status, round(verdict.measured, 1)
    ('confirmed', 1.0)
    """
    lr = np.asarray(lrs, dtype=float)
    if len(lr) < 5 or not np.allclose(lr[:-1] / lr[1:], 2):
        raise InputError(f"lrs = {lr.tolist()} is not allowed: give at least five, each half the one before")
    order = expected if expected is not None else (1 if flow.order == "state" else flow.order)
    pairs = [_distance(replace(flow, rule=replace(flow.rule, lr=each)), theta0, t, iterates, solver) for each in lr]
    error, solver_error = map(np.array, zip(*pairs, strict=True))
    known = bool((solver_error <= NEGLIGIBLE * error).all() and error.min() > 0)
    slope = float(np.polyfit(np.log(lr), np.log(error), 1)[0]) if known else float("nan")
    verdict = judge(
        name,
        f"The order-{flow.order} flow is followed with an error of order {'η' if order == 1 else f'η^{order:g}'}",
        predicted=order,
        measured=slope,
        allowed=allowed,
        why=f"slope over {len(lr) - 1} halvings from η = {lr[0]:g}: what is left of the next order",
        evidence={"lr": lr, "error": error, "solver_error": solver_error},
    )
    return verdict if known else replace(verdict, cause=_unknown_because(lr, error))


def _unknown_because(lr: np.ndarray, error: np.ndarray) -> str:
    if not np.isfinite(error).all():
        return f"the steps diverged at η = {lr[~np.isfinite(error)][0]:g}: take smaller ones"
    return "the solver's own error is not negligible: lower its tolerance" if error.min() > 0 else "the two coincide"


def _distance(flow: Flow, theta0, t: float, iterates, solver) -> tuple[float, float]:
    """Largest distance between iterates and flow, and the solver's own error."""
    solution = flow.solve(theta0, t=t, **solver)
    state = flow.starting_state(theta0)
    if flow.order == "state":
        state = flow.rule.start(state.theta)
    steps = len(solution.steps) - 1
    theta = iterates(flow.rule, state, flow.gradient, steps)
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.linalg.norm(theta - solution.theta, axis=1).max()), solution.solver_error
