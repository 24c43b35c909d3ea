"""A sweep in a folder: what survives an interrupt or a kill, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from small_sweeps import LINE, counted, interrupted

from swd_dynamics.__main__ import main
from swd_dynamics.errors import InputError
from swd_dynamics.recording import open_recording
from swd_dynamics.recording.format import read_committed
from swd_dynamics.recording.writer import RunFolder
from swd_dynamics.sweeping import batched, sweep
from swd_dynamics.sweeping.store import Folder

GRID = {"lr": [0.1, 0.2, 0.3], "weight_decay": [0.0, 0.1]}


def assert_equal(found, expected):
    """Assert that two results are the same, bit for bit."""
    for name in expected.data_vars:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert (found.failed, found.plan) == (expected.failed, expected.plan)


@pytest.fixture
def small_blocks(monkeypatch):
    """Each point of the grid is trained by itself."""
    monkeypatch.setattr(batched, "BLOCK_WEIGHTS", 1)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("after", [1, 8, 23])
@pytest.mark.slow
def test_an_interrupted_sweep_resumes(after, tmp_path):
    """Assert that a sweep that Ctrl-C ended keeps its cells, and that the same call trains the others alike."""
    expected = sweep(partial(interrupted, []), ["SGD"], GRID, steps=4, seeds=2)
    presses = list(range(after + 1))  # the first draw tries out the model
    begun = sweep(partial(interrupted, presses), ["SGD"], GRID, steps=4, seeds=2, path=tmp_path)
    # A point has two seeds and four steps: its 8 batches are drawn step by step.
    assert (begun.interrupted, begun.done) == (1, 2 * ((after - 1) // 8))
    assert int(begun.train_loss.notnull().sum()) == begun.done
    resumed = sweep(partial(interrupted, []), ["SGD"], GRID, steps=4, seeds=2, path=tmp_path)
    assert (resumed.interrupted, resumed.done) == (0, 12)
    assert_equal(resumed, expected)


@pytest.mark.slow
def test_nothing_is_trained_twice(tmp_path, monkeypatch):
    """Assert that each cell of a sweep that is interrupted and resumed is trained once, and none once more."""
    log, add = tmp_path / "log", Folder.add
    swept = partial(sweep, partial(counted, log), ["SGD"], GRID, steps=3, seeds=2, jobs=1, path=tmp_path / "sweep")

    def add_two(self, outcomes):
        if self.run.committed == 2:
            raise KeyboardInterrupt
        add(self, outcomes)

    monkeypatch.setattr(Folder, "add", add_two)
    assert swept().done == 2
    monkeypatch.undo()
    trained = len(log.read_text())  # the two, the one that came as the interrupt did, and perhaps the next
    resumed = swept()
    assert resumed.engine == "processes" and resumed.done == 12
    assert len(log.read_text()) == trained + 10
    assert_equal(swept(), resumed)
    assert len(log.read_text()) == trained + 10
    assert_equal(resumed, sweep(partial(counted, log), ["SGD"], GRID, steps=3, seeds=2, jobs=2))


# Imports once, and forks a process that sweeps for each line of its input: importing takes longer than the sweep.
SERVER = """
import os, sys
from swd_dynamics.sweeping import batched, sweep
batched.BLOCK_WEIGHTS = 1
sweep("network-minibatch", ["AdamS"], {"lr": [0.1, -1.0]}, steps=1)  # because torch imports modules as it trains
for _ in sys.stdin:
    child = os.fork()
    if not child:
        sweep("network-minibatch", ["AdamS"], {"lr": [1e-3, 1e-2, 0.1, -1.0]}, steps=20, seeds=5, path=PATH)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0), flush=True)
"""


@pytest.mark.slow
def test_a_killed_sweep_resumes(tmp_path, monkeypatch):
    """Assert that a sweep whose process is killed at any moment resumes, and equals a sweep that nobody killed."""
    monkeypatch.setattr(batched, "BLOCK_WEIGHTS", 1)
    random, folder = np.random.default_rng(0), tmp_path / "sweep"
    script = SERVER.replace("PATH", repr(str(folder)))
    seen = [0]
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        for least in (0, 6):
            server.stdin.write(b"\n")
            server.stdin.flush()
            sweeping = int(server.stdout.readline())
            while not (folder / "scalars.zarr" / "zarr.json").exists() or read_committed(folder)[0] < least:
                os.kill(sweeping, 0)  # an error if the sweep has come to its end
                time.sleep(0.001)
            for _ in range(random.integers(1000)):
                read_committed(folder)
            os.kill(sweeping, signal.SIGKILL)
            server.stdout.readline()  # it is gone
            seen.append(read_committed(folder)[0])
    assert seen == sorted(seen) and seen[-1] >= 6
    arguments = ("network-minibatch", ["AdamS"], {"lr": [1e-3, 1e-2, 0.1, -1.0]})
    expected = sweep(*arguments, steps=20, seeds=5)
    assert_equal(sweep(*arguments, steps=20, seeds=5, path=folder), expected)
    assert len(json.loads(expected.failed)) == 5


def test_a_folder_without_a_cell_yet_is_taken_up(tmp_path):
    """Assert that a sweep that ended before its first cell was done resumes."""
    begun = sweep(partial(interrupted, [0, 1]), ["SGD"], {"lr": [0.1]}, steps=4, path=tmp_path)
    assert (begun.interrupted, begun.done) == (1, 0)
    assert sweep(partial(interrupted, []), ["SGD"], {"lr": [0.1]}, steps=4, path=tmp_path).done == 1


@pytest.fixture
def swept(tmp_path):
    """The folder of a small sweep, one of whose cells failed."""
    sweep(LINE, ["SGD", "SGDS"], {"lr": [0.1, -1.0]}, steps=3, path=tmp_path / "sweep")
    return tmp_path / "sweep"


OTHER = {
    "steps": ({"steps": 4}, "its steps is 3, here it is 4"),
    "grid": ({"grid": {"lr": [0.1, 0.2]}}, r"its grid lr is \[0.1, -1.0\], here it is \[0.1, 0.2\]"),
    "axis": ({"grid": {"lr": [0.1, -1.0], "momentum": [0.5]}}, r"its grid momentum is None, here it is \[0.5\]"),
    "seeds": ({"seeds": 2}, r"its seeds is \[0\], here it is \[0, 1\]"),
    "schedule": ({"schedule": "cosine"}, "its schedule is 'constant', here it is 'cosine'"),
    "optimizer": ({"optimizers": ["SGD"]}, "its optimizers SGDS is .*, here it is None"),
    "order": ({"optimizers": ["SGDS", "SGD"]}, "the order of its optimizers is SGD, SGDS, here it is SGDS, SGD"),
    "task": ({"task": "quadratic"}, "its task spectrum is"),
}


@pytest.mark.parametrize("case", OTHER)
@pytest.mark.slow
def test_another_sweep_is_refused(case, swept):
    """Assert that the folder of another sweep is refused with what differs, and that nothing changes."""
    same = {"task": LINE, "optimizers": ["SGD", "SGDS"], "grid": {"lr": [0.1, -1.0]}, "steps": 3}
    before = (swept / "run.json").read_bytes()
    changed, message = OTHER[case]
    with pytest.raises(InputError, match=f"holds another sweep: .*{message}"):
        sweep(**{**same, **changed}, path=swept)
    assert (swept / "run.json").read_bytes() == before
    assert sweep(**same, path=swept).done == 4


def test_failed_cells_are_kept(swept):
    """Assert that a failed cell is not trained again, and that its reason is still told."""
    found = sweep(LINE, ["SGD", "SGDS"], {"lr": [0.1, -1.0]}, steps=3, path=swept)
    assert open_recording(swept).sizes["step"] == 4
    assert set(json.loads(found.failed)) == {"1", "3"}


DAMAGE = ["run.json", "scalars.zarr/zarr.json", "scalars.zarr/cell/zarr.json", "scalars.zarr/failed/c.0"]


@pytest.mark.parametrize("file", DAMAGE)
def test_a_damaged_folder_is_one_error(file, swept):
    """Assert that a folder with a truncated file is an InputError."""
    damaged = swept / file
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(InputError):
        sweep(LINE, ["SGD", "SGDS"], {"lr": [0.1, -1.0]}, steps=3, path=swept)


@pytest.mark.parametrize(("file", "value"), [("cell", 99), ("cell", -2), ("failed", 7), ("failed", -1)])
@pytest.mark.slow
def test_numbers_that_cannot_be_right_are_refused(file, value, swept):
    """Assert that a cell or a reason that does not exist is an InputError, and that the folder is not left locked."""
    rows = swept / "scalars.zarr" / file / "c.0"
    content = bytearray(rows.read_bytes())
    content[:8] = value.to_bytes(8, "little", signed=True)
    rows.write_bytes(content)
    for _ in range(2):
        with pytest.raises(InputError, match="is damaged"):
            sweep(LINE, ["SGD", "SGDS"], {"lr": [0.1, -1.0]}, steps=3, path=swept)


def test_a_recording_is_not_a_sweep(tmp_path):
    """Assert that the folder of a recording is refused."""
    with RunFolder.create(tmp_path / "run", {"loss": (("step",), "float64", "loss")}, {}) as run:
        run.append({"step": np.array([1]), "loss": np.array([1.0])})
    with pytest.raises(InputError, match="holds a recording, not a sweep"):
        sweep(LINE, ["SGD"], {"lr": [0.1]}, steps=3, path=tmp_path / "run")


@pytest.mark.parametrize("command", ["show", "plot", "replay", "export"])
def test_a_sweep_is_not_a_recording(command, swept, capsys):
    """Assert that the commands about recordings say that a folder holds a sweep, in one line."""
    more = {"replay": ["--as", "SGD"], "export": ["--to", str(swept.parent / "run.csv")]}.get(command, [])
    assert main([command, str(swept), *more]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "holds a sweep (4 runs are done), not a recording" in said
    assert os.listdir(swept.parent) == ["sweep"]


NOTEBOOK = """
import torch
from swd_dynamics.sweeping import sweep
from swd_dynamics.tasks import quadratic

print("the script runs")

class Halving(torch.optim.Optimizer):
    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                weight.mul_(1 - group["lr"])

def plain(seed):
    return quadratic((1.0,), start=(8.0 + seed,), seed=seed)

found = sweep(plain, {"mine": Halving}, {"lr": [0.5, 0.25]}, steps=1, seeds=2, engine="processes", jobs=2)
print(found.weight_norm.values.tolist(), found.failed)
"""


@pytest.mark.slow
def test_functions_of_a_script_are_trained_in_processes(tmp_path):
    """Assert that a script without a guard can sweep its own task and optimizer in processes, and runs once."""
    script = tmp_path / "script.py"
    script.write_text(NOTEBOOK)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ended.stdout == "the script runs\n[[[4.0, 4.5], [6.0, 6.75]]] {}\n"
    assert ended.stderr == "" and Path(script).exists()
