"""The study of exchanging AdamW and AdamS: its verdicts pass, and its tests can fail."""

import numpy as np
import pytest

from swd_dynamics.crosscheck import EquivalentDecay
from swd_dynamics.studies import Setting, drop_in, load
from swd_dynamics.tasks.digits import digits, held_out

# Means and deviations of a thousand numbers, put back to 0 and 1.
ROUND_OFF = 1e-12

pytestmark = pytest.mark.slow  # the study is measured in its quick form


@pytest.fixture(scope="module")
def findings():
    return load("drop-in").measure(Setting(quick=True))


def test_verdicts_pass(findings):
    """Assert that every claim of the study is confirmed, under a name of its own that fits the ledger."""
    names = [verdict.name for verdict in findings.verdicts]
    assert [verdict.name for verdict in findings.verdicts if not verdict.passed] == []
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 34


def test_mutants_are_refuted(findings):
    """Assert that AdamW's λ carried over fails both tests that the translated one passes."""
    mutants = [verdict for verdict in findings.verdicts if verdict.name.startswith("mutant")]
    assert len(mutants) == 2
    assert all(verdict.measured == "refuted" for verdict in mutants)


def test_figure_draws(findings, tmp_path):
    """Assert that the figure has its two panels, tells the three optimizers apart, and can be written."""
    figure = load("drop-in").draw(findings.data)
    figure.savefig(tmp_path / "drop-in.png")
    assert len(figure.axes) == 2
    (legend,) = figure.legends
    assert len({line.get_color() for line in legend.get_lines()}) == 3


def test_three_witnesses_agree(findings):
    """Assert that R as published, as seen in weights without gradient and by the rule are one."""
    for name, seen in findings.data[0].items():
        np.testing.assert_allclose(seen.outside, seen.by_rule, rtol=drop_in.ROUND_OFF)
        assert np.isnan(seen.published).all() == (name == "AdamW")
        if name != "AdamW":
            np.testing.assert_allclose(seen.published, seen.by_rule, rtol=drop_in.ROUND_OFF)


@pytest.mark.parametrize(("off", "passes"), [(1.1, True), (1.3, False)])
def test_a_wrong_translation_is_refuted(findings, off, passes):
    """Assert that a prediction three tenths off fails where the translation's own departs by less than a tenth."""
    runs, found = findings.data
    wrong = EquivalentDecay(found.weight_decay, found.decay_rate * off)
    about_rate = [v for v in drop_in.verdicts(runs, wrong) if v.name in ("AdamS: decay rate", "AdamS: time scale")]
    assert [verdict.passed for verdict in about_rate] == [passes, passes]


def test_a_rate_that_does_not_follow_the_moments_is_refuted(findings):
    """Assert that R off 1/√v̄ by a millionth in the end, and a λη that moves as little, are refuted."""
    runs, found = findings.data
    drift = 1 + 1e-6 * np.linspace(0, 1, runs["AdamS"].outside.shape[1])
    drifting = {name: seen._replace(outside=seen.outside * drift) for name, seen in runs.items()}
    refuted = {verdict.name for verdict in drop_in.verdicts(drifting, found) if verdict.status == "refuted"}
    assert refuted == {"AdamW: R stands still", "AdamS: R moves as 1/√v̄"}


def test_the_test_is_held_out():
    """Assert that the test has the images that training has not, measured by training's means and deviations."""
    (first, labels), (rest, others) = digits(drop_in.TRAINED_ON), held_out(drop_in.TRAINED_ON)
    everything, all_labels = digits(1797)
    assert np.array_equal(np.concatenate([labels, others]), all_labels)
    varies = first.std(axis=0) > 0
    again = (everything - everything[:1000].mean(axis=0))[:, varies] / everything[:1000].std(axis=0)[varies]
    np.testing.assert_allclose(np.concatenate([first, rest])[:, varies], again, atol=ROUND_OFF * np.abs(again).max())
    assert not rest[:, ~varies].any()


def test_weights_of_blank_pixels_are_there():
    """Assert that the witness from outside has weights: pixels that are blank in every image trained on."""
    blank = drop_in.blank_pixels()
    assert len(blank) >= 1
    assert not digits(drop_in.TRAINED_ON)[0][:, blank].any()
