"""The pixels of axes and legends, kept from drawing to drawing while what lies above them moves."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from swd_dynamics.plots.kept_layout import arrangement


class KeptBackground:
    """The pixels of ticks, tick labels, grids and figure legends, which take most of the time of a drawing.

    The pixels are used again as long as none of these has changed. Then only what lies above them is drawn: curves,
    points, titles and the labels of axes.

    Parameters
    ----------
    figure : matplotlib Figure

    Examples
    --------
    >>> figure = Figure(figsize=(2, 2))
    >>> (line,) = figure.subplots().plot([0, 1], [0, 1])
    >>> canvas, background = FigureCanvasAgg(figure), KeptBackground(figure)
    >>> background.draw(canvas)
    >>> line.set_ydata([1, 0])
    >>> background.draw(canvas)
    >>> moved = bytes(canvas.buffer_rgba())
    >>> canvas.draw()
    >>> moved == bytes(canvas.buffer_rgba())
    True
    """

    def __init__(self, figure: Figure):
        self.figure = figure
        self._drawn: tuple | None = None  # the background of the last drawing, by its artists and places
        self._pixels: Any = None
        figure.canvas.mpl_connect("draw_event", self._forget)  # another drawing takes away the marks of a change

    def _forget(self, event: Any = None) -> None:
        self._drawn = self._pixels = None

    def draw(self, canvas: FigureCanvasAgg) -> None:
        """Draw the figure: all of it if its background has changed, otherwise only what lies above."""
        changed = self._drawn != _identity(self.figure) or any(part.stale for part in _parts(self.figure))
        pixels = None if changed else self._pixels
        if changed or not (pixels or _can_be_split(self.figure)):
            canvas.draw()
        else:
            pixels = pixels or _pixels(canvas)
            _draw_above(canvas, pixels)
        for part in _parts(self.figure):
            part.stale = False
        self._drawn, self._pixels = _identity(self.figure), pixels


def _pixels(canvas: FigureCanvasAgg) -> Any:
    with _hidden(_above(canvas.figure)):
        canvas.draw()
    return canvas.copy_from_bbox(canvas.figure.bbox)


def _draw_above(canvas: FigureCanvasAgg, pixels: Any) -> None:
    canvas.restore_region(pixels)
    renderer = canvas.get_renderer()
    with _hidden(_below(canvas.figure)):
        canvas.figure.draw(renderer)
    for label in _labels(canvas.figure):
        label.draw(renderer)


@contextmanager
def _hidden(artists: Iterable[Artist]) -> Iterator[None]:
    visible = [artist for artist in artists if artist.get_visible()]
    for artist in visible:
        artist.set_visible(False)
    try:
        yield
    finally:
        for artist in visible:
            artist.set_visible(True)


def _below(figure: Figure) -> list[Artist]:
    """The background: in each axes everything up to the last of its axis lines, grids and ticks, and the legends."""
    return [figure.patch, *(artist for axes in figure.axes for artist in _below_curves(axes)), *figure.legends]


def _below_curves(axes: Axes) -> list[Artist]:
    drawn = sorted(axes.get_children(), key=lambda artist: artist.get_zorder())
    last = max((drawn.index(axis) for axis in (axes.xaxis, axes.yaxis)), default=-1)
    return [axes.patch, *drawn[: last + 1]]


def _above(figure: Figure) -> list[Artist]:
    children = [*figure.get_children(), *(artist for axes in figure.axes for artist in axes.get_children())]
    background = {*_below(figure), *figure.axes}
    return [artist for artist in children if artist not in background] + _labels(figure)


def _labels(figure: Figure) -> list[Artist]:
    """The labels of the axes, which are drawn with the ticks but may change without the ticks."""
    return [
        axis.label for axes in figure.axes if axes.axison for axis in (axes.xaxis, axes.yaxis) if axis.get_visible()
    ]


def _parts(figure: Figure) -> list[Artist]:
    """All parts of the background, without the labels of the axes."""
    parts = {part for artist in _below(figure) for part in artist.findobj()}
    return list(parts.difference(_labels(figure)))


def _identity(figure: Figure) -> tuple:
    """What cannot differ between two drawings that share a background, besides the look of its parts."""
    shown = [(axes.get_visible(), axes.axison, axes.get_frame_on(), axes.bbox.bounds) for axes in figure.axes]
    return _below(figure), arrangement(figure), figure.dpi, shown


def _can_be_split(figure: Figure) -> bool:
    """Whether nothing of the background can lie above a curve."""
    areas = [axes.bbox for axes in figure.axes]
    legends = [legend.get_window_extent() for legend in figure.legends]
    covered = any(legend.overlaps(area) for legend in legends for area in areas)
    return not (figure.subfigs or covered or any(one.overlaps(other) for one, other in combinations(areas, 2)))
