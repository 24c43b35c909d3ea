"""The figure style, shared by all studies."""

from swd_dynamics.plots.style import COLOURS, LABELS, MARKERS, MUTED, house_style, measured, theory, write_figure

__all__ = ["COLOURS", "LABELS", "MARKERS", "MUTED", "house_style", "measured", "theory", "write_figure"]
