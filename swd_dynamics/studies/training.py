"""How studies train: one loop, and one way to start an optimizer with momentum and second moments of our own."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from swd_dynamics.tensors.known import known

LATE = 2.0**50  # steps: for every β below 1 − 2⁻⁴⁰ no bias correction is left; few enough for a float32


def train(
    optimizer: torch.optim.Optimizer, loss: Callable[[int], Tensor], steps: int, scheduler: Any = None
) -> Iterator[int]:
    """Train, and stop after each step, so that the caller can measure.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    loss : callable
        The loss of step k, counted from 0.
    steps : int
    scheduler : optional
        One of torch's, stepped after each step of the optimizer.

    Yields
    ------
    int — k

    Examples
    --------
    Gradient descent on f = ½θ² at η = ½ halves θ.

    >>> theta = torch.tensor([8.0], requires_grad=True)
    >>> optimizer = torch.optim.SGD([theta], lr=0.5)
    >>> [theta.item() for _ in train(optimizer, lambda k: (theta**2).sum() / 2, steps=3)]
    [4.0, 2.0, 1.0]
    """
    for k in range(steps):
        optimizer.zero_grad()
        loss(k).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        yield k


def begin_late(optimizer: torch.optim.Optimizer, memory: Mapping[str, ArrayLike]) -> None:
    """Start an optimizer as if it had trained for long: with a given memory, and no bias correction left.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        SGD or Adam, or one of ours with the same state.
    memory : mapping of str to array, shape (n,)
        The momentum ``m`` and, for Adam, the second moment ``v`` of all weights, in the optimizer's order:
        as a :class:`~swd_dynamics.rules.State` holds them.

    Examples
    --------
    A weight at θ = 8 without gradient, and with m = 2, moves by −η·βm = −½·½·2.

    >>> theta = torch.tensor([8.0], requires_grad=True)
    >>> optimizer = torch.optim.SGD([theta], lr=0.5, momentum=0.5)
    >>> begin_late(optimizer, {"m": [2.0]})
    >>> [theta.item() for _ in train(optimizer, lambda k: 0 * theta.sum(), steps=1)]
    [7.5]
    """
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    sizes = [parameter.numel() for parameter in parameters]
    pieces = {name: torch.as_tensor(values).split(sizes) for name, values in memory.items()}
    keys = {"m": known(optimizer).momenta, "v": known(optimizer).second_moments}
    for i, parameter in enumerate(parameters):
        for name, piece in pieces.items():
            key = keys[name][-1]  # the keys before it are AMSGrad's
            optimizer.state[parameter][key] = piece[i].view_as(parameter).to(parameter).clone()
        if "v" in pieces:
            optimizer.state[parameter]["step"] = torch.tensor(LATE)
