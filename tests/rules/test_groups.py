"""Parameter groups: a learning rate and a decay rate for every weight, in one rule over the flattened vector."""

from itertools import accumulate

import numpy as np
import pytest
from aggregated_momentum import AggregatedMomentum
from tolerances import round_off

from swd_dynamics.rules import CATALOG, L2, SGD, Adam, Decoupled, HeavyBall, Nesterov, Stable, UpdateRule

STEPS = 30
LR = np.array([0.1, 0.1, 0.02, 0.02, 0.02])
RATE = np.array([0.3, 0.3, 0.0, 0.0, 0.0])
GROUPS = (slice(0, 2), slice(2, 5))


def stream():
    generator = np.random.default_rng(11)
    return generator.normal(size=LR.size), generator.normal(size=(STEPS, LR.size))


def last(rule, theta, gradients):
    return list(accumulate(gradients, rule, initial=rule.start(theta)))[-1].theta


@pytest.mark.parametrize("decay", [L2, Decoupled, Stable])
@pytest.mark.parametrize(
    "direction",
    [SGD(), HeavyBall(0.9, 0.2), Nesterov(0.9), AggregatedMomentum(0.5, 0.9)],
    ids=lambda d: type(d).__name__,
)
def test_groups_of_the_sgd_family(direction, decay):
    """Assert that one rule with arrays equals two rules, one on each group."""
    theta, gradients = stream()
    together = last(UpdateRule(LR, direction, decay(RATE)), theta, gradients)
    for group in GROUPS:
        rule = UpdateRule(LR[group][0], direction, decay(RATE[group][0]))
        alone = last(rule, theta[group], gradients[:, group])
        assert np.linalg.norm(together[group] - alone) <= round_off(STEPS, theta)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "AMSGradW"])
def test_groups_of_adam(name):
    """Assert that Adam's groups, too, know nothing of one another as long as decay is not stable."""
    theta, gradients = stream()
    together = last(CATALOG[name](lr=LR, weight_decay=RATE), theta, gradients)
    for group in GROUPS:
        rule = CATALOG[name](lr=LR[group][0], weight_decay=RATE[group][0])
        alone = last(rule, theta[group], gradients[:, group])
        assert np.linalg.norm(together[group] - alone) <= round_off(STEPS, theta)


def test_stable_decay_has_one_mean_over_all_groups():
    """Assert that AdamS's v̄ is the mean over the weights of all groups, by a loop written out by hand."""
    theta, gradients = stream()
    rule = UpdateRule(LR, Adam((0.9, 0.99), eps=1e-6), Stable(RATE))
    by_hand, m, v = theta.copy(), np.zeros(LR.size), np.zeros(LR.size)
    for k, gradient in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.99 * v + 0.01 * gradient**2
        m_hat, v_hat = m / (1 - 0.9**k), v / (1 - 0.99**k)
        by_hand = by_hand - LR * RATE / np.sqrt(v_hat.mean()) * by_hand - LR * m_hat / (np.sqrt(v_hat) + 1e-6)
    assert np.linalg.norm(last(rule, theta, gradients) - by_hand) <= round_off(STEPS, theta)


def test_a_rule_prints_the_numbers_of_its_groups_once():
    """Assert that λ of 770 weights and 0 of 32 are printed as these four numbers, and 99 numbers as their count."""
    said = repr(CATALOG["AdamW"](lr=0.1, weight_decay=np.repeat([0.1, 0.0], [770, 32])))
    assert said.count("0.0") == said.count("770") == 1 and "32" in said and len(said) < 160
    said = repr(CATALOG["AdamW"](lr=np.linspace(0.1, 0.2, 99), weight_decay=0.5))
    assert "99" in said and "0.1," not in said and len(said) < 160
    assert repr(np.ones(2)) == "array([1., 1.])"  # outside of a rule
