"""Whatever happens to the streaming probe, the training goes on; a job that is restarted goes on with its run."""

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
from swd_dynamics.recording.reader import open_recording
from swd_dynamics.recording.writer import RunFolder

OPTIMIZERS = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "SGD with L2": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.1),
    "AdamS": lambda groups: AdamS(groups, lr=0.1, weight_decay=0.1),
}


def described(path):
    return json.loads((path / "run.json").read_text())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


def fails(*_, **__):
    raise OSError("no space left on device")


@pytest.mark.parametrize("broken", ["_begin_step", "_end_step"])
def test_an_error_of_the_probe_does_not_end_the_training(network, path, monkeypatch, broken):
    """Assert that an error in a hook ends the recording, with one warning and a note, and not the training."""
    bare, net = network(), network()
    optimizer, other = (torch.optim.AdamW(one.parameters()) for one in (net, bare))
    with Probe(optimizer, path) as probe:
        net.train(optimizer, 2)
        probe.flush()
        monkeypatch.setattr(probe, broken, fails)
        with pytest.warns(RuntimeWarning, match="no space left"):
            net.train(optimizer, 1)
        assert torch.equal(net.train(optimizer, 2), bare.train(other, 5))
        probe.observe(loss=1.0)
    assert probe.dataset().sizes["step"] == 2
    assert described(path)["status"] == "failed: OSError: no space left on device"


def test_a_full_disk_does_not_end_the_training(network, path, monkeypatch):
    """Assert that rows which the disk does not take end the recording, even at the end of the training."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, path) as probe:
        net.train(optimizer, 2)
        monkeypatch.setattr(RunFolder, "append", fails)
        close = probe._sink.close
        monkeypatch.setattr(probe._sink, "close", lambda status: close(status) or fails())
    assert "no space left" in probe.failure
    assert open_recording(path).sizes["step"] == 0


def test_an_error_is_printed_where_warnings_are_errors(network, path, monkeypatch, capsys):
    """Assert that even with warnings as errors, as in these tests, the training goes on and the reason is seen."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, path) as probe:
        monkeypatch.setattr(probe, "_begin_step", fails)
        net.train(optimizer, 2)
    assert "no space left" in capsys.readouterr().err


def test_changed_parameter_set(network, path):
    """Assert that a parameter more ends the recording, with the reason, and not the training."""
    net = network()
    optimizer = torch.optim.AdamW(net.first.parameters())
    with Probe(optimizer, path) as probe:
        net.train(optimizer, 1)
        optimizer.add_param_group({"params": net.last.parameters()})
        with pytest.warns(RuntimeWarning, match="parameters have changed"):
            net.train(optimizer, 2)
    assert probe.failure is not None and "parameters have changed" in described(path)["status"]


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), "interrupted"), (ValueError("x"), "failed: ValueError('x')")]
)
def test_how_the_run_ended(network, path, error, status):
    """Assert that Ctrl-C and an error of the training are noted, with all rows kept."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with pytest.raises(type(error)), Probe(optimizer, path):
        net.train(optimizer, 2)
        raise error
    assert described(path)["status"] == status
    assert open_recording(path).sizes["step"] == 2


def interrupted_and_resumed(network, path, make, known):
    """Ten steps, of which the last four are taken again from a checkpoint after step 6."""
    net = network()
    optimizer = make(net.parameters())
    with Probe(optimizer, path, model=net, quantities="dynamics"):
        net.train(optimizer, 6)
        checkpoint = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
        net.train(optimizer, 3)
    other = network()
    other.load_state_dict(checkpoint[0])
    restarted = make(other.parameters())
    restarted.load_state_dict(checkpoint[1])
    with Probe(restarted, path, model=other, quantities="dynamics", resume=True, **known) as probe:
        other.train(restarted, 4)
    return probe.dataset()


@pytest.mark.parametrize(
    ("name", "known"), [("AdamW", {}), ("AdamS", {}), ("SGD", {"step": 6}), ("SGD with L2", {"step": 6})]
)
def test_resume(network, path, tmp_path, name, known):
    """Assert that a restarted job goes on at its step and gives the recording of an unbroken one."""
    make = OPTIMIZERS[name]
    resumed = interrupted_and_resumed(network, path, make, known)
    net = network()
    optimizer = make(net.parameters())
    with Probe(optimizer, tmp_path / "whole", model=net, quantities="dynamics") as probe:
        net.train(optimizer, 10)
    whole = probe.dataset()
    np.testing.assert_array_equal(resumed.step, np.arange(1, 11))
    for variable in whole.data_vars:
        np.testing.assert_array_equal(resumed[variable], whole[variable], err_msg=variable)


def test_resume_needs_the_step(network, path):
    """Assert that an optimizer that does not count, or is fresh, goes on only at a step that is given."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Probe(optimizer, path, resume=True):
        net.train(optimizer, 3)
    with pytest.raises(InputError, match=r"SGD .* give step="):
        Probe(optimizer, path, resume=True).attach()
    with Probe(optimizer, path, resume=True, step=2) as probe:
        net.train(optimizer, 1)
    np.testing.assert_array_equal(probe.dataset().step, [1, 2, 3])


def test_bad_input_is_refused_in_words(network, path):
    """Assert that what is not allowed is refused before training: numbers, a taken folder, another run."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    for wrong in ({"every": 0}, {"snapshots": 0}, {"every": True}, {"step": -1}):
        with pytest.raises(InputError, match="must be a whole number"):
            Probe(optimizer, path, **wrong)
    with pytest.raises(InputError, match="not to Network"):
        Probe(net, path)
    with Probe(optimizer, path):
        net.train(optimizer, 1)
    with pytest.raises(InputError, match="holds a run"):
        Probe(optimizer, path).attach()
    with pytest.raises(InputError, match="holds another run"):
        Probe(torch.optim.SGD(net.parameters()), path, resume=True, step=1).attach()


def test_a_lock_ends_with_the_run(network, path):
    """Assert that a run can be gone on with while a process that was forked in it still lives."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, path):
        net.train(optimizer, 1)
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        with Probe(optimizer, path, resume=True) as probe:
            net.train(optimizer, 1)
        assert probe.dataset().sizes["step"] == 2
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_an_attachment_that_fails_lets_go(network, path):
    """Assert that a run which cannot be gone on with, its start being damaged, can be once that is mended."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, path, quantities="dynamics"):
        net.train(optimizer, 2)
    start = path / "snapshots" / "step-0000000000.safetensors"
    whole = start.read_bytes()
    start.write_bytes(whole[:-1])
    failed = Probe(optimizer, path, quantities="dynamics", resume=True)
    with pytest.raises(InputError, match="damaged"):
        failed.attach()
    assert described(path)["status"] == "interrupted"
    start.write_bytes(whole)
    with Probe(optimizer, path, quantities="dynamics", resume=True) as probe:
        net.train(optimizer, 1)
    assert np.isfinite(probe.dataset()["distance"]).all()
    start.unlink()
    with Probe(optimizer, path, quantities="dynamics", resume=True) as probe:
        net.train(optimizer, 1)
    assert np.isnan(probe.dataset()["distance"][-1])
    assert "is gone" in described(path)["notes"]["distance_unknown_because"]
