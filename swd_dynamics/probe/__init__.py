"""The probe attaches to any torch optimizer and records what each step really did."""

from swd_dynamics.probe.callbacks import lightning_callback, trainer_callback
from swd_dynamics.probe.landscape import Landscape
from swd_dynamics.probe.probe import Probe
from swd_dynamics.probe.record import record

__all__ = ["Landscape", "Probe", "lightning_callback", "record", "trainer_callback"]
