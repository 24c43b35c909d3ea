"""Removes or replaces a run folder, and nothing that is not a run folder."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from reprlib import repr as short
from shutil import rmtree

from swd_dynamics.errors import InputError
from swd_dynamics.recording.format import (
    LOCK,
    RUN,
    SCALARS,
    SNAPSHOTS,
    UNFINISHED,
    on_disk,
    read_description,
)
from swd_dynamics.recording.lock import locked


def remove_run(path: str | os.PathLike) -> None:
    """Delete a run folder, so that a new run can be recorded there.

    Parameters
    ----------
    path : str or path

    Raises
    ------
    InputError
        If the folder is not a run, contains files that are not the run's, or is being written.
        Then nothing is deleted.

    Examples
    --------
    >>> import tempfile
    >>> from swd_dynamics.recording import RunFolder
    >>> where = Path(tempfile.mkdtemp()) / "run"
    >>> RunFolder.create(where, {"loss": (("step",), "float64", "training loss")}, {}).close()
    >>> remove_run(where)
    >>> where.exists()
    False
    """
    folder = Path(path)
    with _only_a_run(folder):
        rmtree(folder)


@contextmanager
def replaced(path: str | os.PathLike) -> Iterator[None]:
    """Within the ``with`` statement the run is not there; a run that is begun there takes its place.

    If none is begun, for example because an argument was wrong, the old run is put back.

    Raises
    ------
    InputError
        As :func:`remove_run`.
    """
    folder = Path(path).absolute()
    aside = folder.with_name(f"{UNFINISHED}{folder.name}")
    with _only_a_run(folder):
        if aside.exists():  # left by a process that was killed while it replaced an even older run
            rmtree(aside)
        folder.rename(aside)
    try:
        yield
    finally:
        with on_disk("replace the run in", folder):
            if folder.exists():
                rmtree(aside)
            else:
                aside.rename(folder)


@contextmanager
def _only_a_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that contains a run and nothing else."""
    read_description(folder)
    with on_disk("remove the run in", folder), closing(locked(folder)):
        names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(UNFINISHED)}
        if foreign := sorted(names - {RUN, LOCK, SCALARS, SNAPSHOTS}):
            advice = "move those files elsewhere, or delete the folder yourself"
            raise InputError(f"{folder} holds more than its run, {short(foreign)}: {advice}")
        yield
