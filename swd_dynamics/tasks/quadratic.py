"""A quadratic bowl with a given spectrum, with or without gradient noise of known size."""

from __future__ import annotations  # signatures in help() then say ArrayLike and not all that it stands for

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from swd_dynamics.checks import check
from swd_dynamics.errors import InputError
from swd_dynamics.tasks.seeds import generator
from swd_dynamics.tasks.task import DrawnLoss, Task, check_placement


class Weights(torch.nn.Module):
    """A model whose output is its weights, ``theta``."""

    def __init__(self, theta: Tensor):
        super().__init__()
        self.theta = torch.nn.Parameter(theta)

    def forward(self) -> Tensor:
        return self.theta


def quadratic(
    spectrum: ArrayLike,
    optimum: ArrayLike = 0.0,
    start: ArrayLike = 1.0,
    noise: ArrayLike = 0.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Task:
    """A quadratic with a given spectrum, f = ½ Σ hᵢ(θᵢ − θ⋆ᵢ)².

    The loss of step k is f + ξₖ·θ with ξₖ ~ N(0, noise²), independent for every weight and step: its gradient is that
    of f plus ξₖ. The full loss is f. Here ∇f = h(θ − θ⋆), ∇²f = diag(h).

    Parameters
    ----------
    spectrum : array, shape (n,)
        Curvatures hᵢ ≥ 0.
    optimum, start : float or array, shape (n,)
        θ⋆, and where training starts.
    noise : float or array, shape (n,)
        Standard deviation of the gradient noise.
    seed : int
        Seed of the noise.
    device, dtype
        Device and dtype of the weights, which are one parameter, ``theta``. The noise is drawn on the CPU, so that it
        is the same for every device.

    Raises
    ------
    InputError
        If a curvature is negative or not finite, noise is negative, the shapes do not agree, or the
        device is not there.

    Examples
    --------
    >>> quadratic(spectrum=(1, 3), optimum=(0, 1), start=(1, 2)).gradient((1, 2)).tolist()
    [1.0, 3.0]
    """
    curvature = _curvatures(spectrum)
    centre, theta0, deviation = (
        _like(curvature, name, values) for name, values in (("optimum", optimum), ("start", start), ("noise", noise))
    )
    check("noise", deviation, "[0, inf)")
    check_placement(device, dtype)
    generator(seed)  # refuses a value that cannot be a seed
    h, minimum = (torch.tensor(values, dtype=dtype, device=device) for values in (curvature, centre))

    def full_loss(model: torch.nn.Module) -> Tensor:
        return 0.5 * (h * (model() - minimum) ** 2).sum()

    def draw(step: int) -> tuple[Tensor]:
        if not deviation.any():
            return (torch.zeros_like(h),)
        xi = deviation * torch.randn(len(deviation), generator=generator(seed, step), dtype=torch.float64).numpy()
        return (torch.tensor(xi, dtype=dtype, device=device),)

    def noisy_loss(model: torch.nn.Module, xi: Tensor) -> Tensor:
        return full_loss(model) + xi @ model()

    description = {
        "task": "quadratic",
        "spectrum": curvature.tolist(),
        "optimum": centre.tolist(),
        "start": theta0.tolist(),
        "noise": deviation.tolist(),
        "seed": int(seed),
        "device": str(device),
        "dtype": str(dtype),
    }
    model = Weights(torch.tensor(theta0, dtype=dtype, device=device))
    return Task("quadratic", model, DrawnLoss(draw, noisy_loss), full_loss, description)


def _curvatures(spectrum: ArrayLike) -> NDArray[np.float64]:
    check("spectrum", spectrum, "[0, inf)")
    curvature = np.array(spectrum, dtype=np.float64)
    if curvature.ndim != 1 or not curvature.size:
        raise InputError(f"spectrum has shape {curvature.shape}: give one curvature per weight, as (1, 3, .1)")
    return curvature


def _like(curvature: NDArray[np.float64], name: str, values: ArrayLike) -> NDArray[np.float64]:
    check(name, values, "(-inf, inf)")
    given = np.asarray(values, dtype=np.float64)
    if given.shape not in ((), curvature.shape):
        raise InputError(
            f"{name} has shape {given.shape}, but the spectrum has {curvature.size} curvatures: "
            f"give one number, or {curvature.size}"
        )
    return np.broadcast_to(given, curvature.shape).copy()
