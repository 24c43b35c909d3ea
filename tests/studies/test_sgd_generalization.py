"""The study of the gap between Adam and SGD: Fieller's interval, and its verdicts on made-up errors."""

import math

import numpy as np
import pytest
import xarray

from swd_dynamics.studies.sgd_generalization import Gap, closed, draw, judge_gap
from swd_dynamics.studies.tuning import Contestant, Tuned

SEEDS = 20


def gap(spread=0.1, **errors):
    """Made-up errors of the four optimizers, with a spread of a tenth of a percent by default."""
    drawn = np.random.default_rng(0)
    means = {"SGD": 9.0, "Adam": 11.0, "AdamW": 11.0, "AdamS": 10.0} | errors
    found = {
        label: Tuned(
            Contestant(label, label, (0.1,), (0.0,)), np.zeros((3, 3)), mean + spread * drawn.normal(size=SEEDS),
            xarray.Dataset(),
        )
        for label, mean in means.items()
    }  # fmt: skip
    return Gap("digits", found)


def statuses(made):
    return {verdict.name.removeprefix("digits: "): verdict.status for verdict in judge_gap(made)}


@pytest.mark.slow
def test_the_interval_covers():
    """Assert that Fieller's interval of 95 % holds the true ratio in 93 to 97 of 100 cases, of 2000.

    The standard error of the coverage is half a percent, so four of them are allowed.
    """
    drawn, inside = np.random.default_rng(2), 0
    for _ in range(2000):
        whole = 1.0 + drawn.normal(size=8)
        part = 0.4 + 0.5 * (whole - 1.0) + drawn.normal(size=8)
        found = closed(part, whole)
        # where the interval has no end, the set that is not rejected is two rays or the line: that it holds .4 is asked
        difference = part - 0.4 * whole
        t = abs(difference.mean()) / (difference.std(ddof=1) / math.sqrt(8))
        inside += found.low <= 0.4 <= found.high if math.isfinite(found.low) else t <= 2.3646
    assert 0.93 <= inside / 2000 <= 0.97


def test_a_gap_that_may_be_zero_has_no_interval():
    """Assert that the interval has no end where the gap itself is not certain."""
    found = closed(np.array([1.0, -1.0, 0.5]), np.array([1.0, -1.0, 0.3]))
    assert (found.low, found.high) == (-math.inf, math.inf)


@pytest.mark.parametrize(("adams", "half"), [(9.2, "confirmed"), (10.8, "refuted"), (11.5, "refuted")])
def test_half_of_the_gap(adams, half):
    """Assert that closing nine tenths is confirmed, and closing a tenth or nothing is refuted."""
    found = statuses(gap(AdamS=adams))
    assert found["AdamS closes half"] == half
    assert found["the gap"] == "confirmed"


def test_no_gap_is_refuted():
    """Assert that an Adam that is better than SGD refutes the gap, and leaves nothing to close."""
    found = statuses(gap(Adam=8.0))
    assert (found["the gap"], found["AdamS closes half"]) == ("refuted", "inconclusive")


@pytest.mark.parametrize(("spread", "passes"), [(0.1, True), (5.0, False)])
def test_the_control_needs_few_points_of_scatter(spread, passes):
    """Assert that a handicap of a point is found where seeds differ by .1, and missed where they differ by five."""
    (control,) = [verdict for verdict in judge_gap(gap(spread)) if verdict.name.startswith("control: ")]
    assert control.passed == passes


@pytest.mark.slow
def test_the_figure_says_the_fraction():
    """Assert that fractions have a panel only where there is a gap, and that the title says what is closed."""
    figure = draw([gap(AdamS=9.5)])
    assert len(figure.axes) == 2
    value = f"{gap(AdamS=9.5).fraction('AdamS').value:.2f}"
    assert value in figure.get_suptitle() and "more than half" in figure.get_suptitle()
    assert len(draw([gap(Adam=8.0)]).axes) == 1
    assert "not certain" in draw([gap(Adam=9.0)]).get_suptitle()
    assert "Adam is not worse than SGD" in draw([gap(Adam=8.0)]).get_suptitle()
    assert "does not close half" in draw([gap(AdamS=11.5)]).get_suptitle()
    assert "farther from SGD" in draw([gap(AdamS=11.5)]).get_suptitle()
    assert "whether it closes any" in draw([gap(AdamS=11.0)]).get_suptitle()
