"""What a phase plane can be drawn of: a field in any number of dimensions, with its linearisation."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.errors import InputError
from swd_dynamics.flows.flow import LATE, Flow
from swd_dynamics.planes.fixed_points import differences
from swd_dynamics.rules.update import State, UpdateRule
from swd_dynamics.symbolic import NotDerivable, numeric_linear_map

Array = NDArray[np.float64]
AT_REST = (
    1e-6  # of what F₀ changes by over a unit: smaller, and the flow of order 2 is linearised as at its fixed point
)


@dataclass(frozen=True)
class PlainField:
    """Any field of two variables, a callable (x, y) → (dx/dt, dy/dt)."""

    function: Callable[[float, float], Any]
    labels = ("x", "y")
    alike = False
    accuracy = "differences"
    what = "The field"
    size = 2

    def field(self, at: Array) -> Array:
        value = np.array(self.function(*map(float, at)), dtype=float)
        if value.shape != (2,):
            raise InputError(f"the field answered with shape {value.shape}: it must give two numbers, (dx/dt, dy/dt)")
        return value

    def tangent(self, at: Array, along: Array) -> Array:
        return differences(self.field, at, along)

    def multipliers(self, at: Array) -> None:
        return None


@dataclass(frozen=True)
class WeightsField:
    """A flow of order 1 or 2 on its weights. What stands still in it (a maximum that holds) is taken at ``held_at``.

    J = ∂F₀/∂θ + ∂F₀/∂g·H is derived. A fixed point of F₀ is one of F₀ + ηF₁ too, because F₁ is linear in the rates
    θ̇ and ġ; there the Jacobian of F₁ along v is F₁ itself at the rates Jv and HJv.
    """

    flow: Flow
    held_at: Array
    labels = ("θ₁", "θ₂")
    alike = True
    accuracy = "derived"

    @property
    def size(self) -> int:
        return len(self.held_at)

    @property
    def what(self) -> str:
        return "dθ/dt = F₀" if self.flow.order == 1 else "dθ/dt = F₀ + ηF₁"

    @cached_property
    def lr(self) -> float:
        return self.flow._lr(0)

    @cached_property
    def _stepwise(self) -> Callable[[float, Array], Array]:
        return self.flow._field(self.held_at)[0]

    @cached_property
    def held(self) -> tuple:
        equation = self.flow._numeric()
        return equation.held(self.held_at, *self.flow._rates(equation, self.held_at, self.lr), self.lr)

    @cached_property
    def _equation(self):
        return self.flow._numeric()

    @cached_property
    def _map(self) -> Callable[[Array], Array] | None:
        return linear_map_or_none(self.flow.rule) if self.size == 2 else None

    def field(self, at: Array) -> Array:
        return self._stepwise(0, at) / self.lr

    def tangent(self, at: Array, along: Array) -> Array:
        gradient, turned = self.flow.gradient(at), self.hvp(at, along)
        first = self._equation.turn(at, gradient, along, turned, self.held)
        if self.flow.order == 1:
            return first
        if np.linalg.norm(self._equation.first(at, gradient, self.held)) > AT_REST * np.linalg.norm(first):
            return differences(self.field, at, along)
        return first + self.lr * self._equation.second(at, gradient, first, self.hvp(at, first), self.held)

    def hvp(self, at: Array, vector: Array) -> Array:
        """H·vector; where no ``hvp`` is given, by central differences of the gradient."""
        return self.flow.hvp(at, vector) if self.flow.hvp else differences(self.flow.gradient, at, vector)

    def multipliers(self, at: Array) -> NDArray[np.complex128] | None:
        if self._map is None:
            return None
        hessian = np.column_stack([self.hvp(at, unit) for unit in np.eye(2)])
        return np.linalg.eigvals(self._map(hessian)).astype(complex) if np.isfinite(hessian).all() else None

    def start(self, rule: UpdateRule, at: Array) -> State:
        return rule.start(at)

    def point(self, state: State) -> Array:
        return state.theta


@dataclass(frozen=True)
class StateField:
    """The full-state flow of one weight and its one memory entry: (rule(θ, m) − (θ, m))/η, bias corrections gone."""

    flow: Flow
    alike = False
    accuracy = "derived"
    size = 2
    what = "The flow of a weight and its momentum"

    @property
    def labels(self) -> tuple[str, str]:
        name = getattr(self._rest, "_fields", ("memory",))[0]
        return "θ", {"m": "m, momentum"}.get(name, name)

    @cached_property
    def _rest(self) -> Any:
        return self.flow.rule.direction.rest(np.zeros(1))

    @cached_property
    def _map(self) -> Callable[[Array], Array] | None:
        return linear_map_or_none(self.flow.rule)

    @cached_property
    def lr(self) -> float:
        return self.flow._lr(0)

    @cached_property
    def _stepwise(self) -> Callable[[float, Array], Array]:
        return self.flow._state_field(np.zeros(1))[0]

    def field(self, at: Array) -> Array:
        return self._stepwise(LATE, at) / self.lr

    def _step(self, at: Array) -> Array | None:
        """The step's derived linear map."""
        if self._map is None:
            return None
        hvp, one = self.flow.hvp, np.ones(1)
        return self._map((hvp(at[:1], one) if hvp else differences(self.flow.gradient, at[:1], one)).reshape(1, 1))

    def tangent(self, at: Array, along: Array) -> Array:
        step = self._step(at)
        return differences(self.field, at, along) if step is None else (step @ along - along) / self.lr

    def multipliers(self, at: Array) -> NDArray[np.complex128] | None:
        step = self._step(at)
        return None if step is None or not np.isfinite(step).all() else np.linalg.eigvals(step).astype(complex)

    def start(self, rule: UpdateRule, at: Array) -> State:
        kind, memory = type(self._rest), at[1:]
        return State(at[:1], kind(memory) if hasattr(self._rest, "_fields") else kind([memory]), LATE)

    def point(self, state: State) -> Array:
        return np.concatenate([state.theta, *state.memory])


def linear_map_or_none(rule: UpdateRule) -> Callable[[Array], Array] | None:
    """The linearised step as a function of the Hessian; None if it is not derivable for the rule."""
    if rule.has_schedule:
        return None
    try:
        return numeric_linear_map(rule)
    except NotDerivable:
        return None


def system(of, held_at: Array) -> PlainField | WeightsField | StateField:
    """The field behind a flow or a callable (x, y) → (dx/dt, dy/dt).

    Raises
    ------
    InputError
        If it is neither, a gradient does not answer with a vector of its argument's shape, or a full-state flow has a
        schedule or is not of one memory entry.
    """
    if isinstance(of, Flow):
        _check_gradient(of, held_at[:1] if of.order == "state" else held_at)
        if of.order != "state":
            return WeightsField(of, held_at)
        return _checked(StateField(of))
    if not callable(of):
        raise InputError(f"{of!r} is no field: give a Flow, a rule with its gradient, or a function (x, y) → (u, v)")
    return PlainField(of)


def _checked(state: StateField) -> StateField:
    if state.flow.rule.has_schedule:
        raise InputError("a phase plane stands still, and under a schedule the state's does not: give a number for lr")
    if len(state._rest) != 1:
        raise InputError(
            f"{type(state.flow.rule.direction).__name__} remembers {len(state._rest)} numbers for each weight, and the"
            " plane of one weight has room for 1 (a momentum): take order 1 or 2, and two weights"
        )
    return state


def _check_gradient(flow: Flow, at: Array) -> None:
    if not callable(flow.gradient):
        raise InputError(f"gradient = {flow.gradient!r} is not a function: give gradient(theta), an array like theta")
    try:
        with np.errstate(all="ignore"):
            shape = np.shape(flow.gradient(at))
    except TypeError as error:
        raise InputError(f"gradient(theta) cannot be called so: {error}") from None
    if shape != at.shape:
        raise InputError(
            f"gradient(theta) answered {at.shape} weights with shape {shape}: of more than two weights a plane is a"
            " slice, give origin and directions"
        )
