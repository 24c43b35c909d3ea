"""A task from any network and any labelled data: the reader's own, or one of this package's."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from swd_dynamics.checks import whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.tasks.seeds import generator
from swd_dynamics.tasks.task import DrawnLoss, Task

SAMPLES_AT_ONCE = 512  # in the full loss; twice as many take twice the memory


def classification(
    model: torch.nn.Module,
    training: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor] | None = None,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    name: str = "classification",
    description: Mapping[str, Any] | None = None,
) -> Task:
    """A network that is trained to name the class of its input.

    The full loss and the test error are those of the model in evaluation mode: dropout drops nothing, and a batch norm
    uses its running means.

    Parameters
    ----------
    model : torch.nn.Module
        From inputs, shape (samples, …), to a score for each class, shape (samples, classes).
    training, test : pair of torch.Tensor
        Inputs, shape (samples, …), and labels, shape (samples,), on the model's device. Without ``test`` the task has
        no test error.
    batch_size : int, optional
        Samples in a step, drawn without replacement and independently in every step; by default all.
    seed : int
        Seed of the batches.
    loss : callable (scores, labels) → torch.Tensor, shape ()
        A mean over the samples.
    name, description
        As for :class:`~swd_dynamics.tasks.task.Task`.

    Raises
    ------
    InputError
        If there are not as many labels as inputs, or ``batch_size`` is not from 1 to the number of samples.

    Examples
    --------
    A network whose scores are its inputs puts one of these two samples into the wrong class:

    >>> data = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])
    >>> network = torch.nn.Linear(2, 2)
    >>> task = classification(network, data, data)
    >>> task.set_theta([1, 0, 0, 1, 0, 0])
    >>> task.test_error(task.model).item()
    0.5
    """
    inputs, labels = _paired("training", training)
    if batch_size is not None:
        whole_number("batch_size", batch_size, 1, len(inputs))

    def draw(step: int) -> tuple[Tensor, Tensor]:
        if batch_size is None:
            return inputs, labels
        chosen = batch(len(inputs), batch_size, seed, step).to(inputs.device)
        return inputs[chosen], labels[chosen]

    def loss_on(model: torch.nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return loss(model(inputs), labels)

    def full_loss(model: torch.nn.Module) -> Tensor:
        return loss(_in_pieces(model, inputs), labels)

    test_error = None if test is None else _wrong(*_paired("test", test))
    return Task(name, model, DrawnLoss(draw, loss_on), full_loss, dict(description or {}), test_error)


def batch(samples: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Which samples are in the batch of a step: drawn without replacement, a function of (seed, step) alone.

    Returns
    -------
    torch.Tensor of int64, shape (batch_size,)

    Examples
    --------
    >>> sorted(batch(samples=4, batch_size=4, seed=0, step=9).tolist())
    [0, 1, 2, 3]
    """
    return torch.randperm(samples, generator=generator(seed, step))[:batch_size]


def _paired(name: str, data: Any) -> tuple[Tensor, Tensor]:
    try:
        inputs, labels = data
        agree = len(inputs) == len(labels) and len(inputs) > 0
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a pair of tensors: the inputs, and a label for each of them") from None
    if not agree:
        raise InputError(f"{name} has {len(inputs)} inputs and {len(labels)} labels: give as many, and at least one")
    return inputs, labels


def _wrong(inputs: Tensor, labels: Tensor) -> Callable[[torch.nn.Module], Tensor]:
    def fraction_wrong(model: torch.nn.Module) -> Tensor:
        scores = _in_pieces(model, inputs)
        return (scores.argmax(dim=-1) != labels).to(scores.dtype).mean()

    return fraction_wrong


def _in_pieces(model: torch.nn.Module, inputs: Tensor) -> Tensor:
    """The scores of all inputs in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        if len(inputs) <= SAMPLES_AT_ONCE:
            return model(inputs)
        return torch.cat([model(piece) for piece in inputs.split(SAMPLES_AT_ONCE)])
    finally:
        model.train(was_training)
