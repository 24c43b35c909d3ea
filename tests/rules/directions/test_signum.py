"""Signum: the peers' own steps, and what it shares with Adam and with Lion."""

from functools import partial

import numpy as np
import pytest
from tolerances import round_off

from swd_dynamics.rules import CATALOG, Lion, Signum, Stable, UpdateRule
from swd_dynamics.verification import verify

ARGUMENTS = {"lr": 0.01, "weight_decay": 0.05}
STEPS = 40


def stream():
    generator = np.random.default_rng(11)
    return generator.normal(size=5), generator.normal(size=(STEPS, 5)) * np.geomspace(1e-2, 10, 5)


def course(rule, theta, gradients):
    """The weights after the last step, where the gradient of each step is given."""
    state = rule.start(theta)
    for gradient in gradients:
        state = rule(state, gradient)
    return state.theta


@pytest.mark.parametrize("kernel", [True, False], ids=["foreach", "single"])
@pytest.mark.parametrize(("name", "is_decoupled"), [("Signum", False), ("SignumW", True)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.slow
def test_takes_the_peers_steps(name, is_decoupled, momentum, kernel):
    """Assert that an independent Signum takes the rule's steps, in groups and on a schedule, with both kernels."""
    peers = pytest.importorskip("pytorch_optimizer")
    own = {"momentum": momentum, "weight_decouple": is_decoupled, "foreach": kernel}
    factory = partial(peers.SignSGD, **ARGUMENTS, **own)
    verdict = verify(factory, CATALOG[name](momentum=momentum, **ARGUMENTS), steps=STEPS)
    assert verdict.status == "confirmed", str(verdict)


@pytest.mark.slow
def test_the_other_sign_optimizer_is_refuted():
    """Assert that Lion's rule is refuted by Signum's steps: the comparison can tell."""
    peers = pytest.importorskip("pytorch_optimizer")
    assert verify(partial(peers.SignSGD, **ARGUMENTS), CATALOG["LionW"](**ARGUMENTS), steps=20).status == "refuted"


@pytest.mark.parametrize("suffix", ["", "W", "S"])
def test_is_adam_without_memory(suffix):
    """Assert that Signum without momentum and Adam with β₁ = β₂ = ε = 0 are one method under each decay."""
    theta, gradients = stream()
    signum = CATALOG["Signum" + suffix](momentum=0.0, **ARGUMENTS)
    adam = CATALOG["Adam" + suffix](betas=(0.0, 0.0), eps=0.0, **ARGUMENTS)
    difference = course(signum, theta, gradients) - course(adam, theta, gradients)
    assert np.linalg.norm(difference) <= round_off(STEPS, theta)


@pytest.mark.parametrize("suffix", ["", "W", "S"])
def test_is_lion_with_two_equal_betas(suffix):
    """Assert that Lion with β₁ = β₂ = β is Signum with the momentum β under each decay."""
    theta, gradients = stream()
    signum = CATALOG["Signum" + suffix](momentum=0.75, **ARGUMENTS)
    lion = CATALOG["Lion" + suffix](betas=(0.75, 0.75), **ARGUMENTS)
    assert np.array_equal(course(signum, theta, gradients), course(lion, theta, gradients))


@pytest.mark.parametrize("direction", [Signum(0.5), Lion((0.5, 0.5))], ids=repr)
def test_stable_decay_rests_at_the_norm_of_l2(direction):
    """Assert that under a constant gradient stable decay holds the weights at ‖θ‖ = ‖g‖/λ, each of the same size."""
    gradient = np.array([3.0, -4.0, 0.5])
    theta = course(UpdateRule(0.1, direction, Stable(2.0)), np.ones(3), [gradient] * 1500)
    expected = -np.sign(gradient) * np.linalg.norm(gradient) / 2.0 / np.sqrt(3)
    np.testing.assert_allclose(theta, expected, rtol=1e-12)
