"""The study of the central flow: its runs are those of the rules, and its threshold is read off where a line is 0."""

import numpy as np
import pytest

from swd_dynamics.flows import CentralFlow, Flow
from swd_dynamics.studies.central_flow import HELD, NESTEROV, RUNS, Bursts, Lifted
from swd_dynamics.studies.edge_of_stability import HIDDEN, SAMPLES
from swd_dynamics.studies.edge_runs import gradient_of, mean_state, regression, slow_mean, still
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.modified_equation import real_run
from swd_dynamics.tasks import tanh_network


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
@pytest.mark.slow
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


def test_distances_in_units_of_the_runs_own():
    """Assert that a distance is compared by root mean squares over the second half."""
    run = Bursts(np.array([9.0, 9.0, 3.0, 4.0]), np.ones(4), np.array([5.0, 5.0, 0.6, 0.8]), np.ones(4))
    assert run.off(run.distance) == pytest.approx(5.0)


@pytest.mark.slow
def test_three_directions_at_once_on_digits():
    """Assert that on digits, where three directions oscillate at once, SGDS stays by the flow, with its size and loss.

    After 100 steps the run was 6.4 times nearer to the flow than to that with Σ = 0, and after 150 steps 10 times. In
    the second half of 100 steps ‖δ‖² was .5 % and the loss .9 % off: means over a few periods of the oscillation.
    """
    task, steps = tanh_network(HIDDEN, "squared", SAMPLES), 100
    scratch, gradient = task.fresh(), gradient_of(task)

    def loss(theta):
        scratch.set_theta(theta)
        return scratch.full_loss(scratch.model).item()

    method = Method("SGDS", {"lr": 0.8, "momentum": 0.5, "weight_decay": 0.002})
    flow = CentralFlow(method.rule(), gradient, loss=loss, directions=8)
    theta, memory, state = mean_state(flow, task.theta, 250)
    real = real_run(task, method, 0.8, state, steps + 1)
    mean, size = slow_mean(real)
    found, plain = (each.solve(theta, steps, memory=memory) for each in (flow, still(flow)))
    near, far = (np.linalg.norm(mean[-1] - each.theta[-1]) for each in (found, plain))
    assert far >= 4 * near
    sizes = np.linalg.eigvalsh(found.covariance[-1])
    assert (sizes > 0.01 * sizes[-1]).sum() == 3
    half, turned = steps // 2, np.linalg.svd((real[1:-1] - mean)[steps // 2 :], compute_uv=False) ** 2
    assert (turned > 0.01 * turned[0]).sum() >= 3
    assert size[half:].mean() == pytest.approx(found.variance[half + 1 :].mean(), rel=0.05)
    assert np.mean([loss(each) for each in real[half + 1 : -1]]) == pytest.approx(
        found.loss[half + 1 :].mean(), rel=0.03
    )
