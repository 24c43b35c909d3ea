"""The study of the decay rate: its verdicts pass, and its tests can fail."""

import math

import numpy as np
import pytest
from tolerances import RADICALS

from swd_dynamics.studies import Setting, decay_rate, load
from swd_dynamics.tasks import quadratic
from swd_dynamics.verdict import must_be_refuted

SMALL = 25  # a third of a run, short but longer than v̂'s memory

pytestmark = pytest.mark.slow  # the study is measured in its quick form


@pytest.fixture(scope="module")
def findings():
    return load("decay-rate").measure(Setting(quick=True))


@pytest.fixture(scope="module")
def task():
    return quadratic(decay_rate.NOISE, noise=decay_rate.NOISE)


def test_verdicts_pass(findings):
    """Assert that every claim of the study is confirmed, under a name of its own that fits the ledger."""
    names = [verdict.name for verdict in findings.verdicts]
    assert [verdict.name for verdict in findings.verdicts if not verdict.passed] == []
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 34


def test_mutants_are_refuted(findings):
    """Assert that AdamW held for constant and SGDW without its 1−β fail the test that SGDS and AdamS pass."""
    mutants = [verdict for verdict in findings.verdicts if verdict.name.startswith("mutant")]
    assert len(mutants) == 4
    assert all(verdict.measured == "refuted" for verdict in mutants)


def test_figure_draws(findings, tmp_path):
    """Assert that the figure has its six panels and can be written."""
    figure = load("decay-rate").draw(findings.data)
    figure.savefig(tmp_path / "decay-rate.png")
    panels = figure.axes
    assert len(panels) == 6
    assert all(axes.get_yscale() == "log" for axes in panels)


def test_settled_ratio():
    """Assert that the ratio L2 settles to is that of the larger root of z² − (1+β−ηλ)z + β."""
    lr, beta = decay_rate.SGD_LIKE["lr"], decay_rate.SGD_LIKE["momentum"]
    middle = (1 + beta - lr * decay_rate.DECAY) / 2
    larger = middle + math.sqrt(middle**2 - beta)
    assert decay_rate.settled(lr) == pytest.approx((1 - larger) / (lr / (1 - beta)), rel=RADICALS)


@pytest.mark.parametrize("name", ["SGD", "SGDW", "SGDS", "AdamW", "AdamS"])
def test_black_box_hears_a_lie(task, name):
    """Assert that the witness from outside refutes a decay rate that is off by a thousandth, and no other."""
    recording = decay_rate.run(task, name, SMALL)
    lying = recording.assign(decay_rate=recording.decay_rate * 1.001)
    assert decay_rate._black_box(name, recording).passed
    assert must_be_refuted("a lie", decay_rate._black_box(name, lying)).passed


def test_tenfold_needs_the_change(task):
    """Assert that without a change of gradient scale AdamW's ratio is not found tenfold."""
    recording = decay_rate.run(task, "AdamW", SMALL, factor=1.0)
    seen = decay_rate.course("AdamW", recording, SMALL, known_noise=False)
    verdict = decay_rate._tenfold(seen, recording, SMALL)
    assert verdict.status == "refuted"
    assert verdict.measured == 1.0


def test_weights_settle_on_known_noise():
    """Assert that the predicted spread over weights under Adam with L2 is the inverse one of their noise."""
    rates, _ = decay_rate.frozen(third=1)
    first_order = decay_rate.ADAM_LIKE["lr"] * decay_rate.DECAY / decay_rate.NOISE.min()  # R of the quietest weight
    more = first_order / (1 - decay_rate.ADAM_LIKE["betas"][0])  # momentum lets decay act on itself so much more
    assert rates.shape == (2, 3)
    np.testing.assert_allclose(rates[0] / rates[1], decay_rate.NOISE.max() / decay_rate.NOISE.min(), rtol=more)
