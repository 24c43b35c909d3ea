"""The study of fixed points: the laws of its predictions, and what its figure shows."""

import numpy as np
import pytest
from tolerances import THREE_DIGITS

from swd_dynamics.rules import CATALOG
from swd_dynamics.studies.fixed_points import decay_coefficient, full_batch_rest
from swd_dynamics.studies.methods import Method

# ε of Adam is the width over which a sign step changes sign; a weight on that edge lies within a few ε of its θ⋆.
EDGE = 1e-6


@pytest.mark.parametrize(("name", "c"), [("SGD", 1), ("SGDS", 1), ("SGDW", 0.25)])
def test_decay_coefficient(name, c):
    """Assert that c is 1 for L2 and stable decay, and 1−β for decoupled."""
    assert decay_coefficient(Method(name, {"lr": 0.1, "momentum": 0.75, "weight_decay": 0.5})) == c


@pytest.mark.parametrize("rate", [0.25, 0.5, 2.0])
@pytest.mark.slow
def test_adamw_clips(rate):
    """Assert that in full batch AdamW rests at θ⋆ clipped to ±1/λ, whatever the curvatures."""
    h, optimum = np.array([1.0, 3.0, 0.1, 0.5]), np.array([1.0, -3.0, 0.3, 5.0])
    rest = full_batch_rest(CATALOG["AdamW"](weight_decay=rate), h, optimum)
    assert np.abs(rest - np.clip(optimum, -1 / rate, 1 / rate)).max() < EDGE


@pytest.mark.parametrize("rate", [0.1, 0.5, 2.0])
@pytest.mark.slow
def test_adams_clips(rate):
    """Assert that in full batch AdamS rests at θ⋆ clipped to where λ|θ| is the root mean square of the gradient."""
    h, optimum = np.array([1.0, 3.0, 0.1, 0.5]), np.array([1.0, -3.0, 0.3, 5.0])
    rest = full_batch_rest(CATALOG["AdamS"](weight_decay=rate), h, optimum)
    bound = np.sqrt(np.mean((h * (rest - optimum)) ** 2)) / rate
    assert bound < np.abs(optimum).max()
    assert np.abs(rest - np.clip(optimum, -bound, bound)).max() < EDGE / rate


def test_adams_of_three_weights():
    """Assert the rest point (1, −1.891, .5) of three curvatures."""
    rule = CATALOG["AdamS"](weight_decay=0.1)
    rest = full_batch_rest(rule, np.array([1.0, 3.0, 0.1]), np.array([1.0, -2.0, 0.5]))
    assert np.abs(rest - [1.0, -1.891, 0.5]).max() < THREE_DIGITS
