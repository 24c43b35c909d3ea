"""A disk that is full or read-only: no acknowledged row is lost."""

import errno
import os
import resource
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from written_runs import MADE_BY, SIZES, VARIABLES, assert_holds, block

from swd_dynamics.errors import InputError
from swd_dynamics.recording import RunFolder, load_snapshot, open_recording
from swd_dynamics.recording.format import CHUNK_ROWS


@contextmanager
def without_privileges():
    """Become an ordinary user, because no permission stops root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_folder_that_may_not_be_written():
    """Assert that a read-only folder is named, for a new run and for a resumed one."""
    place = Path(tempfile.mkdtemp())  # not tmp_path, where an ordinary user may not even look
    try:
        RunFolder.create(place / "run", VARIABLES, MADE_BY, SIZES).close()
        for folder in (place / "run", place):
            folder.chmod(0o555)
        (place / "run" / ".lock").chmod(0o444)
        with without_privileges():
            with pytest.raises(InputError, match=r"cannot make a run in .*new: Permission denied"):
                RunFolder.create(place / "new", VARIABLES, MADE_BY, SIZES)
            with pytest.raises(InputError, match=r"cannot continue the run in .*run: Permission denied"):
                RunFolder.resume(place / "run", VARIABLES, MADE_BY, SIZES)
            assert open_recording(place / "run").sizes["step"] == 0
    finally:
        place.chmod(0o755)
        (place / "run").chmod(0o755)
        shutil.rmtree(place)


@contextmanager
def files_of_at_most(size):
    """Let the operating system refuse to make any file larger, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_costs_nothing_acknowledged(begin):
    """Assert that a refused append loses no acknowledged row, and can be repeated."""
    run = begin()
    run.append(block(0, CHUNK_ROWS - 10))
    with (
        files_of_at_most(CHUNK_ROWS * 8),  # enough for a chunk of loss, too little for one of rate
        pytest.raises(InputError, match=f"cannot record 100 rows after the {CHUNK_ROWS - 10} safe rows"),
    ):
        run.append(block(CHUNK_ROWS - 10, 100))
    assert_holds(run.folder, block(0, CHUNK_ROWS - 10))
    assert not list(run.folder.rglob(".unfinished*"))
    run.append(block(CHUNK_ROWS - 10, 100))
    assert_holds(run.folder, block(0, CHUNK_ROWS + 90))


@pytest.mark.parametrize("failing", range(4))
def test_disk_full_at_any_write(begin, monkeypatch, failing):
    """Assert that whichever renaming of an append fails, acknowledged rows stay, and rows can be
    repeated.
    """
    run, replace = begin(), os.replace
    run.append(block(0, 10))
    left = [failing]

    def full(*paths):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*paths)

    with monkeypatch.context() as disk, pytest.raises(InputError, match="No space left on device"):
        disk.setattr(os, "replace", full)
        run.append(block(10, CHUNK_ROWS))
    assert_holds(run.folder, block(0, 10))
    run.append(block(10, CHUNK_ROWS))
    assert_holds(run.folder, block(0, CHUNK_ROWS + 10))


def test_snapshot_on_a_full_disk(begin):
    """Assert that a snapshot without room on the disk does not damage the older one."""
    run = begin()
    run.snapshot(1, {"w": np.zeros(3)})
    with files_of_at_most(1000), pytest.raises(InputError, match="cannot keep a snapshot"):
        run.snapshot(1, {"w": np.ones(1000)})
    np.testing.assert_array_equal(load_snapshot(run.folder, 1)["w"], np.zeros(3))


def test_a_declaration_that_fails_changes_nothing(begin, monkeypatch):
    """Assert that a full disk during a declaration changes nothing, and it can be repeated."""
    run, replace = begin(), os.replace

    def fails(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(InputError, match="declare variables"):
        run.declare({"late": (("step",), "float64", "declared late")})
    monkeypatch.setattr(os, "replace", replace)
    run.append(block(0, 2))
    assert "late" not in open_recording(run.folder)
