"""How many steps were taken, where the optimizer's own counts do not say it."""

import contextlib
import copy
import json
import os

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.probe import Probe
from swd_dynamics.probe.counts import Counted
from swd_dynamics.recording import open_recording


@pytest.fixture(params=["memory", "disk"])
def path(request, tmp_path):
    """Where the recording is kept; None is memory."""
    return None if request.param == "memory" else tmp_path / "run"


class Model:
    """Two weights that are trained in turns, and how many steps were taken."""

    def __init__(self, optimizer=torch.optim.AdamW, **options):
        self.pair = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
        self.optimizer = optimizer(self.pair, lr=0.1, **options)

    def train(self, which, steps):
        for _ in range(steps):
            for i, weight in enumerate(self.pair):
                weight.grad = torch.ones(2) if i in which else None
            self.optimizer.step()


def steps_of(probe):
    return probe.dataset().step.values.tolist()


@pytest.mark.slow
def test_parameters_trained_in_turns(path):
    """Assert that all rows stay where a probe is attached again for each turn."""
    model = Model()
    probe = Probe(model.optimizer, path)
    for which in ([0], [1], [0]):
        with probe:
            model.train(which, 5)
    assert steps_of(probe) == list(range(1, 16))


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.slow
def test_turns_in_a_new_probe(tmp_path, flushed):
    """Assert that all rows stay where each turn has a new probe, as after a restart."""
    model = Model()
    for which in ([0], [1], [0]):
        with Probe(model.optimizer, tmp_path / "run", resume=True) as probe:
            for _ in range(5):
                model.train(which, 1)
                _ = flushed and probe.flush()
    assert steps_of(probe) == list(range(1, 16))


@pytest.mark.parametrize("kept", [7, 8])
@pytest.mark.slow
def test_a_restart_from_a_checkpoint_of_a_turn(tmp_path, kept):
    """Assert that rows after a checkpoint are dropped, and a checkpoint of unsure step is said."""
    model, saved = Model(), {}
    with Probe(model.optimizer, tmp_path / "run") as probe:
        model.train([0], 5)
        for step in range(6, 13):
            model.train([1], 1)
            saved[step] = copy.deepcopy(model.optimizer.state_dict())
            _ = step == 8 and probe.flush()  # notes the counts [5, 3], as they belong to step 8
    model.optimizer.load_state_dict(saved[kept])
    again = Probe(model.optimizer, tmp_path / "run", resume=True)
    unsure = pytest.warns(RuntimeWarning, match="kept up to step 7")
    with contextlib.nullcontext() if kept == 8 else unsure:
        again.attach()
    model.train([1], 1)
    again.detach()
    assert steps_of(again) == list(range(1, kept + 2))


@pytest.mark.slow
def test_dropped_rows_are_said(tmp_path):
    """Assert that a restart from a checkpoint notes how many rows it dropped."""
    model = Model()
    with Probe(model.optimizer, tmp_path / "run"):
        model.train([0, 1], 2)
        saved = copy.deepcopy(model.optimizer.state_dict())
        model.train([0, 1], 3)
    model.optimizer.load_state_dict(saved)
    with Probe(model.optimizer, tmp_path / "run", resume=True) as probe:
        model.train([0, 1], 1)
    assert steps_of(probe) == [1, 2, 3]
    (resumed,) = json.loads(probe.dataset().attrs["resumed"])
    assert resumed["committed"] == 5 and resumed["dropped"] == 3


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.slow
def test_steps_that_a_scaler_skips_inside_the_optimizer(tmp_path, new):
    """Assert that rows stay though a fused optimizer does not count the steps that were skipped."""
    model = Model(fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def train(factors):
        for factor in factors:
            model.optimizer.zero_grad()
            scaler.scale(sum((w**2).sum() for w in model.pair) * factor).backward()
            scaler.step(model.optimizer)
            scaler.update()

    probe = Probe(model.optimizer, tmp_path / "run")
    with probe:
        train([1.0, float("inf"), 1.0])
    again = Probe(model.optimizer, tmp_path / "run", resume=True) if new else probe
    with again:
        train([1.0])
    assert steps_of(again) == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_step_that_raised(path):
    """Assert that rows stay though an optimizer does not count a step that raised."""

    class Fails(torch.optim.AdamW):
        fails = False

        def step(self, closure=None):
            if self.fails:
                raise ValueError("once")
            super().step()

    model = Model(Fails)
    probe = Probe(model.optimizer, path)
    with probe:
        for k in range(4):
            model.optimizer.fails = k == 1
            with contextlib.suppress(ValueError):
                model.train([0, 1], 1)
    with probe:
        model.train([0, 1], 1)
    assert steps_of(probe) == [1, 3, 4, 5]


@pytest.mark.slow
def test_steps_between_two_attachments(path):
    """Assert that steps that were not recorded are counted, also of one parameter only."""
    model = Model()
    probe = Probe(model.optimizer, path)
    with probe:
        model.train([0], 3)
    model.train([1], 2)
    with probe:
        model.train([0], 1)
    assert steps_of(probe) == [1, 2, 3, 6]


def test_counts_are_noted_only_where_they_are_needed(tmp_path):
    """Assert that a run whose parameters take every step does not note the optimizer's counts."""
    model = Model()
    with Probe(model.optimizer, tmp_path / "run") as probe:
        model.train([0, 1], 3)
        probe.flush()
    assert "optimizer_steps" not in probe.dataset().attrs


@pytest.mark.parametrize("forged", [7, {"step": 1}, {"step": 1, "counts": [1, "x"]}, {"step": None, "counts": [1, 1]}])
@pytest.mark.slow
def test_forged_counts_are_refused(tmp_path, forged):
    """Assert that counts in run.json that are none are refused."""
    model = Model()
    with Probe(model.optimizer, tmp_path / "run"):
        model.train([0, 1], 3)
    file = tmp_path / "run" / "run.json"
    description = json.loads(file.read_text())
    description["notes"]["optimizer_steps"] = forged
    file.write_text(json.dumps(description))
    with pytest.raises(InputError, match="optimizer_steps"):
        Probe(model.optimizer, tmp_path / "run", resume=True).attach()
    assert open_recording(tmp_path / "run").sizes["step"] == 3


@pytest.mark.parametrize(
    ("known", "counts", "expected"),
    [
        (Counted(10, [10, 4]), [7, 4], (7, True)),  # the first took every step
        (Counted(10, [6, 4]), [6, 4], (10, True)),
        (Counted(10, [6, 4]), [8, 4], (12, True)),
        (Counted(10, [6, 4]), [5, 2], (8, False)),
        (Counted(10, [None, None]), [None, None], (10, True)),
        (Counted(3, [6, 4]), [0, 0], (0, False)),
        (Counted(0, []), [], (0, True)),
    ],
)
def test_the_step_at_some_counts(known, counts, expected):
    """Assert the number of steps that counts stand for, and whether it is sure."""
    assert known.step_at(counts) == expected


def test_the_working_folder_may_change(tmp_path, monkeypatch):
    """Assert that a relative path is resolved when the probe is attached."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    model = Model()
    with Probe(model.optimizer, "run") as probe:
        model.train([0], 2)
        os.chdir(tmp_path / "elsewhere")
        model.train([0], 2)
        assert probe.dataset().sizes["step"] == 4
        probe.note(where="elsewhere")
    probe.note(after="the end")
    run = open_recording(tmp_path / "run")
    np.testing.assert_array_equal(run.step, [1, 2, 3, 4])
    assert run.attrs["where"] == "elsewhere" and run.attrs["after"] == "the end"
    assert run.attrs["status"] == "finished"
