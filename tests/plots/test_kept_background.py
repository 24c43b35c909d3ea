"""Pixels kept between drawings: the picture is the one that a whole drawing gives."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from swd_dynamics.plots.kept_background import KeptBackground
from swd_dynamics.plots.kept_layout import KeptLayout


@pytest.fixture
def figure() -> Figure:
    """Two axes, one of them logarithmic, with a curve above and a guide below the grid, a legend and a title."""
    figure = Figure(figsize=(4, 3), dpi=60, layout=KeptLayout())
    for axes, scale in zip(figure.subplots(1, 2), ("linear", "log"), strict=True):
        axes.plot([0, 1], [1, 2], label=f"{scale} curve")
        axes.axhline(1.5, zorder=0)
        axes.text(0.5, 1.5, "text")
        axes.set(xlabel="x", ylabel="y", yscale=scale)
        axes.set_axisbelow(True)
        axes.grid()
    figure.legend(loc="outside lower center", ncols=2)
    figure.suptitle("title")
    return figure


def pixels(figure: Figure) -> np.ndarray:
    return np.array(figure.canvas.buffer_rgba())


def spin(figure):
    """Turn a curve round."""
    figure.axes[1].lines[0].set_ydata([2, 1])


CHANGES = {
    "a curve": spin,
    "a title": lambda figure: figure.suptitle("another title"),
    "a label": lambda figure: figure.axes[0].xaxis.label.set_text("another label"),
    "limits": lambda figure: figure.axes[0].set_xlim(-1, 2),
    "tick labels": lambda figure: figure.axes[0].tick_params(labelsize=5),
    "the grid of one tick": lambda figure: figure.axes[0].xaxis.get_major_ticks()[1].gridline.set_color("red"),
    "a legend": lambda figure: figure.legends[0].get_texts()[0].set_text("LINEAR"),
    "a guide below the grid": lambda figure: figure.axes[0].lines[1].set_color("red"),
    "the ground": lambda figure: figure.axes[0].set_facecolor("yellow"),
    "a third axes": lambda figure: figure.add_axes((0.4, 0.4, 0.2, 0.2)),
    "axes with a twin": lambda figure: figure.axes[0].twinx().plot([0, 1], [5, 6]),
    "axes without an axis": lambda figure: figure.axes[0].set_axis_off(),
    "a legend in the axes": lambda figure: figure.axes[0].legend(loc="center"),
    "the size": lambda figure: figure.set_size_inches(5, 3),
    "everything": lambda figure: (figure.clear(), figure.subplots().plot([0, 1], [3, 3])),
    "limits, then saved": lambda figure: (figure.axes[0].set_xlim(-1, 2), figure.savefig(BytesIO())),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.slow
def test_the_picture_is_that_of_a_whole_drawing(figure, change):
    """Assert that after a change, and after a move that follows, the pixels are those of matplotlib's own drawing."""
    background, canvas = KeptBackground(figure), FigureCanvasAgg(figure)
    for end in (2, 2.1, 2.2):  # the second drawing makes the kept pixels, the third uses them
        figure.axes[0].lines[0].set_ydata([1, end])
        background.draw(canvas)
    for move in (change, lambda figure: figure.axes[0].lines[0].set_ydata([2, 1]), lambda figure: None):
        move(figure)
        background.draw(canvas)
    kept = pixels(figure)
    canvas.draw()
    np.testing.assert_array_equal(kept, pixels(figure))


@pytest.mark.slow
def test_a_move_does_not_draw_the_ticks(figure, monkeypatch):
    """Assert that ticks are not drawn for a curve that moves, from the third drawing on, and are for new limits."""
    drawn: list[None] = []
    draw = type(figure.axes[0].xaxis.get_major_ticks()[0]).draw
    monkeypatch.setattr("matplotlib.axis.Tick.draw", lambda tick, renderer: drawn.append(None) or draw(tick, renderer))
    background, canvas = KeptBackground(figure), FigureCanvasAgg(figure)
    background.draw(canvas)
    background.draw(canvas)
    del drawn[:]
    spin(figure)
    background.draw(canvas)
    assert not drawn
    figure.axes[0].set_xlim(-1, 2)
    background.draw(canvas)
    assert drawn
