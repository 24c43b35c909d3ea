"""A figure that is drawn again when a slider moves."""

from base64 import b64encode
from collections.abc import Callable
from math import floor, log10
from typing import Any
from uuid import uuid4

import matplotlib
from matplotlib.figure import Figure

from swd_dynamics.errors import InputError
from swd_dynamics.plots.style import figure_png, house_style

LOG_STEP = 0.02  # of a power of ten


class Sliders:
    """A figure with a slider for each number it depends on: live in Jupyter, a picture everywhere else.

    The picture is an output of its own, which a saved notebook keeps as it was last. After ``%matplotlib widget``
    (ipympl) it is a canvas in which one can zoom, and nothing is kept.

    Parameters
    ----------
    draw : callable (figure, **values)
        Draws on an empty figure. An error for people (:class:`~swd_dynamics.errors.InputError`) is shown in its place.
    size : tuple of two floats
        Of the figure, in inches.
    **ranges : tuple of three numbers, or four
        Of each slider: smallest, largest and first value, in the order of arguments; ``"log"`` as a fourth for a
        logarithmic one. Three whole numbers make a slider of whole numbers.

    Raises
    ------
    InputError
        If a range is not one.

    Examples
    --------
    >>> def line(figure, slope):
    ...     figure.subplots().plot([0, 1], [0, slope])
    >>> moving = Sliders(line, slope=(0.0, 2.0, 0.5))
    >>> moving.set(slope=2.0)
    >>> moving.figure.axes[0].lines[0].get_ydata().tolist()
    [0.0, 2.0]
    """

    def __init__(self, draw: Callable[..., Any], *, size: tuple[float, float] = (7.2, 4.2), **ranges: tuple):
        if not ranges:
            raise InputError("give at least one slider, as lr=(0.01, 1, 0.1)")
        self.draw = draw
        with house_style():
            self.figure = Figure(figsize=size)
        self.ranges = {name: _checked(name, given) for name, given in ranges.items()}
        self.values = {name: start for name, (_, _, start, *_) in self.ranges.items()}
        self._id = uuid4().hex  # of the picture, wherever it is shown
        self._box: Any = None  # the sliders, made when they are first shown
        self._canvas: Any = None
        self._draw()

    def set(self, **values: float) -> None:
        """Move sliders, and draw again.

        Raises
        ------
        InputError
            If there is no such slider, or the value is beyond its ends.
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
        self.figure.clear()
        with house_style():
            try:
                self.draw(self.figure, **self.values)
            except InputError as error:
                self._say(str(error))
            except Exception as error:
                self._say(f"{type(error).__name__}: {error}")
                raise
            finally:
                self._refresh()

    def _refresh(self) -> None:
        """Put what was drawn where it is shown."""
        if self._canvas is not None:
            self._canvas.draw_idle()
        elif self._box is not None:
            self._publish(update=True)

    def _say(self, what: str) -> None:
        """Words in the place of the drawing."""
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
        except InputError as error:  # the picture can be seen all the same
            print(error)
        if "ipympl" in str(matplotlib.get_backend(auto_select=False)) and self._canvas is None:
            self._canvas = _canvas(self.figure)
        if self._canvas is not None:
            display(self._canvas)
        else:
            self._publish()

    def _publish(self, update: bool = False) -> None:
        from IPython.display import display

        picture = {"image/png": b64encode(figure_png(self.figure)).decode(), "text/plain": repr(self.figure)}
        display(picture, raw=True, display_id=self._id, update=update)

    def __repr__(self) -> str:
        ends = {name: f"{low:g} to {high:g}" for name, (low, high, *_) in self.ranges.items()}
        set_to = ", ".join(f"{name} = {value:g} ({ends[name]})" for name, value in self.values.items())
        return f"sliders for {set_to}; they move where a Jupyter kernel runs"


def _checked(name: str, given: tuple) -> tuple:
    """A slider's range."""
    try:
        low, high, start, *scale = given
        good = low < high and low <= start <= high and scale in ([], ["log"]) and (not scale or low > 0)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(
            f"{name} = {given!r} is no range of a slider: give the smallest, the largest and a value between, as"
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
    """ipympl's canvas, which is there where its backend is."""
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
        below = floor((log10(value) - log10(low)) / LOG_STEP)  # steps, so that the first value is one of the slider's
        least = log10(value) - below * LOG_STEP
        return widgets.FloatLogSlider(value, min=least, max=log10(high), step=LOG_STEP, **look)
    step = 10.0 ** floor(log10((high - low) / 40))  # round, so that a slider stops at round numbers
    return widgets.FloatSlider(value, min=low, max=high, step=step, **look)
