"""The gates for numbers. A value is checked where it enters; the code behind the gate trusts it."""

import os
import sys
from operator import index
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from swd_dynamics.errors import InputError


def check(name: str, value, interval: str) -> None:
    """Refuse a hyperparameter outside its interval.

    Parameters
    ----------
    name : str
        What the message calls it.
    value : number, array, tensor or sympy expression
        Every entry of an array must lie inside. A sympy number is a number like any other; an expression with symbols
        is refused only where it certainly lies outside, for example a negative symbol for a positive number.
    interval : str
        In mathematical notation: ``"[0, 1)"``, ``"(0, inf)"``.

    Raises
    ------
    InputError
        With name, value and interval.

    Examples
    --------
    >>> check("momentum", 1.2, "(0, 1)")
    Traceback (most recent call last):
    swd_dynamics.errors.InputError: momentum = 1.2 is not allowed: it must lie in (0, 1)
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    if getattr(value, "free_symbols", None):  # sympy's
        if _lies_outside(value, interval, low, high):
            raise InputError(f"{name} = {value} is not allowed: it must lie in {interval}")
        return
    if _stands_for_many(value):
        return
    numbers = _numbers(value)
    if numbers is None:
        raise InputError(f"{name} = {value!r} is not a number: it must lie in {interval}")
    above = numbers >= low if interval[0] == "[" else numbers > low
    below = numbers <= high if interval[-1] == "]" else numbers < high
    inside = above & below  # NaN is neither
    if not inside.all():
        seen = value if numbers.ndim == 0 else numbers[~inside][0]
        raise InputError(f"{name} = {seen} is not allowed: it must lie in {interval}")


def _lies_outside(expression, interval: str, low: float, high: float) -> bool:
    """Whether it follows from the assumptions on its symbols that an expression lies outside an interval."""
    if expression.is_extended_real is False:
        return True
    if not expression.is_extended_real:  # a symbol without assumptions may be anything
        return False
    below = expression < low if interval[0] == "[" else expression <= low
    above = expression > high if interval[-1] == "]" else expression >= high
    return True in (below, above)  # a comparison that sympy cannot decide is neither True nor False


def _stands_for_many(value) -> bool:
    """Whether a value is a tensor inside ``torch.vmap``, whose numbers cannot be read there."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor) and torch._C._functorch.is_batchedtensor(value)


def _numbers(value) -> np.ndarray | None:
    if value is None or isinstance(value, str):
        return None  # numpy would turn None into NaN, and a text into the number in it
    try:
        return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=float)
    except (TypeError, ValueError):
        return None


def check_argument(name: str, value, interval: str) -> None:
    """Refuse an argument of a rule outside its interval, and several numbers in a list or a tuple.

    A list would become a number for each weight without a word, where a user wants to compare several rules. For
    parameter groups, which need a number for each weight, a rule takes an array.

    Raises
    ------
    InputError
        With name, value and interval, or with what to give in place of a list.

    Examples
    --------
    >>> check_argument("lr", [0.1, 0.2], "(0, inf)")
    Traceback (most recent call last):
    swd_dynamics.errors.InputError: lr = [0.1, 0.2] is a list: give one number, and make a rule for each value (or use \
sweep) to compare several; only an array gives each weight a number of its own
    """
    check(name, value, interval)
    if isinstance(value, list | tuple):
        raise InputError(
            f"{name} = {shown(value)} is a {type(value).__name__}: give one number, and make a rule for each value (or"
            " use sweep) to compare several; only an array gives each weight a number of its own"
        )


def check_one(name: str, value: Any) -> None:
    """Refuse several numbers in a list, a tuple or an array, where there must be one number.

    Examples
    --------
    >>> check_one("lr", [0.1])
    Traceback (most recent call last):
    swd_dynamics.errors.InputError: lr = [0.1] is not allowed: it must be one number, as 0.01
    """
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
        raise InputError(f"{name} = {shown(value)} is not allowed: it must be one number, as 0.01")


def check_pair(name: str, values, intervals: tuple[str, str]) -> None:
    """Refuse ``betas`` that are not two numbers, each inside its interval."""
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise InputError(f"{name} = {values!r} is not allowed: it must be a pair of numbers, for example (0.9, 0.999)")
    for i in range(2):
        check(f"{name}[{i}]", values[i], intervals[i])


def whole_number(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """Refuse a count, a size or a seed that is not a whole number in its range.

    Parameters
    ----------
    name : str
        What the message calls it.
    value : int or numpy integer
        A float is refused even where it equals a whole number, and so are True and False.
    least, most : int
        The range, both ends included; without ``most`` it has no upper end.

    Returns
    -------
    int
        The same number, as a Python int.

    Raises
    ------
    InputError
        With name, value and range.

    Examples
    --------
    >>> whole_number("steps", np.int64(3))
    3
    >>> whole_number("samples", 0, least=1, most=1797)
    Traceback (most recent call last):
    swd_dynamics.errors.InputError: samples = 0 is not allowed: it must be a whole number from 1 to 1797
    """
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        seen = repr(value) if number is None else number
        allowed = f"≥ {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} = {seen} is not allowed: it must be a whole number {allowed}")
    return number


def as_path(name: str, value: Any) -> Path:
    """Refuse what cannot be the path of a file or a folder.

    Examples
    --------
    >>> as_path("path", 3)
    Traceback (most recent call last):
    swd_dynamics.errors.InputError: path = 3 is not allowed: give the path as text, as "run"
    """
    if not isinstance(value, str | os.PathLike):
        raise InputError(f'{name} = {shown(value)} is not allowed: give the path as text, as "run"')
    return Path(value)


def shown(value: Any) -> str:
    """A value as a message shows it: only its type where it would fill more than a line.

    Examples
    --------
    >>> shown("SGD"), shown([0] * 100), shown(shown)
    ("'SGD'", '<builtins.list>', 'the function shown')
    """
    if isinstance(value, FunctionType):
        return f"the function {value.__name__}"
    text = repr(value)
    is_short = len(text) <= 60 and "\n" not in text
    return text if is_short else f"<{type(value).__module__}.{type(value).__qualname__}>"
