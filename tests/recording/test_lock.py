"""A run folder has one writer: which folders are free, and the lock on a run."""

import errno
import fcntl
import os
import signal
import time

import pytest
from written_runs import assert_holds, block, contents

from swd_dynamics.errors import InputError
from swd_dynamics.recording import RunFolder
from swd_dynamics.recording.lock import status_now


def test_taken_folders_are_refused_untouched(begin, tmp_path):
    """Assert that create does not change a file, a foreign folder or a run, and names each."""
    file, foreign = tmp_path / "file", tmp_path / "foreign"
    file.write_text("mine")
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    begin().append(block(0, 3))
    before = contents(tmp_path)
    for path, words in (
        (file, "is a file: a run needs its own folder"),
        (foreign, "holds other files.*thesis.tex.*: a run needs an empty folder"),
        (tmp_path / "run", r"holds a run: continue that run \(resume=True\)"),
    ):
        with pytest.raises(InputError, match=words):
            begin(path)
    assert contents(tmp_path) == before
    (tmp_path / "empty").mkdir()
    begin(tmp_path / "empty")


@pytest.mark.parametrize("left", [".lock", ".unfinished-run.json"])
def test_what_a_kill_left_does_not_take_the_folder(begin, tmp_path, left):
    """Assert that a run can be made where another was killed before it began."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).write_text("{")
    begin().append(block(0, 3))
    assert_holds(tmp_path / "run", block(0, 3))


def test_only_one_writes(begin):
    """Assert that a second writer is refused with the first writer's name until that ends."""
    run = begin()
    run.append(block(0, 3))
    with pytest.raises(InputError, match=f"is being written by process {os.getpid()} on"):
        begin(how=RunFolder.resume)
    run.append(block(3, 1))
    run.close()
    begin(how=RunFolder.resume).append(block(4, 1))
    assert_holds(run.folder, block(0, 5))


def test_file_systems_without_locks_still_record(begin, monkeypatch):
    """Assert that a file system without locks does not stop a run."""

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    run = begin()
    run.append(block(0, 3))
    assert_holds(run.folder, block(0, 3))


def test_lock_that_is_a_link_is_not_followed(begin, tmp_path):
    """Assert that a lock file that is a link does not make the writer write elsewhere."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="cannot make a run in"):
        begin()
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process can be forked on Unix only")
@pytest.mark.slow
def test_a_dead_writer_does_not_lock(begin):
    """Assert that a run can be continued after its writer was killed while a child of it lives."""
    begin().close()
    reading, writing = os.pipe()
    writer = os.fork()
    if not writer:
        run = begin(how=RunFolder.resume)
        run.append(block(0, 3))
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        os.write(writing, str(child).encode())
        time.sleep(60)
        os._exit(0)
    child = int(os.read(reading, 20))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    try:
        begin(how=RunFolder.resume).append(block(3, 1))
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process can be forked on Unix only")
def test_a_forked_child_does_not_write(begin):
    """Assert that a child cannot write its parent's run, and leaves the parent's lock alone."""
    run = begin()
    run.append(block(0, 1))
    child = os.fork()
    if not child:
        try:
            run.append(block(1, 1))
        except InputError:
            run.close()
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(InputError, match="is being written by"):
        begin(how=RunFolder.resume)
    run.append(block(1, 1))
    run.close()
    assert_holds(run.folder, block(0, 2))


def test_a_killed_run_is_not_said_to_run(begin, tmp_path, monkeypatch):
    """Assert that a run whose process was killed is said to be written by nobody, and since when."""
    pid = os.fork()
    if not pid:
        begin().append(block(0, 3))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    run = tmp_path / "run"
    written = max((run / name).stat().st_mtime for name in ("run.json", "scalars.zarr/zarr.json"))
    for later, said in ((1.5, "1 second ago"), (119, "119 seconds ago"), (7201, "2 hours ago"), (2e5, "2 days ago")):
        monkeypatch.setattr(time, "time", lambda: written + later)  # noqa: B023
        assert said in status_now(run, "running")
    assert status_now(run, "finished") == "finished"


@pytest.mark.parametrize("left", ["", "process 1 on another-machine"])
def test_a_run_that_may_be_written_is_said_to_run(begin, left):
    """Assert that a run is said to run while a process writes it, and where a lock cannot tell."""
    run = begin()
    run.append(block(0, 3))
    assert status_now(run.folder, "running") == "running"
    run.close()
    assert status_now(run.folder, "running") != "running"
    (run.folder / ".lock").write_text(left)
    assert status_now(run.folder, "running") == "running"
    (run.folder / ".lock").unlink()
    assert status_now(run.folder, "running") == "running"
