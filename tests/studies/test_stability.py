"""The study of the edge of stability: its quick form, end to end, and the laws of its instruments."""

import math

import numpy as np
import pytest
from tolerances import RADICALS

from swd_dynamics.studies import Setting, load
from swd_dynamics.studies.stability import DIRECTIONS, SGD_FAMILY, Method, crossing, growth_factor, limit

pytestmark = pytest.mark.slow  # the study is measured in its quick form


@pytest.fixture(scope="module")
def findings():
    return load("stability").measure(Setting(quick=True))


def test_confirmed(findings):
    """Assert that every claim of the study is confirmed, each under a name of its own."""
    assert [v.name for v in findings.verdicts if not v.passed] == []
    assert len({v.name for v in findings.verdicts}) == len(findings.verdicts)


def test_every_method(findings):
    """Assert that each direction is measured with each place for the decay."""
    names = {v.name for v in findings.verdicts}
    assert all(any(name.startswith(direction) for name in names) for direction in DIRECTIONS)
    assert sum(name.split(",")[0] in DIRECTIONS for name in names) == len(DIRECTIONS) * len(SGD_FAMILY)


def test_mutants(findings):
    """Assert that the wrong lines are refuted by the runs that the right lines agree with."""
    mutants = [v for v in findings.verdicts if v.name.startswith("mutant")]
    assert len(mutants) == 3
    assert {v.measured for v in mutants} == {"refuted"}


def test_blown_up_and_survived(findings):
    """Assert that the grid of each decay holds runs of both kinds."""
    heavy, _ = findings.data
    assert all(0 < b.survived.mean() < 1 for b in heavy.values())


def test_figure(findings):
    """Assert that the figure has a panel for each decay and one for the digits, with names on both axes."""
    figure = load("stability").draw(findings.data)
    assert len(figure.axes) == 4
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


@pytest.mark.parametrize("mode", SGD_FAMILY)
def test_decay_lowers_the_limit(mode):
    """Assert that no decay raises the limit, and that without any it is that of Polyak 1964, ηh = 2(1 + β)."""
    plain, with_decay = (limit(Method("heavy ball", each))(0.1) for each in ("none", mode))
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
