"""Sliders: a figure that follows its numbers, live and as a picture."""

import math
import sys
from base64 import b64decode

import numpy as np
import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine

from swd_dynamics.errors import InputError
from swd_dynamics.plots import Sliders


def line(figure, slope):
    if slope < 0:
        raise InputError("slope must not be negative")
    figure.subplots().plot([0, 1], [0, slope])


def drawn(sliders: Sliders) -> list[float]:
    return sliders.figure.axes[0].lines[0].get_ydata().tolist()


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_drawing_that_moves_is_drawn_once():
    """Assert that where draw returns a function, moves call this function, on the figure as it was drawn."""
    called = []

    def draw(figure, slope):
        called.append("draw")
        (line,) = figure.subplots().plot([0, 1], [0, slope])
        return lambda slope: called.append("move") or line.set_ydata(np.array([0, slope]))

    sliders = Sliders(draw, slope=(0.0, 2.0, 1.0))
    axes = sliders.figure.axes[0]
    sliders.set(slope=1.5)
    sliders._live().children[0].value = 2.0
    assert called == ["draw", "move", "move"]
    assert sliders.figure.axes == [axes] and drawn(sliders) == [0, 2.0]


def test_after_a_refused_move_the_figure_is_drawn_again():
    """Assert that if a move is refused, the figure shows the message, and the next move draws on an empty figure."""

    def draw(figure, slope):
        (drawn,) = figure.subplots().plot([0, 1], [0, slope])

        def move(slope):
            if slope < 0:
                raise InputError("slope must not be negative")
            drawn.set_ydata([0, slope])

        return move

    sliders = Sliders(draw, slope=(-1.0, 2.0, 1.0))
    sliders.set(slope=-1.0)
    assert [text.get_text() for text in sliders.figure.texts] == ["slope must not be negative"]
    sliders.set(slope=2.0)
    assert drawn(sliders) == [0, 2.0] and not sliders.figure.texts


def labelled(figure, lines):
    """A figure whose label and title are higher with more lines."""
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1])
    axes.set_xlabel("\n".join("label" for _ in range(lines)))
    figure.suptitle("title")


def layouts(monkeypatch) -> list[None]:
    """Grows by an entry with each run of matplotlib's constrained layout."""
    run, execute = [], ConstrainedLayoutEngine.execute
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda self, fig: run.append(None) or execute(self, fig))
    return run


def places(sliders: Sliders) -> list:
    return [sliders.figure.axes[0].get_position().bounds, sliders.figure.texts[0].get_position()]


@pytest.mark.slow
def test_the_layout_of_the_first_drawing_is_kept(displayed, monkeypatch):
    """Assert that matplotlib computes the layout for the first drawing only, and that axes and title stay in place."""
    run = layouts(monkeypatch)
    sliders = Sliders(labelled, lines=(1, 9, 2))
    sliders._ipython_display_()
    computed, first = len(run), places(sliders)
    sliders.set(lines=1)
    assert len(displayed) == 3 and computed and len(run) == computed
    assert places(sliders) == first


@pytest.mark.slow
def test_a_label_that_is_cut_off_makes_a_new_layout(displayed):
    """Assert that the layout is computed again if a label would leave the figure, so that all of it can be read."""
    sliders = Sliders(labelled, lines=(1, 9, 1))
    sliders._ipython_display_()
    first = places(sliders)
    sliders.set(lines=9)
    assert places(sliders) != first
    assert sliders.figure.axes[0].xaxis.label.get_window_extent().y0 >= 0


@pytest.mark.slow
def test_other_axes_make_a_new_layout(displayed):
    """Assert that the kept layout is not used for another arrangement of axes."""
    sliders = Sliders(lambda figure, rows: figure.subplots(rows, 1), rows=(1, 3, 1))
    sliders._ipython_display_()
    whole = sliders.figure.axes[0].get_position().height
    sliders.set(rows=2)
    heights = [axes.get_position().height for axes in sliders.figure.axes]
    assert len(heights) == 2 and max(heights) < whole / 2


def test_logarithmic_axes_have_few_ticks():
    """Assert that a logarithmic axis has no minor ticks over three decades, and has them over half a decade."""

    def draw(figure, high):
        figure.subplots().set(yscale="log", ylim=(1, high))

    sliders = Sliders(draw, high=(3.0, 1000.0, 1000.0))
    wide = sliders.figure.axes[0].yaxis.get_minorticklocs()
    sliders.set(high=3.0)
    assert len(wide) == 0 < len(sliders.figure.axes[0].yaxis.get_minorticklocs())
