"""A layout that is computed for the first drawing of a figure and kept for the next drawings."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine


class KeptLayout(ConstrainedLayoutEngine):
    """Constrained layout whose result is kept, so that a figure that is cleared and drawn again does not jump.

    Constrained layout takes longer than the rest of a drawing. It runs again if the figure's size or the arrangement of
    its axes has changed, and after :meth:`forget`.

    Examples
    --------
    >>> figure = Figure(layout=KeptLayout())
    >>> def bottom(label):
    ...     figure.clear()
    ...     figure.subplots().set_xlabel(label)
    ...     figure.draw_without_rendering()
    ...     return float(figure.axes[0].get_position().y0)
    >>> bottom("one line") == bottom("two\\nlines")
    True
    """

    def __init__(self, **more: Any):
        super().__init__(**more)
        self._kept: tuple[Any, list, list] | None = None  # the arrangement, and the places of axes and titles

    def forget(self) -> None:
        """Compute the layout again at the next drawing."""
        self._kept = None

    def execute(self, fig: Figure) -> None:
        if self._kept is not None and self._kept[0] == arrangement(fig):
            for axes, place in zip(fig.axes, self._kept[1], strict=True):
                axes.set_position(place)
                axes.set_in_layout(True)  # set_position takes axes out of the layout, for good
            for title, place in zip(_titles(fig), self._kept[2], strict=False):
                title.set(**place)
            return
        for _ in range(2):  # the layout of axes of a fixed shape is right only at the second pass
            super().execute(fig)
        places = [axes.get_position(original=True) for axes in fig.axes]
        titles = [{"position": title.get_position(), "va": title.get_va()} for title in _titles(fig)]
        self._kept = arrangement(fig), places, titles


def arrangement(figure: Figure) -> tuple:
    """The figure's size, and which cells of which grid each of its axes fills."""
    cells = [axes.get_subplotspec() for axes in figure.axes]
    return tuple(figure.get_size_inches()), [cell and cell.get_geometry() for cell in cells], len(_titles(figure))


def _titles(figure: Figure) -> list:
    """The figure's titles that the layout moves."""
    return [text for text in figure.texts if getattr(text, "_autopos", False)]
