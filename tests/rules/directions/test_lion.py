"""Lion: the steps of lion-pytorch, whose author is not the paper's, and of pytorch_optimizer."""

from functools import partial

import numpy as np
import pytest

from swd_dynamics.rules import CATALOG
from swd_dynamics.verification import verify

ARGUMENTS = {"lr": 0.01, "weight_decay": 0.05}


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.95, 0.98), (0.0, 0.5), (0.5, 0.0)])
@pytest.mark.slow
def test_takes_the_steps_of_lion_pytorch(betas):
    """Assert that lion-pytorch takes the steps of LionW, in two groups and on a schedule."""
    lion_pytorch = pytest.importorskip("lion_pytorch")
    factory = partial(lion_pytorch.Lion, betas=betas, **ARGUMENTS)
    verdict = verify(factory, CATALOG["LionW"](betas=betas, **ARGUMENTS), steps=40)
    assert verdict.status == "confirmed", str(verdict)


@pytest.mark.parametrize("kernel", [True, False], ids=["foreach", "single"])
@pytest.mark.parametrize(("name", "is_decoupled"), [("Lion", False), ("LionW", True)])
@pytest.mark.slow
def test_takes_the_peers_steps(name, is_decoupled, kernel):
    """Assert that pytorch_optimizer's Lion takes the rule's steps with both of its decays and both kernels."""
    peers = pytest.importorskip("pytorch_optimizer")
    factory = partial(peers.Lion, weight_decouple=is_decoupled, foreach=kernel, **ARGUMENTS)
    verdict = verify(factory, CATALOG[name](**ARGUMENTS), steps=40)
    assert verdict.status == "confirmed", str(verdict)


@pytest.mark.slow
def test_independent_decay_is_told_from_decoupled():
    """Assert that lion-pytorch's option that divides λ by the first η is refuted: R is λη/η₀ there."""
    lion_pytorch = pytest.importorskip("lion_pytorch")
    factory = partial(lion_pytorch.Lion, decoupled_weight_decay=True, **ARGUMENTS)
    verdict = verify(factory, CATALOG["LionW"](**ARGUMENTS), steps=20)
    assert (verdict.status, verdict.first_departure) == ("refuted", 1)


def test_two_steps_by_hand():
    """Assert two steps written out: u = ½m + ½g is 1 and then −¼, while m is ½ and then ⅛."""
    rule = CATALOG["LionW"](lr=0.25, betas=(0.5, 0.75), weight_decay=0.5)
    first = rule(rule.start(np.array([1.0])), np.array([2.0]))
    second = rule(first, np.array([-1.0]))
    # θ: (1 − ⅛)·1 − ¼ = .625, then ⅞·.625 + ¼
    assert (first.theta[0], *(entry[0] for entry in first.memory)) == (0.625, 0.5, 1.0)
    assert (second.theta[0], *(entry[0] for entry in second.memory)) == (0.796875, 0.125, -0.25)
