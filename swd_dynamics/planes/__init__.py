"""Phase planes: the field of a flow with its nullclines, its fixed points and the optimizer's own steps."""

from swd_dynamics.planes.courses import Iterates
from swd_dynamics.planes.fixed_points import FixedLine, FixedPoint
from swd_dynamics.planes.nullclines import Nullcline
from swd_dynamics.planes.phase_plane import PhasePlane, phase_plane
from swd_dynamics.planes.systems import System

__all__ = ["FixedLine", "FixedPoint", "Iterates", "Nullcline", "PhasePlane", "System", "phase_plane"]
