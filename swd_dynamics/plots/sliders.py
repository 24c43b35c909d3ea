"""A figure that is drawn again when a slider moves."""

from collections.abc import Callable
from math import floor, log10
from typing import Any

from matplotlib.figure import Figure

from swd_dynamics.errors import InputError
from swd_dynamics.plots.style import figure_png, house_style


class Sliders:
    """A figure with a slider for each number it depends on: live in Jupyter, a picture everywhere else.

    Where no kernel runs (a page, a notebook that is only read) it is the picture that was drawn last.

    Parameters
    ----------
    draw : callable (figure, **values)
        Draws on an empty figure. An error for people (:class:`~swd_dynamics.errors.InputError`) is shown in its place.
    size : tuple of two floats
        Of the figure, in inches.
    **ranges : tuple of three numbers, or four
        Of each slider: smallest, largest and first value, in the order of arguments; ``"log"`` as a fourth for a
        logarithmic one.

    Raises
    ------
    InputError
        If a range is not one, or the extra ``notebook`` is not installed.

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
        self._canvas: Any = None
        self._draw()

    def set(self, **values: float) -> None:
        """Move sliders, and draw again."""
        self.values |= values
        self._draw()

    def _draw(self) -> None:
        self.figure.clear()
        with house_style():
            try:
                self.draw(self.figure, **self.values)
            except InputError as error:
                self.figure.clear()
                self.figure.text(0.5, 0.5, str(error), ha="center", va="center", wrap=True, fontsize=11)
        if self._canvas is not None:
            self._canvas.draw_idle()

    def _live(self) -> Any:
        """The sliders above the figure, as a widget."""
        widgets, backend = _notebook_extra()
        if self._canvas is None:
            with house_style():
                self._canvas = backend.Canvas(self.figure)
                backend.FigureManager(self._canvas, 0)
                self._canvas.header_visible = False
        made = [_slider(widgets, name, given, self.values[name]) for name, given in self.ranges.items()]
        for name, slider in zip(self.ranges, made, strict=True):
            slider.observe(lambda change, name=name: self.set(**{name: change["new"]}), "value")
        return widgets.VBox([*made, self._canvas])

    def _repr_mimebundle_(self, **_) -> dict[str, Any]:
        live = self._live()._repr_mimebundle_()
        return live | {"image/png": figure_png(self.figure), "text/plain": repr(self)}

    def __repr__(self) -> str:
        set_to = ", ".join(f"{name} = {self.values[name]:g} ({low:g} to {high:g})"
                           for name, (low, high, *_) in self.ranges.items())  # fmt: skip
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
            f"{name} = {given!r} is no range of a slider: give the smallest, the largest and the first value, as"
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
    look = {"description": name, "readout_format": ".3g", "style": {"description_width": "8em"},
            "layout": widgets.Layout(width="32em")}  # fmt: skip
    if scale:
        return widgets.FloatLogSlider(value, min=log10(low), max=log10(high), step=0.02, **look)
    step = 10.0 ** floor(log10((high - low) / 40))  # round, so that a slider stops at round numbers
    return widgets.FloatSlider(value, min=low, max=high, step=step, **look)
