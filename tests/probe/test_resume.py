"""A probe that is attached again, and a job that is restarted, continue their recording."""

import copy

import numpy as np
import pytest
import torch

from swd_dynamics.probe import Probe
from swd_dynamics.recording import snapshots


@pytest.fixture(params=["memory", "disk"])
def path(request, tmp_path):
    """Where the recording is kept: None is memory."""
    return None if request.param == "memory" else tmp_path / "run"


def checkpoint(net, optimizer):
    return copy.deepcopy((net.state_dict(), optimizer.state_dict()))


def load(net, optimizer, saved):
    net.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])


def weights(net):
    return torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()]).numpy().copy()


def test_a_recording_without_rows_begins_again(network, path):
    """Assert that a recording starts from the weights at its last attachment, if it had no rows then."""
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
    """Assert that a recording in memory starts where it is attached, if its dataset was read before."""
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


def test_a_run_restarted_before_its_beginning_begins_again(network, path):
    """Assert that a checkpoint from before the first row replaces the whole recording, its start included."""
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
    """Assert that after a restart at step 2 the snapshot after step 3, which is taken again, is gone."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, tmp_path, snapshots=1):
        net.train(optimizer, 2)
        saved = checkpoint(net, optimizer)
        net.train(optimizer, 2)
    load(net, optimizer, saved)
    with Probe(optimizer, tmp_path, resume=True):
        assert list(snapshots(tmp_path)) == [1, 2]
