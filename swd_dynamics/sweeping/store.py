"""Where the outcomes of a sweep are kept while it runs: in memory, or in a folder that survives a kill.

The folder is a run folder (swd_dynamics/recording/format.md) with a row for each cell, in the order in which the cells
were done.
"""

from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as short
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
        If the folder holds another sweep or something else, is damaged, or another process is writing it.
    """

    def __init__(self, plan: Plan, path: Path):
        super().__init__(plan)
        variables = {
            CELL: (("step",), "int64", "number of the cell"),
            FAILED: (("step",), "int64", "number of the reason why the run failed, from 1; 0 if it did not fail"),
        }
        variables |= {name: (("step",), "float64", text) for name, text in NUMBERS.items()}
        variables |= {name: (("step", "evaluation"), "float64", text) for name, text in CURVES.items()}
        begin, is_old = RunFolder.create, (path / RUN).exists()
        if is_old:
            _check_same(path, plain(plan.description))
            begin = RunFolder.resume
        self.run = begin(path, variables, {"sweep": plan.description}, {"evaluation": len(plan.evaluated)})
        self.texts: list[str] = []  # every reason once, because thousands of cells may fail for the same one
        if is_old and self.run.committed:
            try:
                self._take_up(open_recording(path), self.run.notes.get("reasons", []))
            except BaseException as error:
                self.run.close(status_after(error))
                raise

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        self.run.close(status_after(error))

    def add(self, outcomes: Outcomes) -> None:
        super().add(outcomes)
        reasons = [outcomes.reasons.get(cell) for cell in outcomes.cells]
        new = [reason for reason in dict.fromkeys(reasons) if reason is not None and reason not in self.texts]
        if new:  # first, because a row says that its cell needs no second try
            self.texts += new
            self.run.note(reasons=self.texts)
        numbers = [0 if reason is None else self.texts.index(reason) + 1 for reason in reasons]
        steps = self.run.committed + 1 + np.arange(len(reasons))
        self.run.append({"step": steps, CELL: np.array(outcomes.cells), FAILED: np.array(numbers), **outcomes.values})

    def _take_up(self, rows: xarray.Dataset, texts: Any) -> None:
        cells, numbers = rows[CELL].values, rows[FAILED].values
        are_texts = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        are_cells = cells.min() >= 0 and cells.max() < len(self.done)
        if not are_texts or not are_cells or numbers.min() < 0 or numbers.max() > len(texts):
            raise InputError(
                f"{self.run.folder} is damaged: the number of a cell or of a reason in it cannot be right. Give another"
                " folder"
            )
        self.texts = texts
        reasons = {int(cell): texts[number - 1] for cell, number in zip(cells, numbers, strict=True) if number}
        super().add(Outcomes(cells.tolist(), {name: rows[name].values for name in self.values}, reasons))


def _check_same(path: Path, plan: dict[str, Any]) -> None:
    """Refuse to continue another sweep, and say in what it differs."""
    description, _ = read_description(path)
    before = description["made_by"].get("sweep")
    if not isinstance(before, dict):
        raise InputError(f"{path} holds a recording, not a sweep: give another folder")
    seen = "; ".join(_differences("", before, plan))
    if seen:
        raise InputError(f"{path} holds another sweep: {seen}. Give the same arguments to resume it, or another folder")


def _differences(name: str, before: Any, now: Any) -> Iterator[str]:
    """Where two plans differ, each place in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(f"{name} {key}".strip(), before.get(key), now.get(key))
        if list(before) != list(now) and before.keys() == now.keys():
            yield f"the order of its {name} is {', '.join(before)}, here it is {', '.join(now)}"
    elif before != now:
        yield f"its {name} is {short(before)}, here it is {short(now)}"
