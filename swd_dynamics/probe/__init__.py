"""What really happened: a recorder that attaches to any torch optimizer, and the recordings it makes."""

from swd_dynamics.probe.curvature import Curvature
from swd_dynamics.probe.preconditioner import preconditioner_of
from swd_dynamics.probe.recorder import Probe
from swd_dynamics.probe.recording import load, record, save

__all__ = ["Curvature", "Probe", "load", "preconditioner_of", "record", "save"]
