"""Where the outcomes of a sweep are kept while it runs: in memory, or in a folder that survives a kill.

The folder is a run folder (swd_dynamics/recording/format.md) with a row for each cell, in the order in which the cells
were done.
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray

from swd_dynamics.errors import InputError
from swd_dynamics.recording import open_recording
from swd_dynamics.recording.format import RUN, plain, read_description, status_after
from swd_dynamics.recording.writer import RunFolder
from swd_dynamics.sweeping.outcome import CURVES, NUMBERS, Outcomes
from swd_dynamics.sweeping.plan import Plan

CELL, FAILED = "cell", "failed"


class Memory:
    """Keeps outcomes in memory."""

    def __init__(self, plan: Plan):
        evaluations = len(plan.evaluated)
        count = int(np.prod(plan.shape))
        self.values = {name: np.full(count, np.nan) for name in NUMBERS}
        self.values |= {name: np.full((count, evaluations), np.nan) for name in CURVES}
        self.done = np.zeros(count, dtype=bool)
        self.reasons: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def add(self, outcomes: Outcomes) -> None:
        """Keep the outcomes of some cells."""
        for name, values in outcomes.values.items():
            self.values[name][outcomes.cells] = values
        self.done[outcomes.cells] = True
        self.reasons |= outcomes.reasons


class Folder(Memory):
    """Keeps outcomes in memory and in a folder; takes up what an earlier sweep with the same plan left there.

    Raises
    ------
    InputError
        If the folder holds another sweep or something else, or another process is writing it.
    """

    def __init__(self, plan: Plan, path: Path):
        super().__init__(plan)
        variables = {
            CELL: (("step",), "int64", "number of the cell"),
            FAILED: (("step",), "bool", "ended with an error"),
        }
        variables |= {name: (("step",), "float64", text) for name, text in NUMBERS.items()}
        variables |= {name: (("step", "evaluation"), "float64", text) for name, text in CURVES.items()}
        made_by = {"sweep": plan.description}
        begin = RunFolder.create
        if (path / RUN).exists():
            _check_same(path, plain(made_by["sweep"]))
            self._take_up(open_recording(path))
            begin = RunFolder.resume
        self.run = begin(path, variables, made_by, {"evaluation": len(plan.evaluated)})
        self.rows = self.run.committed
        self.reasons = {int(cell): reason for cell, reason in self.run.notes.get("reasons", {}).items()}

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        self.run.close(status_after(error))

    def add(self, outcomes: Outcomes) -> None:
        super().add(outcomes)
        if outcomes.reasons:  # first, because the row says that the cell needs no second try
            self.run.note(reasons=self.reasons)
        count = len(outcomes.cells)
        is_failed = np.array([cell in outcomes.reasons for cell in outcomes.cells])
        steps = np.arange(self.rows + 1, self.rows + count + 1)
        self.run.append({"step": steps, CELL: np.array(outcomes.cells), FAILED: is_failed, **outcomes.values})
        self.rows += count

    def _take_up(self, rows: xarray.Dataset) -> None:
        cells = rows[CELL].values
        if len(cells) and not (cells.min() >= 0 and cells.max() < len(self.done)):
            raise InputError(f"the sweep is damaged: its cells are numbered up to {cells.max()}, of {len(self.done)}")
        values = {name: rows[name].values for name in self.values}
        Memory.add(self, Outcomes(cells.tolist(), values, {}))


def _check_same(path: Path, plan: dict[str, Any]) -> None:
    """Refuse to continue another sweep, and say in what it differs."""
    description, _ = read_description(path)
    before = description["made_by"].get("sweep")
    if not isinstance(before, dict):
        raise InputError(f"{path} holds a recording, not a sweep: give another folder")
    differing = [name for name in plan if plan[name] != before.get(name)]
    if differing:
        seen = "; ".join(f"its {name} is {before.get(name)}, here it is {plan[name]}" for name in differing)
        raise InputError(f"{path} holds another sweep: {seen}. Give the same arguments to resume it, or another folder")
