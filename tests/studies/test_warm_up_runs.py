"""Runs whose learning rate rises: what is measured along them, and verdicts that refute a wrong run."""

import numpy as np
import pytest

from swd_dynamics.rules import State
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.scheduled_runs import SGD, Start, factors
from swd_dynamics.studies.warm_up_runs import Rise, WarmUp, followed_up, on_warm_ups, two_largest
from swd_dynamics.tasks import quadratic

PLAN = Rise(2.0, rise=4, hold=2, after=3, points=2)
NAMES = ("SGD", "SGDS", "Adam", "AdamW", "AdamS")


def test_plan():
    """Assert that η rises linearly, is held, and is the first η again."""
    assert factors(PLAN.pieces).tolist() == [1, 1.25, 1.5, 1.75, 2, 2, 1, 1, 1]
    assert PLAN.until == 6


def test_two_largest_eigenvalues():
    """Assert that the eigenvalues are those of D⁻¹H, which on a quadratic with diagonal H are known."""
    found = two_largest(quadratic((1.0, 4.0, 9.0)), np.ones(3), np.array([0.25, 4.0, 3.0]))
    assert found == pytest.approx([4.0, 3.0])


def test_watched_quadratic():
    """Assert that a run of SGD on a quadratic has the ‖δ‖², the sharpness and the limit that follow by hand."""
    h, lr = np.array([1.0, 4.0]), 0.1
    method = Method("SGD", {"lr": lr, "weight_decay": 0.0})
    task = quadratic(tuple(h))
    thetas = [task.theta]
    for factor in factors(PLAN.pieces):
        thetas.append((1 - factor * lr * h) * thetas[-1])
    turned = (np.diff(np.array(thetas), 2, axis=0) ** 2).sum(axis=1) / 16  # from step 1 on
    found = followed_up(task, method.optimizer(task.model.parameters()), method, factors(PLAN.pieces), 0, PLAN)
    assert found.steps.tolist() == [2, 4, 7]
    assert found.now == pytest.approx([1 / 1.5, 1 / 2, 1])
    assert found.sharpness == pytest.approx(4 * lr / 2)
    assert found.second == pytest.approx(lr / 2)
    assert found.size == pytest.approx(turned[:5].mean())


def statuses(run: WarmUp) -> dict[str, str]:
    """By the names of the verdicts, if all methods had one run, whose oscillation before had the size 1."""
    begin = Start(np.zeros(1), (), State(np.ones(1), (), 0))
    return {v.name: v.status for v in on_warm_ups(dict.fromkeys(NAMES, run), dict.fromkeys(SGD, begin))}


def test_verdicts_and_mutants():
    """Assert that a run along the limit is confirmed, and a wrong sharpness, size or end refuted, each by its own."""
    now = np.array([0.8, 0.6, 0.5, 1.0])
    own = now * [1, 1, 1, 0.52]
    right = WarmUp(np.arange(4), own, own / 2, now, own, 2.0, 2.0)
    assert set(statuses(right).values()) == {"confirmed"}

    def refuted(**wrong) -> set[str]:
        return {name for name, status in statuses(right._replace(**wrong)).items() if status == "refuted"}

    along = {f"{name}, warm-up" for name in NAMES}
    assert refuted(sharpness=own * [1, 1.06, 1, 1], second=own) == along
    both = {f"{name}, warm-up, one of two" for name in NAMES[2:]}
    assert refuted(sharpness=own * [1, 1.06, 1, 1]) == along | both
    assert refuted(size=2.3) == {f"{name}, warm-up, size" for name in SGD}
    assert refuted(flow=own * 1.06) == {"SGD, after a warm-up"}
    assert refuted(size=1.0, flow_size=1.0) == {"control: size before"}
