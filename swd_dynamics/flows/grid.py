"""Flows of one optimizer with many values of its hyperparameters, and from many starts, solved together."""

from __future__ import annotations  # signatures in help() then say ArrayLike and not all that it stands for

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import xarray
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.checks import check, shown
from swd_dynamics.errors import InputError
from swd_dynamics.flows.batched import Field, Solver, by_differences
from swd_dynamics.flows.flow import AFTER_SEEDING, Flow
from swd_dynamics.flows.functions import array_function, as_array
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import NumericEquation, numeric_equations, numeric_steps
from swd_dynamics.symbolic.clips import numeric_clips

Array = NDArray[np.float64]
DIMENSIONS = ("start", "step", "time", "weight")
# Relative: by how much the gradient at one of several points may differ from the gradient at that point alone. Sums in
# another order differ by some 1e-15, and a function that mixes points is off by about 1.
SAME = 1e-9


def grid(
    rule: Callable[..., UpdateRule],
    gradient: Callable[[Array], Any],
    theta0: ArrayLike,
    over: Mapping[str, Any],
    *,
    at_steps: ArrayLike | None = None,
    at_times: ArrayLike | None = None,
    hvp: Callable[[Array, Array], Any] | None = None,
    order: Literal[1, 2, "state"] = 1,
    tolerance: float = 1e-9,
) -> xarray.Dataset:
    """The flows of an optimizer at every point of a grid of its hyperparameters, from one start or from many.

    These are the flows of :class:`Flow`. A loop over :meth:`Flow.solve` takes a hundred times as long. A flow that
    diverges is NaN from there on, and changes no other flow.

    Parameters
    ----------
    rule : callable (**hyperparameters) → UpdateRule
        An entry of CATALOG, or a function of your own, which makes the rule from the arguments in ``over``; each of
        them is an array with a value for every cell of the grid.
    gradient : callable (θ) → g
        The gradient of the loss for many θ at once, arrays of shape (cells, n). ``numpy.vectorize(gradient,
        signature="(n)->(n)")`` makes it of a function for one θ, but slowly.
    theta0 : array, shape (n,) or (starts, n)
    over : mapping of str to sequence
        Arguments of the rule, each with its values, as ``{"lr": [0.01, 0.1], "weight_decay": [0, 1e-3]}``. Values of
        ``betas`` are pairs.
    at_steps, at_times : number or array, shape (points,)
        Where θ is wanted: after k steps, or at times t = ηk, which are other steps in cells with another η.
    hvp : callable (θ, vectors) → H·vectors, optional
        Hessian-vector products for many θ and vectors at once; order 2 needs it, and stiff flows gain from it.
    order : 1, 2 or "state"
        As in :class:`Flow`.
    tolerance : float
        Relative error of one step of the solver; the error of a solution is up to some hundred times as large.

    Returns
    -------
    xarray.Dataset
        ``theta`` by the arguments in ``over``, by ``start`` where there are several, by ``step`` or ``time``, and by
        ``weight``; for order "state" also every entry of the memory. ``diverged_at`` is the step or time at which a
        flow diverged, or could not be followed further; NaN if it did neither. ``solver_steps`` counts the steps of
        the solver.

    Raises
    ------
    InputError
        If an argument is not allowed, the rule has a schedule, the gradient is not one of many points, or a maximum or
        a clip enters a flow of order 1 or 2.
    NotDerivable
        If the rule has no modified equation, or for order "state" cannot be read as formulas.

    Examples
    --------
    Gradient descent with decoupled decay on f = ½θ² is θ = exp(−(1 + λ)t) to first order, for each λ:

    >>> from swd_dynamics.rules import CATALOG
    >>> over = {"lr": [0.01, 0.1], "weight_decay": [0.0, 0.5, 1.0]}
    >>> found = grid(CATALOG["SGDW"], lambda theta: theta, [1.0], over, at_times=[1.0, 2.0])
    >>> dict(found.theta.sizes)
    {'lr': 2, 'weight_decay': 3, 'time': 2, 'weight': 1}
    >>> bool(np.allclose(found.theta.squeeze("weight"), np.exp(-(1 + found.weight_decay) * found.time)))
    True
    """
    if isinstance(rule, UpdateRule | type) or not callable(rule):
        raise InputError(
            f"rule = {shown(rule)} does not make rules: give an entry of CATALOG without arguments, as CATALOG['SGDW'],"
            " or a function of the arguments in over that returns an UpdateRule"
        )
    points, unit = _points(at_steps, at_times)
    check("tolerance", tolerance, "(0, 1)")
    axes = _axes(over)
    starts = np.atleast_2d(as_array(theta0))
    if starts.ndim != 2 or not np.isfinite(starts).all() or starts.size == 0:
        raise InputError(f"theta0 = {shown(theta0)} is not allowed: give finite numbers of shape (n,) or (starts, n)")
    cells = _Cells(rule, axes, starts, array_function("gradient(theta)", gradient), order, unit, hvp)
    solved = Solver(cells.fields, points, cells.sizes, tolerance).solve(cells.start)
    dims = (*axes, *(("start",) if np.ndim(theta0) > 1 else ()))
    shape = (*map(len, axes.values()), *((len(starts),) if np.ndim(theta0) > 1 else ()))
    n, names = starts.shape[1], ("theta", *cells.memory_names)
    values = solved.z.reshape(*shape, len(points), len(names), n)
    variables: dict[str, Any] = {name: ((*dims, unit, "weight"), values[..., i, :]) for i, name in enumerate(names)}
    variables["diverged_at"] = (dims, solved.ended.reshape(shape), {"long_name": f"{unit} at which the flow diverged"})
    variables["solver_steps"] = (dims, solved.steps.reshape(shape), {"long_name": "steps of the solver"})
    coordinates = {name: _coordinate(axis) for name, axis in axes.items()} | {unit: points}
    return xarray.Dataset(variables, coordinates, {"order": str(order), "tolerance": tolerance})


@dataclass(frozen=True)
class _Cells:
    """All cells of the grid as rows: each point of the axes, from each start."""

    rule: Callable[..., UpdateRule]
    axes: dict[str, Array]
    starts: Array
    gradient: Callable[..., Array]
    order: Any
    unit: str
    given_hvp: Any

    def __post_init__(self):
        first = Flow(
            self.whole, self.gradient, self.given_hvp, self.order
        )  # checks the rule, the order and the functions
        object.__setattr__(self, "given_hvp", first.hvp)
        if self.whole.has_schedule:
            raise InputError("a grid of flows needs learning rates that are constant: give numbers for lr")
        theta = self.starts[self.place % len(self.starts)]
        _check_rows("gradient(theta)", self.gradient, theta)
        if first.hvp is not None:
            _check_rows("hvp(theta, vectors)", first.hvp, theta, theta)
        if self.order != "state":
            self._refuse_assumptions()

    @cached_property
    def place(self) -> NDArray[np.int64]:
        """The number of every row; the starts change fastest."""
        return np.arange(int(np.prod([len(axis) for axis in self.axes.values()])) * len(self.starts))

    @cached_property
    def columns(self) -> dict[str, Array]:
        """The value of each argument in every row, shape (rows,) or, for pairs, (rows, 2)."""
        places = np.unravel_index(self.place // len(self.starts), [len(axis) for axis in self.axes.values()])
        return {name: axis[i] for (name, axis), i in zip(self.axes.items(), places, strict=True)}

    def made(self, rows: NDArray[np.int64]) -> UpdateRule:
        """The rule of some rows, with a column for each argument."""
        chosen = {name: column[rows] for name, column in self.columns.items()}
        arguments = {n: tuple(c.T[..., None]) if c.ndim == 2 else c[:, None] for n, c in chosen.items()}
        made = self.rule(**arguments)
        if not isinstance(made, UpdateRule):
            raise InputError(f"rule returned {shown(made)}: it must return an UpdateRule, as CATALOG['SGDW'] does")
        return made

    @cached_property
    def start(self) -> Array:
        """θ₀ of every row, followed by its memory for order "state"."""
        theta = self.starts[self.place % len(self.starts)]
        memory = self.whole.start(theta).memory if self.order == "state" else ()
        return np.concatenate([theta, *memory], axis=1)

    @cached_property
    def memory_names(self) -> tuple[str, ...]:
        rest = self.whole.direction.rest(np.zeros(1)) if self.order == "state" else ()
        return getattr(rest, "_fields", tuple(f"m_{i + 1}" for i in range(len(rest))))

    @cached_property
    def sizes(self) -> Array:
        """The usual size of each number: the largest of θ, or of its memory entry, at the start and after a step."""
        slope = self.fields(self.place).slope(np.zeros((len(self.place), 1)), self.start)
        moved = slope * (self.lr if self.unit == "time" else 1.0) if self.order == "state" else 0.0
        both = np.fmax(np.abs(self.start), np.abs(self.start + moved))
        largest = both.reshape(len(both), -1, self.starts.shape[1]).max(axis=2)
        return np.repeat(np.where(largest > 0, largest, 1.0), self.starts.shape[1], axis=1)

    def fields(self, rows: NDArray[np.int64]) -> Field:
        """dz/dk of some rows, or dz/dt where points are times."""
        pace = 1 / self.lr[rows] if self.unit == "time" else np.ones((len(rows), 1))
        return self._state_field(rows, pace) if self.order == "state" else self._weights_field(rows, pace)

    @cached_property
    def whole(self) -> UpdateRule:
        """The rule of all rows."""
        return self.made(np.arange(len(self.place)))

    @cached_property
    def lr(self) -> Array:
        return np.broadcast_to(np.asarray(self.whole.lr, dtype=float), (len(self.place), 1))

    @cached_property
    def steps(self) -> Callable[[Any], Callable]:
        return numeric_steps(self.whole)

    @cached_property
    def equations(self) -> Callable[[Any], NumericEquation]:
        return numeric_equations(self.whole)

    def _state_field(self, rows: NDArray[np.int64], pace: Array) -> Field:
        step, n = self.steps(rows), self.starts.shape[1]

        def slope(x, z):
            theta, *memory = np.split(z, z.shape[1] // n, axis=1)
            after = step(theta, self.gradient(theta), memory, x * pace + 1 + AFTER_SEEDING)
            return pace * (np.concatenate(after, axis=1) - z)

        return Field(slope, lambda x, z: by_differences(slope, x, z))

    def _weights_field(self, rows: NDArray[np.int64], pace: Array) -> Field:
        """F₀ and F₁ belong to the time t = ηk with the largest η."""
        equation, hvp = self.equations(rows), self.given_hvp
        largest = equation.lr or 0.0  # there is no schedule
        pace = largest * pace

        def slope(_, theta):
            gradient = self.gradient(theta)
            first = equation.first(theta, gradient, ())
            if self.order == 1:
                return pace * first
            return pace * (first + largest * equation.second(theta, gradient, first, hvp(theta, first), ()))

        def jacobian(x, theta):
            if self.order == 2 or hvp is None:
                return by_differences(slope, x, theta)
            gradient = self.gradient(theta)
            units = [np.broadcast_to(unit, theta.shape) for unit in np.eye(theta.shape[1])]
            turned = [equation.turn(theta, gradient, unit, hvp(theta, unit), ()) for unit in units]
            return pace[..., None] * np.stack(turned, axis=-1)

        return Field(slope, jacobian)

    def _refuse_assumptions(self) -> None:
        """Refuse what a flow of order 1 or 2 assumes to be constant or inactive, and which a grid does not check."""
        theta = self.starts[self.place % len(self.starts)]
        gradient = self.gradient(theta)
        zero = np.zeros_like(theta)
        held = self.equations(slice(None)).held(theta, gradient, zero, zero, float(np.max(self.lr)))
        if held or (self.order == 2 and numeric_clips(self.whole)(theta, gradient)):
            what = "a maximum that it assumes to be constant" if held else "a clip that it assumes to be inactive"
            raise InputError(f"the flow of order {self.order} has {what}, which a grid does not check: take 'state'")


def _points(at_steps: Any, at_times: Any) -> tuple[Array, str]:
    if (at_steps is None) == (at_times is None):
        raise InputError("say where θ is wanted with one of at_steps and at_times, as at_steps=[10, 100]")
    unit, given = ("step", at_steps) if at_times is None else ("time", at_times)
    points = np.atleast_1d(as_array(given))
    check(f"at_{unit}s", points, "[0, inf)")
    if points.ndim != 1 or not (np.diff(points) > 0).all() or points[-1] == 0:
        raise InputError(f"at_{unit}s = {shown(given)} is not allowed: give increasing numbers, the last positive")
    return points, unit


def _axes(over: Any) -> dict[str, Array]:
    if not isinstance(over, Mapping) or not over:
        raise InputError(
            f'over = {shown(over)} is not allowed: give arguments and their values, as {{"lr": [0.1, 0.2]}}'
        )
    axes = {}
    for name, values in over.items():
        if name in DIMENSIONS:
            raise InputError(f"over cannot have {name!r}, which is a dimension of the result already")
        try:
            axis = as_array(list(values) if isinstance(values, Iterable) else [values])
        except (TypeError, ValueError):
            axis = np.empty(0)
        if axis.size == 0 or not (axis.ndim == 1 or axis.shape[1:] == (2,)):
            raise InputError(f"over[{name!r}] = {shown(values)} is not allowed: give numbers, or pairs of numbers")
        axes[name] = axis
    return axes


def _coordinate(axis: Array) -> list:
    """The values of an argument; pairs, such as betas, as text."""
    return axis.tolist() if axis.ndim == 1 else [str(tuple(pair)) for pair in axis.tolist()]


def _check_rows(call: str, function: Callable[..., Array], *arguments: Array) -> None:
    """Refuse a function that does not answer for many points as it does for each alone."""
    last = [argument[-1:] for argument in arguments]
    remedy = 'it must take arrays of shape (cells, n); numpy.vectorize(function, signature="(n)->(n)") does so, slowly'
    try:
        many, alone = function(*arguments), function(*last)
    except Exception as error:
        raise InputError(f"{call} failed with {type(error).__name__}: {error}. Here {remedy}") from error
    if many.shape != arguments[0].shape or alone.shape != last[0].shape:
        raise InputError(f"{call} gave an answer of shape {many.shape} for {arguments[0].shape}: {remedy}")
    if not np.isfinite(many).all():
        raise InputError(f"{call} gave an answer that is not finite at theta0")
    if np.abs(many[-1] - alone[0]).max() > SAME * np.abs(alone).max():
        raise InputError(f"{call} gave another answer for one of many points than for that point alone: {remedy}")
