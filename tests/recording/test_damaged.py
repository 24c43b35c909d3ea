"""Damaged and forged run folders: one clear error or the undamaged rest, never a crash or a hang."""

import json
import os
import random
import resource
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import xarray

from swd_dynamics.errors import InputError
from swd_dynamics.recording.format import MAX_JSON
from swd_dynamics.recording.reader import open_recording
from swd_dynamics.recording.snapshots import load_snapshot, snapshots
from swd_dynamics.recording.writer import RunFolder

CASES = 600
ROWS = 50
# Bytes that all cases together may add to the process: some copies of the largest allowed run.json.
MOST_MEMORY = 400 * 2**20
LONGEST = 10  # seconds for one case, which takes milliseconds on a machine that is not busy
VARIABLES = {
    "loss": (("step",), "float64", "training loss"),
    "lr": (("step", "group"), "float32", "learning rate"),
    "moved": (("step", "parameter"), "bool", "whether the parameter moved"),
}
SIZES = {"group": 2, "parameter": 3}
MADE_BY = {"optimizer": "SGD", "parameter_names": ["a", "b", "c"], "parameter_groups": [0, 0, 1]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small run, which is never changed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with RunFolder.create(folder, VARIABLES, MADE_BY, SIZES) as run:
        steps = np.arange(ROWS)
        run.append(
            {"step": steps, "loss": 1 / (1 + steps), "lr": np.ones((ROWS, 2)), "moved": np.ones((ROWS, 3), bool)}
        )
        run.snapshot(7, {"w": np.arange(6.0), "b": np.float32([[1, 2]])})
        run.snapshot(8, {"w": np.arange(6.0)})
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def edited(file, *path, to):
    """Change a value of a JSON file, given the keys that lead to it."""
    content = json.loads(file.read_text())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    file.write_text(json.dumps(content))


def replaced_by_link(path):
    """Move a file out of the run folder and put a link to it in its place."""
    outside = path.parents[len(path.parts) - 1 - path.parts.index("run")] / f"outside-{path.name}"
    path.rename(outside)
    path.symlink_to(outside)


def everything(folder):
    """Everything that can be read of a run."""
    return open_recording(folder).load(), {step: load_snapshot(folder, step) for step in snapshots(folder)}


RUN_DAMAGES = {
    "no run": (lambda run: run.unlink(), "no run in"),
    "empty": (lambda run: run.write_text(""), r"run\.json is damaged"),
    "cut off": (lambda run: run.write_bytes(run.read_bytes()[:100]), r"run\.json is damaged"),
    "no text": (lambda run: run.write_bytes(b"\xff\xfe\x00"), r"run\.json is damaged"),
    "list": (lambda run: run.write_text("[]"), "must hold a JSON object"),
    "NaN": (lambda run: run.write_text('{"swd_dynamics_recording": NaN}'), "NaN is not JSON"),
    "deep": (lambda run: run.write_text('{"a":' * 10**5), r"run\.json is damaged"),
    "deep lists": (lambda run: run.write_text("[" * 10**6), r"run\.json is damaged"),
    "long number": (lambda run: run.write_text('{"a": ' + "9" * 10**5 + "}"), r"run\.json is damaged"),
    "large": (lambda run: os.truncate(run, MAX_JSON + 1), "a plain file of at most 4194304 bytes"),
    "pipe": (lambda run: (run.unlink(), os.mkfifo(run)), "must be a plain file"),
    "folder": (lambda run: (run.unlink(), run.mkdir()), "must be a plain file"),
    "link": (replaced_by_link, "not a link"),
    "no version": (lambda run: run.write_text("{}"), "not a recording: swd_dynamics_recording is None"),
    "newer": (
        lambda run: edited(run, "swd_dynamics_recording", to=3),
        "version 3, and this program reads version 2: upg",
    ),
    "version 1 in JSON": (lambda run: edited(run, "swd_dynamics_recording", to=1), "swd_dynamics_recording is 1"),
    "version true": (lambda run: edited(run, "swd_dynamics_recording", to=True), "swd_dynamics_recording is True"),
    "version in text": (lambda run: edited(run, "swd_dynamics_recording", to="2"), "swd_dynamics_recording is '2'"),
    "status": (lambda run: edited(run, "status", to=["running"]), "status must be .* a str"),
    "notes": (lambda run: edited(run, "notes", to=None), "notes must be"),
    "variables": (lambda run: edited(run, "variables", to=[]), "variables must be"),
    "variable": (lambda run: edited(run, "variables", "loss", to=3), r"run\.json is damaged"),
    "no dims": (lambda run: edited(run, "variables", "loss", to={}), r"run\.json is damaged"),
    "dims": (lambda run: edited(run, "variables", "loss", "dims", to=["step", ["a"]]), "is not allowed"),
    "long name": (lambda run: edited(run, "variables", "loss", "long_name", to=3), "long_name"),
    "path": (lambda run: edited(run, "variables", "../../loss", to={"dims": ["step"]}), r"run\.json is damaged"),
    "absolute": (
        lambda run: edited(run, "variables", "/etc/passwd", to={"dims": ["step"], "dtype": "bool", "long_name": ""}),
        "name '/etc/passwd' is not allowed",
    ),
    "object": (lambda run: edited(run, "variables", "loss", "dtype", to="object"), "allowed are float64"),
    "text": (lambda run: edited(run, "variables", "loss", "dtype", to="U8"), "allowed are float64"),
    "structured": (lambda run: edited(run, "variables", "loss", "dtype", to=[["a", "f8"]]), "allowed are float64"),
    "size": (lambda run: edited(run, "sizes", "parameter", to=10**15), "at most 1000000 values"),
    "negative size": (lambda run: edited(run, "sizes", "parameter", to=-1), "a whole number from 1"),
    "fractional size": (lambda run: edited(run, "sizes", "parameter", to=1.5), "a whole number from 1"),
    "names": (
        lambda run: edited(run, "made_by", "parameter_names", to=["a"]),
        "parameter_names must be a list of 3 entries, each str",
    ),
    "groups": (lambda run: edited(run, "made_by", "parameter_groups", to=[0, 1, 10**30]), "parameter_groups must be"),
}


@pytest.mark.parametrize("damage", RUN_DAMAGES)
def test_damaged_description(folder, damage):
    """Assert that each damage to run.json is one InputError that names the damage."""
    change, words = RUN_DAMAGES[damage]
    change(folder / "run.json")
    with pytest.raises(InputError, match=words):
        open_recording(folder)


def test_unused_sizes_allocate_nothing(folder):
    """Assert that a size that no variable has is ignored."""
    edited(folder / "run.json", "sizes", "bomb", to=10**15)
    assert "bomb" not in open_recording(folder).dims


@pytest.mark.parametrize("committed", [-1, ROWS + 10**4, 10**9, 10**18, 10**400, 1.5, True, None, "5", [5], {}])
def test_damaged_count(folder, committed):
    """Assert that an impossible number of rows is refused before memory is allocated for it."""
    edited(folder / "scalars.zarr" / "zarr.json", "attributes", "committed", to=committed)
    with pytest.raises(InputError, match="is damaged"):
        open_recording(folder)


@pytest.mark.parametrize("committed", [ROWS + 1, 4096])
def test_rows_that_were_never_recorded(folder, committed):
    """Assert that fill values are not shown as rows if the count is too large."""
    edited(folder / "scalars.zarr" / "zarr.json", "attributes", "committed", to=committed)
    with pytest.raises(InputError, match="must rise from 0"):
        open_recording(folder)


@pytest.mark.parametrize("content", ["", "{}", '{"attributes": []}', '{"attributes": {"committed": 5}}', '{"attri'])
def test_damaged_group(folder, content):
    """Assert that a group that does not say how many rows count is refused."""
    (folder / "scalars.zarr" / "zarr.json").write_text(content)
    with pytest.raises(InputError, match=r"scalars\.zarr/zarr\.json is damaged"):
        open_recording(folder)


ARRAY_EDITS = {
    "shape": (("shape",), [10**15, 2]),
    "huge": (("shape",), [10**400, 2]),
    "short": (("shape",), [ROWS - 1, 2]),
    "negative": (("shape",), [-1, 2]),
    "fractional": (("shape",), [4096.0, 2]),
    "flat": (("shape",), [4096]),
    "no shape": (("shape",), []),
    "other width": (("shape", 1), 3),
    "type": (("data_type",), "float64"),
    "object": (("data_type",), "object"),
    "structured": (("data_type",), {"name": "structured", "configuration": {"fields": [["a", "float64"]]}}),
    "chunks": (("chunk_grid", "configuration", "chunk_shape"), [10**12, 2]),
    "keys": (("chunk_key_encoding", "configuration", "separator"), "/"),
    "fill": (("fill_value",), 0),
    "codec": (("codecs",), [{"name": "numcodecs.pickle", "configuration": {}}]),
    "compressed": (("codecs", 0), {"name": "gzip", "configuration": {"level": 1}}),
    "big-endian": (("codecs", 0, "configuration", "endian"), "big"),
    "transformers": (("storage_transformers",), [{"name": "x"}]),
    "group": (("node_type",), "group"),
    "format": (("zarr_format",), 2),
    "dimensions": (("dimension_names",), ["step", "weight"]),
}


@pytest.mark.parametrize("edit", ARRAY_EDITS)
def test_damaged_array(folder, edit):
    """Assert that an array whose description differs from run.json never reaches zarr."""
    path, value = ARRAY_EDITS[edit]
    edited(folder / "scalars.zarr" / "lr" / "zarr.json", *path, to=value)
    with pytest.raises(InputError, match=r"lr(/zarr\.json)? is damaged"):
        open_recording(folder)


FILES, FOLDERS = ["lr/zarr.json", "lr/c.0.0", "zarr.json"], ["lr", "step", ""]


@pytest.mark.parametrize(
    ("part", "act"),
    [
        *((part, act) for part in FILES + FOLDERS for act in ("missing", "link", "of another kind")),
        *((part, size) for part in FILES for size in (0, 30, 10**12)),
    ],
)
def test_damaged_parts(folder, part, act):
    """Assert that a file of rows that is missing, a link, or of another kind or size is named."""
    target = folder / "scalars.zarr" / part
    if act == "link":
        replaced_by_link(target)
    elif isinstance(act, int):
        os.truncate(target, act)
    else:
        shutil.rmtree(target) if part in FOLDERS else target.unlink()
        if act == "of another kind":
            target.write_text("") if part in FOLDERS else target.mkdir()
    with pytest.raises(InputError, match=r"damaged|missing"):
        open_recording(folder)


def test_bytes_that_are_no_truth_values(folder):
    """Assert that a byte that is neither true nor false is refused."""
    file = folder / "scalars.zarr" / "moved" / "c.0.0"
    file.write_bytes(b"\x02" + file.read_bytes()[1:])
    with pytest.raises(InputError, match="moved is damaged"):
        open_recording(folder).load()


def snapshot_with(head, data=b""):
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data


SNAPSHOT_DAMAGES = {
    "empty": b"",
    "short": b"\x00\x01",
    "long head": struct.pack("<Q", 2**63) + b"{}",
    "large head": struct.pack("<Q", MAX_JSON + 1) + b" " * (MAX_JSON + 1),
    "no JSON": snapshot_with(b"{" * 100),
    "deep JSON": snapshot_with(b'{"a":' * 10**5),
    "beyond": snapshot_with({"w": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}, bytes(8)),
    "huge": snapshot_with({"w": {"dtype": "F64", "shape": [10**15], "data_offsets": [0, 8 * 10**15]}}, bytes(8)),
    "overflow": snapshot_with({"w": {"dtype": "F64", "shape": [2**62, 2**62], "data_offsets": [0, 8]}}, bytes(8)),
    "negative": snapshot_with({"w": {"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]}}, bytes(8)),
    "disagree": snapshot_with({"w": {"dtype": "F64", "shape": [3], "data_offsets": [0, 8]}}, bytes(8)),
    "object": snapshot_with({"w": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
    "bfloat16": snapshot_with({"w": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}, bytes(8)),
    "list": snapshot_with([]),
    "pickle": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
}


@pytest.mark.parametrize("damage", SNAPSHOT_DAMAGES)
def test_damaged_snapshot(folder, damage):
    """Assert that a damaged snapshot is one InputError that names it, and other snapshots are read."""
    (folder / "snapshots" / "step-0000000007.safetensors").write_bytes(SNAPSHOT_DAMAGES[damage])
    with pytest.raises(InputError, match=r"step-0000000007\.safetensors is damaged"):
        load_snapshot(folder, 7)
    np.testing.assert_array_equal(load_snapshot(folder, 8)["w"], np.arange(6.0))


def test_snapshots_elsewhere(folder):
    """Assert that a link in place of the folder of snapshots is refused."""
    replaced_by_link(folder / "snapshots")
    with pytest.raises(InputError, match="not a link"):
        snapshots(folder)


@pytest.mark.parametrize("damage", ["run.json", "scalars.zarr/zarr.json", "scalars.zarr/lr/zarr.json"])
def test_damaged_run_is_not_gone_on_with(folder, damage):
    """Assert that resume refuses a damaged run and does not lock it."""
    (folder / damage).write_text('{"a": 1')
    for _ in range(2):
        with pytest.raises(InputError, match="is damaged"):
            RunFolder.resume(folder, VARIABLES, MADE_BY, SIZES)


WORDS = [
    b"0",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'"x"',
    b"1" * 30,
    b"{" * 3000,
    b'"',
    b"\\ud800",
]


def damaged(content, choose):
    """The contents of a file after one of many accidents."""
    content, at = bytearray(content), choose.randrange(len(content) + 1)
    mishap = choose.choice(["flip", "flip", "cut", "insert", "word", "word", "repeat", "zeros", "drop"])
    if mishap == "flip":
        for _ in range(choose.choice([1, 1, 1, 5, 50])):
            content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
    elif mishap == "cut":
        del content[at:]
    elif mishap == "insert":
        content[at:at] = choose.randbytes(choose.choice([1, 8, 5000]))
    elif mishap == "word":
        content[at : at + choose.choice([0, 1, 4])] = choose.choice(WORDS)
    elif mishap == "repeat":
        content[at:at] = content
    elif mishap == "zeros":
        content[at : at + 100] = bytes(len(content[at : at + 100]))
    else:
        del content[at : at + choose.choice([1, 1, 30])]
    return bytes(content)


def check_outcome(folder, recording, parameters):
    """Assert that what is read of a damaged run has the right type, or that the run is refused."""
    try:
        found, snapshots_found = everything(folder)
    except InputError:
        return "refused"
    same = found.identical(recording)
    assert set(found.data_vars) == set(recording.data_vars)
    assert {name: found[name].dtype for name in found} == {name: recording[name].dtype for name in recording}
    assert found.sizes["step"] <= ROWS
    same = same and str(snapshots_found) == parameters
    return "the same" if same else "altered"


@pytest.mark.slow
def test_random_damage(whole, folder):
    """Assert that a run damaged at random is refused, or read without the damage, and quickly."""
    choose, outcomes = random.Random(5), []
    recording, parameters = everything(whole)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = sorted(file for file in whole.rglob("*") if file.is_file())
    for _ in range(CASES):
        file = choose.choice(files)
        target = folder / file.relative_to(whole)
        target.write_bytes(damaged(file.read_bytes(), choose))
        begun = time.monotonic()
        outcomes.append(check_outcome(folder, recording, str(parameters)))
        assert time.monotonic() - begun < LONGEST
        shutil.copyfile(file, target)
    print({outcome: outcomes.count(outcome) for outcome in set(outcomes)})
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_MEMORY
    assert set(outcomes) == {"refused", "the same", "altered"}
    xarray.testing.assert_identical(everything(folder)[0], recording)
