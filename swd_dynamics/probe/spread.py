"""The decay rate of all weights in a few numbers: mean and spread."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from swd_dynamics.probe.decay import Reading
from swd_dynamics.probe.rows import Row
from swd_dynamics.tensors.weights import Layout


def decay_scalars(reading: Reading, layout: Layout, gradients: Sequence[Tensor | None]) -> Row:
    """η_eff, and R and R/η_eff over the weights that took the step: exact where all are alike, NaN if none did."""
    taking = [i for i, gradient in enumerate(gradients) if gradient is not None]
    sizes = [layout.sizes[i] for i in taking]
    rates = [reading.rates[i] for i in taking]
    ratios = [reading.rates[i] / reading.effective_lr[layout.groups[i]] for i in taking]
    mean, low, high, deviation = spread(rates, sizes)
    return {
        "effective_lr": reading.effective_lr,
        "decay_rate": mean,
        "decay_rate_min": low,
        "decay_rate_max": high,
        "decay_rate_std": deviation,
        "decay_ratio": spread(ratios, sizes)[0],
    }


def spread(values: Sequence[Tensor], sizes: Sequence[int]) -> tuple[float, float, float, float]:
    """Mean, smallest, largest and standard deviation over all weights of several parameters.

    Parameters
    ----------
    values : sequence of Tensor
        One for each parameter: of its shape, or () where all its weights have the same value.
    sizes : sequence of int
        The number of weights of each.

    Examples
    --------
    >>> spread([torch.tensor(1.0), torch.tensor([5.0, 5.0])], [2, 2])
    (3.0, 1.0, 5.0, 2.0)
    """
    parts = [(value.double(), size) for value, size in zip(values, sizes, strict=True) if size]
    if not parts:
        return math.nan, math.nan, math.nan, math.nan
    low = float(torch.stack([value.amin().cpu() for value, _ in parts]).amin())
    high = float(torch.stack([value.amax().cpu() for value, _ in parts]).amax())
    if low == high:
        return low, low, low, 0.0
    weights = sum(size for _, size in parts)
    mean = sum(float(value.mean()) * size for value, size in parts) / weights
    variance = sum(float((value - mean).square().mean()) * size for value, size in parts) / weights
    return mean, low, high, math.sqrt(variance)
