"""One recording of several processes: all of them measure, and one writes."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.probe.exchange import Exchange
from swd_dynamics.probe.sinks import Columns, FolderSink, MemorySink, Notes
from swd_dynamics.recording.format import in_words
from swd_dynamics.tensors.groups import steps_before
from swd_dynamics.tensors.sharding import WRITER, local, shares, world
from swd_dynamics.tensors.weights import Layout

# Seconds that the writer waits, at the end of a run, for the last rows of the other processes. A
# process that is later than that has NaN in its last rows.
SECONDS = 10.0
POLL = 0.01  # seconds between two looks into the store during that time
# Number of blocks that wait for the other processes. A block is a full buffer or two seconds. Half
# as many give up on a process that is 16 seconds late instead of 32; twice as many take twice the
# memory.
MOST_HELD = 16
MOST_NAMED = 20  # processes that a reason in run.json lists before it says "…"


class Collector:
    """Gathers the rows of all processes for one sink, as a :class:`~swd_dynamics.probe.sinks.Sink`.

    A row waits until every process that holds a part of the parameters, and every process that has
    announced itself, has reported the step or has ended its recording. A process announces itself
    before its first step, and no step of a common training ends before all processes have begun it.
    So, without sharded parameters, a process that has not announced itself by then has no probe.
    Rows that wait too long are written without the missing parts: values that depend on these parts
    are NaN, and run.json says why.

    Parameters
    ----------
    writer : MemorySink or FolderSink
        Takes the rows once they are complete.
    layout : Layout
    name : str
        The name that all processes use for this recording: its path as it was given.
    summed : callable
        Returns the names of the columns that are sums over this process's weights.
    """

    def __init__(
        self,
        writer: MemorySink | FolderSink,
        layout: Layout,
        name: str,
        summed: Callable[[], frozenset[str]],
    ):
        self._writer, self._summed, self._layout, self._name = writer, summed, layout, name
        self._own = shares(layout.parameters, WRITER)
        self._exchange: Exchange | None = None
        self._senders: list[_Sender] = []
        self._held: deque[tuple[np.ndarray, Columns]] = deque()
        self._last = -1  # the last step of which rows were given
        self._notes: Mapping[str, set[str]] = {}
        self._missing: dict[str, set[int]] = {}  # why rows are missing, and the processes they miss
        self._noted: list[str] = []
        self._observes = False

    def open(self, resume: bool, given: int | None, seen: int | None) -> int:
        """Begin or continue the run, as the writer does it."""
        self._exchange = exchange = Exchange(self._name)
        others = (rank for rank in range(world()[1]) if rank != WRITER)
        parameters = self._layout.parameters
        self._senders = [_Sender(exchange, rank, shares(parameters, rank)) for rank in others]
        self._held.clear()
        self._last = -1
        try:
            return self._writer.open(resume, given, seen)
        except BaseException as error:
            self._exchange.end(f"failed: {in_words(error)}"[:1000])
            raise

    def start(self, taken: int) -> list[Tensor] | None:
        """θ₀ of this process's weights; None if the run is continued and parameters are sharded."""
        if not self._layout.is_sharded:
            return self._writer.start(taken)
        if taken and self._writer.rows:
            reason = "the start of sharded parameters is not kept"
            self._writer.note(distance_unknown_because=reason)
            return None
        return [local(parameter).clone() for parameter in self._layout.parameters]

    def last(self, name: str, taken: int) -> np.ndarray | None:
        """The last row of a variable, as the writer has it."""
        return self._writer.last(name, taken)

    def write(self, steps: np.ndarray, columns: Columns, notes: Notes) -> None:
        """Keep some rows until the other processes have reported, and write the complete ones."""
        self._notes = notes
        if steps[-1] > self._last:  # otherwise they are given again, after an error
            self._held.append((steps, columns))
            self._last = int(steps[-1])
        self._receive()
        while self._held and (len(self._held) > MOST_HELD or self._is_settled(self._held[0][0])):
            self._release()

    def snapshot(self, step: int) -> None:
        """Keep the parameters, which are not sharded."""
        self._writer.snapshot(step)

    def note(self, **facts: Any) -> None:
        """Add facts about the run."""
        self._writer.note(**facts)

    def dataset(self) -> xarray.Dataset:
        """The rows that are complete."""
        return self._writer.dataset()

    @property
    def rows(self) -> int:
        """The number of rows that are complete."""
        return self._writer.rows

    def close(self, status: str) -> None:
        """Write the remaining rows and note how the run ended.

        After a normal end this waits up to ``SECONDS`` for the last rows of the other processes.
        """
        try:
            self._last_rows(wait=status == "finished")
            self._release_all()
        except BaseException as error:
            failed = f"failed: {in_words(error)}"[:1000]
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else failed
            raise
        finally:
            with suppress(Exception):
                self._release_all()
            with suppress(Exception):  # the store may have ended with the other processes
                self._tell(status)
            self._writer.close(status)

    def _last_rows(self, wait: bool) -> None:
        if not wait:
            with suppress(Exception):  # the store may be why the run did not finish
                self._receive()
            return
        deadline = time.monotonic() + SECONDS
        self._receive()
        while not self._is_whole() and time.monotonic() < deadline:
            time.sleep(POLL)
            self._receive()

    def _is_whole(self) -> bool:
        return all(self._is_settled(steps, at_end=True) for steps, _ in self._held)

    def _release_all(self) -> None:
        while self._held:
            self._release()

    def _tell(self, status: str) -> None:
        """Tell the other processes that the recording has ended, and empty the store."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(status)
            for sender in self._senders:
                if sender.is_here:
                    exchange.clear(sender.rank)

    def _receive(self) -> None:
        if self._held:
            for sender in self._here():
                sender.receive(until=self._held[-1][0][-1])

    def _here(self) -> list["_Sender"]:
        """The processes that have announced themselves.

        Each process is asked only if more have announced themselves than are known.
        """
        here = [sender for sender in self._senders if sender.is_here]
        if self._exchange is None or self._exchange.announced() <= len(here):
            return here
        for sender in self._senders:
            sender.is_here = sender.is_here or self._exchange.is_here(sender.rank)
        return [sender for sender in self._senders if sender.is_here]

    def _is_settled(self, steps: np.ndarray, at_end: bool = False) -> bool:
        return not any(sender.may_report(steps[-1], at_end) for sender in self._senders)

    def _release(self) -> None:
        """Write the oldest block with the other processes' rows that have arrived."""
        steps, columns = self._held[0]
        self._writer.write(steps, self._merged(steps, columns), self._notes)
        self._held.popleft()
        reasons = sorted(map(_sentence, self._missing, self._missing.values()))
        if reasons != self._noted:
            self._noted = reasons
            self._writer.note(incomplete_because=reasons)

    def _merged(self, steps: np.ndarray, columns: Columns) -> dict[str, np.ndarray]:
        reports = [(sender, *sender.rows(steps)) for sender in self._senders]
        for sender, there, _ in reports:
            if not there.all():
                self._missing.setdefault(sender.why_missing, set()).add(sender.rank)
        loss = self._mean_loss(columns["loss"], reports)
        return {**columns, **self._sums(columns, reports), "loss": loss}

    def _sums(self, columns: Columns, reports: list["_Report"]) -> dict[str, np.ndarray]:
        """Sums over the weights of all processes; and which are unknown, (rows, parameters)."""
        if not self._layout.is_sharded:
            return {}
        names = self._summed() & columns.keys()
        sums = {name: np.where(self._own, columns[name], 0.0) for name in names}
        unknown = np.zeros((len(columns["loss"]), len(self._own)), bool)
        for sender, there, reported in reports:
            unknown |= ~there & sender.holds
            for name in sums:  # a process adds nothing to a parameter that it does not hold
                sums[name] = sums[name] + np.where(sender.holds, reported.get(name, np.nan), 0.0)
            if sender.holds.any() and reported and not sums.keys() <= reported.keys():
                why = "other quantities are recorded there"
                self._missing.setdefault(why, set()).add(sender.rank)
        sums = {name: np.where(unknown, np.nan, total) for name, total in sums.items()}
        return {"unknown": unknown, **sums}

    def _mean_loss(self, own: np.ndarray, reports: list["_Report"]) -> np.ndarray:
        """The mean over the processes that observe a loss at all; a loss that is NaN counts."""
        self._observes = self._observes or not np.isnan(own).all()
        none = np.zeros_like(own)
        total, count = (own, np.ones_like(own)) if self._observes else (none, none)
        for sender, there, reported in reports:
            if sender.observes:
                total, count = total + reported["loss"], count + there
        with np.errstate(all="ignore"):
            return total / count


class _Sender:
    """The rows that have arrived from another process."""

    def __init__(self, exchange: Exchange, rank: int, holds: np.ndarray):
        self._exchange, self.rank, self.holds = exchange, rank, holds
        self.is_here = self.observes = False
        self.end: str | None = None
        self._reached = -1  # the last step that the process has reported
        self._blocks: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        self._widths: dict[str, int] = {}

    def receive(self, until: int) -> None:
        """Take the rows that are in the store, up to a step."""
        while self._reached < until and (rows := self._exchange.take(self.rank)) is not None:
            self._reached = int(rows[0][-1])
            self.observes = self.observes or not np.isnan(rows[1]["loss"]).all()
            self._blocks.append(rows)
            self._widths = {name: column.shape[1] for name, column in rows[1].items()}
        if self._reached < until and self.end is None:
            self.end = self._exchange.ended(self.rank)

    def may_report(self, step: int, at_end: bool) -> bool:
        """Whether the process may still report a step."""
        if self._reached >= step or self.end is not None:
            return False
        return self.is_here or (bool(self.holds.any()) and not at_end)

    def rows(self, steps: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Which of some steps were reported, shape (steps, 1), and the columns, 0 where none was.

        Rows of these steps and of earlier steps are dropped.
        """
        there = np.zeros((len(steps), 1), bool)
        found = {name: np.zeros((len(steps), width)) for name, width in self._widths.items()}
        for reported, columns in self._blocks:
            here, these = np.isin(steps, reported), np.isin(reported, steps)
            there[here] = True
            for name, column in columns.items():
                found[name][here] = column[these]
        self._blocks = [block for block in self._blocks if block[0][-1] > steps[-1]]
        return there, found

    @property
    def why_missing(self) -> str:
        """Why the process has not reported a step."""
        if self.end is not None:
            ended = "had ended" if self.end == "finished" else self.end
            return f"the recording there {ended}"
        if self.is_here:
            return "some steps were not reported in time"
        return "no probe was attached with this path"


# The process; which steps it has reported, shape (steps, 1); its columns.
_Report = tuple[_Sender, np.ndarray, dict[str, np.ndarray]]


def _sentence(why: str, ranks: set[int]) -> str:
    named = ", ".join(map(str, sorted(ranks)[:MOST_NAMED]))
    return f"process {named}{', …' if len(ranks) > MOST_NAMED else ''}: {why}"


class Contributor:
    """Gives its rows to the process that writes, as a :class:`~swd_dynamics.probe.sinks.Sink`.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    layout : Layout
    name : str
        The name that all processes use for this recording.
    summed : frozenset of str
        The columns that are sums over this process's weights. Only they and the loss are sent.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layout: Layout,
        name: str,
        summed: frozenset[str],
    ):
        self.optimizer, self.layout, self.name, self.summed = optimizer, layout, name, summed
        self._own = shares(layout.parameters, world()[0])
        self._exchange: Exchange | None = None

    def open(self, resume: bool, given: int | None, seen: int | None) -> int:
        """Announce this process; returns how many steps were taken before."""
        self._exchange = Exchange(self.name)
        self._exchange.announce()
        counted = steps_before(self.optimizer)
        known = [number for number in (given, seen) if number is not None]
        return known[0] if known else max(counted, 0)

    def start(self, taken: int) -> list[Tensor]:
        """θ₀ of this process's weights."""
        return [local(parameter).clone() for parameter in self.layout.parameters]

    def last(self, name: str, taken: int) -> np.ndarray | None:
        """None, because the writer has the rows."""
        return None

    def write(self, steps: np.ndarray, columns: Columns, notes: Notes) -> None:
        """Leave some rows for the writer: the loss, and this process's part of the sums."""
        assert self._exchange is not None
        names = self.summed & columns.keys()
        sums = {name: np.where(self._own, columns[name], 0.0) for name in names}
        self._exchange.post(steps, {**sums, "loss": columns["loss"]})

    def snapshot(self, step: int) -> None:
        """Do nothing, because the writer keeps snapshots."""

    def note(self, **facts: Any) -> None:
        """Do nothing, because the writer notes facts."""

    def close(self, status: str) -> None:
        """Tell the writer how this process's recording ended."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(status)

    def dataset(self) -> xarray.Dataset:
        """Refused, because this process has only a part of the rows."""
        raise InputError(f"process {WRITER} keeps the recording: call dataset() of its probe")

    @property
    def rows(self) -> int:
        """0, because the writer has the rows."""
        return 0


def is_common(asked: bool | None, layout: Layout, whole: Mapping[str, Any]) -> bool:
    """Whether the processes of the process group make one recording; refused where they cannot.

    Parameters
    ----------
    asked : bool, optional
        The argument ``distributed``.
    layout : Layout
    whole : mapping
        Arguments that need whole parameters, so that they are refused where parameters are sharded.
    """
    if layout.is_sharded and asked is False:
        reason = "parameters are sharded, and no process can record them alone"
        raise InputError(f"distributed=False is not allowed: {reason}")
    for name, value in whole.items():
        if layout.is_sharded and value is not None:
            raise InputError(
                f"{name} = {value} is not allowed: parameters are sharded, and a probe does not"
                " gather them; torch.distributed.checkpoint saves them"
            )
    return layout.is_sharded or (world()[1] > 1 and asked is not False)
