"""The flow of an optimizer in continuous time: its field at a point, and its solutions."""

from __future__ import annotations  # signatures in help() then say ArrayLike and not all that it stands for

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.checks import check, whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.flows.assumptions import check_clips, check_maxima
from swd_dynamics.flows.clock import Clock
from swd_dynamics.flows.functions import array_function, as_array
from swd_dynamics.flows.ode import Solution, Stretch, solve_twice
from swd_dynamics.rules.decay import Corrected
from swd_dynamics.rules.gate import as_rule
from swd_dynamics.rules.update import State, UpdateRule
from swd_dynamics.symbolic import NumericEquation, numeric_equation

Array = NDArray[np.float64]
Constants = tuple[Array, ...]
# Steps after which every bias correction 1 − βᵏ is 1 to the last bit, for β ≤ .99999. With a third of them it is not.
LATE = 10**7
# Steps, added to k: a flow has no first step, but a rule may treat its first step in another way (torch seeds the
# momentum there). Any small number serves; with 0 a flow would begin with the special step.
AFTER_SEEDING = 1e-9
FORGOTTEN: Any = None  # in the place of the gradient: a Flow then says what it needs, and not a TypeError


@dataclass(frozen=True)
class Flow:
    """The differential equation that models an optimizer's iterates, with t = ηk.

    ======= ==================================================== ============================================
    order   dθ/dt                                                valid for
    ======= ==================================================== ============================================
    1       F₀(θ, g)                                             β fixed, η → 0; error O(η)
    2       F₀ + η·F₁(θ, g, ġ), ġ = H·F₀                         β fixed, η → 0; error O(η²)
    "state" (rule(θ, m) − (θ, m))/η, for weights and memory      1 − β = O(η); error O(η)
    ======= ==================================================== ============================================

    Parameters
    ----------
    rule : UpdateRule
        With numbers or arrays for hyperparameters; a schedule at orders 1 and "state".
    gradient : callable (θ) → g, shape (n,)
        The gradient of the loss. It is called with a numpy array, and may return a torch tensor.
    hvp : callable (θ, vector) → H·vector, optional
        Hessian-vector product, called in the same way; order 2 needs it.
    order : 1, 2 or "state"
    equation : NumericEquation, optional
        The equation to integrate. By default it is derived from the rule.

    Raises
    ------
    InputError
        If there is no rule or no gradient, the order is none of the three, or order 2 lacks an ``hvp`` or has a
        schedule.

    Examples
    --------
    Gradient descent on f = ½θ² to first order is dθ/dt = −θ: after ten steps of .1, θ = e⁻¹.

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> solution = Flow(UpdateRule(0.1, SGD()), lambda theta: theta).solve([1.0], steps=10)
    >>> round(float(solution.theta[-1, 0]), 8) == round(float(np.exp(-1)), 8)
    True
    """

    rule: UpdateRule
    gradient: Callable[[Array], Any] = FORGOTTEN
    hvp: Callable[[Array, Array], Any] | None = None
    order: Literal[1, 2, "state"] = 1
    equation: NumericEquation | None = None

    def __post_init__(self):
        as_rule(self.rule)
        if self.gradient is None:
            raise InputError(
                "a flow needs the gradient of a loss besides the rule: Flow(rule, gradient), for example"
                " Flow(rule, lambda theta: theta) for the loss ½θ²"
            )
        object.__setattr__(self, "gradient", array_function("gradient(theta)", self.gradient))
        if self.hvp is not None:
            object.__setattr__(self, "hvp", array_function("hvp(theta, vector)", self.hvp))
        if self.order not in (1, 2, "state"):
            raise InputError(f"order = {self.order!r} is not allowed: it must be 1, 2 or 'state'")
        if self.order == 2 and self.hvp is None:
            raise InputError(
                "order 2 needs hvp(theta, vector), the Hessian-vector product of the loss: give hvp, or take order 1"
            )
        if self.order == 1 and self.rule.has_schedule and np.ndim(self.rule.lr_at(0)) > 0:
            raise InputError(
                "order 1 follows a schedule of one learning rate, but this schedule has one for every weight: take"
                " order 'state'"
            )
        if self.order == 1 and self.rule.has_schedule and isinstance(self.rule.decay, Corrected):
            raise InputError(
                "order 1 follows a schedule as a stretch of time, but R/η of corrected decay changes with η too: take"
                " order 'state'"
            )
        if self.order == 2 and self.rule.has_schedule:
            raise InputError(
                "order 2 holds for a constant learning rate: give a number for lr, or take order 1 or 'state'"
            )

    @cached_property
    def modified_equation(self) -> NumericEquation:
        """F₀, F₁ and the slow manifold as functions: the ``equation`` given, or the equation derived from the rule.

        Examples
        --------
        Gradient descent at η = ¼ on f = ½θ²: F₀ = −g and F₁ = ½ġ, with ġ = H·F₀ = −θ. At θ = 2, F₁ = −1.

        >>> from swd_dynamics.rules import SGD, UpdateRule
        >>> equation = Flow(UpdateRule(0.25, SGD()), lambda theta: theta).modified_equation
        >>> theta = np.array([2.0])
        >>> first = equation.first(theta, theta, ())
        >>> first.tolist(), equation.second(theta, theta, first, first, ()).tolist()
        ([-2.0], [-1.0])
        """
        return self.equation or numeric_equation(self.rule)

    def solve(
        self,
        theta0: ArrayLike,
        steps: int | None = None,
        *,
        t: float | None = None,
        method: str = "automatic",
        tolerance: float = 1e-12,
    ) -> Solution:
        """Follow the flow from θ₀ for a number of steps, or for a time.

        Parameters
        ----------
        theta0 : array, shape (n,)
        steps : int, optional
            Optimizer steps k to cover; the solution is given at each of them.
        t : float, optional
            Time to cover, t = ηk, in place of ``steps`` (the nearest whole number of steps).
        method : str
            A method of :func:`scipy.integrate.solve_ivp`, or ``"automatic"``: DOP853, and LSODA or Radau where the
            flow is stiff, as that of Adam is near a minimum.
        tolerance : float
            Relative tolerance. The solution is computed a second time at a hundred times the tolerance, and the
            difference of the two is the solver's error.

        Returns
        -------
        Solution

        Raises
        ------
        InputError
            If not exactly one of ``steps`` and ``t`` is given, θ₀ is not a finite vector, or ``gradient`` or ``hvp``
            does not return a finite vector of the shape of θ₀.
        FlowDiverged
            If the solution grows without bound, or the solver gives up.
        AssumptionFailed
            If a maximum that the flow holds constant rises (orders 1 and 2), or a clip is active (order 2).
        """
        theta = self._checked(theta0)
        check("tolerance", tolerance, "(0, 1)")
        clock = Clock(self.rule, self.count_steps(steps=steps, t=t))
        at = np.arange(clock.steps + 1, dtype=float)
        if self.order == "state":
            start = np.concatenate([theta, *self.rule.start(theta).memory])
            stretches = [self._state_stretch(clock, *ends) for ends in pairwise(clock.breaks)]
            sizes = self._sizes(start, len(theta), clock)
            fine, coarse = solve_twice(stretches, start, sizes, method, tolerance)
        else:
            times, first, index = np.unique(clock.times, return_index=True, return_inverse=True)
            stretch = self._weights_stretch(times, at[first], self.constants(theta))
            sizes = self._sizes(theta, len(theta), clock)
            fine, coarse = (part[index] for part in solve_twice([stretch], theta, sizes, method, tolerance))
            check_maxima(self.constants, at, fine)
            if self.order == 2:
                check_clips(self.rule, self.gradient, at, fine)
        n = len(theta)
        error = float(np.linalg.norm(fine[:, :n] - coarse[:, :n], axis=1).max())
        memory = tuple(fine[:, i : i + n] for i in range(n, fine.shape[1], n))
        return Solution(at, np.concatenate([[0.0], np.cumsum(clock.lrs)]), fine[:, :n], memory, error)

    def field(self, at: ArrayLike, k: float = 0, constants: Constants | None = None) -> Array:
        """The right-hand side of the differential equation at a point: dθ/dt, or for order "state" d(θ, m)/dt.

        Parameters
        ----------
        at : array, shape (n,)
            The weights; for order ``"state"`` the weights, followed by the entries of the memory.
        k : float
            Steps taken so far. They decide the learning rate of a schedule and, at order "state", the bias corrections.
        constants : tuple of array, optional
            What :meth:`constants` returned at the start of a run; by default its value at this point. Order "state"
            does not need them.

        Returns
        -------
        array, of the shape of ``at``

        Examples
        --------
        Heavy ball at η = ¼, β = ½ on f = ½θ², at θ = 3. To first order dθ/dt = −θ/(1 − β). With m = 1 in the state,
        m′ = ½m + θ = 3.5, so that dθ/dt = −m′ and dm/dt = (m′ − m)/η.

        >>> from swd_dynamics.rules import HeavyBall, UpdateRule
        >>> rule = UpdateRule(0.25, HeavyBall(0.5))
        >>> Flow(rule, lambda theta: theta).field([3.0]).tolist()
        [-6.0]
        >>> Flow(rule, lambda theta: theta, order="state").field([3.0, 1.0]).tolist()
        [-3.5, 10.0]
        """
        at = as_array(at)
        if self.order == "state":
            return self._change(at, k, self.rule) / self.lr_at(k)
        return self._velocity(at, self.constants(at) if constants is None else constants)

    def constants(self, theta: ArrayLike) -> Constants:
        """The entries of the memory that are constant along the flow (maxima), for a run that starts at θ.

        Examples
        --------
        AMSGrad keeps the largest v. On the slow manifold v = g², which is 9 here. Adam keeps no maximum.

        >>> from swd_dynamics.rules import Adam, AMSGrad, UpdateRule
        >>> [Flow(UpdateRule(0.1, d), lambda theta: 3 * theta).constants([1.0]) for d in (AMSGrad(), Adam())]
        [(array([9.]),), ()]
        """
        theta = as_array(theta)
        return self.modified_equation.held(theta, *self._rates(theta), self.lr_at(0))

    def lr_at(self, k: float) -> float:
        """The η that defines time, t = ηk, after k steps; the largest η if the weights have different learning rates.

        Examples
        --------
        >>> from swd_dynamics.rules import SGD, UpdateRule
        >>> Flow(UpdateRule(np.array([0.25, 0.5]), SGD()), lambda theta: theta).lr_at(0)
        0.5
        """
        return float(np.max(self.rule.lr_at(k)))

    def count_steps(self, *, steps: int | None = None, t: float | None = None) -> int:
        """How many optimizer steps are covered: the number given, or the nearest whole number to t/η.

        Raises
        ------
        InputError
            If not exactly one of ``steps`` and ``t`` is given, ``steps`` is not a whole number from 1 on, ``t`` is
            not positive, or ``t`` is given and the rule has a schedule.

        Examples
        --------
        >>> from swd_dynamics.rules import SGD, UpdateRule
        >>> Flow(UpdateRule(0.125, SGD()), lambda theta: theta).count_steps(t=1.0)
        8
        """
        if steps is not None and t is None:
            count = steps
        elif t is not None and steps is None:
            if self.rule.has_schedule:
                raise InputError("t = ηk needs one learning rate, but the rule has a schedule: give steps")
            check("t", t, "(0, inf)")
            count = round(t / self.lr_at(0))
        else:
            seen = "both steps and t are given" if t is not None else "neither steps nor t is given"
            raise InputError(f"{seen}: say how long to follow the flow with one of them, as steps=100 or t=1.0")
        return whole_number("steps", count, least=1)

    def starting_memory(self, theta0: ArrayLike):
        """The memory with which a run at θ₀ starts on its slow manifold, as the direction's own tuple.

        On the slow manifold the memory is the one that the weights and gradients imply once its transient has faded.

        A run that starts with this memory (and late, see :meth:`starting_state`) shows the flow without the transient
        in which the memory fills.

        Examples
        --------
        Heavy ball at β = ½ and g = 3: m rests at g/(1 − β).

        >>> from swd_dynamics.rules import HeavyBall, UpdateRule
        >>> Flow(UpdateRule(0.25, HeavyBall(0.5)), lambda theta: 3 + 0 * theta).starting_memory([0.0])
        Momentum(m=array([6.]))
        """
        theta = self._checked(theta0)
        return self.modified_equation.starting(theta, *self._rates(theta), self.lr_at(0))

    def starting_state(self, theta0: ArrayLike) -> State:
        """The rule's state at θ₀ with its memory on the slow manifold and its bias corrections gone.

        Examples
        --------
        >>> from swd_dynamics.rules import HeavyBall, UpdateRule
        >>> Flow(UpdateRule(0.25, HeavyBall(0.5)), lambda theta: 3 + 0 * theta).starting_state([0.0])
        State(theta=array([0.]), memory=Momentum(m=array([6.])), step=10000000)
        """
        return State(np.atleast_1d(as_array(theta0)), self.starting_memory(theta0), LATE)

    def state_at(self, at: ArrayLike, k: float = 0) -> State:
        """The rule's state at a point of the flow of order "state": weights and memory apart, after k steps.

        Examples
        --------
        >>> from swd_dynamics.rules import HeavyBall, UpdateRule
        >>> Flow(UpdateRule(0.25, HeavyBall(0.5)), lambda theta: theta, order="state").state_at([3.0, 1.0])
        State(theta=array([3.]), memory=Momentum(m=array([1.])), step=0)
        """
        rest = self.rule.direction.rest(0.0)
        theta, *memory = np.split(np.asarray(at, dtype=float), 1 + len(rest))
        kind = type(rest)
        return State(theta, kind(*memory) if hasattr(rest, "_fields") else kind(memory), k)

    def _checked(self, theta0) -> Array:
        """θ₀ as a vector, at which gradient and Hessian-vector product answer with vectors of its shape."""
        try:
            theta = np.atleast_1d(as_array(theta0))
        except (TypeError, ValueError):
            raise InputError(f"theta0 = {theta0!r} is not a vector of numbers") from None
        if theta.ndim != 1 or not np.isfinite(theta).all():
            raise InputError(f"theta0 must be one vector of finite numbers, not of shape {theta.shape} with {theta0!r}")
        _check_answer("gradient(theta)", self.gradient, theta)
        if self.hvp is not None:
            _check_answer("hvp(theta, vector)", self.hvp, theta, theta)
        return theta

    def _rates(self, theta: Array) -> tuple[Array, Array, Array]:
        """g, θ̇ = F₀ and ġ = H·θ̇ at θ. Without an ``hvp`` ġ is set to 0, which costs one order in η."""
        gradient = self.gradient(theta)
        zero = np.zeros_like(theta)
        held = self.modified_equation.held(theta, gradient, zero, zero, self.lr_at(0))
        theta_dot = self.modified_equation.first(theta, gradient, held)
        return gradient, theta_dot, self.hvp(theta, theta_dot) if self.hvp else zero

    def _weights_stretch(self, times: Array, steps: Array, constants: Constants) -> Stretch:
        """dθ/dt over the whole time: F₀ and F₁ do not depend on η, so that a schedule only stretches the time."""

        def jacobian(_, theta):
            gradient, product = self.gradient(theta), self._needed_hvp
            units = np.eye(len(theta))
            turn = self.modified_equation.turn
            return np.column_stack([turn(theta, gradient, unit, product(theta, unit), constants) for unit in units])

        derived = self.order == 1 and self.hvp is not None
        return Stretch(lambda _, theta: self._velocity(theta, constants), times, steps, jacobian if derived else None)

    def _state_stretch(self, clock: Clock, first: int, last: int) -> Stretch:
        """d(θ, m)/dk between two steps between which the learning rate is smooth."""
        rule, at = clock.between(first, last), np.arange(first, last + 1, dtype=float)
        return Stretch(lambda k, z: self._change(z, k, rule), at, at)

    def _sizes(self, start: Array, n: int, clock: Clock) -> Array:
        """The usual size of each number: the largest of θ, or of its memory entry, at the start and after a step."""
        moved = start + (self._change(start, 0.0, clock.between(0, 1)) if self.order == "state" else 0)
        largest = np.maximum(np.abs(start), np.abs(moved)).reshape(-1, n).max(axis=1, initial=0.0)
        return np.repeat(np.where(largest > 0, largest, 1.0), n)

    def _velocity(self, theta: Array, constants: Constants) -> Array:
        """F₀, or F₀ + ηF₁ with the learning rate that order 2 needs to be constant."""
        gradient = self.gradient(theta)
        first = self.modified_equation.first(theta, gradient, constants)
        if self.order == 1:
            return first
        rates = first, self._needed_hvp(theta, first)
        return first + self.lr_at(0) * self.modified_equation.second(theta, gradient, *rates, constants)

    @property
    def _needed_hvp(self) -> Callable[[Array, Array], Array]:
        assert self.hvp is not None  # __post_init__ refuses order 2 without an hvp
        return self.hvp

    def _change(self, at: Array, k: float, rule: UpdateRule) -> Array:
        """The change of weights and memory in one step."""
        state = self.state_at(at, k + AFTER_SEEDING)
        after = rule(state, self.gradient(state.theta))
        return np.concatenate([after.theta, *after.memory]) - at


def _check_answer(name: str, function, theta: Array, *more: Array) -> None:
    value = function(theta, *more)
    if value.shape != theta.shape or not np.isfinite(value).all():
        what = f"of shape {value.shape}" if value.shape != theta.shape else f"{value}, which is not finite"
        raise InputError(f"{name} gave an answer {what} at theta0; a finite vector of shape {theta.shape} is needed")
