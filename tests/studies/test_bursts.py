"""What the study of the central flow takes from bursts: growth, the mean curvature, and the limit with v's own part."""

import numpy as np
import pytest

from swd_dynamics.flows import CentralFlow
from swd_dynamics.rules import CATALOG
from swd_dynamics.studies.bursts import EVERY, LEAST, balanced_mean, curvatures, log_growth


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("curvature", [0.7, 0.98, 1.0, 1.1])
def test_growth_is_the_spectral_radius(beta, curvature):
    """Assert that the oscillation grows as the largest eigenvalue of heavy ball's step on a quadratic says."""
    h = 2 * (1 + beta) * curvature  # the limit of η = 1 is 2(1 + β)
    step = np.array([[1 - h, -beta], [h, beta]])  # p′ = βp + hθ, θ′ = θ − p′
    assert log_growth(np.array([curvature]), beta)[0] == pytest.approx(np.log(np.abs(np.linalg.eigvals(step)).max()))


@pytest.mark.slow
def test_mean_is_balanced():
    """Assert that at the balanced mean ln|z| is 0 in the mean, and that this mean is below 1 with β = .9."""
    form = 1 + 0.05 * np.sin(np.arange(200.0))
    mean = balanced_mean(form, 0.9)
    assert log_growth(mean * form / form.mean(), 0.9).mean() == pytest.approx(0.0, abs=1e-9)
    assert 0.9 < mean < 0.99
    assert balanced_mean(form, 0.0) == pytest.approx(1.00125, abs=1e-4)  # 1 + the variance of the form, for a small one


KAPPA = 0.01 / 1.99 * 1.9 / 0.1  # (1−β₂)/(1+β₂)·(1+β₁)/(1−β₁): the limit of Adam is 1/(1 − κgm/v) as large


@pytest.mark.slow
def test_curvature_along_a_run():
    """Assert that on a quadratic the curvature is h over the limit of Adam, which v makes, at each second step."""
    rule, h = CATALOG["Adam"](lr=0.01, betas=(0.9, 0.99)), np.array([1.0, 3.0])
    flow = CentralFlow(rule, lambda theta: h * theta)
    state, theta, limits = rule.start(np.array([1.0, 1.0])), [], []
    state = state._replace(memory=state.memory._replace(v=np.ones(2)), step=10**6)
    first = state
    for _ in range(13):
        theta.append(state.theta)
        state = rule(state, h * state.theta)
        own = np.maximum(1 - KAPPA * h * theta[-1] * state.memory.m / state.memory.v, LEAST)
        limits.append(2 * 1.9 / 0.1 * np.sqrt(state.memory.v) / 0.01 / own)
    found = curvatures(flow, np.array(theta), first)
    assert len(found) == len(range(0, 10, EVERY))
    assert found == pytest.approx((h / np.array(limits)).max(axis=1)[1:-2:EVERY][: len(found)], rel=1e-2)
