"""Whatever happens to the probe, the training continues."""

import json

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
    """Assert that an error in a hook ends the recording with a warning, and not the training."""
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
    """Assert that rows that the disk refuses end the recording, even at the end of the training."""
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
    """Assert that where warnings are errors, the training continues and the reason is printed."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, path) as probe:
        monkeypatch.setattr(probe, "_begin_step", fails)
        net.train(optimizer, 2)
    assert "no space left" in capsys.readouterr().err


def test_changed_parameter_set(network, path):
    """Assert that another parameter ends the recording, with the reason, and not the training."""
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
    """Assert that Ctrl-C and an error of the training are noted, and all rows are kept."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with pytest.raises(type(error)), Probe(optimizer, path):
        net.train(optimizer, 2)
        raise error
    assert described(path)["status"] == status
    assert open_recording(path).sizes["step"] == 2


def test_bad_input_is_refused_in_words(network, path):
    """Assert that bad numbers, a folder with a run, and another run are refused before training."""
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
