"""The slope of a curvature, compared with closed forms and with differences of dense Hessians."""

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.tasks import tanh_network
from swd_dynamics.tensors import slope_of_curvature

EXACT = 1e-12  # relative error of a few dozen operations in float64


def parameter(*values):
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


def test_quartic():
    """Assert that L = Σ aᵢθᵢ⁴ + θ₁θ₂² has the gradient and the slope of uᵀHu that follow by hand."""
    a, theta = torch.tensor([1.0, 2.0], dtype=torch.float64), parameter(0.5, -1.5)
    u = torch.tensor([0.6, 0.8], dtype=torch.float64)

    def loss():
        return (a * theta**4).sum() + theta[0] * theta[1] ** 2

    gradient, slope = slope_of_curvature(loss, [theta], u)
    (x, y), (p, q) = theta.tolist(), u.tolist()
    # uᵀHu = 12x²p² + 24y²q² + 2x·q² + 4y·pq
    np.testing.assert_allclose(gradient, [4 * x**3 + y**2, 8 * y**3 + 2 * x * y], rtol=EXACT)
    np.testing.assert_allclose(slope, [24 * x * p**2 + 2 * q**2, 48 * y * q**2 + 4 * p * q], rtol=EXACT)
    assert theta.grad is None


def test_network():
    """Assert that on a network the slope is that of uᵀHu with dense Hessians, by central differences."""
    task = tanh_network((4,), samples=50)
    theta, generator = task.theta, np.random.default_rng(0)
    u, away = (generator.standard_normal(len(theta)) for _ in range(2))
    found = slope_of_curvature(lambda: task.loss(0), list(task.model.parameters()), torch.tensor(u))[1]
    step = 1e-5
    ahead, behind = (u @ task.hessian(theta + s * away) @ u for s in (step, -step))
    # The error of the difference falls as step², and is 1e-7 of the slope here; round-off is below that.
    assert float(found @ torch.tensor(away)) == pytest.approx((ahead - behind) / (2 * step), rel=1e-6)


def test_constant_curvature():
    """Assert that a quadratic, a linear loss and a weight that the loss does not use have the slope 0."""
    theta, unused = parameter(1.0, 2.0), parameter(3.0)
    for loss in (lambda: theta.square().sum(), theta.sum):
        slope = slope_of_curvature(loss, [theta, unused], torch.ones(3, dtype=torch.float64))[1]
        assert slope.tolist() == [0, 0, 0]


def test_refused_losses():
    """Assert that a loss of several numbers, and one that no parameter is in, are refused."""
    theta = parameter(1.0)
    for loss in (lambda: torch.cat([theta, theta]), lambda: parameter(2.0).sum()):
        with pytest.raises(InputError):
            slope_of_curvature(loss, [theta], torch.ones(1, dtype=torch.float64))
