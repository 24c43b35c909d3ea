"""An optimizer in continuous time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.checks import check, whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.flows.ode import Solution, integrate
from swd_dynamics.rules.update import State, UpdateRule
from swd_dynamics.symbolic import NumericEquation, numeric_equation

Array = NDArray[np.float64]
LATE = 10**7  # a step count at which every bias correction is 1 to the last bit, for β up to .99999
AFTER_SEEDING = 1e-9  # a rule may treat its very first step apart (torch seeds momentum); a flow has no first step


@dataclass(frozen=True)
class Flow:
    """The flow that models an optimizer's iterates, with t = ηk.

    ======= ==================================================== ============================================
    order   dθ/dt                                                valid for
    ======= ==================================================== ============================================
    1       F₀(θ, g)                                             β fixed, η → 0; error O(η)
    2       F₀ + η·F₁(θ, g, ġ), ġ = H·F₀                         β fixed, η → 0; error O(η²)
    "state" (rule(θ, m) − (θ, m))/η, the memory a part of it     1 − β = O(η); error O(η)
    ======= ==================================================== ============================================

    Parameters
    ----------
    rule : UpdateRule
        With numbers or arrays for hyperparameters; a schedule at orders 1 and "state".
    gradient : callable (θ) → g, arrays of shape (n,)
    hvp : callable (θ, vector) → H·vector, optional
        Hessian-vector product; order 2 needs it.
    order : 1, 2 or "state"
    equation : NumericEquation, optional
        What to integrate instead of the equation derived from the rule.

    Raises
    ------
    InputError
        If the order is none of the three, or order 2 lacks an ``hvp`` or has a schedule.

    Examples
    --------
    Gradient descent on f = ½θ² to first order is dθ/dt = −θ: after ten steps of .1, θ = e⁻¹.

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> solution = Flow(UpdateRule(0.1, SGD()), lambda theta: theta).solve([1.0], steps=10)
    >>> round(float(solution.theta[-1, 0]), 8) == round(float(np.exp(-1)), 8)
    True
    """

    rule: UpdateRule
    gradient: Callable[[Array], Array]
    hvp: Callable[[Array, Array], Array] | None = None
    order: Literal[1, 2, "state"] = 1
    equation: NumericEquation | None = None

    def __post_init__(self):
        if self.order not in (1, 2, "state"):
            raise InputError(f"order = {self.order!r} is not allowed: it must be 1, 2 or 'state'")
        if self.order == 2 and self.hvp is None:
            raise InputError(
                "order 2 needs hvp(theta, vector), the Hessian-vector product of the loss: give one, or take order 1"
            )
        if self.order == 1 and self.rule.has_schedule and np.ndim(self.rule.lr_at(0)) > 0:
            raise InputError(
                "order 1 follows a schedule of one learning rate, not of one for every weight: take 'state'"
            )
        if self.order == 2 and self.rule.has_schedule:
            raise InputError(
                "order 2 holds for a constant learning rate: give a number for lr, or take order 1 or 'state'"
            )

    def solve(
        self, theta0: ArrayLike, *, steps: int | None = None, t: float | None = None, method="LSODA", tolerance=1e-12
    ) -> Solution:
        """Follow the flow from θ₀ for a number of steps, or for a time.

        Parameters
        ----------
        theta0 : array, shape (n,)
        steps : int, optional
            Optimizer steps k to cover; the solution is given at every one.
        t : float, optional
            Time to cover instead, t = ηk (the nearest whole number of steps).
        method : str
            Of :func:`scipy.integrate.solve_ivp`.
        tolerance : float
            Relative tolerance; the solution is computed a second time at a hundred times this to know its error.

        Returns
        -------
        Solution

        Raises
        ------
        InputError
            If not exactly one of ``steps`` and ``t`` is given, θ₀ is no finite vector, or ``gradient`` or ``hvp`` does
            not answer at θ₀ with a finite vector of its shape.
        FlowDiverged
            If the solution runs away.
        """
        theta = self._checked(theta0)
        check("tolerance", tolerance, "(0, 1)")
        at = np.arange(self._count(steps, t) + 1, dtype=float)
        field, start = self._state_field(theta) if self.order == "state" else self._field(theta)
        fine, coarse = (integrate(field, start, at, method, tol) for tol in (tolerance, 100 * tolerance))
        n = len(theta)
        error = float(np.linalg.norm(fine[:, :n] - coarse[:, :n], axis=1).max())
        memory = tuple(fine[:, i : i + n] for i in range(n, fine.shape[1], n))
        lrs = [self._lr(k) for k in at[:-1]]
        return Solution(at, np.concatenate([[0.0], np.cumsum(lrs)]), fine[:, :n], memory, error)

    def starting_memory(self, theta0: ArrayLike):
        """The memory before a first step at θ₀ that puts a run on its slow manifold, as the direction's own tuple.

        Start a run there (and late, see :meth:`starting_state`) to see the flow without the memory's transient.
        """
        theta = self._checked(theta0)
        equation, lr = self._numeric(), self._lr(0)
        return equation.starting(theta, *self._rates(equation, theta, lr), lr)

    def starting_state(self, theta0: ArrayLike) -> State:
        """The rule's state at θ₀ with its memory on the slow manifold and its bias corrections gone."""
        return State(np.atleast_1d(np.asarray(theta0, dtype=float)), self.starting_memory(theta0), LATE)

    def _count(self, steps, t) -> int:
        if (steps is None) == (t is None):
            raise InputError("give either steps or t, not both and not neither")
        if t is not None:
            if self.rule.has_schedule:
                raise InputError("t = ηk needs one learning rate, and the rule has a schedule: give steps")
            check("t", t, "(0, inf)")
            steps = round(t / self._lr(0))
        return whole_number("steps", steps, least=1)

    def _checked(self, theta0) -> Array:
        """θ₀ as a vector, at which gradient and Hessian-vector product answer with vectors of its shape."""
        try:
            theta = np.atleast_1d(np.asarray(theta0, dtype=float))
        except (TypeError, ValueError):
            raise InputError(f"theta0 = {theta0!r} is not a vector of numbers") from None
        if theta.ndim != 1 or not np.isfinite(theta).all():
            raise InputError(f"theta0 must be one vector of finite numbers, not of shape {theta.shape} with {theta0!r}")
        _answers("gradient(theta)", self.gradient, theta)
        if self.hvp is not None:
            _answers("hvp(theta, vector)", self.hvp, theta, theta)
        return theta

    def _numeric(self) -> NumericEquation:
        return self.equation or numeric_equation(self.rule)

    def _rates(self, equation: NumericEquation, theta: Array, lr: float):
        """g, θ̇ = F₀ and ġ = H·θ̇ at θ; ġ is 0 where no ``hvp`` is known, which costs one order in η."""
        gradient = self.gradient(theta)
        none = np.zeros_like(theta)
        held = equation.held(theta, gradient, none, none, lr)
        theta_dot = equation.first(theta, gradient, held)
        return gradient, theta_dot, self.hvp(theta, theta_dot) if self.hvp else none

    def _field(self, theta0: Array):
        equation = self._numeric()
        held = equation.held(theta0, *self._rates(equation, theta0, self._lr(0)), self._lr(0))

        def field(step, theta):
            lr, gradient = self._lr(step), self.gradient(theta)
            first = equation.first(theta, gradient, held)
            if self.order == 1:
                return lr * first
            assert self.hvp is not None  # order 2 is refused without one
            return lr * (first + lr * equation.second(theta, gradient, first, self.hvp(theta, first), held))

        return field, theta0

    def _lr(self, step) -> float:
        """η of the time t = ηk: where weights differ in η, the largest."""
        return float(np.max(self.rule.lr_at(step)))

    def _state_field(self, theta0: Array):
        rest = self.rule.start(theta0).memory
        kind, n = type(rest), len(theta0)

        def field(step, z):
            entries = [z[i : i + n] for i in range(n, len(z), n)]
            memory = kind(*entries) if hasattr(rest, "_fields") else kind(entries)
            after = self.rule(State(z[:n], memory, step + AFTER_SEEDING), self.gradient(z[:n]))
            return np.concatenate([after.theta, *after.memory]) - z

        return field, np.concatenate([theta0, *rest])


def _answers(name: str, function, theta: Array, *more: Array) -> None:
    try:
        value = np.asarray(function(theta, *more), dtype=float)
    except TypeError as error:
        raise InputError(f"{name} cannot be called so: {error}") from None
    if value.shape != theta.shape or not np.isfinite(value).all():
        what = f"of shape {value.shape}" if value.shape != theta.shape else f"{value}, which is not finite"
        raise InputError(f"{name} gave an answer {what} at theta0; a finite vector of shape {theta.shape} is needed")
