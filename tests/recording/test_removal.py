"""Removing and replacing runs: what is not a run, is in use, or is not the run's own is kept."""

import os

import pytest
from written_runs import assert_holds, block, contents

from swd_dynamics.errors import InputError
from swd_dynamics.recording import remove_run
from swd_dynamics.recording.removal import replaced


def test_a_run_is_removed(begin, tmp_path):
    """Assert that nothing is left of a run that is removed, and that a new one can be made there."""
    begin().close()
    remove_run(tmp_path / "run")
    assert os.listdir(tmp_path) == []
    begin()


def test_nothing_else_is_removed(begin, tmp_path):
    """Assert that a foreign folder, a run that is being written, and a run with other files are kept."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("mine")
    run = begin()
    run.append(block(0, 3))
    with pytest.raises(InputError, match="is being written"):
        remove_run(tmp_path / "run")
    run.close()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    for path, words in (("thesis", "no run in"), ("nowhere", "no run in"), ("run", "holds more .*notes.txt")):
        with pytest.raises(InputError, match=words):
            remove_run(tmp_path / path)
    assert contents(tmp_path) == before


def test_a_run_that_is_not_begun_replaces_nothing(begin, tmp_path):
    """Assert that the old run is back if no new run was begun, and gone if one was."""
    old = begin()
    old.append(block(0, 3))
    old.close()
    with pytest.raises(ZeroDivisionError), replaced(tmp_path / "run"):
        _ = 1 / 0
    assert_holds(tmp_path / "run", block(0, 3))
    with replaced(tmp_path / "run"):
        new = begin()
        new.append(block(0, 2))
        new.close()
    assert_holds(tmp_path / "run", block(0, 2))
    assert os.listdir(tmp_path) == ["run"]


def test_what_a_kill_left_does_not_stop_the_next_replacement(begin, tmp_path):
    """Assert that a run that a killed process had set aside is removed when the newer run is replaced."""
    (tmp_path / ".unfinished-run").mkdir()
    (tmp_path / ".unfinished-run" / "run.json").write_text("{}")
    begin().close()
    with replaced(tmp_path / "run"):
        new = begin()
        new.append(block(0, 2))
        new.close()
    assert_holds(tmp_path / "run", block(0, 2))
    assert os.listdir(tmp_path) == ["run"]
