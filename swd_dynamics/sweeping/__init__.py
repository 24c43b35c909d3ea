"""Many training runs at once: over a grid of an optimizer's arguments and over seeds."""

from swd_dynamics.sweeping.sweep import ENGINES, sweep

__all__ = ["ENGINES", "sweep"]
