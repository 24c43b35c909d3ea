"""Phase planes, drawn."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from swd_dynamics.errors import InputError
from swd_dynamics.plots.style import LABELS, LOOKS, house_style, measured, with_remark

if TYPE_CHECKING:
    from swd_dynamics.planes import FixedPoint, PhasePlane

FIELD, NULL, INK = "#BDBDBD", "#CC79A7", "#222222"  # NULL is Okabe & Ito's purple, which no decay mode has
DASHES: tuple[Any, Any] = ("-", (0, (5, 2)))  # of the two nullclines, which differ without colour too
HEIGHT, LEGEND = 5.2, 2.6  # inches: the height of a figure, and the width of its legend; narrower, texts are cut off
NAMED = 6  # fixed points that a legend lists one by one; with twice as many the list is higher than the figure
FIXED_POINT_MARKERS = {  # filled: attracting; open: repelling; half filled: a saddle
    "stable": {"marker": "o", "markerfacecolor": INK},
    "unstable": {"marker": "o", "markerfacecolor": "white"},
    "saddle": {"marker": "o", "fillstyle": "left", "markerfacecolor": INK, "markerfacecoloralt": "white"},
}
OTHER_MARKER = {"marker": "D", "markerfacecolor": "white"}  # centre, degenerate, no linearisation


def phase_plane(of, gradient=None, *, title: str | None = None, figure: Figure | None = None, **plane) -> Figure:
    """A phase plane: the field's streamlines, its nullclines, its fixed points, its orbits and the optimizer's steps.

    Parameters
    ----------
    of : Flow, UpdateRule, callable or PhasePlane
        An argument of :func:`swd_dynamics.planes.phase_plane`, or the plane that it returned.
    gradient : callable, optional
        Gradient of the loss, for a rule.
    title : str, optional
        By default the equation and its fixed points.
    figure : Figure, optional
        The figure to draw on; by default a new figure.
    **plane
        ``x, y, start, steps, t, iterates_of, origin, directions, hvp, nodes``: see
        :func:`swd_dynamics.planes.phase_plane`.

    Returns
    -------
    Figure
        μ are the eigenvalues of the flow's Jacobian, per unit of time; z are the eigenvalues of the optimizer's step.

    Raises
    ------
    InputError
        As :func:`swd_dynamics.planes.phase_plane`; or if more arguments are given with a plane that is computed.

    Examples
    --------
    >>> figure = phase_plane(lambda x, y: (y, -x - y))
    >>> [text.get_text() for text in figure.legends[0].get_texts()][0]
    'stable focus (0, 0)\\neigenvalues μ = −0.5 ± 0.866i'
    """
    from swd_dynamics import (
        planes,
    )  # imported here because scipy and sympy come with it, which other drawings do not need

    if isinstance(of, planes.PhasePlane):
        if gradient is not None or plane:
            raise InputError("the plane is computed already: give such arguments to planes.phase_plane")
        return _figure(of, title, figure)
    return _figure(planes.phase_plane(of, gradient, **plane), title, figure)


def _figure(plane: "PhasePlane", title: str | None, figure: Figure | None) -> Figure:
    with house_style():
        figure = figure or Figure(figsize=(_width(plane), HEIGHT))
        axes = figure.subplots()
        _draw_field(axes, plane)
        handles = [*_draw_rest(axes, plane), *_draw_nullclines(axes, plane), *_draw_courses(axes, plane)]
        low, high = (np.array([plane.x[end], plane.y[end]]) for end in (0, -1))
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel=plane.labels[0], ylabel=plane.labels[1])
        axes.grid(False)
        if plane.alike:
            axes.set_aspect("equal")
        figure.legend(handles=handles, loc="outside right upper", labelspacing=0.8)
        figure.suptitle(title or f"{plane.what}: {plane.summary}", x=0.01, ha="left", fontsize=12)
        if plane.notes:
            figure.supxlabel("\n".join(plane.notes), x=0.01, ha="left", fontsize=8, color="#555555")
        figure.draw_without_rendering()  # the layout of axes of a fixed shape is right only at the second pass
    return figure


def _width(plane: "PhasePlane") -> float:
    """The width of the figure in inches; where both axes have the same scale, it fits the drawing and the legend."""
    shape = (plane.x[-1] - plane.x[0]) / (plane.y[-1] - plane.y[0])
    return float(np.clip(HEIGHT * shape, 3.0, 7.0)) + LEGEND if plane.alike else 8.6


def _draw_field(axes, plane: "PhasePlane") -> None:
    """Light streamlines on the evenly spaced part of the grid. They show the direction of the field, not its speed."""
    u, v = np.ma.masked_invalid(plane.field[:, 1:-1, 1:-1])
    if np.hypot(u, v).max() > 0:
        x, y = plane.x[1:-1], plane.y[1:-1]
        axes.streamplot(x, y, u, v, color=FIELD, linewidth=0.7, arrowsize=0.8, density=1.1, zorder=1)


def _draw_nullclines(axes, plane: "PhasePlane") -> list:
    handles = []
    for label, line, dashes in zip(plane.labels, plane.nullclines, DASHES, strict=True):
        name = f"d{label.split(',')[0]}/dt"
        style: dict[str, Any] = {"color": NULL, "linewidth": 1.6, "linestyle": dashes, "zorder": 2}
        if line.flat.any():
            _shade(axes, plane, line.flat)
            handles.append(Patch(color=NULL, alpha=0.18, label=f"{name} = 0, a region"))
        handles += _draw_curves(axes, line.lines, style, f"{name} = 0")
        handles += _draw_curves(axes, line.breaks, style | {"linestyle": ":"}, f"{name} jumps past 0")
    return handles


def _shade(axes, plane: "PhasePlane", flat: NDArray[np.bool_]) -> None:
    axes.pcolormesh(
        plane.x, plane.y, np.ma.masked_equal(flat, False), cmap=ListedColormap([NULL]), alpha=0.18, zorder=0
    )


def _draw_curves(axes, curves, style: dict[str, Any], label: str) -> list[Line2D]:
    for curve in curves:
        axes.plot(*curve.T, **style)
    return [Line2D([], [], **style, label=label)] if curves else []


def _draw_rest(axes, plane: "PhasePlane") -> list:
    style: dict[str, Any] = {"color": INK, "linewidth": 4, "solid_capstyle": "round", "zorder": 3}
    kinds = sorted({line.kind for line in plane.fixed_lines})
    handles = []
    for kind in kinds:
        curves = [line.points for line in plane.fixed_lines if line.kind == kind]
        handles += _draw_curves(axes, curves, style, _line_label(kind))
    several = 1 < len(plane.fixed_points) <= NAMED
    for number, point in enumerate(plane.fixed_points, 1):
        axes.plot(*point.point, **_mark(point), zorder=6)
        if several:
            box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
            axes.annotate(str(number), point.point, (6, 6), textcoords="offset points", fontsize=9, bbox=box, zorder=6)
    return handles + (_named(plane) if len(plane.fixed_points) <= NAMED else _counted(plane))


def _line_label(kind: str) -> str:
    return "fixed points, a line" if kind == "neither" else f"fixed points, an {kind} line".replace("an r", "a r")


def _mark(point: "FixedPoint") -> dict[str, Any]:
    matching = (marker for word, marker in FIXED_POINT_MARKERS.items() if point.kind.startswith(word))
    return {"linestyle": "none", "color": INK, "markersize": 8, **next(matching, OTHER_MARKER)}


def _named(plane: "PhasePlane") -> list[Line2D]:
    handles = []
    for number, point in enumerate(plane.fixed_points, 1):
        name = f"{number}  " if len(plane.fixed_points) > 1 else ""
        where = "" if point.whole else "\nat rest in this slice only"
        text = f"{name}{point.kind} {point.place()}\n{point.described()}{where}".replace("; ", "\n")
        handles.append(Line2D([], [], **_mark(point), label=text))
    return handles


def _counted(plane: "PhasePlane") -> list[Line2D]:
    counts = Counter(point.kind for point in plane.fixed_points)
    marks = {point.kind: _mark(point) for point in plane.fixed_points}
    return [Line2D([], [], **marks[kind], label=f"{kind} ({counts[kind]})") for kind in sorted(counts)]


def _draw_courses(axes, plane: "PhasePlane") -> list[Line2D]:
    style: dict[str, Any] = {"color": INK, "linewidth": 1.4, "zorder": 4}
    handles = _draw_curves(axes, plane.orbits, style, "the flow")
    for run in plane.iterates:
        mode = run.decay if run.decay in LOOKS else "unknown"
        name = with_remark(LABELS.get(run.name, run.name), mode)
        points: dict[str, Any] = measured(mode, label=f"{name}, steps", markersize=4, zorder=5)
        for path in run.paths:
            axes.plot(*_near(path, plane).T, **points)
        handles.append(Line2D([], [], **points))
    return handles


def _near(path: NDArray[np.float64], plane: "PhasePlane") -> NDArray[np.float64]:
    """The steps of a run in the window; steps that are very far outside could overflow in the drawing."""
    with np.errstate(invalid="ignore"):
        seen = (path[:, 0] >= plane.x[0]) & (path[:, 0] <= plane.x[-1])
        return path[seen & (path[:, 1] >= plane.y[0]) & (path[:, 1] <= plane.y[-1])]
