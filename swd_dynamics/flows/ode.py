"""Solutions of a flow, with an estimate of the solver's error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from swd_dynamics.errors import InputError
from swd_dynamics.tables import listed

Array = NDArray[np.float64]
METHODS = ("automatic", "DOP853", "Radau", "LSODA", "RK45", "RK23", "BDF")
EXPLICIT = ("DOP853", "RK45", "RK23")  # they reject a trial step that is not finite, and try a shorter step
# The methods of "automatic" in the order in which they are tried, each with the evaluations of the field that it may
# use for each step of the optimizer. DOP853 is the most exact, and stable gradient descent needs 4 evaluations a step.
# LSODA suits moderately stiff flows, as those with momentum, and Radau those with kinks. With half as many evaluations
# flows change their method without need; with twice as many, stiff flows keep their user waiting.
PATIENCE, BESIDES = 5000, 10_000  # for each step, of any other method; and besides, of every method
AUTOMATIC = (("DOP853", 5), ("LSODA", 50), ("Radau", PATIENCE))
LARGE = (("DOP853", 50),)
# Numbers: an implicit method factorises a matrix with a row for each, some fifty times for every weight that passes its
# minimum. With 300 weights a flow of Adam takes half a minute, and with 1000 ten.
MOST_STIFF = 500
# Absolute size of a number that counts as infinite: its square, which v holds, is still finite.
INFINITE = 1e100
GREW = 1e3  # times the size at the start: where the solver gave up, a solution that grew less did not diverge


class FlowDiverged(InputError):
    """The solution grew without bound, or the solver gave up. The message and ``step`` say where.

    Attributes
    ----------
    step : float — the optimizer's step k up to which the flow could be followed

    Examples
    --------
    dθ/dt = θ³ from 1 has a pole at t = ½, step 5 of .1:

    >>> from swd_dynamics.flows import Flow
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> Flow(UpdateRule(0.1, SGD()), lambda theta: -(theta**3)).solve([1.0], steps=10)
    Traceback (most recent call last):
    swd_dynamics.flows.ode.FlowDiverged: the flow diverged at step 5 of 10: it had grown to ... times its start
    """

    def __init__(self, message: str, step: float):
        super().__init__(message)
        self.step = step


class _GaveUp(Exception):
    """The evaluations of the field are used up, at this step."""

    def __init__(self, step: float):
        super().__init__(step)
        self.step = step


@dataclass(frozen=True)
class Solution:
    """A flow at the steps of the optimizer it models.

    Attributes
    ----------
    steps : array, shape (m,) — step counts k
    time : array, shape (m,) — t = Σ η over the steps; ηk at a constant learning rate
    theta : array, shape (m, n)
    memory : tuple of array, shape (m, n) each — the entries of the memory, for order "state"; else empty
    solver_error : float — upper estimate: the largest ‖θ − θ̃‖, with θ̃ solved at a hundred times the tolerance

    Examples
    --------
    The flow of gradient descent on f = ½θ² is θ = e⁻ᵗ:

    >>> from swd_dynamics.flows import Flow
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> solution = Flow(UpdateRule(0.125, SGD()), lambda theta: theta).solve([1.0], steps=8)
    >>> solution
    Solution(8 steps to t = 1, 1 weight, solver error ...)
    >>> bool(np.allclose(solution.theta[:, 0], np.exp(-solution.time)))
    True
    """

    steps: Array
    time: Array
    theta: Array
    memory: tuple[Array, ...]
    solver_error: float

    def __repr__(self) -> str:
        steps, n = len(self.steps) - 1, self.theta.shape[1]
        of = f"{n} weight{'s' * (n != 1)}{' and their memory' if self.memory else ''}"
        ends = f"{steps} step{'s' * (steps != 1)} to t = {self.time[-1]:g}"
        return f"Solution({ends}, {of}, solver error {self.solver_error:.1g})"


@dataclass(frozen=True)
class Stretch:
    """A part of a flow on which the field is smooth in time: dz/ds = field(s, z).

    field : callable (s, array, shape (m,)) → array, shape (m,)
    at : array, shape (points,) — where the solution is wanted, increasing; the first and the last are the ends
    steps : array, shape (points,) — the optimizer's step counts there, for messages
    jacobian : callable (s, z) → array, shape (m, m), or None — ∂field/∂z, by finite differences if None
    """

    field: Callable[[float, Array], Array]
    at: Array
    steps: Array
    jacobian: Callable[[float, Array], Array] | None = None


def solve_twice(
    stretches: Sequence[Stretch], start: Array, sizes: Array, method: str, tolerance: float
) -> tuple[Array, Array]:
    """The solution at all points of the stretches, and again at a hundred times the tolerance.

    Parameters
    ----------
    stretches : sequence of Stretch
        Each begins where the previous stretch ends.
    start : array, shape (m,)
    sizes : array, shape (m,)
        The usual size of each entry, to which the absolute tolerance is relative.
    method : str
        A method of :func:`scipy.integrate.solve_ivp`, or ``"automatic"``: DOP853, and LSODA or Radau where a
        flow is stiff.
    tolerance : float

    Returns
    -------
    tuple of two arrays, shape (points, m)

    Raises
    ------
    FlowDiverged
        If the solution grows without bound, is not a number, or the solver gives up.
    """
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; known: {listed(str(method), METHODS)}")
    automatic = AUTOMATIC if len(start) <= MOST_STIFF else LARGE
    methods = automatic if method == "automatic" else ((method, PATIENCE),)
    solutions = []
    for tol in (100 * tolerance, tolerance):
        z, parts = start, []
        for stretch in stretches:
            part, methods = _first_that_can(methods, stretch, z, sizes, tol)
            parts.append(part[1:])
            z = part[-1]
        solutions.append(np.concatenate([start[None], *parts]))
    coarse, fine = solutions
    return fine, coarse


def _first_that_can(
    methods: tuple[tuple[str, int], ...], stretch: Stretch, start: Array, sizes: Array, tolerance: float
) -> tuple[Array, tuple[tuple[str, int], ...]]:
    """The solution by the first method that comes to the end, and that method with those after it."""
    (method, each), *others = methods
    try:
        return _solve(stretch, start, sizes, method, tolerance, BESIDES + each * len(stretch.at)), methods
    except _GaveUp as end:
        if not others:
            raise _too_stiff(method, len(start), end.step, stretch.steps[-1]) from None
    except FlowDiverged:
        if method != "LSODA" or not others:  # which can fail at a kink
            raise
    return _first_that_can(tuple(others), stretch, start, sizes, tolerance)


def _too_stiff(method: str, n: int, step: float, last: float) -> FlowDiverged:
    remedy = "take method='automatic' or 'Radau', or a larger tolerance"
    if n > MOST_STIFF:
        remedy = f"follow at most {MOST_STIFF} numbers, fewer steps, or a larger eps, or wait for method='Radau'"
    return FlowDiverged(
        f"{method} gave up at step {step:.4g} of {last:g}: a flow of {n} numbers is stiff there, as flows are where a"
        f" preconditioned gradient nears 0; {remedy}",
        step,
    )


def _solve(stretch: Stretch, start: Array, sizes: Array, method: str, tolerance: float, evaluations: int) -> Array:
    """The solution at the points of a stretch, shape (points, m), with at most so many evaluations of the field."""
    at, steps = stretch.at, stretch.steps
    explicit = method in EXPLICIT
    seen = {"evaluations": 0, "step": float(steps[0]), "size": 0.0}

    def bounded(s, z):
        seen["evaluations"] += 1
        seen["step"] = float(np.interp(s, at, steps))
        if seen["evaluations"] > evaluations:
            raise _GaveUp(seen["step"])
        size = float(np.abs(z).max(initial=0.0))
        if not explicit and not size <= INFINITE:
            raise _diverged(size, start, seen["step"], steps[-1])
        seen["size"] = size if np.isfinite(size) else seen["size"]
        return stretch.field(s, z)

    with np.errstate(all="ignore"):
        if not np.isfinite(stretch.field(at[0], start)).all():
            raise _diverged(np.nan, start, float(steps[0]), steps[-1])
    options: Any = {"jac": stretch.jacobian} if method in ("Radau", "BDF") else {}
    with np.errstate(all="ignore"):
        solved = solve_ivp(
            bounded, (at[0], at[-1]), start, method, at, rtol=tolerance, atol=tolerance * sizes / 100, **options
        )
    if not solved.success or solved.y.shape[1] < len(at) or not np.isfinite(solved.y).all():
        raise _diverged(seen["size"], start, seen["step"], steps[-1])
    return solved.y.T


def _diverged(size: float, start: Array, step: float, last: float) -> FlowDiverged:
    grew = size / max(float(np.abs(start).max(initial=0.0)), 1.0)
    where = f"step {step:.4g} of {last:g}"
    if np.isnan(size):
        return FlowDiverged(f"the flow is not a number (NaN) from {where} on: look at the gradient there", step)
    if grew > GREW:
        return FlowDiverged(f"the flow diverged at {where}: it had grown to {grew:.0e} times its start", step)
    return FlowDiverged(f"the flow could not be followed past {where}: look at the gradient there", step)
