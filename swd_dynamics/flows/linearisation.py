"""The linearisation of a flow, and of the optimizer's step that the flow models."""

from __future__ import annotations  # signatures in help() then say ArrayLike and not all that it stands for

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.flows.differences import differences
from swd_dynamics.flows.flow import Constants, Flow
from swd_dynamics.symbolic import NotDerivable, numeric_linear_map

Array = NDArray[np.float64]
# Where ‖F₀‖ is less than this times the change of F₀ along the vector, a point counts as a fixed point, and order 2 is
# linearised by a formula that is exact only there. The formula's relative error is of this size.
AT_REST = 1e-6


@dataclass(frozen=True)
class Linearisation:
    """How a small deviation from a point grows, by the flow and by the optimizer's step.

    Where the flow has no ``hvp``, Hessian-vector products are computed by central differences of the gradient, right to
    about 1e-10. At a kink, derivatives by differences are NaN.

    Parameters
    ----------
    flow : Flow
    reach : number or array, optional
        How far the arguments of the flow's field can change before the field ceases to be nearly linear; for
        differences, see :func:`~swd_dynamics.flows.differences.differences`.

    Examples
    --------
    Heavy ball on f = ½·3θ² at η = ½, β = ¼: to first order dθ/dt = −3θ/(1 − β). By a step m′ = βm + 3θ, θ′ = θ − ηm′.

    >>> from swd_dynamics.rules import HeavyBall, UpdateRule
    >>> flow = Flow(UpdateRule(0.5, HeavyBall(0.25)), lambda theta: 3 * theta, lambda theta, vector: 3 * vector)
    >>> linear = Linearisation(flow)
    >>> linear.of_field([0.0], [1.0]).tolist(), linear.of_step([0.0]).tolist()
    ([-4.0], [[-0.5, -0.125], [3.0, 0.25]])
    """

    flow: Flow
    reach: Any = None

    def of_field(self, at: ArrayLike, along: ArrayLike, k: float = 0, constants: Constants | None = None) -> Array:
        """J·v, the derivative of :meth:`Flow.field` at a point along a vector v.

        Order 1: J = ∂F₀/∂θ + ∂F₀/∂g·H is derived. Order 2: F₁ is linear in the rates θ̇ and ġ, so that a fixed point
        of F₀ is a fixed point of F₀ + ηF₁ too. There the derivative of F₁ along v is F₁ at the rates Jv and HJv.
        Order "state": J = (A − 1)/η with the matrix A of :meth:`of_step`. In the other cases, J·v is computed by
        central differences.

        Parameters
        ----------
        at, along : array, of the shape that :meth:`Flow.field` takes
        k, constants
            As for :meth:`Flow.field`.

        Examples
        --------
        Gradient descent at η = ½ on f = ½·3θ²: F₀ = −3θ has the slope −3, and F₀ + ηF₁ the slope −(3 + η·3²/2).

        >>> from swd_dynamics.rules import SGD, UpdateRule
        >>> parts = UpdateRule(0.5, SGD()), lambda theta: 3 * theta, lambda theta, vector: 3 * vector
        >>> [Linearisation(Flow(*parts, order)).of_field([0.0], [1.0]).tolist() for order in (1, 2, "state")]
        [[-3.0], [-5.25], [-3.0]]
        """
        flow, at, along = self.flow, np.asarray(at, dtype=float), np.asarray(along, dtype=float)
        if flow.order == "state":
            step = self.of_step(flow.state_at(at).theta)
            if step is not None:
                return (step @ along - along) / flow.lr_at(k)
            return differences(lambda z: flow.field(z, k), at, along, self.reach)
        kept = flow.constants(at) if constants is None else constants
        equation, gradient = flow.modified_equation, flow.gradient(at)
        first = equation.turn(at, gradient, along, self.hessian_times(at, along), kept)
        if flow.order == 1:
            return first
        if np.linalg.norm(equation.first(at, gradient, kept)) > AT_REST * np.linalg.norm(first):
            return differences(lambda theta: flow.field(theta, k, kept), at, along, self.reach)
        second = equation.second(at, gradient, first, self.hessian_times(at, first), kept)
        return first + flow.lr_at(k) * second

    def of_step(self, theta: ArrayLike) -> Array | None:
        """The matrix A by which a step of the optimizer multiplies a small deviation of the weights and the memory.

        Assumes that the bias corrections are gone.

        Parameters
        ----------
        theta : array, shape (n,)

        Returns
        -------
        array, shape (s·n, s·n), for θ and s − 1 memory entries
            None if the rule has a schedule, or its linear map is not derivable.

        Examples
        --------
        Gradient descent on f = ½(θ₁² + 3θ₂²), η = ½:

        >>> from swd_dynamics.rules import SGD, UpdateRule
        >>> flow = Flow(UpdateRule(0.5, SGD()), lambda theta: np.array([1.0, 3.0]) * theta)
        >>> Linearisation(flow).of_step([0.0, 0.0]).round(8).tolist()
        [[0.5, 0.0], [0.0, -0.5]]
        """
        if self._linear_map is None:
            return None
        theta = np.asarray(theta, dtype=float)
        columns = [self.hessian_times(theta, unit) for unit in np.eye(len(theta))]
        return self._linear_map(np.column_stack(columns))

    def hessian_times(self, theta: Array, vector: Array) -> Array:
        """H·v at θ, arrays of shape (n,).

        Examples
        --------
        >>> from swd_dynamics.rules import SGD, UpdateRule
        >>> linear = Linearisation(Flow(UpdateRule(0.5, SGD()), lambda theta: 3 * theta))
        >>> linear.hessian_times(np.zeros(2), np.array([1.0, 2.0])).round(8).tolist()
        [3.0, 6.0]
        """
        if self.flow.hvp is not None:
            return self.flow.hvp(theta, vector)
        reach = (
            self.reach if np.ndim(self.reach) == 0 else self.reach[: len(theta)]
        )  # of a state, the weights come first
        return differences(self.flow.gradient, theta, vector, reach)

    @cached_property
    def _linear_map(self) -> Callable[[Array], Array] | None:
        """The linearised step as a function of the Hessian."""
        if self.flow.rule.has_schedule:
            return None
        try:
            return numeric_linear_map(self.flow.rule)
        except NotDerivable:
            return None
