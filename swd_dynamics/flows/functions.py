"""The functions that a user gives: they are called with numpy arrays, and may answer with torch tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ArrayFunction:
    """A user's function, whose answer becomes an array of float64, also where the user computes with torch.

    Parameters
    ----------
    call : str
        How it is called, as ``"gradient(theta)"``; what messages call it.
    function : callable

    Raises
    ------
    InputError
        When it is called, if it fails as code does that expects tensors, or if its answer is not made of numbers.

    Examples
    --------
    >>> import torch
    >>> ArrayFunction("gradient(theta)", lambda theta: 2 * torch.from_numpy(theta))(np.ones(2))
    array([2., 2.])
    """

    call: str
    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Array:
        try:
            answer = self.function(*arguments)
        except (TypeError, AttributeError, RuntimeError, ValueError) as error:
            if isinstance(error, ValueError) and "ensor" not in str(error):
                raise  # where a function is not defined it may raise ValueError, as math.log does
            given = " and ".join(map(_described, arguments))
            raise InputError(
                f"{self.call} failed with {type(error).__name__}: {error}. It is called with {given}. Code for torch"
                " turns it into a tensor first, with torch.as_tensor, and a model then needs model.double(); the"
                " answer may be a tensor"
            ) from error
        try:
            numbers = None if answer is None else as_array(answer)
        except (TypeError, ValueError):
            numbers = None
        if numbers is None:
            raise InputError(f"{self.call} returned {answer!r}, which is not an array of numbers")
        return numbers


def array_function(call: str, function: Any) -> ArrayFunction:
    """The same function, once more if it is one already.

    Raises
    ------
    InputError
        If it is not callable.
    """
    if isinstance(function, ArrayFunction):
        return function
    if not callable(function):
        name = call.partition("(")[0]
        raise InputError(f"{name} = {function!r} is not a function: give {call}, which returns an array like theta")
    return ArrayFunction(call, function)


def as_array(value: Any) -> Array:
    """An array of float64 from numbers, arrays or tensors on any device, or a list or tuple of these."""
    if isinstance(value, list | tuple):
        return np.array([as_array(each) for each in value], dtype=float)
    return np.asarray(value.detach().cpu().double() if hasattr(value, "detach") else value, dtype=float)


def _described(argument: Any) -> str:
    if isinstance(argument, np.ndarray):
        return f"a numpy array of {argument.dtype}, shape {argument.shape}"
    return f"the {type(argument).__name__} {argument!r}"
