"""Rprop: torch's own steps, of which the learning rate decides only the first."""

from functools import partial

import numpy as np
import pytest
import torch

from swd_dynamics.rules import CATALOG, Rprop, Stable, UpdateRule
from swd_dynamics.verification import verify


@pytest.mark.parametrize("foreach", [True, False], ids=["foreach", "single"])
@pytest.mark.parametrize("own", [{}, {"etas": (0.3, 2.0), "step_sizes": (1e-3, 0.5)}], ids=str)
@pytest.mark.slow
def test_takes_torchs_steps(own, foreach):
    """Assert that torch's Rprop takes the rule's steps, zeros and changes of sign and of η among them."""
    verdict = verify(partial(torch.optim.Rprop, lr=0.01, foreach=foreach, **own), CATALOG["Rprop"](lr=0.01, **own))
    assert verdict.status == "confirmed", str(verdict)


@pytest.mark.slow
def test_a_wrong_factor_is_seen():
    """Assert that a rule whose η⁺ is one per cent off is refuted."""
    assert verify(partial(torch.optim.Rprop, lr=0.01), CATALOG["Rprop"](lr=0.01, etas=(0.5, 1.212))).status == "refuted"


def test_the_effective_learning_rate():
    """Assert that R = λ‖Δ‖/‖g‖: in the first step Δ is η, here ½, and the gradient of two weights is (3, 4)."""
    rule = UpdateRule(0.5, Rprop(), Stable(2.0))
    parts = rule.parts(rule.start(np.ones(2)), np.array([3.0, 4.0]))
    assert parts.decay_rate == pytest.approx(2 * 0.5 * np.sqrt(2) / 5, rel=1e-15)
