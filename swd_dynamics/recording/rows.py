"""Rows as they are given to a writer, checked and in the types in which they are kept."""

from collections.abc import Mapping
from reprlib import repr as short
from typing import Any

import numpy as np

from swd_dynamics.errors import InputError
from swd_dynamics.recording.format import MAX_ROWS, Column
from swd_dynamics.tables import listed


def checked_rows(
    rows: Mapping[str, Any],
    columns: Mapping[str, Column],
    last_step: int,
    committed: int,
) -> dict[str, np.ndarray]:
    """The rows of every variable, after ``committed`` rows of which the last is ``last_step``.

    Raises
    ------
    InputError
        If the rows do not fit.

    Examples
    --------
    >>> from swd_dynamics.recording.format import declared
    >>> columns = declared({"loss": (("step",), "float64", "training loss")}, {})
    >>> checked_rows({"step": [7]}, columns, last_step=6, committed=6)
    {'step': array([7]), 'loss': array([nan])}
    """
    for name in rows:
        if name not in columns:
            raise InputError(f"unknown variable {name!r}; recorded are {listed(name, columns)}")
    if np.ndim(rows.get("step", 0)) != 1:
        seen = short(rows.get("step"))
        raise InputError(f"step is {seen}: a block of rows needs the number of every step")
    count = len(rows["step"])
    blocks = {name: _block(each, rows.get(name), count) for name, each in columns.items()}
    steps = blocks["step"]
    if np.any(np.diff(steps, prepend=last_step) < 1):
        raise InputError(
            f"steps {short(steps.tolist())} do not rise from the last recorded step,"
            f" {last_step}: each step is recorded once; truncate(step) drops recorded"
            " steps"
        )
    if committed + len(steps) > MAX_ROWS:
        raise InputError(f"a run has at most {MAX_ROWS} rows: record every n-th step only")
    return blocks


def _block(column: Column, value: Any, count: int) -> np.ndarray:
    shape = (count, *column.sizes)
    if value is None and column.dtype.startswith("float"):
        return np.full(shape, np.nan, column.dtype)
    array = np.asarray(value)
    if array.shape != shape or not np.can_cast(array.dtype, column.dtype, "same_kind"):
        raise InputError(
            f"variable {column.name!r}: an array of {array.dtype}, shape {array.shape}, cannot be"
            f" recorded as {column.dtype}, shape {shape} ({', '.join(column.dims)})"
        )
    # A number beyond float32 is recorded as infinite, because a run that diverges is a result.
    with np.errstate(over="ignore"):
        return array.astype(column.dtype)
