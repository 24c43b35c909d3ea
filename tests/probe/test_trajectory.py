"""Trajectories, in memory and in a run folder: the same numbers, and on disk during the run."""

import json
import math
import shutil
import subprocess

import numpy as np
import pytest
import torch
import xarray

from swd_dynamics.crosscheck import recorded_rule, replay
from swd_dynamics.errors import InputError
from swd_dynamics.optim import AdamS
from swd_dynamics.probe import Probe, buffer, provenance, record
from swd_dynamics.recording import open_recording

OPTIMIZERS = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.1),
    "AdamS": lambda groups: AdamS(groups, lr=0.1, weight_decay=0.1),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantities", ["minimal", "dynamics"])
def test_a_recording_is_the_same_wherever_it_is_kept(network, path, name, dtype, quantities):
    """Assert that a recording in memory equals the recording in a run folder, and both replay."""
    runs = []
    for where in (None, path):
        net = network(dtype)
        optimizer = OPTIMIZERS[name](net.groups(lr=0.03))
        runs.append(record(optimizer, net.loss, 7, path=where, model=net, quantities=quantities))
    held, kept = runs
    xarray.testing.assert_identical(held, kept.load())
    xarray.testing.assert_identical(open_recording(path).load().drop_attrs(), held.drop_attrs())
    if dtype != torch.bfloat16:  # it rounds more coarsely than the float32 in which it is recorded
        assert replay(recorded_rule(name, kept), kept).passed


def test_rows_are_on_disk_before_the_end(network, path, monkeypatch):
    """Assert that a trajectory can be read while it is written, up to the last acknowledged row."""
    monkeypatch.setattr(buffer, "SECONDS", 0.0)
    net = network()
    optimizer = OPTIMIZERS["AdamW"](net.parameters())
    with Probe(optimizer, path, trajectory=True):
        net.train(optimizer, 3)
        assert open_recording(path).sizes == {"step": 2, "iterate": 3, "weight": 26, "group": 1, "parameter": 4}


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_state_that_comes_after_the_first_rows_is_named(network, path, where):
    """Assert that state that first appears after rows were written is named as not recorded."""
    net = network()
    optimizer = OPTIMIZERS["AdamW"](net.parameters())
    with Probe(optimizer, None if where == "memory" else path, trajectory=True) as probe:
        optimizer.step()  # without a gradient, so that no state is made
        probe.flush()
        net.train(optimizer, 2)
    run = probe.dataset()
    assert "state_exp_avg" not in run
    assert json.loads(run.attrs["state_not_recorded"]) == ["exp_avg", "exp_avg_sq"]
    np.testing.assert_array_equal(run.state_step[:, 0], [math.nan, 1, 2])


def test_a_trajectory_too_wide_for_a_run_folder_is_refused_before_training(path):
    """Assert that a model with more weights than a row holds is refused in words, and nothing is made."""
    weight = torch.nn.Parameter(torch.zeros(1000, 1001))
    with pytest.raises(InputError, match=r"1001000 weights is not allowed: .* trajectory=False"):
        record(torch.optim.SGD([weight], lr=0.1), lambda k: weight.sum(), 3, path=path)
    assert not path.exists()


def frozen(net, optimizer):
    net.first.requires_grad_(False)
    net.train(optimizer, 2)


def voided(net, optimizer):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor in (1.0, math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale(net.loss() * factor).backward()
        scaler.step(optimizer)
        scaler.update()


def clamped(net, optimizer):
    for _ in range(2):
        net.train(optimizer, 1)
        with torch.no_grad():
            net.first.weight.mul_(0.99)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (frozen, "step 1 was not taken with all"),
        (voided, "step 2 was not taken"),
        (clamped, "from outside before step 2"),
    ],
)
@pytest.mark.slow
def test_replay_refuses_what_no_rule_says(network, path, train, words):
    """Assert that skipped steps and weights changed between steps are refused, not refuted."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)
    with Probe(optimizer, path, trajectory=True):
        train(net, optimizer)
    with pytest.raises(InputError, match=words):
        replay(recorded_rule("AdamW", open_recording(path)), open_recording(path))


@pytest.mark.slow
def test_what_is_not_whole_is_refused(network, path, tmp_path):
    """Assert that a trajectory with a gap, a damaged one, and one of every second step are refused."""
    net = network()
    optimizer = OPTIMIZERS["AdamW"](net.parameters())
    with pytest.raises(InputError, match="every = 2 is not allowed: a trajectory"):
        Probe(optimizer, path, trajectory=True, every=2)
    with Probe(optimizer, path, trajectory=True) as probe:
        net.train(optimizer, 2)
        probe.detach()
        net.train(optimizer, 1)
        probe.attach()
        net.train(optimizer, 1)
    with pytest.raises(InputError, match="lacks some of its steps"):
        replay(recorded_rule("AdamW", open_recording(path)), open_recording(path))
    damages = {"parameter_names": ["a", "b", "c", "d"], "parameter_groups": [0], "steps_before": 7}
    for key, wrong in (damages | {"parameter_shapes": [[3, 4]]}).items():
        shutil.copytree(path, tmp_path / key)
        described = json.loads((path / "run.json").read_text())
        described["made_by"][key] = wrong
        (tmp_path / key / "run.json").write_text(json.dumps(described))
        with pytest.raises(InputError):
            open_recording(tmp_path / key).theta.load()


@pytest.mark.parametrize("index", [0, -1, slice(None), slice(1, 3), slice(None, None, -2), slice(3, 1), [0, 2]])
@pytest.mark.slow
def test_weights_are_read_as_they_are_indexed(network, path, index):
    """Assert that some rows of θ are the same whether they or all of θ are read."""
    net = network()
    record(OPTIMIZERS["AdamW"](net.parameters()), net.loss, 3, path=path)
    whole = open_recording(path).theta.values
    assert len(whole) == 4
    np.testing.assert_array_equal(open_recording(path).theta[index].values, whole[index])


def test_a_lost_start_is_found_when_it_is_used(network, path):
    """Assert that a run without its start opens, and θ is refused when its start is read."""
    net = network()
    record(OPTIMIZERS["AdamW"](net.parameters()), net.loss, 3, path=path)
    shutil.rmtree(path / "snapshots")
    recording = open_recording(path)
    assert np.isfinite(recording.loss).all() and np.isfinite(recording.theta[1:]).all()
    with pytest.raises(InputError, match="no snapshot of step 0"):
        recording.theta.load()


def test_the_commit_is_noted(tmp_path, monkeypatch):
    """Assert that run.json names the commit and whether files have changed, or says there is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_commit() == "none"
    git = ["git", "-c", "user.name=x", "-c", "user.email=x", "-c", "commit.gpgsign=false"]
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert provenance.git_commit() == commit
    (tmp_path / "file").write_text("2")
    assert provenance.git_commit() == f"{commit}-dirty"
