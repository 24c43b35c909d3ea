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

# Rows of a table that are in memory at a time. Half as many take half the memory and more time.
CSV_ROWS = 4096
_TABLE_DIMS = (("step",), ("step", "group"), ("step", "parameter"), ("step", "eigenvalue"))


def export(path: str | os.PathLike, to: str | os.PathLike) -> Path:
    """Write a recording for other programs: ``.nc`` (netCDF) or ``.csv`` (a row for each step).

    netCDF has all variables. The table has the variables by step, group and parameter, in columns
    like ``loss``, ``lr[0]`` and ``had_gradient[first.weight]``.

    Raises
    ------
    InputError
        If the recording cannot be opened, ``to`` has another ending, or it cannot be written.

    Examples
    --------
    The loss ½θ² as a table, where each step halves θ:

    >>> import tempfile, torch
    >>> import numpy as np
    >>> from swd_dynamics.probe import record
    >>> weight = torch.nn.Parameter(torch.tensor([8.0]))
    >>> sgd = torch.optim.SGD([weight], lr=0.5)
    >>> loss = lambda k: weight.square().sum() / 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = record(sgd, loss, 3, path=f"{folder}/run", quantities=["loss"])
    ...     table = export(f"{folder}/run", f"{folder}/run.csv")
    ...     np.genfromtxt(table, delimiter=",", names=True)["loss"]
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
    except (TypeError, ValueError) as error:
        # A value is damaged, or the file format does not allow a name or a fact.
        raise InputError(f"cannot export {path}: {error}") from None
    return file


def _write_netcdf(dataset: xarray.Dataset, handle: BinaryIO) -> None:
    dataset.load().to_netcdf(handle.name, engine="h5netcdf")


def _write_table(dataset: xarray.Dataset, handle: BinaryIO) -> None:
    variables = dataset.data_vars.items()
    listed = {name: variable for name, variable in variables if variable.dims in _TABLE_DIMS}
    titles = ["step"]
    for name, variable in listed.items():
        titles += _titles(name, variable)
    text = io.TextIOWrapper(handle, "utf-8", newline="")
    table = csv.writer(text)
    table.writerow(titles)
    for begun in range(0, dataset.sizes["step"], CSV_ROWS):
        part = dataset.isel(step=slice(begun, begun + CSV_ROWS))
        blocks = [part[name].values.reshape(part.sizes["step"], -1) for name in listed]
        columns = [part.step.values.tolist()]
        for block in blocks:
            columns += block.T.tolist()
        table.writerows(zip(*columns, strict=True))
    text.detach()  # flushes, and does not close the file


def _titles(name: Hashable, variable: xarray.DataArray) -> list[str]:
    if variable.ndim == 1:
        return [str(name)]
    return [f"{name}[{label}]" for label in variable[variable.dims[1]].values]
