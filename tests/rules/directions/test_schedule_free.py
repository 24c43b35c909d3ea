"""Schedule-free SGD and Adam: the authors' own steps, and their averages written out."""

import numpy as np
import pytest
from tolerances import round_off

from swd_dynamics.rules import CATALOG, ScheduleFreeAdam, ScheduleFreeSGD, UpdateRule
from swd_dynamics.verification import verify

ARGUMENTS = {"lr": 0.01, "weight_decay": 0.05}
AVERAGES = [{}, {"r": 0.5, "weight_lr_power": 1.0, "warmup_steps": 12}]
kernels = pytest.mark.parametrize("foreach", [True, False], ids=["foreach", "single"])
averages = pytest.mark.parametrize("average", AVERAGES, ids=str)


def in_training(name, **arguments):
    """A factory of the authors' optimizer in training, when the weights are those at which gradients are taken."""
    kind = getattr(pytest.importorskip("schedulefree"), name)

    def factory(params):
        optimizer = kind(params, **arguments)
        optimizer.train()
        return optimizer

    return factory


@kernels
@averages
@pytest.mark.slow
def test_sgd_takes_the_authors_steps(average, foreach):
    """Assert that the authors' SGD takes the rule's steps with L2, in groups, on a schedule and in a warm-up."""
    factory = in_training("SGDScheduleFree", foreach=foreach, momentum=0.8, **average, **ARGUMENTS)
    verdict = verify(factory, CATALOG["ScheduleFreeSGD"](momentum=0.8, **average, **ARGUMENTS), steps=40)
    assert verdict.status == "confirmed", str(verdict)


@kernels
@averages
@pytest.mark.slow
def test_adam_takes_the_authors_steps(average, foreach):
    """Assert that the authors' AdamW without decay takes the rule's steps, in groups, scheduled and warmed up."""
    factory = in_training("AdamWScheduleFree", foreach=foreach, lr=0.01, **average)
    verdict = verify(factory, CATALOG["ScheduleFreeAdam"](lr=0.01, **average), steps=40)
    assert verdict.status == "confirmed", str(verdict)


@kernels
@pytest.mark.slow
def test_the_authors_decay_is_a_decay_at_y(foreach):
    """Assert that the authors' AdamW with decay, in one group, is the rule with that decay at y, and no decay mode."""
    made = in_training("AdamWScheduleFree", foreach=foreach, **ARGUMENTS)

    def ungrouped(params):
        return made([parameter.requires_grad_() for parameter in params])

    at_y = UpdateRule(0.01, ScheduleFreeAdam(decay_at_y=0.05))
    assert verify(ungrouped, at_y, steps=40).status == "confirmed"
    for suffix in ("", "W", "S"):
        assert verify(ungrouped, CATALOG["ScheduleFreeAdam" + suffix](**ARGUMENTS), steps=8).status == "refuted"


def test_the_average_by_the_papers_three_lines():
    """Assert that θ is y = (1−β)z + βx with z a plain descent and x the mean of all z, as the paper has it."""
    gradients, beta, lr = np.random.default_rng(0).normal(size=(30, 3)), 0.75, 0.1
    rule = UpdateRule(lr, ScheduleFreeSGD(momentum=beta))
    state = rule.start(np.ones(3))
    z = np.ones(3) - lr * np.cumsum(gradients, axis=0)
    for k, gradient in enumerate(gradients, 1):
        state = rule(state, gradient)
        y = (1 - beta) * z[k - 1] + beta * z[:k].mean(axis=0)
        assert np.linalg.norm(state.theta - y) <= round_off(k, [1.0, 1.0, 1.0])
