"""The probe: attaches to any torch optimizer and records what each step did."""

import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray
from torch import Tensor

from swd_dynamics.checks import whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.probe.buffer import Buffer
from swd_dynamics.probe.gather import Collector, Contributor
from swd_dynamics.probe.instruments import Instruments
from swd_dynamics.probe.measure import SUMMED
from swd_dynamics.probe.provenance import made_by
from swd_dynamics.probe.quantities import Quantity, chosen
from swd_dynamics.probe.sinks import Contents, FolderSink, MemorySink, Sink
from swd_dynamics.probe.steps import StepHooks, closure_of, watched
from swd_dynamics.tensors.sharding import WRITER, shares, world
from swd_dynamics.tensors.weights import Layout, layout_of, unwrapped

MAX_TRAJECTORY_VALUES = 50_000_000  # steps × weights: five variables of float64 take 2 GB then


class Probe:
    """Records the steps of a torch optimizer, in memory or in a run folder, and leaves the training as it is.

    Steps are numbered from 1, by the optimizer's own count where it has one. What is measured stays
    on the device and comes to the host for many steps at once. In a run folder a row is safe two
    seconds later at most. A step that a gradient scaler skips inside the optimizer (fused kernels)
    is a row with Δθ = 0 and R = 0; a step that the scaler does not take is not a row. An error in the
    probe ends the recording, with a warning and the reason in ``failure``, and never the training.

    Where several processes train together (DDP, ``fully_shard``), each process attaches a probe with
    the same path, and rank 0 keeps the recording: sums over the weights of all processes, and the
    mean loss. The other processes hand over their rows through the process group's key-value store:
    there is no collective call, and no step waits for another process. A row is complete some seconds
    later than on one process. A value that depends on a shard whose process has no probe, or whose
    probe failed, is NaN, and the attribute ``incomplete_because`` says why.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Any optimizer, with any number of parameter groups, on any device.
    path : str or path, optional
        The run folder: new or empty, unless ``resume``. Without it the recording is kept in memory.
    model : torch.nn.Module, optional
        Gives the parameters their names.
    quantities : str or iterable of (str or Quantity)
        A set, ``"minimal"``, ``"default"`` or ``"dynamics"``, or quantities by name or of your own.
        Those made from Δθ keep one copy of the parameters, and the distance from the start keeps a
        second one; "minimal" keeps none.
    every : int
        Steps n, 2n, 3n, … are measured. The others cost a call.
    trajectory : bool
        Whether every weight, gradient, decay rate and optimizer state of every step is recorded, too:
        for small models that are not sharded. R is then followed weight by weight.
    snapshots : int, optional
        The parameters are kept after steps n, 2n, 3n, …; in a run folder only.
    resume : bool
        Whether to continue the run in the folder, if there is one. Rows of steps that are now taken
        again are replaced.
    step : int, optional
        How many steps were taken before, for an optimizer that does not count.
    distributed : bool, optional
        Whether the processes of ``torch.distributed`` make one recording: by default if there are
        several. False: this process records a training of its own.
    seed, data : optional
        Noted, not set.
    max_trajectory_values : int
        Steps × weights that a trajectory in memory may have.

    Raises
    ------
    InputError
        If an argument is not allowed, the optimizer is not torch's or a parameter cannot be
        recorded, the folder is taken or cannot be written, or the run in it is another one.

    Examples
    --------
    Three steps of θ ← (1 − ηλ)θ − ηg at η = ½, λ = ½, g = 0: R = ¼ each.

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
        snapshots: int | None = None,
        resume: bool = False,
        step: int | None = None,
        distributed: bool | None = None,
        seed: int | None = None,
        data: Any = None,
        max_trajectory_values: int = MAX_TRAJECTORY_VALUES,
    ):
        optimizer = unwrapped(optimizer)
        self.optimizer, self.path = optimizer, None if path is None else Path(path)
        self.layout = layout_of(optimizer, model, sharded=True)
        self.quantities = chosen(quantities)
        self.every = whole_number("every", every, 1)
        self.snapshots = None if snapshots is None else whole_number("snapshots", snapshots, 1)
        self._given = None if step is None else whole_number("step", step, 0)
        _check_trajectory(trajectory, self.every)
        if path is None and (snapshots is not None or resume):
            raise InputError("snapshots and resume need a run folder: give the probe a path")
        whole = {"snapshots": snapshots, "trajectory": trajectory or None}
        is_common = _is_common(distributed, self.layout, whole)
        self.writes = not is_common or world()[0] == WRITER  # else another process keeps the rows
        measures = self.writes or shares(self.layout.parameters, world()[0]).any()
        needs = {need for quantity in self.quantities for need in quantity.needs} if measures else set()
        self._instruments = Instruments(optimizer, self.layout, needs, trajectory and self.writes)
        facts = {"quantities": [quantity.name for quantity in self.quantities], "every": self.every}
        facts |= {"processes": world()[1] if is_common else 1, "trajectory": trajectory}
        contents = Contents(
            optimizer, self.layout, self.quantities, self._instruments.rates.known, trajectory,
            lambda: made_by(optimizer, self.layout, model, seed, data) | facts,
        )  # fmt: skip
        self._most_values = max_trajectory_values if trajectory and path is None else None
        sink = MemorySink(contents) if self.path is None else FolderSink(contents, self.path)
        self._sink: Sink = self._common(sink) if is_common else sink
        self._buffer = Buffer({}, torch.device("cpu"))
        self._hooks: StepHooks | None = None
        self._is_measuring = self._in_closure = self._gradient_seen = False
        self._has_stepped = self._awaits_loss = False
        self._loss: Tensor | float = math.nan
        self._loss_comes_after: bool | None = None
        self.steps = 0  # the number of the last step, those taken before included
        self.resume, self.failure = resume, None

    def _common(self, sink: MemorySink | FolderSink) -> Collector | Contributor:
        """Takes part in one recording of several processes."""
        name = "memory" if self.path is None else str(self.path)
        if self.writes:
            summed = lambda: self._instruments.measurement.summed  # noqa: E731
            return Collector(sink, self.layout, name, summed)
        return Contributor(self.optimizer, self.layout, name, SUMMED)

    def __enter__(self) -> "Probe":
        return self.attach()

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.detach("finished" if error is None else "interrupted" if stopped else f"failed: {error!r}"[:1000])

    def attach(self) -> "Probe":
        """Open the recording and begin to record; after a :meth:`detach`, continue.

        The tangent response of L2 continues if it is SGD's and the last step is recorded; otherwise
        it begins again.
        """
        if self._hooks is not None:
            raise InputError("this probe is attached already: detach it first, or use another probe")
        self.require_room(self._sink.rows + 1)
        self.steps = self._sink.open(self.resume, self._given, self.steps if self._has_stepped else None)
        try:
            self._begin()
        except BaseException:
            self._sink.close("interrupted")  # nobody else would
            raise
        return self

    def _begin(self) -> None:
        if self.writes and not self._sink.rows:
            self._instruments.measurement.start = None
        if self._instruments.needs_start:
            self._instruments.measurement.start = self._sink.start(self.steps)
        self._instruments.take_up(lambda name: self._sink.last(name, self.steps))
        self._buffer = self._instruments.buffer()
        self._is_measuring, self._in_closure, self._awaits_loss = False, False, False
        self.failure = None
        self._hooks = StepHooks(self.optimizer, self._before_step, self._after_step)

    def detach(self, status: str = "finished") -> None:
        """Write what is left, note how the run ended (finished, interrupted, or failed: …), and remove the hooks."""
        if self._hooks is not None:
            self._hooks.remove()
        self._hooks, self._given, self.resume = None, None, True
        self._guarded(self.flush)
        self._guarded(lambda: self._sink.close(status))

    def observe(self, *, loss: Tensor | float, of: Literal["next", "last"] | None = None) -> None:
        """Note the loss of a step, without waiting for a tensor. A step without a loss has the loss NaN.

        Parameters
        ----------
        loss : Tensor or float
            One number.
        of : {"next", "last"}, optional
            The step that the loss belongs to: the one to come, or the one just taken. By default every
            loss belongs to the step to come if ``observe`` was first called before a step, else to the
            step just taken. In a closure the loss belongs to the step that calls the closure, whose
            first loss counts.

        Raises
        ------
        InputError
            If the loss is not one number, or ``of`` is something else.

        Notes
        -----
        The loss of the last step is lost if its row was already asked for, by :meth:`flush` or
        :meth:`dataset`.
        """
        value = _loss_value(loss)
        if of not in ("next", "last", None):
            raise InputError(f"of = {of!r} is not allowed: it must be 'next' or 'last'")
        if self._in_closure:
            self._loss = self._loss if self._gradient_seen else value
            return
        if self._loss_comes_after is None and of is None:
            self._loss_comes_after = self._has_stepped
        if of == "next" or (of is None and not self._loss_comes_after):
            self._loss = value
        elif self._awaits_loss and self._buffer.filled:  # the step was measured, and its row is here
            self._guarded(lambda: self._buffer.amend("loss", value))
        self._awaits_loss = False  # a second loss belongs to no row: a scaler did not take its step

    def require_room(self, steps: int) -> None:
        """Refuse a trajectory of so many steps if it would pass ``max_trajectory_values``."""
        values = steps * self.layout.weights
        if self._most_values is not None and values > self._most_values:
            raise InputError(
                f"a trajectory of {steps} steps × {self.layout.weights} weights = {values} values passes"
                f" max_trajectory_values = {self._most_values}: trajectory=False records norms and rates only"
            )

    def flush(self) -> None:
        """Bring the rows that are on the device to the recording: on disk they are then safe."""
        if self._buffer.filled:
            self._sink.write(*self._buffer.take(), self._instruments.notes)

    def note(self, **facts: Any) -> None:
        """Add facts about the run.

        Raises
        ------
        InputError
            If the probe is not attached.
        """
        if self._hooks is None:
            raise InputError("this probe is not attached: facts about a run are noted during the run")
        self._guarded(lambda: self._sink.note(**facts))

    def dataset(self) -> xarray.Dataset:
        """All steps recorded so far, as :func:`swd_dynamics.open_recording` gives them; at any time."""
        self._guarded(self.flush)
        return self._sink.dataset()

    def _guarded(self, action: Callable[[], Any]) -> Any:
        """Do something that may fail; if it does, this was the end of the recording, not of the training."""
        try:
            with np.errstate(all="ignore"):  # a run that diverges is recorded as it is
                return action() if self.failure is None else None
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}"[:1000])

    def _fail(self, reason: str) -> None:
        with suppress(Exception):  # what was measured before is recorded, unless that is what failed
            self.flush()
        self.failure = reason
        self._is_measuring = False
        try:
            self._sink.close(f"failed: {reason}")
        except Exception:  # the disk may be the very reason
            reason += " (and run.json could not be told)"
        where = "" if self.path is None else f" into {self.path}"
        _warn(f"the probe stopped recording{where}, the training goes on: {reason}")

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if self.failure is None:
            return self._guarded(lambda: self._begin_step(args, kwargs))
        return None

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if self.failure is None:
            self._guarded(self._end_step)

    def _begin_step(self, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if self._buffer.is_due:
            self.flush()  # only now: until here the last row waited for its loss
        self.steps, self._has_stepped = self.steps + 1, True
        self._is_measuring = self.steps % self.every == 0
        self._gradient_seen, self._awaits_loss = False, False
        if self._in_closure:  # the last step raised an error: its closure's loss belongs to no row
            self._loss = math.nan
        self._in_closure = closure_of(args, kwargs) is not None
        if not self._is_seen:
            return None
        self.layout.check_unchanged(self.optimizer)
        self.require_room(self._sink.rows + self._buffer.filled + 1)
        self._instruments.before(self._is_measuring)
        changed = watched(args, kwargs, lambda loss: self._guarded(lambda: self._at_gradient(loss)))
        if changed is None:
            self._at_gradient(None)
        return changed

    @torch.no_grad()
    def _at_gradient(self, loss: Any) -> None:
        self._instruments.at_gradient()
        self._gradient_seen = True
        if loss is not None and not self._loss_comes_after and not isinstance(self._loss, Tensor):
            self._loss = _loss_value(loss) if math.isnan(self._loss) else self._loss

    @property
    def _is_seen(self) -> bool:
        """Whether the step is measured, or at least followed."""
        return self._is_measuring or self._instruments.rates.follows

    def _end_step(self) -> None:
        self._in_closure = False
        if self._is_seen:
            self._measure()
        self._loss = math.nan
        if self.snapshots is not None and self.steps % self.snapshots == 0:
            self._sink.snapshot(self.steps)

    def _measure(self) -> None:
        if not self._gradient_seen:
            raise InputError("the optimizer was given a closure and did not call it: its gradient cannot be recorded")
        row = self._instruments.after()
        if self._is_measuring:
            vectors = self._instruments.measurement.vectors
            self._buffer.put(self.steps, {**row, "loss": [self._loss]}, vectors)
            self._awaits_loss = True


def as_number(loss: Tensor | float) -> float:
    """A loss as a float, detached; refused if it is not one number."""
    try:
        return float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
    except (TypeError, ValueError, RuntimeError):
        is_tensor = isinstance(loss, Tensor)
        seen = f"a tensor of shape {tuple(loss.shape)}" if is_tensor else repr(loss)
        raise InputError(f"the loss must be one number, not {seen}") from None


def _loss_value(loss: Any) -> Tensor | float:
    """A loss as it can be kept without waiting for it; refused if it is not one number."""
    if isinstance(loss, Tensor) and loss.numel() == 1 and loss.device.type != "cpu" and not loss.is_complex():
        return loss.detach().reshape(())
    return as_number(loss)


def _check_trajectory(trajectory: bool, every: int) -> None:
    if trajectory and every != 1:
        raise InputError(f"every = {every} is not allowed with a trajectory, which has all steps: omit one of them")


def _is_common(asked: bool | None, layout: Layout, whole: Mapping[str, Any]) -> bool:
    """Whether the processes of the process group make one recording; refused where that is not possible.

    What needs ``whole`` parameters is not possible where they are sharded.
    """
    if layout.is_sharded and asked is False:
        raise InputError("distributed=False is not allowed: parameters are sharded, and no process can record alone")
    for name, value in whole.items():
        if layout.is_sharded and value is not None:
            raise InputError(
                f"{name} = {value} is not allowed: parameters are sharded, and a probe gathers nothing;"
                " torch.distributed.checkpoint saves them"
            )
    return layout.is_sharded or (world()[1] > 1 and asked is not False)


def _warn(message: str) -> None:
    """Warn, and do not raise where warnings are errors."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        print(message, file=sys.stderr)
