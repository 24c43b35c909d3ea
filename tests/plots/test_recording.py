"""Recordings, drawn: the lines, their colours, and the arguments that are refused."""

import numpy as np
import pytest
import xarray

from swd_dynamics.errors import InputError
from swd_dynamics.plots import COLOURS, recording
from swd_dynamics.plots.style import LOOKS

STEPS = np.arange(1, 4)


def run(optimizer: str, **more) -> xarray.Dataset:
    """A recording of three steps and two parameters, made by hand."""
    variables = {
        "loss": ("step", [4.0, 2.0, 1.0]),
        "lr": (("step", "group"), np.full((3, 1), 0.5)),
        "rotation_parameter": (("step", "parameter"), np.ones((3, 2))),
        "theta": ("weight", [1.0]),
        **more,
    }
    return xarray.Dataset(variables, {"step": STEPS, "parameter": ["first", "second"]}, {"optimizer": optimizer})


def test_a_course_is_drawn_as_recorded():
    """Assert that the points are the recorded numbers, in the colour of the optimizer's decay mode."""
    (line,) = recording(run("AdamW"), "loss").axes[0].lines
    assert line.get_xydata().tolist() == [[1.0, 4.0], [2.0, 2.0], [3.0, 1.0]]
    assert line.get_color() == COLOURS["decoupled"]


def test_several_runs_are_told_apart():
    """Assert that each run has its mode's colour and its name, and that runs of the same mode have other markers."""
    runs = {"old": run("AdamW"), "new": run("AdamS"), "newer": run("AdamS")}
    runs["$5_newest$"] = run("AdamS")
    figure = recording(runs, "loss", "lr")
    lines = figure.axes[0].lines
    assert [line.get_color() for line in lines] == [
        COLOURS[mode] for mode in ("decoupled", "stable", "stable", "stable")
    ]
    assert len({(line.get_color(), line.get_markerfacecolor(), line.get_marker()) for line in lines}) == len(runs)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(runs)


def test_a_long_run_is_drawn_with_its_extremes():
    """Assert that of ten thousand steps the first, the last and every outlier are drawn, and few others."""
    loss = np.ones(10_000)
    loss[[17, 5555, 9998]] = 3.0, np.nan, 7.0
    loss[4321] = -2.0
    made = xarray.Dataset({"loss": ("step", loss)}, {"step": np.arange(1, 10_001)}, {"optimizer": "SGD"})
    points, marks = recording(made, "loss").axes[0].lines
    assert len(marks.get_xydata()) <= 61
    drawn = dict(points.get_xydata())
    assert drawn[1] == drawn[10_000] == 1.0
    assert (drawn[18], drawn[9999], drawn[4322]) == (3.0, 7.0, -2.0)
    assert len(drawn) <= 2002


def test_what_is_drawn_when_nothing_is_named():
    """Assert that by default the loss is drawn, and R/η_eff if the recording has it."""
    assert [axes.get_ylabel() for axes in recording(run("SGD")).axes] == ["loss"]
    with_ratio = run("SGD", decay_ratio=("step", STEPS / 10))
    assert [axes.get_ylabel() for axes in recording(with_ratio).axes] == ["loss", "decay_ratio"]


def test_each_parameter_has_its_line():
    """Assert that a quantity of each parameter is drawn with the parameters' names."""
    axes = recording(run("SGD"), "rotation_parameter").axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["first", "second"]


def test_an_unknown_optimizer_has_a_look_of_its_own():
    """Assert that an optimizer that is not in the catalogue is drawn and named as unknown, not as without decay."""
    figure = recording({"mine": run("Mine"), "SGD": run("SGD")}, "loss")
    mine, sgd = figure.axes[0].lines
    unknown = LOOKS["unknown"]
    assert (mine.get_color(), mine.get_marker()) == (unknown.colour, unknown.marker)
    assert sgd.get_color() == COLOURS["L2"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mine (unknown decay)", "SGD"]
    assert recording(run("Mine"), "loss").get_suptitle() == "Mine (unknown decay), recorded"


@pytest.mark.parametrize(
    ("recorded", "names", "said"),
    [
        (run("SGD"), ["los"], "known: loss"),
        (run("SGD"), ["theta"], "what can be drawn is loss, lr, rotation_parameter"),
        ({"one": run("SGD"), "two": run("Adam")}, ["rotation_parameter"], "what can be drawn is loss, lr"),
        (run("SGD").isel(step=slice(0)), ["loss"], "nothing to draw"),
        ("run", ["loss"], "str is not a recording"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_says_so(recorded, names, said):
    """Assert that a wrong name, a variable without steps, and an argument that is not a recording are refused."""
    with pytest.raises(InputError, match=said):
        recording(recorded, *names)
