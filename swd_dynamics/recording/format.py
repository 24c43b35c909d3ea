"""The format of a run folder: what it may contain, and the checks before anything is read.

format.md describes the format on one page. Nobody knows who wrote a folder: nothing is allocated or
opened before it was found to be exactly what the module :mod:`~swd_dynamics.recording.writer`
writes.
"""

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any, BinaryIO

import numpy as np

from swd_dynamics.errors import InputError

VERSION = 2
RUN, LOCK, SNAPSHOTS = "run.json", ".lock", "snapshots"
SCALARS, METADATA = "scalars.zarr", "zarr.json"
UNFINISHED = ".unfinished-"  # begins the name of a file that is not complete yet
MAKING, RUNNING = "being made", "running"
DTYPES = ("float64", "float32", "int64", "bool")
STEP = (("step",), "int64", "number of the step")
THETA = "theta"  # of a trajectory: the weights after each step, whose start is a snapshot
STATE = "state_"  # begins the name of a piece of the optimizer's state

# Rows of a chunk. With 4096 rows, 2·10⁶ steps are 500 files for each variable; with half as many
# rows they are 1000 files.
CHUNK_ROWS = 4096
# Bytes of a chunk at most, so that a chunk of long rows has fewer rows. A chunk is read as a whole:
# with twice as many bytes, reading one row reads twice as much.
CHUNK_BYTES = 2**20
MAX_JSON = 4 * 2**20  # bytes of a JSON file that is read; a forged file cannot fill the memory
MAX_ROWS = 10**9  # rows of a run
MAX_ROW_VALUES = 10**6  # values of a row of a variable: the largest model with a trajectory on disk

IDENTITY = (
    "optimizer", "optimizer_module", "parameter_names", "parameter_shapes", "parameter_groups",
)  # fmt: skip
_PARTS = {
    "status": str, "variables": dict, "sizes": dict, "made_by": dict, "notes": dict,
    "resumed": list,
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z]\w{0,99}", re.ASCII)  # is also a file name, so it must not be a path


@dataclass(frozen=True)
class Column:
    """One recorded variable, and the only way in which it may be stored on disk.

    sizes : tuple of int — of the dimensions after ``step``
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    long_name: str
    sizes: tuple[int, ...]

    @property
    def fill(self) -> float | int | bool:
        """The value where nothing was recorded; −1 as the number of a step means damage."""
        return {"int64": -1, "bool": False}.get(self.dtype, np.nan)

    @property
    def row_bytes(self) -> int:
        """The bytes of one row in a chunk's file, which contains nothing else."""
        return np.dtype(self.dtype).itemsize * math.prod(self.sizes)

    @property
    def chunk_rows(self) -> int:
        """The number of rows of one chunk."""
        return max(1, min(CHUNK_ROWS, CHUNK_BYTES // self.row_bytes))

    def chunk_name(self, number: int) -> str:
        """The name of a chunk's file."""
        return ".".join(["c", str(number), *"0" * len(self.sizes)])

    def metadata(self, rows: int) -> dict[str, Any]:
        """The contents of the array's zarr.json when the array has this number of rows."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [rows, *self.sizes],
            "data_type": self.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.chunk_rows, *self.sizes]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": "NaN" if self.fill != self.fill else self.fill,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "attributes": {"long_name": self.long_name},
            "dimension_names": list(self.dims),
        }

    def on_disk(self, rows: np.ndarray) -> bytes:
        """Rows as bytes of a chunk's file."""
        return rows.astype(np.dtype(self.dtype).newbyteorder("<"), order="C", copy=False).tobytes()

    def from_disk(self, raw: bytes) -> np.ndarray:
        """Rows from the bytes of a chunk file.

        Examples
        --------
        >>> column = declared({"lr": (("step", "group"), "float64", "η")}, {"group": 2})["lr"]
        >>> column.from_disk(column.on_disk(np.array([[0.5, 0.25]])))
        array([[0.5 , 0.25]])
        """
        flat = np.frombuffer(raw, np.dtype(self.dtype).newbyteorder("<"))
        return flat.reshape(-1, *self.sizes)

    def empty_chunk(self) -> bytes:
        """A chunk in which nothing was recorded."""
        return self.on_disk(np.full((self.chunk_rows, *self.sizes), self.fill, self.dtype))


def declared(variables: Any, sizes: Any) -> dict[str, Column]:
    """The columns of a declaration, of which ``step`` is the first.

    Parameters
    ----------
    variables : mapping of str to (dims, dtype, long_name)
    sizes : mapping of str to int
        The length of every dimension except ``step``.

    Raises
    ------
    InputError
        If some part of the declaration is not allowed.

    Examples
    --------
    >>> variables = {"lr": (("step", "group"), "float64", "learning rate")}
    >>> declared(variables, {"group": 2})["lr"].row_bytes
    16
    """
    if not isinstance(variables, Mapping) or not isinstance(sizes, Mapping):
        forms = "name → (dims, dtype, long_name), and dimension → length"
        raise InputError(f"variables and sizes must be mappings: {forms}")
    if variables.keys() & {"step", *sizes} or "step" in sizes:
        raise InputError("step and a dimension cannot be variables: choose other names")
    if len({str(name).lower() for name in variables}) < len(variables):
        raise InputError("two variables differ in capitals only, which some file systems ignore")
    entries = {"step": STEP, **variables}
    return {name: _column(name, entry, sizes) for name, entry in entries.items()}


def _column(name: Any, entry: Any, sizes: Mapping[str, Any]) -> Column:
    try:
        dims, dtype, long_name = entry
        dims = tuple(dims)
    except (TypeError, ValueError):
        seen = f"variable {short(name)}: {short(entry)}"
        raise InputError(f"{seen} must be (dims, dtype, long_name)") from None
    for word in (name, *dims):
        if not isinstance(word, str) or not _NAME.fullmatch(word):
            allowed = "it must be a letter, then letters, digits and _"
            raise InputError(f"the name {short(word)} is not allowed: {allowed}")
    if dims[:1] != ("step",) or "step" in dims[1:]:
        seen = f"variable {name!r} has dimensions {short(dims)}"
        raise InputError(f"{seen}: the first, and only the first, must be step")
    if dtype not in DTYPES or not isinstance(long_name, str):
        allowed = f"{', '.join(DTYPES)}, and a long_name that is text"
        raise InputError(f"variable {name!r} is {short(dtype)}: allowed are {allowed}")
    lengths = tuple(sizes.get(dim, 0) for dim in dims[1:])
    is_bad = any(type(length) is not int or length < 1 for length in lengths)
    if is_bad or math.prod(lengths) > MAX_ROW_VALUES:
        raise InputError(
            f"variable {name!r} has rows of {short(lengths)} values: sizes must give every"
            f" dimension a whole number from 1, and a row at most {MAX_ROW_VALUES} values"
        )
    return Column(name, dims, dtype, long_name, lengths)


def check_file(file: Path, largest: int) -> os.stat_result:
    """Refuse anything but a plain file of a bounded size: a link or a pipe, for example."""
    status = _status(file)
    if not stat.S_ISREG(status.st_mode) or status.st_size > largest:
        raise InputError(f"{file} is damaged: it must be a plain file of at most {largest} bytes, not a link")
    return status


def check_folder(folder: Path) -> None:
    """Refuse anything but a plain folder."""
    if not stat.S_ISDIR(_status(folder).st_mode):
        raise InputError(f"{folder} is damaged: it must be a folder, not a link or a file")


def _status(path: Path) -> os.stat_result:
    try:
        return os.lstat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is missing or cannot be read: {error}") from None


def plain(value: Any) -> Any:
    """A value as strict JSON can hold it; what JSON cannot express becomes text."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | str):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else repr(value)


def described(columns: dict[str, Column], made_by: Mapping) -> dict[str, Any]:
    """The contents of run.json for a new run."""
    variables, sizes = {}, {}
    for column in columns.values():
        if column.name != "step":
            variables[column.name] = {
                "dims": list(column.dims),
                "dtype": column.dtype,
                "long_name": column.long_name,
            }
            sizes |= zip(column.dims[1:], column.sizes, strict=True)
    return {
        "swd_dynamics_recording": VERSION,
        "status": MAKING,
        "variables": variables,
        "sizes": sizes,
        "made_by": plain(made_by),
        "notes": {},
        "resumed": [],
    }


def check_same(folder: Path, old: dict, new: dict) -> None:
    """Refuse to continue another run. Descriptions of variables may be worded differently."""
    for name in [*old["variables"], *new["variables"]]:
        entries = [description["variables"].get(name) for description in (old, new)]
        what = [entry and {"dims": entry["dims"], "dtype": entry["dtype"]} for entry in entries]
        _refuse_difference(folder, f"variables[{name!r}]", *what)
    _refuse_difference(folder, "sizes", old["sizes"], new["sizes"])
    for key in IDENTITY:
        _refuse_difference(folder, key, old["made_by"].get(key), new["made_by"].get(key))


def _refuse_difference(folder: Path, what: str, old: Any, new: Any) -> None:
    """Refuse to mix two runs, and name the innermost place where they differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            _refuse_difference(folder, f"{what}[{key!r}]", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, pair in enumerate(zip(old, new, strict=True)):
            _refuse_difference(folder, f"{what}[{i}]", *pair)
    elif old != new:
        raise InputError(
            f"{folder} holds another run: its {what} is {short(old)}, here it is {short(new)};"
            " resume it with the same variables and optimizer, or give this run another folder"
        )


def status_after(error: BaseException | None) -> str:
    """How a run ended: finished without an error, interrupted by Ctrl-C, or failed.

    ``sys.exit()`` and ``sys.exit(0)`` are how a program ends without an error.
    """
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "finished"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"failed: {_text_or_name(error, repr)}"[:1000]


def in_words(error: BaseException) -> str:
    """What an error says, also if its own text cannot be made."""
    return f"{type(error).__name__}: {_text_or_name(error, str)}"[:1000]


def _text_or_name(error: BaseException, text: Callable[[BaseException], str]) -> str:
    try:
        return text(error)
    except Exception:
        return f"{type(error).__name__}, whose text cannot be made"


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file of a bounded size.

    Raises
    ------
    InputError
        If the file does not contain a JSON object.
    """
    check_file(file, MAX_JSON)
    try:
        content = json.loads(file.read_bytes(), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        what = "cannot be read" if isinstance(error, OSError) else "is damaged"
        raise InputError(f"{file} {what}: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is damaged: it must hold a JSON object")
    return content


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def read_description(folder: Path) -> tuple[dict[str, Any], dict[str, Column]]:
    """The contents of run.json, and the columns that it declares.

    Raises
    ------
    InputError
        If there is no run, the run has another version, or run.json is damaged.
    """
    file = folder / RUN
    try:
        os.lstat(file)
    except (OSError, ValueError) as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError)
        why = f"its file {RUN} is missing" if absent else f"it cannot be read: {error}"
        raise InputError(f"no run in {folder}: {why}") from None
    description = read_json(file)
    version = description.get("swd_dynamics_recording")
    if type(version) is int and version > VERSION:
        seen = f"{file} has version {short(version)}"
        raise InputError(f"{seen}, and this program reads version {VERSION}: upgrade it")
    if type(version) is not int or version < VERSION:
        seen = f"swd_dynamics_recording is {short(version)}"
        raise InputError(f"{file} is damaged or is not a recording: {seen}")
    for part, kind in _PARTS.items():
        if not isinstance(description.get(part), kind):
            raise InputError(f"{file} is damaged: {part} must be present and a {kind.__name__}")
    try:
        return description, declared(listed_variables(description), description["sizes"])
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged: {error}") from None


def listed_variables(description: dict[str, Any]) -> dict[str, Any]:
    """The variables in run.json, name → (dims, dtype, long_name)."""
    variables = description["variables"].items()
    return {name: (it["dims"], it["dtype"], it["long_name"]) for name, it in variables}


def read_committed(folder: Path) -> tuple[int, int]:
    """How many rows are acknowledged, and how often rows were dropped.

    A reader reads this before anything else, and again after it.
    """
    check_folder(folder / SCALARS)
    file = folder / SCALARS / METADATA
    attributes = read_json(file).get("attributes")
    found = attributes if isinstance(attributes, dict) else {}
    counts: list[Any] = [found.get(name) for name in ("committed", "restarts")]
    if any(type(count) is not int or not 0 <= count <= MAX_ROWS for count in counts):
        wanted = f"whole numbers from 0 to {MAX_ROWS}"
        raise InputError(f"{file} is damaged: committed and restarts must be {wanted}")
    return counts[0], counts[1]


def write_json(file: Path, content: dict[str, Any], durable: bool = False) -> None:
    """Replace a JSON file."""
    text = json.dumps(content, indent=1, allow_nan=False).encode()
    if len(text) > MAX_JSON:
        seen = f"{file} would have {len(text)} bytes"
        raise InputError(f"{seen}, and at most {MAX_JSON} are read: note less")
    with replacing(file, durable) as handle:
        handle.write(text)


@contextmanager
def replacing(file: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """A new file that replaces ``file`` once it is complete.

    If ``durable``, it is complete even after a power failure.
    """
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
    """Turn an error of the operating system into an InputError that says what failed where."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot {action} {folder}: {error.strerror or error}") from error
