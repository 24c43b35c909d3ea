"""What really happened: a recorder that attaches to any torch optimizer, and the recordings it makes."""

from swd_dynamics.probe.recorder import Probe
from swd_dynamics.probe.recording import load, record, save

__all__ = ["Probe", "load", "record", "save"]
