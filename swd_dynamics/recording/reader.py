"""The reader of a run folder: a recording as a Dataset, its snapshots, and both as files other programs read.

A folder may be opened while another process writes it. What is opened was written by anybody: it is checked first, and
a damaged or crafted folder gives one InputError.
"""

import json
import os
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import xarray
from xarray.backends import BackendArray
from xarray.core import indexing

from swd_dynamics.errors import InputError
from swd_dynamics.recording.format import (
    MAKING,
    MAX_ROWS,
    METADATA,
    RUN,
    SCALARS,
    Column,
    check_file,
    check_folder,
    read_committed,
    read_description,
    read_json,
)

TRIES = 5  # to open a run while it is being cut, which happens once in a restart


class CutSinceOpened(InputError):
    """The rows opened are no longer those on disk: a restarted run has dropped some and records them anew."""


def open_recording(path: str | os.PathLike) -> xarray.Dataset:
    """A recording, complete or still being written; the values are read when they are used.

    Parameters
    ----------
    path : str or path
        A run folder.

    Returns
    -------
    xarray.Dataset
        The rows that were acknowledged when it was opened, by ``step``; what made the run in ``attrs``, nested facts
        as JSON.

    Raises
    ------
    InputError
        If there is no recording, or it is damaged or of a newer version. Damage to a value is found when it is used.

    Examples
    --------
    >>> open_recording("nowhere")
    Traceback (most recent call last):
    swd_dynamics.errors.InputError: no run in nowhere: its file run.json is not there
    """
    folder = Path(path)
    for _ in range(TRIES - 1):
        try:
            return _opened(folder)
        except CutSinceOpened:
            continue
    return _opened(folder)


def _opened(folder: Path) -> xarray.Dataset:
    description, columns = read_description(folder)
    if description["status"] == MAKING:
        raise InputError(f"the run in {folder} is only being made, or was killed at that: it has no rows yet")
    committed, restarts = read_committed(folder)  # before the arrays: they only grow
    for column in columns.values():
        check_column(folder, column, committed)
    lazy = {name: _Rows(folder, column, committed, restarts) for name, column in columns.items()}
    steps = lazy.pop("step")[indexing.BasicIndexer((slice(None),))]
    if np.any(np.diff(steps, prepend=-1) < 1):
        raise InputError(f"{folder / SCALARS / 'step'} is damaged: the step numbers do not rise from 0")
    variables = {
        name: xarray.Variable(rows.column.dims, indexing.LazilyIndexedArray(rows), {"long_name": rows.column.long_name})
        for name, rows in lazy.items()
    }
    coordinates = {
        "step": ("step", steps, {"long_name": columns["step"].long_name}),
        **axis_names(folder, description, columns),
    }
    return xarray.Dataset(variables, coordinates, _attributes(description))


def axis_names(folder: Path, description: dict[str, Any], columns: dict[str, Column]) -> dict[str, Any]:
    """Names or numbers along every axis but ``step``, and the group of each parameter."""
    made_by = description["made_by"]
    sizes = {dim: size for column in columns.values() for dim, size in zip(column.dims[1:], column.sizes, strict=True)}
    names = {dim: (dim, _labels(folder, made_by, f"{dim}_names", str, size)) for dim, size in sizes.items()}
    if "parameter" in sizes and "parameter_groups" in made_by and "parameter_group" not in columns:
        groups = _labels(folder, made_by, "parameter_groups", int, sizes["parameter"])
        names["parameter_group"] = ("parameter", groups)
    return names


def _labels(folder: Path, made_by: dict[str, Any], key: str, kind: type, size: int) -> np.ndarray:
    labels = made_by.get(key)
    if labels is None:
        return np.arange(size)
    is_list = isinstance(labels, list) and len(labels) == size and all(type(label) is kind for label in labels)
    if not is_list or (kind is int and any(abs(label) >= 2**31 for label in labels)):
        raise InputError(f"{folder / RUN}: made_by's {key} must be a list of {size}, each {kind.__name__}")
    return np.array(labels)


def _attributes(description: dict[str, Any]) -> dict[str, Any]:
    facts = {**description["made_by"], **description["notes"]}
    own = {key: description[key] for key in ("swd_dynamics_recording", "status", "resumed")}
    return {key: _flat(fact) for key, fact in {**facts, **own}.items()}


def _flat(fact: Any) -> str | int | float:
    """A fact as an attribute that any file format holds."""
    is_flat = isinstance(fact, str | float) or (type(fact) is int and abs(fact) < 2**63)
    return fact if is_flat else json.dumps(fact)


class _Rows(BackendArray):
    """The first ``committed`` rows of a column, read when they are indexed."""

    def __init__(self, folder: Path, column: Column, committed: int, restarts: int):
        self.folder, self.column, self.restarts = folder, column, restarts
        self.shape = (committed, *column.sizes)
        self.dtype = np.dtype(column.dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple) -> np.ndarray:
        picked = range(self.shape[0])[key[0]]
        rows = [picked] if isinstance(picked, int) else picked
        ends = sorted([*rows[:1], *rows[-1:]]) or [0, -1]
        block = read_rows(self.folder, self.column, ends[0], ends[-1] + 1)
        if read_committed(self.folder)[1] != self.restarts:
            raise CutSinceOpened(f"the run in {self.folder} was restarted since it was opened: open it again")
        return block[(0 if isinstance(picked, int) else slice(None, None, picked.step), *key[1:])]


def check_column(folder: Path, column: Column, committed: int) -> int:
    """Refuse a column that does not lie on disk as declared; returns how many rows it claims to have."""
    own = folder / SCALARS / column.name
    check_folder(own)
    found = read_json(own / METADATA)
    shape = found.get("shape")
    rows = shape[0] if isinstance(shape, list) and shape else None
    if type(rows) is not int or found != column.metadata(rows):
        raise InputError(f"{own / METADATA} is damaged: it differs from what {RUN} declares")
    if not committed <= rows <= 2 * MAX_ROWS:  # the writer claims room for up to twice the rows
        raise InputError(f"{own} is damaged: it has {short(rows)} rows, and {committed} were recorded")
    check_chunks(folder, column, 0, committed)
    return rows


def check_chunks(folder: Path, column: Column, first: int, last: int) -> None:
    """Refuse to read rows whose files are not all there and whole: zarr would show NaN for them."""
    size = column.chunk_rows * column.row_bytes
    for number in range(first // column.chunk_rows, -(-last // column.chunk_rows)):
        file = folder / SCALARS / column.name / column.chunk_name(number)
        if check_file(file, size).st_size != size:
            raise InputError(f"{file} is damaged: it must have {size} bytes")


def read_rows(folder: Path, column: Column, first: int, last: int) -> np.ndarray:
    """The rows from ``first`` to before ``last`` of a column.

    Raises
    ------
    InputError
        If their files are missing or damaged.
    """
    if last <= first:
        return np.empty((0, *column.sizes), column.dtype)
    from zarr import Array
    from zarr.storage import LocalStore, StorePath

    check_chunks(folder, column, first, last)
    own = folder / SCALARS / column.name
    store = StorePath(LocalStore(own, read_only=True))
    try:
        rows = np.asarray(Array.from_dict(store, column.metadata(last))[first:last])
    except Exception as error:  # a file that changes or fails while it is read does so deep inside zarr
        raise InputError(f"{own} is damaged: {error}") from None
    if rows.dtype == bool and rows.view(np.uint8).max() > 1:
        raise InputError(f"{own} is damaged: a byte in it is neither true nor false")
    return rows
