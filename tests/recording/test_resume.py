"""A run that is resumed, and a run that is restarted at an earlier step."""

import json

import numpy as np
import pytest
from written_runs import MADE_BY, SIZES, VARIABLES, assert_holds, block, contents

from swd_dynamics.errors import InputError
from swd_dynamics.recording import RunFolder, open_recording, snapshots
from swd_dynamics.recording.format import CHUNK_ROWS


def test_resumed_run_goes_on(begin):
    """Assert that a run closed in the middle of a chunk continues, and run.json notes the changes."""
    run = begin(made_by={**MADE_BY, "torch_version": "2.6"})
    run.append(block(0, 5))
    run.close("interrupted")
    run = begin(how=RunFolder.resume, made_by={**MADE_BY, "torch_version": "2.13"})
    with pytest.raises(InputError, match="do not rise from the last recorded step, 4"):
        run.append(block(4, 1))
    run.append(block(5, CHUNK_ROWS))
    assert_holds(run.folder, block(0, 5 + CHUNK_ROWS))
    attributes = open_recording(run.folder).attrs
    assert json.loads(attributes["resumed"]) == [{"committed": 5, "changed": {"torch_version": "2.13"}}]
    assert attributes["torch_version"] == "2.6"


def test_restart_replaces_the_steps_it_repeats(begin):
    """Assert that a restart at step s replaces the rows from s on, also across chunks."""
    run = begin()
    run.append(block(0, CHUNK_ROWS + 100))
    for step in (CHUNK_ROWS + 50, 10):
        run.truncate(step)
        assert_holds(run.folder, block(0, step))
        anew = block(step, 200)
        anew["loss"] = -anew["loss"]
        run.append(anew)
        recording = open_recording(run.folder)
        np.testing.assert_array_equal(recording.step, np.arange(step + 200))
        np.testing.assert_array_equal(recording.loss[step:], anew["loss"])
        np.testing.assert_array_equal(recording.loss[:10], block(0, 10)["loss"])


def test_cut_goes_by_the_steps_number(begin):
    """Assert that a restart drops the rows whose steps are s or later, whatever their number."""
    run = begin()
    run.append({**block(0, 10), "step": np.arange(0, 100, 10)})
    run.truncate(95)
    assert run.committed == 10
    run.truncate(41)
    np.testing.assert_array_equal(open_recording(run.folder).step, [0, 10, 20, 30, 40])
    run.truncate(0)
    assert open_recording(run.folder).sizes["step"] == 0
    run.append(block(3, 1))
    assert_holds(run.folder, block(3, 1))


def test_cut_takes_the_later_snapshots_away(begin):
    """Assert that a restart at a step removes the snapshots of that step and of later steps."""
    run = begin()
    for step in (3, 5, 7):
        run.snapshot(step, {"w": np.array([step])})
    run.truncate(6)
    assert list(snapshots(run.folder)) == [3, 5]
    run.truncate(5)
    assert list(snapshots(run.folder)) == [3]


def test_a_run_without_rows_begins_again(begin):
    """Assert that what made a run can be replaced while the run has no rows, and not after."""
    run = begin()
    run.begin_again({"optimizer": "SGD", "steps_before": 7})
    assert open_recording(run.folder).attrs["steps_before"] == 7
    run.append(block(0, 1))
    with pytest.raises(InputError, match="has rows"):
        run.begin_again({})


def test_dataset_opened_before_a_cut_says_so(begin):
    """Assert that a Dataset that was opened before a restart refuses to read other rows."""
    run = begin()
    run.append(block(0, 10))
    opened = open_recording(run.folder)
    run.append(block(10, 1))
    np.testing.assert_array_equal(opened.loss, block(0, 10)["loss"])
    run.truncate(5)
    with pytest.raises(InputError, match="open it again"):
        opened.loss.load()


@pytest.mark.parametrize("place", ["nowhere", "file", "foreign"])
def test_there_must_be_a_run_to_resume(begin, tmp_path, place):
    """Assert that resume names a place without a run, and makes nothing."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"no run in .*{place}"):
        begin(tmp_path / place, RunFolder.resume)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"made_by": {**MADE_BY, "optimizer": "SGD"}}, "optimizer is 'AdamS', here it is 'SGD'"),
        ({"made_by": {**MADE_BY, "parameter_names": ["first", "second", "norm"]}}, r"parameter_names\[1\] is 'last'"),
        (
            {"made_by": {**MADE_BY, "parameter_shapes": [[2, 2], [3], [1]]}},
            r"parameter_shapes\[1\]\[0\] is 2, here.* 3",
        ),
        ({"made_by": {**MADE_BY, "parameter_names": ["first"]}}, "parameter_names is"),
        ({"sizes": {"parameter": 4}}, r"sizes\['parameter'\] is 3, here it is 4"),
        ({"variables": {"loss": VARIABLES["loss"]}}, r"variables\['rate'\] is .* here it is None"),
        ({"variables": {**VARIABLES, "lr": (("step",), "float64", "η")}}, r"variables\['lr'\] is None"),
        ({"variables": {**VARIABLES, "loss": (("step",), "float32", "training loss")}}, "'dtype'.* is 'float64'"),
    ],
)
def test_another_run_is_refused_untouched(begin, tmp_path, change, words):
    """Assert that resume names the difference to another run, and changes nothing."""
    with RunFolder.create(tmp_path / "run", VARIABLES, MADE_BY, SIZES) as run:
        run.append(block(0, 3))
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"holds another run: its .*{words}.*another folder"):
        begin(how=RunFolder.resume, **change)
    assert contents(tmp_path) == before


def test_reworded_description_is_the_same_run(begin):
    """Assert that a run continues if only a long name has changed, and keeps its own."""
    begin().close()
    loss = (("step",), "float64", "reworded")
    run = begin(how=RunFolder.resume, variables={**VARIABLES, "loss": loss})
    run.append(block(0, 2))
    assert open_recording(run.folder).loss.attrs["long_name"] == "training loss"


def test_run_killed_while_it_was_made_is_made_anew(begin, tmp_path, monkeypatch):
    """Assert that a run without arrays is not a recording yet, and resume makes it."""
    with monkeypatch.context() as killed:
        killed.setattr(RunFolder, "_commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            begin()
    with pytest.raises(InputError, match="it is being made"):
        open_recording(tmp_path / "run")
    run = begin(how=RunFolder.resume)
    run.append(block(0, 3))
    assert_holds(run.folder, block(0, 3))
