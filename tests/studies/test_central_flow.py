"""The study of the central flow: its runs are those of the rules, and its threshold is read off where a line is 0."""

import numpy as np
import pytest

from swd_dynamics.flows import Flow
from swd_dynamics.studies.central_flow import HELD, NESTEROV, RUNS, Lifted, gradient_of, regression, slow_mean
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.modified_equation import real_run


def test_slow_mean_splits_what_turns_over():
    """Assert that of a line plus an oscillation the mean is the line, and the square that of the oscillation."""
    k = np.arange(10.0)
    line, turning = np.outer(k, [1.0, -2.0]), np.outer((-1.0) ** k, [0.3, 0.4])
    mean, square = slow_mean(line + turning)
    assert mean == pytest.approx(line[1:-1])
    assert square == pytest.approx(0.25)


def test_gradient_is_the_tasks():
    """Assert that the gradient by a copy of the model is the task's own, and leaves the task's weights alone."""
    task = regression()
    before, theta = task.theta, task.theta + 0.1
    assert gradient_of(task)(theta) == pytest.approx(task.gradient(theta), abs=1e-14)
    assert (task.theta == before).all()


@pytest.mark.parametrize("name", ["SGDS", "AdamS"])
def test_real_runs_are_the_rules(name):
    """Assert that torch's optimizer takes the rule's own steps from the same state."""
    task, method = regression(), RUNS[name]
    gradient = gradient_of(task)
    state = Flow(method.rule(), gradient).starting_state(task.theta)
    theta = real_run(task, method, method.arguments["lr"], state, 5)
    for k in range(5):
        state = method.rule()(state, gradient(state.theta))
        assert theta[k + 1] == pytest.approx(state.theta, rel=1e-12, abs=1e-14)  # a few hundred roundings


def test_decays_of_one_strength_have_one_ratio():
    """Assert that the methods that are compared have R/η_eff = λ·times by the table of decay rates."""
    for mode, (name, times) in HELD.items():
        rule = Method(name, NESTEROV | {"weight_decay": times * 0.01}).rule()
        rate = {"L2": rule.lr * 0.01 / 0.5, "decoupled": rule.lr * rule.weight_decay, "stable": rule.lr * 0.01 / 0.5}
        assert rate[mode] / (rule.lr / 0.5) == pytest.approx(0.01)


def test_crossing():
    """Assert that the threshold is where the change is 0, in units of the derived number."""
    lifted = Lifted(0.02, np.array([0.0, 0.01, 0.02, 0.03]), {"L2": np.array([0.03, 0.01, -0.01, -0.03])})
    assert lifted.crossing("L2") == pytest.approx(0.75)
