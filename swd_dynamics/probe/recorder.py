"""The probe: attaches to any torch optimizer and records what each step did."""

import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
import xarray
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.probe.decay import DecayMeter, Reading, Taken
from swd_dynamics.probe.provenance import provenance
from swd_dynamics.probe.rows import MemoryRows, Row
from swd_dynamics.probe.spread import decay_scalars
from swd_dynamics.probe.step import Step, as_number
from swd_dynamics.probe.steps import StepHooks
from swd_dynamics.tensors.weights import layout_of, unwrapped

RECORDING_VERSION = 1


class Probe:
    """Records every step of a torch optimizer, and leaves the training as it is.

    Norms, loss, learning rates, and the decay rate R and effective learning rate η_eff as far as they are known; with
    ``trajectory`` also the weights, gradients and optimizer state of every step, exactly.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Any, with any number of parameter groups, on any device.
    path : str or path, optional
        A run folder: then the probe is a :class:`~swd_dynamics.probe.streaming.StreamingProbe`, with arguments of its
        own (``quantities``, ``every``, ``snapshots``, ``resume``, …), which streams to disk and costs next to nothing.
    model : torch.nn.Module, optional
        Gives the parameters their names.
    trajectory : bool
        Whether to keep θ, g and the state of every step in memory: for small models.
    seed : int, optional
        Noted, not set.
    data : str or JSON-like, optional
        What is trained on, noted.
    max_trajectory_values : int
        Steps × weights that a trajectory may hold; about five variables have that many values each.

    Raises
    ------
    InputError
        If the optimizer is not torch's, a parameter cannot be recorded, or a trajectory would pass its bound.

    Examples
    --------
    Three steps of θ ← (1 − ηλ)θ − ηg at η = ½, λ = ½, g = 0: R = ¼ each.

    >>> weight = torch.nn.Parameter(torch.tensor([64.0]))
    >>> sgd = torch.optim.SGD([weight], lr=0.5, weight_decay=0.5)
    >>> with Probe(sgd) as probe:
    ...     for _ in range(3):
    ...         weight.grad = torch.zeros(1)
    ...         sgd.step()
    >>> probe.dataset().theta.values.ravel(), probe.dataset().decay_rate.values
    (array([64., 48., 36., 27.], dtype=float32), array([0.25, 0.25, 0.25]))
    """

    def __new__(cls, optimizer: torch.optim.Optimizer, path: str | os.PathLike | None = None, **options: Any) -> Any:
        """With a second argument, ``path``, a :class:`~swd_dynamics.probe.streaming.StreamingProbe`."""
        if path is None:
            return super().__new__(cls)
        from swd_dynamics.probe.streaming import StreamingProbe

        return StreamingProbe(optimizer, path, **options)

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        path: None = None,
        *,
        model: torch.nn.Module | None = None,
        trajectory: bool = True,
        seed: int | None = None,
        data: Any = None,
        max_trajectory_values: int = 50_000_000,
    ):
        optimizer = unwrapped(optimizer)
        self.optimizer = optimizer
        self.layout = layout_of(optimizer, model)
        self.trajectory = trajectory
        self.max_trajectory_values = max_trajectory_values
        self._describe: Callable[[], dict] = lambda: provenance(optimizer, self.layout, seed, data)
        self._made_by: dict[str, str | int] = {}
        self._rows = MemoryRows(self.layout, trajectory)
        self._meter = DecayMeter(optimizer, self.layout)
        self._hooks: StepHooks | None = None
        self._reasons: set[str] = set()
        self._left_out: set[str] = set()
        self._changed_before: list[int] = []
        self._pending: Step | None = None
        self._next_loss = math.nan
        self._loss_comes_after: bool | None = None

    def __enter__(self) -> "Probe":
        return self.attach()

    def __exit__(self, *_) -> None:
        self.detach()

    @property
    def steps(self) -> int:
        """The number of steps recorded."""
        return len(self._rows)

    def attach(self) -> "Probe":
        """Begin to record; after a :meth:`detach`, go on recording (a tangent response starts anew)."""
        if self._hooks is not None:
            raise InputError("this probe is attached already: detach it first, or use another probe")
        self.require_room(self.steps + 1)
        self._made_by = self._made_by or self._describe()
        self._meter = DecayMeter(self.optimizer, self.layout)
        self._hooks = StepHooks(self.optimizer, self._before_step, self._after_step)
        return self

    def detach(self) -> None:
        """Stop recording and take the hooks away; what was recorded stays."""
        if self._hooks is not None:
            self._hooks.remove()
        self._hooks = self._pending = None

    def require_room(self, steps: int) -> None:
        """Refuse a trajectory of so many steps if it would pass ``max_trajectory_values``."""
        values = steps * self.layout.weights
        if self.trajectory and values > self.max_trajectory_values:
            raise InputError(
                f"a trajectory of {steps} steps × {self.layout.weights} weights = {values} values passes"
                f" max_trajectory_values = {self.max_trajectory_values}: trajectory=False keeps norms and rates only"
            )

    def observe(self, *, loss: Tensor | float) -> None:
        """Note the loss that the current step's gradient belongs to.

        Call it before every step or after every step. Which of the two, the first call decides: if no step is recorded
        yet, every loss is of the step to come, else of the step just taken. Called in a closure it is of the step that
        calls the closure, whose first loss counts. A step without one has the loss NaN.

        Raises
        ------
        InputError
            If the loss is not one number.
        """
        value = as_number(loss)
        if self._pending is not None and self._pending.has_closure:  # in the closure, whose first loss counts
            self._pending.loss = value if self._pending.gradients is None else self._pending.loss
            return
        if self._loss_comes_after is None:
            self._loss_comes_after = self.steps > 0
        if self._loss_comes_after and self.steps:
            self._rows.amend_last("loss", value)
        else:
            self._next_loss = value

    def dataset(self) -> xarray.Dataset:
        """All steps recorded so far, with what made them in ``attrs``; may be asked for at any time.

        Returns
        -------
        xarray.Dataset
            Its variables are those of :data:`~swd_dynamics.probe.rows.VARIABLES` and ``state_<key>``.
        """
        return self._rows.dataset().assign_attrs(
            swd_dynamics_recording=RECORDING_VERSION,
            **(self._made_by or self._describe()),
            **self.layout.attributes(),
            trajectory=int(self.trajectory),
            decay_known=int(not self._reasons),
            decay_unknown_because="; ".join(sorted(self._reasons)) or "nothing is unknown",
            state_not_recorded=json.dumps(sorted(self._left_out)),
            theta_changed_before_steps=json.dumps(self._changed_before),
        )

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> tuple | None:
        self.layout.check_unchanged(optimizer)
        self.require_room(self.steps + 1)
        self._pending = step = Step(optimizer, self.layout, self._next_loss)
        self._next_loss = math.nan
        if self.trajectory:
            self._note_start(self.layout.flat(step.theta))
        return step.with_gradients(args, kwargs)

    def _note_start(self, theta: np.ndarray) -> None:
        if self._rows.start is None:
            self._rows.start = theta
        elif self.steps and not np.array_equal(theta, self._rows.last("theta"), equal_nan=True):
            self._changed_before.append(self.steps + 1)

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        step, self._pending = self._pending, None
        assert step is not None  # the hook before it was called
        if step.gradients is None:
            raise InputError("the optimizer was given a closure and did not call it: its gradient cannot be recorded")
        reading = self._meter.read(Taken(step.theta, step.gradients, step.first))
        self._reasons |= reading.reasons
        row = step.scalars() | decay_scalars(reading, self.layout, step.gradients)
        if self.trajectory:
            row |= self._trajectory_row(step, reading)
        self._rows.append(row)

    def _trajectory_row(self, step: Step, reading: Reading) -> Row:
        parameters = self.layout.parameters
        pairs = zip(reading.rates, parameters, strict=True)
        return {
            "theta": self.layout.flat(parameters),
            "gradient": self.layout.flat(step.filled_gradients()),
            "decay_rate_weight": self.layout.flat([rate.cpu().expand(parameter.shape) for rate, parameter in pairs]),
            **self._state_row(),
        }

    def _state_row(self) -> Row:
        states = [self.optimizer.state.get(parameter, {}) for parameter in self.layout.parameters]
        held = {key for state in states for key, value in state.items() if value is not None}
        shaped = {key for key in held if key != "step" and self._is_shaped(key, states)}
        self._left_out |= held - shaped - {"step"}
        row: Row = {f"state_{key}": self._flat_state(key, states) for key in shaped}
        if "step" in held:
            row["state_step"] = np.array([float(state.get("step", math.nan)) for state in states])
        return row

    def _is_shaped(self, key: str, states: Sequence[dict]) -> bool:
        """Whether a piece of state has one entry for each weight, in every parameter that has it."""
        pairs = zip(states, self.layout.parameters, strict=True)
        present = [(state[key], parameter) for state, parameter in pairs if state.get(key) is not None]
        return all(_is_real(value) and value.shape == parameter.shape for value, parameter in present)

    def _flat_state(self, key: str, states: Sequence[dict]) -> np.ndarray:
        pairs = zip(states, self.layout.parameters, strict=True)
        return self.layout.flat([_dense_or_nan(state.get(key), parameter) for state, parameter in pairs])


def _dense_or_nan(value: Tensor | None, parameter: Tensor) -> Tensor:
    if value is None:
        return torch.full_like(parameter, math.nan, memory_format=torch.contiguous_format)
    return value.to_dense() if value.is_sparse else value


def _is_real(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and not value.is_complex()
