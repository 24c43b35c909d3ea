"""The phase plane of a field: its nullclines, its fixed points, its orbits and the steps of optimizers."""

from __future__ import annotations  # signatures in help() then say ArrayLike and not all that it stands for

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.checks import check, whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.flows.flow import Flow
from swd_dynamics.flows.functions import as_array
from swd_dynamics.planes.courses import Iterates, iterates, orbit
from swd_dynamics.planes.fixed_points import FixedLine, FixedPoint, Search
from swd_dynamics.planes.nullclines import Nullcline, nullcline
from swd_dynamics.planes.slices import Slice, cut
from swd_dynamics.planes.systems import system
from swd_dynamics.rules.catalog import Entry
from swd_dynamics.rules.gate import as_rule
from swd_dynamics.rules.update import UpdateRule

Array = NDArray[np.float64]
# Of the usual speed: a component that is smaller counts as zero. Halved, the round-off of a component that is zero
# everywhere would be traced as nullclines; doubled, nothing changes but a strip of that width.
SMALLEST = 8 * float(np.finfo(float).eps)
REACH = 0.25  # of the window: the scale on which a field is taken to vary, for derivatives by differences
HALF = 2.0  # half the sides of the usual window: many examples are of this size
MARGIN = 0.05  # of the window, around starts: halved, the marker of a start would touch the frame
FAINT = 1e-12  # of the usual speed: the least usual size of a component; below lies the round-off of longer sums
SHIFTS = (0.618, 0.764)  # of a cell, in x and y: they keep the nodes off round numbers, at which many nullclines lie
# An eigenvalue above which ε is named as its cause: near a point where g is 0 an adaptive step is −ηg/ε, so that
# μ = −h/ε with the curvature h. This is half way between h and h/ε on a logarithmic scale, for h = 1 and ε = 1e-8.
LARGE = 1e4
OUT = 1e-6  # of the usual speed: a fixed point of a slice is one of the whole field if less points out of the slice


@dataclass(frozen=True)
class PhasePlane:
    """What a phase plane shows, as numbers; :func:`swd_dynamics.plots.phase_plane` draws it.

    Attributes
    ----------
    x, y : array, shape (columns,) and (rows,) — the grid; evenly spaced except for the first and the last cell
    field : array, shape (2, rows, columns) — both components on the grid; NaN where the field is not defined
    nullclines : tuple of two Nullcline
    fixed_points : tuple of FixedPoint — the isolated fixed points
    fixed_lines : tuple of FixedLine
    orbits : tuple of array, shape (m, 2) — the flow from each start, until the time is up or the orbit is far outside
    iterates : tuple of Iterates
    labels : tuple of str — of the two axes
    alike : bool — whether both axes measure the same quantity
    left_out : float — the fraction of a slice's field that points out of the slice, the median over the grid
    what : str — the equation
    notes : tuple of str — sentences that a reader of the figure needs

    Examples
    --------
    The harmonic oscillator, whose orbits are circles:

    >>> plane = phase_plane(lambda x, y: (y, -x), start=(1, 0), t=6)
    >>> plane
    The field: one fixed point found, centre
      centre at (0, 0); eigenvalues μ = ± 1i
    >>> bool(np.allclose(np.hypot(*plane.orbits[0].T), 1))
    True
    """

    x: Array
    y: Array
    field: Array
    nullclines: tuple[Nullcline, Nullcline]
    fixed_points: tuple[FixedPoint, ...]
    fixed_lines: tuple[FixedLine, ...]
    orbits: tuple[Array, ...]
    iterates: tuple[Iterates, ...]
    labels: tuple[str, str]
    alike: bool
    left_out: float
    what: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.what}: {self.summary}"]
        for point in self.fixed_points:
            lines.append(f"  {point.kind} at {point.place(6)}; {point.described()}")
            lines += [] if point.whole else ["    at rest in this slice only"]
        lines += [f"  {line.kind} line of fixed points, {len(line.points)} of them known" for line in self.fixed_lines]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    __repr__ = __str__

    @property
    def summary(self) -> str:
        """The fixed points, in a few words."""
        points, lines = len(self.fixed_points), len(self.fixed_lines)
        if all(nullcline.everywhere for nullcline in self.nullclines):
            return "at rest everywhere"
        if lines:
            also = f", and {points} isolated" if points else ""
            return ("a line of fixed points" if lines == 1 else "lines of fixed points") + also
        if points == 1:
            return f"one fixed point found, {self.fixed_points[0].kind}"
        return f"{points or 'no'} fixed points"


def phase_plane(
    of: Flow | UpdateRule | Callable,
    gradient: Callable[[Array], Array] | None = None,
    *,
    hvp: Callable[[Array, Array], Array] | None = None,
    x: tuple[float, float] | None = None,
    y: tuple[float, float] | None = None,
    start: ArrayLike | None = None,
    steps: int | None = None,
    t: float | None = None,
    iterates_of: Mapping[str, UpdateRule] | None = None,
    origin: ArrayLike | None = None,
    directions: Any = None,
    nodes: int = 61,
) -> PhasePlane:
    """The phase plane of a flow, an optimizer's rule, or any field of two variables.

    =============================== =========================== ==================================================
    ``of``                          the plane                   the field
    =============================== =========================== ==================================================
    ``Flow`` of order 1 or 2        two weights (θ₁, θ₂)        F₀, or F₀ + ηF₁
    ``Flow`` of order ``"state"``   a weight and its momentum   (rule(θ, m) − (θ, m))/η
    order 1 or 2, ``directions``    a slice θ₀ + a·u + b·w      the flow's field, projected onto the slice
    a rule and its ``gradient``     as its ``Flow`` of order 1
    a function (x, y) → (u, v)      (x, y)                      the function
    =============================== =========================== ==================================================

    Parameters
    ----------
    of : Flow, UpdateRule or callable
    gradient, hvp : callable, optional
        Gradient and Hessian-vector product of the loss, for a rule; see :class:`~swd_dynamics.flows.Flow`.
    x, y : tuple of two floats
        The window; by default (−2, 2), and wider if a start lies outside.
    start : array, shape (2,) or (r, 2), optional
        Points of the plane. From each, the flow and the rule's steps are followed. A rule begins with its memory at
        rest; on the plane of a weight and its momentum, with the momentum given and its bias corrections gone.
    steps, t : int or float
        How long to follow them: optimizer steps, or time t = ηk; for a function the time.
    iterates_of : dict of str to UpdateRule, optional
        The rules whose steps are shown, by name; by default the flow's own rule.
    origin : array, shape (n,), optional
        A point of the slice.
    directions : array, shape (2, n), or ``"leading"``, optional
        Two vectors along the slice; they are made orthonormal. ``"leading"`` are the eigenvectors of the two largest
        eigenvalues of the Hessian at ``origin``.
    nodes : int
        Number of grid lines in x and in y. Features that are narrower than a cell can be missed.

    Returns
    -------
    PhasePlane

    Raises
    ------
    InputError
        If the window is empty, a start is not a point of the plane, a function does not return what it should, or the
        field is defined nowhere in the window.

    Examples
    --------
    Gradient descent on f = ½(θ₁² + 3θ₂²), where each step multiplies a deviation by 1 − .1·h:

    >>> from swd_dynamics.rules import SGD
    >>> print(phase_plane(UpdateRule(0.1, SGD()), lambda theta: np.array([1.0, 3.0]) * theta))
    dθ/dt = F₀: one fixed point found, stable node
      stable node at (0, 0); eigenvalues μ = −3, −1; steps settle, |z| = 0.9
    """
    starts, flow = _points(start), _flow(of, gradient, hvp)
    window = _window(*(_with_starts(at) if ends is None else ends for ends, at in zip((x, y), starts.T, strict=True)))
    nodes = whole_number("nodes", nodes, least=8, most=1000)
    centre = _centre(origin, directions, window)
    first = starts[0] if len(starts) and directions is None else centre
    reach = REACH * (window[1] - window[0])
    reach = reach if directions is None else float(reach.min())
    plane = cut(system(of if flow is None else flow, first, reach), centre, directions)
    _check_answer(plane, window.mean(axis=0))
    duration, count = _lasts(flow, steps, t) if len(starts) else (0.0, 0)
    stepped = iterates(plane, flow, iterates_of, starts, count)  # first: what is no rule is refused before the work
    orbits = tuple(orbit(plane, at, duration, window) for at in starts)
    found = _computed(plane, window, nodes, [course[-1] for course in orbits])
    if flow is not None:
        found = replace(found, notes=(*found.notes, *_notes_on_points(flow, found.fixed_points, plane.is_slice)))
    return replace(found, orbits=orbits, iterates=stepped)


def _computed(plane: Slice, window: Array, nodes: int, ends: Sequence[Array]) -> PhasePlane:
    """Field, nullclines and fixed points, which are searched also at the ends of orbits."""
    x, y = (_grid(window[:, i], nodes, shift) for i, shift in enumerate(SHIFTS))
    values = np.array([[plane.field(np.array([a, b])) for a in x] for b in y])
    speeds = np.linalg.norm(values, axis=2)
    if not np.isfinite(speeds).any():
        raise InputError("the field is defined nowhere in the window: look at the function and at x and y")
    moving = speeds[np.isfinite(speeds) & (speeds > 0)]
    speed = float(np.median(moving)) if len(moving) else 0.0
    lines = _nullclines(plane, x, y, values, speed)
    cell = np.array([x[2] - x[1], y[2] - y[1]])
    accuracy = plane.system.accuracy
    usual = _usual(values, speed)
    search = Search(plane.field, plane.jacobian, plane.multipliers, accuracy, usual, cell, window)
    fixed_lines = search.lines(lines)
    fixed_points = search.points(lines, fixed_lines, ends)
    out = _left_out(plane, x, y) if plane.is_slice else 0.0
    return PhasePlane(
        x=x,
        y=y,
        field=np.moveaxis(values, 2, 0),
        nullclines=lines,
        fixed_points=tuple(replace(p, whole=plane.parts(p.point)[1] <= OUT * speed) for p in fixed_points),
        fixed_lines=fixed_lines,
        orbits=(),
        iterates=(),
        labels=plane.labels,
        alike=plane.system.alike,
        left_out=out,
        what=plane.system.what + (", on a slice" if plane.is_slice else ""),
        notes=tuple(_notes(plane, speeds, lines, out)),
    )


def _usual(values: Array, speed: float) -> Array:
    """The usual size of each component, which may differ by many orders: the median where a component is not zero."""
    sizes = [np.abs(values[..., i]) for i in (0, 1)]
    moving = [size[np.isfinite(size) & (size > SMALLEST * speed)] for size in sizes]
    return np.array([max(float(np.median(m)), FAINT * speed) if len(m) else speed for m in moving])


def _nullclines(plane: Slice, x: Array, y: Array, values: Array, speed: float) -> tuple[Nullcline, Nullcline]:
    def of(component: int) -> Nullcline:
        def value(a: float, b: float) -> float:
            return float(plane.field(np.array([a, b]))[component])

        return nullcline(value, x, y, values[:, :, component], SMALLEST * speed)

    return of(0), of(1)


def _grid(ends: Array, nodes: int, shift: float) -> Array:
    """The grid lines of one axis: evenly spaced except for the first and the last cell, and off round numbers."""
    low, high = ends
    cell = (high - low) / (nodes - 2)
    return np.concatenate([[low], low + cell * (np.arange(nodes - 2) + shift), [high]])


def _left_out(plane: Slice, x: Array, y: Array) -> float:
    """The median fraction of the field's length that points out of the slice, over every fourth node each way."""
    parts = np.array([plane.parts(np.array([a, b])) for a in x[1:-1:4] for b in y[1:-1:4]])
    lengths, out = parts[np.isfinite(parts).all(axis=1) & (parts[:, 0] > 0)].T
    return float(np.median(out / lengths)) if len(lengths) else 0.0


def _notes(plane: Slice, speeds: Array, lines: tuple[Nullcline, Nullcline], out: float) -> Iterator[str]:
    undefined = 1 - np.isfinite(speeds).mean()
    if undefined > 0:
        yield f"the field is not defined on {undefined:.0%} of the grid"
    for label, line in zip(plane.labels, lines, strict=True):
        name = label.split(",")[0]
        if line.flat.any():
            yield f"d{name}/dt is zero {'everywhere' if line.everywhere else 'in a whole region'}"
        if line.breaks:
            yield f"d{name}/dt changes sign with a jump, without being zero"
    yield from plane.system.notes
    if plane.is_slice:
        yield f"the plane is a slice: {out:.0%} of the field's length (median) points out of it, and is left out"


def _notes_on_points(flow: Flow, points: tuple[FixedPoint, ...], is_slice: bool) -> Iterator[str]:
    """What a reader would miss about the eigenvalues: which of them ε sets, and why |z| is unknown."""
    fastest = max((float(np.abs(point.eigenvalues).max()) for point in points), default=0.0)  # NaN at a kink
    epsilon = float(np.max(getattr(flow.rule.direction, "eps", 0.0)))
    if epsilon > 0 and fastest > LARGE:
        yield f"ε = {epsilon:g} makes the largest μ so large: where |g| is below ε, an adaptive step is −ηg/ε"
    if epsilon > 0 and (fastest > LARGE or not points):
        yield "these are the fixed points found: there may be more, because nullclines can nearly coincide where g is 0"
    if any(point.multipliers is None for point in points) and not is_slice:
        name = type(flow.rule.direction).__name__
        why = "lr is a schedule" if flow.rule.has_schedule else f"the step of {name} is not linear near a fixed point"
        yield f"|z|, which says whether the steps settle, is unknown, because {why}"


def _with_starts(at: Array) -> tuple[float, float]:
    """The usual range, widened to contain the starts and a margin around them."""
    low, high = at.min(initial=-HALF), at.max(initial=HALF)
    margin = MARGIN * (high - low)
    return low - margin * (low < -HALF), high + margin * (high > HALF)


def _window(x, y) -> Array:
    """The lower and the upper corner."""
    for name, ends in (("x", x), ("y", y)):
        try:
            low, high = (float(end) for end in ends)
        except (TypeError, ValueError):
            raise InputError(f"{name} = {ends!r} is not a range: give two numbers, as (-2, 2)") from None
        if not (np.isfinite([low, high]).all() and low < high):
            raise InputError(f"{name} = {ends!r} is not allowed: the first number must be the smaller one, both finite")
    return np.array([x, y], dtype=float).T


def _flow(of, gradient, hvp) -> Flow | None:
    if isinstance(of, Flow):
        if gradient is not None or hvp is not None:
            raise InputError("gradient and hvp belong to a rule, and a Flow has its own: give only the Flow")
        return of
    if isinstance(of, UpdateRule | Entry | str) or not (gradient is None or callable(of)):
        rule = as_rule(of, "of")
        if gradient is None:
            raise InputError("a rule needs the gradient of the loss: phase_plane(rule, gradient)")
        return Flow(rule, gradient, hvp)
    if gradient is not None or hvp is not None:
        raise InputError("gradient and hvp belong to a rule, and a function (x, y) → (u, v) is the field itself")
    return None


def _vector(name: str, values: ArrayLike) -> Array:
    try:
        vector = as_array(values)
    except (TypeError, ValueError):
        raise InputError(f"{name} = {values!r} is not made of numbers") from None
    if not vector.size or not np.isfinite(vector).all():
        raise InputError(f"{name} = {values!r} is not allowed: give finite numbers")
    return vector


def _points(start: ArrayLike | None) -> Array:
    if start is None:
        return np.empty((0, 2))
    points = np.atleast_2d(_vector("start", start))
    if points.ndim != 2 or points.shape[1] != 2:
        raise InputError(
            f"start has {points.shape[-1]} numbers, and a point of the plane has 2: a plane of more weights is a slice,"
            " so give origin and directions, and a start as (a, b)"
        )
    return points


def _centre(origin: ArrayLike | None, directions, window: Array) -> Array:
    """A point of the slice; the middle of the window if the plane is not a slice."""
    if (origin is None) != (directions is None):
        raise InputError("origin and directions belong together: they say where a slice lies")
    if origin is None:
        return window.mean(axis=0)
    centre = _vector("origin", origin)
    if centre.ndim != 1 or len(centre) < 2:
        raise InputError(f"origin has shape {centre.shape}: it must be one vector of at least two weights")
    return centre


def _check_answer(plane: Slice, centre: Array) -> None:
    try:
        plane.field(centre)
    except TypeError as error:
        raise InputError(f"the field cannot be computed at {centre}: {error}") from None


def _lasts(flow: Flow | None, steps: int | None, t: float | None) -> tuple[float, int]:
    """The time that a flow is followed, and the number of steps in it."""
    if flow is not None:
        count = flow.count_steps(steps=steps, t=t)
        return float(sum(flow.lr_at(k) for k in range(count))), count
    if steps is not None:
        raise InputError(
            "a function (x, y) → (u, v) has no steps: give the time t for which to follow it, and no steps"
        )
    if t is None:
        raise InputError("t is not given: say for how long to follow the function from its start, as t=1.0")
    check("t", t, "(0, inf)")
    return float(t), 0
