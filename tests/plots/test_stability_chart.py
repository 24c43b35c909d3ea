"""The stability chart: colours, line, runs, and the names that are refused."""

import numpy as np
import pytest
from aggregated_momentum import AggregatedMomentum

from swd_dynamics.errors import InputError
from swd_dynamics.plots import Runs, stability_chart
from swd_dynamics.rules import CATALOG, Stable, UpdateRule

RULE = CATALOG["SGDW"](lr=0.1, momentum=0.5, weight_decay=0.1)
AT = {"lr": (0.01, 10.0), "weight_decay": (0.01, 10.0)}


@pytest.fixture(scope="module")
def chart():
    runs = Runs(np.array([0.1, 5.0]), np.array([1.0, 1.0]), np.array([True, False]))
    return stability_chart({"W": RULE}, at=AT, runs={"W": runs}, title="a chart")


@pytest.mark.slow
def test_the_line_is_the_limit(chart):
    """Assert that every point of the line has ηh = (1 + β)(2 − ηλ), with h = 1 and β = ½."""
    (contour,) = [each for each in chart.axes[0].collections if hasattr(each, "levels")]
    line = np.concatenate([path.vertices for path in contour.get_paths()])
    lr, decay = line.T
    np.testing.assert_allclose(lr / 1.5 + lr * decay, 2, rtol=0.01)  # lines between the nodes of a grid
    assert len(line) > 50


@pytest.mark.slow
def test_colours_change_at_the_limit(chart):
    """Assert that the colour's value is |z| − 1: negative at a small η and λ, positive at large ones."""
    image = chart.axes[0].collections[0]
    values = image.get_array()
    assert values[0, 0] < 0 < values[-1, -1]
    assert values[0, 0] == pytest.approx(1 - 0.01 * (0.01 + 1 / 0.5) - 1, rel=0.05)  # 1 − η(λ + h/(1−β)), to order η


def test_runs_that_converged_are_filled(chart):
    """Assert that the run that converged is filled with black and the other with white."""
    filled, open_ = chart.axes[0].lines
    assert (filled.get_xydata().tolist(), open_.get_xydata().tolist()) == ([[0.1, 1.0]], [[5.0, 1.0]])
    assert open_.get_markerfacecolor() == "white" != filled.get_markerfacecolor()


def test_the_key_has_the_circles_that_are_drawn(chart):
    """Assert that the key has the line and both circles of the runs, each as it is drawn."""
    line, *circles = chart.legends[0].get_lines()
    assert line.get_linestyle() == "-" and line.get_marker() == "None"
    for entry, drawn in zip(circles, chart.axes[0].lines, strict=True):
        assert (entry.get_marker(), entry.get_markerfacecolor()) == (drawn.get_marker(), drawn.get_markerfacecolor())


def test_momentum_is_drawn_as_memory():
    """Assert that β = .9 is at 10 steps, on a logarithmic axis."""
    runs = {"": Runs(np.array([0.1]), np.array([0.9]), np.array([True]))}
    figure = stability_chart(RULE, y="momentum", at={"lr": (0.01, 10), "momentum": (0, 0.95)}, runs=runs)
    axes = figure.axes[0]
    assert axes.lines[0].get_ydata() == pytest.approx([10.0])
    assert axes.get_ylim() == pytest.approx((1.0, 20.0))
    assert axes.get_yscale() == "log" and "1/(1 − β)" in axes.get_ylabel()


@pytest.mark.slow
def test_curvature_is_an_axis_too():
    """Assert that Adam's chart over η and h needs a value for v, and has h as the name of its axis."""
    rule, at = CATALOG["AdamW"](lr=0.1, weight_decay=0.1), {"lr": (0.01, 1), "curvature": (0.1, 100)}
    assert stability_chart(rule, y="curvature", at=at, v=1.0).axes[0].get_ylabel() == "curvature h"
    with pytest.raises(InputError, match="v has no number"):
        stability_chart(rule, y="curvature", at=at)


def test_an_axis_needs_a_range():
    """Assert that a missing range, and one name for both axes, are refused."""
    with pytest.raises(InputError, match="momentum"):
        stability_chart(RULE, y="momentum", at=AT)
    with pytest.raises(InputError, match="two"):
        stability_chart(RULE, x="lr", y="lr", at=AT)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ({"lr": (0.0, 1.0)}, "logarithmic"),
        ({"lr": (-1.0, 1.0)}, "logarithmic"),
        ({"lr": (1.0, 0.1)}, "smaller number first"),
        ({"lr": (0.1, np.inf)}, "not a range"),
        ({"momentum": (0.5, 1.5)}, r"\[0, 1\)"),
        ({"momentum": (-0.5, 0.5)}, r"\[0, 1\)"),
        ({"learning_rate": (0.1, 1.0)}, "not a hyperparameter"),
    ],
)
def test_axes_that_are_refused(at, said):
    """Assert that a range with no place on the axis is refused with the reason, and never an error of numpy."""
    (x,) = at
    with pytest.raises(InputError, match=said):
        stability_chart(RULE, x=x, y="curvature", at={**at, "curvature": (0.1, 10)})


def test_a_rule_without_decay_has_no_axis_of_decay():
    """Assert that the message names what the chart may have, the curvature too, and how the rule gets a λ."""
    with pytest.raises(InputError, match=r"λ ≠ 0.*curvature"):
        stability_chart(CATALOG["SGD"](lr=0.1, momentum=0.9), at=AT)


@pytest.mark.slow
def test_a_users_own_momentum_has_the_axis_of_a_memory():
    """Assert that β₂ of a direction with two momenta is drawn over 1/(1 − β₂), from 0 on."""
    rule = UpdateRule(0.1, AggregatedMomentum(0.5, 0.9), Stable(0.05))
    axes = stability_chart(rule, y="beta_2", at={"lr": (0.01, 10), "beta_2": (0, 0.95)}).axes[0]
    assert axes.get_ylim() == pytest.approx((1.0, 20.0)) and axes.get_ylabel() == "1/(1 − β₂)"


@pytest.mark.slow
def test_fixed_numbers_are_on_the_figure():
    """Assert that the figure says what the line is and at which h and β it is drawn, on no other text."""
    figure = stability_chart(RULE, at=AT, curvature=2.0, title="a chart")
    figure.draw_without_rendering()
    (key,) = figure.legends
    assert [text.get_text() for text in key.get_texts()] == ["derived limit, β = 0.5, h = 2"]
    box = key.get_window_extent()
    assert not box.overlaps(figure.axes[0].xaxis.label.get_window_extent()) and box.x0 >= 0
    assert not any(box.overlaps(each.get_tightbbox()) for each in figure.axes)
