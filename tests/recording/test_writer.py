"""The writer of a run folder: what it records, and what happens if a folder or a disk is not
usable.
"""

import json
import math

import numpy as np
import pytest
import xarray
import zarr
from written_runs import MADE_BY, SIZES, VARIABLES, assert_holds, block

from swd_dynamics.errors import InputError
from swd_dynamics.recording import rows as checked
from swd_dynamics.recording.format import CHUNK_ROWS, MAX_JSON
from swd_dynamics.recording.reader import open_recording
from swd_dynamics.recording.snapshots import load_snapshot, snapshots
from swd_dynamics.recording.writer import RunFolder


@pytest.mark.parametrize("sizes", [[1], [3, 4], [CHUNK_ROWS], [CHUNK_ROWS - 1, 1, 2], [1, 3 * CHUNK_ROWS, 5]])
def test_rows_come_back_exactly(begin, sizes):
    """Assert that blocks of any length, also across chunks, are read back exactly."""
    run, done = begin(), 0
    for size in sizes:
        run.append(block(done, size))
        done += size
        assert run.committed == done
    assert_holds(run.folder, block(0, done))


def test_zarr_and_xarray_read_what_is_written(begin):
    """Assert that zarr and xarray alone find the same values in the folder."""
    run = begin()
    run.append(block(5, CHUNK_ROWS + 3))
    group = zarr.open_group(run.folder / "scalars.zarr", mode="r")
    committed = group.attrs["committed"]
    assert committed == CHUNK_ROWS + 3
    plain = xarray.open_zarr(run.folder / "scalars.zarr", chunks=None, consolidated=False).isel(step=slice(committed))
    for name, values in block(5, CHUNK_ROWS + 3).items():
        np.testing.assert_array_equal(group[name][:committed], values)
        np.testing.assert_array_equal(plain[name], values)
    assert plain.loss.attrs["long_name"] == "training loss"
    assert np.isnan(group["loss"][committed:]).all()


def test_what_is_left_out_is_nan(begin):
    """Assert that a floating-point variable may be omitted, and another type may not."""
    run = begin()
    rows = block(0, 2)
    del rows["loss"], rows["rate"]
    run.append(rows)
    recording = open_recording(run.folder)
    assert np.isnan(recording.loss).all() and np.isnan(recording.rate).all()
    del rows["moved"]
    with pytest.raises(InputError, match="'moved'"):
        run.append(rows)


def test_nothing_is_appended_from_an_empty_block(begin):
    """Assert that a block without rows changes nothing."""
    run = begin()
    run.append(block(0, 0))
    assert run.committed == 0
    assert open_recording(run.folder).sizes["step"] == 0


def test_overflow_is_recorded_as_infinite(begin):
    """Assert that a number beyond float32 is infinite in a float32 variable, without a warning."""
    run = begin()
    run.append({**block(0, 1), "rate": np.array([[1e300, -1e300, 0.5]])})
    np.testing.assert_array_equal(open_recording(run.folder).rate[0], [math.inf, -math.inf, 0.5])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lost": np.zeros(2)}, "unknown variable 'lost'; recorded are loss"),
        ({"loss": np.zeros(3)}, r"'loss'.*shape \(3,\).*shape \(2,\)"),
        ({"rate": np.zeros((2, 2))}, r"'rate'.*shape \(2, 3\) \(step, parameter\)"),
        ({"loss": np.array(["a", "b"])}, "'loss'.*<U1"),
        ({"loss": np.array([object(), None])}, "'loss'.*object"),
        ({"loss": np.zeros(2, complex)}, "'loss'.*complex128"),
        ({"count": np.zeros(2)}, "'count'.*float64.*int64"),
        ({"step": np.array([7, 6])}, "do not rise"),
        ({"step": np.array([4, 5])}, "do not rise from the last recorded step, 4"),
        ({"step": 7}, "step is 7"),
        ({"step": None}, "step is None"),
    ],
)
def test_rows_that_do_not_fit_are_refused(begin, change, words):
    """Assert that a block that does not fit is refused and changes nothing."""
    run = begin()
    run.append(block(0, 5))
    with pytest.raises(InputError, match=words):
        run.append({**block(5, 2), **change})
    run.append(block(5, 2))
    assert_holds(run.folder, block(0, 7))


@pytest.mark.parametrize(
    ("variables", "sizes", "words"),
    [
        (["loss"], {}, "must be mappings"),
        ({"loss": "float64"}, {}, "must be"),
        ({"loss": None}, {}, "must be"),
        ({"../loss": (("step",), "float64", "")}, {}, "name '../loss' is not allowed"),
        ({"/loss": (("step",), "float64", "")}, {}, "not allowed"),
        ({"..": (("step",), "float64", "")}, {}, "not allowed"),
        ({"": (("step",), "float64", "")}, {}, "not allowed"),
        ({3: (("step",), "float64", "")}, {}, "not allowed"),
        ({"loss": ((), "float64", "")}, {}, "first, and only the first, must be step"),
        ({"loss": (("group", "step"), "float64", "")}, {"group": 1}, "must be step"),
        ({"loss": (("step", "step"), "float64", "")}, {}, "must be step"),
        ({"loss": (("step",), "complex128", "")}, {}, "allowed are float64, float32, int64, bool"),
        ({"loss": (("step",), "object", "")}, {}, "allowed are"),
        ({"loss": (("step",), "float64", 3)}, {}, "a long_name that is text"),
        ({"loss": (("step", "group"), "float64", "")}, {}, "sizes must give every dimension"),
        ({"loss": (("step", "group"), "float64", "")}, {"group": 0}, "a whole number from 1"),
        ({"loss": (("step", "group"), "float64", "")}, {"group": 2.0}, "a whole number from 1"),
        ({"loss": (("step", "group"), "float64", "")}, {"group": 10**15}, "at most 1000000"),
        ({"step": (("step",), "int64", "")}, {}, "step and a dimension cannot be"),
        ({"group": (("step",), "int64", "")}, {"group": 2}, "a dimension cannot be variables"),
        ({"Loss": (("step",), "int64", ""), "loss": (("step",), "int64", "")}, {}, "capitals"),
    ],
)
def test_declarations_are_checked(begin, tmp_path, variables, sizes, words):
    """Assert that a declaration that is not allowed is refused before a folder is made."""
    with pytest.raises(InputError, match=words):
        begin(variables=variables, sizes=sizes)
    assert not (tmp_path / "run").exists()


def test_facts_are_noted(begin):
    """Assert that facts are merged into run.json, which stays strict JSON."""
    run = begin(made_by={**MADE_BY, "clip": math.inf, "seed": np.int64(3), "betas": (0.9, 0.999), "kind": complex})
    run.note(checkpoints=[1], best=np.float32(0.5))
    run.note(checkpoints=[1, 2])
    described = json.loads((run.folder / "run.json").read_text(), parse_constant=pytest.fail)
    assert described["notes"] == {"checkpoints": [1, 2], "best": 0.5}
    made_by = described["made_by"]
    assert (made_by["clip"], made_by["seed"], made_by["betas"]) == ("inf", 3, [0.9, 0.999])
    assert made_by["kind"] == "<class 'complex'>"
    assert described["status"] == "running"


def test_notes_that_could_not_be_read_are_refused(begin):
    """Assert that run.json never grows past the size that a reader accepts."""
    run = begin()
    with pytest.raises(InputError, match=f"at most {MAX_JSON} are read"):
        run.note(diary="a" * MAX_JSON)
    run.note(diary="short")
    assert open_recording(run.folder).attrs["diary"] == "short"


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "finished"), (KeyboardInterrupt(), "interrupted"), (OSError("no"), "failed: OSError('no')")],
)
def test_status_says_how_a_run_ended(tmp_path, error, status):
    """Assert that the end of the with-block notes whether the run finished, was interrupted, or
    failed.
    """
    try:
        with RunFolder.create(tmp_path / "run", VARIABLES, MADE_BY, SIZES) as run:
            run.append(block(0, 1))
            assert open_recording(run.folder).attrs["status"] == "running"
            if error:
                raise error
    except (OSError, KeyboardInterrupt):
        pass
    assert open_recording(run.folder).attrs["status"] == status


def test_closed_run_takes_nothing_more(begin):
    """Assert that a closed run refuses rows and says how to continue; closing it again does
    nothing.
    """
    run = begin()
    with pytest.raises(InputError, match="status = 'happy' is not allowed"):
        run.close("happy")
    run.close("interrupted")
    run.close()
    assert open_recording(run.folder).attrs["status"] == "interrupted"
    for act in (lambda: run.append(block(0, 1)), lambda: run.note(a=1), lambda: run.truncate(0)):
        with pytest.raises(InputError, match=r"RunFolder\.resume continues it"):
            act()


def test_snapshots_are_exact(begin):
    """Assert that a snapshot holds arrays of any shape, stride and type exactly, and replaces an
    older one.
    """
    run = begin()
    arrays = {
        "first.weight": np.arange(6.0).reshape(2, 3).T,
        "half": np.array([0.5, math.inf], np.float16),
        "empty": np.empty((0, 3), np.float32),
        "scalar": np.array(7),
        "reversed": np.arange(5)[::-1],
        "big-endian": np.arange(3, dtype=">f8"),
        "mask": np.array([True, False]),
    }
    run.snapshot(12, {"other": np.zeros(1)})
    file = run.snapshot(12, arrays)
    assert file.name == "step-0000000012.safetensors"
    back = load_snapshot(run.folder, 12)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype.newbyteorder("="), name
        np.testing.assert_array_equal(back[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("step", "arrays", "words"),
    [
        (-1, {}, "step = -1 is not allowed"),
        (1.5, {}, "step = 1.5"),
        (True, {}, "step = True"),
        (10**18, {}, "is not allowed"),
        (1, {"w": np.array(["a"])}, "must be arrays of numbers by name"),
        (1, {"w": np.array([object()])}, "must be arrays of numbers by name"),
        (1, {3: np.zeros(1)}, "must be arrays of numbers by name"),
    ],
)
def test_snapshots_that_cannot_be_kept(begin, step, arrays, words):
    """Assert that a snapshot without a step or of other things than numbers leaves no file."""
    run = begin()
    with pytest.raises(InputError, match=words):
        run.snapshot(step, arrays)
    assert snapshots(run.folder) == {}


def test_variables_are_declared_before_the_first_row(begin):
    """Assert that variables may be declared later, but not once there is a row."""
    run = begin()
    run.declare({"late": (("step",), "float64", "declared late")})
    assert "late" in open_recording(run.folder)
    run.append({**block(0, 3), "late": np.arange(3.0)})
    np.testing.assert_array_equal(open_recording(run.folder).late, [0, 1, 2])
    with pytest.raises(InputError, match="has rows"):
        run.declare({"later": (("step",), "float64", "declared later")})
    run.truncate(0)  # the arrays still say that they have rows
    run.declare({"later": (("step",), "float64", "declared later")})
    run.append({**block(0, 2), "later": np.ones(2)})
    opened = open_recording(run.folder)
    assert opened.later.values.tolist() == [1, 1] and np.isnan(opened.late).all()


def test_rows_of_a_run_are_bounded(begin, monkeypatch):
    """Assert that a run is full at the number of rows that a reader accepts."""
    monkeypatch.setattr(checked, "MAX_ROWS", 5)
    run = begin()
    run.append(block(0, 5))
    with pytest.raises(InputError, match="at most 5 rows"):
        run.append(block(5, 1))
