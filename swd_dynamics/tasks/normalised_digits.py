"""A network on digits whose first layer is normalised, so that its loss does not depend on the length of weights."""

from collections.abc import Callable

import torch
from torch import Tensor

from swd_dynamics.errors import InputError
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


def normalised_digits(normalised: str = "weights") -> tuple[Tensor, Callable[[int], Tensor]]:
    """The weights of the normalised layer, and the loss of a step on a new minibatch; the last layer is fixed.

    Pixels that are almost never inked are left out, because their gradients are far from noise.

    Parameters
    ----------
    normalised : str
        A name of NORMALISED.

    Raises
    ------
    InputError
        If there is no such name.

    Examples
    --------
    The gradient is perpendicular to the weights:

    >>> theta, loss = normalised_digits("outputs")
    >>> loss(0).backward()
    >>> abs((theta.grad * theta).sum().item()) < 1e-5
    True
    """
    if normalised not in NORMALISED:
        raise InputError(f"normalised = {normalised!r} is not allowed: give one of {', '.join(NORMALISED)}")
    images, labels = digits(IMAGES)
    inked = (images > images.min(axis=0)).mean(axis=0) > INKED
    pixels, classes = torch.tensor(images[:, inked], dtype=torch.float32), torch.tensor(labels)
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(UNITS, pixels.shape[1], generator=generator)
    theta = (2 * theta / theta.norm()).requires_grad_()
    last = torch.randn(10, UNITS, generator=generator) / 2

    def loss(_: int) -> Tensor:
        chosen = torch.randint(len(pixels), (BATCH,), generator=generator)
        hidden = torch.tanh(NORMALISED[normalised](pixels[chosen], theta))
        return torch.nn.functional.cross_entropy(hidden @ last.T, classes[chosen])

    return theta, loss
