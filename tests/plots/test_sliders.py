"""Sliders: a figure that follows its numbers, live and as a picture."""

import builtins

import pytest

from swd_dynamics.errors import InputError
from swd_dynamics.plots import Sliders

# ipympl 0.10 hands its toolbar's base class nothing and traitlets says so; nobody in a notebook sees it.
pytestmark = pytest.mark.filterwarnings("ignore:Passing unrecognized arguments to super.Toolbar:DeprecationWarning")


def line(figure, slope):
    if slope < 0:
        raise InputError("slope must not be negative")
    figure.subplots().plot([0, 1], [0, slope])


def drawn(sliders: Sliders) -> list[float]:
    return sliders.figure.axes[0].lines[0].get_ydata().tolist()


def test_a_moved_slider_draws_again():
    """Assert that the widget's slider, moved as a user moves it, changes the figure."""
    sliders = Sliders(line, slope=(0.0, 2.0, 1.0))
    slider, _ = sliders._live().children
    slider.value = 1.5
    assert drawn(sliders) == [0, 1.5]


def test_a_logarithmic_slider():
    """Assert that it runs from the smallest to the largest value in powers of ten."""
    slider, _ = Sliders(line, slope=(0.01, 10.0, 0.1, "log"))._live().children
    assert (slider.base**slider.min, slider.base**slider.max, slider.value) == (0.01, 10.0, 0.1)


def test_it_reads_well_without_a_kernel():
    """Assert that it shows itself as a widget, and as picture and words where no widget can be."""
    shown = Sliders(line, slope=(0.0, 2.0, 1.0))._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert shown["image/png"].startswith(b"\x89PNG")
    assert shown["text/plain"].startswith("sliders for slope = 1 (0 to 2)")


def test_a_wrong_value_is_said_in_the_figure():
    """Assert that what the drawing refuses is read in its place, and the next move draws again."""
    sliders = Sliders(line, slope=(-1.0, 2.0, -1.0))
    assert [text.get_text() for text in sliders.figure.texts] == ["slope must not be negative"]
    sliders.set(slope=2.0)
    assert drawn(sliders) == [0, 2.0]
    assert not sliders.figure.texts


@pytest.mark.parametrize("given", [(2.0, 1.0, 1.0), (0.0, 1.0), (0.0, 1.0, 3.0), (0.0, 1.0, 0.5, "log"), "wide", None])
def test_a_wrong_range_is_refused(given):
    """Assert that a range that is none is named, with what one looks like."""
    with pytest.raises(InputError, match=r"slope = .* is no range of a slider"):
        Sliders(line, slope=given)


def test_a_missing_extra_is_named(monkeypatch):
    """Assert that without ipympl the message says what to install."""
    genuine = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("ipympl"):
            raise ImportError(f"No module named {name!r}", name="ipympl")
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    shown = Sliders(line, slope=(0.0, 1.0, 0.5))._repr_mimebundle_()
    assert set(shown) == {"text/html", "text/plain"} and "<img " in shown["text/html"]
    for words in shown.values():
        assert "sliders need ipympl: install swd-dynamics[notebook]" in words


def test_whole_numbers_stay_whole():
    """Assert that a slider between whole numbers gives whole numbers, which a drawing may count with."""
    seen = []
    sliders = Sliders(lambda figure, steps: seen.append(range(steps)), steps=(1, 100, 10))
    sliders._live().children[0].value = 20
    assert seen == [range(10), range(20)]


def test_setting_moves_what_is_shown():
    """Assert that set moves the sliders that are shown, and that all views are one."""
    sliders = Sliders(line, slope=(0.0, 2.0, 1.0))
    first, second = sliders._live(), sliders._live()
    sliders.set(slope=2.0)
    assert first is second and first.children[0].value == 2.0


@pytest.mark.parametrize("values", [{"slop": 1.0}, {"slope": 5.0}, {"slope": "wide"}])
def test_a_wrong_setting_changes_nothing(values):
    """Assert that a slider that is not there, or a value beyond its ends, is refused, and nothing moves."""
    sliders = Sliders(line, slope=(0.0, 2.0, 1.0))
    with pytest.raises(InputError, match="slop"):
        sliders.set(**values)
    assert sliders.values == {"slope": 1.0} and drawn(sliders) == [0, 1.0]


def test_a_broken_drawing_is_not_left_standing():
    """Assert that where a drawing fails, the figure says so, the error comes through, and the next move draws again."""

    def inverse(figure, x):
        figure.subplots().plot([0, 1 / x])

    sliders = Sliders(inverse, x=(0.0, 2.0, 1.0))
    with pytest.raises(ZeroDivisionError):
        sliders.set(x=0.0)
    assert [text.get_text() for text in sliders.figure.texts] == ["ZeroDivisionError: float division by zero"]
    sliders.set(x=2.0)
    assert drawn(sliders) == [0, 0.5]
