"""Solutions of a flow, with an estimate of the solver's error."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from swd_dynamics.errors import InputError
from swd_dynamics.tables import nearest

Array = NDArray[np.float64]
METHODS = ("LSODA", "DOP853", "RK45", "RK23", "Radau", "BDF")
# Times the largest |z| at the start, or 1 if that is larger: a flow that grows so far diverges. Without a bound, a
# solver would take ever smaller steps towards the pole; a thousandth of it would refuse flows that return.
RUNAWAY = 1e6


class FlowDiverged(InputError):
    """The solution left every bound, or the solver gave up; the message says where.

    Examples
    --------
    dθ/dt = θ³ from 1 has a pole at t = ½, step 5 of .1:

    >>> from swd_dynamics.flows import Flow
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> Flow(UpdateRule(0.1, SGD()), lambda theta: -(theta**3)).solve([1.0], steps=10)
    Traceback (most recent call last):
    swd_dynamics.flows.ode.FlowDiverged: the flow diverged: past 1e+06 times its start at step 5 of 10
    """


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


def integrate(field: Callable, start: Array, at: Array, method: str, tolerance: float) -> Array:
    """The solution of dz/dκ = field(κ, z) from ``start`` at the points ``at``, shape (len(at), len(start)).

    Raises
    ------
    FlowDiverged
        If the solution leaves every bound, is not a number, or the solver gives up.
    """
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; known: {', '.join(nearest(str(method), METHODS))}")
    scale = max(float(np.abs(start).max(initial=0.0)), 1.0)

    def bounded(step, z):
        if np.isnan(z).any():
            raise FlowDiverged(
                f"the flow is not a number from step {step:g} of {at[-1]:g} on: look at the gradient there"
            )
        if np.abs(z).max(initial=0.0) > RUNAWAY * scale:
            raise FlowDiverged(f"the flow diverged: past {RUNAWAY:g} times its start at step {step:g} of {at[-1]:g}")
        return field(step, z)

    with np.errstate(over="ignore", invalid="ignore"):
        solved = solve_ivp(
            bounded, (at[0], at[-1]), start, method=method, t_eval=at, rtol=tolerance, atol=tolerance * scale / 100
        )
    if not solved.success or solved.y.shape[1] < len(at) or not np.isfinite(solved.y).all():
        reached = float(solved.t[-1]) if len(solved.t) else float(at[0])
        raise FlowDiverged(f"the flow could not be followed past step {reached:g} of {at[-1]:g}: {solved.message}")
    return solved.y.T
