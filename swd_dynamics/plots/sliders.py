"""A figure that is drawn again when a slider moves."""

from base64 import b64encode
from collections.abc import Callable
from html import escape
from math import floor, log10
from typing import Any

from matplotlib.figure import Figure

from swd_dynamics.errors import InputError
from swd_dynamics.plots.style import figure_png, house_style


class Sliders:
    """A figure with a slider for each number it depends on: live in Jupyter, a picture everywhere else.

    Where no kernel runs (a page, a notebook that is only read) it is the picture as it was when it was shown.

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
        self._box: Any = None  # the widget, made when it is first shown
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
            for slider in self._box.children[:-1]:
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
                if self._box is not None:
                    self._box.children[-1].draw_idle()

    def _say(self, what: str) -> None:
        """Words in the place of the drawing."""
        self.figure.clear()
        self.figure.text(0.5, 0.5, what, ha="center", va="center", wrap=True, fontsize=11, parse_math=False)

    def _live(self) -> Any:
        """The sliders above the figure, as a widget."""
        if self._box is None:
            widgets, backend = _notebook_extra()
            made = [_slider(widgets, name, given, self.values[name]) for name, given in self.ranges.items()]
            with house_style():
                canvas = backend.Canvas(self.figure)
                backend.FigureManager(canvas, 0)
                canvas.header_visible = False
            self._box = widgets.VBox([*made, canvas])
            for slider in made:
                slider.observe(self._moved, "value")
        return self._box

    def _moved(self, change: dict) -> None:
        name, value = change["owner"].description, change["new"]
        if self.values[name] != value:
            self.values[name] = value
            self._draw()

    def _repr_mimebundle_(self, **_) -> dict[str, Any]:
        picture, words = figure_png(self.figure), repr(self)
        try:
            live = self._live()._repr_mimebundle_()
        except InputError as error:  # the picture, and why it does not move
            image = f'<img alt="{escape(words)}" src="data:image/png;base64,{b64encode(picture).decode()}"/>'
            return {"text/html": f"{image}<p>{escape(str(error))}</p>", "text/plain": f"{words}\n{error}"}
        return live | {"image/png": picture, "text/plain": words}

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


def _notebook_extra() -> tuple[Any, Any]:
    try:
        import ipywidgets
        from ipympl import backend_nbagg
    except ImportError as error:
        raise InputError(f"sliders need {error.name}: install swd-dynamics[notebook]") from None
    return ipywidgets, backend_nbagg


def _slider(widgets: Any, name: str, given: tuple, value: float) -> Any:
    low, high, _, *scale = given
    look = {"description": name, "style": {"description_width": "8em"}, "layout": widgets.Layout(width="32em")}
    if all(isinstance(number, int) for number in (low, high, value)) and not scale:
        return widgets.IntSlider(value, min=low, max=high, **look)
    look["readout_format"] = ".3g"
    if scale:
        return widgets.FloatLogSlider(value, min=log10(low), max=log10(high), step=0.02, **look)
    step = 10.0 ** floor(log10((high - low) / 40))  # round, so that a slider stops at round numbers
    return widgets.FloatSlider(value, min=low, max=high, step=step, **look)
