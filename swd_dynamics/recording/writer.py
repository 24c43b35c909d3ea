"""The writer of a run folder: what a run did, on disk while it goes on, whole after a kill at any moment.

Nothing here knows torch or an optimizer. zarr reads the chunks but does not write them, because it writes a chunk that
is not full again as a whole. Here rows are written after the acknowledged ones in the same file, so that the
acknowledged ones are not touched, whatever happens. Compared with zarr's own append that takes a thirtieth of the time
for blocks of 10 rows, and a seventh for blocks of 1000 (tests/benchmarks/test_run_folder.py).
"""

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from reprlib import repr as short
from typing import Any, BinaryIO

import numpy as np

from swd_dynamics.errors import InputError
from swd_dynamics.recording.format import (
    CHUNK_ROWS,
    LOCK,
    MAKING,
    MAX_ROWS,
    METADATA,
    RUN,
    RUNNING,
    SCALARS,
    SNAPSHOTS,
    UNFINISHED,
    Column,
    check_same,
    declared,
    described,
    on_disk,
    plain,
    read_committed,
    read_description,
    replacing,
    write_json,
)
from swd_dynamics.recording.reader import axis_names, check_column, read_rows
from swd_dynamics.recording.snapshots import snapshot_name, snapshots
from swd_dynamics.tables import nearest

try:
    import fcntl
except ImportError:  # not on Windows: there a second writer goes unnoticed
    fcntl = None

KEPT_RESUMPTIONS = 100  # run.json must not grow without end


class RunFolder:
    """Writes one run: :meth:`create` begins a folder, :meth:`resume` goes on with one.

    A block of rows is acknowledged when :meth:`append` returns: from then on it survives a kill of the process, not
    a power failure. One process writes at a time; any number may read meanwhile.

    Examples
    --------
    >>> import tempfile
    >>> where = Path(tempfile.mkdtemp()) / "run"
    >>> with RunFolder.create(where, {"loss": (("step",), "float64", "training loss")}, {"optimizer": "SGD"}) as run:
    ...     run.append({"step": np.arange(1, 4), "loss": np.array([8.0, 4.0, 2.0])})
    >>> from swd_dynamics.recording.reader import open_recording
    >>> open_recording(where).loss.values
    array([8., 4., 2.])
    """

    def __init__(self, folder: Path, columns: dict[str, Column], description: dict[str, Any], lock: BinaryIO):
        self.folder = folder
        self.columns = columns
        self.committed = self.restarts = 0
        self._description = description
        self._lock = lock
        self._last_step = -1
        self._capacity = 0  # rows that every array claims to have

    @classmethod
    def create(cls, path: str | os.PathLike, variables: Any, made_by: Mapping, sizes: Any = None) -> "RunFolder":
        """Begin a run in a new or empty folder.

        Parameters
        ----------
        path : str or path
        variables : mapping of str to (dims, dtype, long_name)
            What will be recorded beside ``step``, which the first dimension must be.
        made_by : mapping
            What made the run; kept as JSON. Those of ``IDENTITY`` must be the same when the run is resumed.
        sizes : mapping of str to int, optional
            The length of every dimension but ``step``.

        Raises
        ------
        InputError
            If the folder is taken or cannot be written, or the declaration is not allowed.
        """
        columns, folder = declared(variables, sizes or {}), Path(path)
        description = described(columns, made_by)
        axis_names(folder, description, columns)
        _check_free(folder)
        with on_disk("make a run in", folder), ExitStack() as undo:
            folder.mkdir(parents=True, exist_ok=True)
            lock = undo.enter_context(_locked(folder))
            _check_free(folder)  # again: another writer may have come and gone before the lock was had
            run = cls(folder, columns, description, lock)
            run._describe()
            run._build()
            undo.pop_all()
        return run

    @classmethod
    def resume(cls, path: str | os.PathLike, variables: Any, made_by: Mapping, sizes: Any = None) -> "RunFolder":
        """Go on with a run where its last acknowledged row ends; arguments as of :meth:`create`.

        Raises
        ------
        InputError
            If there is no run, it is another or a damaged one, or it is being written.
        """
        folder, asked = Path(path), described(declared(variables, sizes or {}), made_by)
        description, columns = read_description(folder)
        check_same(folder, description, asked)  # before anything is touched
        with on_disk("go on with the run in", folder), ExitStack() as undo:
            lock = undo.enter_context(_locked(folder))
            run = cls(folder, columns, read_description(folder)[0], lock)  # again: the last writer may just have ended
            run._take_up(asked["made_by"])
            undo.pop_all()
        return run

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.close("finished" if error is None else "interrupted" if stopped else f"failed: {error!r}"[:1000])

    def declare(self, variables: Mapping[str, Any]) -> None:
        """Record more variables, name → (dims, dtype, long_name), along dimensions that the run has.

        Raises
        ------
        InputError
            If there is a row already, or a declaration is not allowed.
        """
        self._check_open()
        if self.committed:
            raise InputError(f"the run in {self.folder} has rows: all of its variables must be declared before")
        before = {c.name: (c.dims, c.dtype, c.long_name) for c in self.columns.values() if c.name != "step"}
        columns = declared({**before, **variables}, self._description["sizes"])
        with on_disk("declare variables in", self.folder):
            for name in variables:
                self._make(columns[name], self._capacity)
            self._describe(variables=described(columns, {})["variables"])
        self.columns = columns

    def append(self, rows: Mapping[str, Any]) -> None:
        """Record a block of rows, in one go.

        Parameters
        ----------
        rows : mapping of str to array, shape (rows, …)
            ``step``, rising and after every recorded one; any of the variables. A floating-point variable that is
            left out is NaN.

        Raises
        ------
        InputError
            If the rows do not fit, or the disk does not take them: then none of them is recorded, what was
            acknowledged stays, and they may be appended again.
        """
        self._check_open()
        blocks = self._blocks(rows)
        count = len(blocks["step"])
        if not count:
            return
        with on_disk(f"record {count} more rows after the {self.committed} that are safe in", self.folder):
            for name, block in blocks.items():
                self._write(self.columns[name], block)
            self._claim(self.committed + count)
            self._commit(self.committed + count)
        self._last_step = int(blocks["step"][-1])

    def last(self, name: str) -> np.ndarray | None:
        """What the last acknowledged row has of a variable; None if there is no row."""
        rows = read_rows(self.folder, self.columns[name], max(0, self.committed - 1), self.committed)
        return rows[0] if len(rows) else None

    def truncate(self, step: int) -> None:
        """Drop the rows and the snapshots of a step and of all later steps, which are taken again.

        A Dataset that was opened before is no longer readable; it says so.
        """
        self._check_open()
        steps = read_rows(self.folder, self.columns["step"], 0, self.committed)
        kept = int(np.searchsorted(steps, step))
        with on_disk("cut the run in", self.folder):
            if kept < self.committed:
                self.restarts += 1
                self._commit(kept)  # before anything is written over
                self._find_last_step()
            for taken, file in snapshots(self.folder).items():
                if taken >= step:
                    file.unlink()

    def begin_again(self, made_by: Mapping) -> None:
        """Replace what made the run, which has no rows.

        Raises
        ------
        InputError
            If the run has rows.
        """
        self._check_open()
        if self.committed:
            raise InputError(f"the run in {self.folder} has rows: what made it cannot be replaced")
        with on_disk("note what made the run in", self.folder):
            self._describe(made_by=plain(made_by))

    def snapshot(self, step: int, arrays: Mapping[str, Any]) -> Path:
        """Keep the full parameters of a step, name → array; an older snapshot of the step is replaced.

        Raises
        ------
        InputError
            If the step is no number from 0, an array is of a type that cannot be kept, or the disk is full.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save

        self._check_open()
        if type(step) is not int or not 0 <= step < 10**18:
            raise InputError(f"a snapshot of step {short(step)} is not allowed: give a whole number from 0")
        # safetensors copies memory as it lies, whatever the strides
        dense = {name: np.array(array, order="C") for name, array in arrays.items()}
        file = self.folder / SNAPSHOTS / snapshot_name(step)
        with on_disk("keep a snapshot in", self.folder):
            file.parent.mkdir(exist_ok=True)
            try:
                whole = save(dense)
            except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(f"a snapshot must be numbers by name, which this is not: {error}") from None
            with replacing(file, durable=True) as handle:
                handle.write(whole)
        return file

    def note(self, **facts: Any) -> None:
        """Add facts about the run to run.json; a fact noted before is replaced."""
        self._check_open()
        with on_disk("note facts in", self.folder):
            self._describe(notes={**self._description["notes"], **plain(facts)})

    def close(self, status: str = "finished") -> None:
        """Note how the run ended, and let others write; ``status``: finished, interrupted or "failed: …"."""
        if status not in ("finished", "interrupted") and not status.startswith("failed: "):
            raise InputError(f"status {status!r} is not allowed: finished, interrupted or 'failed: …' with the reason")
        if self._lock.closed:
            return
        try:
            with on_disk("note the end of the run in", self.folder):
                self._describe(status=status)
        finally:
            with suppress(OSError):
                if fcntl is not None:  # processes that were forked meanwhile still have the file open
                    fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._lock.close()

    def _check_open(self) -> None:
        if self._lock.closed:
            raise InputError(f"the run in {self.folder} is closed: RunFolder.resume goes on with it")

    def _describe(self, **changes: Any) -> None:
        """Take changes over into run.json, first there, then here."""
        description = {**self._description, **changes}
        write_json(self.folder / RUN, description, durable=True)
        self._description = description

    def _build(self) -> None:
        """Make the arrays without rows; run.json tells by its status whether this was done."""
        for column in self.columns.values():
            self._make(column, 0)
        self._commit(0)
        self._describe(status=RUNNING)

    def _make(self, column: Column, rows: int) -> None:
        """Make an array that claims to have so many rows."""
        folder = self.folder / SCALARS / column.name
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / METADATA, column.metadata(rows))

    def _take_up(self, made_by: dict[str, Any]) -> None:
        if self._description["status"] == MAKING:
            return self._build()  # killed before there was anything to lose
        self.committed, self.restarts = read_committed(self.folder)
        self._capacity = min(check_column(self.folder, column, self.committed) for column in self.columns.values())
        self._find_last_step()
        changed = {key: fact for key, fact in made_by.items() if fact != self._description["made_by"].get(key)}
        resumption = {"committed": self.committed, "changed": changed}
        resumed = [*self._description["resumed"], resumption][-KEPT_RESUMPTIONS:]
        return self._describe(status=RUNNING, resumed=resumed)

    def _find_last_step(self) -> None:
        last = self.last("step")
        self._last_step = -1 if last is None else int(last)

    def _blocks(self, rows: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The rows of every variable, checked."""
        for name in rows:
            if name not in self.columns:
                raise InputError(f"unknown variable {name!r}; recorded are {', '.join(nearest(name, self.columns))}")
        if np.ndim(rows.get("step", 0)) != 1:
            raise InputError(f"step is {short(rows.get('step'))}: a block of rows needs the number of every step")
        blocks = {name: _block(column, rows.get(name), len(rows["step"])) for name, column in self.columns.items()}
        steps = blocks["step"]
        if np.any(np.diff(steps, prepend=self._last_step) < 1):
            raise InputError(
                f"steps {short(steps.tolist())} do not rise from the last recorded one, {self._last_step}:"
                " each step is recorded once; truncate(step) drops recorded ones"
            )
        if self.committed + len(steps) > MAX_ROWS:
            raise InputError(f"a run holds at most {MAX_ROWS} rows: record every n-th step, or begin another run")
        return blocks

    def _write(self, column: Column, block: np.ndarray) -> None:
        """Put rows after the committed ones, which are not touched: a kill at any moment leaves those whole."""
        done = 0
        while done < len(block):
            number, begun = divmod(self.committed + done, column.chunk_rows)
            piece = block[done : done + column.chunk_rows - begun]
            file = self.folder / SCALARS / column.name / column.chunk_name(number)
            if not file.exists():
                with replacing(file) as handle:
                    handle.write(column.empty_chunk())
            with open(file, "r+b") as handle:
                handle.seek(begun * column.row_bytes)
                handle.write(column.on_disk(piece))
            done += len(piece)

    def _claim(self, rows: int) -> None:
        """Let every array have at least so many rows; doubling, as every array's file must be replaced for it."""
        if rows > self._capacity:
            capacity = max(-(-rows // CHUNK_ROWS) * CHUNK_ROWS, 2 * self._capacity)
            for column in self.columns.values():
                write_json(self.folder / SCALARS / column.name / METADATA, column.metadata(capacity))
            self._capacity = capacity

    def _commit(self, rows: int) -> None:
        """Acknowledge: the one small file, written last, that says how many rows count."""
        attributes = {"committed": rows, "restarts": self.restarts}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        write_json(self.folder / SCALARS / METADATA, group)
        self.committed = rows


def _block(column: Column, value: Any, count: int) -> np.ndarray:
    shape = (count, *column.sizes)
    if value is None and column.dtype.startswith("float"):
        return np.full(shape, np.nan, column.dtype)
    array = np.asarray(value)
    if array.shape != shape or not np.can_cast(array.dtype, column.dtype, "same_kind"):
        raise InputError(
            f"variable {column.name!r}: an array of {array.dtype}, shape {array.shape}, cannot be recorded as"
            f" {column.dtype}, shape {shape} ({', '.join(column.dims)})"
        )
    with np.errstate(over="ignore"):  # a number beyond float32 is recorded as infinite: a diverging run is a result
        return array.astype(column.dtype)


def _check_free(folder: Path) -> None:
    with on_disk("make a run in", folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: a run needs a folder of its own")
        if (folder / RUN).exists():
            raise InputError(f"{folder} holds a run: go on with it (resume=True), or give a new run another folder")
        names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
        found = sorted(name for name in names if name != LOCK and not name.startswith(UNFINISHED))
    if found:
        raise InputError(f"{folder} holds other files ({short(found)}): a run needs a new or an empty folder")


def _locked(folder: Path) -> BinaryIO:
    """The open lock file; the system lets go of the lock when the process ends, however it ends."""
    handle = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666), "r+b")
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = handle.read(200).decode(errors="replace")
        handle.close()
        raise InputError(f"{folder} is being written by {holder}: wait until it ends, or end it") from None
    except OSError:
        pass  # some network file systems have no locks: there a second writer goes unnoticed
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    handle.flush()
    return handle
