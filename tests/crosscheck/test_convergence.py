"""The order test on a smooth problem: every entry passes, a wrong coefficient does not."""

from dataclasses import replace

import numpy as np
import pytest
from aggregated_momentum import AggregatedMomentum

from swd_dynamics.crosscheck import convergence_order
from swd_dynamics.errors import InputError
from swd_dynamics.flows import Flow
from swd_dynamics.rules import CATALOG, Stable, UpdateRule
from swd_dynamics.symbolic import numeric_equation
from swd_dynamics.verdict import must_be_refuted

H = np.array([1.0, 1.4, 0.7, 1.2, 0.9])
START = np.array([1.0, 1.2, 1.4, 1.1, 1.3])


def gradient(theta):
    return H * theta + 0.2 * theta**3


def hvp(theta, vector):
    return H * vector + 0.6 * theta**2 * vector


# tests/symbolic/test_order.py runs over the whole catalogue with its own solver; here one of a kind takes the tool.
RULES = {
    "SGD": CATALOG["SGD"](momentum=0.8, weight_decay=0.05),
    "SGDW": CATALOG["SGDW"](momentum=0.8, weight_decay=0.05),
    "SGDS": CATALOG["SGDS"](momentum=0.8, weight_decay=0.05),
    "AdamS": CATALOG["AdamS"](betas=(0.5, 0.9), weight_decay=0.05),
    "AMSGradS": CATALOG["AMSGradS"](betas=(0.8, 0.9), weight_decay=0.05),
    "AdaiS": CATALOG["AdaiS"](betas=(0.5, 0.8), weight_decay=0.05),
    "aggregated momentum": UpdateRule(0.1, AggregatedMomentum(0.5, 0.8), Stable(0.05)),
    "groups": CATALOG["SGDS"](momentum=0.8, weight_decay=np.array([0.0, 0.1, 0.05, 0.2, 0.0])),
}


def lrs_and_time(name):
    adaptive = name.startswith("A")
    return [(2e-3 if adaptive else 5e-4) / 2**i for i in range(5)], 0.3 if adaptive else 0.1


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("order", [1, 2])
def test_every_rule_is_followed_to_its_order(name, order):
    """Assert that the derived flow of every rule follows its iterates to the order it claims, within .05."""
    lrs, t = lrs_and_time(name)
    verdict = convergence_order(Flow(RULES[name], gradient, hvp, order), START, t=t, lrs=lrs)
    assert verdict.passed, verdict


@pytest.mark.parametrize("name", ["SGDS", "AdamS", "AdaiS", "aggregated momentum"])
def test_a_second_order_term_off_by_a_tenth_fails(name):
    """Assert that the same test refutes the flow with its second-order term a tenth too large."""
    right = numeric_equation(RULES[name])
    wrong = replace(right, second=lambda *where: 1.1 * right.second(*where))
    lrs, t = lrs_and_time(name)
    verdict = convergence_order(Flow(RULES[name], gradient, hvp, 2, equation=wrong), START, t=t, lrs=lrs)
    assert verdict.status == "refuted"
    assert must_be_refuted("control", verdict).passed


def test_steps_that_diverge_leave_the_order_open():
    """Assert that where the steps run away the verdict is inconclusive and says at which learning rate."""
    steep = Flow(CATALOG["SGD"](), lambda theta: theta + theta**3, order=1)
    verdict = convergence_order(steep, [3.0], t=8.0, lrs=[0.8, 0.4, 0.2, 0.1, 0.05])
    assert verdict.status == "inconclusive"
    assert verdict.cause == "the steps diverged at η = 0.8: take smaller ones"


def test_the_state_flow_is_of_first_order():
    """Assert that with 1 − β = O(η) the full-state flow follows to first order, on the problem's own time scale."""
    slow = [UpdateRule(lr, CATALOG["SGD"](momentum=1 - 5 * lr).direction) for lr in [0.02 / 2**i for i in range(5)]]
    errors = []
    for rule in slow:
        steps = round(2 * 0.1 / rule.lr)
        flow = Flow(rule, lambda theta, lr=rule.lr: lr * gradient(theta), order="state")  # so that the force stays O(1)
        state, theta = rule.start(START), [START]
        for _ in range(steps):
            state = rule(state, flow.gradient(state.theta))
            theta.append(state.theta)
        errors.append(np.abs(np.array(theta) - flow.solve(START, steps=steps).theta).max())
    slope = np.polyfit(np.log([rule.lr for rule in slow]), np.log(errors), 1)[0]
    assert abs(slope - 1) <= 0.05


def test_a_loose_solver_is_inconclusive():
    """Assert that nothing is concluded where the solver's own error is of the size of what is measured."""
    lrs, t = lrs_and_time("AdamS")
    verdict = convergence_order(Flow(RULES["AdamS"], gradient, hvp, 2), START, t=t, lrs=lrs, tolerance=1e-5)
    assert verdict.status == "inconclusive"
    assert "solver" in verdict.cause


@pytest.mark.parametrize("lrs", [[0.1, 0.05, 0.025, 0.0125], [0.1, 0.05, 0.03, 0.02, 0.01]])
def test_learning_rates_must_be_four_halvings(lrs):
    """Assert that fewer than four halvings, or other ratios, are refused."""
    with pytest.raises(InputError, match="at least five, each half"):
        convergence_order(Flow(RULES["SGD"], gradient), START, t=0.1, lrs=lrs)
