"""A buffer of rows that were measured and are not on the host yet."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from swd_dynamics.tensors.sums import widest

# Bytes of a buffer. Half as many bring the rows of a small model to the host twice as often.
BYTES = 4 * 2**20
# Bytes that a buffer of LEAST_ROWS long rows may take, which is the memory that a trajectory needs.
# Half as many write rows of more than 2 MiB to disk in blocks of fewer than LEAST_ROWS.
MOST_BYTES = 64 * 2**20
# Rows of a buffer. Each block of rows is written with a file operation for each variable: half as
# many rows double these operations.
LEAST_ROWS, MOST_ROWS = 16, 1024
# Seconds that a row may wait for the host. A killed process loses the rows of that time; half of it
# writes the rows of slow steps twice as often.
SECONDS = 2.0


class Buffer:
    """Rows of numbers. Numbers on an accelerator stay there until :meth:`take`: no step waits.

    Parameters
    ----------
    widths : mapping of str to int
        The columns, and how many numbers each column has in a row.
    device : torch.device
        The device of the tensors among the numbers.
    vector_bytes : int
        About how many bytes all vectors of a row take. That decides how many rows the buffer holds.

    Examples
    --------
    >>> buffer = Buffer({"loss": 1, "norm": 2}, torch.device("cpu"))
    >>> buffer.put(7, {"norm": [3.0, None]})
    >>> buffer.amend("loss", 0.5)
    >>> buffer.take()
    (array([7]), {'loss': array([[0.5]]), 'norm': array([[ 3., nan]])})
    """

    def __init__(self, widths: Mapping[str, int], device: torch.device, vector_bytes: int = 0):
        ends = np.cumsum([0, *widths.values()]).tolist()
        self.where = {name: slice(*pair) for name, pair in zip(widths, pairwise(ends), strict=True)}
        self.width = ends[-1]
        row_bytes = max(1, 8 * self.width + vector_bytes)
        wanted = min(max(LEAST_ROWS, BYTES // row_bytes), MOST_ROWS)
        self.rows = max(1, min(wanted, MOST_BYTES // row_bytes))
        self._vectors: dict[str, Tensor] = {}  # made when the first vector of a name is put
        self.steps = np.zeros(self.rows, np.int64)
        self.host = np.full((self.rows, self.width), math.nan)
        self.device = device
        self.there: Tensor | None = None  # made when the first tensor is put
        self.is_there = np.zeros((self.rows, self.width), bool)
        self.filled, self.taken_at = 0, time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the rows should be taken: the buffer is full, or a row has waited too long."""
        waited = time.monotonic() - self.taken_at
        return self.filled == self.rows or (self.filled > 0 and waited > SECONDS)

    def put(
        self,
        step: int,
        row: Mapping[str, Sequence[float | Tensor | None] | Tensor],
        vectors: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Keep a row. Columns and vectors that the row does not have are NaN."""
        here, self.filled = self.filled, self.filled + 1
        self.steps[here] = step
        if self.there is None and not any(isinstance(entries, Tensor) for entries in row.values()):
            line: list[float | Tensor | None] = [None] * self.width
            for name, entries in row.items():
                line[self.where[name]] = entries
            self._fill(here, slice(0, self.width), line)  # one conversion for all columns
        else:
            self.host[here], self.is_there[here] = math.nan, False
            for name, entries in row.items():
                column = _column(entries)
                if column is None:
                    self._fill(here, self.where[name], list(entries))
                else:
                    self._keep_there(here, self.where[name], column)
        for name, vector in vectors.items():
            if name not in self._vectors:
                self._vectors[name] = vector.new_full((self.rows, len(vector)), math.nan)
            self._vectors[name][here].copy_(vector)
        for name in self._vectors.keys() - vectors.keys():
            self._vectors[name][here].fill_(math.nan)

    def amend(self, name: str, value: float | Tensor) -> None:
        """Replace the number of a column in the last row; the column has one number in each row."""
        self._fill(self.filled - 1, self.where[name], [value])

    def take(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return all rows, and empty the buffer.

        Returns
        -------
        steps : array, shape (rows,)
            The numbers of the steps.
        columns : dict of str to array, shape (rows, width)
        """
        count, self.filled, self.taken_at = self.filled, 0, time.monotonic()
        rows = self.host[:count].copy()
        if self.there is not None:
            there = self.there[:count].cpu().numpy()
            np.copyto(rows, there, where=self.is_there[:count], casting="same_kind")
        columns = {name: rows[:, where] for name, where in self.where.items()}
        for name, vectors in self._vectors.items():
            columns[name] = vectors[:count].numpy(force=True).copy()
        return self.steps[:count].copy(), columns

    @contextmanager
    def taken(self) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """All rows as :meth:`take` returns them; they stay in the buffer if using them fails."""
        filled = self.filled
        try:
            yield self.take()
        except Exception:
            self.filled = filled
            raise

    def _fill(self, row: int, where: slice, entries: Sequence[float | Tensor | None]) -> None:
        columns = [where.start + i for i, entry in enumerate(entries) if isinstance(entry, Tensor)]
        self.is_there[row, where] = False
        if not columns:
            self.host[row, where] = entries  # None becomes NaN
            return
        self.host[row, where] = [None if isinstance(entry, Tensor) else entry for entry in entries]
        for column, entry in zip(columns, [e for e in entries if isinstance(e, Tensor)], strict=True):
            self._keep_there(row, slice(column, column + 1), entry.reshape(1))

    def _keep_there(self, row: int, where: slice, values: Tensor) -> None:
        """Copy numbers into a row on the device of the tensors, by one kernel and without waiting."""
        if self.there is None:
            if self.device.type == "cpu":  # the model was moved after the buffer was made
                self.device = values.device
            shape, dtype = (self.rows, self.width), widest(self.device)
            self.there = torch.zeros(shape, dtype=dtype, device=self.device)
        self.is_there[row, where] = True
        self.there[row, where].copy_(values.detach(), non_blocking=True)


def _column(entries: Sequence[float | Tensor | None] | Tensor) -> Tensor | None:
    """A column as one tensor, if all of its entries are on one device; else None."""
    if isinstance(entries, Tensor):
        return entries
    tensors = [entry for entry in entries if isinstance(entry, Tensor)]
    if len(tensors) < 2 or len(tensors) < len(entries) or len({tensor.device for tensor in tensors}) > 1:
        return None
    return torch.stack([tensor.detach().reshape(()) for tensor in tensors])
