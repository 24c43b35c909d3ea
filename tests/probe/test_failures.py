"""Whatever happens to the probe, the training continues."""

import json
import sys
import threading
import warnings

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


@pytest.mark.slow
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


class Unspeakable(Exception):
    """An error whose text cannot be made."""

    def __repr__(self):
        raise ValueError("no words")

    __str__ = __repr__


def test_an_error_whose_text_cannot_be_made(network, path, monkeypatch):
    """Assert that an error without a text ends the run, or the probe, like any other."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with pytest.raises(Unspeakable), Probe(optimizer, path):
        net.train(optimizer, 2)
        raise Unspeakable
    assert described(path)["status"].startswith("failed: Unspeakable")
    with Probe(optimizer, path, resume=True) as probe:
        monkeypatch.setattr(probe, "_end_step", lambda: fails_with(Unspeakable()))
        with pytest.warns(RuntimeWarning, match="Unspeakable"):
            net.train(optimizer, 1)


def fails_with(error):
    raise error


@pytest.mark.parametrize(
    ("code", "status"),
    [(0, "finished"), (None, "finished"), (1, "failed: SystemExit(1)"), ("x", "failed: SystemExit('x')")],
)
def test_a_program_that_exits(network, path, code, status):
    """Assert that sys.exit(0) in a run is no failure, and another code is one."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with pytest.raises(SystemExit), Probe(optimizer, path):
        net.train(optimizer, 2)
        sys.exit(code)
    assert described(path)["status"] == status


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.slow
def test_a_group_that_is_added(path, where, size):
    """Assert that a group added in mid-run, also an empty one, ends the recording with all rows."""
    first, *rest = (torch.nn.Parameter(torch.ones(3)) for _ in range(1 + size))
    optimizer = torch.optim.AdamW([first])
    with Probe(optimizer, None if where == "memory" else path, trajectory=True) as probe:
        for k in range(10):
            if k == 9:
                optimizer.add_param_group({"params": rest})
            first.grad = torch.ones(3)
            if k < 9:
                optimizer.step()
        with pytest.warns(RuntimeWarning, match="have changed since the probe was attached"):
            optimizer.step()
    run = probe.dataset()
    assert run.step.values.tolist() == list(range(1, 10))
    assert np.isfinite(run.update_norm).all()


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_an_empty_group(path, where):
    """Assert that an optimizer whose last group is empty is recorded."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([{"params": [weight]}, {"params": [], "lr": 0.5}])
    with Probe(optimizer, None if where == "memory" else path) as probe:
        weight.grad = torch.ones(3)
        optimizer.step()
    run = probe.dataset()
    assert run.sizes["group"] == 2 and run.lr.values.tolist() == [[0.001, 0.5]]


def test_a_parameter_of_another_shape(path):
    """Assert that a parameter that gets another shape ends the recording, and rows stay right."""
    weight = torch.nn.Parameter(torch.full((4,), 0.5))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    with Probe(optimizer, path) as probe:
        for size in (4, 4, 9):
            weight.data = torch.full((size,), 0.5)
            weight.grad = torch.ones(size)
            if size == 4:
                optimizer.step()
        with pytest.warns(RuntimeWarning, match="shapes have changed"):
            optimizer.step()
    assert probe.dataset().theta_rms.values.tolist() == [0.5, 0.5]


def test_rows_that_could_not_be_written_are_written_later(network, path, monkeypatch):
    """Assert that rows stay after a flush that the disk refused, and the run ends finished."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    append = RunFolder.append
    with Probe(optimizer, path) as probe:
        net.train(optimizer, 2)
        monkeypatch.setattr(RunFolder, "append", fails)
        with pytest.raises(OSError, match="no space left"):
            probe.flush()
        monkeypatch.setattr(RunFolder, "append", append)
        net.train(optimizer, 1)
    run = open_recording(path)
    assert run.step.values.tolist() == [1, 2, 3] and run.attrs["status"] == "finished"
    assert np.isfinite(run.gradient_norm).all()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_dataset_for_another_thread(network, path, where):
    """Assert that rows can be read in one thread while another trains."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, None if where == "memory" else path) as probe:
        thread = threading.Thread(target=net.train, args=(optimizer, 300))
        thread.start()
        while thread.is_alive():
            probe.dataset()
    assert probe.failure is None
    assert probe.dataset().step.values.tolist() == list(range(1, 301))


def test_a_run_without_steps_is_said(path):
    """Assert that a probe warns if weights moved and it saw no step of its optimizer."""
    weight = torch.nn.Parameter(torch.ones(3))
    outer, inner = (torch.optim.SGD([weight], lr=0.1) for _ in range(2))
    with Probe(outer):
        pass  # nothing moves, so there is nothing to say
    with pytest.warns(RuntimeWarning, match="saw no step of this SGD"), Probe(outer, path):
        weight.grad = torch.ones(3)
        inner.step()


@pytest.mark.parametrize("every", [1, 3])
def test_a_model_that_was_made_again_is_said(network, every):
    """Assert that steps without any gradient warn at the end, at the user's line, and that one gradient is enough."""
    old, new = network(), network()
    sgd = torch.optim.SGD(old.parameters(), lr=0.1)
    with pytest.warns(RuntimeWarning, match="no weight had a gradient") as said, Probe(sgd, every=every):
        for _ in range(3):
            new.loss().backward()
            sgd.step()
    assert [each.filename for each in said] == [__file__]
    with warnings.catch_warnings(record=True, action="always") as said, Probe(sgd, every=every):
        old.last.bias.grad = torch.zeros_like(old.last.bias)
        for _ in range(3):
            sgd.step()
    assert said == []


@pytest.mark.parametrize(("losses", "warned"), [(3, 1), (1, 0)])
def test_losses_without_a_step_are_said(network, losses, warned):
    """Assert that losses without any step are counted in a warning, but not a single one that may be infinite."""
    net = network()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True, action="always") as said, Probe(sgd) as probe:
        for _ in range(losses):
            probe.observe(loss=net.loss())
    assert len(said) == warned and all(f"{losses} losses" in str(each.message) for each in said)


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.slow
def test_facts_are_noted_after_the_run(network, path, where):
    """Assert that facts can be noted before and after the end of a run, and not before it begins."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    probe = Probe(optimizer, None if where == "memory" else path)
    with pytest.raises(InputError, match="attach"):
        probe.note(a=1)
    with probe:
        net.train(optimizer, 1)
        probe.note(a=1, b=1)
    probe.note(b=2)
    run = probe.dataset()
    assert (run.attrs["a"], run.attrs["b"], run.attrs["status"]) == (1, 2, "finished")
    with probe:
        net.train(optimizer, 1)
    assert probe.dataset().sizes["step"] == 2
