"""Weights that train in noise, and what their rule says of them: in a linear regression, and on θ⁴."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_lyapunov
from sklearn.datasets import load_diabetes
from torch import Tensor

from swd_dynamics.bench.scatter import scatter_in_minibatches
from swd_dynamics.flows import SDE
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.study import Setting
from swd_dynamics.studies.training import train
from swd_dynamics.symbolic import numeric_linear_map

BATCH = 16  # of the regression
# With twice this noise on θ⁴ the terms of order η²σ² that the SDE leaves out would be 2 % of the variance; with half of
# it the loss would be nearly quadratic where the weights are.
NOISE_QUARTIC, STEPS_QUARTIC = 2.0, 150


# A linear regression in minibatches


class Regression(NamedTuple):
    """The covariance of the weights of a linear regression in the directions of the Hessian, derived and measured.

    curvature : array, shape (n,); variance, measured : array, shape (n,); alike : array, shape (n,)
        ``alike`` is what would follow from noise with the same variance in all directions.
    """

    name: str
    curvature: NDArray
    variance: NDArray
    measured: NDArray
    alike: NDArray


def diabetes(method: Method, setting: Setting) -> Regression:
    """Train copies of a linear regression on the diabetes data, with minibatches that are drawn with replacement."""
    loaded: Any = load_diabetes(return_X_y=True)
    inputs, targets = ((each - each.mean(0)) / each.std(0) for each in loaded)
    hessian, n = inputs.T @ inputs / len(inputs), inputs.shape[1]
    step = numeric_linear_map(method.rule())
    matrix = step(hessian)
    response = (step(np.eye(n)) - step(np.zeros((n, n))))[:, :n]  # what a unit of gradient adds to the state
    pull = response @ (inputs.T @ targets / len(inputs))
    rest = np.linalg.solve(np.eye(len(matrix)) - matrix, -pull)[:n]
    each = (inputs @ rest - targets)[:, None] * inputs  # the gradients of the samples
    noise = np.cov(each.T, bias=True) / BATCH
    alike = np.trace(noise) / n * np.eye(n)
    curvature, directions = np.linalg.eigh(hessian)

    def variances(covariance: NDArray) -> NDArray:
        return np.diag(directions.T @ covariance @ directions)

    derived, wrong = (
        variances(solve_discrete_lyapunov(matrix, response @ c @ response.T)[:n, :n]) for c in (noise, alike)
    )
    copies, steps = (200, 1000) if setting.quick else (400, 4000)
    seen = variances(scatter_in_minibatches(method.optimizer, (inputs, targets), rest, BATCH, copies, steps))
    return Regression(method.name, curvature, derived, seen, wrong)


# A loss that is not quadratic


class Quartic(NamedTuple):
    """E θ² of torch runs on θ²/2 + θ⁴/4 and of paths of the SDE, each with its standard error, and that of θ²/2."""

    runs: tuple[float, float]
    paths: tuple[float, float]
    quadratic: float


def quartic(method: Method, setting: Setting) -> Quartic:
    """Train copies of a weight from θ = 1 on, and follow as many paths of the SDE of second order."""
    copies = 5_000 if setting.quick else 40_000
    sde = SDE(method.rule(), lambda x: x + x**3, NOISE_QUARTIC, lambda x, vector: (1 + 3 * x**2) * vector, 2)
    paths = sde.solve([1.0], STEPS_QUARTIC, paths=copies, substeps=2).theta[-1, :, 0]
    generator = torch.Generator().manual_seed(1)
    theta = torch.ones(copies, dtype=torch.float64, requires_grad=True)

    def loss(_) -> Tensor:
        noise = torch.randn(copies, generator=generator, dtype=torch.float64)
        return (theta**2 / 2 + theta**4 / 4 + NOISE_QUARTIC * noise * theta).sum()

    for _ in train(method.optimizer([theta]), loss, STEPS_QUARTIC):
        pass
    linear = float(sde.covariance_of_steps([0.0])[0, 0])
    return Quartic(_mean_square(theta.detach().numpy()), _mean_square(paths), linear)


def _mean_square(values: NDArray) -> tuple[float, float]:
    """The mean of the squares, and its standard error."""
    squares = values**2
    return float(squares.mean()), float(squares.std(ddof=1) / len(squares) ** 0.5)
