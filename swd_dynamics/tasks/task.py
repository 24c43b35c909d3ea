"""A task: a model, the loss of each step's batch, and the full loss with its derivatives at any point."""

from __future__ import annotations  # signatures in help() then say ArrayLike and not all that it stands for

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from swd_dynamics.errors import InputError

HESSIAN_ROWS_AT_ONCE = 64  # each row is a pass through the model with all the data; 128 take twice the memory


@dataclass(frozen=True, eq=False)
class DrawnLoss:
    """The loss on the batch of a step, in two parts: which data are drawn, and the loss on them.

    Many models that are trained on the same batches can then share each batch.

    Parameters
    ----------
    draw : callable (step) → tuple of torch.Tensor
        The batch of the 0-based ``step``.
    loss : callable (model, *batch) → torch.Tensor, shape ()

    Examples
    --------
    >>> numbers = torch.tensor([4.0, 6.0])
    >>> mean_square = DrawnLoss(lambda step: (numbers[step : step + 1],), lambda model, x: model(x).square().mean())
    >>> mean_square(torch.nn.Identity(), step=1).item()
    36.0
    """

    draw: Callable[[int], tuple[Tensor, ...]]
    loss: Callable[..., Tensor]

    def __call__(self, model: torch.nn.Module, step: int) -> Tensor:
        return self.loss(model, *self.draw(step))


@dataclass(frozen=True, eq=False)
class Task:
    """What is trained: a model, its loss on the batch of each step, and its loss on all the data.

    A batch is a function of the task's seed and the step, not of the steps before. So several optimizers get the
    same gradient noise.

    Parameters
    ----------
    name : str
    model : torch.nn.Module
        Its weights are the start of the training; an optimizer changes them.
    batch_loss : callable (model, step) → torch.Tensor, shape ()
        Loss on the batch of the 0-based ``step``; in full-batch training this is the full loss.
    full_loss : callable (model) → torch.Tensor, shape ()
        Loss on all the data, without noise.
    description : dict
        The arguments of the task, in values that JSON can hold.
    test_error : callable (model) → torch.Tensor, shape (), optional
        The error on data that are never trained on: of a classifier the fraction of wrong classes, of a language model
        the mean cross-entropy in nats.

    Examples
    --------
    f = ½(1·θ₁² + 4·θ₂²) at θ = (2, 1): gradient (2, 4), f = 4.

    >>> from swd_dynamics.tasks import quadratic
    >>> task = quadratic(spectrum=(1, 4), start=(2, 1))
    >>> task
    Task('quadratic', 2 weights)
    >>> task.loss(step=0).item(), task.gradient(task.theta).tolist()
    (4.0, [2.0, 4.0])
    """

    name: str
    model: torch.nn.Module
    batch_loss: Callable[[torch.nn.Module, int], Tensor]
    full_loss: Callable[[torch.nn.Module], Tensor]
    description: dict
    test_error: Callable[[torch.nn.Module], Tensor] | None = None

    def __repr__(self) -> str:
        n = sum(parameter.numel() for parameter in self.model.parameters())
        return f"Task({self.name!r}, {n} weight{'s' * (n != 1)})"

    def loss(self, step: int) -> Tensor:
        """The loss on the batch of the 0-based ``step``, at the model's present weights, ready for ``backward``."""
        return self.batch_loss(self.model, step)

    def fresh(self) -> Task:
        """The same task with a copy of the model and its present weights."""
        return replace(self, model=deepcopy(self.model))

    @property
    def theta(self) -> NDArray[np.float64]:
        """All weights as one vector, shape (n,), in the order of ``model.parameters()``; a copy."""
        return _array(parameters_to_vector(self.model.parameters()))

    def set_theta(self, theta: ArrayLike) -> None:
        """Put the model's weights at θ.

        Parameters
        ----------
        theta : array, shape (n,)

        Raises
        ------
        InputError
            If it has another shape.
        """
        with torch.no_grad():
            vector_to_parameters(self._vector("theta", theta), self.model.parameters())

    def gradient(self, theta: ArrayLike) -> NDArray[np.float64]:
        """∇L(θ) of the full loss; the model's own weights do not change.

        Parameters
        ----------
        theta : array, shape (n,)

        Returns
        -------
        array, shape (n,)

        Raises
        ------
        InputError
            If θ has another shape.
        """
        point = self._vector("theta", theta).requires_grad_()
        with torch.enable_grad():
            return _array(_derivative(self._loss_at(point), point))

    def hvp(self, theta: ArrayLike, vector: ArrayLike) -> NDArray[np.float64]:
        """∇²L(θ)·v of the full loss, the Hessian never formed.

        ∇²L is symmetric, so this is the gradient of v·∇L. It is computed in torch's reverse mode, because the forward
        mode loads deprecated modules.

        Parameters
        ----------
        theta, vector : array, shape (n,)

        Returns
        -------
        array, shape (n,)

        Raises
        ------
        InputError
            If θ or v has another shape.

        Examples
        --------
        >>> from swd_dynamics.tasks import quadratic
        >>> quadratic(spectrum=(1, 4)).hvp((2, 1), (1, 1)).tolist()
        [1.0, 4.0]
        """
        point, direction = self._vector("theta", theta), self._vector("vector", vector)
        point.requires_grad_()
        with torch.enable_grad():
            gradient = _derivative(self._loss_at(point), point, create_graph=True)
        return _array(_derivative(gradient, point, direction))

    def hessian(self, theta: ArrayLike) -> NDArray[np.float64]:
        """∇²L(θ) of the full loss, in full.

        Parameters
        ----------
        theta : array, shape (n,)

        Returns
        -------
        array, shape (n, n)

        Raises
        ------
        InputError
            If θ has another shape.

        Examples
        --------
        >>> from swd_dynamics.tasks import quadratic
        >>> quadratic(spectrum=(1, 4)).hessian((2, 1)).tolist()
        [[1.0, 0.0], [0.0, 4.0]]
        """
        gradient = torch.func.grad(self._loss_at)
        return _array(torch.func.jacrev(gradient, chunk_size=HESSIAN_ROWS_AT_ONCE)(self._vector("theta", theta)))

    def _loss_at(self, theta: Tensor) -> Tensor:
        return at_weights(self.model, theta, self.full_loss)

    def _vector(self, name: str, values: ArrayLike) -> Tensor:
        first = next(self.model.parameters())
        vector = torch.tensor(np.asarray(values, dtype=np.float64), dtype=first.dtype, device=first.device)
        size = sum(parameter.numel() for parameter in self.model.parameters())
        if vector.shape != (size,):
            raise InputError(
                f"{name} has shape {tuple(vector.shape)}, but the task {self.name!r} has {size} weights: give ({size},)"
            )
        return vector


def at_weights(model: torch.nn.Module, theta: Tensor, function: Callable[..., Tensor], *data: Tensor) -> Tensor:
    """A function of a model, with other weights in the model; for ``torch.func``.

    Parameters
    ----------
    theta : torch.Tensor, shape (n,)
        The weights, in the order of ``model.parameters()``. The model's own weights do not change.
    function : callable (model, *data) → torch.Tensor

    Examples
    --------
    >>> line = torch.nn.Linear(1, 1)
    >>> at_weights(line, torch.tensor([2.0, 1.0]), lambda model, x: model(x), torch.tensor([3.0])).item()
    7.0
    """
    names, parameters = zip(*model.named_parameters(), strict=True)
    pieces = theta.split([parameter.numel() for parameter in parameters])
    weights = {
        f"model.{name}": piece.view_as(parameter)
        for name, piece, parameter in zip(names, pieces, parameters, strict=True)
    }
    return torch.func.functional_call(_FunctionOf(model, function), weights, data)


class _FunctionOf(torch.nn.Module):
    """A function of a model as a module, so that the model can be called with other weights."""

    def __init__(self, model: torch.nn.Module, function: Callable[..., Tensor]):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *data: Tensor) -> Tensor:
        return self.function(self.model, *data)


def check_placement(device: torch.device | str, dtype: torch.dtype) -> None:
    """Refuse a device that is not there, and a dtype that weights cannot have.

    Raises
    ------
    InputError
        With the value and torch's reason.

    Examples
    --------
    >>> check_placement("cpu", torch.int64)
    Traceback (most recent call last):
    swd_dynamics.errors.InputError: dtype = torch.int64 is not allowed: weights are floating-point numbers
    """
    if not dtype.is_floating_point:
        raise InputError(f"dtype = {dtype} is not allowed: weights are floating-point numbers")
    try:
        torch.empty(0, device=device, dtype=dtype)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device = {str(device)!r} with dtype = {dtype} cannot be used: {reason}") from None


def _derivative(value: Tensor, at: Tensor, outer: Tensor | None = None, create_graph: bool = False) -> Tensor:
    """The derivative of a value by a leaf of autograd's graph; 0 where the value does not depend on the leaf.

    For small models this takes a third of the time of ``torch.func.grad``.
    """
    if not value.requires_grad:
        return torch.zeros_like(at)
    more = {"create_graph": create_graph, "allow_unused": True, "materialize_grads": True}
    return torch.autograd.grad(value, at, outer, **more)[0]


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().to(torch.float64).numpy().copy()
