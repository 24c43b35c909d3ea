"""The helpers of the study of memory, compared with loops by hand and with integrals in closed form."""

import numpy as np
import pytest
import sympy
from scipy.special import erf

from swd_dynamics.rules import Cosine
from swd_dynamics.studies.memory_of_updates import continuous, effective_number, last_tenth, mean_age, memory_power
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.perturbed_runs import BETA, EQUAL, HELD, LR, Case, equal_schedule, perturbed
from swd_dynamics.symbolic import NotDerivable

FINE = 1e-3  # of integrals that are sums over 20,000 points


def test_perturbed_runs_are_the_weights_by_hand():
    """Assert that torch's SGDW moves by η_s·Π(1 − λη_j) for a 1 in the gradient of step s, for two λ at once."""
    steps, schedule = 8, Cosine(LR, 8, 0.02)
    methods = [Method("SGDW", {"weight_decay": decay}) for decay in (0.5, 3.0)]
    found = perturbed(methods, [schedule, schedule], steps, np.array([0, 5]))
    for row, decay in zip(found, (0.5, 3.0), strict=True):
        by_hand = [schedule(s) * np.prod([1 - decay * schedule(j) for j in range(s + 1, steps)]) for s in (0, 5)]
        np.testing.assert_allclose(row, by_hand, rtol=1e-12)


def test_adam_starts_with_its_v():
    """Assert that a gradient of the last step moves AdamW by η(1 − β₁)/√v."""
    case = Case("Adam", "decoupled", "constant", 5)
    found = case.memory(np.array([4]))
    np.testing.assert_allclose(found.measured, LR * (1 - BETA) / HELD**0.5, rtol=1e-9)


@pytest.mark.parametrize("total", [2.0, 10.0])
def test_integrals_of_linear_to_zero(total):
    """Assert the shares, ages and numbers of w = x·exp(−Λx²/2), which have closed forms, and the largest last share."""
    weights = continuous("linear", total)
    whole = 1 - np.exp(-total / 2)
    assert float(last_tenth(weights)) == pytest.approx((1 - np.exp(-total / 200)) / whole, rel=FINE)
    root = np.sqrt(np.pi / (2 * total)) * erf(np.sqrt(total / 2))
    assert float(mean_age(weights)) == pytest.approx((root - np.exp(-total / 2)) / whole, rel=FINE)
    squares = np.sqrt(np.pi) * erf(np.sqrt(total)) / (4 * total**1.5) - np.exp(-total) / (2 * total)
    assert float(effective_number(weights)) == pytest.approx((whole / total) ** 2 / squares, rel=FINE)


@pytest.mark.slow
def test_the_power_is_that_of_the_integral():
    """Assert that the derived power is the slope of the mean age between two very large ληT."""
    for schedule in ("constant", "linear", "cosine"):
        ages = [float(mean_age(continuous(schedule, total))) for total in (1e3, 4e3)]
        power = float(memory_power(schedule, "decoupled"))
        assert np.log(ages[1] / ages[0]) / np.log(4) == pytest.approx(power, abs=0.01)
    assert memory_power("linear", "corrected") == sympy.Rational(-1, 3)


def test_equal_memory_of_an_integral():
    """Assert that the schedule of equal memory gives all ages the same weight, without steps too."""
    weights = continuous(EQUAL, 10.0)
    assert weights.max() / weights.min() == pytest.approx(1, rel=FINE)


@pytest.mark.slow
def test_the_equal_schedule_of_stable_decay():
    """Assert that SGDS has the schedule η/(1 + ληk/(1−β)), and SGDC none in closed form."""
    schedule = equal_schedule(Method("SGDS", {"momentum": BETA, "weight_decay": 0.5}))
    assert [schedule(k) for k in (0, 3)] == pytest.approx([LR, LR / (1 + 0.5 * LR / (1 - BETA) * 3)])
    with pytest.raises(NotDerivable, match="no closed form"):
        equal_schedule(Method("SGDC", {"momentum": BETA, "weight_decay": 0.5}))
