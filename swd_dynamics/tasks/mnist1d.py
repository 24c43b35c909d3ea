"""MNIST-1D: ten shapes as series of 40 numbers, shifted, scaled, sheared and noisy, for a tanh network.

The package mnist1d generates the series from their templates and a seed; nothing is downloaded.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

from swd_dynamics.checks import whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.tasks.classification import classification
from swd_dynamics.tasks.digits import CLASSES, tanh_layers
from swd_dynamics.tasks.seeds import generator
from swd_dynamics.tasks.task import Task, check_placement

POINTS, SERIES = 40, 4000  # numbers in a series, and series to train on; 1000 more are the test


def mnist1d(
    hidden: Sequence[int] = (32,),
    samples: int = SERIES,
    batch_size: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Task:
    """A fully connected tanh network on MNIST-1D: 40 numbers → hidden layers → 10 classes, cross-entropy.

    The data are those of the package's own arguments, with its seed 42, whatever the seed of the task is. Over all
    5000 series the numbers have mean 0 and variance 1.

    Source: Greydanus & Kobak 2020, arXiv 2011.14439.

    Parameters
    ----------
    hidden : sequence of int
        Widths of the hidden layers.
    samples : int
        The number of series to train on: the first of the 4000. The test error is always that of the other 1000.
    batch_size : int, optional
        Series in a step, drawn without replacement and independently in every step; by default all.
    seed : int
        Seed of the initial weights and of the batches.
    device, dtype
        Device and dtype of the model and the data. Random numbers are drawn on the CPU, the same for every device.

    Raises
    ------
    InputError
        If the package mnist1d is not installed, ``samples`` is not in 1…4000, or another argument is out of range.

    Examples
    --------
    40·32 + 32 weights and biases lead to the hidden layer, 32·10 + 10 from it.

    >>> mnist1d().theta.shape  # doctest: +SKIP
    (1642,)
    """
    check_placement(device, dtype)
    whole_number("samples", samples, 1, SERIES)
    training, test = _series()
    inputs, labels = (part[:samples] for part in training)
    model = tanh_layers((POINTS, *hidden, CLASSES), generator(seed)).to(device=device, dtype=dtype)
    description = {
        "task": "mnist1d",
        "data": "MNIST-1D",
        "samples": samples,
        "batch_size": batch_size,
        "hidden": list(hidden),
        "loss": "cross-entropy",
        "seed": int(seed),
        "device": str(device),
        "dtype": str(dtype),
    }
    return classification(
        model,
        (inputs.to(device=device, dtype=dtype), labels.to(device)),
        (test[0].to(device=device, dtype=dtype), test[1].to(device)),
        batch_size=batch_size,
        seed=seed,
        name="mnist1d",
        description=description,
    )


@cache
def _series() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """The series and labels to train on, and those of the test, in float64."""
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError:
        raise InputError('the task "mnist1d" needs the package mnist1d: pip install "swd-dynamics[data]"') from None
    with _global_seeds_kept():  # because the package seeds the global generators
        data = make_dataset(get_dataset_args())
    training, test = ((torch.tensor(data["x" + end]), torch.tensor(data["y" + end])) for end in ("", "_test"))
    return training, test


@contextmanager
def _global_seeds_kept() -> Iterator[None]:
    """Put the states of the global generators of Python and numpy back afterwards."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
