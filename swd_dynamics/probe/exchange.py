"""Rows handed from one process to another through the key-value store of ``torch.distributed``, without waiting.

A collective call waits until every process has come to it, and a recorder's processes do not come together: each brings
its rows to the host when it likes, some may have no probe, one may have failed. Here a process leaves its rows in the
store that the process group was made with, and the writer takes what it finds. Only keys that are there are read, so no
call waits for another process. Nothing is pickled.
"""

# pyright: reportPrivateImportUsage=false
# torch's stores are documented, and private by name only.

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.tensors.sharding import WRITER, world

MOST_BYTES = 2**20  # of one entry; torch's TCPStore breaks the connection, and with it the training, over 8 MiB
MOST_UNREAD = 64  # entries that wait in the store: when the writer takes none, nothing may pile up there
_ATTACHED: Counter[str] = Counter()

Rows = tuple[np.ndarray, dict[str, np.ndarray]]


class Exchange:
    """One recording's part of the store, as one process sees it.

    Two processes meet if they attach probes with the same path, and for the same time: each attachment of a path
    has keys of its own.

    Raises
    ------
    InputError
        If the process group has no store.
    """

    def __init__(self, path: str):
        _ATTACHED[path] += 1
        self.rank, _ = world()
        self._store = _store(f"swd_dynamics/{hashlib.sha256(path.encode()).hexdigest()[:32]}/{_ATTACHED[path]}")
        self._posted = 0
        self._taken: Counter[int] = Counter()

    def announce(self) -> None:
        """Let the writer know that this process will post rows."""
        self._store.set(f"{self.rank}/here", "yes")
        self._store.add("announced", 1)

    def announced(self) -> int:
        """How many processes have announced themselves."""
        return self._store.add("announced", 0)

    def is_here(self, rank: int) -> bool:
        """Whether a process has announced itself."""
        return self._store.check([f"{rank}/here"])

    def post(self, steps: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """Leave some rows for the writer.

        Raises
        ------
        InputError
            If the writer has ended its recording, or takes nothing.
        """
        if self._store.check([f"{WRITER}/end"]):
            raise InputError(f"process {WRITER}, which writes the run, has ended its recording")
        for entry in packed(steps, columns):
            if self._posted >= MOST_UNREAD and self._store.check([self._key(self.rank, self._posted - MOST_UNREAD)]):
                raise InputError(f"process {WRITER} takes no rows: attach a probe with the same path there, too")
            self._store.set(self._key(self.rank, self._posted), entry)  # pyright: ignore[reportArgumentType]
            self._posted += 1

    def take(self, rank: int) -> Rows | None:
        """The next rows that a process has posted, which leave the store; None if there are none now."""
        key = self._key(rank, self._taken[rank])
        if not self._store.check([key]):
            return None
        entry = self._store.get(key)
        self._store.delete_key(key)
        self._taken[rank] += 1
        return unpacked(entry)

    def end(self, status: str) -> None:
        """Let the others know that this process posts, or takes, no more, and how its recording ended."""
        self._store.set(f"{self.rank}/end", json.dumps([self._posted, status]))

    def ended(self, rank: int) -> str | None:
        """How a process's recording ended, once all of its rows were taken; None until then."""
        if not self._store.check([f"{rank}/end"]):
            return None
        posted, status = json.loads(self._store.get(f"{rank}/end"))
        return status if self._taken[rank] >= posted else None

    def clear(self, rank: int) -> None:
        """Take away what a process has left."""
        while self.take(rank) is not None:
            pass
        for key in (f"{rank}/here", f"{rank}/end"):
            if self._store.check([key]):
                self._store.delete_key(key)

    def _key(self, rank: int, entry: int) -> str:
        return f"{rank}/{entry}"


def packed(steps: np.ndarray, columns: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """Rows as entries of the store: a line of JSON, the step numbers, one column after the other.

    Raises
    ------
    InputError
        If one row alone is too large for an entry.
    """
    widths = {name: column.shape[1] for name, column in columns.items()}
    row_bytes = 8 * (1 + sum(widths.values()))
    if row_bytes > MOST_BYTES:
        raise InputError(f"a row of {row_bytes} bytes is too large to hand over: record fewer quantities")
    count = MOST_BYTES // row_bytes
    for i in range(0, len(steps), count):
        here = slice(i, i + count)
        head = json.dumps([len(steps[here]), widths]).encode()
        arrays = [steps[here].astype("<i8"), *(column[here].astype("<f8") for column in columns.values())]
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
            f"the process group has no key-value store to hand rows over ({error}): distributed=False records what"
            " this process does on its own"
        ) from None
