"""The study of a GPU's recordings: its file, its measures, and what it says without the file."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.studies import gpu
from swd_dynamics.studies.gpu import STUDY, first_step, growth_of_distance, smallest_error, worst
from swd_dynamics.studies.reference_runs import RECORDED, ReferenceRun, committed_runs, read, reference_runs, write
from swd_dynamics.studies.study import Setting


@pytest.fixture(scope="module")
def adamw():
    """AdamW on the quadratic in float32, as the GPU recorded it."""
    run = ReferenceRun("AdamW", "quadratic", "float32")
    return gpu._seen(run, read(committed_runs(), run.key))


def test_without_recordings_the_study_is_inconclusive(monkeypatch):
    """Assert that the study says that nothing is recorded, and draws."""
    monkeypatch.setattr(gpu, "committed_runs", lambda: None)
    findings = STUDY.measure(Setting(quick=True))
    assert [verdict.status for verdict in findings.verdicts] == ["inconclusive"]
    assert STUDY.draw(findings.data).get_suptitle()


def test_every_optimizer_ran():
    """Assert that every optimizer ran on both tasks in both dtypes, and two of them in bfloat16 with both kernels."""
    runs = list(reference_runs())
    assert {(r.name, r.task, r.dtype) for r in runs} >= {
        (name, task, dtype)
        for name in RECORDED & OPTIMIZERS.keys()
        for task in ("quadratic", "network")
        for dtype in ("float64", "float32")
    }
    assert len(runs) == 2 * (2 * len(RECORDED & OPTIMIZERS.keys()) + 2 * 2)
    assert len({run.key for run in runs}) == len(runs)


@pytest.mark.slow
def test_the_file_is_the_one_that_is_described():
    """Assert that the checksum beside the recordings is theirs, and that a GPU made them all."""
    path, described = committed_runs(), Path(__file__).parents[1] / "reference" / "gpu" / "README.md"
    assert hashlib.sha256(path.read_bytes()).hexdigest() in described.read_text()
    for run in reference_runs():
        recording = read(path, run.key)
        assert recording.attrs["device"] == "cuda" and recording.sizes["step"] == 300


@pytest.mark.slow
def test_a_recording_survives_the_file(tmp_path):
    """Assert that what is read is what was written, to the last bit."""
    run = ReferenceRun("AdamS", "network", "bfloat16", "fused")
    recorded = run.recorded("cpu", steps=5)
    write(tmp_path / "runs.nc", {run.key: recorded})
    found = read(tmp_path / "runs.nc", run.key)
    assert found.theta.dims == ("iterate", "weight")
    for name in recorded.data_vars:
        np.testing.assert_array_equal(found[name], recorded[name])


@pytest.mark.slow
def test_the_smallest_error_is_where_the_rule_departs(adamw):
    """Assert that the rule departs with that error of λ, and not with one that is smaller by a fifth."""
    error = smallest_error(adamw)
    assert worst(adamw, gpu.off(adamw.rule, error)) > 1 >= worst(adamw, gpu.off(adamw.rule, 0.8 * error))


def test_first_step_and_growth_of_distance():
    """Assert the step at which a difference begins, and a growth of 3 % in each step after it."""
    apart = np.concatenate([np.zeros(4), 1e-16 * 1.03 ** np.arange(50)])
    assert first_step(apart) == 5
    assert growth_of_distance(apart) == pytest.approx(0.03)
    assert first_step(np.zeros(10)) == 11 and growth_of_distance(np.zeros(10)) == 0
