"""Many differential equations of one form at once, each row with steps of its own size.

No library in reach does this for a field that is a numpy function: diffrax needs jax, torchode and torchdiffeq need
torch, which flows do not import, and scipy's solve_ivp has one step size for all rows, so that the stiffest row slows
all others and a row that diverges ends them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import DOP853

Array = NDArray[np.float64]
# Absolute size of a number that counts as infinite: its square, which v holds, is still finite.
INFINITE = 1e100
# Explicit steps after which a row counts as stiff. Smooth rows need some tens at a tolerance of 1e-9. With a third of
# them, rows with sharp turns are handed over without need; with ten times as many, stiff rows waste their time.
PATIENCE = 300
# Numbers in a row up to which it can be solved implicitly: a step inverts 8 matrices of this size.
MOST_STIFF = 64
MOST_STEPS = 100_000  # of a row, after which it is given up
COLUMNS = 8  # of the extrapolation, which is its order
SAFETY, SMALLEST, LARGEST = 0.9, 0.2, 10.0  # the next step is at most so many times the last, as in scipy
FIRST = 0.01  # part of its size by which a number may change in the first step that is tried
ROUND_OFF = 10 * float(np.finfo(float).eps)  # a step shorter than this part of x does not move x
NUDGE = 1e-8  # of a number's size, for a Jacobian by differences: round-off and curvature then both cost 1e-8
# scipy's coefficients: Hairer, Nørsett & Wanner 1993, II.5
A, B, C, D = (np.asarray(getattr(DOP853, name)) for name in "ABCD")
E3, E5, A_EXTRA, C_EXTRA = (np.asarray(getattr(DOP853, name)) for name in ("E3", "E5", "A_EXTRA", "C_EXTRA"))


class Field(NamedTuple):
    """The right-hand sides of some rows.

    slope : callable (x, z) → dz/dx — x of shape (rows, 1), z and dz/dx of shape (rows, m)
    jacobian : callable (x, z) → array, shape (rows, m, m)
    """

    slope: Callable[[Array, Array], Array]
    jacobian: Callable[[Array, Array], Array]


def by_differences(slope: Callable[[Array, Array], Array], x: Array, z: Array) -> Array:
    """∂slope/∂z of every row, by forward differences, shape (rows, m, m).

    Examples
    --------
    >>> by_differences(lambda x, z: z**2, np.zeros((1, 1)), np.array([[3.0]])).round(6).tolist()
    [[[6.0]]]
    """
    here, nudge, columns = slope(x, z), NUDGE * np.fmax(np.abs(z), NUDGE), []
    for j in range(z.shape[1]):
        moved = z.copy()
        moved[:, j] += nudge[:, j]
        columns.append((slope(x, moved) - here) / (moved - z)[:, j, None])
    return np.stack(columns, axis=-1)


@dataclass
class _Rows:
    """The rows that are still being solved.

    which : array of int, shape (rows,) — their numbers among all rows
    x, h : array, shape (rows,) — how far each has come, and the step that it will try
    z, slope : array, shape (rows, m) — its numbers there, and the field
    taken : array of int, shape (rows,) — steps tried
    """

    which: NDArray[np.int64]
    x: Array
    h: Array
    z: Array
    slope: Array
    taken: NDArray[np.int64]

    def __getitem__(self, chosen) -> "_Rows":
        return _Rows(*(values[chosen] for values in vars(self).values()))


class _Step(NamedTuple):
    """A step that is tried.

    z, slope : array, shape (rows, m) — after the step
    error : array, shape (rows,) — in units of what is allowed
    order : int — the power of h with which the error falls
    inside : callable () → coefficients of the dense output, shape (7, rows, m); None if the step ends at the next point
    """

    z: Array
    slope: Array
    error: Array
    order: int
    inside: Callable[[], Array] | None


@dataclass
class Solved:
    """The solution of all rows.

    z : array, shape (rows, points, m) — NaN from where a row diverged
    ended : array, shape (rows,) — the x at which a row diverged or was given up; NaN for all others
    steps : array of int, shape (rows,) — steps of the solver, with those that it rejected
    """

    z: Array
    ended: Array
    steps: NDArray[np.int64]


@dataclass(frozen=True)
class Solver:
    """Solves dz/dx = field(x, z) from x = 0 for many rows, each with its own steps.

    Each row is first solved by Dormand and Prince's explicit method of order 8, with dense output. A row that needs
    many steps is stiff: it is continued by the linearly implicit Euler method, extrapolated to order 8.

    Parameters
    ----------
    fields : callable (rows) → Field
        The field of some rows, whose numbers are an array.
    points : array, shape (points,)
        Where the solution is wanted, increasing, from 0 on; the last is the end.
    sizes : array, shape (rows, m)
        The usual size of each number, to which the absolute tolerance is relative.
    tolerance : float
        Relative, for each step.

    Notes
    -----
    Source: Hairer, Nørsett & Wanner 1993, II.5 and II.6 (the explicit method); Deuflhard 1985, Hairer & Wanner 1996,
    IV.9 (the extrapolation).

    Examples
    --------
    dz/dx = −az with a = 1, and with a = 10⁶, which is stiff:

    >>> slopes = np.array([[1.0], [1e6]])
    >>> def fields(rows):
    ...     a = slopes[rows]
    ...     return Field(lambda x, z: -a * z, lambda x, z: -a[..., None])
    >>> solved = Solver(fields, np.array([1.0]), np.ones((2, 1)), 1e-9).solve(np.ones((2, 1)))
    >>> bool(np.allclose(solved.z[:, 0], np.exp(-slopes), atol=1e-8))
    True
    """

    fields: Callable[[Any], Field]
    points: Array
    sizes: Array
    tolerance: float

    def solve(self, start: Array) -> Solved:
        """The solution at the points, from z of shape (rows, m) at x = 0."""
        count, m = start.shape
        solved = Solved(np.full((count, len(self.points), m), np.nan), np.full(count, np.nan), np.zeros(count, int))
        solved.z[:, self.points == 0] = start[:, None]
        with np.errstate(all="ignore"):
            rows = self._begun(start)
            if m > MOST_STIFF:
                rows = self._advanced(_explicit, MOST_STEPS, rows, solved)
            else:
                rows = self._advanced(_explicit, PATIENCE, rows, solved)
                rows = self._advanced(_implicit, MOST_STEPS, rows, solved)
        solved.ended[rows.which] = rows.x
        return solved

    def _begun(self, start: Array) -> _Rows:
        """All rows at x = 0."""
        every, x, end = np.arange(len(start)), np.zeros(len(start)), self.points[-1]
        slope = self.fields(every).slope(x[:, None], start)
        fastest = np.abs(slope / self.sizes).max(axis=1, initial=0.0)
        h = np.fmin(end, FIRST / np.fmax(fastest, FIRST / end))
        return _Rows(every, x, h, start, slope, 0 * every)

    def _advanced(self, method, most: int, rows: _Rows, solved: Solved) -> _Rows:
        """Step until every row has ended, and return those that need more than ``most`` steps."""
        left, field = [rows[:0]], None
        while len(rows.which):
            field = field or self.fields(rows.which)
            moved = self._moved(method, field, rows, solved)
            diverged = ~(np.abs(moved.z).max(axis=1, initial=0.0) <= INFINITE) | (moved.h < ROUND_OFF * moved.x)
            solved.ended[moved.which[diverged]] = moved.x[diverged]
            solved.steps[moved.which] = moved.taken
            slow = (moved.taken >= most) & ~diverged & (moved.x < self.points[-1])
            going = (moved.x < self.points[-1]) & ~diverged & ~slow
            left.append(moved[slow])
            rows, field = (moved, field) if going.all() else (moved[going], None)
        return _Rows(*(np.concatenate([vars(part)[name] for part in left]) for name in vars(rows)))

    def _moved(self, method, field: Field, rows: _Rows, solved: Solved) -> _Rows:
        """Try a step of every row: where its error is small enough, the row moves, and its points are kept."""
        following = np.searchsorted(self.points, rows.x, side="right") if method is _implicit else -1
        target = self.points[following]
        h = np.fmin(rows.h, target - rows.x)
        step: _Step = method(field, rows, h, self.tolerance, self.sizes[rows.which])
        good = step.error < 1
        factor = SAFETY * np.fmax(step.error, 1e-30) ** (-1 / step.order)
        factor = np.where(np.isfinite(step.error), np.clip(factor, SMALLEST, np.where(good, LARGEST, 1.0)), SMALLEST)
        longer = np.where(good & (h < rows.h), np.fmax(rows.h, h * factor), h * factor)
        x = np.where(good, np.where(h < target - rows.x, rows.x + h, target), rows.x)
        self._keep(rows, step, h, x, solved)
        z, slope = (np.where(good[:, None], new, old) for new, old in ((step.z, rows.z), (step.slope, rows.slope)))
        return _Rows(rows.which, x, longer, z, slope, rows.taken + 1)

    def _keep(self, rows: _Rows, step: _Step, h: Array, x: Array, solved: Solved) -> None:
        """Keep the solution at the points that the rows have reached or passed."""
        first, last = (np.searchsorted(self.points, at, side="right") for at in (rows.x, x))
        row = np.repeat(np.arange(len(x)), last - first)
        if len(row) == 0:
            return
        point = np.arange(len(row)) - np.repeat(np.cumsum(last - first) - last, last - first)
        share = ((self.points[point] - rows.x[row]) / h[row])[:, None]
        values = step.z[row]
        if step.inside is not None and (self.points[point] < x[row]).any():
            values = np.where(share < 1, _interpolated(step.inside()[:, row], rows.z[row], share), values)
        solved.z[rows.which[row], point] = values


def _explicit(field: Field, rows: _Rows, h: Array, tolerance: float, sizes: Array) -> _Step:
    """Dormand and Prince's step, with its two error estimates combined as in DOP853."""
    (count, m), x, h = rows.z.shape, rows.x[:, None], h[:, None]
    k = np.empty((len(B) + 1 + len(C_EXTRA), count, m))

    def weighted(weights: Array) -> Array:
        return (weights @ k[: len(weights)].reshape(len(weights), -1)).reshape(count, m)

    k[0] = rows.slope
    for s in range(1, len(B)):
        k[s] = field.slope(x + C[s] * h, rows.z + h * weighted(A[s, :s]))
    z = rows.z + h * weighted(B)
    k[len(B)] = field.slope(x + h, z)
    fifth, third = (_mean_square(weighted(e), _scale(rows.z, z, sizes, tolerance)) for e in (E5, E3))
    both = fifth + 0.01 * third
    error = np.where(both > 0, h[:, 0] * fifth / np.sqrt(both), np.where(both == 0, 0.0, np.nan))

    def inside() -> Array:
        for s, (a, c) in enumerate(zip(A_EXTRA, C_EXTRA, strict=True), start=len(B) + 1):
            k[s] = field.slope(x + c * h, rows.z + h * weighted(a[:s]))
        change = z - rows.z
        first = [change, h * k[0] - change, 2 * change - h * (k[len(B)] + k[0])]
        return np.array([*first, *(h * weighted(d) for d in D)])

    return _Step(z, k[len(B)], error, 8, inside)


def _interpolated(coefficients: Array, z: Array, share: Array) -> Array:
    """The dense output of DOP853: a polynomial in the share of the step, and in one minus that share."""
    value = np.zeros_like(z)
    for i, each in enumerate(reversed(coefficients)):
        value = (value + each) * (share if i % 2 == 0 else 1 - share)
    return z + value


def _implicit(field: Field, rows: _Rows, h: Array, tolerance: float, sizes: Array) -> _Step:
    """Linearly implicit Euler steps, j = 1, 2, … in the place of one, extrapolated to steps of length 0."""
    x, h = rows.x[:, None], h[:, None]
    jacobian = field.jacobian(x, rows.z)
    table: list[Array] = []
    for j in range(1, COLUMNS + 1):
        part, z, slope = h / j, rows.z, rows.slope
        solve = _inverse(np.eye(z.shape[1]) - part[..., None] * jacobian)
        for i in range(j):
            slope = field.slope(x + (i + 1) * part, z)
            z = z + (solve @ (part * slope)[..., None])[..., 0]
        row = [z]
        for i, before in enumerate(table, start=1):
            row.append(row[-1] + (row[-1] - before) / (j / (j - i) - 1))
        table = row
    z = table[-1]
    error = np.sqrt(_mean_square(z - table[-2], _scale(rows.z, z, sizes, tolerance)))
    return _Step(z, field.slope(x + h, z), error, COLUMNS, None)


def _inverse(matrices: Array) -> Array:
    """The inverse of each matrix; the pseudo-inverse of all where one is singular, and NaN where one is not finite."""
    finite = np.isfinite(matrices).all(axis=(1, 2), keepdims=True)
    safe = np.where(finite, matrices, np.eye(matrices.shape[1]))
    try:
        inverse = np.linalg.inv(safe)
    except np.linalg.LinAlgError:
        inverse = np.linalg.pinv(safe)
    return np.where(finite, inverse, np.nan)


def _scale(before: Array, after: Array, sizes: Array, tolerance: float) -> Array:
    """The error allowed, relative to each number and, a hundredth of it, to its usual size."""
    return tolerance * (np.fmax(np.abs(before), np.abs(after)) + sizes / 100)


def _mean_square(error: Array, scale: Array) -> Array:
    return np.square(error / scale).mean(axis=1)
