"""The figure style of all studies, and drawings of curves, phase planes, stability, recordings, sweeps and atlas."""

from swd_dynamics.plots.curves import lines_and_points
from swd_dynamics.plots.explained import explained
from swd_dynamics.plots.phase_plane import phase_plane
from swd_dynamics.plots.recording import recording
from swd_dynamics.plots.sliders import Sliders
from swd_dynamics.plots.stability_chart import Runs, stability_chart
from swd_dynamics.plots.style import COLOURS, LABELS, MARKERS, MUTED, house_style, measured, theory, write_figure
from swd_dynamics.plots.sweep_map import sweep_map

__all__ = [
    "COLOURS",
    "LABELS",
    "MARKERS",
    "MUTED",
    "Runs",
    "Sliders",
    "explained",
    "house_style",
    "lines_and_points",
    "measured",
    "phase_plane",
    "recording",
    "stability_chart",
    "sweep_map",
    "theory",
    "write_figure",
]
