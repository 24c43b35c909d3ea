"""A run folder has one writer: which folders are free, and the lock on a run."""

import errno
import fcntl
import os

import pytest
from written_runs import assert_holds, block, contents

from swd_dynamics.errors import InputError
from swd_dynamics.recording import RunFolder


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
