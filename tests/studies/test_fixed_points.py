"""The study of fixed points: its quick form, end to end, and the laws of its predictions."""

import numpy as np
import pytest
from tolerances import THREE_DIGITS

from swd_dynamics.rules import CATALOG
from swd_dynamics.studies import Setting, load
from swd_dynamics.studies.fixed_points import decay_coefficient, full_batch_rest

# ε of Adam is the width over which a sign step changes sign; a weight on that edge lies within a few ε of its θ*.
EDGE = 1e-6

pytestmark = pytest.mark.slow  # the study is measured in its quick form


@pytest.fixture(scope="module")
def findings():
    return load("fixed-points").measure(Setting(quick=True))


def test_confirmed(findings):
    """Assert that every claim of the study is confirmed, each under a name of its own."""
    assert [v.name for v in findings.verdicts if not v.passed] == []
    assert len({v.name for v in findings.verdicts}) == len(findings.verdicts)


def test_mutants(findings):
    """Assert that a wrong rest point of each family is refuted by the runs that the right ones agree with."""
    mutants = [v for v in findings.verdicts if v.name.startswith("mutant")]
    assert len(mutants) == 3
    assert {v.measured for v in mutants} == {"refuted"}


def test_decays_differ(findings):
    """Assert that decoupled decay, weakened by momentum, leaves every weight of the quadratic larger than L2 does."""
    points = findings.data["quadratic"].points
    assert (points["decoupled"][1] > points["L2"][1]).all()


def test_figure(findings):
    """Assert that the figure has a panel for each setting, with names on both axes."""
    figure = load("fixed-points").draw(findings.data)
    assert len(figure.axes) == 4
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


@pytest.mark.parametrize(("name", "c"), [("SGD", 1), ("SGDS", 1), ("SGDW", 0.25)])
def test_decay_coefficient(name, c):
    """Assert that c is 1 for L2 and stable decay, and 1−β for decoupled."""
    assert decay_coefficient(name, {"lr": 0.1, "momentum": 0.75, "weight_decay": 0.5}) == c


@pytest.mark.parametrize("rate", [0.25, 0.5, 2.0])
def test_adamw_clips(rate):
    """Assert that in full batch AdamW rests at θ* clipped to ±1/λ, whatever the curvatures."""
    h, optimum = np.array([1.0, 3.0, 0.1, 0.5]), np.array([1.0, -3.0, 0.3, 5.0])
    rest = full_batch_rest(CATALOG["AdamW"](weight_decay=rate), h, optimum)
    assert np.abs(rest - np.clip(optimum, -1 / rate, 1 / rate)).max() < EDGE


@pytest.mark.parametrize("rate", [0.1, 0.5, 2.0])
def test_adams_clips(rate):
    """Assert that in full batch AdamS rests at θ* clipped to where λ|θ| is the root mean square of the gradient."""
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
