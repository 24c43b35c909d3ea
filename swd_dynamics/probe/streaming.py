"""The probe that streams to disk: nearly free, never in the way of the training, and nothing acknowledged is lost."""

import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.probe.buffer import Ring
from swd_dynamics.probe.collector import Collector, Contributor
from swd_dynamics.probe.instruments import Instruments
from swd_dynamics.probe.measure import SUMMED, Measurement
from swd_dynamics.probe.quantities import Quantity, chosen
from swd_dynamics.probe.run_writer import RunWriter, made_by
from swd_dynamics.probe.step import as_number
from swd_dynamics.probe.steps import StepHooks, closure_of, watched
from swd_dynamics.recording.reader import open_recording
from swd_dynamics.tensors.sharding import WRITER, shares, world
from swd_dynamics.tensors.weights import Layout, layout_of, unwrapped


class StreamingProbe:
    """Records the steps of a torch optimizer into a run folder while they are taken.

    ``Probe(optimizer, path)`` makes one. Steps are numbered from 1 by the optimizer's own count, where it has one.
    What is measured stays on the device and crosses once for many steps; the newest rows, of two
    seconds at most, are not safe yet. A step that a gradient scaler has skipped inside the optimizer (its fused
    kernels) is a row with Δθ = 0 and R = 0; one that never reached the optimizer is no step. An error of the probe ends
    the recording, with a warning and the reason in run.json, and never the training.

    Of several processes that train together (DDP, ``fully_shard``) each attaches a probe with the same path, and rank 0
    writes: sums over the weights of all processes, and the mean loss. The others hand it their rows through the process
    group's key-value store: there is no collective call, and no step waits for another process. A row is safe some
    seconds later than on one process. What depends on a shard whose process has no probe, or one that failed, is NaN,
    and run.json says why (``incomplete_because``).

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    path : str or path
        The run folder: new or empty, unless ``resume``.
    model : torch.nn.Module, optional
        Gives the parameters their names.
    quantities : str or iterable of (str or Quantity)
        A set, ``"minimal"``, ``"default"`` or ``"dynamics"``, or quantities by name or of one's own. Those made of Δθ
        keep one copy of the parameters, the distance from the start keeps a second one, "minimal" none.
    every : int
        Steps n, 2n, 3n, … are measured; the others cost a call.
    snapshots : int, optional
        The parameters are kept after steps n, 2n, 3n, …; not of sharded parameters.
    resume : bool
        Whether to go on with the run in the folder, if there is one; rows of steps now taken again are replaced.
    step : int, optional
        How many steps were taken before, for an optimizer that does not count.
    trajectory : bool
        Whether every weight and gradient of every step is recorded, too: for small models, up to 10⁶ weights, not
        sharded; :func:`~swd_dynamics.probe.record.load` reads it.
    distributed : bool, optional
        Whether the processes of ``torch.distributed`` make one recording: by default if there are several. False: this
        process records a training of its own.
    seed, data : optional
        Noted, not set.

    Raises
    ------
    InputError
        If an argument is not allowed, the folder is taken or cannot be written, or the run in it is another one.

    Examples
    --------
    >>> import tempfile
    >>> weight = torch.nn.Parameter(torch.tensor([64.0]))
    >>> sgd = torch.optim.SGD([weight], lr=0.5, weight_decay=0.5)
    >>> with StreamingProbe(sgd, tempfile.mkdtemp()) as probe:
    ...     for _ in range(3):
    ...         weight.grad = torch.zeros(1)
    ...         sgd.step()
    >>> probe.dataset().theta_norm.values, probe.dataset().decay_rate.values
    (array([64., 48., 36.]), array([0.25, 0.25, 0.25]))
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        path: str | os.PathLike,
        *,
        model: torch.nn.Module | None = None,
        quantities: str | Iterable[str | Quantity] = "default",
        every: int = 1,
        snapshots: int | None = None,
        resume: bool = False,
        step: int | None = None,
        trajectory: bool = False,
        distributed: bool | None = None,
        seed: int | None = None,
        data: Any = None,
    ):
        optimizer = unwrapped(optimizer)
        self.optimizer, self.path = optimizer, Path(path)
        self.layout = layout_of(optimizer, model, sharded=True)
        self.quantities = chosen(quantities)
        self.every = _whole("every", every, 1)
        self.snapshots = None if snapshots is None else _whole("snapshots", snapshots, 1)
        self._given = None if step is None else _whole("step", step, 0)
        _check_trajectory(trajectory, self.every)
        is_common = _is_common(distributed, self.layout, {"snapshots": snapshots, "trajectory": trajectory or None})
        self.writes = not is_common or world()[0] == WRITER  # else another process writes the run
        measures = self.writes or shares(self.layout.parameters, world()[0]).any()
        needs = {need for quantity in self.quantities for need in quantity.needs} if measures else set()
        self._instruments = Instruments(optimizer, self.layout, needs, trajectory and self.writes)
        facts = {"quantities": [quantity.name for quantity in self.quantities], "every": self.every}
        facts |= {"processes": world()[1] if is_common else 1}
        describe = partial(made_by, optimizer, self.layout, model, seed, data, facts)
        family = self._instruments.rates.family
        writer = RunWriter(optimizer, self.layout, self.path, self.quantities, describe, family, trajectory)
        self._writer = self._common(writer) if is_common else writer
        self._ring = Ring({}, torch.device("cpu"))
        self._hooks: StepHooks | None = None
        self._is_measuring = self._in_closure = self._gradient_seen = self._has_stepped = self._awaits_loss = False
        self._loss: Tensor | float = math.nan
        self._loss_comes_after: bool | None = None
        self.steps = 0  # the number of the last step, those taken before included
        self.resume, self.failure = resume, None

    def _common(self, writer: RunWriter) -> Collector | Contributor:
        """Takes part in one recording of several processes."""
        if self.writes:
            return Collector(writer, lambda: self._instruments.recorded.summed)
        return Contributor(self.optimizer, self.layout, str(self.path), SUMMED)

    def __enter__(self) -> "StreamingProbe":
        return self.attach()

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.detach("finished" if error is None else "interrupted" if stopped else f"failed: {error!r}"[:1000])

    def attach(self) -> "StreamingProbe":
        """Open the run folder and begin to record; after a :meth:`detach`, go on.

        The tangent response of L2 goes on if it is SGD's and the last step is in the folder; else it starts anew.
        """
        if self._hooks is not None:
            raise InputError("this probe is attached already: detach it first, or use another probe")
        self.steps = self._writer.open(self.resume, self._given, self.steps if self._has_stepped else None)
        try:
            self._begin()
        except BaseException:
            self._writer.close("interrupted")  # nobody else would
            raise
        return self

    def _begin(self) -> None:
        if self._instruments.needs_start:
            self._instruments.recorded.start = self._writer.start(self.steps)
        self._instruments.rates.take_up(self._writer.memory(self.steps))
        self._ring = self._instruments.ring()
        self._is_measuring, self._in_closure, self._awaits_loss, self.failure = False, False, False, None
        self._hooks = StepHooks(self.optimizer, self._before_step, self._after_step)

    def detach(self, status: str = "finished") -> None:
        """Write what is left, note how the run ended (finished, interrupted, or failed: …), and take the hooks away."""
        if self._hooks is not None:
            self._hooks.remove()
        self._hooks, self._given, self.resume = None, None, True
        self._guarded(self.flush)
        self._guarded(lambda: self._writer.close(status))

    def observe(self, *, loss: Tensor | float) -> None:
        """Note the loss that the current step's gradient belongs to; a tensor is not waited for.

        Call it before every step or after every step. Which of the two, the first call decides: if no step was seen
        yet, every loss is of the step to come, else of the step just taken. Called in a closure it is of the step that
        calls the closure, whose first loss counts. A step without one has the loss NaN; so has one whose loss comes
        after its row was asked for by :meth:`flush` or :meth:`dataset`.

        Raises
        ------
        InputError
            If the loss is not one number.
        """
        value = _loss_value(loss)
        if self._in_closure:
            self._loss = self._loss if self._gradient_seen else value
            return
        if self._loss_comes_after is None:
            self._loss_comes_after = self._has_stepped
        if not self._loss_comes_after:
            self._loss = value
        elif self._awaits_loss and self._ring.filled:  # the step just taken was measured, and its row is still here
            self._guarded(lambda: self._ring.amend("loss", value))
        self._awaits_loss = False  # a second loss, as of a step that a scaler did not take, is of no row

    def flush(self) -> None:
        """Bring the rows that are on the device to the disk: then they are safe."""
        if self._ring.filled:
            self._writer.write(*self._ring.take(), self._instruments.rates.reasons)

    def note(self, **facts: Any) -> None:
        """Add facts about the run to run.json, while the probe is attached."""
        self._guarded(lambda: self._writer.note(**facts))

    def dataset(self) -> xarray.Dataset:
        """All steps recorded so far, read from disk; see :func:`~swd_dynamics.recording.reader.open_recording`."""
        if not self.writes:
            raise InputError(f"process {WRITER} writes the recording: dataset() is for its probe")
        self._guarded(self.flush)
        return open_recording(self.path)

    def _guarded(self, action: Callable[[], Any]) -> Any:
        """Do something that may fail; if it does, this was the end of the recording, not of the training."""
        try:
            with np.errstate(all="ignore"):  # a run that diverges is recorded as it is
                return action() if self.failure is None else None
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}"[:1000])

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self._is_measuring = False
        try:
            self._writer.close(f"failed: {reason}")
        except Exception:  # the disk may be the very reason
            reason += " (and run.json could not be told)"
        _warn(f"the probe stopped recording into {self.path}, the training goes on: {reason}")

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
        if self._ring.is_due:
            self.flush()  # only now: until here the last row waited for its loss
        self.steps, self._has_stepped = self.steps + 1, True
        self._is_measuring = self.steps % self.every == 0
        self._gradient_seen, self._awaits_loss = False, False
        self._in_closure = closure_of(args, kwargs) is not None
        if not (self._is_measuring or self._instruments.rates.follows):
            return None
        self.layout.check_unchanged(self.optimizer)
        self._now.before()
        changed = watched(args, kwargs, lambda loss: self._guarded(lambda: self._at_gradient(loss)))
        if changed is None:
            self._at_gradient(None)
        return changed

    @torch.no_grad()
    def _at_gradient(self, loss: Any) -> None:
        self._now.at_gradient()
        self._gradient_seen = True
        if loss is not None and not self._loss_comes_after and not isinstance(self._loss, Tensor):
            self._loss = _loss_value(loss) if math.isnan(self._loss) else self._loss

    @property
    def _now(self) -> Measurement:
        return self._instruments.recorded if self._is_measuring else self._instruments.between

    def _end_step(self) -> None:
        self._in_closure = False
        if self._is_measuring or self._instruments.rates.follows:
            self._measure()
        self._loss = math.nan
        if self.snapshots is not None and self.steps % self.snapshots == 0:
            self._writer.snapshot(self.steps)

    def _measure(self) -> None:
        if not self._gradient_seen:
            raise InputError("the optimizer was given a closure and did not call it: its gradient cannot be recorded")
        row = self._now.after()
        if self._is_measuring:
            self._ring.put(self.steps, {**row, "loss": [self._loss]}, self._now.vectors)
            self._awaits_loss = True


def _loss_value(loss: Any) -> Tensor | float:
    """A loss as it can be kept without waiting for it; refused if it is not one number."""
    if isinstance(loss, Tensor) and loss.numel() == 1 and loss.device.type != "cpu" and not loss.is_complex():
        return loss.detach().reshape(())
    return as_number(loss)


def _check_trajectory(trajectory: bool, every: int) -> None:
    if trajectory and every != 1:
        raise InputError(
            f"every = {every} is not allowed with a trajectory, which has all steps: leave one of them away"
        )


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


def _whole(name: str, value: Any, least: int) -> int:
    if type(value) is not int or value < least:
        raise InputError(f"{name} = {value!r} is not allowed: it must be a whole number, at least {least}")
    return value


def _warn(message: str) -> None:
    """Warn, and do not raise where warnings are errors."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        print(message, file=sys.stderr)
