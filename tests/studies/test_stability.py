"""The study of the edge of stability: what it covers, and the laws of its instruments."""

import math

import numpy as np
import pytest
from tolerances import RADICALS

from swd_dynamics.studies.stability import Edge, _l2_over_stable, crossing, growth_factor, limit, methods


@pytest.mark.parametrize("mode", ["none", "L2", "decoupled", "stable"])
@pytest.mark.slow
def test_decay_lowers_the_limit(mode):
    """Assert that no decay raises the limit, and that without any it is that of Polyak 1964, ηh = 2(1 + β)."""
    plain, with_decay = (limit(methods("heavy ball")[each])(0.1) for each in ("none", mode))
    assert with_decay <= plain
    assert math.isclose(plain, 38.0)


@pytest.mark.parametrize(("mode", "counts"), [("L2", 1.0), ("stable", 19.0), ("decoupled", 1.9)])
@pytest.mark.slow
def test_limits_of_decay(mode, counts):
    """Assert that the limit is 2(1+β)/η − λ with L2, with λ(1+β)/(1−β) for stable and λ(1+β) for decoupled decay."""
    weight_decay, lr, beta = 0.3, 0.1, 0.9
    derived = limit(methods("heavy ball", weight_decay)[mode])(lr)
    assert math.isclose(derived, 2 * (1 + beta) / lr - counts * weight_decay, rel_tol=RADICALS)


def test_growth_factor():
    """Assert that the growth of a run made of two known modes is that of the faster one."""
    k = np.arange(30)
    assert math.isclose(growth_factor(1e-9 * ((-1.25) ** k + 0.5**k)), 1.25, rel_tol=RADICALS)


def test_crossing():
    """Assert that a crossing is found where there is one, and nothing where there is none."""
    assert math.isclose(crossing(lambda x: 2 - x, 0.0, 5.0), 2.0)
    assert math.isnan(crossing(lambda x: -1.0, 0.0, 5.0))


@pytest.mark.parametrize(("found", "statuses"), [(4.0, ["confirmed"] * 2), (2.0, ["refuted"] * 2)])
def test_equal_learning_rates_are_refuted(found, statuses):
    """Assert that limits measured where they are derived confirm the ratio and its control, and equal ones neither."""
    none = np.empty(0)
    l2, stable = Edge("L2", 4.0, found, none, none, float), Edge("stable", 2.0, 2.0, none, none, float)
    assert [verdict.status for verdict in _l2_over_stable(l2, stable)] == statuses
