"""A run folder and its writer: what a run did, on disk while it goes on, whole after a kill at any moment.

recording_format.md describes the folder. Nothing here knows torch or an optimizer. The chunks are written here, zarr
reads them: written through zarr they cost four times as much, and the rule that saves acknowledged rows, a whole new
file renamed over the old one, must not hang on how a version of zarr writes.
"""

import json
import math
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any, BinaryIO

import numpy as np

from swd_dynamics.errors import InputError, nearest

try:
    import fcntl
except ImportError:  # not on Windows: there a second writer goes unnoticed
    fcntl = None

VERSION = 2
RUN, SCALARS, METADATA, SNAPSHOTS, LOCK = "run.json", "scalars.zarr", "zarr.json", "snapshots", ".lock"
MAKING, RUNNING = "being made", "running"
DTYPES = ("float64", "float32", "int64", "bool")
STEP = (("step",), "int64", "number of the step")
IDENTITY = ("optimizer", "optimizer_module", "parameter_names", "parameter_shapes", "parameter_groups")

CHUNK_ROWS = 4096  # of these, 2·10⁶ recorded steps are 500 files a variable
CHUNK_BYTES = 2**20  # wide rows: fewer, since every append writes its last chunk anew
MAX_JSON = 4 * 2**20
MAX_ROWS = 10**9
MAX_ROW_VALUES = 10**7

_NAME = re.compile(r"[A-Za-z]\w{0,99}", re.ASCII)  # is also a file name, so nothing that leads elsewhere


@dataclass(frozen=True)
class Column:
    """One recorded variable, and the only way in which it may lie on disk.

    sizes : tuple of int — of the dimensions after ``step``
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    long_name: str
    sizes: tuple[int, ...]

    @property
    def fill(self) -> float | int | bool:
        """What stands where nothing was recorded: NaN, or 0 if the type has none."""
        return np.nan if self.dtype.startswith("float") else np.dtype(self.dtype).type(0).item()

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Rows of one chunk, then all of the other axes."""
        row = np.dtype(self.dtype).itemsize * math.prod(self.sizes)
        return (max(1, min(CHUNK_ROWS, CHUNK_BYTES // row)), *self.sizes)

    @property
    def chunk_bytes(self) -> int:
        """The size of a chunk's file: the values and four bytes of checksum."""
        return np.dtype(self.dtype).itemsize * math.prod(self.chunk_shape) + 4

    def chunks(self, rows: int) -> int:
        """How many chunks hold so many rows."""
        return -(-rows // self.chunk_shape[0])

    def chunk_name(self, number: int) -> str:
        """The file of a chunk."""
        return ".".join(["c", str(number), *"0" * len(self.sizes)])

    def metadata(self, rows: int) -> dict[str, Any]:
        """What zarr.json says of the array when it has so many rows."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [rows, *self.sizes],
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunk_shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": "NaN" if self.fill != self.fill else self.fill,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "attributes": {"long_name": self.long_name},
            "dimension_names": list(self.dims),
        }

    def filled(self, rows: np.ndarray) -> np.ndarray:
        """A whole chunk that begins with some rows."""
        chunk = np.full(self.chunk_shape, self.fill, np.dtype(self.dtype).newbyteorder("<"))
        chunk[: len(rows)] = rows
        return chunk


def declared(variables: Any, sizes: Any) -> dict[str, Column]:
    """The columns that a declaration asks for, ``step`` before all.

    Parameters
    ----------
    variables : mapping of str to (dims, dtype, long_name)
    sizes : mapping of str to int
        The length of every dimension but ``step``.

    Raises
    ------
    InputError
        If anything of it is not allowed.

    Examples
    --------
    >>> declared({"lr": (("step", "group"), "float64", "learning rate")}, {"group": 2})["lr"].chunk_shape
    (4096, 2)
    """
    if not isinstance(variables, Mapping) or not isinstance(sizes, Mapping):
        raise InputError("variables and sizes must be mappings: name → (dims, dtype, long_name), dimension → length")
    if "step" in variables or "step" in sizes:
        raise InputError("step is recorded in every run: leave it out of variables and sizes")
    if len({str(name).lower() for name in variables}) < len(variables):
        raise InputError("two variables differ in capitals only: some file systems hold them for the same")
    return {name: _column(name, entry, sizes) for name, entry in {"step": STEP, **variables}.items()}


def _column(name: Any, entry: Any, sizes: Mapping) -> Column:
    try:
        dims, dtype, long_name = entry
        dims = tuple(dims)
    except (TypeError, ValueError):
        raise InputError(f"variable {short(name)}: {short(entry)} must be (dims, dtype, long_name)") from None
    for word in (name, *dims):
        if not isinstance(word, str) or not _NAME.fullmatch(word):
            raise InputError(f"the name {short(word)} is not allowed: letters, digits and _ only, a letter first")
    if dims[:1] != ("step",) or "step" in dims[1:]:
        raise InputError(f"variable {name!r} has dimensions {short(dims)}: the first, and only the first, must be step")
    if dtype not in DTYPES or not isinstance(long_name, str):
        raise InputError(f"variable {name!r} is {short(dtype)}: allowed are {', '.join(DTYPES)}, and text as long_name")
    lengths = tuple(sizes.get(dim) for dim in dims[1:])
    if any(type(length) is not int or length < 1 for length in lengths) or math.prod(lengths) > MAX_ROW_VALUES:
        raise InputError(
            f"variable {name!r} has rows of {short(lengths)} values: sizes must give every dimension a whole"
            f" number from 1, and a row at most {MAX_ROW_VALUES} values"
        )
    return Column(name, dims, dtype, long_name, lengths)


def plain(value: Any) -> Any:
    """A value as strict JSON can hold it: what JSON cannot say becomes text."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    value = value.item() if isinstance(value, np.generic) else value
    is_said = value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
    return value if is_said else repr(value)


def write_json(file: Path, content: dict[str, Any], durable: bool = False) -> None:
    """Put a JSON file in the place of the old one."""
    text = json.dumps(content, indent=1, allow_nan=False).encode()
    if len(text) > MAX_JSON:
        raise InputError(f"{file} would have {len(text)} bytes: at most {MAX_JSON} are read; note less")
    with replacing(file, durable) as handle:
        handle.write(text)


@contextmanager
def replacing(file: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """A new file that takes the old one's name when it is whole; ``durable``: also after a power failure."""
    unfinished = file.with_name(f".unfinished-{file.name}")
    try:
        with open(unfinished, "wb") as handle:
            yield handle
            handle.flush()
            if durable:
                os.fsync(handle.fileno())
        os.replace(unfinished, file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
