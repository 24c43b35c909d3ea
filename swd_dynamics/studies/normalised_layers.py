"""A network on digits whose first layer is normalised: its norm and rotation, and what is derived for them."""

from collections.abc import Callable, Iterator
from math import cos, pi
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swd_dynamics.studies.random_walks import Walker
from swd_dynamics.studies.training import train
from swd_dynamics.symbolic import equilibrium
from swd_dynamics.tasks.normalised_digits import normalised_digits


class LayerCourse(NamedTuple):
    """The squares of one run after each step, each of shape (steps,): ‖θ‖², (‖Δθ‖/‖θ‖)² and ‖g‖²‖θ‖².

    Of rows, the mean of each square over the rows. ``shape`` is that of the layer, or of a row.
    """

    norm: NDArray
    step: NDArray
    gamma: NDArray
    shape: tuple[int, ...]

    def mean(self, part: slice) -> NDArray:
        """The root mean squares ‖θ‖, ‖Δθ‖/‖θ‖ and Γ in a part of the run."""
        return np.sqrt([each[part].mean() for each in (self.norm, self.step, self.gamma)])


def learn(
    walker: Walker, steps: int, *, normalised: str = "weights", schedule: Callable[[int], float] | None = None
) -> LayerCourse:
    """Train the network in minibatches, and follow its first layer.

    Parameters
    ----------
    walker : Walker
    steps : int
    normalised : str
        As in :func:`~swd_dynamics.tasks.normalised_digits.normalised_digits`.
    schedule : callable, optional
        The factor of η in step k.
    """
    theta, loss = normalised_digits(normalised)
    optimizer = walker.optimizer([theta])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) if schedule else None
    over = 1 if normalised == "rows" else (0, 1)
    rows = [*_squares(theta, train(optimizer, loss, steps, scheduler), over)]
    shape = tuple(theta.shape[1:] if normalised == "rows" else theta.shape)
    norm, step, gamma = np.array(rows).T
    return LayerCourse(norm, step, gamma, shape)


def _squares(theta: Tensor, steps: Iterator[int], over: Any) -> Iterator[tuple[float, ...]]:
    before = theta.detach().clone()
    for _ in steps:
        now = theta.detach()
        square = before.square().sum(over)
        moved = (now - before).square().sum(over) / square
        gamma = torch.as_tensor(theta.grad).square().sum(over) * square
        yield square.mean().item(), moved.mean().item(), gamma.mean().item()
        before.copy_(now)


def derived_and_measured(walker: Walker, course: LayerCourse) -> NDArray:
    """‖θ‖ and ‖Δθ‖/‖θ‖, derived with the run's own Γ, and measured in the last half of the run; shape (2, 2)."""
    *found, gamma = course.mean(slice(len(course.norm) // 2, None))
    results = equilibrium(walker.rule, shape=course.shape, gradient=float(gamma)).results
    return np.array([[float(results[name]) for name in ("‖θ‖", "‖Δθ‖/‖θ‖")], found])


def cosine(steps: int) -> Callable[[int], float]:
    """The factor of η in step k, from 1 to 0 along half a cosine.

    Examples
    --------
    >>> [round(cosine(4)(k), 6) for k in (0, 2, 4)]
    [1.0, 0.5, 0.0]
    """
    return lambda k: (1 + cos(pi * k / steps)) / 2


class ScheduledLayer(NamedTuple):
    """A run under a cosine schedule beside the law with the current η, each of shape (steps,).

    norm, step : ‖θ‖ and ‖Δθ‖/‖θ‖ of the run, the root mean squares over 20 steps
    law_norm, law_step : those of the equilibrium with the current η
    lagging : ‖θ‖ by d‖θ‖²/dk = −(‖θ‖² − ‖θ‖²_law)/T, with T the derived number of relaxation steps
    slowness : T·|d ln η/dk|; the law needs a small one
    """

    norm: NDArray
    step: NDArray
    law_norm: NDArray
    law_step: NDArray
    lagging: NDArray
    slowness: NDArray


SMOOTH = 20  # steps of a mean: the squares of single steps scatter by a tenth


def follow_cosine(walker: Walker, steps: int) -> ScheduledLayer:
    """Train AdamW, whose equilibrium does not depend on Γ, along a cosine, and compare with the law for each η."""
    factors = np.array([cosine(steps)(k) for k in range(steps)])
    course = learn(walker, steps, schedule=cosine(steps))
    lrs = walker.arguments["lr"] * factors
    known = walker.arguments["lr"] * np.geomspace(1e-6, 1, 4)
    rules = (Walker(walker.name, walker.arguments | {"lr": float(lr)}).rule for lr in known)
    results = [equilibrium(rule, shape=course.shape, gradient=1.0).results for rule in rules]

    def law(name: str) -> NDArray:  # powers of η to leading order: straight lines between the logarithms
        return np.exp(np.interp(np.log(lrs), np.log(known), np.log([float(each[name]) for each in results])))

    law_norm, relaxation = law("‖θ‖"), law("steps")
    square, lagging = course.norm[0], np.empty(steps)
    for k in range(steps):
        square -= (square - law_norm[k] ** 2) * (1 - np.exp(-1 / relaxation[k]))
        lagging[k] = square**0.5
    kernel = np.ones(SMOOTH) / SMOOTH
    norm, step = (np.sqrt(np.convolve(np.pad(each, (SMOOTH - 1, 0), "edge"), kernel, "valid")) for each in course[:2])
    slowness = relaxation * np.abs(np.gradient(np.log(lrs)))
    return ScheduledLayer(norm, step, law_norm, law("‖Δθ‖/‖θ‖"), lagging, slowness)
