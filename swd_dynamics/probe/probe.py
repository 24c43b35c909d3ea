"""The probe attaches to any torch optimizer and records what each step did."""

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import torch
import xarray
from torch import Tensor

from swd_dynamics.checks import as_path, whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.probe.buffer import Buffer
from swd_dynamics.probe.counts import NOTE, Counted, counts_of
from swd_dynamics.probe.gather import Collector, Contributor, is_common
from swd_dynamics.probe.instruments import Instruments
from swd_dynamics.probe.landscape import Landscape, check_landscape
from swd_dynamics.probe.losses import Losses, with_loss_by_name
from swd_dynamics.probe.measure import SUMMED
from swd_dynamics.probe.provenance import made_by
from swd_dynamics.probe.quantities import Quantity, chosen
from swd_dynamics.probe.sinks import Contents, FolderSink, MemorySink, Sink
from swd_dynamics.probe.steps import StepHooks, check_attached, closure_of, watched
from swd_dynamics.probe.trajectory import MAX_TRAJECTORY_VALUES, check_room
from swd_dynamics.probe.warned import UNATTACHED, warn, warn_at_end
from swd_dynamics.recording.format import in_words, status_after
from swd_dynamics.tensors.sharding import WRITER, local, shares, world
from swd_dynamics.tensors.versions import version
from swd_dynamics.tensors.weights import layout_of, unwrapped


class Probe:
    """Records the steps of a torch optimizer, in memory or in a run folder.

    The training stays bit for bit the same.
    Steps are numbered from 1, or by the optimizer's own count if the optimizer counts. Measured
    numbers stay on the device and come to the host for many steps at once. In a run folder a row is
    safe at most two seconds later. A step that a gradient scaler skips inside the optimizer (fused
    kernels) is a row with Δθ = 0 and R = 0; a step that the scaler does not call is not a row. An
    error in the probe ends the recording, with a warning and the reason in ``failure``; it never
    ends the training.

    Where several processes train together (DDP, ``fully_shard``), each process attaches a probe
    with the same path, and rank 0 keeps the recording: sums over the weights of all processes, and
    the mean loss. The other processes send their rows through the process group's key-value store:
    there is no collective call, and no step waits for another process. A value that depends on a
    shard whose process has no probe, or whose probe failed, is NaN, and the attribute
    ``incomplete_because`` says why.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Any optimizer, with any number of parameter groups, on any device.
    path : str or path, optional
        The run folder, which must be new or empty unless ``resume`` is true. Without a path the
        recording is kept in memory.
    model : torch.nn.Module, optional
        Gives the parameters their names.
    quantities : str or iterable of (str or Quantity)
        A set, "minimal", "default", "dynamics" or "landscape", or names, or quantities of your own.
        Quantities made from Δθ need a copy of the parameters, the distance from the start needs one
        more, and cos(g, m) one of the gradients if steps write into them. "minimal" needs none.
    every : int
        Steps n, 2n, 3n, … are measured. A step that is not measured costs one function call.
    trajectory : bool
        Whether every weight, gradient, decay rate and optimizer state of every step is recorded,
        as replay needs it, for small models that are not sharded. R is then that of each weight.
    landscape : Landscape, optional
        The loss for the sharpness and the other quantities of "landscape", and how often to measure.
    snapshots : int, optional
        The parameters are kept after steps n, 2n, 3n, …; in a run folder only.
    resume : bool
        Whether to resume the run in the folder, if there is one. Rows of steps that are taken
        again are replaced.
    step : int, optional
        How many steps were taken before, for an optimizer that does not count its steps.
    distributed : bool, optional
        Whether the processes of ``torch.distributed`` make one recording; by default they do if
        there are several. False: this process records its own training.
    seed, data : optional
        Noted in the recording; the probe does not use them.
    max_trajectory_values : int
        Steps × weights that a trajectory in memory may have.

    Raises
    ------
    InputError
        If an argument is not allowed, the optimizer is not torch's or a parameter cannot be
        recorded, the folder is not empty or cannot be written, or it holds another run.

    Examples
    --------
    Three steps of θ ← (1 − ηλ)θ − ηg at η = ½, λ = ½, g = 0 have R = ¼ each:

    >>> weight = torch.nn.Parameter(torch.tensor([64.0]))
    >>> sgd = torch.optim.SGD([weight], lr=0.5, weight_decay=0.5)
    >>> with Probe(sgd, trajectory=True) as probe:
    ...     for _ in range(3):
    ...         weight.grad = torch.zeros(1)
    ...         sgd.step()
    >>> probe.dataset().theta.values.ravel(), probe.dataset().decay_rate.values
    (array([64., 48., 36., 27.], dtype=float32), array([0.25, 0.25, 0.25]))
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        path: str | os.PathLike | None = None,
        *,
        model: torch.nn.Module | None = None,
        quantities: str | Iterable[str | Quantity] = "default",
        every: int = 1,
        trajectory: bool = False,
        landscape: Landscape | None = None,
        snapshots: int | None = None,
        resume: bool = False,
        step: int | None = None,
        distributed: bool | None = None,
        seed: int | None = None,
        data: Any = None,
        max_trajectory_values: int = MAX_TRAJECTORY_VALUES,
    ):
        optimizer = unwrapped(optimizer)
        self.optimizer, self.path = optimizer, None if path is None else as_path("path", path)
        self.layout = layout_of(optimizer, model, sharded=True)
        self.quantities, self.every = chosen(quantities), whole_number("every", every, 1)
        self.snapshots = None if snapshots is None else whole_number("snapshots", snapshots, 1)
        self._given = None if step is None else whole_number("step", step, 0)
        if trajectory and self.every != 1:
            advice = "a trajectory has all steps; give trajectory=False or every=1"
            raise InputError(f"every = {every} is not allowed: {advice}")
        if path is None and (snapshots is not None or resume):
            raise InputError("snapshots and resume need a run folder: give the probe a path")
        whole = {"snapshots": snapshots, "trajectory": trajectory or None}
        common = is_common(distributed, self.layout, whole)
        self.writes = not common or world()[0] == WRITER  # if false, another process keeps the rows
        check_landscape(landscape, self.quantities)
        measures = self.writes or shares(self.layout.parameters, world()[0]).any()
        needs = {need for quantity in self.quantities for need in quantity.needs if measures}
        self._instruments = Instruments(optimizer, self.layout, needs, trajectory and self.writes, landscape)
        facts = {"quantities": [quantity.name for quantity in self.quantities], "every": self.every}
        facts |= {"processes": world()[1] if common else 1, "trajectory": trajectory}
        contents = Contents(
            optimizer, self.layout, self.quantities, self._instruments.rates.known, trajectory,
            lambda: made_by(optimizer, self.layout, model, seed, data) | facts,
            self._instruments.eigenvalues,
        )  # fmt: skip
        self._trajectory, self._most_values = trajectory, max_trajectory_values
        sink = MemorySink(contents) if self.path is None else FolderSink(contents, self.path)
        self._sink: Sink = self._common(sink) if common else sink
        self._buffer = Buffer({}, torch.device("cpu"))
        self._hooks: StepHooks | None = None
        self._is_measuring = self._gradient_seen = self._has_stepped = self._in_step = False
        self._losses = Losses(self._amend)
        self._lock = threading.RLock()  # dataset() may be called from another thread
        self._process: int | None = None  # the process that attached the probe
        self._written: list[int | None] = []  # versions of the parameters when the probe was attached
        # What a recording says of the optimizer's counts, and what they were at the last detachment.
        self._counted = self._left = Counted(0, [None] * len(self.layout.parameters))
        self.steps = self._begun = 0  # the number of the last step, counting the steps taken before
        self.resume, self.failure = resume, None

    def __repr__(self) -> str:
        status = f"failed: {self.failure}" if self.failure else "attached" if self._hooks else "not attached"
        kind, where = type(self.optimizer).__name__, self.path or "memory"
        return f"<Probe of {kind}: recording in {where}, last step {self.steps}, {status}>"

    def _common(self, sink: MemorySink | FolderSink) -> Collector | Contributor:
        """The sink with which this process contributes to one recording of several processes."""
        name = "memory" if self.path is None else str(self.path)
        if self.writes:
            return Collector(sink, self.layout, name, self._summed)
        return Contributor(self.optimizer, self.layout, name, SUMMED)

    def _summed(self) -> frozenset[str]:
        """The columns that are sums over the weights of this process."""
        return self._instruments.measurement.summed

    def __enter__(self) -> "Probe":
        return self.attach()

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        self.detach(status_after(error))

    def attach(self) -> "Probe":
        """Open the recording and begin to record; after :meth:`detach`, continue the recording.

        For SGD with L2 and momentum, R continues from the last row if that is the row of the last
        step. Otherwise R is followed from a new perturbation.
        """
        if self._hooks is not None:
            raise InputError("this probe is attached already: detach it first")
        self.require_room(self._sink.rows + 1)
        counts = counts_of(self.optimizer, self.layout.parameters)
        is_known = self._has_stepped and self._given is None
        seen = self._left.resumed_at(counts) if is_known else None
        self.steps = self._sink.open(self.resume, self._given, seen)
        try:
            self._begin()
        except BaseException:
            self._sink.close("interrupted")  # nothing else closes the recording
            raise
        return self

    def _begin(self) -> None:
        if self.writes and not self._sink.rows:
            self._instruments.measurement.start = None
        if self._instruments.needs_start:
            self._instruments.measurement.start = self._sink.start(self.steps)
        self._instruments.take_up(lambda name: self._sink.last(name, self.steps))
        self._buffer = self._instruments.buffer()
        self._losses.attach()
        self._is_measuring, self._in_step, self.failure = False, False, None
        self._process, self._begun, self._written = os.getpid(), self.steps, self._versions()
        self._hooks = StepHooks(self.optimizer, self._before_step, self._after_step)

    def detach(self, status: str = "finished") -> None:
        """Write the remaining rows, remove the hooks, and note how the run ended.

        ``status`` is "finished", "interrupted", or "failed: …" with the reason.
        """
        if self._hooks is None:
            return
        self._hooks.remove()
        self._given, self.resume, self._in_step = None, True, False
        self._guarded(self.flush)
        self._hooks, self._left = None, self._counted
        if self.failure is None:
            counts = counts_of(self.optimizer, self.layout.parameters)
            self._left = Counted(self.steps, counts)
        if os.getpid() == self._process:
            self._guarded(lambda: self._end(status))

    def _end(self, status: str) -> None:
        if reasons := self._losses.reasons:
            self._sink.note(loss_unknown_because=reasons)
        self._sink.close(status)
        seen = type(self.optimizer).__name__, self.steps - self._begun, self._written != self._versions()
        warn_at_end(*seen, self._losses.observed, self._instruments.measurement.lacks_gradients)

    def _versions(self) -> list[int | None]:
        """How often each parameter was written."""
        return [version(local(parameter)) for parameter in self.layout.parameters]

    @with_loss_by_name
    def observe(self, *, loss: Tensor | float, of: Literal["next", "last"] | None = None) -> None:
        """Record the loss of a step, without waiting for the device. A step without a loss has NaN.

        Call it once for each step: if gradients are accumulated over several batches, with the mean
        of their losses. Of several losses, the last before a step counts, or the first after it.
        The loss of the last step is lost if :meth:`flush` or :meth:`dataset` has already written
        its row. How many rows have no loss is noted at the end, in ``loss_unknown_because``.

        Parameters
        ----------
        loss : Tensor or float
            One number.
        of : {"next", "last"}, optional
            The step that the loss belongs to: the next one, or the one that was just taken. By
            default every loss belongs to the next step if ``observe`` was first called before a
            step, and to the last step otherwise. Under a gradient scaler, which may skip the first
            steps, say "last" if you observe numbers after the step; a tensor shows by its gradient
            that it belongs to the last step. In a closure the loss belongs to the step that calls
            the closure; if the closure is called several times, its first loss counts.

        Raises
        ------
        InputError
            If the loss is not one number, ``of`` is something else, or the probe was never attached.
        """
        check_attached(self._process)
        if of not in ("next", "last", None):
            raise InputError(f"of = {of!r} is not allowed: it must be 'next' or 'last'")
        with self._lock:
            self._losses.observe(loss, of)

    def _amend(self, loss: Tensor | float) -> bool:
        """Replace the loss of the last row, unless the row is written already."""
        if has_row := bool(self._buffer.filled):
            self._guarded(lambda: self._buffer.amend("loss", loss))
        return has_row

    def require_room(self, steps: int) -> None:
        """Refuse a trajectory of so many steps if it is too large for memory or a run folder."""
        if self._trajectory:
            check_room(self.layout, steps, self._most_values, self.path is not None)

    def flush(self) -> None:
        """Write the rows that are still on the device. In a run folder they are then safe."""
        # The rows that a forked process has are those of its parent.
        if self._hooks is not None and os.getpid() == self._process:
            with self._lock:
                self._flush()

    def _flush(self) -> None:
        if self._buffer.filled:
            with self._buffer.taken() as rows:
                self._sink.write(*rows, self._instruments.notes)
        optimizer, parameters = self.optimizer, self.layout.parameters
        if not (self._in_step or self._counted.agrees(self.steps, optimizer, parameters)):
            self._counted = Counted(self.steps, counts_of(optimizer, parameters))
            self._sink.note(**{NOTE: self._counted._asdict()})

    def note(self, **facts: Any) -> None:
        """Add facts about the run to the recording's attributes, during the run or after it.

        Raises
        ------
        InputError
            If the probe was never attached.
        """
        check_attached(self._process)
        if self._hooks is None:
            self._sink.note(**facts)
        else:
            self._guarded(lambda: self._sink.note(**facts))

    def dataset(self) -> xarray.Dataset:
        """All rows so far, as :func:`swd_dynamics.open_recording` returns them; at any time."""
        if self._process is None:
            warn(UNATTACHED)
        with self._lock:
            self._guarded(self.flush)
            return self._sink.dataset()

    def _guarded(self, action: Callable[[], Any]) -> Any:
        """Call something that may fail. A failure ends the recording and not the training."""
        try:
            with self._lock, np.errstate(all="ignore"):  # a run that diverges is recorded as it is
                return action() if self.failure is None else None
        except Exception as error:
            self._fail(in_words(error))

    def _fail(self, reason: str) -> None:
        with suppress(Exception):  # earlier rows are recorded, unless writing them is what failed
            self.flush()
        self.failure = reason
        self._is_measuring = False
        try:
            self._sink.close(f"failed: {reason}")
        except Exception:  # a full disk, for example
            reason += " (and run.json could not be written)"
        where = "" if self.path is None else f" into {self.path}"
        warn(f"the probe stopped recording{where}, but the training continues: {reason}")

    @torch.no_grad()
    def _before_step(self, optimizer: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if self.failure is None:
            return self._guarded(lambda: self._begin_step(args, kwargs))

    @torch.no_grad()
    def _after_step(self, optimizer: Any, args: tuple, kwargs: dict) -> None:
        if self.failure is None:
            self._guarded(self._end_step)

    def _begin_step(self, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if self._buffer.is_due:
            self.flush()  # not earlier, because the last row waited for its loss until now
        self.steps, self._has_stepped, self._in_step = self.steps + 1, True, True
        self._is_measuring = self.steps % self.every == 0
        self._gradient_seen = False
        self._losses.begin(in_closure=closure_of(args, kwargs) is not None)
        if not self._is_seen:
            return None
        self.layout.check_unchanged(self.optimizer)
        self.require_room(self._sink.rows + self._buffer.filled + 1)
        self._instruments.before(self._is_measuring, self.steps)
        changed = watched(args, kwargs, lambda x: self._guarded(lambda: self._at_gradient(x)))
        if changed is None:
            self._at_gradient(None)
        return changed

    @torch.no_grad()
    def _at_gradient(self, loss: Any) -> None:
        self._instruments.at_gradient()
        self._gradient_seen = True
        self._losses.at_gradient(loss)

    @property
    def _is_seen(self) -> bool:
        """Whether the probe looks at the step: to record it, or to follow R through it."""
        return self._is_measuring or self._instruments.rates.follows

    def _end_step(self) -> None:
        if self._is_seen:
            self._measure()
        self._losses.end()
        self._in_step = False
        if self.snapshots is not None and self.steps % self.snapshots == 0:
            self._sink.snapshot(self.steps)

    def _measure(self) -> None:
        if not self._gradient_seen:
            raise InputError("the optimizer did not call its closure: the gradient is unknown")
        row, vectors = self._instruments.after(), self._instruments.measurement.vectors
        if self._is_measuring:
            self._buffer.put(self.steps, {**row, "loss": [self._losses.recorded()]}, vectors)
