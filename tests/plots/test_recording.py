"""Recordings, drawn: the lines, their colours, and the arguments that are refused."""

import json

import matplotlib
import numpy as np
import pytest
import xarray

from swd_dynamics.errors import InputError
from swd_dynamics.plots import COLOURS, recording
from swd_dynamics.plots.style import LOOKS, figure_png

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


def weighted(optimizer: str, rates) -> xarray.Dataset:
    """A recording with R of each weight, of which one has no gradients, and η_eff = ½."""
    rates = np.array(rates, dtype=float)
    gradient = np.ones_like(rates)
    gradient[:, -1] = 0
    return run(
        optimizer,
        theta=(("step", "weight"), rates),
        decay_rate=("step", rates.mean(axis=1)),
        decay_ratio=("step", 2 * rates.mean(axis=1)),
        effective_lr=(("step", "group"), np.full((3, 1), 0.5)),
        decay_rate_weight=(("step", "weight"), rates),
        gradient=(("step", "weight"), gradient),
    )


def test_an_outlier_does_not_hide_the_median():
    """Assert that where R differs from weight to weight its median is drawn, with nine weights in ten, and said."""
    rates = [[0.1, 0.2, 90.0, 7.0], [0.1, 0.3, -5.0, 7.0], [0.1, 0.4, 0.5, 7.0]]  # the last weight has no gradient
    axes = recording(weighted("Adam", rates), "decay_ratio").axes[0]
    assert axes.lines[0].get_ydata().tolist() == [0.4, 0.2, 0.8]
    (band,) = axes.collections
    assert band.get_paths()[0].get_extents().intervaly == pytest.approx([2 * -4.49, 2 * 81.02])
    assert "median" in axes.get_title(loc="left")
    uniform = recording(weighted("AdamS", [[0.1] * 4, [0.2] * 4, [0.3] * 4]), "decay_rate").axes[0]
    assert uniform.lines[0].get_ydata() == pytest.approx([0.1, 0.2, 0.3])
    assert not uniform.collections and "median" not in uniform.get_title(loc="left")


def test_values_of_both_signs_keep_small_ones_readable():
    """Assert that an outlier of the other sign makes the axis symmetric and logarithmic, and that noise does not."""
    scales = [
        recording(run("Adam", loss=("step", values)), "loss").axes[0].get_yscale()
        for values in ([1e-3, -2e-3, 20.0], [1.0, -2.0, 3.0])
    ]
    assert scales == ["symlog", "linear"]


def test_the_last_step_has_a_marker():
    """Assert that a long line ends with a marker, and that no marker hides between the fine points."""
    made = xarray.Dataset({"loss": ("step", np.arange(300.0))}, {"step": np.arange(300)}, {"optimizer": "SGD"})
    points, marks = recording(made, "loss").axes[0].lines
    assert marks.get_xdata()[-1] == 299 and len(points.get_xdata()) == 300 and points.get_markersize() > 1


def test_the_title_says_the_conditions():
    """Assert that the title of one recording has η, λ and the data where they are known."""
    said = {"optimizer_arguments": '[{"lr": 0.5, "weight_decay": 0.25}]', "data": "two moons"}
    assert recording(run("SGD").assign_attrs(said), "loss").get_suptitle() == (
        "SGD, recorded with η = 0.5, λ = 0.25\ntwo moons"
    )


def test_a_title_has_one_line_for_the_data():
    """Assert that of a table of facts the title has task, data and seed, and of a long text as much as fits a line."""
    facts = {"task": "network", "data": "digits", "samples": 500, "hidden": [16], "seed": 3, "device": "cpu"}
    for data, line in (json.dumps(facts), "task network, data digits, seed 3"), ("word " * 40, f"{'word ' * 17}…"):
        title = recording(run("SGD").assign_attrs({"data": data}), "loss").get_suptitle()
        assert title == f"SGD, recorded\n{line}"


def test_facts_are_said_in_words_and_inside_the_figure():
    """Assert that tables and lists among the facts lose their brackets, and that a long reason stays off the panel."""
    reasons = '["R differs from weight to weight, and takes as long to follow as several steps, or more than several"]'
    facts = {"data": '{"task": "network", "seed": 3}', "decay_unknown_because": reasons}
    figure = recording(run("Adam", decay_rate=("step", np.full(3, np.nan))).assign_attrs(facts), "decay_rate")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert figure.get_suptitle().splitlines()[1] == "task network, seed 3"
    title = axes.get_title(loc="left")
    assert " ".join(title.split()).endswith(reasons[2:-2]) and not axes.texts
    (shown,) = (text for text in axes.get_children() if getattr(text, "get_text", str)() == title)
    box = shown.get_window_extent()
    assert box.x1 <= figure.bbox.x1 and box.y0 >= axes.get_window_extent().y1


def test_weights_without_an_effective_learning_rate():
    """Assert that R/η_eff is drawn as recorded where η_eff, which gives that of each weight, was not recorded."""
    made = weighted("Adam", [[0.1, 0.2, 0.3, 0.0]] * 3).drop_vars("effective_lr")
    assert recording(made, "decay_ratio").axes[0].lines[0].get_ydata() == pytest.approx([0.3] * 3)


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
        (run("SGD"), [["loss", "lr"]], "give names"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_says_so(recorded, names, said):
    """Assert that a wrong name, a variable without steps, and an argument that is not a recording are refused."""
    with pytest.raises(InputError, match=said):
        recording(recorded, *names)


GROWTH = np.geomspace(1e-3, 1e304, 50)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "lowest", "highest"),
    [
        (GROWTH, 1e-3, 1e304),
        ([*GROWTH, np.inf], 1e-3, 1e304),
        (-GROWTH, -1e304, -1e-3),
        (GROWTH * (-1) ** np.arange(50), -1e304, GROWTH[-2]),
        (np.full(5, 1e304), 1e304, 1e304),
        (np.geomspace(1e-320, 1e-300, 20), 1e-320, 1e-300),
        (np.geomspace(5e-324, 1e307, 60), 5e-324, 1e307),
        ([1.0, np.nan, 1e305], 1.0, 1e305),
    ],
    ids=["to 1e304", "then infinite", "negative", "of both signs", "constant", "tiny", "all floats", "two points"],
)
def test_a_run_that_diverged_is_drawn(loss, lowest, highest):
    """Assert that values up to the largest floats are inside the axis, with finite ticks, and raise no warning."""
    steps = np.arange(1, len(loss) + 1)
    figure = recording(xarray.Dataset({"loss": ("step", loss)}, {"step": steps}, {"optimizer": "SGD"}), "loss")
    assert figure_png(figure)
    axes = figure.axes[0]
    drawn = axes.lines[-1].get_ydata()
    # The extremes are real points of the line, up to the rounding of geomspace.
    np.testing.assert_allclose([np.nanmin(drawn), np.nanmax(drawn)], [lowest, highest], rtol=1e-12)
    low, high = axes.get_ylim()
    assert low <= np.nanmin(drawn) and np.nanmax(drawn) <= high
    assert np.isfinite(axes.get_yticks()).all()


@pytest.mark.slow
def test_the_largest_floats_are_drawn_at_the_top():
    """Assert that a value at which an axis would overflow is drawn at 1e307, and infinite values are said."""
    made = xarray.Dataset({"loss": ("step", [1.7e308] * 3)}, {"step": STEPS}, {"optimizer": "SGD"})
    figure = recording(made, "loss")
    assert figure_png(figure)
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1e307] * 3
    infinite = recording(run("SGD", loss=("step", [np.inf] * 3)), "loss").axes[0]
    assert "SGD: not finite" in infinite.get_title(loc="left").splitlines()


@pytest.mark.parametrize("loss", [[4.0, 2.0, 1.0], [1.0, 1e4, 1e9]])
@pytest.mark.slow
def test_latex_is_not_needed(loss):
    """Assert that the user's text.usetex does not make figures need LaTeX, also outside of the house style."""
    with matplotlib.rc_context({"text.usetex": True}):
        figure = recording(run("SGD", loss=("step", loss)), "loss")
        assert figure_png(figure)
    texts = figure.findobj(matplotlib.text.Text)
    assert texts and not any(text.get_usetex() for text in texts)


def test_what_a_logarithmic_axis_hides_is_said():
    """Assert that a group whose rate is 0 is named where the axis is logarithmic, and groups' numbers are all given."""
    steps = np.arange(1, 5)
    rates = np.stack([1e-3 * 10.0**steps, 0.0 * steps], axis=1)
    groups = [{"lr": 0.1, "weight_decay": 0.01}, {"lr": 0.1, "weight_decay": 0.0}]
    attrs = {"optimizer": "AdamW", "optimizer_arguments": json.dumps(groups)}
    run = xarray.Dataset({"rate": (("step", "group"), rates)}, {"step": steps}, attrs)
    figure = recording(run, "rate")
    assert "because it is 0: group 1" in figure.axes[0].get_title(loc="left")
    assert "η = 0.1, λ = 0.01 / 0 (groups)" in figure.get_suptitle()


def test_an_empty_panel_has_no_numbers():
    """Assert that a panel without a value has no ticks on its axis and says what to do, beside a panel with values."""
    variables = {"loss": ("step", [np.nan] * 2), "lr": (("step", "group"), [[1.0], [2.0]])}
    figure = recording(xarray.Dataset(variables, {"step": [1, 2]}, {"optimizer": "SGD"}), "loss", "lr")
    assert [len(axes.get_yticks()) > 0 for axes in figure.axes] == [False, True]
    assert "observe(loss=" in figure.axes[0].get_title(loc="left")
