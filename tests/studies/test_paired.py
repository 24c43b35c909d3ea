"""Paired verdicts: the test is Student's, three outcomes are possible, and the power calculation is sound."""

import numpy as np
import pytest
from scipy import stats

from swd_dynamics.errors import InputError
from swd_dynamics.studies.paired import (
    NEXT_TO_IT,
    PairedDifference,
    judge_more,
    judge_same,
    paired_difference,
    planted,
)

ONE = np.array([3.1, 2.7, 3.9, 3.3, 2.8])
OTHER = np.array([2.9, 2.6, 3.2, 3.4, 2.5])
NEAR_ONE = ONE + np.array([0.1, -0.1, 0.05, -0.05, 0.0])


def test_the_test_is_students():
    """Assert that t and the confidence interval are those of scipy's paired test."""
    found, known = paired_difference(ONE, OTHER), stats.ttest_rel(ONE, OTHER)
    interval = known.confidence_interval(0.95)
    assert found.t == pytest.approx(known.statistic, rel=1e-12)
    assert found.half_width == pytest.approx((interval.high - interval.low) / 2, rel=1e-12)


@pytest.mark.parametrize("effect", [0.3, 0.6, 1.5])
def test_so_many_seeds_have_the_power(effect):
    """Assert that the noncentral t distribution gives the number of seeds a power near .8, and half as many less."""

    def power(seeds):
        edge = stats.t.ppf(0.975, seeds - 1)
        return stats.nct.sf(edge, seeds - 1, effect * seeds**0.5)

    needed = PairedDifference(effect, 1.0, 5).seeds_needed()
    assert power(needed) == pytest.approx(0.8, abs=0.04)
    assert power(needed // 2) < 0.6


@pytest.mark.parametrize(("least", "status"), [(0.0, "confirmed"), (2.0, "refuted"), (1.0, "inconclusive")])
def test_a_bound_has_three_outcomes(least, status):
    """Assert that a bound below, above and inside the interval of the difference has three outcomes."""
    found = judge_more("", "", 1.0 + ONE, NEAR_ONE, least=least, why="")
    assert found.status == status
    assert (found.cause is not None) == (status == "inconclusive")


@pytest.mark.parametrize(("margin", "status"), [(1.5, "confirmed"), (0.5, "refuted"), (1.0, "inconclusive")])
def test_a_margin_has_three_outcomes(margin, status):
    """Assert that a margin beyond, before and inside the interval of the difference has three outcomes."""
    assert judge_same("", "", 1.0 + ONE, NEAR_ONE, margin=margin, why="").status == status


def test_a_number_is_shown_beside_its_prediction():
    """Assert that a measured number stands in the verdict as measured, and not as its distance from the prediction."""
    found = judge_same("", "", [-0.9, -1.0, -1.1], -0.5, margin=0.1, why="")
    assert found.predicted == -0.5 and found.measured == pytest.approx(-1.0) and found.status == "refuted"


def test_no_difference_can_be_shown_by_no_number_of_seeds():
    """Assert that a difference of exactly 0 needs no reachable number of seeds, and that the verdict says so."""
    assert paired_difference([1.0, 2.0], [2.0, 1.0]).seeds_needed() is None
    assert "no reachable number" in judge_more("", "", [1.0, 2.0], [2.0, 1.0], why="").cause


def test_runs_that_diverged_decide_nothing():
    """Assert that a value that is not a number makes the verdict inconclusive."""
    assert judge_more("", "", [np.nan, 2.0, 3.0], [0.0, 0.0, 0.0], why="").status == "inconclusive"
    assert judge_same("", "", [np.nan, 2.0, 3.0], 2.0, margin=9.0, why="").status == "inconclusive"


@pytest.mark.parametrize(("one", "other"), [([1.0], [2.0]), ([1.0, 2.0], [1.0, 2.0, 3.0]), ([[1.0, 2.0]], 0.0)])
def test_values_that_are_no_pairs_are_refused(one, other):
    """Assert that one seed, other numbers of seeds and tables are refused."""
    with pytest.raises(InputError, match="cannot be paired"):
        paired_difference(one, other)


@pytest.mark.parametrize("difference", [0.0, 1.5])
def test_a_planted_optimizer_has_the_scatter_and_the_mean_that_are_asked_for(difference):
    """Assert that a planted optimizer differs from the base by so much, with the deviation of the real difference."""
    real, made = paired_difference(ONE, OTHER), paired_difference(planted(ONE, OTHER, difference), OTHER)
    assert made.mean == pytest.approx(difference, abs=1e-12)
    assert made.deviation == pytest.approx(real.deviation, rel=1e-12)


def test_a_mean_on_the_border_is_said_to_be_there():
    """Assert that the cause names the border where a hundred times as many seeds are needed, and not where ten are."""
    noise = np.array([-1.0, 0.0, 1.0, -0.5, 0.5])
    near, far = (judge_more("", "", noise + shift, np.zeros(5), why="").cause for shift in (0.01, 0.5))
    assert near.endswith(NEXT_TO_IT) and NEXT_TO_IT not in far
    assert judge_more("", "", noise, np.zeros(5), why="").cause.endswith(NEXT_TO_IT)
