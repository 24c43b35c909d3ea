"""What really happened: a recorder that attaches to any torch optimizer, and the recordings it makes."""

from swd_dynamics.probe.callbacks import lightning_callback, trainer_callback
from swd_dynamics.probe.curvature import Curvature
from swd_dynamics.probe.opening import export, load_snapshot, open_recording, snapshots
from swd_dynamics.probe.preconditioner import preconditioner_of
from swd_dynamics.probe.recorder import Probe
from swd_dynamics.probe.recording import load, record, save
from swd_dynamics.probe.run_folder import RunFolder

__all__ = [
    "Curvature",
    "Probe",
    "RunFolder",
    "export",
    "lightning_callback",
    "load",
    "load_snapshot",
    "open_recording",
    "preconditioner_of",
    "record",
    "save",
    "snapshots",
    "trainer_callback",
]
