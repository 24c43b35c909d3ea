"""The study of the decay rate: its predictions, and tests that can fail."""

import math

import numpy as np
import pytest
from tolerances import RADICALS

from swd_dynamics.studies import decay_rate
from swd_dynamics.tasks import quadratic
from swd_dynamics.verdict import must_be_refuted

SMALL = 25  # a third of a run, short but longer than v̂'s memory


@pytest.fixture(scope="module")
def task():
    return quadratic(decay_rate.NOISE, noise=decay_rate.NOISE)


def test_settled_ratio():
    """Assert that the ratio L2 settles to is that of the larger root of z² − (1+β−ηλ)z + β."""
    arguments = decay_rate.METHODS["SGD"].arguments
    lr, beta = arguments["lr"], arguments["momentum"]
    middle = (1 + beta - lr * decay_rate.DECAY) / 2
    larger = middle + math.sqrt(middle**2 - beta)
    assert decay_rate.settled(lr) == pytest.approx((1 - larger) / (lr / (1 - beta)), rel=RADICALS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SGD", "SGDW", "SGDS", "AdamW", "AdamS"])
def test_black_box_hears_a_lie(task, name):
    """Assert that the witness from outside refutes a decay rate that is off by a thousandth, and no other."""
    method = decay_rate.METHODS[name]
    recording = decay_rate.run_with_changes(task, method, SMALL)
    lying = recording.assign(decay_rate=recording.decay_rate * 1.001)
    assert decay_rate._black_box(method, recording).passed
    assert must_be_refuted("a lie", decay_rate._black_box(method, lying)).passed


@pytest.mark.slow
def test_tenfold_needs_the_change(task):
    """Assert that without a change of gradient scale AdamW's ratio is not found tenfold."""
    recording = decay_rate.run_with_changes(task, decay_rate.METHODS["AdamW"], SMALL, factor=1.0)
    seen = decay_rate.ratio_curves("AdamW", recording, SMALL, known_noise=False)
    verdict = decay_rate._tenfold(seen, recording, SMALL)
    assert verdict.status == "refuted"
    assert verdict.measured == 1.0


@pytest.mark.slow
def test_weights_settle_on_known_noise():
    """Assert that the predicted spread over weights under Adam with L2 is the inverse one of their noise."""
    rates, _ = decay_rate.frozen(third=1)
    arguments = decay_rate.METHODS["Adam"].arguments
    first_order = arguments["lr"] * decay_rate.DECAY / decay_rate.NOISE.min()  # R of the weight with the least noise
    more = first_order / (1 - arguments["betas"][0])  # with momentum the decay acts on itself, by this much
    assert rates.shape == (2, 3)
    np.testing.assert_allclose(rates[0] / rates[1], decay_rate.NOISE.max() / decay_rate.NOISE.min(), rtol=more)
