"""What really happened: a probe that attaches to any torch optimizer and records its steps."""

from swd_dynamics.probe.callbacks import lightning_callback, trainer_callback
from swd_dynamics.probe.probe import Probe
from swd_dynamics.probe.record import record

__all__ = ["Probe", "lightning_callback", "record", "trainer_callback"]
