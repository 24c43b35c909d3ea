"""The summary of a recording as text."""

import numpy as np
import pytest
import xarray

from swd_dynamics.recording.summary import BLOCKS, UNKNOWN, sparkline, summary


@pytest.mark.parametrize("count", [1, 5, 32, 33, 1000])
def test_a_sparkline_is_no_longer_than_its_width(count):
    """Assert that a course has at most as many letters as its width, from lowest to highest."""
    drawn = sparkline(np.arange(count))
    assert len(drawn) == min(count, 32)
    assert list(drawn) == sorted(drawn, key=BLOCKS.index)
    assert drawn[0] == BLOCKS[0] and (count == 1 or drawn[-1] == BLOCKS[-1])


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_a_dot(strange):
    """Assert that steps without a finite value are dots, and do not change the other letters."""
    assert sparkline(np.array([0.0, strange, 1.0])) == BLOCKS[0] + UNKNOWN + BLOCKS[-1]
    assert sparkline(np.array([strange])) == UNKNOWN


def test_round_off_is_no_course():
    """Assert that a quantity that changes by round-off only is drawn as constant."""
    assert sparkline(np.array([0.1, 0.1 * (1 + 1e-15), 0.1])) == 3 * BLOCKS[0]


def test_each_group_has_its_line():
    """Assert that a quantity of two groups has a line for each, and one of single weights none."""
    variables = {"lr": (("step", "group"), [[1.0, 2.0], [3.0, 4.0]]), "theta": (("iterate", "weight"), np.ones((3, 5)))}
    lines = summary(xarray.Dataset(variables, {"step": [10, 20]}, {"parameter_names": '["a", "b"]'})).splitlines()
    assert lines[0] == "an unknown optimizer, steps 10 to 20 (2 rows)"
    assert lines[1] == "parameter names: a, b"
    assert [line.split()[:3] for line in lines[4:]] == [["lr[0]", "1", "3"], ["lr[1]", "2", "4"]]


def test_a_recording_without_steps():
    """Assert that the summary of a run without steps says that there are none."""
    assert "no steps yet" in summary(xarray.Dataset({"loss": ("step", np.empty(0))}, {"step": np.empty(0, int)}))
