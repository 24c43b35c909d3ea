"""The reader of a run folder: a recording as a Dataset.

A folder may be opened while another process writes it. Nobody knows who wrote a folder: it is
checked first, and a damaged or forged folder gives one InputError.
"""

import json
import math
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import xarray
from xarray.backends import BackendArray
from xarray.core import indexing

from swd_dynamics.checks import as_path
from swd_dynamics.errors import InputError
from swd_dynamics.recording.format import (
    MAKING,
    MAX_ROWS,
    METADATA,
    RUN,
    SCALARS,
    THETA,
    Column,
    check_file,
    check_folder,
    read_committed,
    read_description,
    read_json,
)
from swd_dynamics.recording.snapshots import load_snapshot

# Number of attempts to open a run while a restart drops its rows, which happens once in each
# restart. With half as many, a run that is restarted again and again may fail to open.
TRIES = 5


class CutSinceOpened(InputError):
    """The rows that were opened are not on disk any more: a restarted run has dropped some."""


def open_recording(path: str | os.PathLike) -> xarray.Dataset:
    """A recording, complete or still being written. Values are read when they are used.

    Parameters
    ----------
    path : str or path
        A run folder.

    Returns
    -------
    xarray.Dataset
        The rows that were acknowledged when the folder was opened, by ``step``. ``attrs`` says what
        made the run, with nested facts as JSON. A trajectory's weights are ``theta`` (iterate,
        weight), which begins with the start: it has one row more than there are steps.

    Raises
    ------
    InputError
        If there is no recording, or it is damaged or of a newer version. Damage to values is found
        when they are used.

    Examples
    --------
    >>> open_recording("nowhere")
    Traceback (most recent call last):
    swd_dynamics.errors.InputError: no run in nowhere: its file run.json is missing
    """
    folder = as_path("path", path)
    for _ in range(TRIES - 1):
        try:
            return _opened(folder)
        except CutSinceOpened:
            continue
    return _opened(folder)


def _opened(folder: Path) -> xarray.Dataset:
    description, columns = read_description(folder)
    if description["status"] == MAKING:
        why = "it is being made, or was killed while it was made"
        raise InputError(f"the run in {folder} has no rows: {why}")
    committed, restarts = read_committed(folder)  # before the arrays, which only grow
    for column in columns.values():
        check_column(folder, column, committed)

    rows = {name: _Uncut(folder, column, restarts) for name, column in columns.items()}
    steps = rows.pop("step")(0, committed)
    if np.any(np.diff(steps, prepend=-1) < 1):
        file = folder / SCALARS / "step"
        raise InputError(f"{file} is damaged: the numbers of the steps must rise from 0")
    start = partial(_start, folder, description)
    return assembled(folder, description, columns, steps, rows, start)


Rows = Callable[[int, int], np.ndarray]  # (first, last) → the rows from first to before last


def assembled(
    where: Path,
    description: dict[str, Any],
    columns: dict[str, Column],
    steps: np.ndarray,
    rows: Mapping[str, Rows],
    start: Callable[[], np.ndarray],
) -> xarray.Dataset:
    """A recording as a Dataset, wherever its rows are.

    Parameters
    ----------
    where : Path
        The name of the recording in errors.
    description : dict
        What made the recording, as in run.json.
    columns : dict of str to Column
    steps : array, shape (rows,)
    rows : mapping of str to callable (first, last) → array, shape (last − first, …)
        Reads the rows of each column except ``step``.
    start : callable () → array, shape (n,)
        Reads the weights before the first step, with which a trajectory begins.
    """
    coordinates: dict[str, Any] = {
        "step": ("step", steps, {"long_name": columns["step"].long_name}),
        **axis_names(where, description, columns),
    }
    variables, attributes = {}, _attributes(description)
    for name, read in rows.items():
        column, count = columns[name], len(steps)
        dims, long_name = column.dims, column.long_name
        if name == THETA and dims == ("step", "weight"):
            dims, long_name = ("iterate", "weight"), "weights θ after as many steps"
            coordinates["iterate"] = _iterates(where, description, steps)
            lazy = _Lazy(_BegunWith(start, read), (count + 1, *column.sizes), column.dtype)
        else:
            lazy = _Lazy(read, (count, *column.sizes), column.dtype)
        values = indexing.LazilyIndexedArray(lazy)
        unknown = {"unknown_because": attributes[key]} if (key := f"{name}_unknown_because") in attributes else {}
        variables[name] = xarray.Variable(dims, values, {"long_name": long_name, **unknown})
    return xarray.Dataset(variables, coordinates, attributes)


def _iterates(where: Path, description: dict[str, Any], steps: np.ndarray) -> np.ndarray:
    """How many steps were taken before each row of θ: at the start, then after each step."""
    before = description["made_by"].get("steps_before", 0)
    if type(before) is not int or (len(steps) and max(before, 0) >= steps[0]):
        raise InputError(
            f"{where / RUN} is damaged: made_by's steps_before is {short(before)}, but must be less"
            " than the number of the first step"
        )
    return np.array([max(before, 0), *steps], dtype=int)


@dataclass(frozen=True)
class _BegunWith:
    """Rows of which the first is ``start()``; ``after`` reads the others."""

    start: Callable[[], np.ndarray]
    after: Rows

    def __call__(self, first: int, last: int) -> np.ndarray:
        rows = self.after(max(first - 1, 0), max(last - 1, 0))
        if first > 0 or last <= 0:
            return rows
        return np.vstack([self.start()[None].astype(rows.dtype), rows])


def _start(folder: Path, description: dict[str, Any]) -> np.ndarray:
    """The weights before the first step, from their snapshot."""
    made_by = description["made_by"]
    before = max(made_by.get("steps_before", 0), 0)
    kept = load_snapshot(folder, before)
    try:
        return np.concatenate([kept[name].reshape(-1) for name in made_by["parameter_names"]])
    except (KeyError, TypeError, ValueError) as error:
        seen = f"the snapshot of step {before} in {folder}"
        raise InputError(f"{seen} is damaged: {error!r}") from None


def axis_names(
    where: Path,
    description: dict[str, Any],
    columns: dict[str, Column],
) -> dict[str, Any]:
    """Names or numbers along every axis except ``step``.

    With them, the group of each parameter, and the parameter and the group of each weight.
    """
    made_by = description["made_by"]
    sizes: dict[str, int] = {}
    for column in columns.values():
        sizes |= zip(column.dims[1:], column.sizes, strict=True)
    names: dict[str, Any] = {}
    for dim, size in sizes.items():
        names[dim] = (dim, _labels(where, made_by, f"{dim}_names", str, size))
    if "parameter" in sizes and "parameter_groups" in made_by and "parameter_group" not in columns:
        groups = _labels(where, made_by, "parameter_groups", int, sizes["parameter"])
        names["parameter_group"] = ("parameter", groups)
        if "weight" in sizes and "parameter_shapes" in made_by:
            parameters = _of_weights(where, made_by["parameter_shapes"], sizes)
            names["weight_parameter"] = ("weight", parameters)
            names["weight_group"] = ("weight", groups[parameters])
    return names


def _of_weights(where: Path, shapes: Any, sizes: dict[str, int]) -> np.ndarray:
    """The number of the parameter to which each weight belongs."""
    try:
        counts = [math.prod(map(operator.index, shape)) for shape in shapes]
        fits = len(counts) == sizes["parameter"] and sum(counts) == sizes["weight"]
        if fits and min(counts) >= 0:
            return np.repeat(np.arange(len(counts)), counts)
    except TypeError:
        pass
    weights = sizes["weight"]
    raise InputError(f"{where / RUN}: made_by's parameter_shapes must have {weights} weights")


def _labels(where: Path, made_by: dict[str, Any], key: str, kind: type, size: int) -> np.ndarray:
    labels = made_by.get(key)
    if labels is None:
        return np.arange(size)
    is_list = isinstance(labels, list) and len(labels) == size
    is_list = is_list and all(type(label) is kind for label in labels)
    if not is_list or (kind is int and any(abs(label) >= 2**31 for label in labels)):
        wanted = f"a list of {size} entries, each {kind.__name__}"
        raise InputError(f"{where / RUN}: made_by's {key} must be {wanted}")
    return np.array(labels)


def _attributes(description: dict[str, Any]) -> dict[str, Any]:
    facts = {**description["made_by"], **description["notes"]}
    own = {key: description[key] for key in ("swd_dynamics_recording", "status", "resumed")}
    return {key: _flat(fact) for key, fact in {**facts, **own}.items()}


def _flat(fact: Any) -> str | int | float:
    """A fact as an attribute that every file format can hold."""
    is_flat = isinstance(fact, str | float) or (type(fact) is int and abs(fact) < 2**63)
    return fact if is_flat else json.dumps(fact)


class _Lazy(BackendArray):
    """Rows that are read when they are indexed."""

    def __init__(self, read: Rows, shape: tuple[int, ...], dtype: str):
        self.read, self.shape, self.dtype = read, shape, np.dtype(dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        support = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._read)

    def _read(self, key: tuple) -> np.ndarray:
        picked = range(self.shape[0])[key[0]]
        rows = [picked] if isinstance(picked, int) else picked
        ends = sorted([*rows[:1], *rows[-1:]]) or [0, -1]
        block = self.read(ends[0], ends[-1] + 1)
        return block[(0 if isinstance(picked, int) else slice(None, None, picked.step), *key[1:])]


@dataclass(frozen=True)
class _Uncut:
    """The rows of a column, refused if rows were dropped after the run was opened."""

    folder: Path
    column: Column
    restarts: int

    def __call__(self, first: int, last: int) -> np.ndarray:
        rows = read_rows(self.folder, self.column, first, last)
        if read_committed(self.folder)[1] != self.restarts:
            seen = f"the run in {self.folder} was restarted after it was opened"
            raise CutSinceOpened(f"{seen}: open it again")
        return rows


def check_column(folder: Path, column: Column, committed: int) -> int:
    """Refuse a column that is not on disk as declared; returns how many rows it says it has."""
    own = folder / SCALARS / column.name
    check_folder(own)
    found = read_json(own / METADATA)
    shape = found.get("shape")
    rows = shape[0] if isinstance(shape, list) and shape else None
    if type(rows) is not int or found != column.metadata(rows):
        raise InputError(f"{own / METADATA} is damaged: it differs from what {RUN} declares")
    if not committed <= rows <= 2 * MAX_ROWS:  # the writer makes an array up to twice as long
        seen = f"it has {short(rows)} rows, and {committed} were recorded"
        raise InputError(f"{own} is damaged: {seen}")
    check_chunks(folder, column, 0, committed)
    return rows


def check_chunks(folder: Path, column: Column, first: int, last: int) -> None:
    """Refuse rows whose files are missing or not complete; zarr would read NaN for them."""
    size = column.chunk_rows * column.row_bytes
    for number in range(first // column.chunk_rows, -(-last // column.chunk_rows)):
        file = folder / SCALARS / column.name / column.chunk_name(number)
        if check_file(file, size).st_size != size:
            raise InputError(f"{file} is damaged: it must have {size} bytes")


def read_rows(folder: Path, column: Column, first: int, last: int) -> np.ndarray:
    """The rows of a column from ``first`` to the one before ``last``.

    Raises
    ------
    InputError
        If their files are missing or damaged.
    """
    if last <= first:
        return np.empty((0, *column.sizes), column.dtype)
    check_chunks(folder, column, first, last)
    own, size = folder / SCALARS / column.name, column.chunk_rows
    rows = np.empty((last - first, *column.sizes), column.dtype)
    for number in range(first // size, -(-last // size)):
        begun, ended = max(first, number * size), min(last, (number + 1) * size)
        try:
            with open(own / column.chunk_name(number), "rb") as handle:
                handle.seek((begun - number * size) * column.row_bytes)
                raw = handle.read((ended - begun) * column.row_bytes)
            rows[begun - first : ended - first] = column.from_disk(raw)
        except (OSError, ValueError) as error:  # a file that changes or fails while it is read
            raise InputError(f"{own} is damaged: {error}") from None
    if rows.dtype == bool and rows.view(np.uint8).max() > 1:
        raise InputError(f"{own} is damaged: a byte in it is neither true nor false")
    return rows
