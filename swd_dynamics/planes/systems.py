"""The fields that a phase plane can show, in any number of dimensions, each with its linearisation."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.errors import InputError
from swd_dynamics.flows.differences import differences
from swd_dynamics.flows.flow import LATE, Constants, Flow
from swd_dynamics.flows.functions import ArrayFunction
from swd_dynamics.flows.linearisation import Linearisation

Array = NDArray[np.float64]
# Errors of a Jacobian, relative to its largest entry. A part of an eigenvalue that is smaller counts as zero. If these
# were smaller than the true errors, a centre would be called a focus; if much larger, a slow focus a centre.
DERIVED = 1e-10
DIFFERENCES = 1e-7


class System(Protocol):
    """The contract of a field dz/dt that a phase plane can show. Any object with these eight members satisfies it.

    1. ``labels`` are the names of the two axes, where the plane is not a slice.
    2. ``alike`` says whether both axes measure the same quantity, and a figure gives them the same scale.
    3. ``what`` is the differential equation, or the kind of field, in words.
    4. ``notes`` are sentences about the field that a reader of the figure needs.
    5. ``accuracy`` is the relative error of ``tangent``: ``DERIVED`` or ``DIFFERENCES``.
    6. ``field(at)`` returns dz/dt at a point, an array of the shape of the point. Where the field is not defined, it
       returns NaN or raises ArithmeticError or ValueError.
    7. ``tangent(at, along)`` returns J·v, the derivative of the field along a vector; NaN at a kink.
    8. ``multipliers(at)`` returns the eigenvalues z of the optimizer's step, linearised at a point: one step multiplies
       a deviation by z. It returns None where the field has no optimizer, or z is not known.

    Examples
    --------
    A rotation, whose derivative is the same at every point:

    >>> rotation: System = PlainField(lambda x, y: (y, -x))
    >>> rotation.field(np.array([2.0, 1.0])).tolist()
    [1.0, -2.0]
    >>> rotation.tangent(np.zeros(2), np.array([1.0, 0.0])).round(8).tolist()
    [0.0, -1.0]
    """

    @property
    def labels(self) -> tuple[str, str]: ...

    @property
    def alike(self) -> bool: ...

    @property
    def what(self) -> str: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def accuracy(self) -> float: ...

    def field(self, at: Array) -> Array: ...

    def tangent(self, at: Array, along: Array) -> Array: ...

    def multipliers(self, at: Array) -> NDArray[np.complex128] | None: ...


@dataclass(frozen=True)
class PlainField:
    """Any field of two variables, a callable (x, y) → (dx/dt, dy/dt), that varies on the scale ``reach``."""

    function: Callable[[float, float], Any]
    reach: Any = None
    labels = ("x", "y")
    alike = False
    what = "The field"
    notes = ()
    accuracy = DIFFERENCES

    def field(self, at: Array) -> Array:
        value = ArrayFunction("the field's function (x, y) → (u, v)", self.function)(*map(float, at))
        if value.shape != (2,):
            raise InputError(f"the field answered with shape {value.shape}: it must give two numbers, (dx/dt, dy/dt)")
        return value

    def tangent(self, at: Array, along: Array) -> Array:
        return differences(self.field, at, along, self.reach)

    def multipliers(self, at: Array) -> None:
        return None


@dataclass(frozen=True)
class WeightsField:
    """A flow of order 1 or 2 on its weights. Maxima that the optimizer keeps have their value at ``start``."""

    flow: Flow
    start: Array
    reach: Any = None
    labels = ("θ₁", "θ₂")
    alike = True
    accuracy = DERIVED

    @property
    def what(self) -> str:
        return "dθ/dt = F₀" if self.flow.order == 1 else "dθ/dt = F₀ + ηF₁"

    @property
    def notes(self) -> tuple[str, ...]:
        kept = "a maximum that the optimizer keeps is constant, with its value at the first start"
        return (kept,) if self._constants else ()

    @cached_property
    def linear(self) -> Linearisation:
        return Linearisation(self.flow, self.reach)

    @cached_property
    def _constants(self) -> Constants:
        return self.flow.constants(self.start)

    def field(self, at: Array) -> Array:
        return self.flow.field(at, constants=self._constants)

    def tangent(self, at: Array, along: Array) -> Array:
        return self.linear.of_field(at, along, constants=self._constants)

    def multipliers(self, at: Array) -> NDArray[np.complex128] | None:
        return _multipliers(self.linear, at) if len(at) == 2 else None  # on a slice, H would cost n products a point


@dataclass(frozen=True)
class StateField:
    """The full-state flow of one weight and its one memory entry, with the bias corrections gone.

    Raises
    ------
    InputError
        If the flow has a schedule, or not exactly one memory entry.
    """

    flow: Flow
    reach: Any = None
    alike = False
    what = "The flow of a weight and its momentum"
    notes = ()
    accuracy = DERIVED

    def __post_init__(self):
        if self.flow.rule.has_schedule:
            raise InputError(
                "the field of a phase plane must be constant in time, but the full state's field is not constant under"
                " a schedule: give a number for lr"
            )
        if len(self._rest) != 1:
            raise InputError(
                f"{type(self.flow.rule.direction).__name__} remembers {len(self._rest)} numbers for each weight, and"
                " the plane of one weight has room for 1 (a momentum): take order 1 or 2, and two weights"
            )

    @cached_property
    def linear(self) -> Linearisation:
        return Linearisation(self.flow, self.reach)

    @property
    def _rest(self) -> Any:
        return self.flow.rule.direction.rest(np.zeros(1))

    @property
    def labels(self) -> tuple[str, str]:
        name = getattr(self._rest, "_fields", ("memory",))[0]
        return "θ", {"m": "m, momentum"}.get(name, name)

    def field(self, at: Array) -> Array:
        return self.flow.field(at, LATE)

    def tangent(self, at: Array, along: Array) -> Array:
        return self.linear.of_field(at, along, LATE)

    def multipliers(self, at: Array) -> NDArray[np.complex128] | None:
        return _multipliers(self.linear, at[:1])


def _multipliers(linear: Linearisation, theta: Array) -> NDArray[np.complex128] | None:
    step = linear.of_step(theta)
    if step is None or not np.isfinite(step).all():
        return None
    return np.linalg.eigvals(step).astype(complex)


def system(of, start: Array, reach: Any = None) -> System:
    """The field behind a flow or a callable (x, y) → (dx/dt, dy/dt).

    ``reach`` is the scale on which the field varies, one number or a number for each coordinate: derivatives by
    differences are taken over a small part of it.

    Raises
    ------
    InputError
        If it is neither, a gradient does not answer with a vector of its argument's shape, or a full-state flow has a
        schedule or not exactly one memory entry.
    """
    if isinstance(of, Flow):
        _check_gradient(of, start[:1] if of.order == "state" else start)
        return StateField(of, reach) if of.order == "state" else WeightsField(of, start, reach)
    if not callable(of):
        raise InputError(f"{of!r} is not a field: give a Flow, a rule with its gradient, or a function (x, y) → (u, v)")
    return PlainField(of, reach)


def _check_gradient(flow: Flow, at: Array) -> None:
    with np.errstate(all="ignore"):
        shape = np.shape(flow.gradient(at))
    if shape != at.shape:
        raise InputError(
            f"gradient(theta) answered {at.shape} weights with shape {shape}: a plane of more than two weights is a"
            " slice, so give origin and directions"
        )
