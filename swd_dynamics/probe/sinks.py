"""The rows of a recording go to a sink: to memory, or to a run folder."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import xarray
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.probe.counts import Counted, counts_of, noted
from swd_dynamics.probe.instruments import STATE_LEFT_OUT, UNKNOWN_DECAY
from swd_dynamics.probe.quantities import Quantity
from swd_dynamics.probe.reduce import Block
from swd_dynamics.probe.trajectory import CHANGED, OF_PARAMETER, state_variable, variables
from swd_dynamics.recording.format import (
    RUN,
    RUNNING,
    STATE,
    declared,
    described,
    plain,
    read_description,
)
from swd_dynamics.recording.reader import assembled, open_recording
from swd_dynamics.recording.snapshots import load_snapshot, snapshots
from swd_dynamics.recording.writer import RunFolder
from swd_dynamics.tensors.groups import steps_before
from swd_dynamics.tensors.known import Known
from swd_dynamics.tensors.weights import Layout

Columns = Mapping[str, np.ndarray]
Notes = Mapping[str, set[str]]
MEMORY = "what a perturbation of θ has left in the momentum, δm/δθ, from which R of L2 continues"
TRUE_OF_PARAMETER = "had_gradient"


class Sink(Protocol):
    """The contract of a sink, which takes the rows that a probe measures.

    1. ``open(resume, given, seen)`` begins a recording, or continues the present one if ``resume``,
       and returns how many steps were taken before. ``given`` is that number if the user gave it;
       ``seen`` is the number of the last step that this probe has seen, or None. A recording that
       continues first drops its rows of later steps. If no rows are left, it begins with the
       parameters as they are now.
    2. ``start(taken)`` returns θ₀, one copy for each parameter, from which distances are measured;
       None if θ₀ is lost.
    3. ``last(name, taken)`` returns the last row of a variable; None if the last row is not that of
       step ``taken``.
    4. ``write(steps, columns, notes)`` takes a block of rows in the order of their steps. ``notes``
       are sets of sentences or names, by the attribute that they go into. When ``write`` returns,
       the rows are as safe as this sink can make them.
    5. ``snapshot(step)`` keeps the parameters as they are now.
    6. ``note(**facts)`` adds facts about the run, also after ``close``.
    7. ``close(status)`` ends the recording, until it is opened again.
    8. ``dataset()`` returns all rows that were written, and ``rows`` is their number.
    9. Each of these may raise. Then the probe stops recording, and the training continues.
    """

    def open(self, resume: bool, given: int | None, seen: int | None) -> int: ...

    def start(self, taken: int) -> list[Tensor] | None: ...

    def last(self, name: str, taken: int) -> np.ndarray | None: ...

    def write(self, steps: np.ndarray, columns: Columns, notes: Notes) -> None: ...

    def snapshot(self, step: int) -> None: ...

    def note(self, **facts: Any) -> None: ...

    def close(self, status: str) -> None: ...

    def dataset(self) -> xarray.Dataset: ...

    @property
    def rows(self) -> int: ...


class Contents:
    """What a recording of an optimizer contains: its variables, and its rows made from columns.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    layout : Layout
    quantities : tuple of Quantity
    known : Known
    trajectory : bool
    describe : callable
        Returns what made the recording; called when the recording begins.
    eigenvalues : int — how many eigenvalues of the Hessian a row has
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layout: Layout,
        quantities: tuple[Quantity, ...],
        known: Known,
        trajectory: bool,
        describe: Callable[[], Mapping[str, Any]],
        eigenvalues: int = 0,
    ):
        self.eigenvalues = eigenvalues
        self.optimizer, self.layout, self.quantities = optimizer, layout, quantities
        self.known, self.trajectory, self.describe = known, trajectory, describe
        self._notes: dict[str, set[str]] = {}

    @property
    def notes(self) -> dict[str, list[str]]:
        """Sentences or names about the rows so far, by the attribute that they go into."""
        return {name: sorted(entries) for name, entries in self._notes.items() if entries}

    @property
    def sizes(self) -> dict[str, int]:
        """The length of every dimension except ``step``."""
        sizes = {"group": self.layout.group_count, "parameter": len(self.layout.parameters)}
        sizes |= {"eigenvalue": self.eigenvalues} if self.eigenvalues else {}
        return sizes | ({"weight": self.layout.weights} if self.trajectory else {})

    @property
    def variables(self) -> dict[str, Any]:
        """All variables except the optimizer's state, name → (dims, dtype, long_name)."""
        found: dict[str, Any] = {}
        for quantity in self.quantities:
            found |= quantity.variables()
        if self.known.keeps_memory:
            found["decay_memory"] = (("step", "parameter"), "float64", MEMORY)
        return found | (variables(self.layout) if self.trajectory else {})

    def states(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The variables of the optimizer's state for which there are columns."""
        names = [name for name in columns if name.startswith(STATE) and name not in OF_PARAMETER]
        return {name: state_variable(name, self.layout) for name in names}

    def rows(
        self,
        columns: Columns,
        notes: Notes,
        recorded: Collection[str],
    ) -> dict[str, np.ndarray]:
        """The rows of the variables in ``recorded``, by name; adds to ``notes``.

        A piece of the optimizer's state that first appears after rows were written is not recorded.
        Its name is noted.
        """
        block = Block(columns, self.layout, self.known)
        rows = block.variables(self.quantities)
        alone = np.flatnonzero(block.moved_alone.any(axis=0))
        reasons = {f"{self.layout.names[i]} moved without a gradient" for i in alone}
        late = {name.removeprefix(STATE) for name in self.states(columns).keys() - set(recorded)}
        for found in (notes, {UNKNOWN_DECAY: reasons, STATE_LEFT_OUT: late}):
            for name, entries in found.items():
                self._notes.setdefault(name, set()).update(entries)
        if self.known.keeps_memory:
            rows["decay_memory"] = columns["memory"]
        if self.trajectory:
            rows |= self._trajectory_rows(columns, block)
        return {name: values for name, values in rows.items() if name in recorded}

    def _trajectory_rows(self, columns: Columns, block: Block) -> dict[str, np.ndarray]:
        as_measured = [*variables(self.layout), *self.states(columns)]
        rows = {name: columns[name] for name in as_measured if name in columns}
        rows[TRUE_OF_PARAMETER] = (columns["had_gradient"] != 0) & ~block.skipped
        rows[CHANGED[0]] = columns[CHANGED[0]][:, 0]
        of_weight = np.repeat(block.moved_alone, self.layout.sizes, axis=1)
        rows["decay_rate_weight"] = np.where(of_weight, np.nan, columns["decay_rate_weight"])
        return rows

    def made_by(self, taken: int, given: int | None) -> dict[str, Any]:
        """What made a recording that begins now, after ``taken`` steps.

        If nothing says how many steps were taken, ``steps_before`` is what the optimizer says: 0,
        or −1 if it has taken steps and does not count them.
        """
        is_known = taken > 0 or given is not None
        return {**self.describe(), **({"steps_before": taken} if is_known else {})}

    def steps_taken(
        self,
        recorded: int,
        given: int | None,
        seen: int | None,
        known: Counted | None = None,
    ) -> int:
        """How many steps were taken before a recording that has ``recorded`` rows is opened.

        ``known`` is a number of steps that the recording has noted, with the optimizer's counts.

        Raises
        ------
        InputError
            If there are rows, the optimizer does not count its steps, and nothing else says their
            number.
        """
        told = seen if given is None else given
        if told is not None:
            return told
        counted = steps_before(self.optimizer)
        if counted > 0 and known is not None:
            return known.resumed_at(counts_of(self.optimizer, self.layout.parameters))
        if recorded and counted <= 0:
            raise InputError(
                f"{type(self.optimizer).__name__} has taken no step, or does not count its steps:"
                " to resume the run, load the optimizer's state and give step=, the number of steps"
                " taken before"
            )
        return max(counted, 0)

    def copies(self) -> list[Tensor]:
        """A copy of every parameter."""
        return [parameter.detach().clone() for parameter in self.layout.parameters]


class MemorySink:
    """Keeps the rows in memory, as a :class:`Sink`."""

    def __init__(self, contents: Contents):
        self._contents = contents
        self._description: dict[str, Any] | None = None
        self._columns = declared(contents.variables, contents.sizes)
        self._steps = np.empty(0, int)
        self._rows: dict[str, list[np.ndarray]] = {}
        self._weights = np.empty(0)  # of a trajectory, before its first step
        self._start: list[Tensor] | None = None

    def open(self, resume: bool, given: int | None, seen: int | None) -> int:
        taken = self._contents.steps_taken(len(self._steps), given, seen)
        kept = int(np.searchsorted(self._steps, taken + 1))
        self._steps = self._steps[:kept]
        self._rows = {name: [np.concatenate(rows)[:kept]] for name, rows in self._rows.items()}
        if not kept or self._description is None:
            self._description = self._begin(taken, given)
        self._description["status"] = RUNNING
        return taken

    def start(self, taken: int) -> list[Tensor] | None:
        self._start = self._start or self._contents.copies()
        return self._start

    def last(self, name: str, taken: int) -> np.ndarray | None:
        is_last = len(self._steps) > 0 and self._steps[-1] == taken
        return self._rows[name][-1][-1] if is_last and name in self._rows else None

    def write(self, steps: np.ndarray, columns: Columns, notes: Notes) -> None:
        if not len(self._steps):
            variables = self._contents.variables | self._contents.states(columns)
            self._columns = declared(variables, self._contents.sizes)
        rows = self._contents.rows(columns, notes, self._columns)
        for name, column in self._columns.items():
            if name != "step":
                empty = np.full((len(steps), *column.sizes), column.fill, column.dtype)
                block = np.asarray(rows.get(name, empty)).astype(column.dtype)
                self._rows.setdefault(name, []).append(block)
        self._steps = np.concatenate([self._steps, steps])
        self.note(**self._contents.notes)

    def snapshot(self, step: int) -> None:
        raise InputError("snapshots need a run folder: give the probe a path")

    @property
    def rows(self) -> int:
        return len(self._steps)

    def note(self, **facts: Any) -> None:
        assert self._description is not None  # it is open
        self._description["notes"] |= plain(facts)

    def close(self, status: str) -> None:
        if self._description is not None:
            self._description["status"] = status

    def dataset(self) -> xarray.Dataset:
        if self._description is None:
            self._description = self._begin(self._contents.steps_taken(0, None, None), None)
        rows = {}
        for name, column in self._columns.items():
            if name != "step":
                none = np.empty((0, *column.sizes), column.dtype)
                whole = np.concatenate([none, *self._rows.get(name, [])])
                rows[name] = lambda i, j, whole=whole: whole[i:j]
        facts = (Path("memory"), self._description, self._columns, self._steps)
        return assembled(*facts, rows, lambda: self._weights).load()

    def _begin(self, taken: int, given: int | None) -> dict[str, Any]:
        """The description of a recording without rows, with the parameters as they are now."""
        layout, self._start = self._contents.layout, None
        if self._contents.trajectory:
            self._weights = layout.flat(layout.parameters)
        notes = {} if self._description is None else self._description["notes"]
        facts = described(self._columns, self._contents.made_by(taken, given))
        return facts | {"status": RUNNING, "notes": notes}


class FolderSink:
    """Writes the rows into a run folder, as a :class:`Sink`.

    Parameters
    ----------
    contents : Contents
    path : Path
    """

    def __init__(self, contents: Contents, path: Path):
        self._contents, self.path = contents, path
        self._run: RunFolder | None = None
        self._noted: dict[str, list[str]] = {}

    def open(self, resume: bool, given: int | None, seen: int | None) -> int:
        self.path = self.path.absolute()  # the program may change its working folder
        variables, sizes = self._contents.variables, self._contents.sizes
        if not (resume and (self.path / RUN).exists()):
            taken = self._contents.steps_taken(0, given, seen)
            made_by = self._contents.made_by(taken, given)
            self._run = RunFolder.create(self.path, variables, made_by, sizes)
            return self._begin(taken)
        if self._contents.trajectory:
            variables |= self._contents.states(read_description(self.path)[1])
        run = RunFolder.resume(self.path, variables, self._contents.describe(), sizes)
        try:
            known = noted(run.notes, len(self._contents.layout.parameters))
            taken = self._contents.steps_taken(run.committed, given, seen, known)
            run.truncate(taken + 1)
            if not run.committed:
                run.begin_again(self._contents.made_by(taken, given))
        except BaseException:
            run.close("interrupted")
            raise
        self._run = run
        return taken if run.committed else self._begin(taken)

    def _begin(self, taken: int) -> int:
        """Keep the parameters that a trajectory starts from."""
        if self._contents.trajectory:
            self.snapshot(taken)
        return taken

    def start(self, taken: int) -> list[Tensor] | None:
        if not self._opened.committed:
            self.snapshot(taken)
            return self._contents.copies()
        begun = max(read_description(self.path)[0]["made_by"].get("steps_before", 0), 0)
        if begun not in snapshots(self.path):
            reason = f"the snapshot of step {begun}, where the run began, is gone"
            self.note(distance_unknown_because=reason)
            return None
        kept, layout = load_snapshot(self.path, begun), self._contents.layout
        pairs = zip(layout.names, layout.parameters, strict=True)
        return [torch.tensor(kept[name]).to(parameter) for name, parameter in pairs]

    def last(self, name: str, taken: int) -> np.ndarray | None:
        is_last = name in self._opened.columns and self._opened.last("step") == taken
        return self._opened.last(name) if is_last else None

    def write(self, steps: np.ndarray, columns: Columns, notes: Notes) -> None:
        if not self._opened.committed:
            states = self._contents.states(columns)
            if not states.keys() <= self._opened.columns.keys():
                self._opened.declare(states)
        rows = self._contents.rows(columns, notes, self._opened.columns)
        if self._noted != self._contents.notes:  # before the rows, which are safe after append
            self._opened.note(**self._contents.notes)
            self._noted = self._contents.notes
        self._opened.append({"step": steps, **rows})

    def snapshot(self, step: int) -> None:
        layout = self._contents.layout
        pairs = zip(layout.names, layout.parameters, strict=True)
        self._opened.snapshot(step, {name: _as_array(parameter) for name, parameter in pairs})

    @property
    def rows(self) -> int:
        return 0 if self._run is None else self._run.committed

    def note(self, **facts: Any) -> None:
        if self._run is None:
            RunFolder.note_in(self.path, facts)
        else:
            self._run.note(**facts)

    def close(self, status: str) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close(status)

    def dataset(self) -> xarray.Dataset:
        return open_recording(self.path)

    @property
    def _opened(self) -> RunFolder:
        assert self._run is not None
        return self._run


def _as_array(parameter: Tensor) -> np.ndarray:
    there = parameter.detach().cpu()
    return (there.float() if there.dtype == torch.bfloat16 else there).numpy()
