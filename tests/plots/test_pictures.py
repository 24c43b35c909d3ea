"""The figures themselves: each drawing function of ``plots`` draws the picture in ``baseline``.

The pictures are drawn by the matplotlib in ``tests/constraints.txt``, in its own font. Versions before
3.11 set texts otherwise.

After a change that is meant to be seen, draw the pictures again and look at each of them::

    python -m pytest tests/plots/test_pictures.py --mpl-generate-path=tests/plots/baseline
"""

from pathlib import Path

import matplotlib.style
import numpy as np
import pytest
import xarray
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from tolerances import PICTURE

from swd_dynamics.auditing.atlas import AtlasEntry
from swd_dynamics.plots import (
    MUTED,
    Runs,
    Sliders,
    house_style,
    lines_and_points,
    measured,
    phase_plane,
    recording,
    stability_chart,
    theory,
)
from swd_dynamics.plots.atlas import draw_atlas
from swd_dynamics.plots.style import LOOKS
from swd_dynamics.rules import CATALOG

BASELINE = Path(__file__).parent / "baseline"
DPI = 45  # dots per inch, so that a file is smaller than 40 kB; at half of it no text can be read
compared = pytest.mark.mpl_image_compare(style="default", tolerance=PICTURE, savefig_kwargs={"dpi": DPI})


@compared
@pytest.mark.slow
def test_phase_plane():
    """Assert that a phase plane has streamlines, nullclines, a fixed point, an orbit and the steps of three decays."""
    names = {"L2": "SGD", "decoupled": "SGDW", "stable": "SGDS"}
    rules = {mode: CATALOG[name](lr=0.05, momentum=0.8, weight_decay=0.5) for mode, name in names.items()}

    def gradient(theta):
        return np.array([3.0, 1.0]) * (theta - 0.5)

    return phase_plane(rules["stable"], gradient, start=(-1.5, 1.5), steps=20, iterates_of=rules, nodes=16)


def runs() -> dict[str, xarray.Dataset]:
    """Recordings of a loss and a decay rate, made by hand: one for each decay, and one of an unknown optimizer."""
    steps, made = np.arange(1, 31), {}
    for i, name in enumerate(("SGD", "AdamW", "AdamS", "Mine")):
        variables = {"loss": ("step", 2.0 ** (-steps / (5 + i))), "decay_rate": ("step", 0.01 * (1 + i + steps / 30))}
        made[name] = xarray.Dataset(variables, {"step": steps}, {"optimizer": name})
    return made


@compared
@pytest.mark.slow
def test_recording():
    """Assert that several recordings have a panel for each quantity, and the colours of their decay modes."""
    return recording(runs(), "loss", "decay_rate")


@compared
@pytest.mark.slow
def test_lines_and_points():
    """Assert that lines and points of one decay have its colour and share a column of the legend."""
    x = np.linspace(0, 1, 6)
    lines = {"L2": (x, 2 * x), "stable": (x, x)}
    points = {"L2": (x[::2], 2 * x[::2]), "stable": (x[::2], x[::2]), "none": (x, 0 * x)}
    return lines_and_points(lines, points, title="Three slopes", xlabel="x", ylabel="y")


@compared
@pytest.mark.slow
def test_stability_chart():
    """Assert that a chart has colours, a line where the limit is, filled and open runs, and a colour bar."""
    names = {"decoupled": "SGDW", "stable": "SGDS"}
    rules = {mode: CATALOG[name](lr=0.1, momentum=0.8, weight_decay=0.1) for mode, name in names.items()}
    x, y = (each.ravel() for each in np.meshgrid([0.1, 1.0, 5.0], [0.05, 5.0]))
    runs = dict.fromkeys(rules, Runs(x, y, x * (1 + y) < 3))
    return stability_chart(rules, at={"lr": (0.05, 10), "weight_decay": (0.02, 10)}, runs=runs, title="Two decays")


@compared
@pytest.mark.slow
def test_sliders():
    """Assert that sliders show the figure of their values."""

    def line(figure, slope):
        figure.subplots().plot([0, 1], [0, slope], **theory("stable"))

    sliders = Sliders(line, size=(3.6, 2.4), slope=(0.0, 2.0, 0.5))
    sliders.set(slope=1.5)
    return sliders.figure


@compared
@pytest.mark.slow
def test_atlas():
    """Assert that an atlas has a row for each optimizer that differs, with a bar and two markers."""
    rates = {"L2": (0.1, 1.0, 8.0, 3.0), "decoupled": (2.0, 2.0, 2.0, 2.0), "stable": (0.3, 0.3, 0.3, 0.6)}
    rates |= {"other": (0.01, 0.5, 1.0, 0.2), "AdamW": (0.05, 0.1, 0.2, 0.2), "right": (1.0, 1.0, 1.0, 1.0)}
    entries = []
    for name, row in rates.items():
        low, settled, high, fallen = (1e-3 * ratio for ratio in row)
        phases = {"settled": {"5 %": low, "R": settled, "95 %": high}, "gradients / 10": {"R": fallen}}
        kind = {"AdamW": "L2", "right": "decoupled"}.get(name, name)
        found = {"kind": kind, "phases": phases, "lr": 0.01, "weight_decay": 0.1, "reasons": []}
        entries.append(AtlasEntry(name, found))
    entries.append(AtlasEntry("Sparse", None, "needs sparse gradients"))
    return draw_atlas(entries, "mine: AdamW does not decay as its name says,\nand R is not ηλ in 5 of 6")


@compared
@pytest.mark.slow
def test_style():
    """Assert that theory is a line and measurements are points, in the look of each decay mode."""
    with house_style():
        figure = Figure(figsize=(5.4, 5.4))
        axes = figure.subplots()
        for i, mode in enumerate(LOOKS):
            axes.plot([0, 1], [i, i], **theory(mode))
            axes.plot([0.2, 0.5, 0.8], [i, i, i], **measured(mode))
        axes.axvline(0.5, color=MUTED)
        figure.legend(loc="outside right upper")
    return figure


@pytest.mark.slow
def test_another_colour_would_show(tmp_path, monkeypatch):
    """Assert that the comparison accepts the figure as it is, and refuses another colour for a decay mode."""
    expected = (BASELINE / "test_recording.png").as_posix()
    drawn = (tmp_path / "drawn.png").as_posix()

    def difference() -> str | None:
        with matplotlib.style.context("default"):
            recording(runs(), "loss", "decay_rate").savefig(drawn, dpi=DPI)
        return compare_images(expected, drawn, PICTURE)

    assert difference() is None
    monkeypatch.setitem(LOOKS, "stable", LOOKS["stable"]._replace(colour=LOOKS["decoupled"].colour))
    assert difference() is not None
