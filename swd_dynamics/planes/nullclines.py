"""Nullclines: curves on which one component of a planar field is zero.

A nullcline is found on a grid, located on the grid's lines by root-finding, and joined through the grid's cells. That
is more than a contour line of contourpy: the vertices are exact, zeros without a change of sign are found, and a jump
is told apart from a zero.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar

Array = NDArray[np.float64]
Component = Callable[[float, float], float]
Along = Callable[[float], float]  # the component along one line of the grid
Hit = tuple[int, float, bool]  # an edge of that line, a place on it, and whether the component is zero there or jumps
Place = tuple[str, int, int]  # an edge of the grid: "x" or "y" for its direction, row, column

MOST_HALVINGS = 1000  # of Brent's method, which takes 10, but some hundred at a multiple zero; there half is enough too
EPS = float(np.finfo(float).eps)
# Of the larger value at the ends of an edge: a change of sign at which more is left is a jump or a pole, not a zero.
# Smaller, a steep zero would be called a jump; larger, a small jump a zero.
JUMP = 0.01
# Of the larger neighbour's value: a dip that comes closer to zero touches zero. The lowest value is known to about ε,
# so that a tenth serves too; a hundred times as much would take near misses for zeros.
TOUCH = 1e-8
# Of the larger neighbour's value: a dip is searched only if a parabola through three nodes falls below this. Smaller,
# narrow dips are missed; larger, more searches find nothing.
DIP = 0.5


@dataclass(frozen=True)
class Nullcline:
    """The curves and regions on which a component is zero.

    Attributes
    ----------
    lines : tuple of array, shape (m, 2) — curves whose vertices are zeros on lines of the grid; a closed curve ends
        with its first vertex
    breaks : tuple of array, shape (m, 2) — curves across which the component changes sign without being zero
    flat : array of bool, shape (rows − 1, columns − 1) — cells of the grid with zeros at all four corners

    Examples
    --------
    dx/dt = 1 − x² − y² is zero on the unit circle:

    >>> from swd_dynamics.planes import phase_plane
    >>> circle, _ = phase_plane(lambda x, y: (1 - x * x - y * y, y)).nullclines
    >>> circle
    Nullcline(lines: 1, breaks: 0, flat: 0 of 3600 cells)
    >>> bool(np.allclose(np.hypot(*circle.lines[0].T), 1))
    True
    """

    lines: tuple[Array, ...]
    breaks: tuple[Array, ...]
    flat: NDArray[np.bool_]

    def __repr__(self) -> str:
        cells = f"{self.flat.sum()} of {self.flat.size} cells"
        return f"Nullcline(lines: {len(self.lines)}, breaks: {len(self.breaks)}, flat: {cells})"

    @property
    def everywhere(self) -> bool:
        """Whether the component is zero in the whole window."""
        return bool(self.flat.all())


def nullcline(component: Component, x: Array, y: Array, values: Array, floor: float) -> Nullcline:
    """The nullcline of a component whose values on a grid are known.

    The zero between two nodes of opposite sign is bracketed, so that a vertex is as exact as the component is computed.
    Where a component touches zero without a change of sign, its smallest value along the line of the grid is sought.
    Such a vertex is right to about √ε, and such a curve can lack the last cell before the border, or a cell where the
    curve runs along the grid. A single point at which the component is zero is not found.

    Parameters
    ----------
    component : callable (x, y) → float
        NaN where it is not defined; a curve ends there.
    x, y : array, shape (columns,) and (rows,)
        The grid, increasing.
    values : array, shape (rows, columns)
    floor : float
        The size of round-off: smaller values count as zero.

    Examples
    --------
    The circle x² + y² = 1:

    >>> at = np.linspace(-1.5, 1.6, 20)
    >>> found = nullcline(lambda x, y: x * x + y * y - 1, at, at, at**2 + at[:, None] ** 2 - 1, 1e-15)
    >>> len(found.lines), float(np.abs(np.hypot(*found.lines[0].T) - 1).max()) < 1e-14
    (1, True)
    """
    values = np.where(np.abs(values) <= floor, 0.0, values)
    signs = _signs(values)
    zeros: dict[Place, list[Array]] = defaultdict(list)
    breaks: dict[Place, list[Array]] = defaultdict(list)
    for row, height in enumerate(y):
        for i, at, is_zero in _hits(lambda s, height=height: component(s, height), x, values[row], signs[row]):
            (zeros if is_zero else breaks)["x", row, i].append(np.array([at, height]))
    for column, across in enumerate(x):
        for i, at, is_zero in _hits(lambda s, c=across: component(c, s), y, values[:, column], signs[:, column]):
            (zeros if is_zero else breaks)["y", i, column].append(np.array([across, at]))
    corners = [values[j : len(y) - 1 + j, i : len(x) - 1 + i] == 0 for j in (0, 1) for i in (0, 1)]
    flat = np.logical_and.reduce(corners)
    lines, broken = (tuple(_curves(found, component, flat.shape)) for found in (zeros, breaks))
    return Nullcline(lines, broken, flat)


def _signs(values: Array) -> Array:
    """1 or −1; 0 where not finite. A zero takes the sign of most of its neighbours, as a crossing needs a sign."""
    signs = np.where(np.isfinite(values), np.sign(values), 0.0)
    around = np.pad(signs, 1)
    most = np.sign(around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:])
    return np.where(values == 0, np.where(most == 0, 1.0, most), signs)


def _hits(along: Along, at: Array, values: Array, signs: Array) -> Iterator[Hit]:
    """The zeros and the jumps along one line of the grid."""
    crosses = (signs[:-1] * signs[1:] < 0) & ((values[:-1] != 0) | (values[1:] != 0))
    for i in np.flatnonzero(crosses):
        yield from _crossing(along, int(i), at[i], at[i + 1])
    for i in _dips(values, signs):
        yield from _touching(along, int(i), at, values, float(signs[i]))


def _crossing(along: Along, i: int, low: float, high: float) -> Iterator[Hit]:
    largest = np.nanmax(np.abs([along(low), along(high)]))
    try:
        root = bracketed(along, low, high, 2 * EPS * max(abs(low), abs(high)))
    except ValueError:  # one end is zero up to round-off, or the component is undefined in between
        root = next((end for end in (low, high) if abs(along(end)) <= JUMP * largest), np.nan)
    if np.isfinite(root):
        yield i, root, bool(abs(along(root)) <= JUMP * largest)


def bracketed(function: Along, low: float, high: float, tolerance: float) -> float:
    """The zero between two points of opposite sign; ValueError if the signs are equal or a value between is NaN."""
    exactness: Any = {"xtol": tolerance, "rtol": 4 * EPS, "maxiter": MOST_HALVINGS}
    root: Any = brentq(function, low, high, **exactness)
    return float(root)


def _dips(values: Array, signs: Array) -> NDArray[np.int_]:
    """Inner nodes with a minimum of |values| of one sign, which a parabola through three nodes puts near zero."""
    before, size, after = (np.abs(part) for part in (values[:-2], values[1:-1], values[2:]))
    same = (signs[:-2] * signs[1:-1] > 0) & (signs[1:-1] * signs[2:] > 0)
    lowest = same & (before > 0) & (after > 0) & (size <= before) & (size <= after)
    lowest &= size < before + after - size
    bend = np.where(lowest, before + after - 2 * size, 1.0)
    bottom = size - (after - before) ** 2 / (8 * bend)
    return np.flatnonzero(lowest & (bottom <= DIP * np.maximum(before, after))) + 1


def _touching(along: Along, i: int, at: Array, values: Array, sign: float) -> Iterator[Hit]:
    """Where the component touches zero near a node, or crosses zero twice between two nodes."""
    ends = (at[i - 1], at[i + 1])
    options = {"xatol": EPS * (ends[1] - ends[0])}
    found: Any = minimize_scalar(lambda s: sign * along(s), bounds=ends, method="bounded", options=options)
    candidates = ((at[i], sign * values[i]), (float(found.x), float(found.fun)))
    lowest, bottom = min(candidates, key=lambda pair: pair[1])
    edge = i if lowest >= at[i] else i - 1
    largest = np.abs(values[[i - 1, i + 1]]).max()
    if bottom < -TOUCH * largest:
        for low, high in pairwise((at[edge], lowest, at[edge + 1])):
            yield from _crossing(along, edge, low, high)
    elif bottom <= TOUCH * largest:
        yield edge, float(lowest), True


def _curves(hits: dict[Place, list[Array]], component, shape: tuple[int, ...]) -> Iterator[Array]:
    """Hits on the edges of the grid, joined through its cells into curves."""
    neighbours: dict[tuple, list[tuple]] = defaultdict(list)
    places: dict[tuple, Array] = {}
    for edge, points in hits.items():
        places |= {(*edge, n): point for n, point in enumerate(points)}
    cells = {cell for edge in hits for cell in _cells(edge)}
    for row, column in sorted((j, i) for j, i in cells if 0 <= j < shape[0] and 0 <= i < shape[1]):
        around = [key for edge, turned in _perimeter(row, column) for key in _keys(hits, edge, turned)]
        for first, second in _pairs(around, places, component):
            neighbours[first].append(second)
            neighbours[second].append(first)
    while neighbours:
        start = next((key for key, near in neighbours.items() if len(near) == 1), next(iter(neighbours)))
        yield np.array([places[key] for key in _walk(neighbours, start)])


def _cells(edge: Place) -> tuple[tuple[int, int], tuple[int, int]]:
    """The two cells that share an edge; one of them may lie outside the grid."""
    direction, row, column = edge
    return (row, column), (row - 1, column) if direction == "x" else (row, column - 1)


def _perimeter(row: int, column: int) -> tuple[tuple[Place, bool], ...]:
    """The four edges of a cell, anticlockwise, and whether each edge is passed backwards."""
    bottom, right, top = ("x", row, column), ("y", row, column + 1), ("x", row + 1, column)
    return (bottom, False), (right, False), (top, True), (("y", row, column), True)


def _keys(hits: dict[Place, list[Array]], edge: Place, backwards: bool) -> list[tuple]:
    """The hits on an edge, in the order in which they are met."""
    points = hits.get(edge, [])
    axis = 0 if edge[0] == "x" else 1
    keys = [(*edge, n) for n in range(len(points))]
    return sorted(keys, key=lambda key: points[key[3]][axis], reverse=backwards)


def _pairs(around: list[tuple], places: dict[tuple, Array], component) -> list[tuple[tuple, tuple]]:
    """The pairs of hits around a cell that a curve joins: of the pairings without crossing, the smallest in between."""
    if len(around) == 2:
        return [(around[0], around[1])]

    def between(pairs) -> float:
        return float(np.nansum([abs(component(*(places[a] + places[b]) / 2)) for a, b in pairs]))

    turns = [around[turn:] + around[:turn] for turn in range(min(len(around), 2 + len(around) % 2))]
    pairings = [list(zip(turn[::2], turn[1::2], strict=False)) for turn in turns]
    return min(pairings, key=between, default=[])


def _walk(neighbours: dict[tuple, list[tuple]], at: tuple) -> Iterator[tuple]:
    """From hit to hit along connections that are removed when they are used."""
    yield at
    while at in neighbours:
        after = neighbours[at].pop()
        neighbours[after].remove(at)
        for key in (at, after):
            if not neighbours[key]:
                neighbours.pop(key, None)
        yield after
        at = after
