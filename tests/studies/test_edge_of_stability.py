"""The study of the edge of stability: what its helpers measure, compared with quadratics in closed form."""

import numpy as np
import pytest

from swd_dynamics.studies.edge_of_stability import Strengths, Watched, flow_curvature, growth, threshold, watch
from swd_dynamics.studies.edge_runs import gradient_of
from swd_dynamics.studies.methods import Method
from swd_dynamics.tasks import quadratic

SGD = Method("SGD", {"lr": 0.25, "weight_decay": 0.0})


def watched(ratio, method=SGD, limit=8.0):
    ratio = np.array(ratio)
    return Watched(method, np.arange(len(ratio)), ratio, limit, 0.0, np.zeros(2), 0 * ratio)


@pytest.mark.parametrize(
    ("name", "more", "ratio", "limit", "added"),
    [
        ("SGD", {}, 4 / 8, 8.0, 0.0),
        ("SGD", {"weight_decay": 1.0}, 5 / 8, 8.0, 1.0),
        ("SGDW", {"weight_decay": 1.0}, 4 / 7, 7.0, 0.0),
        ("SGDS", {"weight_decay": 0.5, "momentum": 0.5}, 4 / (1.5 * 1.75 / 0.25), 1.5 * 1.75 / 0.25, 0.0),
    ],
)
@pytest.mark.slow
def test_curvature_of_a_quadratic_in_units_of_its_limit(name, more, ratio, limit, added):
    """Assert that on f = ½(θ₁² + 4θ₂²) the ratio is 4/h_max with h_max = (1+β)(2−R)/η, and with L2 (4+λ)/(2/η)."""
    task = quadratic(spectrum=(1.0, 4.0), start=(1.0, 1.0))
    run = watch(task, gradient_of(task), Method(name, {"lr": 0.25, "weight_decay": 0.0} | more), 20, every=5)
    assert run.ratio == pytest.approx(ratio)
    assert (run.limit, run.added) == (pytest.approx(limit), added)
    assert run.steps.tolist() == [3, 8, 13, 18]


@pytest.mark.slow
def test_curvature_preconditioned_as_by_adam():
    """Assert that with Adam D = |g| where gradients are constant: the ratio is (h/|g|)/(38/η), and the limit 38/η."""
    task = quadratic(spectrum=(1.0, 1e-3), start=(1e6, 1.0))  # gradients of 1e6 and 1e-3 in a few steps of .001
    method = Method("Adam", {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0})
    run = watch(task, gradient_of(task), method, 3, every=5)
    assert run.limit == pytest.approx(2 * 1.9 / 0.1 / 1e-3)
    assert run.ratio == pytest.approx(1.0 / run.limit, rel=0.01)  # of the second weight, whose h/|g| is 1/θ


def test_oscillation_of_gradient_descent():
    """Assert that ‖δ‖² is the square of a quarter of the second difference: of θₖ = (1−ηh)ᵏ, ((ηh)²/4·(1−ηh)ᵏ⁻²)²."""
    task = quadratic(spectrum=(6.0,), start=(1.0,))
    run = watch(task, gradient_of(task), SGD, 3, every=5)
    assert run.turned == pytest.approx((1.5**2 / 4 * 0.5) ** 2)


def test_growth_is_that_of_the_map():
    """Assert that for gradient descent growth is ln|1 − ηh|, at the curvatures after half of the run."""
    assert growth(watched([0.1, 0.2, 0.3, 0.4])) == pytest.approx(np.log([0.4, 0.2]))


def test_late_steps_begin_at_the_edge():
    """Assert that the plateau is the mean of the second half, and of what follows after the limit was reached."""
    assert watched([0.2, 0.4, 0.6, 0.8]).plateau == pytest.approx(0.7)
    assert watched([0.2, 0.4, 0.6, 1.2]).plateau == pytest.approx(1.2)
    assert watched([1.2, 0.4, 1.0, 1.2]).plateau == pytest.approx(1.1)


def test_flow_comes_to_rest_where_decay_and_gradient_balance():
    """Assert that on f = ¼(θ² − 1)² with decay c the flow's curvature ends at 3θ² − 1 with θ² = 1 − c."""
    found = flow_curvature(np.array([0.5]), lambda theta: theta**3 - theta, 0.25, 60.0)
    assert found[-1] == pytest.approx(3 * 0.75 - 1, rel=1e-6)


def test_threshold_is_where_flow_and_limit_cross():
    """Assert that the crossing is found by interpolation in ln(R/η_eff)."""
    each = {"a": np.full(3, 3.0)}
    found = Strengths(np.array([0.01, 0.1, 1.0]), np.array([5.0, 4.0, 2.0]), each, each, each, each)
    assert threshold(found, "a") == pytest.approx(10**-0.5)
