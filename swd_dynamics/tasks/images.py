"""A convolutional network on scikit-learn's digits, enlarged to 28 × 28 pixels."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential, functional

from swd_dynamics.checks import whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.tasks.classification import classification
from swd_dynamics.tasks.digits import CLASSES, IMAGES, digits, held_out
from swd_dynamics.tasks.seeds import generator
from swd_dynamics.tasks.task import Task, check_placement

SIDE, ENLARGED, KERNEL, POOL = 8, 28, 3, 2


def convolutional_network(
    channels: Sequence[int] = (32, 64),
    hidden: int = 128,
    samples: int = 1000,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Task:
    """A convolutional network on digits of 28 × 28 pixels → 10 classes, cross-entropy.

    Two 3 × 3 convolutions, each followed by ReLU; the maximum of every 2 × 2 pixels; a linear layer with ReLU, and one
    to the classes. With c₁ and c₂ channels and h hidden units there are 10c₁ + 9c₁c₂ + c₂ + (144c₂ + 1)h + 10(h + 1)
    weights: 1.2 million by default. Initial weights and biases are uniform in ±1/√(number of inputs), torch's default.

    Parameters
    ----------
    channels : pair of int
        Number of channels of each of the two convolutions.
    hidden : int
        Units between the linear layers.
    samples : int
        The number of images: the first of the 1797, standardised as
        :func:`~swd_dynamics.tasks.digits.digits` says, then enlarged.
    batch_size : int
        Images in a step, drawn without replacement and independently in every step.
    seed : int
        Seed of the initial weights and of the batches.
    device, dtype
        Device and dtype of the model and the data. Random numbers are drawn on the CPU, the same for every device.

    Raises
    ------
    InputError
        If a size is not a whole number ≥ 1, ``samples`` not in 1…1797, ``batch_size`` not in 1…samples, or ``seed`` not
        a whole number ≥ 0, or the device is not there.

    Examples
    --------
    >>> convolutional_network().theta.shape
    (1199882,)
    """
    check_placement(device, dtype)
    training = _tensors(digits(samples), device, dtype)
    test = _tensors(held_out(samples), device, dtype) if samples < IMAGES else None
    whole_number("batch_size", batch_size, 1, samples)
    model = _network(_pair(channels), hidden, generator(seed)).to(device=device, dtype=dtype)
    description = {
        "task": "convolution",
        "data": "scikit-learn digits, 28 × 28",
        "samples": samples,
        "batch_size": batch_size,
        "channels": list(channels),
        "hidden": hidden,
        "loss": "cross-entropy",
        "seed": int(seed),
        "device": str(device),
        "dtype": str(dtype),
    }
    return classification(
        model, training, test, batch_size=batch_size, seed=seed, name="convolution", description=description
    )


def _tensors(data: tuple[np.ndarray, np.ndarray], device, dtype) -> tuple[Tensor, Tensor]:
    images, labels = data
    return enlarged(images).to(device=device, dtype=dtype), torch.tensor(labels, dtype=torch.int64, device=device)


def enlarged(images: np.ndarray) -> Tensor:
    """Images of 8 × 8 pixels at 28 × 28, bilinear between the pixels' centres, constant outside of them.

    Parameters
    ----------
    images : array, shape (n, 64)

    Returns
    -------
    torch.Tensor of float64, shape (n, 1, 28, 28)

    Examples
    --------
    An image of one shade stays one.

    >>> enlarged(np.full((1, 64), 0.5)).round(decimals=12).unique().tolist()
    [0.5]
    """
    small = torch.tensor(images, dtype=torch.float64).view(-1, 1, SIDE, SIDE)
    return functional.interpolate(small, size=(ENLARGED, ENLARGED), mode="bilinear", align_corners=False)


def _pair(channels: Sequence[int]) -> tuple[int, int]:
    if isinstance(channels, str) or not isinstance(channels, Sequence) or len(channels) != 2:
        raise InputError(
            f"channels = {channels!r} is not allowed: it must be two numbers, the channels of each convolution, as"
            " (32, 64)"
        )
    for number in channels:
        whole_number("number of channels", number, 1)
    return channels[0], channels[1]


def _network(channels: tuple[int, int], hidden: int, random: torch.Generator) -> Sequential:
    """The layers, drawn in order, weights before biases, without the global generator."""
    whole_number("hidden", hidden, 1)
    pooled = channels[1] * ((ENLARGED - 2 * (KERNEL - 1)) // POOL) ** 2
    with torch.device("meta"):  # torch's own initial weights are not drawn
        layers = Sequential(
            *(Conv2d(1, channels[0], KERNEL), ReLU(), Conv2d(*channels, KERNEL), ReLU(), MaxPool2d(POOL), Flatten()),
            *(Linear(pooled, hidden), ReLU(), Linear(hidden, CLASSES)),
        )
    layers.to(torch.float64).to_empty(device="cpu")
    for layer in layers:
        if isinstance(layer, (Conv2d, Linear)):
            bound = layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters():
                torch.nn.init.uniform_(parameter, -bound, bound, generator=random)
    return layers
