"""A recording as files that other programs read."""

import csv
import io
import os
from collections.abc import Hashable
from pathlib import Path
from typing import BinaryIO

import xarray

from swd_dynamics.errors import InputError
from swd_dynamics.recording.format import on_disk, replacing
from swd_dynamics.recording.reader import open_recording

CSV_ROWS = 4096
_TABLE_DIMS = (("step",), ("step", "group"), ("step", "parameter"))


def export(path: str | os.PathLike, to: str | os.PathLike) -> Path:
    """Write a recording for other programs: ``.nc`` (netCDF, everything) or ``.csv`` (a row for each step).

    In the table stand the variables by step, group and parameter: ``loss``, ``lr[0]``, ``had_gradient[first.weight]``.

    Raises
    ------
    InputError
        If the recording cannot be opened, ``to`` ends otherwise, or it cannot be written.

    Examples
    --------
    The loss ½θ² as a table, where each step halves θ:

    >>> import tempfile, torch
    >>> import numpy as np
    >>> from swd_dynamics.probe import record
    >>> weight = torch.nn.Parameter(torch.tensor([8.0]))
    >>> sgd = torch.optim.SGD([weight], lr=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = record(sgd, lambda k: weight.square().sum() / 2, 3, path=f"{folder}/run", quantities=["loss"])
    ...     np.genfromtxt(export(f"{folder}/run", f"{folder}/run.csv"), delimiter=",", names=True)["loss"]
    array([32.,  8.,  2.])
    """
    file = Path(to)
    if file.suffix not in (".nc", ".csv"):
        raise InputError(f"cannot export to {file}: its name must end in .nc or .csv")
    dataset = open_recording(path)
    write = _write_table if file.suffix == ".csv" else _write_netcdf
    try:
        with on_disk("write", file), replacing(file) as handle:
            write(dataset, handle)
    except (TypeError, ValueError) as error:  # a value is damaged, or a name or fact is none that the format can say
        raise InputError(f"cannot export {path}: {error}") from None
    return file


def _write_netcdf(dataset: xarray.Dataset, handle: BinaryIO) -> None:
    dataset.load().to_netcdf(handle.name, engine="h5netcdf")


def _write_table(dataset: xarray.Dataset, handle: BinaryIO) -> None:
    listed = {name: variable for name, variable in dataset.data_vars.items() if variable.dims in _TABLE_DIMS}
    text = io.TextIOWrapper(handle, "utf-8", newline="")
    table = csv.writer(text)
    table.writerow(["step", *(title for name, variable in listed.items() for title in _titles(name, variable))])
    for begun in range(0, dataset.sizes["step"], CSV_ROWS):
        part = dataset.isel(step=slice(begun, begun + CSV_ROWS))
        blocks = [part[name].values.reshape(part.sizes["step"], -1) for name in listed]
        columns = [part.step.values.tolist(), *(column.tolist() for block in blocks for column in block.T)]
        table.writerows(zip(*columns, strict=True))
    text.detach()  # flushes, and leaves the file open


def _titles(name: Hashable, variable: xarray.DataArray) -> list[str]:
    if variable.ndim == 1:
        return [str(name)]
    return [f"{name}[{label}]" for label in variable[variable.dims[1]].values]
