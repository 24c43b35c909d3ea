"""A run folder has one writer: the check that a folder is free, and the lock on a run."""

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from reprlib import repr as short
from typing import BinaryIO
from weakref import WeakSet

from swd_dynamics.errors import InputError
from swd_dynamics.recording.format import LOCK, METADATA, RUN, RUNNING, SCALARS, UNFINISHED, on_disk

try:
    import fcntl
except ImportError:  # Windows does not have it: there a second writer is not noticed
    fcntl = None

UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))

# The lock files that this process holds open. A forked process has them open, too, and the system
# keeps a lock while any process has its file open: a child would block the run after its parent died.
_HELD: WeakSet[BinaryIO] = WeakSet()


def _let_go() -> None:
    """Close the lock files in a forked process, which unlocks nothing: the parent writes on."""
    for handle in list(_HELD):
        handle.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def check_free(folder: Path) -> None:
    """Refuse a folder for a new run that contains a run or other files."""
    with on_disk("make a run in", folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: a run needs its own folder")
        if (folder / RUN).exists():
            advice = (
                "continue that run (resume=True), give a new run another folder, or remove the old"
                f" run first: swd_dynamics.recording.remove_run({str(folder)!r})"
            )
            raise InputError(f"{folder} holds a run: {advice}")
        names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    found = sorted(name for name in names if name != LOCK and not name.startswith(UNFINISHED))
    if found:
        raise InputError(f"{folder} holds other files, {short(found)}: a run needs an empty folder")


def locked(folder: Path) -> BinaryIO:
    """The open lock file. The system releases the lock when the process ends, however it ends.

    Processes that are forked while it is open do not keep the lock.

    Raises
    ------
    InputError
        If another process holds the lock.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    handle = os.fdopen(os.open(folder / LOCK, flags, 0o666), "r+b")
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = handle.read(200).decode(errors="replace")
        handle.close()
        raise InputError(f"{folder} is being written by {holder}: wait until it ends") from None
    except OSError:
        pass  # some network file systems have no locks: there a second writer is not noticed
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    handle.flush()
    _HELD.add(handle)
    return handle


def unlock(handle: BinaryIO) -> None:
    """Release the lock, even if another process has the file open."""
    with suppress(OSError):
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_UN)
    handle.close()


def status_now(folder: Path, status: str) -> str:
    """The status of a run, and where no process writes a run that was left as running: how long ago it was written."""
    if status != RUNNING or not _is_abandoned(folder):
        return status
    written = max(file.stat().st_mtime for file in (folder / RUN, folder / SCALARS / METADATA))
    return f"running when it was last written, {_ago(time.time() - written)}, but no process is writing it now"


def _is_abandoned(folder: Path) -> bool:
    """Whether nobody holds the lock; not where that cannot be known.

    The lock is held for the time of the test, shared, so that readers do not disturb each other.
    """
    try:
        with open(os.open(folder / LOCK, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as handle:
            holder = handle.read(200).decode(errors="replace")
            if fcntl is None or not holder.endswith(f" on {socket.gethostname()}"):
                return False  # a lock of another machine may not reach this one
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # it is held, or there are no locks
        return False
    return True


def _ago(seconds: float) -> str:
    """A time that has passed, in the largest unit of which it has at least two."""
    size, unit = next(((n, unit) for n, unit in UNITS if seconds >= 2 * n), (1, "second"))
    count = max(0, int(seconds / size))
    return f"{count} {unit}{'' if count == 1 else 's'} ago"
