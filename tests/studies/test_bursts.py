"""What the study of the central flow takes from bursts: growth, the mean curvature, and the limit with v's own part."""

import numpy as np
import pytest
from scipy.optimize import brentq

from swd_dynamics.flows import CentralFlow
from swd_dynamics.rules import CATALOG
from swd_dynamics.studies.bursts import EVERY, balanced_mean, curvatures, log_growth, own_oscillation


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("curvature", [0.7, 0.98, 1.0, 1.1])
def test_growth_is_the_spectral_radius(beta, curvature):
    """Assert that the oscillation grows as the largest eigenvalue of heavy ball's step on a quadratic says."""
    h = 2 * (1 + beta) * curvature  # the limit of η = 1 is 2(1 + β)
    step = np.array([[1 - h, -beta], [h, beta]])  # p′ = βp + hθ, θ′ = θ − p′
    assert log_growth(np.array([curvature]), beta)[0] == pytest.approx(np.log(np.abs(np.linalg.eigvals(step)).max()))


def test_mean_is_balanced():
    """Assert that at the balanced mean ln|z| is 0 in the mean, and that this mean is below 1 with β = .9."""
    form = 1 + 0.05 * np.sin(np.arange(200.0))
    mean = balanced_mean(form, 0.9)
    assert log_growth(mean * form / form.mean(), 0.9).mean() == pytest.approx(0.0, abs=1e-9)
    assert 0.9 < mean < 0.99
    assert balanced_mean(form, 0.0) == pytest.approx(1.00125, abs=1e-4)  # 1 + the variance of the form, for a small one


@pytest.mark.parametrize(
    ("betas", "g"), [((0.0, 0.95), 1.0), ((0.9, 0.99), 1.0), ((0.9, 0.99), 0.7), ((0.5, 0.9), 0.5)]
)
def test_limit_with_the_oscillation_of_v(betas, g):
    """Assert that Adam's step, linearised with its v, has the eigenvalue −1 at the limit with v's own oscillation.

    The gradient is g + hθ: what moves steadily is m = g, and v is 1 before the step.
    """
    rule = CATALOG["Adam"](lr=0.01, betas=betas, eps=0.0)
    start = rule.start(np.zeros(1))
    late = start._replace(step=10**6)  # no bias correction
    fields = dict(zip(late.memory._fields, (np.array([g]), np.ones(1)), strict=True))

    def after(h, x):
        memory = late.memory._replace(m=fields["m"] + x[1], v=fields["v"] + x[2])
        state = rule(late._replace(theta=x[:1], memory=memory), g + h * x[:1])
        return np.concatenate([state.theta, state.memory.m, state.memory.v])

    def most_negative(h):
        columns = [(after(h, 1e-6 * e) - after(h, -1e-6 * e)) / 2e-6 for e in np.eye(3)]
        return np.linalg.eigvals(np.array(columns).T).real.min() + 1

    v = betas[1] + (1 - betas[1]) * g**2
    frozen = 2 * (1 + betas[0]) / (1 - betas[0]) * np.sqrt(v) / 0.01
    found = brentq(most_negative, 0.9 * frozen, 1.5 * frozen)
    assert found == pytest.approx(frozen / own_oscillation(g, g, v, betas), rel=1e-5)
    assert found > 1.01 * frozen


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
        own = own_oscillation(h * theta[-1], state.memory.m, state.memory.v, (0.9, 0.99))
        limits.append(2 * 1.9 / 0.1 * np.sqrt(state.memory.v) / 0.01 / own)
    found = curvatures(flow, np.array(theta), first, (0.9, 0.99))
    assert len(found) == len(range(0, 10, EVERY))
    assert found == pytest.approx((h / np.array(limits)).max(axis=1)[1:-2:EVERY][: len(found)], rel=1e-2)
