"""Sliders: a figure that follows its numbers, live and as a picture."""

import math
import sys
from base64 import b64decode

import pytest

from swd_dynamics.errors import InputError
from swd_dynamics.plots import Sliders


def line(figure, slope):
    if slope < 0:
        raise InputError("slope must not be negative")
    figure.subplots().plot([0, 1], [0, slope])


def drawn(sliders: Sliders) -> list[float]:
    return sliders.figure.axes[0].lines[0].get_ydata().tolist()


def test_a_moved_slider_draws_again():
    """Assert that the widget's slider, moved as a user moves it, changes the figure."""
    sliders = Sliders(line, slope=(0.0, 2.0, 1.0))
    (slider,) = sliders._live().children
    slider.value = 1.5
    assert drawn(sliders) == [0, 1.5]


def test_a_logarithmic_slider():
    """Assert that a logarithmic slider runs from the smallest to the largest value in powers of ten."""
    (slider,) = Sliders(line, slope=(0.01, 10.0, 0.3, "log"))._live().children
    assert (slider.base**slider.max, slider.value) == (10.0, 0.3)
    steps = (math.log10(0.3) - slider.min) / slider.step
    assert steps == pytest.approx(round(steps), abs=1e-9)  # logarithms are rounded
    assert -2.0 <= slider.min < -2.0 + slider.step


@pytest.fixture
def displayed(monkeypatch) -> list[tuple[dict, dict]]:
    """The outputs that a notebook is asked to show: their forms, and the options."""
    shown: list[tuple[dict, dict]] = []
    monkeypatch.setattr("IPython.display.display", lambda thing, **how: shown.append((thing, how)))
    return shown


def test_the_picture_is_an_output_of_its_own(displayed):
    """Assert that sliders and picture are two outputs, and that a move replaces the picture."""
    sliders = Sliders(line, slope=(0.0, 2.0, 1.0))
    sliders._ipython_display_()
    (widget, _), (picture, how) = displayed
    assert "application/vnd.jupyter.widget-view+json" in widget and "image/png" not in widget
    assert widget["text/plain"].startswith("sliders for slope = 1 (0 to 2)")
    assert b64decode(picture["image/png"]).startswith(b"\x89PNG") and not how["update"]
    sliders._live().children[0].value = 2.0
    moved, again = displayed[-1]
    assert again == how | {"update": True} and moved["image/png"] != picture["image/png"]


# ipympl 0.10 passes its toolbar arguments that traitlets does not know. The warning is not shown in a notebook.
@pytest.mark.filterwarnings("ignore:Passing unrecognized arguments to super.Toolbar:DeprecationWarning")
def test_a_canvas_that_zooms(displayed, monkeypatch):
    """Assert that after %matplotlib widget the figure is ipympl's canvas, and that it follows the sliders."""
    monkeypatch.setattr("matplotlib.use", lambda backend: None)  # ipympl calls it at import
    monkeypatch.setattr("matplotlib.get_backend", lambda auto_select: "module://ipympl.backend_nbagg")
    sliders = Sliders(line, slope=(0.0, 2.0, 1.0))
    sliders._ipython_display_()
    (_, _), (canvas, _) = displayed
    assert canvas.figure is sliders.figure
    drawn_again: list[None] = []
    monkeypatch.setattr(canvas, "draw_idle", lambda: drawn_again.append(None))
    sliders.set(slope=2.0)
    assert drawn_again and len(displayed) == 2


def test_a_wrong_value_is_said_in_the_figure():
    """Assert that the message of a refused value is shown in place of the drawing, and the next move draws again."""
    sliders = Sliders(line, slope=(-1.0, 2.0, -1.0))
    assert [text.get_text() for text in sliders.figure.texts] == ["slope must not be negative"]
    sliders.set(slope=2.0)
    assert drawn(sliders) == [0, 2.0]
    assert not sliders.figure.texts


@pytest.mark.parametrize("given", [(2.0, 1.0, 1.0), (0.0, 1.0), (0.0, 1.0, 3.0), (0.0, 1.0, 0.5, "log"), "wide", None])
def test_a_wrong_range_is_refused(given):
    """Assert that an argument that is not a range is refused by name."""
    with pytest.raises(InputError, match=r"slope = .* is not a range of a slider"):
        Sliders(line, slope=given)


def test_a_missing_extra_is_named(displayed, monkeypatch, capsys):
    """Assert that without ipywidgets the picture is shown, with a sentence that says what to install."""
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    Sliders(line, slope=(0.0, 1.0, 0.5))._ipython_display_()
    ((picture, _),) = displayed
    assert "image/png" in picture
    assert capsys.readouterr().out == "sliders need ipywidgets: install swd-dynamics[notebook]\n"


def test_whole_numbers_stay_whole():
    """Assert that a slider between whole numbers gives whole numbers, which a drawing may count with."""
    seen = []
    sliders = Sliders(lambda figure, steps: seen.append(range(steps)), steps=(1, 100, 10))
    sliders._live().children[0].value = 20
    assert seen == [range(10), range(20)]


def test_setting_moves_what_is_shown():
    """Assert that set moves the sliders that are shown, and that all views show the same sliders."""
    sliders = Sliders(line, slope=(0.0, 2.0, 1.0))
    first, second = sliders._live(), sliders._live()
    sliders.set(slope=2.0)
    assert first is second and first.children[0].value == 2.0


@pytest.mark.parametrize("values", [{"slop": 1.0}, {"slope": 5.0}, {"slope": "wide"}])
def test_a_wrong_setting_changes_nothing(values):
    """Assert that an unknown slider, or a value beyond a slider's ends, is refused, and nothing moves."""
    sliders = Sliders(line, slope=(0.0, 2.0, 1.0))
    with pytest.raises(InputError, match="slop"):
        sliders.set(**values)
    assert sliders.values == {"slope": 1.0} and drawn(sliders) == [0, 1.0]


def test_a_broken_drawing_is_not_left_standing():
    """Assert that if a drawing fails, the error is shown and raised, and the next move draws again."""

    def inverse(figure, x):
        figure.subplots().plot([0, 1 / x])

    sliders = Sliders(inverse, x=(0.0, 2.0, 1.0))
    with pytest.raises(ZeroDivisionError):
        sliders.set(x=0.0)
    assert [text.get_text() for text in sliders.figure.texts] == ["ZeroDivisionError: float division by zero"]
    sliders.set(x=2.0)
    assert drawn(sliders) == [0, 0.5]
