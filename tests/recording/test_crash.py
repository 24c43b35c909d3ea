"""A run killed at any moment, a hundred times: acknowledged rows are there, and no row was
invented.
"""

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

import swd_dynamics.probe
from swd_dynamics.errors import InputError
from swd_dynamics.recording.format import read_committed
from swd_dynamics.recording.reader import open_recording
from swd_dynamics.recording.snapshots import load_snapshot, snapshots

pytestmark = pytest.mark.slow  # each writer starts a Python that imports

KILLS, TRAININGS_KILLED = 100, 50
PARTS = 8
# Seconds until a writer is killed, at most: twice what it needs to resume the run, and many
# appends. With half of it, writers are killed before they append.
LONGEST = 0.06

# This program starts once and forks a writer for each line of its input, because importing takes
# longer than a writer lives.
SERVER = r"""
import os, sys

PARTS = 8

import numpy as np
import zarr, zarr.storage
from swd_dynamics.recording.writer import RunFolder

VARIABLES = {
    "half": (("step",), "float64", "step / 2"),
    "writer": (("step",), "int64", "the writer that recorded the row"),
    "third": (("step", "part"), "float32", "(step + part) / 3"),
    "odd": (("step", "part"), "bool", "step + part is odd"),
}

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # whole or not at all

def block(first, count, writer):
    steps = np.arange(first, first + count)
    parts = steps[:, None] + np.arange(PARTS)
    rows = {"step": steps, "half": steps / 2, "third": parts / 3, "odd": parts % 2 == 1}
    return {**rows, "writer": np.full(count, writer)}

def write(writer, cut):
    say("pid", os.getpid())
    generator = np.random.default_rng(writer)
    begin = RunFolder.resume if os.path.exists(sys.argv[1] + "/run.json") else RunFolder.create
    run = begin(sys.argv[1], VARIABLES, {"optimizer": "none"}, {"part": PARTS})
    if cut >= 0:
        run.truncate(cut)
    say("has", run.committed)
    while True:
        run.append(block(run.committed, int(generator.integers(1, 300)), writer))
        say("has", run.committed)

for line in sys.stdin:
    child = os.fork()
    if not child:
        write(*map(int, line.split()))
    say("gone", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

# The same for a training that a probe records. Before step k the weight is k and the loss is k/2.
TRAINING_SERVER = r"""
import os, sys
import torch
from swd_dynamics.probe import Probe, buffer
buffer.SECONDS = 0.0
torch.set_num_threads(1)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())

def train(run, taken, snapshots, steps):
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    sgd = torch.optim.SGD([weight], lr=0.5)
    with Probe(sgd, run, resume=True, step=taken, snapshots=snapshots, quantities="minimal") as probe:
        say("has", taken)
        while probe.steps < steps:
            weight.data.fill_(probe.steps + 1)
            weight.grad = 2 * torch.ones_like(weight)
            probe.observe(loss=(probe.steps + 1) / 2)
            sgd.step()
            if probe.steps % 3 == 0:
                probe.flush()
                say("has", probe.steps)

train(sys.argv[1] + "-before", 0, 1, 2)  # because torch imports modules in its first step
for line in sys.stdin:
    child = os.fork()
    if not child:
        say("pid", os.getpid())
        train(sys.argv[1], *map(int, line.split()), steps=10**9)
    say("gone", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def server(tmp_path):
    """The process that forks writers of tmp_path/run."""
    yield from serving(SERVER, tmp_path / "run")


@pytest.fixture
def training_server(tmp_path):
    """The process that forks trainings that are recorded in tmp_path/run."""
    yield from serving(TRAINING_SERVER, tmp_path / "run")


def serving(program, run):
    probe = Path(swd_dynamics.probe.__file__).parent
    command = [sys.executable, "-c", program, str(run), str(probe)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=probe.parents[1]
    ) as it:
        yield it
        it.stdin.close()


def heard(server):
    """The next words of the server or its writer.

    There are none after a failure, which its stderr explains.
    """
    word, number = server.stdout.readline().split()
    return word, int(number)


def acknowledged_until_killed(server, writer, cut, wait, taken_up=False):
    """Let a writer run until it is killed; returns every number of rows that it acknowledged."""
    print(writer, cut, file=server.stdin, flush=True)
    word, pid = heard(server)
    assert word == "pid"
    rows = [heard(server)[1]] if taken_up else []
    wait()
    os.kill(pid, signal.SIGKILL)
    while (line := heard(server))[0] == "has":
        rows.append(line[1])
    assert line == ("gone", -signal.SIGKILL)  # any other status: the writer failed by itself
    return rows


def check(recording, writers):
    """Assert that every row has the contents of its step, from the writer that recorded it last."""
    steps = np.arange(recording.sizes["step"])
    parts = steps[:, None] + np.arange(PARTS)
    np.testing.assert_array_equal(recording.step, steps)
    np.testing.assert_array_equal(recording.half, steps / 2)
    np.testing.assert_array_equal(recording.third, (parts / 3).astype(np.float32))
    np.testing.assert_array_equal(recording.odd, parts % 2 == 1)
    np.testing.assert_array_equal(recording.writer, writers)


def watch(folder, watched, seconds):
    """Read what another process is writing, again and again; notes the number of rows each time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            recording = open_recording(folder)
            check(recording, recording.writer)
            watched.append(recording.sizes["step"])
        except InputError as error:  # rows were dropped between opening and reading
            assert "open it again" in str(error)


def test_no_acknowledged_row_is_lost(server, tmp_path):
    """Assert that a hundred kills at random moments lose no acknowledged row and stop no resume.

    Every third writer first drops rows, as a job restarted from an older checkpoint does. Every
    fourth run is read while it is written. The time until the kill is counted from when a writer
    begins, or, for every second writer, from when it has resumed the run.
    """
    folder, generator, watched = tmp_path / "run", np.random.default_rng(2), []
    acknowledged_until_killed(server, 0, -1, lambda: heard(server))  # makes the run
    recorded, restarts = read_committed(folder)
    writers = np.zeros(recorded, int)
    for writer in range(1, KILLS):
        cut = int(generator.integers(len(writers) + 1)) if writer % 3 == 0 else -1
        watching = partial(watch, folder, watched) if writer % 4 == 0 else time.sleep
        wait = partial(watching, generator.uniform(0, LONGEST))
        acknowledged = acknowledged_until_killed(server, writer, cut, wait, taken_up=writer % 2 == 0)
        committed, restarts_now = read_committed(folder)
        begun = cut if restarts_now > restarts else len(writers)
        assert committed >= max(acknowledged, default=begun)
        writers = np.append(writers[:begun], np.full(committed - begun, writer))
        check(open_recording(folder), writers)
        recorded, restarts = recorded + committed - begun, restarts_now
    print(f"{KILLS} kills, {recorded} rows recorded, {restarts} cuts, read {len(watched)} times while being written")
    assert recorded > KILLS
    assert restarts > 0
    assert watched


def test_a_dead_writers_lock_does_not_block(server, tmp_path):
    """Assert that a killed run still has the status running and its lock file, and can be resumed."""
    acknowledged_until_killed(server, 0, -1, lambda: heard(server))
    recording = open_recording(tmp_path / "run")
    assert recording.attrs["status"] == "running"
    assert (tmp_path / "run" / ".lock").exists()
    again = []
    acknowledged_until_killed(server, 1, -1, lambda: again.append(heard(server)))
    assert again == [("has", recording.sizes["step"])]
    changes = json.loads(open_recording(tmp_path / "run").attrs["resumed"])
    assert changes == [{"committed": recording.sizes["step"], "changed": {}}]


def test_no_acknowledged_step_of_a_training_is_lost(training_server, tmp_path):
    """Assert that fifty kills of a training lose no step that was flushed, and that each restart
    continues.

    Every third restart begins at an older step, as a job does whose checkpoint is older than its
    recording. Snapshots are complete or absent.
    """
    folder, generator, last, recorded = tmp_path / "run", np.random.default_rng(4), 0, 0
    assert heard(training_server) == ("has", 0)  # from the training that it runs first
    for kill in range(TRAININGS_KILLED):
        taken = int(generator.integers(last + 1)) if kill % 3 == 2 else last
        wait = partial(time.sleep, generator.uniform(0, LONGEST))
        acknowledged = acknowledged_until_killed(training_server, taken, 5, wait, taken_up=True)
        recording = open_recording(folder)
        steps = recording["step"].values
        last = int(steps[-1]) if len(steps) else 0
        assert last >= acknowledged[-1]
        np.testing.assert_array_equal(steps, np.arange(1, last + 1))
        np.testing.assert_array_equal(recording["theta_norm"], steps)
        np.testing.assert_array_equal(recording["loss"], steps / 2)
        np.testing.assert_array_equal(recording["gradient_norm"], 2)
        recorded += last - taken
        for step in snapshots(folder):
            assert load_snapshot(folder, step)["parameter_0"] == step - 1  # after step k: k − .5·2
    print(
        f"{KILLS} kills of a training, {recorded} steps recorded, {last} in the end, {len(snapshots(folder))} snapshots"
    )
    assert recorded > TRAININGS_KILLED
    assert snapshots(folder)
