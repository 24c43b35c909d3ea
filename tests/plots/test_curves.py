"""Lines and points: drawn once, and moved on the same figure."""

from swd_dynamics.plots import lines_and_points


def test_a_figure_that_is_drawn_is_changed():
    """Assert that on its own figure the function moves what is there, and scales the axes to the new values."""
    figure = lines_and_points({"L2": ([0, 1], [0, 2])}, {"L2": ([0.5], [1])}, title="before", yticks=[0, 1])
    drawn = list(figure.axes[0].lines)
    again = lines_and_points({"L2": ([0, 3], [0, 8])}, {"L2": ([1], [4])}, title="after", figure=figure)
    assert again is figure and list(figure.axes[0].lines) == drawn
    assert [list(line.get_ydata()) for line in drawn] == [[0, 8], [4]]
    assert figure.get_suptitle() == "after" and len(figure.legends) == 1
    assert figure.axes[0].get_xlim()[1] >= 3 and figure.axes[0].get_ylim()[1] >= 8


def test_a_scale_that_is_set_keeps_its_ticks():
    """Assert that a logarithmic scale is set once: setting it again would make all ticks again."""
    settings = {"title": "", "yscale": "log", "ylim": (1e-3, 10)}
    figure = lines_and_points({"L2": ([0, 1], [0.1, 2])}, {}, **settings)
    locator = figure.axes[0].yaxis.get_major_locator()
    lines_and_points({"L2": ([0, 1], [0.2, 2])}, {}, figure=figure, **settings)
    assert figure.axes[0].get_yscale() == "log" and figure.axes[0].yaxis.get_major_locator() is locator


def test_points_beyond_an_axis_are_counted():
    """Assert that points that an axis cannot show are counted by mode, and that the note goes when they are back."""
    settings = {"title": "", "yscale": "log", "ylim": (0.1, 100)}
    figure = lines_and_points({}, {"L2": ([1, 2, 3], [1, 0, 200]), "stable": ([1], [1])}, **settings)
    (note,) = figure.axes[0].texts
    assert note.get_text() == "points beyond this axis: 2 of L2"
    lines_and_points({}, {"L2": ([1], [1]), "stable": ([1], [1])}, figure=figure, **settings)
    assert list(figure.axes[0].texts) == [note] and note.get_text() == ""
