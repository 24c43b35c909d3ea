"""A probe that is attached again, and a job that is restarted, continue their recording."""

import copy
import json
import os
import signal
import time

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.optim import AdamS
from swd_dynamics.probe import Probe
from swd_dynamics.recording import snapshots

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "SGD with L2": lambda parameters: torch.optim.SGD(
        parameters,
        lr=0.1,
        momentum=0.9,
        weight_decay=0.1,
    ),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "AdamS": lambda parameters: AdamS(parameters, lr=0.1, weight_decay=0.1),
}


@pytest.fixture(params=["memory", "disk"])
def path(request, tmp_path):
    """Where the recording is kept; None is memory."""
    return None if request.param == "memory" else tmp_path / "run"


def checkpoint(net, optimizer):
    return copy.deepcopy((net.state_dict(), optimizer.state_dict()))


def load(net, optimizer, saved):
    net.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])


def described(folder):
    return json.loads((folder / "run.json").read_text())


def weights(net):
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()]).numpy().copy()


@pytest.mark.slow
def test_a_recording_without_rows_begins_again(network, path):
    """Assert that a recording without rows begins with the weights at its last attachment."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    probe = Probe(optimizer, path, trajectory=True, quantities="dynamics")
    with probe:
        probe.note(task="noise")
    net.train(optimizer, 2)
    before = weights(net)
    with probe:
        net.train(optimizer, 1)
    run = probe.dataset()
    np.testing.assert_array_equal(run.iterate, [2, 3])
    np.testing.assert_array_equal(run.theta[0], before)
    assert run.distance[0] == pytest.approx(np.linalg.norm(run.theta[1] - before), rel=1e-12)
    assert run.attrs["task"] == "noise"


def test_a_dataset_before_the_first_attachment_fixes_nothing(network):
    """Assert that reading the dataset before the attachment does not fix the start."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    probe = Probe(optimizer, trajectory=True)
    assert probe.dataset().attrs["steps_before"] == 0
    net.train(optimizer, 2)
    before = weights(net)
    with probe:
        net.train(optimizer, 1)
    run = probe.dataset()
    np.testing.assert_array_equal(run.iterate, [2, 3])
    np.testing.assert_array_equal(run.theta[0], before)


@pytest.mark.slow
def test_a_run_restarted_before_its_beginning_begins_again(network, path):
    """Assert that a checkpoint from before the first row replaces the rows and the start."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    net.train(optimizer, 1)
    early = checkpoint(net, optimizer)
    net.train(optimizer, 4)
    probe = Probe(optimizer, path, trajectory=True, quantities="dynamics")
    with probe:
        net.train(optimizer, 1)
    load(net, optimizer, early)
    before = weights(net)
    with probe:
        net.train(optimizer, 2)
    run = probe.dataset()
    np.testing.assert_array_equal(run.step, [2, 3])
    np.testing.assert_array_equal(run.iterate, [1, 2, 3])
    np.testing.assert_array_equal(run.theta[0], before)
    assert run.distance[0] == run.update_norm[0]
    if path is not None:
        assert list(snapshots(path)) == [1]


def test_the_start_is_kept_under_the_number_of_steps_before_it(network, tmp_path):
    """Assert that distances of a resumed run are measured from a snapshot named by its true step."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    net.train(optimizer, 5)
    start = weights(net)
    for _ in range(2):
        with Probe(optimizer, tmp_path, quantities=["distance"], resume=True) as probe:
            net.train(optimizer, 1)
    assert list(snapshots(tmp_path)) == [5]
    distance = np.linalg.norm(weights(net) - start)
    assert probe.dataset().distance[-1] == pytest.approx(distance, rel=1e-12)


@pytest.mark.slow
def test_weights_are_compared_with_the_last_row(network, path):
    """Assert that the weights of a checkpoint count as changed only where they differ from its row."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    probe = Probe(optimizer, path, trajectory=True)
    with probe:
        net.train(optimizer, 2)
        saved = checkpoint(net, optimizer)
        net.train(optimizer, 2)
    load(net, optimizer, saved)
    with probe:
        net.train(optimizer, 1)
    np.testing.assert_array_equal(probe.dataset().changed_outside, [0, 0, 0])
    net.last.bias.data.add_(1)
    with probe:
        net.train(optimizer, 1)
    np.testing.assert_array_equal(probe.dataset().changed_outside, [0, 0, 0, 2])


@pytest.mark.slow
def test_weights_of_a_restarted_job_are_compared_with_the_last_row(network, tmp_path):
    """Assert that a new probe notices weights that differ from the last row on disk."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Probe(optimizer, tmp_path, trajectory=True):
        net.train(optimizer, 3)
    with Probe(optimizer, tmp_path, trajectory=True, resume=True, step=2) as probe:
        net.train(optimizer, 1)
    np.testing.assert_array_equal(probe.dataset().changed_outside, [0, 0, 26])


def test_weights_changed_before_the_first_step_are_noticed(network):
    """Assert that weights which change between the attachment and the first step are counted."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Probe(optimizer, trajectory=True) as probe:
        net.last.bias.data.add_(1)
        net.train(optimizer, 1)
    assert probe.dataset().changed_outside == 2


def test_a_restart_removes_the_snapshots_of_steps_taken_again(network, tmp_path):
    """Assert that a restart at step 2 removes the snapshot of step 3."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, tmp_path, snapshots=1):
        net.train(optimizer, 2)
        saved = checkpoint(net, optimizer)
        net.train(optimizer, 2)
    load(net, optimizer, saved)
    with Probe(optimizer, tmp_path, resume=True):
        assert list(snapshots(tmp_path)) == [1, 2]


def interrupted_and_resumed(network, folder, make, known):
    """Ten steps, of which the last four are taken again from a checkpoint after step 6."""
    net = network()
    optimizer = make(net.parameters())
    with Probe(optimizer, folder, model=net, quantities="dynamics"):
        net.train(optimizer, 6)
        saved = checkpoint(net, optimizer)
        net.train(optimizer, 3)
    other = network()
    restarted = make(other.parameters())
    load(other, restarted, saved)
    known = {"model": other, "quantities": "dynamics", "resume": True, **known}
    with Probe(restarted, folder, **known) as probe:
        other.train(restarted, 4)
    return probe.dataset()


RESTARTED = [("AdamW", {}), ("AdamS", {}), ("SGD", {"step": 6}), ("SGD with L2", {"step": 6})]


@pytest.mark.parametrize(("name", "known"), RESTARTED)
@pytest.mark.slow
def test_a_restarted_job(network, tmp_path, name, known):
    """Assert that a job restarted from a checkpoint gives the recording of an uninterrupted one."""
    make = OPTIMIZERS[name]
    resumed = interrupted_and_resumed(network, tmp_path / "run", make, known)
    net = network()
    optimizer = make(net.parameters())
    with Probe(optimizer, tmp_path / "whole", model=net, quantities="dynamics") as probe:
        net.train(optimizer, 10)
    whole = probe.dataset()
    np.testing.assert_array_equal(resumed.step, np.arange(1, 11))
    for variable in whole.data_vars:
        np.testing.assert_array_equal(resumed[variable], whole[variable], err_msg=variable)


@pytest.mark.slow
def test_resume_needs_the_step(network, tmp_path):
    """Assert that step= is needed to resume with an optimizer that does not count its steps."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Probe(optimizer, tmp_path, resume=True):
        net.train(optimizer, 3)
    with pytest.raises(InputError, match=r"SGD .* give step="):
        Probe(optimizer, tmp_path, resume=True).attach()
    with Probe(optimizer, tmp_path, resume=True, step=2) as probe:
        net.train(optimizer, 1)
    np.testing.assert_array_equal(probe.dataset().step, [1, 2, 3])


@pytest.mark.slow
def test_a_lock_ends_with_the_run(network, tmp_path):
    """Assert that a run can be resumed while a process that was forked during it still lives."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, tmp_path):
        net.train(optimizer, 1)
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        with Probe(optimizer, tmp_path, resume=True) as probe:
            net.train(optimizer, 1)
        assert probe.dataset().sizes["step"] == 2
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.slow
def test_an_attachment_that_fails_lets_go(network, tmp_path):
    """Assert that a run with a damaged start is not locked, and resumes once it is repaired."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, tmp_path, quantities="dynamics"):
        net.train(optimizer, 2)
    start = tmp_path / "snapshots" / "step-0000000000.safetensors"
    whole = start.read_bytes()
    start.write_bytes(whole[:-1])
    failed = Probe(optimizer, tmp_path, quantities="dynamics", resume=True)
    with pytest.raises(InputError, match="damaged"):
        failed.attach()
    assert described(tmp_path)["status"] == "interrupted"
    start.write_bytes(whole)
    with Probe(optimizer, tmp_path, quantities="dynamics", resume=True) as probe:
        net.train(optimizer, 1)
    assert np.isfinite(probe.dataset()["distance"]).all()
    start.unlink()
    with Probe(optimizer, tmp_path, quantities="dynamics", resume=True) as probe:
        net.train(optimizer, 1)
    assert np.isnan(probe.dataset()["distance"][-1])
    assert "is gone" in described(tmp_path)["notes"]["distance_unknown_because"]
