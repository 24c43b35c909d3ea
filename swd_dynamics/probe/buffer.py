"""A buffer of rows that were measured and not yet brought to the host."""

import math
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from swd_dynamics.tensors.sums import widest

BYTES = 4 * 2**20  # of a buffer; at half of it a small model's rows come to the host twice as often
MOST_BYTES = 64 * 2**20  # where LEAST_ROWS rows need more than BYTES; the memory that a trajectory may take
LEAST_ROWS, MOST_ROWS = 16, 1024
SECONDS = 2.0  # that a row may wait for the host; a killed process loses rows of as many seconds
PATTERNS = 16  # kept: sets of columns whose entries are on the device; they seldom change


class Buffer:
    """Rows of numbers. Numbers on an accelerator stay there until :meth:`take`, and nothing waits.

    Parameters
    ----------
    widths : mapping of str to int
        The columns: how many numbers each has in a row.
    device : torch.device
        Where the tensors among the numbers are.
    vector_bytes : int
        The bytes of all vectors of a row, about; they decide how many rows the buffer holds.

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
        self._vectors: dict[str, Tensor] = {}  # made when the first vector of a name comes
        self.steps = np.zeros(self.rows, np.int64)
        self.host = np.full((self.rows, self.width), math.nan)
        self.device = device
        self.there: Tensor | None = None  # made when the first tensor comes
        self.is_there = np.zeros((self.rows, self.width), bool)
        self._indices: dict[tuple[int, ...], Tensor] = {}
        self.filled, self.taken_at = 0, time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the rows should be taken: the buffer is full, or they have waited long."""
        waited = time.monotonic() - self.taken_at
        return self.filled == self.rows or (self.filled > 0 and waited > SECONDS)

    def put(
        self,
        step: int,
        row: Mapping[str, Sequence[float | Tensor | None]],
        vectors: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Keep a row. Of the columns and vectors seen before, those that it lacks are NaN."""
        here, self.filled = self.filled, self.filled + 1
        self.steps[here] = step
        line: list[float | Tensor | None] = [None] * self.width
        for name, entries in row.items():
            line[self.where[name]] = entries
        self._fill(here, slice(0, self.width), line)
        for name, vector in vectors.items():
            if name not in self._vectors:
                self._vectors[name] = vector.new_full((self.rows, len(vector)), math.nan)
            self._vectors[name][here].copy_(vector)
        for name in self._vectors.keys() - vectors.keys():
            self._vectors[name][here].fill_(math.nan)

    def amend(self, name: str, value: float | Tensor) -> None:
        """Replace the only number that a column has in the last row."""
        self._fill(self.filled - 1, self.where[name], [value])

    def take(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """All rows, after which the buffer is empty: step numbers (rows,), and columns (rows, width)."""
        count, self.filled, self.taken_at = self.filled, 0, time.monotonic()
        rows = self.host[:count].copy()
        if self.there is not None:
            np.copyto(rows, self.there[:count].cpu().numpy(), where=self.is_there[:count], casting="same_kind")
        columns = {name: rows[:, where] for name, where in self.where.items()}
        columns |= {name: held[:count].numpy(force=True).copy() for name, held in self._vectors.items()}
        return self.steps[:count].copy(), columns

    def _fill(self, row: int, where: slice, entries: Sequence[float | Tensor | None]) -> None:
        columns = [where.start + i for i, entry in enumerate(entries) if isinstance(entry, Tensor)]
        self.is_there[row, where] = False
        if not columns:
            self.host[row, where] = entries  # None becomes NaN
            return
        self.host[row, where] = [None if isinstance(entry, Tensor) else entry for entry in entries]
        self.is_there[row, columns] = True
        self._keep_there(row, columns, [entry for entry in entries if isinstance(entry, Tensor)])

    def _keep_there(self, row: int, columns: list[int], values: list[Tensor]) -> None:
        if self.there is None:
            self.there = torch.zeros(self.rows, self.width, dtype=widest(self.device), device=self.device)
        there = [value.detach().to(self.device, self.there.dtype, non_blocking=True).reshape(()) for value in values]
        self.there[row].index_copy_(0, self._index(columns), torch.stack(there))

    def _index(self, columns: list[int]) -> Tensor:
        key = tuple(columns)
        if len(self._indices) > PATTERNS:  # which entries are tensors may change from step to step
            self._indices.clear()
        if key not in self._indices:
            self._indices[key] = torch.tensor(columns, device=self.device)
        return self._indices[key]
