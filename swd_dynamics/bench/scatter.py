"""How far an optimizer lets weights scatter around a minimum, where its gradients are noisy."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Maker = Callable[[list[Tensor]], torch.optim.Optimizer]


def scatter_in_noise(
    make: Maker, curvature: NDArray, copies: int, steps: int, *, seed: int = 0, forget: float = 0.25
) -> tuple[NDArray, NDArray]:
    """Var θ and 1 − ρ₁ of weights that train on ½hθ² + ξθ with Gaussian ξ, and their standard errors.

    Every copy of a weight is averaged over time, and the standard error is that of the mean over the copies.

    Parameters
    ----------
    make : callable (parameters) → optimizer
    curvature : array, shape (m,) — h > 0
    copies, steps, seed : int
    forget : float — the share of the steps in which the start is forgotten, and nothing is measured

    Returns
    -------
    tuple of two arrays, shape (2, m)

    Examples
    --------
    Gradient descent has Var θ = η/(h(2 − ηh)) and 1 − ρ₁ = ηh, here 1/3 and 1/2:

    >>> seen, errors = scatter_in_noise(lambda p: torch.optim.SGD(p, lr=0.5), np.array([1.0]), copies=500, steps=200)
    >>> bool((np.abs(seen[:, 0] - [1 / 3, 1 / 2]) < 4 * errors[:, 0]).all())
    True
    """
    generator = torch.Generator().manual_seed(seed)
    h = torch.tensor(curvature)
    theta = torch.zeros(copies, len(curvature), dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        noise = torch.randn(theta.shape, generator=generator, dtype=torch.float64)
        return (theta * (h / 2 * theta + noise)).sum()

    squares, moves, before = (torch.zeros_like(theta, requires_grad=False) for _ in range(3))
    for k in _trained(make([theta]), loss, steps):
        now = theta.detach()
        if k >= int(forget * steps):
            squares += now.square()
            moves += (now - before).square()
        before.copy_(now)
    per_step = 1 / (steps - int(forget * steps))
    squares, moves = squares.numpy() * per_step, moves.numpy() * per_step
    variance, gap = squares.mean(0), moves.mean(0) / (2 * squares.mean(0))
    each = squares, moves / (2 * variance) - gap * squares / variance  # of a ratio, to first order
    return np.array([variance, gap]), np.array([part.std(0, ddof=1) / copies**0.5 for part in each])


def scatter_in_minibatches(
    make: Maker, data: tuple[NDArray, NDArray], rest: NDArray, batch: int, copies: int, steps: int
) -> NDArray:
    """The covariance about their rest point of the weights of a linear regression that trains in minibatches.

    The loss is half the mean square of inputs·θ − targets over samples that are drawn with replacement. The second half
    of the steps is measured.

    Parameters
    ----------
    make : callable (parameters) → optimizer
    data : inputs, shape (samples, n), and targets, shape (samples,)
    rest : array, shape (n,) — where the weights start, and about which their covariance is taken
    batch, copies, steps : int

    Returns
    -------
    array, shape (n, n)

    Examples
    --------
    Where all targets are met there is no noise, and the weights stay where they are:

    >>> data = np.array([[1.0], [2.0]]), np.array([3.0, 6.0])
    >>> scatter_in_minibatches(lambda p: torch.optim.SGD(p, lr=0.1), data, np.array([3.0]), 1, 2, 4).tolist()
    [[0.0]]
    """
    generator = torch.Generator().manual_seed(0)
    x, y, origin = map(torch.tensor, (*data, rest))
    theta = origin.repeat(copies, 1).requires_grad_()

    def loss() -> Tensor:
        chosen = torch.randint(len(x), (copies, batch), generator=generator)
        residual = torch.einsum("cbn,cn->cb", x[chosen], theta) - y[chosen]
        return residual.square().sum() / (2 * batch)

    total = torch.zeros(len(rest), len(rest), dtype=torch.float64)
    for k in _trained(make([theta]), loss, steps):
        if k >= steps // 2:
            off = theta.detach() - origin
            total += off.T @ off / copies
    return (total / (steps - steps // 2)).numpy()


def _trained(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], steps: int) -> Iterator[int]:
    """The number of each step, from 0, after it was taken."""
    for k in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        yield k
