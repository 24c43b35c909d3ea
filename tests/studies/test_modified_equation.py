"""The modified-equation study in small."""

import pytest

from swd_dynamics.flows import Flow
from swd_dynamics.studies.modified_equation import (
    Evidence,
    _orders,
    _parting,
    _predicted_ratio,
    draw,
    real_run,
    rule,
    smooth_problem,
)


@pytest.mark.parametrize("name", ["SGD", "SGDW", "SGDS", "Adam", "AdamW", "AdamS"])
def test_real_iterates_are_the_rules(name):
    """Assert that a preset torch optimizer takes the rule's own steps from the same state."""
    problem = smooth_problem("cpu")
    flow = Flow(rule(name), problem.gradient, problem.hvp, 2)
    state = flow.starting_state(problem.task.theta)
    theta = real_run(problem.task, name, flow.rule, state, 20)
    for k in range(20):
        state = flow.rule(state, problem.gradient(state.theta))
        assert theta[k + 1] == pytest.approx(state.theta, rel=1e-13)  # a few hundred roundings


def test_orders_and_their_mutant():
    """Assert that stable decay's flows are confirmed on the quadratic and the mutant is refuted, and that it draws."""
    evidence = Evidence()
    verdicts = _orders(evidence, smooth_problem("cpu"), "SGDS")
    assert [v.status for v in verdicts] == ["confirmed"] * 3
    assert _parting(evidence, 0.5, "cpu").passed
    assert len(draw(evidence).axes) == 3


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_the_predicted_ratio_is_the_theorys(beta):
    """Assert that the derived ratio of second-order decays is (1+β)/(1−β)."""
    assert _predicted_ratio(beta) == pytest.approx((1 + beta) / (1 - beta), rel=1e-12)
