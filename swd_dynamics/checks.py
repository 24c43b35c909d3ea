"""The gate for hyperparameters, of rules and of real optimizers: inside they are trusted."""

import numpy as np

from swd_dynamics.errors import InputError


def check(name: str, value, interval: str) -> None:
    """Refuse a hyperparameter outside its interval.

    Parameters
    ----------
    name : str
        What the message calls it.
    value : number, array, tensor or sympy expression
        Every entry of an array must lie inside; a sympy expression passes, its symbol says what it may be.
    interval : str
        As mathematicians write it: ``"[0, 1)"``, ``"(0, inf)"``.

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
    if hasattr(value, "free_symbols"):  # sympy's
        return
    low, high = (float(end) for end in interval[1:-1].split(","))
    numbers = _numbers(value)
    if numbers is None:
        raise InputError(f"{name} = {value!r} is not a number: it must lie in {interval}")
    above = numbers >= low if interval[0] == "[" else numbers > low
    below = numbers <= high if interval[-1] == "]" else numbers < high
    inside = above & below  # NaN is neither
    if not inside.all():
        seen = value if numbers.ndim == 0 else numbers[~inside][0]
        raise InputError(f"{name} = {seen} is not allowed: it must lie in {interval}")


def _numbers(value) -> np.ndarray | None:
    if value is None or isinstance(value, str):
        return None  # numpy would read both, as NaN and as the number written
    try:
        return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=float)
    except (TypeError, ValueError):
        return None


def check_pair(name: str, values, intervals: tuple[str, str]) -> None:
    """Refuse ``betas`` that are not two numbers, each inside its interval."""
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise InputError(f"{name} = {values!r} is not allowed: it must be a pair of numbers, as (0.9, 0.999)")
    for i in range(2):
        check(f"{name}[{i}]", values[i], intervals[i])
