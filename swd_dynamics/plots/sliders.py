"""A figure that is drawn again when a slider moves.

ipywidgets' own interactive output keeps no picture in a saved notebook. The picture here is an output of its own, so
that a reader without a kernel sees it.
"""

from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from math import floor, log10
from typing import Any
from uuid import uuid4

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import NullLocator

from swd_dynamics.errors import InputError
from swd_dynamics.plots.kept_background import KeptBackground
from swd_dynamics.plots.kept_layout import KeptLayout
from swd_dynamics.plots.style import figure_png, house_style

LOG_STEP = 0.02  # powers of ten, the step of a logarithmic slider: 5 %. Doubled, a slider jumps visibly


class Sliders:
    """A figure with a slider for each number that it depends on: live in Jupyter, a picture everywhere else.

    A saved notebook keeps the last picture. After ``%matplotlib widget`` (ipympl) the figure is a canvas that can be
    zoomed, and a saved notebook keeps no picture.

    Parameters
    ----------
    draw : callable (figure, **values) → None or callable (**values)
        Draws on an empty figure. The layout of the first drawing is kept. If ``draw`` returns a function, each move
        calls this function, which changes what is drawn and takes half the time of a new drawing. If either raises
        :class:`~swd_dynamics.errors.InputError`, the figure shows the message.
    size : tuple of two floats
        Width and height of the figure, in inches.
    **ranges : tuple of three numbers, or of three numbers and ``"log"``
        For each argument of ``draw``: the smallest, the largest and the first value of its slider. With ``"log"`` the
        slider is logarithmic. Three whole numbers make a slider of whole numbers.

    Raises
    ------
    InputError
        If no range is given, or its first value does not lie between its ends.

    Examples
    --------
    >>> def line(figure, slope):
    ...     figure.subplots().plot([0, 1], [0, slope])
    >>> moving = Sliders(line, slope=(0.0, 2.0, 0.5))
    >>> moving.set(slope=2.0)
    >>> moving.figure.axes[0].lines[0].get_ydata().tolist()
    [0.0, 2.0]

    The same, drawn once and then changed in place:

    >>> def line(figure, slope):
    ...     (drawn,) = figure.subplots().plot([0, 1], [0, slope])
    ...     return lambda slope: drawn.set_ydata([0, slope])
    >>> moving = Sliders(line, slope=(0.0, 2.0, 0.5))
    >>> moving.set(slope=2.0)
    >>> moving.figure.axes[0].lines[0].get_ydata()
    [0, 2.0]
    """

    def __init__(self, draw: Callable[..., Any], *, size: tuple[float, float] = (7.2, 4.2), **ranges: tuple):
        if not ranges:
            raise InputError("give at least one slider, as lr=(0.01, 1, 0.1)")
        self.draw = draw
        with house_style():
            self._layout = KeptLayout()
            self.figure = Figure(figsize=size, layout=self._layout)
        self._background = KeptBackground(self.figure)
        self.ranges = {name: _checked(name, given) for name, given in ranges.items()}
        self.values = {name: start for name, (_, _, start, *_) in self.ranges.items()}
        self._id = uuid4().hex  # of the picture, in every place where it is shown
        self._box: Any = None  # the sliders, which are made when they are first shown
        self._canvas: Any = None
        self._move: Callable[..., Any] | None = None  # changes what is drawn, where ``draw`` has returned this
        self._draw()

    def set(self, **values: float) -> None:
        """Move sliders, and draw again.

        Raises
        ------
        InputError
            If there is no such slider, or the value is beyond the ends of the slider.
        """
        for name, value in values.items():
            if name not in self.ranges:
                raise InputError(f"there is no slider {name!r}; there are {', '.join(self.ranges)}")
            _checked(name, (*self.ranges[name][:2], value, *self.ranges[name][3:]))
        self.values |= values
        if self._box is not None:
            for slider in self._box.children:
                slider.value = self.values[slider.description]
        self._draw()

    def _draw(self) -> None:
        with house_style():
            try:
                if self._move is None:
                    self.figure.clear()
                    returned = self.draw(self.figure, **self.values)
                    self._move = returned if callable(returned) else None
                else:
                    self._move(**self.values)
                _without_minor_ticks(self.figure)
            except InputError as error:
                self._say(str(error))
            except Exception as error:
                self._say(f"{type(error).__name__}: {error}")
                raise
            finally:
                self._refresh()

    def _refresh(self) -> None:
        """Show the new drawing wherever the figure is shown."""
        if self._canvas is not None:
            self._canvas.draw_idle()
        elif self._box is not None:
            self._publish(update=True)

    def _say(self, what: str) -> None:
        """Show a sentence in place of the drawing, which the next move draws on an empty figure."""
        self._move = None
        self.figure.clear()
        self.figure.text(0.5, 0.5, what, ha="center", va="center", wrap=True, fontsize=11, parse_math=False)

    def _live(self) -> Any:
        """The sliders, as a widget."""
        if self._box is None:
            widgets = _ipywidgets()
            made = [_slider(widgets, name, given, self.values[name]) for name, given in self.ranges.items()]
            self._box = widgets.VBox(made)
            for slider in made:
                slider.observe(self._moved, "value")
        return self._box

    def _moved(self, change: dict) -> None:
        name, value = change["owner"].description, change["new"]
        if self.values[name] != value:
            self.values[name] = value
            self._draw()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        try:
            sliders = self._live()._repr_mimebundle_() | {"text/plain": repr(self)}
            display(sliders, raw=True)
        except InputError as error:  # without ipywidgets the picture is still shown
            print(error)
        if "ipympl" in str(matplotlib.get_backend(auto_select=False)) and self._canvas is None:
            self._canvas = _canvas(self.figure)
        if self._canvas is not None:
            display(self._canvas)
        else:
            self._publish()

    def _publish(self, update: bool = False) -> None:
        from IPython.display import display

        png = self._moved_png() if update else figure_png(self.figure)
        picture = {"image/png": b64encode(png).decode(), "text/plain": repr(self.figure)}
        display(picture, raw=True, display_id=self._id, update=update)

    def _moved_png(self) -> bytes:
        """The picture after a move: only what changed is drawn, where savefig draws twice, and compressed fast."""
        with house_style():
            canvas = self.figure.canvas
            if not isinstance(canvas, FigureCanvasAgg):
                canvas = FigureCanvasAgg(self.figure)  # kept by the figure, and with it the sizes of its texts
            self._background.draw(canvas)
            if _cut_off(self.figure):
                self._layout.forget()
                canvas.draw()
        buffer = BytesIO()
        imsave(buffer, canvas.buffer_rgba(), format="png", pil_kwargs={"compress_level": 1})
        return buffer.getvalue()

    def __repr__(self) -> str:
        ends = {name: f"{low:g} to {high:g}" for name, (low, high, *_) in self.ranges.items()}
        set_to = ", ".join(f"{name} = {value:g} ({ends[name]})" for name, value in self.values.items())
        return f"sliders for {set_to}; they move where a Jupyter kernel runs"


def _checked(name: str, given: tuple) -> tuple:
    """The range of a slider, if it is one."""
    try:
        low, high, start, *scale = given
        good = low < high and low <= start <= high and scale in ([], ["log"]) and (not scale or low > 0)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(
            f"{name} = {given!r} is not a range of a slider: give the smallest, the largest and a value between, as"
            ' (0.0, 1.0, 0.5), or (0.01, 1.0, 0.1, "log") for a logarithmic slider of positive numbers'
        )
    return tuple(given)


def _ipywidgets() -> Any:
    try:
        import ipywidgets
    except ImportError:
        raise InputError("sliders need ipywidgets: install swd-dynamics[notebook]") from None
    return ipywidgets


def _canvas(figure: Figure) -> Any:
    """ipympl's canvas; its backend is in use, so that it is installed."""
    from ipympl import backend_nbagg

    with house_style():
        canvas = backend_nbagg.Canvas(figure)
        backend_nbagg.FigureManager(canvas, 0)
    canvas.header_visible = False
    return canvas


def _slider(widgets: Any, name: str, given: tuple, value: float) -> Any:
    low, high, _, *scale = given
    look = {"description": name, "style": {"description_width": "8em"}, "layout": widgets.Layout(width="32em")}
    if all(isinstance(number, int) for number in (low, high, value)) and not scale:
        return widgets.IntSlider(value, min=low, max=high, **look)
    look["readout_format"] = ".3g"
    if scale:
        below = floor((log10(value) - log10(low)) / LOG_STEP)  # whole steps, so that the slider reaches the first value
        least = log10(value) - below * LOG_STEP
        return widgets.FloatLogSlider(value, min=least, max=log10(high), step=LOG_STEP, **look)
    step = 10.0 ** floor(log10((high - low) / 40))  # a power of ten, so that a slider stops at round numbers
    return widgets.FloatSlider(value, min=low, max=high, step=step, **look)


def _without_minor_ticks(figure: Figure) -> None:
    """Remove the minor ticks of logarithmic axes over two decades or more: they take half the time of a drawing."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            if (
                axis.get_scale() == "log"
                and high >= 100 * low
                and not isinstance(axis.get_minor_locator(), NullLocator)
            ):
                axis.minorticks_off()  # done again, it would change the axis, and all of it would be drawn again


def _cut_off(figure: Figure) -> bool:
    """Whether an axis label has moved beyond the edge of the figure, as it does if tick labels get longer."""
    labels = [axis.label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    boxes = [label.get_window_extent() for label in labels if label.get_text()]
    return any(np.any(box.min < figure.bbox.min) or np.any(box.max > figure.bbox.max) for box in boxes)
