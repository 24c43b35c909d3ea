"""The format of a run folder: what may lie in it and how, and the checks that come before anything is read.

format.md describes it in a page. What is read was written by anybody: nothing is allocated, opened or handed
to zarr before it was found to be exactly what :mod:`~swd_dynamics.recording.writer` writes.
"""

import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any, BinaryIO

import numpy as np

from swd_dynamics.errors import InputError

VERSION = 2
RUN, SCALARS, METADATA, SNAPSHOTS, LOCK = "run.json", "scalars.zarr", "zarr.json", "snapshots", ".lock"
UNFINISHED = ".unfinished-"  # begins the name of a file that is not whole yet
MAKING, RUNNING = "being made", "running"
DTYPES = ("float64", "float32", "int64", "bool")
STEP = (("step",), "int64", "number of the step")
THETA = "theta"  # of a trajectory: the weights after each step, whose start is a snapshot
STATE = "state_"  # begins the name of a piece of the optimizer's state

CHUNK_ROWS = 4096  # of these, 2·10⁶ recorded steps are 500 files a variable
CHUNK_BYTES = 2**20  # wide rows: fewer, since a chunk is read as a whole
MAX_JSON = 4 * 2**20
MAX_ROWS = 10**9
MAX_ROW_VALUES = 10**6

IDENTITY = ("optimizer", "optimizer_module", "parameter_names", "parameter_shapes", "parameter_groups")
_PARTS = {"status": str, "variables": dict, "sizes": dict, "made_by": dict, "notes": dict, "resumed": list}
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
        """What stands where nothing was recorded; as a step number, −1 is found out."""
        return {"int64": -1, "bool": False}.get(self.dtype, np.nan)

    @property
    def row_bytes(self) -> int:
        """What one row takes in a chunk's file, which holds nothing else."""
        return np.dtype(self.dtype).itemsize * math.prod(self.sizes)

    @property
    def chunk_rows(self) -> int:
        """The rows of one chunk."""
        return max(1, min(CHUNK_ROWS, CHUNK_BYTES // self.row_bytes))

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
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.chunk_rows, *self.sizes]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": "NaN" if self.fill != self.fill else self.fill,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "attributes": {"long_name": self.long_name},
            "dimension_names": list(self.dims),
        }

    def on_disk(self, rows: np.ndarray) -> bytes:
        """Rows as they lie in a chunk's file."""
        return rows.astype(np.dtype(self.dtype).newbyteorder("<"), order="C", copy=False).tobytes()

    def empty_chunk(self) -> bytes:
        """A chunk before anything was recorded in it."""
        return self.on_disk(np.full((self.chunk_rows, *self.sizes), self.fill, self.dtype))


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
    >>> declared({"lr": (("step", "group"), "float64", "learning rate")}, {"group": 2})["lr"].row_bytes
    16
    """
    if not isinstance(variables, Mapping) or not isinstance(sizes, Mapping):
        raise InputError("variables and sizes must be mappings: name → (dims, dtype, long_name), dimension → length")
    if variables.keys() & {"step", *sizes} or "step" in sizes:
        raise InputError("step is recorded in every run, and a dimension is no variable: choose other names")
    if len({str(name).lower() for name in variables}) < len(variables):
        raise InputError("two variables differ in capitals only: some file systems hold them for the same")
    return {name: _column(name, entry, sizes) for name, entry in {"step": STEP, **variables}.items()}


def _column(name: Any, entry: Any, sizes: Mapping[str, Any]) -> Column:
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
    lengths = tuple(sizes.get(dim, 0) for dim in dims[1:])
    if any(type(length) is not int or length < 1 for length in lengths) or math.prod(lengths) > MAX_ROW_VALUES:
        raise InputError(
            f"variable {name!r} has rows of {short(lengths)} values: sizes must give every dimension a whole"
            f" number from 1, and a row at most {MAX_ROW_VALUES} values"
        )
    return Column(name, dims, dtype, long_name, lengths)


def check_file(file: Path, largest: int) -> os.stat_result:
    """Refuse what is no plain file of a bounded size: a link leads elsewhere, a pipe never ends."""
    status = _status(file)
    if not stat.S_ISREG(status.st_mode) or status.st_size > largest:
        raise InputError(f"{file} is damaged: it must be a plain file of at most {largest} bytes, no link")
    return status


def check_folder(folder: Path) -> None:
    """Refuse what is no plain folder."""
    if not stat.S_ISDIR(_status(folder).st_mode):
        raise InputError(f"{folder} is damaged: it must be a folder, no link and no file")


def _status(path: Path) -> os.stat_result:
    try:
        return os.lstat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is missing or cannot be read: {error}") from None


def plain(value: Any) -> Any:
    """A value as strict JSON can hold it: what JSON cannot say becomes text."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    value = value.item() if isinstance(value, np.generic) else value
    is_said = (
        value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
    )
    return value if is_said else repr(value)


def described(columns: dict[str, Column], made_by: Mapping) -> dict[str, Any]:
    """What run.json says of a new run."""
    known = [column for column in columns.values() if column.name != "step"]
    return {
        "swd_dynamics_recording": VERSION,
        "status": MAKING,
        "variables": {c.name: {"dims": list(c.dims), "dtype": c.dtype, "long_name": c.long_name} for c in known},
        "sizes": {dim: size for c in known for dim, size in zip(c.dims[1:], c.sizes, strict=True)},
        "made_by": plain(made_by),
        "notes": {},
        "resumed": [],
    }


def check_same(folder: Path, old: dict, new: dict) -> None:
    """Refuse to go on with another run; a description worded differently is none."""
    for name in [*old["variables"], *new["variables"]]:
        entries = [description["variables"].get(name) for description in (old, new)]
        what = [entry and {"dims": entry["dims"], "dtype": entry["dtype"]} for entry in entries]
        _refuse_difference(folder, f"variables[{name!r}]", *what)
    _refuse_difference(folder, "sizes", old["sizes"], new["sizes"])
    for key in IDENTITY:
        _refuse_difference(folder, key, old["made_by"].get(key), new["made_by"].get(key))


def _refuse_difference(folder: Path, what: str, old: Any, new: Any) -> None:
    """Refuse to mix two runs, naming the innermost place where they differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            _refuse_difference(folder, f"{what}[{key!r}]", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, pair in enumerate(zip(old, new, strict=True)):
            _refuse_difference(folder, f"{what}[{i}]", *pair)
    elif old != new:
        raise InputError(
            f"{folder} holds another run: its {what} is {short(old)}, here it is {short(new)};"
            " resume it as it was begun, or begin this run in another folder with RunFolder.create"
        )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file of a bounded size.

    Raises
    ------
    InputError
        If there is none.
    """
    check_file(file, MAX_JSON)
    try:
        content = json.loads(file.read_bytes(), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is damaged: it must hold a JSON object")
    return content


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def read_description(folder: Path) -> tuple[dict[str, Any], dict[str, Column]]:
    """What run.json says, and the columns it declares.

    Raises
    ------
    InputError
        If there is no run, it is of another version, or run.json is damaged.
    """
    file = folder / RUN
    if not os.path.lexists(file):
        raise InputError(f"no run in {folder}: its file {RUN} is not there")
    description = read_json(file)
    version = description.get("swd_dynamics_recording")
    if type(version) is int and version > VERSION:
        raise InputError(f"{file} is of version {short(version)}; this program reads versions 1–{VERSION}: upgrade it")
    if type(version) is not int or version < VERSION:
        raise InputError(f"{file} is damaged or none of ours: swd_dynamics_recording is {short(version)}")
    for part, kind in _PARTS.items():
        if not isinstance(description.get(part), kind):
            raise InputError(f"{file} is damaged: {part} must be there and of JSON's type {kind.__name__}")
    try:
        entries = description["variables"].items()
        listed = {name: (entry["dims"], entry["dtype"], entry["long_name"]) for name, entry in entries}
        return description, declared(listed, description["sizes"])
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged: {error}") from None


def read_committed(folder: Path) -> tuple[int, int]:
    """How many rows are acknowledged, and how often rows were dropped: to be read before anything else, and after."""
    check_folder(folder / SCALARS)
    file = folder / SCALARS / METADATA
    attributes = read_json(file).get("attributes")
    found = attributes if isinstance(attributes, dict) else {}
    counts: list[Any] = [found.get(name) for name in ("committed", "restarts")]
    if any(type(count) is not int or not 0 <= count <= MAX_ROWS for count in counts):
        raise InputError(f"{file} is damaged: committed and restarts must be whole numbers from 0 to {MAX_ROWS}")
    return counts[0], counts[1]


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
    unfinished = file.with_name(UNFINISHED + file.name)
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


@contextmanager
def on_disk(action: str, folder: Path) -> Iterator[None]:
    """Say what could not be done where, when the operating system refuses."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot {action} {folder}: {error.strerror or error}") from error
