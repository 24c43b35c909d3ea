"""The figure style: every decay mode has a look of its own."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

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
