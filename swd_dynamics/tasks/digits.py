"""Real images: scikit-learn's handwritten digits, 8 × 8 pixels, for a logistic regression and for tanh networks.

The data ship in scikit-learn's wheel; nothing is downloaded.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from swd_dynamics.checks import whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.tables import Table
from swd_dynamics.tasks.classification import classification
from swd_dynamics.tasks.seeds import generator
from swd_dynamics.tasks.task import Task, check_placement

PIXELS, CLASSES, IMAGES = 64, 10, 1797


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    """½ · mean over samples of Σ over classes (output − one-hot label)².

    Examples
    --------
    Outputs 0 miss the one-hot label by 1 in one class.

    >>> squared(torch.zeros(5, 10), torch.arange(5)).item()
    0.5
    """
    target = functional.one_hot(labels, CLASSES).to(outputs.dtype)
    return 0.5 * ((outputs - target) ** 2).sum(dim=1).mean()


LOSSES: Table[Callable[[Tensor, Tensor], Tensor]] = Table(
    "loss", **{"cross-entropy": functional.cross_entropy, "squared": squared}
)


def logistic_regression(
    samples: int = 500,
    batch_size: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Task:
    """Multinomial logistic regression on digits: 64 pixels → 10 classes, weights and bias, cross-entropy.

    L = mean over samples of −log softmax(Wx + b)[label]; convex, and its Hessian is bounded everywhere.

    Parameters
    ----------
    samples : int
        The number of images: the first of the 1797, standardised as :func:`digits` says.
    batch_size : int, optional
        Images in a step, drawn without replacement and independently in every step; by default all.
    seed : int
        Seed of the initial weights and of the batches.
    device, dtype
        Device and dtype of the model and the data. Random numbers are drawn on the CPU, the same for every device.

    Raises
    ------
    InputError
        If ``samples`` is not in 1…1797, ``batch_size`` not in 1…samples, or ``seed`` not a whole number ≥ 0, or the
        device is not there.

    Examples
    --------
    Without weights every class is as likely: L = log 10 = 2.302585…

    >>> task = logistic_regression()
    >>> task.set_theta(0 * task.theta)
    >>> round(task.loss(step=0).item(), 6)
    2.302585
    """
    return _classifier("logistic", (), "cross-entropy", samples, batch_size, seed, device, dtype)


def tanh_network(
    hidden: Sequence[int] = (16,),
    loss: str = "cross-entropy",
    samples: int = 500,
    batch_size: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Task:
    """A fully connected tanh network on digits: 64 pixels → hidden layers → 10 classes.

    Parameters
    ----------
    hidden : sequence of int
        Widths of the hidden layers.
    loss : str
        ``"cross-entropy"``, or ``"squared"``: ½ · mean over samples of Σ over classes (output − one-hot label)².
    samples, batch_size, seed, device, dtype
        As for :func:`logistic_regression`.

    Raises
    ------
    InputError
        If a width is not a whole number ≥ 1, the loss is unknown, or another argument is out of range.

    Examples
    --------
    64·16 + 16 weights and biases lead to the hidden layer, 16·10 + 10 from it.

    >>> tanh_network().theta.shape
    (1210,)
    """
    if isinstance(hidden, str) or not isinstance(hidden, Sequence):
        raise InputError(f"hidden = {hidden!r} is not allowed: it must be the widths of the hidden layers, as (16,)")
    return _classifier("network", tuple(hidden), loss, samples, batch_size, seed, device, dtype)


def digits(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images of scikit-learn's digits, standardised, and their labels.

    Every pixel has mean 0 and variance 1 over these samples; one that is the same in all of them becomes 0.

    Parameters
    ----------
    samples : int
        1 to 1797.

    Returns
    -------
    images : array, shape (samples, 64)
    labels : array of int, shape (samples,)

    Raises
    ------
    InputError
        If there are not so many.

    Examples
    --------
    >>> digits(4)[1].tolist()
    [0, 1, 2, 3]
    """
    images, labels = _standardised(whole_number("samples", samples, 1, IMAGES))[0]
    return images.copy(), labels.copy()


def held_out(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """The images after those of :func:`digits`, standardised with the same means and deviations, and their labels.

    A pixel that is the same in all of the first images is 0 here too.

    Parameters
    ----------
    samples : int
        How many come first: 1 to 1796.

    Returns
    -------
    images : array, shape (1797 − samples, 64)
    labels : array of int, shape (1797 − samples,)

    Raises
    ------
    InputError
        If none would be left.

    Examples
    --------
    >>> held_out(1795)[1].tolist()
    [9, 8]
    """
    images, labels = _standardised(whole_number("samples", samples, 1, IMAGES - 1))[1]
    return images.copy(), labels.copy()


@cache
def _standardised(samples: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The first images and the other ones, both standardised with means and deviations of the first."""
    from sklearn.datasets import load_digits

    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    first = images[:samples]
    deviation, varies = first.std(axis=0), first.min(axis=0) < first.max(axis=0)
    images = np.where(varies, images - first.mean(axis=0), 0.0) / np.where(varies, deviation, 1.0)
    return (images[:samples], labels[:samples]), (images[samples:], labels[samples:])


def _classifier(name, hidden, loss_name, samples, batch_size, seed, device, dtype) -> Task:
    check_placement(device, dtype)
    training, test = (
        _tensors(part, device, dtype) for part in _standardised(whole_number("samples", samples, 1, IMAGES))
    )
    model = tanh_layers((PIXELS, *hidden, CLASSES), generator(seed)).to(device=device, dtype=dtype)
    name = name if batch_size is None else f"{name}-minibatch"
    description = {
        "task": name,
        "data": "scikit-learn digits",
        "samples": samples,
        "batch_size": batch_size,
        "hidden": list(hidden),
        "loss": loss_name,
        "seed": int(seed),
        "device": str(device),
        "dtype": str(dtype),
    }
    return classification(
        model,
        training,
        test if len(test[0]) else None,
        batch_size=batch_size,
        seed=seed,
        loss=LOSSES[loss_name],
        name=name,
        description=description,
    )


def _tensors(data: tuple[np.ndarray, np.ndarray], device, dtype) -> tuple[Tensor, Tensor]:
    images, labels = data
    return torch.tensor(images, dtype=dtype, device=device), torch.tensor(labels, dtype=torch.int64, device=device)


def tanh_layers(widths: Sequence[int], random: torch.Generator) -> torch.nn.Sequential:
    """Linear layers with tanh between them, drawn by torch's default scheme for Linear without the global generator.

    Weights and biases are uniform in ±1/√(number of inputs), layer by layer, weights first.

    Parameters
    ----------
    widths : sequence of int
        The number of inputs, the widths of the hidden layers, and the number of outputs.
    random : torch.Generator

    Raises
    ------
    InputError
        If a width is not a whole number ≥ 1.

    Examples
    --------
    >>> tanh_layers((4, 2, 3), generator(0))
    Sequential(
      (0): Linear(in_features=4, out_features=2, bias=True)
      (1): Tanh()
      (2): Linear(in_features=2, out_features=3, bias=True)
    )
    """
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(widths):
        whole_number("hidden width", outputs, 1)
        layer = torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs, dtype=torch.float64)
        for parameter in layer.parameters():  # weight, then bias
            torch.nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=random)
        layers += [layer, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])
