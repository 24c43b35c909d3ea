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
from swd_dynamics.tasks.digits import IMAGES, digits

UNITS, BATCH, INKED = 32, 16, 0.1  # of the network; the share of images in which a pixel is inked

# How the layer is normalised: all of θ, each row of θ (weight normalisation), or its outputs (RMS normalisation).
NORMALISED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "weights": lambda pixels, theta: pixels @ (UNITS**0.5 * theta / theta.norm()).T,
    "rows": lambda pixels, theta: pixels @ (theta / theta.norm(dim=1, keepdim=True)).T,
    "outputs": lambda pixels, theta: _rms_normalised(pixels @ theta.T),
}


def _rms_normalised(outputs: Tensor) -> Tensor:
    return outputs / outputs.square().mean(dim=1, keepdim=True).sqrt()


class Course(NamedTuple):
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
) -> Course:
    """Train the network in minibatches, and follow its first layer.

    Parameters
    ----------
    walker : Walker
    steps : int
    normalised : str
        A name of NORMALISED. Pixels that are almost never inked are left out.
    schedule : callable, optional
        The factor of η in step k.
    """
    images, labels = digits(IMAGES)
    inked = (images > images.min(axis=0)).mean(axis=0) > INKED
    pixels, classes = torch.tensor(images[:, inked], dtype=torch.float32), torch.tensor(labels)
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(UNITS, pixels.shape[1], generator=generator)
    theta = (2 * theta / theta.norm()).requires_grad_()
    last = torch.randn(10, UNITS, generator=generator) / 2

    def loss(_) -> Tensor:
        chosen = torch.randint(len(pixels), (BATCH,), generator=generator)
        hidden = torch.tanh(NORMALISED[normalised](pixels[chosen], theta))
        return torch.nn.functional.cross_entropy(hidden @ last.T, classes[chosen])

    optimizer = walker.optimizer([theta])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) if schedule else None
    over = 1 if normalised == "rows" else (0, 1)
    rows = [*_squares(theta, train(optimizer, loss, steps, scheduler), over)]
    shape = tuple(theta.shape[1:] if normalised == "rows" else theta.shape)
    return Course(*np.array(rows).T, shape)


def _squares(theta: Tensor, steps: Iterator[int], over: Any) -> Iterator[tuple[float, ...]]:
    before = theta.detach().clone()
    for _ in steps:
        now = theta.detach()
        square = before.square().sum(over)
        moved = (now - before).square().sum(over) / square
        gamma = torch.as_tensor(theta.grad).square().sum(over) * square
        yield square.mean().item(), moved.mean().item(), gamma.mean().item()
        before.copy_(now)


def derived_and_measured(walker: Walker, course: Course) -> NDArray:
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


class Followed(NamedTuple):
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


def follow(walker: Walker, steps: int) -> Followed:
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
    smooth = (np.sqrt(np.convolve(np.pad(each, (SMOOTH - 1, 0), "edge"), kernel, "valid")) for each in course[:2])
    slowness = relaxation * np.abs(np.gradient(np.log(lrs)))
    return Followed(*smooth, law_norm, law("‖Δθ‖/‖θ‖"), lagging, slowness)
