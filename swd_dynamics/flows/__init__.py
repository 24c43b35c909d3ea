"""What an optimizer looks like in continuous time."""

from swd_dynamics.flows.fixed_points import FixedLine, FixedPoint
from swd_dynamics.flows.flow import Flow
from swd_dynamics.flows.nullclines import Nullcline
from swd_dynamics.flows.ode import FlowDiverged, Solution
from swd_dynamics.flows.paths import Iterates
from swd_dynamics.flows.phase_plane import PhasePlane, phase_plane

__all__ = [
    "FixedLine",
    "FixedPoint",
    "Flow",
    "FlowDiverged",
    "Iterates",
    "Nullcline",
    "PhasePlane",
    "Solution",
    "phase_plane",
]
