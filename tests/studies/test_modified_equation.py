"""The study of the modified equation: its runs start as its flows do, and its prediction is the theory's."""

import pytest

from swd_dynamics.flows import Flow
from swd_dynamics.studies import Setting
from swd_dynamics.studies.modified_equation import (
    ADAM_METHODS,
    SGD_METHODS,
    _predicted_ratio,
    real_run,
    smooth_problem,
)


@pytest.mark.parametrize("method", SGD_METHODS + ADAM_METHODS, ids=lambda method: method.name)
@pytest.mark.slow
def test_real_iterates_are_the_rules(method):
    """Assert that a torch optimizer that begins late takes the rule's own steps from the same state."""
    problem = smooth_problem(Setting())
    flow = Flow(method.rule(), problem.gradient, problem.hvp, 2)
    state = flow.starting_state(problem.task.theta)
    theta = real_run(problem.task, method, method.arguments["lr"], state, 20)
    for k in range(20):
        state = flow.rule(state, problem.gradient(state.theta))
        assert theta[k + 1] == pytest.approx(state.theta, rel=1e-13)  # a few hundred roundings


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_the_predicted_ratio_is_the_theorys(beta):
    """Assert that the derived ratio of second-order decays is (1+β)/(1−β)."""
    assert _predicted_ratio(beta) == pytest.approx((1 + beta) / (1 - beta), rel=1e-12)
