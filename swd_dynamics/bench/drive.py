"""Drive a torch optimizer with gradients that were fixed beforehand.

No loss is trained, and the gradients do not depend on the weights. So each step shows the optimizer and nothing else.
Foreign code may fail in any way: each of its errors is raised as a :class:`ForeignError`.
"""

import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from swd_dynamics.errors import InputError

Factory = Callable[..., Optimizer]
Shape = tuple[int, ...]
Action = Callable[[Optimizer, Sequence[Parameter]], None]  # changes a run before one of its steps

SEED = 0  # of the random numbers that an optimizer draws; any other seed would do as well


class ForeignError(InputError):
    """An optimizer cannot be made, or fails at a step. The message says which, and quotes the error."""


class SecondGradient(RuntimeError):
    """An optimizer asked for a second gradient within a step, but fixed gradients provide one for each step."""


def check_factory(factory: Any) -> None:
    """Refuse what cannot make an optimizer: anything not callable, and a rule, which is called with a state.

    Examples
    --------
    >>> check_factory("AdamW")
    Traceback (most recent call last):
    swd_dynamics.errors.InputError: factory = 'AdamW' is not callable: give a class or a function of the parameters, ...
    """
    if isinstance(factory, torch.nn.Module):
        raise InputError(
            f"factory = a {type(factory).__name__} is a model and not an optimizer: give a function of the parameters,"
            " as lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1)"
        )
    finished = hasattr(factory, "param_groups")
    is_rule = type(factory).__module__.startswith("swd_dynamics.rules")
    if is_rule or not callable(factory):
        problem = "is a rule and not a torch optimizer" if is_rule else "is not callable"
        raise InputError(
            f"factory = {f'a finished {type(factory).__name__}' if finished else repr(factory)} {problem}: give a class"
            " or a function of the parameters, as torch.optim.SGD or functools.partial(torch.optim.SGD, lr=0.1)"
        )


def with_arguments(factory: Factory, arguments: dict[str, Any]) -> Factory:
    """The factory with some of the optimizer's arguments.

    Examples
    --------
    >>> make(with_arguments(torch.optim.SGD, {"lr": 0.5}), [Parameter(torch.ones(2))]).param_groups[0]["lr"]
    0.5
    """
    if not arguments:
        return factory
    check_factory(factory)
    return partial(factory, **arguments)


def make(factory: Factory, given: list, **arguments) -> Optimizer:
    """The optimizer that a factory makes of parameters or parameter groups.

    Raises
    ------
    ForeignError
        If the factory fails.
    InputError
        If the factory is not callable, or returns something else than an optimizer: torch's, or an object with
        ``param_groups``, ``state`` and ``step``, as libraries have that carry a copy of torch's base class.

    Examples
    --------
    >>> make(torch.optim.SGD, [Parameter(torch.ones(2))], lr=0.5).param_groups[0]["lr"]
    0.5
    """
    check_factory(factory)
    called = getattr(factory, "func", factory)  # by a functools.partial
    name = called.__name__ if isinstance(called, type) else "the factory's optimizer"
    try:
        optimizer = factory(given, **arguments)
    except (Exception, SystemExit) as error:
        raise _foreign_error(f"{name} cannot be made from parameters alone", error) from error
    if not all(hasattr(optimizer, name) for name in ("param_groups", "state", "step")):
        raise InputError(f"the factory must return a torch.optim.Optimizer, not {optimizer!r}")
    return optimizer


def sizes_of(shapes: Iterable[Shape]) -> list[int]:
    """The number of weights of each tensor."""
    return [prod(shape) for shape in shapes]


def parameters_of(theta: NDArray, shapes: Sequence[Shape], dtype: torch.dtype = torch.float64) -> list[Parameter]:
    """All weights, shape (n,), as one parameter of each shape, rounded to a type."""
    pieces = torch.from_numpy(theta).to(dtype).split(sizes_of(shapes))
    return [Parameter(piece.reshape(shape).clone()) for piece, shape in zip(pieces, shapes, strict=True)]


def weights_of(parameters: Sequence[Parameter]) -> NDArray:
    """The weights of all parameters as one vector, a copy in float64, shape (n,)."""
    held = [parameter.detach() for parameter in parameters]
    # To convert what is in float64 already would take as long as all the rest.
    return np.concatenate([(own if own.dtype is torch.float64 else own.double()).numpy() for own in held], axis=None)


def drive(
    optimizer: Optimizer,
    parameters: Sequence[Parameter],
    gradients: NDArray,
    action_before: Callable[[int], Action | None] = lambda k: None,
    *,
    same_tensors: bool = False,
    closures: bool = False,
) -> Iterator[tuple[NDArray, NDArray]]:
    """Take one step with each gradient. Yields θ before and after each step, both of shape (n,).

    Parameters
    ----------
    gradients : array, shape (steps, n)
    action_before : callable
        Gives the action that changes the run before step k = 0, 1, …; None: no action.
    same_tensors : bool
        Whether gradients are written into the same tensors again and again, or come in new tensors.
    closures : bool
        Whether an optimizer that requires a closure gets a closure, which can be called once.

    Raises
    ------
    ForeignError
        If a step fails.

    Examples
    --------
    >>> weights = parameters_of(np.ones(1), [(1,)])
    >>> list(drive(torch.optim.SGD(weights, lr=0.5), weights, np.ones((1, 1))))
    [(array([1.]), array([0.5]))]
    """
    name, step = type(optimizer).__name__, optimizer.step
    closures = closures and _requires_closure(optimizer)
    after = weights_of(parameters)
    for k, pieces in enumerate(_gradients_of_steps(parameters, gradients)):
        before, action = after, action_before(k)
        if action is not None:
            action(optimizer, parameters)
            before = weights_of(parameters)
        _set_gradients(parameters, pieces, same_tensors)
        try:
            step(_closure()) if closures else step()
        except (Exception, SystemExit) as error:
            what = f"{name} fails at step {k + 1}" if k else f"{name} takes no step with gradients alone"
            raise _foreign_error(what, error) from error
        after = weights_of(parameters)
        yield before, after


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """The same random numbers of torch, numpy and Python in every run. The caller's sequences resume afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what foreign code draws from)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        random.seed(SEED)
        np.random.seed(SEED)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def one_thread() -> None:
    """Let torch use one thread in this process, because the tensors here are small: a second thread mostly waits."""
    torch.set_num_threads(1)


def _foreign_error(what: str, error: BaseException) -> ForeignError:
    """An error of foreign code as a ForeignError that quotes the error."""
    said = " ".join(str(error).split())
    return ForeignError(f"{what}: {type(error).__name__}: {said}")


def _gradients_of_steps(parameters: Sequence[Parameter], gradients: NDArray) -> Iterator[tuple[Tensor, ...]]:
    """For each step the gradient of each parameter, in the parameter's shape and type.

    All steps are cut into parameters at once: to cut each by itself takes longer than a step of SGD.
    """
    columns = torch.from_numpy(gradients).split([parameter.numel() for parameter in parameters], dim=1)
    cut = [
        column.reshape(len(gradients), *parameter.shape).to(parameter.dtype).unbind()
        for column, parameter in zip(columns, parameters, strict=True)
    ]
    return zip(*cut, strict=True)


def _set_gradients(parameters: Sequence[Parameter], pieces: Sequence[Tensor], same_tensors: bool) -> None:
    for parameter, piece in zip(parameters, pieces, strict=True):
        if same_tensors and parameter.grad is not None:
            parameter.grad.detach().copy_(piece)
        else:
            parameter.grad = piece.clone()


def _requires_closure(optimizer: Optimizer) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _closure() -> Callable[[], Any]:
    """A closure that can be called once, because the gradient is there already."""
    losses = iter([torch.zeros((), dtype=torch.float64)])

    def closure():
        for loss in losses:
            return loss
        raise SecondGradient("the optimizer asks for more than one gradient a step; the gradients here are fixed")

    return closure
