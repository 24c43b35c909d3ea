"""The study of schedules: its learning rates, and the bound on the rise of Adam's sharpness, from v alone."""

import numpy as np
import pytest
import torch

from swd_dynamics.studies.central_flow import regression
from swd_dynamics.studies.scheduled_runs import ADAM, Piece, factors
from swd_dynamics.studies.schedules import DROPPED, HOLD, Fall, Run, drops, falling, largest_rise


@pytest.mark.parametrize("steps, beta2", [(400, 0.95), (100, 0.98), (50, 0.99), (10, 0.9)])
@pytest.mark.slow
def test_largest_rise(steps, beta2):
    """Assert that the bound is what a quantity reaches that follows 1/η, but rises by no more than 1/√β₂ a step."""
    fine, at = 1000, 1.0  # the fall in so many small steps for each step of the optimizer
    k = np.arange(1, steps * fine)
    for limit in 1 / (1 - k / (steps * fine)):
        at = min(limit, at * beta2 ** (-0.5 / fine))
    assert largest_rise(steps, beta2) == pytest.approx(at, rel=2e-3)  # 2/fine
    assert Fall(steps, beta2, at).bound == largest_rise(steps, beta2)


def test_schedules():
    """Assert that all schedules have the same length, and that a late fall comes half of it later."""
    found = {kind: factors(pieces) for kind, pieces in drops(40).items()}
    assert {len(each) for each in found.values()} == {HOLD + 40}
    assert [int(np.argmax(each == DROPPED)) for each in found.values()] == [HOLD, HOLD + 20]
    assert factors([Piece(4, 1.0, 0.0)]).tolist() == [1, 0.75, 0.5, 0.25]


@pytest.mark.slow
def test_measured_sharpness():
    """Assert that the run has η of its schedule and the two largest eigenvalues of dense Hessians, in units of 2/η."""
    task = regression()
    found = falling(task, ADAM["Adam"], 4, k=2)
    model, lr = task.fresh(), ADAM["Adam"].arguments["lr"]
    optimizer = torch.optim.Adam(model.model.parameters(), **ADAM["Adam"].arguments)
    for factor in factors([Piece(100, 1.0, 1.0), Piece(4, 1.0, 0.0)]):
        theta = model.theta
        optimizer.param_groups[0]["lr"] = lr * factor
        optimizer.zero_grad()
        model.loss(0).backward()
        optimizer.step()
    state = [optimizer.state[p] for p in model.model.parameters()]
    v = np.concatenate([s["exp_avg_sq"].numpy().ravel() / (1 - 0.95 ** s["step"].item()) for s in state])
    root = (np.sqrt(v) + 1e-8) ** -0.5
    second, largest = np.linalg.eigvalsh(root[:, None] * model.hessian(theta) * root)[-2:]
    assert found.steps.tolist() == [1, 2, 3, 4]
    assert found.now == pytest.approx(1 / np.array([1, 0.75, 0.5, 0.25]))
    assert found.sharpness[-1] == pytest.approx(largest * lr / 2, rel=1e-3)  # the search's tolerance is 1e-2
    assert found.second[-1] == pytest.approx(second * lr / 2, rel=1e-2)


def test_nearer_eigenvalue():
    """Assert that the nearer of two eigenvalues is taken at each step, and steps before and after the fall are not."""
    now, largest, second = (
        np.array([1.1, 1.5, 2.0, 3.0]),
        np.array([1.1, 1.8, 2.1, 3.0]),
        np.array([0.5, 1.4, 1.0, 2.0]),
    )
    run = Run(np.arange(4), largest, now, np.empty(0), second)
    assert run.nearer.tolist() == [1.1, 1.4, 2.1, 3.0]
    assert run.begun.tolist() == [False, True, True, False]
