"""Stability in numbers: compared with eigenvalues of matrices written by hand, and with formulas of the theory."""

import numpy as np
import pytest
from tolerances import ROUND_OFF

from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG, Constant
from swd_dynamics.symbolic import NotDerivable, numeric_stability

SGDS = CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.05)


def heavy_ball(lr, beta, curvature, rate):
    """The matrix of the heavy ball with R, by hand: m′ = βm + hθ, θ′ = (1 − R)θ − ηm′."""
    return np.array([[1 - rate - lr * curvature, -lr * beta], [curvature, beta]])


def test_growth_is_the_largest_eigenvalue():
    """Assert that the growth of SGDS over a grid is the largest |z| of the matrix that is written by hand."""
    lrs, curvatures = np.geomspace(0.01, 1, 4)[:, None], np.linspace(0.1, 9, 5)
    found = numeric_stability(SGDS).growth(curvatures, lr=lrs, momentum=0.75)
    assert found.shape == (4, 5)
    for i, j in np.ndindex(4, 5):
        matrix = heavy_ball(lrs[i, 0], 0.75, curvatures[j], lrs[i, 0] * 0.05 / 0.25)
        assert found[i, j] == pytest.approx(np.abs(np.linalg.eigvals(matrix)).max(), rel=1e-12)


def test_the_limit_is_the_theorys():
    """Assert that h_max is (1+β)(2 − ηλ/(1−β))/η over a grid of η and λ."""
    lrs, decays = np.geomspace(0.01, 1, 4)[:, None], np.geomspace(1e-3, 1, 5)
    found = numeric_stability(SGDS).limit(lr=lrs, weight_decay=decays)
    np.testing.assert_allclose(found, 1.9 * (2 - 10 * lrs * decays) / lrs, rtol=100 * ROUND_OFF, atol=1e-12)


@pytest.mark.slow
def test_weights_of_different_v_share_a_mean():
    """Assert that AdamS's limit is √v·(1+β₁)(2 − ηλ/√v̄)/(η(1−β₁)) with v̄ the mean over the v that are given."""
    v = np.array([0.16, 0.36])
    rule = CATALOG["AdamS"](lr=0.5, betas=(0.9, 0.99), eps=0.0, weight_decay=0.25)
    expected = np.sqrt(v) * 1.9 * (2 - 0.125 / np.sqrt(0.26)) / (0.5 * 0.1)
    np.testing.assert_allclose(numeric_stability(rule).limit(v=v), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["SGD", "SGDW", "SGDS"])
@pytest.mark.slow
def test_growth_is_1_at_the_limit(name):
    """Assert that the largest |z| crosses 1 where the limit is, without a formula for it."""
    numbers = numeric_stability(CATALOG[name](lr=0.1, momentum=0.9, weight_decay=0.05))
    limit = numbers.limit(lr=np.array([0.02, 0.5]))
    assert (numbers.growth(0.999 * limit, lr=np.array([0.02, 0.5])) < 1).all()
    assert (numbers.growth(1.001 * limit, lr=np.array([0.02, 0.5])) > 1).all()


def test_names_that_are_refused():
    """Assert that an unknown name, a missing v, a schedule and a step that is not linear are refused with a reason."""
    with pytest.raises(InputError, match="beta_3 is not a symbol"):
        numeric_stability(SGDS).growth(1.0, beta_3=0.5)
    with pytest.raises(InputError, match="v has no number"):
        numeric_stability(CATALOG["AdamW"](lr=0.1, weight_decay=0.1)).growth(1.0)
    with pytest.raises(InputError, match="schedule"):
        numeric_stability(CATALOG["SGD"](lr=Constant(0.1)))
    with pytest.raises(NotDerivable):
        numeric_stability(CATALOG["Lion"](lr=0.1))


def test_numbers_that_are_no_learning_rate_or_momentum():
    """Assert that a second curvature, a negative η, and a β of 1 or more are refused as a rule refuses them."""
    numbers = numeric_stability(SGDS)
    with pytest.raises(InputError, match="h"):
        numbers.growth(30.0, h=45.0)
    for wrong in ({"lr": -1.0}, {"lr": [0.1, 0.0]}, {"momentum": 1.5}, {"momentum": -0.1}, {"lr": np.nan}):
        for call in (lambda **more: numbers.growth(1.0, **more), numbers.limit):
            with pytest.raises(InputError, match=next(iter(wrong))):
                call(**wrong)
