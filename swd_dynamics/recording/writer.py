"""The writer of a run folder: a run on disk while it runs, and whole after a kill at any moment.

Nothing here uses torch or an optimizer. The chunks are those of zarr, but zarr does not write them,
because zarr writes a chunk that is not full again as a whole. Here rows are written after the
acknowledged rows in the same file, so that acknowledged rows are never touched. Compared with zarr's own append that
takes a thirtieth of the time for blocks of 10 rows, and a seventh for blocks of 1000
(tests/benchmarks/test_run_folder.py).
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from reprlib import repr as short
from typing import Any, BinaryIO

import numpy as np

from swd_dynamics.errors import InputError
from swd_dynamics.recording.format import (
    CHUNK_ROWS,
    MAKING,
    METADATA,
    RUN,
    RUNNING,
    SCALARS,
    SNAPSHOTS,
    Column,
    check_same,
    declared,
    described,
    listed_variables,
    on_disk,
    plain,
    read_committed,
    read_description,
    replacing,
    status_after,
    write_json,
)
from swd_dynamics.recording.lock import check_free, locked, unlock
from swd_dynamics.recording.reader import axis_names, check_column, read_rows
from swd_dynamics.recording.rows import checked_rows
from swd_dynamics.recording.snapshots import snapshot_name, snapshots

# Number of resumptions that run.json lists. Without a bound run.json would grow without end; twice
# as many make it longer by some 20 kB.
KEPT_RESUMPTIONS = 100


class RunFolder:
    """Writes one run: :meth:`create` begins a folder, :meth:`resume` continues one.

    A block of rows is acknowledged when :meth:`append` returns. From then on it survives a kill of
    the process, but not a power failure. One process writes at a time; any number of processes may
    read.

    Examples
    --------
    >>> import tempfile
    >>> where = Path(tempfile.mkdtemp()) / "run"
    >>> variables = {"loss": (("step",), "float64", "training loss")}
    >>> with RunFolder.create(where, variables, {"optimizer": "SGD"}) as run:
    ...     run.append({"step": np.arange(1, 4), "loss": np.array([8.0, 4.0, 2.0])})
    >>> from swd_dynamics.recording.reader import open_recording
    >>> open_recording(where).loss.values
    array([8., 4., 2.])
    """

    def __init__(self, folder: Path, columns: dict[str, Column], description: dict, lock: BinaryIO):
        self.folder = folder
        self.columns = columns
        self.committed = self.restarts = 0
        self._description = description
        self._lock = lock
        self._last_step = -1
        self._capacity = 0  # rows that every array claims to have

    @classmethod
    def create(
        cls,
        path: str | os.PathLike,
        variables: Any,
        made_by: Mapping,
        sizes: Any = None,
    ) -> "RunFolder":
        """Begin a run in a new or empty folder.

        Parameters
        ----------
        path : str or path
        variables : mapping of str to (dims, dtype, long_name)
            The recorded variables except ``step``, which must be their first dimension.
        made_by : mapping
            What made the run, kept as JSON. The entries named in ``IDENTITY`` must be the same when
            the run is resumed.
        sizes : mapping of str to int, optional
            The length of every dimension except ``step``.

        Raises
        ------
        InputError
            If the folder is not empty or cannot be written, or the declaration is not allowed.
        """
        columns, folder = declared(variables, sizes or {}), Path(path)
        description = described(columns, made_by)
        axis_names(folder, description, columns)
        check_free(folder)
        with on_disk("make a run in", folder), ExitStack() as undo:
            folder.mkdir(parents=True, exist_ok=True)
            lock = undo.enter_context(locked(folder))
            check_free(folder)  # again, because another process may have written before the lock
            run = cls(folder, columns, description, lock)
            run._describe()
            run._build()
            undo.pop_all()
        return run

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike,
        variables: Any,
        made_by: Mapping,
        sizes: Any = None,
    ) -> "RunFolder":
        """Continue a run after its last acknowledged row, with the arguments of :meth:`create`.

        Raises
        ------
        InputError
            If there is no run, it is another run or damaged, or another process is writing it.
        """
        folder, asked = Path(path), described(declared(variables, sizes or {}), made_by)
        description, columns = read_description(folder)
        check_same(folder, description, asked)  # before anything is changed
        with on_disk("continue the run in", folder), ExitStack() as undo:
            lock = undo.enter_context(locked(folder))
            # Read again, because the last writer may have ended just now.
            run = cls(folder, columns, read_description(folder)[0], lock)
            run._take_up(asked["made_by"])
            undo.pop_all()
        return run

    @classmethod
    def note_in(cls, path: str | os.PathLike, facts: Mapping[str, Any]) -> None:
        """Add facts to a run that has ended, as :meth:`note` does; nothing else changes.

        Raises
        ------
        InputError
            If there is no run, it is damaged, or a process is writing it.
        """
        folder = Path(path)
        with on_disk("note facts in", folder), closing(locked(folder)) as lock:
            description, columns = read_description(folder)
            cls(folder, columns, description, lock).note(**facts)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        self.close(status_after(error))

    @property
    def notes(self) -> Mapping[str, Any]:
        """The facts that were added to run.json."""
        return self._description["notes"]

    def declare(self, variables: Mapping[str, Any]) -> None:
        """Record more variables, name → (dims, dtype, long_name), with the run's dimensions.

        Raises
        ------
        InputError
            If the run has rows, or a declaration is not allowed.
        """
        self._check_open()
        if self.committed:
            raise InputError(f"the run in {self.folder} has rows: declare variables earlier")
        listed = listed_variables(self._description)
        columns = declared({**listed, **variables}, self._description["sizes"])
        with on_disk("declare variables in", self.folder):
            for name in variables:
                self._make(columns[name], self._capacity)
            self._describe(variables=described(columns, {})["variables"])
        self.columns = columns

    def append(self, rows: Mapping[str, Any]) -> None:
        """Record a block of rows.

        Parameters
        ----------
        rows : mapping of str to array, shape (rows, …)
            ``step``, which rises and begins after the last recorded step; and any of the variables.
            A floating-point variable that is omitted is NaN.

        Raises
        ------
        InputError
            If the rows do not fit, or the disk refuses them. Then none of them is recorded,
            acknowledged rows stay, and the same rows may be appended again.
        """
        self._check_open()
        blocks = checked_rows(rows, self.columns, self._last_step, self.committed)
        count = len(blocks["step"])
        if not count:
            return
        with on_disk(f"record {count} rows after the {self.committed} safe rows in", self.folder):
            for name, block in blocks.items():
                self._write(self.columns[name], block)
            self._claim(self.committed + count)
            self._commit(self.committed + count)
        self._last_step = int(blocks["step"][-1])

    def last(self, name: str) -> np.ndarray | None:
        """The value of a variable in the last acknowledged row; None if there is no row."""
        last = max(0, self.committed - 1)
        rows = read_rows(self.folder, self.columns[name], last, self.committed)
        return rows[0] if len(rows) else None

    def truncate(self, step: int) -> None:
        """Drop the rows and the snapshots of a step and of all later steps, which are taken again.

        A Dataset that was opened before is no longer readable; it says so.
        """
        self._check_open()
        steps = read_rows(self.folder, self.columns["step"], 0, self.committed)
        kept = int(np.searchsorted(steps, step))
        with on_disk("drop rows of the run in", self.folder):
            if kept < self.committed:
                self.restarts += 1
                dropped = self.committed - kept
                self._commit(kept)  # before anything is overwritten
                self._find_last_step()
                *earlier, last = self._description["resumed"] or [{"committed": self.committed}]
                self._describe(resumed=[*earlier, last | {"dropped": dropped}])
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
        """Keep all parameters after a step, name → array; replaces an older snapshot of the step.

        Raises
        ------
        InputError
            If the step is not a whole number from 0, an array's type cannot be kept, or the disk is
            full.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save

        self._check_open()
        if type(step) is not int or not 0 <= step < 10**18:
            raise InputError(f"step = {short(step)} is not allowed: give a whole number from 0")
        # safetensors copies the memory of an array and ignores its strides.
        dense = {name: np.array(array, order="C") for name, array in arrays.items()}
        file = self.folder / SNAPSHOTS / snapshot_name(step)
        with on_disk("keep a snapshot in", self.folder):
            file.parent.mkdir(exist_ok=True)
            try:
                whole = save(dense)
            except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(f"a snapshot must be arrays of numbers by name: {error}") from None
            with replacing(file, durable=True) as handle:
                handle.write(whole)
        return file

    def note(self, **facts: Any) -> None:
        """Add facts about the run to run.json; a fact with the same name is replaced."""
        self._check_open()
        with on_disk("note facts in", self.folder):
            self._describe(notes={**self._description["notes"], **plain(facts)})

    def close(self, status: str = "finished") -> None:
        """Note how the run ended, and let other processes write.

        ``status`` is "finished", "interrupted", or "failed: …" with the reason.
        """
        if status not in ("finished", "interrupted") and not status.startswith("failed: "):
            wanted = "finished, interrupted, or 'failed: …' with the reason"
            raise InputError(f"status = {status!r} is not allowed: it must be {wanted}")
        if self._lock.closed:
            return
        try:
            with on_disk("note the end of the run in", self.folder):
                self._describe(status=status)
        finally:
            unlock(self._lock)

    def _check_open(self) -> None:
        if self._lock.closed:
            raise InputError(f"the run in {self.folder} is closed: RunFolder.resume continues it")

    def _describe(self, **changes: Any) -> None:
        """Change run.json, first on disk and then in memory."""
        description = {**self._description, **changes}
        write_json(self.folder / RUN, description, durable=True)
        self._description = description

    def _build(self) -> None:
        """Make the arrays without rows; the status in run.json says whether this was done."""
        for column in self.columns.values():
            self._make(column, 0)
        self._commit(0)
        self._describe(status=RUNNING)

    def _make(self, column: Column, rows: int) -> None:
        """Make an array that says it has so many rows."""
        folder = self.folder / SCALARS / column.name
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / METADATA, column.metadata(rows))

    def _take_up(self, made_by: dict[str, Any]) -> None:
        if self._description["status"] == MAKING:
            return self._build()  # the run was killed before it had rows
        self.committed, self.restarts = read_committed(self.folder)
        columns = self.columns.values()
        self._capacity = min(check_column(self.folder, each, self.committed) for each in columns)
        self._find_last_step()
        before = self._description["made_by"]
        changed = {key: fact for key, fact in made_by.items() if fact != before.get(key)}
        resumption = {"committed": self.committed, "changed": changed}
        resumed = [*self._description["resumed"], resumption][-KEPT_RESUMPTIONS:]
        return self._describe(status=RUNNING, resumed=resumed)

    def _find_last_step(self) -> None:
        last = self.last("step")
        self._last_step = -1 if last is None else int(last)

    def _write(self, column: Column, block: np.ndarray) -> None:
        """Write rows after the committed rows, which stay whole if the process is killed."""
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
        """Let every array have at least so many rows.

        The number is doubled each time, because the metadata of every array must be replaced for
        it.
        """
        if rows > self._capacity:
            capacity = max(-(-rows // CHUNK_ROWS) * CHUNK_ROWS, 2 * self._capacity)
            for column in self.columns.values():
                file = self.folder / SCALARS / column.name / METADATA
                write_json(file, column.metadata(capacity))
            self._capacity = capacity

    def _commit(self, rows: int) -> None:
        """Acknowledge rows: the last file that is written says how many rows count."""
        attributes = {"committed": rows, "restarts": self.restarts}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        write_json(self.folder / SCALARS / METADATA, group)
        self.committed = rows
