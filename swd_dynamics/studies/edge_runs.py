"""What studies of the edge of stability share: a task in full batches, its gradient, and slow means of runs."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from swd_dynamics.flows import CentralFlow
from swd_dynamics.rules import State
from swd_dynamics.tasks import Task

SAMPLES, WIDTHS = 50, (8, 16, 16, 1)
SEED = 2  # of the task: the largest curvature is two times the second, so that one direction oscillates


def regression(device: str = "cpu") -> Task:
    """Random inputs and outputs, and a SiLU network whose weights are drawn from the same seed."""
    generator = torch.Generator().manual_seed(SEED)
    x, y = (each.to(device) for each in _samples(generator))
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(WIDTHS):
        layer = torch.nn.Linear(inputs, outputs, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(_drawn(generator, outputs, inputs) / inputs**0.5)
            layer.bias.zero_()
        layers += [layer, torch.nn.SiLU()]
    model = torch.nn.Sequential(*layers[:-1]).to(device)

    def full(model: torch.nn.Module) -> torch.Tensor:
        return 0.5 * (model(x) - y).square().mean()

    return Task("regression", model, lambda model, _: full(model), full, {"seed": SEED})


def _drawn(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _samples(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return _drawn(generator, SAMPLES, WIDTHS[0]), _drawn(generator, SAMPLES, WIDTHS[-1])


def regression_gradient() -> Callable[[np.ndarray], np.ndarray]:
    """∇L of :func:`regression`, written out: the flows are then independent of torch, and six times as fast.

    Examples
    --------
    >>> task = regression()
    >>> bool(np.abs(regression_gradient()(task.theta) - task.gradient(task.theta)).max() < 1e-14)
    True
    """
    x, y = (each.numpy() for each in _samples(torch.Generator().manual_seed(SEED)))
    shapes = [(outputs, inputs) for inputs, outputs in pairwise(WIDTHS)]
    sizes = [size for rows, columns in shapes for size in (rows * columns, rows)]
    cuts = np.cumsum(sizes)[:-1]

    def gradient(theta: np.ndarray) -> np.ndarray:
        parts = np.split(theta, cuts)
        weights, biases = [part.reshape(shape) for part, shape in zip(parts[::2], shapes, strict=True)], parts[1::2]
        values, slopes = [x], []
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            z = values[-1] @ weight.T + bias
            gate = 1 / (1 + np.exp(-z))
            values.append(z * gate)
            slopes.append(gate * (1 + z * (1 - gate)))
        error = (values[-1] @ weights[-1].T + biases[-1] - y) / y.size
        found = [error.T @ values[-1], error.sum(axis=0)]
        for weight, value, slope in zip(weights[:0:-1], values[-2::-1], slopes[::-1], strict=True):
            error = (error @ weight) * slope
            found = [error.T @ value, error.sum(axis=0), *found]
        return np.concatenate([each.ravel() for each in found])

    return gradient


def gradient_of(task: Task) -> Callable[[np.ndarray], np.ndarray]:
    """∇L by a copy of the model, several times as fast as a functional call."""
    scratch = task.fresh()
    parameters = list(scratch.model.parameters())
    weights = parameters_to_vector(parameters).detach()
    vector_to_parameters(weights, parameters)  # the parameters are now views of this vector

    def gradient(theta: np.ndarray) -> np.ndarray:
        weights.copy_(torch.tensor(theta))
        found = torch.autograd.grad(scratch.full_loss(scratch.model), parameters)
        return torch.cat([each.reshape(-1) for each in found]).cpu().numpy()

    return gradient


def slow_mean(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The iterates without what changes its sign in each step, and the square of that: a step less at both ends."""
    mean = (theta[:-2] + 2 * theta[1:-1] + theta[2:]) / 4
    return mean, ((theta[1:-1] - mean) ** 2).sum(axis=1)


def mean_state(flow: CentralFlow, theta: np.ndarray, steps: int) -> tuple[np.ndarray, tuple, State]:
    """The slow mean of weights and memory after some steps of the rule, and its state there."""
    state, last = flow.rule.start(theta), []
    for _ in range(steps + 1):
        state = flow.rule(state, flow.gradient(state.theta))
        last = [*last[-2:], state]
    first, *memory = ((a + 2 * b + c) / 4 for a, b, c in zip(*((s.theta, *s.memory) for s in last), strict=True))
    return first, tuple(memory), last[1]


def still(flow: CentralFlow) -> CentralFlow:
    """The same flow with Σ = 0, for which only the largest curvature counts."""
    return replace(flow, oscillates=False, directions=1)
