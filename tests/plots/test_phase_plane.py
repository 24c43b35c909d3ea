"""The drawing of a phase plane: its parts, and whether all of them can be read."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from swd_dynamics import planes
from swd_dynamics.errors import InputError
from swd_dynamics.flows import Flow
from swd_dynamics.plots import COLOURS, phase_plane
from swd_dynamics.plots.style import LOOKS
from swd_dynamics.rules import CATALOG

pytestmark = pytest.mark.slow  # draws many figures

RULES = {
    "L2": CATALOG["SGD"](lr=0.05, momentum=0.8, weight_decay=0.5),
    "decoupled": CATALOG["SGDW"](lr=0.05, momentum=0.8, weight_decay=0.5),
    "stable": CATALOG["SGDS"](lr=0.05, momentum=0.8, weight_decay=0.5),
}

COARSE = {"nodes": 16}  # no test depends on the grid


def gradient(theta):
    return np.array([3.0, 1.0]) * (theta - 0.5)


def pendulum(x, y):
    return y, -np.sin(x)


def well(theta):
    return theta**3 - theta


FIGURES = {
    "decays": lambda: phase_plane(
        Flow(RULES["stable"], gradient), start=(-1.5, 1.5), steps=20, iterates_of=RULES, **COARSE
    ),
    "wells": lambda: phase_plane(
        Flow(RULES["stable"], well, order="state"), y=(-4, 4), start=[(0.2, 0), (-1, 3)], steps=20, nodes=16
    ),
    "many fixed points": lambda: phase_plane(pendulum, x=(-12, 12), nodes=40),
    "slice": lambda: phase_plane(
        RULES["L2"],
        lambda theta: np.arange(1.0, 5.0) * (theta - 1),
        origin=np.zeros(4),
        directions="leading",
        **COARSE,
    ),
    "line": lambda: phase_plane(RULES["L2"], lambda theta: np.full(2, theta.sum()) - 0.5 * theta, **COARSE),
    "jump, region, undefined": lambda: phase_plane(lambda x, y: (-np.sign(x), -np.sqrt(y + 1) * max(y, 0)), **COARSE),
    "nothing moves": lambda: phase_plane(lambda x, y: (0, 0), **COARSE),
}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("name", FIGURES)
def test_everything_can_be_read(name):
    """Assert that no text lies outside the figure, and that the legend lies to the right of the drawing."""
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    (axes,) = figure.axes
    texts = [figure._suptitle, figure._supxlabel, axes.xaxis.label, axes.yaxis.label, *figure.legends[0].get_texts()]
    for text in [text for text in texts if text is not None]:
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text
    assert figure.legends[0].get_window_extent().x0 >= axes.get_window_extent().x1
    assert axes.get_xlabel()
    assert axes.get_ylabel()


def test_the_three_decays():
    """Assert that the steps with each decay have its colour and name, after fixed point, nullclines and flow."""
    figure = FIGURES["decays"]()
    said = legend(figure)
    assert said[0].startswith("stable node (0.429, 0.333)\neigenvalues μ = −17.5, −7.5\nsteps settle, |z| = ")
    assert said[1:] == [
        "dθ₁/dt = 0",
        "dθ₂/dt = 0",
        "the flow",
        "L2, steps",
        "decoupled, steps",
        "stable, steps",
    ]
    drawn = {line.get_color() for line in figure.axes[0].lines}
    assert {COLOURS["L2"], COLOURS["decoupled"], COLOURS["stable"]} <= drawn
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("θ₁", "θ₂")
    assert figure.axes[0].get_aspect() == 1.0


def test_a_weight_and_its_momentum():
    """Assert that the axes are a weight and its momentum, and that drawing and legend number the fixed points alike."""
    figure = FIGURES["wells"]()
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("θ", "m, momentum")
    assert [text.get_text() for text in axes.texts] == ["1", "2", "3"]
    assert [entry.split(" (")[0] for entry in legend(figure)[:3]] == ["1  stable focus", "2  saddle", "3  stable focus"]
    assert axes.get_aspect() == "auto"


def test_kinds_are_told_apart_without_colour():
    """Assert that saddles are half filled, and centres open."""
    figure = FIGURES["many fixed points"]()
    fills = {
        text.get_text().split(" (")[0]: (handle.get_fillstyle(), to_rgba(handle.get_markerfacecolor())[0] < 0.5)
        for text, handle in zip(figure.legends[0].get_texts(), figure.legends[0].legend_handles, strict=True)
    }
    assert fills["saddle"] == ("left", True)
    assert fills["centre"] == ("full", False)
    assert legend(figure)[:2] == ["centre (3)", "saddle (4)"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("slice", "at rest in this slice only"),
        ("jump, region, undefined", "dx/dt jumps past 0"),
        ("jump, region, undefined", "dy/dt = 0, a region"),
        ("nothing moves", "dx/dt = 0, a region"),
    ],
)
def test_what_is_out_of_the_ordinary_is_in_the_legend(name, said):
    """Assert that the legend names what a reader cannot guess from the drawing."""
    assert said in "\n".join(legend(FIGURES[name]()))


def test_title():
    """Assert that a figure has the title given, or a title with the number of fixed points."""
    assert FIGURES["many fixed points"]()._suptitle.get_text() == "The field: 7 fixed points"
    assert phase_plane(pendulum, title="A pendulum", **COARSE)._suptitle.get_text() == "A pendulum"


def test_a_run_that_blows_up_is_drawn_as_far_as_it_goes():
    """Assert that of steps that leave the window and overflow, those in the window are drawn."""
    figure = phase_plane(CATALOG["SGD"](lr=1.0), lambda theta: 9.0 * theta**3, start=(0.4, 0.2), steps=40, **COARSE)
    (steps,) = (line for line in figure.axes[0].lines if line.get_color() == COLOURS["none"])
    drawn = steps.get_xydata()
    assert drawn[0].tolist() == [0.4, 0.2]
    assert np.abs(drawn).max() <= 2


def test_an_unknown_decay_has_a_look_of_its_own():
    """Assert that the steps of a rule with a decay of the user's own are drawn and named as unknown."""
    plane = planes.phase_plane(CATALOG["SGD"](lr=0.1), gradient, start=(1, 1), steps=2, **COARSE)
    figure = phase_plane(replace(plane, iterates=(replace(plane.iterates[0], name="mine", decay="mine"),)))
    assert legend(figure)[-1] == "mine (unknown decay), steps"
    assert LOOKS["unknown"].colour in {line.get_color() for line in figure.axes[0].lines}


def test_a_computed_plane():
    """Assert that a computed plane is drawn as it is, and that more arguments with it are refused."""
    plane = planes.phase_plane(pendulum, **COARSE)
    assert legend(phase_plane(plane)) == legend(phase_plane(pendulum, **COARSE))
    with pytest.raises(InputError, match="computed already"):
        phase_plane(plane, x=(-1, 1))
