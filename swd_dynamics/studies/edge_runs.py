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

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, y = drawn(SAMPLES, WIDTHS[0]).to(device), drawn(SAMPLES, WIDTHS[-1]).to(device)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(WIDTHS):
        layer = torch.nn.Linear(inputs, outputs, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(drawn(outputs, inputs) / inputs**0.5)
            layer.bias.zero_()
        layers += [layer, torch.nn.SiLU()]
    model = torch.nn.Sequential(*layers[:-1]).to(device)

    def full(model: torch.nn.Module) -> torch.Tensor:
        return 0.5 * (model(x) - y).square().mean()

    return Task("regression", model, lambda model, _: full(model), full, {"seed": SEED})


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
