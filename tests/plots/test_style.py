"""The figure style: every decay mode has a look of its own."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from swd_dynamics.errors import InputError
from swd_dynamics.plots import COLOURS, LABELS, MARKERS, MUTED, write_figure
from swd_dynamics.plots.style import LOOKS
from swd_dynamics.rules import DECAYS


def test_every_decay_mode_has_a_look():
    """Assert that the looks are those of the modes in DECAYS, in their order, and of the unknown mode."""
    assert list(LOOKS) == [*DECAYS, "unknown"]
    assert list(COLOURS) == list(MARKERS) == list(LABELS) == list(DECAYS)


@pytest.mark.parametrize("member", ["colour", "marker", "label"])
def test_looks_differ(member):
    """Assert that no two modes share a colour, a marker or a label, and that none has the colour of guides."""
    members = [getattr(look, member) for look in LOOKS.values()]
    assert len({*members, MUTED}) == len(LOOKS) + 1


@pytest.mark.parametrize("name", ["lr0.01", "lr0.01.png", "lr0.01.SVG"])
def test_an_ending_is_not_written_twice(name, tmp_path):
    """Assert that a figure's name may have one of its endings, and that other dots are kept."""
    written = write_figure(Figure(figsize=(1, 1)), tmp_path / "new" / name)
    assert written == sorted((tmp_path / "new").iterdir())
    assert [path.name for path in written] == ["lr0.01.png", "lr0.01.svg"]


@pytest.mark.parametrize("name", ["", ".", "..", "fig.pdf", "file/fig", "x" * 300, "/dev/null/fig"])
def test_a_figure_that_cannot_be_written_is_refused(name, tmp_path, monkeypatch):
    """Assert that a path without a name, inside a file, too long, or of another kind is refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError):
        write_figure(Figure(figsize=(1, 1)), Path(name))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


FIGURES = Path(__file__).parents[2] / "figures"


def is_cut_off(png):
    """Whether anything but the background touches the border of a picture."""
    colours = imread(png)[..., :3]
    drawn = np.abs(colours - colours[0, 0]).max(axis=2) > 0.2
    return bool(drawn[[0, 1, -2, -1]].any() or drawn[:, [0, 1, -2, -1]].any())


@pytest.mark.parametrize("png", sorted(FIGURES.rglob("*.png")), ids=lambda png: png.relative_to(FIGURES).as_posix())
@pytest.mark.slow
def test_no_committed_picture_is_cut_off(png):
    """Assert that no title or label reaches the border of a committed picture, where it would be cut."""
    assert not is_cut_off(png)


def test_a_title_that_is_too_wide_is_seen(tmp_path):
    """Assert that a title wider than its figure is found, and that a short title is not."""
    for title, cut in (("short", False), ("much too wide for a figure of an inch", True)):
        figure = Figure(figsize=(1, 1))
        figure.suptitle(title)
        png, _ = write_figure(figure, tmp_path / title)
        assert is_cut_off(png) is cut
