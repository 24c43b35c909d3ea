"""Rows go from one process to another through the key-value store of ``torch.distributed``.

No process waits for another. A collective call would wait until every process makes it, but the
processes of a recording do not act together: each one brings its rows to the host when it likes,
some may have no probe, and one may have failed. So a process leaves its rows in the store of the
process group, and the writer takes what is there. Only existing keys are read. Nothing is pickled.
"""

# pyright: reportPrivateImportUsage=false
# torch documents its stores; only their names are private.

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.tensors.sharding import WRITER, world

# Bytes of one entry of the store. Above 8 MiB torch's TCPStore breaks the connection, which ends
# the training; half as many bytes double the number of entries.
MOST_BYTES = 2**20
# Number of entries of a process that may wait in the store, so that the store does not fill up when
# the writer takes none. A process with more than that stops recording; twice as many take twice the
# memory.
MOST_UNREAD = 64
_ATTACHED: Counter[str] = Counter()

Rows = tuple[np.ndarray, dict[str, np.ndarray]]


class Exchange:
    """The keys of one recording in the store, as one process uses them.

    Two processes exchange rows if they attach probes with the same path at the same time. Each
    attachment of a path has its own keys.

    Raises
    ------
    InputError
        If the process group has no store.
    """

    def __init__(self, path: str):
        _ATTACHED[path] += 1
        self.rank, _ = world()
        name = hashlib.sha256(path.encode()).hexdigest()[:32]
        self._store = _store(f"swd_dynamics/{name}/{_ATTACHED[path]}")
        self._posted = 0
        self._taken: Counter[int] = Counter()

    def announce(self) -> None:
        """Tell the writer that this process will post rows."""
        self._store.set(f"{self.rank}/here", "yes")
        self._store.add("announced", 1)

    def announced(self) -> int:
        """The number of processes that have announced themselves."""
        return self._store.add("announced", 0)

    def is_here(self, rank: int) -> bool:
        """Whether a process has announced itself."""
        return self._store.check([f"{rank}/here"])

    def post(self, steps: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """Leave some rows for the writer.

        Raises
        ------
        InputError
            If the writer has ended its recording, or takes no rows.
        """
        if self._store.check([f"{WRITER}/end"]):
            raise InputError(f"process {WRITER}, which writes the run, has ended its recording")
        for entry in packed(steps, columns):
            oldest = self._key(self.rank, self._posted - MOST_UNREAD)
            if self._posted >= MOST_UNREAD and self._store.check([oldest]):
                where = f"process {WRITER}, which writes the run"
                raise InputError(f"{where}, takes no rows: attach a probe there with the same path")
            key = self._key(self.rank, self._posted)
            self._store.set(key, entry)  # pyright: ignore[reportArgumentType]
            self._posted += 1

    def take(self, rank: int) -> Rows | None:
        """Take the next rows of a process out of the store; None if there are none now."""
        key = self._key(rank, self._taken[rank])
        if not self._store.check([key]):
            return None
        entry = self._store.get(key)
        self._store.delete_key(key)
        self._taken[rank] += 1
        return unpacked(entry)

    def end(self, status: str) -> None:
        """Tell the other processes that no more rows follow, and how the recording here ended."""
        self._store.set(f"{self.rank}/end", json.dumps([self._posted, status]))

    def ended(self, rank: int) -> str | None:
        """How a process's recording ended; None until all of its rows have been taken."""
        if not self._store.check([f"{rank}/end"]):
            return None
        posted, status = json.loads(self._store.get(f"{rank}/end"))
        return status if self._taken[rank] >= posted else None

    def clear(self, rank: int) -> None:
        """Remove what a process has left in the store."""
        while self.take(rank) is not None:
            pass
        for key in (f"{rank}/here", f"{rank}/end"):
            if self._store.check([key]):
                self._store.delete_key(key)

    def _key(self, rank: int, entry: int) -> str:
        return f"{rank}/{entry}"


def packed(steps: np.ndarray, columns: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """Rows as entries of the store: a line of JSON, the step numbers, then the columns.

    Raises
    ------
    InputError
        If a single row is too large for an entry.
    """
    widths = {name: column.shape[1] for name, column in columns.items()}
    row_bytes = 8 * (1 + sum(widths.values()))
    if row_bytes > MOST_BYTES:
        limit = f"at most {MOST_BYTES} bytes: record fewer quantities"
        raise InputError(f"a row of {row_bytes} bytes is too large to exchange, {limit}")
    count = MOST_BYTES // row_bytes
    for i in range(0, len(steps), count):
        here = slice(i, i + count)
        head = json.dumps([len(steps[here]), widths]).encode()
        values = (column[here].astype("<f8") for column in columns.values())
        arrays = [steps[here].astype("<i8"), *values]
        yield b"\n".join([head, b"".join(array.tobytes() for array in arrays)])


def unpacked(entry: bytes) -> Rows:
    """The rows of an entry.

    Examples
    --------
    >>> [unpacked(entry) for entry in packed(np.array([7]), {"loss": np.array([[0.5]])})]
    [(array([7]), {'loss': array([[0.5]])})]
    """
    head, _, body = entry.partition(b"\n")
    count, widths = json.loads(head)
    ends = np.cumsum([count * width for width in widths.values()])[:-1]
    arrays = np.split(np.frombuffer(body, "<f8", offset=8 * count), ends)
    columns = {name: array.reshape(count, -1) for name, array in zip(widths, arrays, strict=True)}
    return np.frombuffer(body, "<i8", count), columns


def _store(prefix: str) -> "torch.distributed.Store":
    from torch.distributed import PrefixStore, distributed_c10d

    try:
        return PrefixStore(prefix, distributed_c10d._get_default_store())
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"the process group has no key-value store, through which rows are exchanged ({error}):"
            " distributed=False records this process alone"
        ) from None
