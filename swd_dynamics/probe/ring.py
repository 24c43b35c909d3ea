"""A ring buffer of rows that were measured and not yet brought to the host."""

import math
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from swd_dynamics.probe.sums import exact

BYTES = 4 * 2**20
MOST_ROWS = 1024
SECONDS = 2.0


class Ring:
    """Rows of numbers; those that are tensors on an accelerator stay there until :meth:`take`, and nothing waits.

    Parameters
    ----------
    widths : mapping of str to int
        The columns: how many numbers each has in a row.
    device : torch.device
        Where the tensors among them are.

    Examples
    --------
    >>> ring = Ring({"loss": 1, "norm": 2}, torch.device("cpu"))
    >>> ring.put(7, {"norm": [3.0, None]})
    >>> ring.amend("loss", 0.5)
    >>> ring.take()
    (array([7]), {'loss': array([[0.5]]), 'norm': array([[ 3., nan]])})
    """

    def __init__(self, widths: Mapping[str, int], device: torch.device):
        ends = np.cumsum([0, *widths.values()]).tolist()
        self.where = {name: slice(*pair) for name, pair in zip(widths, pairwise(ends), strict=True)}
        self.width = ends[-1]
        self.rows = max(16, min(MOST_ROWS, BYTES // (8 * max(1, self.width))))
        self.steps = np.zeros(self.rows, np.int64)
        self.host = np.full((self.rows, self.width), math.nan)
        self.device = device
        self.there: Tensor | None = None  # made when the first tensor comes
        self.is_there = np.zeros((self.rows, self.width), bool)
        self._indices: dict[tuple[int, ...], Tensor] = {}
        self.filled, self.taken_at = 0, time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the rows should be taken: the ring is full, or they have waited long."""
        return self.filled == self.rows or (self.filled > 0 and time.monotonic() - self.taken_at > SECONDS)

    def put(self, step: int, row: Mapping[str, Sequence[float | Tensor | None]]) -> None:
        """Keep a row; what it has not is NaN."""
        here, self.filled = self.filled, self.filled + 1
        self.steps[here] = step
        line: list[float | Tensor | None] = [None] * self.width
        for name, entries in row.items():
            line[self.where[name]] = entries
        self._fill(here, slice(0, self.width), line)

    def amend(self, name: str, value: float | Tensor) -> None:
        """Put right the only number of a column of the last row."""
        self._fill(self.filled - 1, self.where[name], [value])

    def take(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """All rows, and the ring is empty: step numbers (rows,), and the columns by name (rows, width)."""
        count, self.filled, self.taken_at = self.filled, 0, time.monotonic()
        rows = self.host[:count].copy()
        if self.there is not None:
            np.copyto(rows, self.there[:count].cpu().numpy(), where=self.is_there[:count], casting="same_kind")
        return self.steps[:count].copy(), {name: rows[:, where] for name, where in self.where.items()}

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
            self.there = torch.zeros(self.rows, self.width, dtype=exact(self.device), device=self.device)
        there = [value.detach().to(self.device, self.there.dtype, non_blocking=True).reshape(()) for value in values]
        self.there[row].index_copy_(0, self._index(columns), torch.stack(there))

    def _index(self, columns: list[int]) -> Tensor:
        key = tuple(columns)
        if key not in self._indices:
            self._indices[key] = torch.tensor(columns, device=self.device)
        return self._indices[key]
