"""What theory predicts, as lines, and what runs did, as points."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.plots.style import LABELS, house_style, measured, theory

NOT_SHOWN = "points that are not shown"
Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]


def lines_and_points(
    lines: Curves, points: Curves, *, title: str, figure: Figure | None = None, **settings: Any
) -> Figure:
    """Predictions as lines and measurements as points, in the colours of their decay modes.

    Parameters
    ----------
    lines, points : dict of str to (x, y)
        The predictions and the measurements by decay mode: "none", "L2", "decoupled", "stable" or "unknown".
    title : str
    figure : Figure, optional
        The figure to draw on; by default a new figure. On a figure that this function has drawn, it moves the lines and
        points that are there, which takes half the time.
    **settings
        Of the axes, such as ``xlabel``, ``ylabel``, ``yscale`` and ``ylim``. A note says how many points are beyond
        the ends of ``ylim``, or are not above 0 on a logarithmic axis.

    Raises
    ------
    InputError
        If there is no such decay mode.

    Examples
    --------
    >>> figure = lines_and_points({"L2": ([0, 1], [0, 2])}, {"L2": ([0.5], [1])}, title="A slope of 2", xlabel="x")
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['L2, theory', 'L2, measured']
    """
    with house_style():
        figure = figure or Figure(figsize=(7.2, 4.0))
        axes = figure.axes[0] if figure.axes else figure.subplots()
        modes = dict.fromkeys([*lines, *points])
        for mode in modes:  # a line and its points are one column of the legend
            for curves, look in ((lines, theory), (points, measured)):
                if mode in curves:
                    _plot_or_move(axes, *curves[mode], look(mode))
        _change(axes, settings)
        if not figure.legends:
            figure.legend(loc="outside lower center", ncols=len(modes) or 1)
        figure.suptitle(title)
        _say_what_is_not_shown(axes, points, settings.get("ylim"))
    return figure


def _change(axes: Axes, settings: dict[str, Any]) -> None:
    """Change only what differs, and labels without their axis: otherwise all ticks are made and drawn again."""
    for name, value in settings.items():
        label = {"xlabel": axes.xaxis.label, "ylabel": axes.yaxis.label}.get(name)
        if label is not None:
            label.set_text(value)
        elif not _is_already(axes, name, value):
            axes.set(**{name: value})


def _is_already(axes: Axes, name: str, value: Any) -> bool:
    now: Any = getattr(axes, f"get_{name}", None)  # not every setting can be asked for
    return now is not None and np.array_equal(now(), value)


def _say_what_is_not_shown(axes: Axes, points: Curves, ends: Any) -> None:
    """How many points lie beyond the ends of the vertical axis, or are not above 0 on a logarithmic axis."""
    low, high = ends or (-np.inf, np.inf)
    low = max(low, np.nextafter(0, 1)) if axes.get_yscale() == "log" else low
    hidden = {mode: int(np.sum((values < low) | (values > high))) for mode, values in _heights(points)}
    listed = ", ".join(f"{count} of {LABELS.get(mode, mode)}" for mode, count in hidden.items() if count)
    note = next((text for text in axes.texts if text.get_gid() == NOT_SHOWN), None)
    if note is None:
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "bottom", "fontsize": 8}
        note = axes.text(1, 1.005, "", gid=NOT_SHOWN, color="#555555", **place)  # above the axes, where no point is
    note.set_text(f"points beyond this axis: {listed}" if listed else "")


def _heights(points: Curves) -> Iterator[tuple[str, NDArray]]:
    return ((mode, np.asarray(y, float)) for mode, (_, y) in points.items())


def _plot_or_move(axes: Axes, x: ArrayLike, y: ArrayLike, style: dict) -> None:
    drawn = next((line for line in axes.lines if line.get_label() == style["label"]), None)
    if drawn is None:
        axes.plot(x, y, **style)
    else:
        before = axes.dataLim.frozen()
        drawn.set_data(x, y)
        axes.relim()
        changed = axes.dataLim
        axes.autoscale_view(
            scalex=tuple(before.intervalx) != tuple(changed.intervalx),
            scaley=tuple(before.intervaly) != tuple(changed.intervaly),
        )
