"""The order test on a smooth problem: every entry passes, a wrong coefficient does not."""

import pickle
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from aggregated_momentum import AggregatedMomentum
from crosscheck.random_problems import random_problem

from swd_dynamics.crosscheck import convergence_order
from swd_dynamics.crosscheck.convergence import rule_iterates
from swd_dynamics.crosscheck.richardson import Terms
from swd_dynamics.errors import InputError
from swd_dynamics.flows import Flow
from swd_dynamics.rules import CATALOG, SGD, Cosine, Stable, StepDecay, UpdateRule
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


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("order", [1, 2])
def test_every_rule_is_followed_to_its_order(name, order):
    """Assert that the derived flow of every rule follows its iterates to the order it claims, within .05."""
    lrs, t = lrs_and_time(name)
    verdict = convergence_order(Flow(RULES[name], gradient, hvp, order), START, t=t, lrs=lrs)
    assert verdict.passed, verdict


@pytest.mark.parametrize("name", ["SGDS", "AdamS", "AdaiS", "aggregated momentum"])
@pytest.mark.slow
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
    assert verdict.cause == "the steps diverged at η = 0.8: give smaller lrs"


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


@pytest.mark.slow
def test_a_loose_solver_is_inconclusive():
    """Assert that nothing is concluded where the solver's own error is of the size of what is measured."""
    lrs, t = lrs_and_time("AdamS")
    verdict = convergence_order(
        Flow(RULES["AdamS"], gradient, hvp, 2), START, t=t, lrs=lrs, method="RK23", tolerance=1e-3
    )
    assert verdict.status == "inconclusive"
    assert "solver" in verdict.cause


def taken_once():
    """The iterates of one problem, taken once from each state and η for all flows that are compared with them."""
    taken = {}

    def iterates(rule, state, gradient, steps):
        key = pickle.dumps((rule.lr, state, steps))
        if key not in taken:
            taken[key] = rule_iterates(rule, state, gradient, steps)
        return taken[key]

    return iterates


HEAVY = Flow(CATALOG["SGD"](lr=0.1, momentum=0.9), lambda theta: theta, lambda theta, vector: vector, 2)


order_of_heavy = partial(convergence_order, theta0=[1.0], t=1.0, iterates=taken_once())


def off_by(flow, factor):
    """The flow with its second-order term too large by a factor."""
    right = flow.modified_equation
    return replace(flow, equation=replace(right, second=lambda *where: factor * right.second(*where)))


@pytest.mark.slow
def test_heavy_ball_at_large_learning_rates():
    """Assert that at rates at which ηF₁ is up to 1.5 of F₀, the right flow is confirmed and one off by 5 % refuted.

    A least-squares slope over all rates gives 1.945 for the right flow and 2.035 for the wrong flow.
    """
    lrs = [2.0**-k for k in range(6, 11)]
    right, wrong = (order_of_heavy(flow, lrs=lrs) for flow in (HEAVY, off_by(HEAVY, 1.05)))
    assert (right.status, wrong.status) == ("confirmed", "refuted")
    assert right.evidence["smallest_seen"] <= 0.05


@pytest.mark.slow
def test_the_smallest_error_that_is_seen():
    """Assert that an F₁ off by more than ``smallest_seen`` is refuted, and far less than that is confirmed."""
    lrs = [2.0**-k for k in range(9, 14)]
    seen = order_of_heavy(HEAVY, lrs=lrs).evidence["smallest_seen"]
    assert 1e-4 < seen < 1e-2
    larger, smaller = (off_by(HEAVY, 1 + seen * times) for times in (1.3, 1 / 13))
    assert order_of_heavy(larger, lrs=lrs).status == "refuted"
    assert order_of_heavy(smaller, lrs=lrs).status == "confirmed"


@pytest.mark.slow
def test_rates_that_are_not_small_enough_are_inconclusive():
    """Assert that where the modified equation makes no sense yet the verdict is open, and says from where it does."""
    verdict = order_of_heavy(HEAVY, lrs=[2.0**-k for k in range(4, 9)])
    assert verdict.status == "inconclusive"
    advised = float(verdict.cause.split("η = ")[-1])
    assert advised < 2.0**-4
    taken = [advised / 2**i for i in range(5)]
    assert order_of_heavy(HEAVY, lrs=taken).status == "confirmed"


@pytest.mark.slow
def test_an_order_that_is_too_high_is_refuted():
    """Assert that a flow of order 2 is not said to be of order 1, and one with a wrong F₁ is."""
    lrs = [2.0**-k for k in range(9, 14)]
    right, wrong = (order_of_heavy(flow, lrs=lrs, expected=1) for flow in (HEAVY, off_by(HEAVY, 0.5)))
    assert (right.status, wrong.status) == ("refuted", "confirmed")
    assert abs(right.measured - 2) <= 0.05


def test_the_order_is_not_rounded_to_the_expected_one():
    """Assert that the order measured is the one of the sizes as they were extrapolated, with its error.

    Sizes of 0.1 and 1, the former known to 0.2, are an order of 1 + log₂(2.1/1.1), and of 2 or 1 + log₂(2.3/1.3) at
    the ends of what is known.
    """
    found = Terms(order=2, lower=0.1, leading=1.0, whole=1.1, uncertain=0.2, noise=0.0, degree=4)
    assert found.measured == pytest.approx(1 + np.log2(2.1 / 1.1), rel=1e-12)
    ends = np.array([2.0, 1 + np.log2(2.3 / 1.3)])
    assert found.measured_error == pytest.approx(np.abs(ends - found.measured).max(), rel=1e-12)


@pytest.mark.parametrize("factor", [1.0, 1.05])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.slow
def test_groups_keep_their_learning_rates(order, factor):
    """Assert that the order is that of the rule with its own learning rates, one for every weight.

    The flow whose last weight has a learning rate that is 5 % too large is refuted.
    """
    shares = np.array([1.0, 0.5, 0.25, 0.7, 0.1])
    own = CATALOG["SGDS"](lr=shares, momentum=0.5, weight_decay=0.1)
    wrong = CATALOG["SGDS"](lr=shares * [1, 1, 1, 1, factor], momentum=0.5, weight_decay=0.1)
    flow = Flow(own, gradient, hvp, order, equation=numeric_equation(wrong))
    verdict = convergence_order(flow, START, t=0.3, lrs=[0.02 / 2**i for i in range(5)])
    assert verdict.status == ("confirmed" if factor == 1 else "refuted")
    assert verdict.evidence["lr"][0] == 0.02


@pytest.mark.parametrize("schedule", [Cosine(0.01, steps=60), StepDecay(0.01, step_size=20, gamma=0.5)], ids=repr)
@pytest.mark.slow
def test_a_schedule_keeps_its_course_in_time(schedule):
    """Assert that a flow of order 1 follows a schedule to first order, and the distances are those of the closed form.

    On f = ½θ² gradient descent is at Π(1 − η_k) and its flow at exp(−∫η).
    """
    flow = Flow(UpdateRule(schedule, SGD()), lambda theta: theta)
    lrs = [0.04 / 2**i for i in range(5)]
    verdict = convergence_order(flow, [1.0], t=0.6, lrs=lrs)
    assert verdict.passed, verdict
    assert abs(verdict.measured - 1) <= 1e-3
    factor = lrs[-1] / schedule(0)
    rates = np.array([factor * schedule(factor * k) for k in range(240)])
    fine = factor * np.array([schedule(factor * (k + (j + 0.5) / 100)) for k in range(240) for j in range(100)]) / 100
    flowed = np.exp(-np.cumsum(fine)[99::100])
    assert verdict.evidence["error"][-1] == pytest.approx(np.abs(np.cumprod(1 - rates) - flowed).max(), rel=1e-5)


@pytest.mark.slow
def test_a_flow_that_cannot_be_followed_leaves_the_order_open():
    """Assert that where an assumption of the derivation fails, the verdict is inconclusive and says which."""
    rises = Flow(CATALOG["AMSGrad"](), lambda theta: -theta)
    verdict = convergence_order(rises, [1.0], t=0.5, lrs=[0.05 / 2**i for i in range(5)])
    assert verdict.status == "inconclusive"
    assert "maximum" in verdict.cause


@cache
def right_and_wrong_of(seed):
    """The statuses of the right flows of order 1 and 2 on a random problem, and of F₁ off by 5 %."""
    problem = random_problem(seed)
    flows = [Flow(problem.rule, problem.gradient, problem.hvp, order) for order in (1, 2)]
    flows.append(off_by(flows[-1], 1.05))
    given = {"t": problem.t, "lrs": problem.lrs, "iterates": taken_once()}
    return [convergence_order(flow, problem.start, **given).status for flow in flows]


def right_and_wrong(seeds):
    """The statuses of the right flows, and those of the wrong flows, on the problems of some seeds."""
    first, second, wrong = zip(*map(right_and_wrong_of, seeds), strict=True)
    return [*first, *second], wrong


@pytest.mark.slow
def test_a_few_random_problems():
    """Assert that of one random problem of each family the right flows are confirmed and the wrong flows refuted."""
    right, wrong = right_and_wrong(range(5))
    assert (set(right), set(wrong)) == ({"confirmed"}, {"refuted"})


@pytest.mark.slow
def test_benchmark_of_random_problems():
    """Assert that of right flows at least 95 % are confirmed, and of flows whose F₁ is off by 5 % as many refuted."""
    right, wrong = right_and_wrong(range(40))
    assert right.count("confirmed") >= 0.95 * len(right)
    assert wrong.count("refuted") >= 0.95 * len(wrong)


@pytest.mark.parametrize("lrs", [[0.1, 0.05, 0.025, 0.0125], [0.1, 0.05, 0.03, 0.02, 0.01]])
def test_learning_rates_must_be_four_halvings(lrs):
    """Assert that fewer than four halvings, or other ratios, are refused."""
    with pytest.raises(InputError, match="at least five learning rates, each half"):
        convergence_order(Flow(RULES["SGD"], gradient), START, t=0.1, lrs=lrs)


@pytest.mark.slow
@pytest.mark.parametrize(("start", "status"), [(1.0, "inconclusive"), (3.0, "confirmed")])
def test_a_gradient_that_changes_its_sign(start, status):
    """Assert that the order of AdamW is open where θ of F₀ = −1 − λθ reaches 0 within t = 1, confirmed where not."""
    flow = Flow(CATALOG["AdamW"](lr=3.0, weight_decay=0.1), lambda theta: theta, lambda theta, vector: vector, 2)
    found = convergence_order(flow, [start], t=1.0, lrs=[2.0**-k for k in range(8, 13)])
    assert found.status == status
    assert ("changes its sign" in (found.cause or "")) == (status == "inconclusive")
