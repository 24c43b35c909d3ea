"""The study of the edge of stability: what it covers, and the laws of its instruments."""

import math

import numpy as np
import pytest
from tolerances import RADICALS

from swd_dynamics.rules.decay import DECAYS
from swd_dynamics.studies.stability import crossing, growth_factor, limit, methods


@pytest.mark.parametrize("mode", DECAYS)
def test_decay_lowers_the_limit(mode):
    """Assert that no decay raises the limit, and that without any it is that of Polyak 1964, ηh = 2(1 + β)."""
    plain, with_decay = (limit(methods("heavy ball")[each])(0.1) for each in ("none", mode))
    assert with_decay <= plain
    assert math.isclose(plain, 38.0)


def test_growth_factor():
    """Assert that the growth of a run made of two known modes is that of the faster one."""
    k = np.arange(30)
    assert math.isclose(growth_factor(1e-9 * ((-1.25) ** k + 0.5**k)), 1.25, rel_tol=RADICALS)


def test_crossing():
    """Assert that a crossing is found where there is one, and nothing where there is none."""
    assert math.isclose(crossing(lambda x: 2 - x, 0.0, 5.0), 2.0)
    assert math.isnan(crossing(lambda x: -1.0, 0.0, 5.0))
