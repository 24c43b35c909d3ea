"""How a run is kept: the format of a run folder, its writer and its reader, without torch."""

from swd_dynamics.recording.export import export
from swd_dynamics.recording.reader import open_recording
from swd_dynamics.recording.removal import remove_run
from swd_dynamics.recording.snapshots import load_snapshot, snapshots
from swd_dynamics.recording.summary import summary
from swd_dynamics.recording.writer import RunFolder

__all__ = ["RunFolder", "export", "load_snapshot", "open_recording", "remove_run", "snapshots", "summary"]
