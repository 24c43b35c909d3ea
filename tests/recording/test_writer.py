"""The writer of a run folder: what it records, and every outcome when a folder or a disk is not as hoped."""

import errno
import fcntl
import json
import math
import os
import resource
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from swd_dynamics.errors import InputError
from swd_dynamics.recording import writer
from swd_dynamics.recording.format import CHUNK_ROWS, MAX_JSON
from swd_dynamics.recording.reader import open_recording
from swd_dynamics.recording.snapshots import load_snapshot, snapshots
from swd_dynamics.recording.writer import RunFolder

VARIABLES = {
    "loss": (("step",), "float64", "training loss"),
    "rate": (("step", "parameter"), "float32", "decay rate"),
    "count": (("step",), "int64", "weights that moved"),
    "moved": (("step", "parameter"), "bool", "whether the parameter moved"),
}
MADE_BY = {"optimizer": "AdamS", "parameter_names": ["first", "last", "norm"], "parameter_shapes": [[2, 2], [2], [1]]}
SIZES = {"parameter": 3}


def block(first, count):
    """Rows whose values tell where they belong."""
    steps = np.arange(first, first + count)
    rates = (steps[:, None] + np.array([0.25, 0.5, 0.75])).astype(np.float32)
    return {"step": steps, "loss": steps / 7, "rate": rates, "count": steps * 10**12, "moved": rates % 2 < 1}


def assert_holds(path, expected):
    recording = open_recording(path)
    for name, values in expected.items():
        found = recording[name].values
        assert found.dtype == values.dtype, name
        np.testing.assert_array_equal(found, values, err_msg=name)


def contents(path):
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def begin(tmp_path):
    """Begins runs in tmp_path/run and closes them at the end."""
    begun = []

    def create(folder=tmp_path / "run", how=RunFolder.create, variables=VARIABLES, made_by=MADE_BY, sizes=SIZES):
        begun.append(how(folder, variables, made_by, sizes))
        return begun[-1]

    yield create
    for run in begun:
        run.close()


@pytest.mark.parametrize("sizes", [[1], [3, 4], [CHUNK_ROWS], [CHUNK_ROWS - 1, 1, 2], [1, 3 * CHUNK_ROWS, 5]])
def test_rows_come_back_exactly(begin, sizes):
    """Assert that blocks of any length, within and over chunks, are read back value for value, type for type."""
    run, done = begin(), 0
    for size in sizes:
        run.append(block(done, size))
        done += size
        assert run.committed == done
    assert_holds(run.folder, block(0, done))


def test_zarr_and_xarray_read_what_is_written(begin):
    """Assert that the folder is a zarr group: zarr and xarray, knowing nothing of us, find the same values."""
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
    """Assert that a floating-point variable may be left out, and one whose type has no NaN may not."""
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
    """Assert that a block of no rows changes nothing."""
    run = begin()
    run.append(block(0, 0))
    assert run.committed == 0
    assert open_recording(run.folder).sizes["step"] == 0


def test_overflow_is_recorded_as_infinite(begin):
    """Assert that a number beyond float32 is infinite in a float32 variable, without a warning: runs do diverge."""
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
    """Assert that a block that does not fit is refused in words, and leaves nothing behind."""
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
    """Assert that a declaration that cannot be recorded is refused in words, before there is a folder."""
    with pytest.raises(InputError, match=words):
        begin(variables=variables, sizes=sizes)
    assert not (tmp_path / "run").exists()


def test_resumed_run_goes_on(begin):
    """Assert that a run closed in the middle of a chunk is gone on with, and run.json notes what changed meanwhile."""
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
    """Assert that after a cut at step s the rows from s on are those recorded anew, none twice, over chunks too."""
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
    """Assert that a run recorded at every tenth step is cut at the first row whose step is not before the given."""
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
    """Assert that rows which were dropped are never read as if they were the ones opened."""
    run = begin()
    run.append(block(0, 10))
    opened = open_recording(run.folder)
    run.append(block(10, 1))
    np.testing.assert_array_equal(opened.loss, block(0, 10)["loss"])
    run.truncate(5)
    with pytest.raises(InputError, match="open it again"):
        opened.loss.load()


def test_taken_folders_are_refused_untouched(begin, tmp_path):
    """Assert that create leaves a file, a foreign folder and a run alone, and says what each is."""
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


@pytest.mark.parametrize("place", ["nowhere", "file", "foreign"])
def test_there_must_be_a_run_to_resume(begin, tmp_path, place):
    """Assert that resume says where there is no run, and makes nothing."""
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
    """Assert that a run is not gone on with as another one: the difference is named, and nothing is touched."""
    with RunFolder.create(tmp_path / "run", VARIABLES, MADE_BY, SIZES) as run:
        run.append(block(0, 3))
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"holds another run: its .*{words}.*another folder"):
        begin(how=RunFolder.resume, **change)
    assert contents(tmp_path) == before


def test_reworded_description_is_the_same_run(begin):
    """Assert that a run is gone on with when only the text about a variable has changed, and keeps its own."""
    begin().close()
    loss = (("step",), "float64", "reworded")
    run = begin(how=RunFolder.resume, variables={**VARIABLES, "loss": loss})
    run.append(block(0, 2))
    assert open_recording(run.folder).loss.attrs["long_name"] == "training loss"


@pytest.mark.parametrize("left", [".lock", ".unfinished-run.json"])
def test_what_a_kill_left_does_not_take_the_folder(begin, tmp_path, left):
    """Assert that a run can be made in a folder in which another was killed before it had begun."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).write_text("{")
    begin().append(block(0, 3))
    assert_holds(tmp_path / "run", block(0, 3))


def test_run_killed_while_it_was_made_is_made_anew(begin, tmp_path, monkeypatch):
    """Assert that a run which never got its arrays is no recording yet, and that resume makes it."""
    with monkeypatch.context() as killed:
        killed.setattr(RunFolder, "_commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            begin()
    with pytest.raises(InputError, match="it is being made"):
        open_recording(tmp_path / "run")
    run = begin(how=RunFolder.resume)
    run.append(block(0, 3))
    assert_holds(run.folder, block(0, 3))


def test_only_one_writes(begin):
    """Assert that a second writer is refused, told who writes, and welcome when the first is done."""
    run = begin()
    run.append(block(0, 3))
    with pytest.raises(InputError, match=f"is being written by process {os.getpid()} on"):
        begin(how=RunFolder.resume)
    run.append(block(3, 1))
    run.close()
    begin(how=RunFolder.resume).append(block(4, 1))
    assert_holds(run.folder, block(0, 5))


def test_file_systems_without_locks_still_record(begin, monkeypatch):
    """Assert that a file system that knows no locks does not stop a run."""

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    run = begin()
    run.append(block(0, 3))
    assert_holds(run.folder, block(0, 3))


def test_lock_that_is_a_link_is_not_followed(begin, tmp_path):
    """Assert that a crafted lock file cannot make the writer write elsewhere."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="cannot make a run in"):
        begin()
    assert (tmp_path / "mine").read_text() == "mine"


@contextmanager
def without_privileges():
    """As an ordinary user even where the tests run as root, whom no permission stops."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_folder_that_may_not_be_written():
    """Assert that a read-only folder is named, for a new run and for one to go on with."""
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
    """The operating system refuses to let any file grow further, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_costs_nothing_acknowledged(begin):
    """Assert that an append that the disk does not take loses no acknowledged row, and can be repeated."""
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
    """Assert that whichever renaming of an append fails, what was acknowledged stays, and the rows can be repeated."""
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


def test_facts_are_noted(begin):
    """Assert that facts are merged into run.json, which stays strict JSON whatever they are."""
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
    """Assert that run.json does not grow past what a reader accepts, and stays as it was."""
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
    """Assert that leaving the with-block notes whether the run finished, was interrupted, or failed and why."""
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
    """Assert that a closed run refuses to record and says how to go on; closing it again does nothing."""
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
    """Assert that a snapshot holds arrays of any shape, stride and type bit for bit, and replaces an older one."""
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
    """Assert that a snapshot without a step or of things that are no numbers is refused, and leaves no file."""
    run = begin()
    with pytest.raises(InputError, match=words):
        run.snapshot(step, arrays)
    assert snapshots(run.folder) == {}


def test_snapshot_on_a_full_disk(begin):
    """Assert that a snapshot which finds no room leaves the older one of its step whole."""
    run = begin()
    run.snapshot(1, {"w": np.zeros(3)})
    with files_of_at_most(1000), pytest.raises(InputError, match="cannot keep a snapshot"):
        run.snapshot(1, {"w": np.ones(1000)})
    np.testing.assert_array_equal(load_snapshot(run.folder, 1)["w"], np.zeros(3))


def test_variables_are_declared_before_the_first_row(begin):
    """Assert that variables declared later are recorded like the others, and are refused once there is a row."""
    run = begin()
    run.declare({"late": (("step",), "float64", "declared late")})
    assert "late" in open_recording(run.folder)
    run.append({**block(0, 3), "late": np.arange(3.0)})
    np.testing.assert_array_equal(open_recording(run.folder).late, [0, 1, 2])
    with pytest.raises(InputError, match="has rows"):
        run.declare({"later": (("step",), "float64", "declared later")})
    run.truncate(0)  # the arrays claim rows that are no longer there
    run.declare({"later": (("step",), "float64", "declared later")})
    run.append({**block(0, 2), "later": np.ones(2)})
    opened = open_recording(run.folder)
    assert opened.later.values.tolist() == [1, 1] and np.isnan(opened.late).all()


def test_a_declaration_that_fails_changes_nothing(begin, monkeypatch):
    """Assert that a full disk during a declaration leaves the run as it was, and that it can be declared again."""
    run, replace = begin(), os.replace

    def fails(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(InputError, match="declare variables"):
        run.declare({"late": (("step",), "float64", "declared late")})
    monkeypatch.setattr(os, "replace", replace)
    run.append(block(0, 2))
    assert "late" not in open_recording(run.folder)


def test_rows_of_a_run_are_bounded(begin, monkeypatch):
    """Assert that a run says when it is full, at the number that a reader accepts."""
    monkeypatch.setattr(writer, "MAX_ROWS", 5)
    run = begin()
    run.append(block(0, 5))
    with pytest.raises(InputError, match="at most 5 rows"):
        run.append(block(5, 1))
