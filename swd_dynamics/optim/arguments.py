"""The gate for an optimizer's arguments: inside a step they are trusted."""

from numbers import Real

import torch

from swd_dynamics.errors import InputError


def check(name: str, value, interval: str) -> None:
    """Refuse an argument outside its interval.

    Parameters
    ----------
    name : str
        What the message calls it.
    value : number or torch.Tensor with one element
    interval : str
        As mathematicians write it: ``"[0, 1)"``, ``"(0, inf)"``. Infinity and NaN lie in none.

    Raises
    ------
    InputError
        With name, value and interval.

    Examples
    --------
    >>> check("momentum", 1.5, "[0, 1)")
    Traceback (most recent call last):
    swd_dynamics.errors.InputError: momentum = 1.5 is not allowed: it must lie in [0, 1)
    """
    if not isinstance(value, Real) and not (isinstance(value, torch.Tensor) and value.numel() == 1):
        raise InputError(f"{name} = {value!r} is not a number: it must lie in {interval}")
    number = float(value)
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below and abs(number) < float("inf")):
        raise InputError(f"{name} = {number:g} is not allowed: it must lie in {interval}")


def check_pair(name: str, values, intervals: tuple[str, str]) -> None:
    """Refuse ``betas`` that are not two numbers, each inside its interval."""
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise InputError(f"{name} = {values!r} is not allowed: it must be a pair of numbers, as (0.9, 0.99)")
    for i in range(2):
        check(f"{name}[{i}]", values[i], intervals[i])
