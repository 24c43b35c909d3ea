"""The reader of a run folder: labels, lazy values, snapshots, exports, and older folders."""

import csv
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray

from swd_dynamics.errors import InputError
from swd_dynamics.recording.export import export
from swd_dynamics.recording.format import CHUNK_ROWS
from swd_dynamics.recording.reader import open_recording
from swd_dynamics.recording.snapshots import load_snapshot, snapshots
from swd_dynamics.recording.writer import RunFolder

SAMPLES = Path(__file__).parent / "samples"
ROWS = 2 * CHUNK_ROWS + 100
VARIABLES = {
    "loss": (("step",), "float64", "training loss"),
    "lr": (("step", "group"), "float64", "learning rate η"),
    "moved": (("step", "parameter"), "bool", "whether the parameter moved"),
    "cube": (("step", "group", "parameter"), "float32", "something by group and parameter"),
}
MADE_BY = {
    "optimizer": "AdamS",
    "seed": 3,
    "wide": 2**70,
    "deterministic": True,
    "data": None,
    "groups": [{"lr": 0.5}, {"lr": 0.25}],
    "parameter_names": ["first.weight", "first.bias", "last.weight"],
    "parameter_groups": [0, 0, 1],
}


def rows(count=ROWS):
    steps = np.arange(count)
    rates = steps[:, None] / np.array([2, 3])
    cube = np.arange(6.0).reshape(2, 3) + steps[:, None, None]
    return {"step": 10 * steps, "loss": 1 / (1 + steps), "lr": rates, "moved": cube[:, 0] % 2 == 1, "cube": cube}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that was closed, in which every tenth step was recorded."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with RunFolder.create(path, VARIABLES, MADE_BY, {"group": 2, "parameter": 3}) as run:
        run.append(rows())
        run.note(best={"step": 20, "loss": 0.5})
        for step in (10, 20):
            run.snapshot(step, {"first.weight": np.full((2, 2), step), "first.bias": np.float32([step])})
    return path


def test_recording_is_labelled(folder):
    """Assert that steps, parameters and groups are coordinates, and every variable has a long name."""
    recording = open_recording(folder)
    np.testing.assert_array_equal(recording.step, 10 * np.arange(ROWS))
    assert recording.parameter.values.tolist() == MADE_BY["parameter_names"]
    assert recording.parameter_group.values.tolist() == [0, 0, 1]
    assert recording.group.values.tolist() == [0, 1]
    assert recording.loss.attrs["long_name"] == "training loss"
    assert recording.lr.dims == ("step", "group")
    assert recording.lr.sel(step=30, group=1) == 1.0
    assert not recording.moved.sel(step=0, parameter="first.weight")


def test_attributes_are_flat(folder):
    """Assert that all of run.json is in the attributes, as text and numbers that any file format
    holds.
    """
    attributes = open_recording(folder).attrs
    assert attributes["swd_dynamics_recording"] == 2
    assert (attributes["optimizer"], attributes["seed"], attributes["status"]) == ("AdamS", 3, "finished")
    assert (attributes["deterministic"], attributes["data"], attributes["wide"]) == ("true", "null", str(2**70))
    assert json.loads(attributes["groups"]) == MADE_BY["groups"]
    assert json.loads(attributes["best"]) == {"step": 20, "loss": 0.5}
    assert json.loads(attributes["resumed"]) == []
    assert all(type(value) in (int, float, str) for value in attributes.values())


@pytest.mark.parametrize(
    "key",
    [
        {},
        {"step": 0},
        {"step": -1, "group": 1},
        {"step": slice(CHUNK_ROWS - 2, CHUNK_ROWS + 2)},
        {"step": slice(None, None, 1000), "parameter": slice(None, None, -1)},
        {"step": slice(None, None, -7)},
        {"step": slice(5, 5)},
        {"step": slice(-3, None), "group": [1, 0]},
        {"step": [ROWS - 1, 0, 5, 5], "parameter": [2]},
        {"step": np.arange(ROWS) % 2000 == 1999},
        {"step": xarray.DataArray([1, 2], dims="z"), "parameter": xarray.DataArray([0, 2], dims="z")},
        {"step": np.int64(4)},
    ],
    ids=str,
)
def test_lazy_rows_are_indexed_like_arrays(folder, key):
    """Assert that reading with any index gives the same values as the whole array."""
    whole = xarray.DataArray(rows()["cube"].astype(np.float32), dims=("step", "group", "parameter"))
    found = open_recording(folder).cube.drop_vars(["step", "group", "parameter", "parameter_group"]).isel(key)
    xarray.testing.assert_equal(found, whole.isel(key))


def test_values_are_read_when_they_are_used(folder, tmp_path):
    """Assert that opening reads no values, and a file that is lost then is an error."""
    shutil.copytree(folder, tmp_path / "run")
    recording = open_recording(tmp_path / "run")
    for file in (tmp_path / "run" / "scalars.zarr" / "loss").glob("c.*"):
        file.unlink()
    np.testing.assert_array_equal(recording.lr, rows()["lr"])
    with pytest.raises(InputError, match=r"loss/c\.0 is missing"):
        recording.loss.load()


def test_opened_recording_can_be_sent_to_a_worker(folder):
    """Assert that a recording can be pickled without its values, for joblib."""
    sent = pickle.dumps(open_recording(folder).drop_vars(["step"]))
    assert len(sent) < ROWS * 8
    np.testing.assert_array_equal(pickle.loads(sent).loss, rows()["loss"])


def test_axes_without_names_are_numbered(tmp_path):
    """Assert that the parameters of a run without names are numbered."""
    with RunFolder.create(tmp_path / "run", VARIABLES, {}, {"group": 1, "parameter": 2}):
        pass
    recording = open_recording(tmp_path / "run")
    assert recording.parameter.values.tolist() == [0, 1]
    assert "parameter_group" not in recording.coords


@pytest.mark.parametrize(
    ("key", "labels"),
    [
        ("parameter_names", ["a", "b"]),
        ("parameter_names", "abc"),
        ("parameter_names", ["a", "b", 3]),
        ("parameter_groups", [0, 1]),
        ("parameter_groups", [0, 1, 2**40]),
        ("parameter_groups", [0, 1, True]),
    ],
)
def test_labels_must_fit(tmp_path, key, labels):
    """Assert that names or groups that do not fit the parameters are refused before a run begins."""
    with pytest.raises(InputError, match=f"made_by's {key} must be a list of 3 entries, each"):
        RunFolder.create(tmp_path / "run", VARIABLES, {key: labels}, {"group": 1, "parameter": 3})
    assert not (tmp_path / "run").exists()


def test_second_version_is_read(tmp_path):
    """Assert that a run recorded by the first program of version 2 has its values."""
    with zipfile.ZipFile(SAMPLES / "version-2" / "run.zip") as archive:
        archive.extractall(tmp_path / "run")
    recording = open_recording(tmp_path / "run")
    assert recording.step.values.tolist() == [1, 2, 3, 5, 8]
    np.testing.assert_array_equal(recording.loss, [1, 1 / 2, 1 / 3, np.nan, np.nan])
    np.testing.assert_array_equal(recording.lr, [[0.5, 0.25]] * 3 + [[0.5, 0.125]] * 2)
    assert recording.lr.dtype == np.float32
    assert recording["count"].values.tolist() == [10**12, 2 * 10**12, 3 * 10**12, 5, 8]
    assert recording.had_gradient.values.tolist() == [[True, False]] * 3 + [[False, True]] * 2
    assert recording.parameter.values.tolist() == ["first.weight", "first.bias"]
    assert recording.parameter_group.values.tolist() == [0, 1]
    assert recording.attrs == {
        "optimizer": "AdamS",
        "optimizer_arguments": '[{"lr": 0.5, "betas": [0.9, 0.999]}]',
        "seed": 3,
        "parameter_names": '["first.weight", "first.bias"]',
        "parameter_shapes": "[[2, 1], [2]]",
        "parameter_groups": "[0, 1]",
        "best_step": 2,
        "swd_dynamics_recording": 2,
        "status": "finished",
        "resumed": "[]",
    }
    snapshot = load_snapshot(tmp_path / "run", 8)
    np.testing.assert_array_equal(snapshot["first.weight"], [[0.5], [-2.0]])
    np.testing.assert_array_equal(snapshot["first.bias"], [1.5, np.inf])


def test_snapshots_are_listed_and_mapped(folder):
    """Assert that snapshots are listed by step, and loading one does not copy it into memory."""
    assert list(snapshots(folder)) == [10, 20]
    loaded = load_snapshot(folder, 20)
    np.testing.assert_array_equal(loaded["first.weight"], np.full((2, 2), 20))
    assert not loaded["first.weight"].flags.owndata
    assert not loaded["first.weight"].flags.writeable
    with pytest.raises(InputError, match=r"no snapshot of step 15, but of steps \[10, 20\]"):
        load_snapshot(folder, 15)


def test_other_files_are_no_snapshots(folder, tmp_path):
    """Assert that files of other names, links and folders among the snapshots are ignored."""
    shutil.copytree(folder, tmp_path / "run")
    among = tmp_path / "run" / "snapshots"
    (among / "step-0000000030.safetensors").symlink_to(among / "step-0000000010.safetensors")
    (among / "step-0000000040.safetensors").mkdir()
    for name in ("notes.txt", "step-1.safetensors", "step-00000000050.safetensors", "step-٠٠٠٠٠٠٠٠٦٠.safetensors"):
        (among / name).write_text("")
    assert list(snapshots(tmp_path / "run")) == [10, 20]
    assert snapshots(tmp_path / "nowhere") == {}


@pytest.mark.slow
def test_export_to_netcdf_loses_nothing(folder, tmp_path):
    """Assert that the netCDF file equals the recording, with names, types and attributes."""
    with xarray.open_dataset(export(folder, tmp_path / "run.nc"), engine="h5netcdf") as exported:
        xarray.testing.assert_identical(exported.load(), open_recording(folder).load())
    assert [file.name for file in tmp_path.iterdir()] == ["run.nc"]


@pytest.mark.slow
def test_export_to_a_table(folder, tmp_path):
    """Assert that the table has a row for each step, a column for each number, and every digit."""
    with open(export(folder, tmp_path / "run.csv"), newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))
    moved = [f"moved[{name}]" for name in MADE_BY["parameter_names"]]
    assert table[0] == ["step", "loss", "lr[0]", "lr[1]", *moved]
    assert len(table) == ROWS + 1
    expected = rows()
    np.testing.assert_array_equal([float(row[1]) for row in table[1:]], expected["loss"])
    np.testing.assert_array_equal([[float(text) for text in row[2:4]] for row in table[1:]], expected["lr"])
    assert table[2][4:] == [str(value) for value in expected["moved"][1]]


@pytest.mark.parametrize("name", ["run.txt", "run", "nowhere/run.nc", "nowhere/run.csv"])
def test_exports_that_cannot_be_written(folder, tmp_path, name):
    """Assert that a file of another kind, or in a folder that does not exist, is refused."""
    with pytest.raises(InputError, match=f"{name}"):
        export(folder, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_failed_export_leaves_the_older_one(folder, tmp_path):
    """Assert that an export that fails does not change the older file."""
    shutil.copytree(folder, tmp_path / "run")
    with RunFolder.resume(tmp_path / "run", VARIABLES, MADE_BY, {"group": 2, "parameter": 3}) as run:
        run.note(odd="\ud800")
    (tmp_path / "run.nc").write_text("older")
    with pytest.raises(InputError, match="cannot export"):
        export(tmp_path / "run", tmp_path / "run.nc")
    assert (tmp_path / "run.nc").read_text() == "older"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run", "run.nc"]


@pytest.mark.parametrize("refused", ["lstat", "read_bytes"])
def test_what_may_not_be_read_is_not_called_missing(refused, tmp_path, monkeypatch):
    """Assert that a run that the system does not let one read is said to be unreadable, not missing or damaged."""

    def refuses(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "run.json").write_text("{}")
    monkeypatch.setattr(os if refused == "lstat" else Path, refused, refuses)
    with pytest.raises(InputError, match="cannot be read") as told:
        open_recording(tmp_path)
    assert "missing" not in str(told.value) and "damaged" not in str(told.value)
