"""The figure style, shared by all studies, and drawings of phase planes, recordings and the atlas."""

from swd_dynamics.plots.phase_plane import phase_plane
from swd_dynamics.plots.recording import recording
from swd_dynamics.plots.sliders import Sliders
from swd_dynamics.plots.style import COLOURS, LABELS, MARKERS, MUTED, house_style, measured, theory, write_figure

__all__ = [
    "COLOURS",
    "LABELS",
    "MARKERS",
    "MUTED",
    "Sliders",
    "house_style",
    "measured",
    "phase_plane",
    "recording",
    "theory",
    "write_figure",
]
