"""Records a whole training run."""

import math
import os
from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

import torch
import xarray
from torch import Tensor

from swd_dynamics.checks import whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.probe.landscape import Landscape
from swd_dynamics.probe.losses import as_number
from swd_dynamics.probe.probe import Probe
from swd_dynamics.probe.quantities import Quantity
from swd_dynamics.probe.trajectory import MAX_TRAJECTORY_VALUES


def record(
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], Tensor],
    steps: int,
    *,
    path: str | os.PathLike | None = None,
    scheduler: Any = None,
    progress: bool = False,
    trajectory: bool = True,
    model: torch.nn.Module | None = None,
    quantities: str | Iterable[str | Quantity] = "default",
    every: int = 1,
    landscape: Landscape | None = None,
    snapshots: int | None = None,
    resume: bool = False,
    step: int | None = None,
    distributed: bool | None = None,
    seed: int | None = None,
    data: Any = None,
    max_trajectory_values: int = MAX_TRAJECTORY_VALUES,
) -> xarray.Dataset:
    """Train for a number of steps and record every step.

    Each step is ``zero_grad``, ``loss(k)``, ``backward``, ``optimizer.step``, ``scheduler.step``. A
    run that diverges is a result: training stops, and the recording says at which step.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    loss : callable
        The training loss, without weight decay, as a function of the number of steps taken (0 on
        the first step).
    steps : int
        At least 1.
    path : str or path, optional
        A run folder; without a path the recording is kept in memory.
    scheduler : optional
        A scheduler of torch.optim.lr_scheduler whose ``step`` needs no argument.
    progress : bool
        Whether to show a progress bar with the loss and the steps per second.
    trajectory : bool
        Whether every weight, gradient and optimizer state is recorded, which
        :func:`swd_dynamics.replay` needs. For large models set it to False.
    model, quantities, every, landscape, snapshots, resume, step, distributed, seed, data, max_trajectory_values
        As for :class:`~swd_dynamics.probe.probe.Probe`.

    Returns
    -------
    xarray.Dataset
        The recording, with two more attributes. ``diverged_at_step`` is the number of steps after
        which θ or the loss was first not finite (−1: never; 0: at the start). ``interrupted`` is 1
        if Ctrl-C ended the run; the rows until then are kept. If several processes make one
        recording, only rank 0 has it.

    Raises
    ------
    InputError
        Before training, if ``steps`` is less than 1 or a trajectory of so many steps would exceed
        ``max_trajectory_values``.

    Examples
    --------
    Gradient descent on f = ½θ² at η = ½ halves θ.

    >>> weight = torch.nn.Parameter(torch.tensor([8.0]))
    >>> sgd = torch.optim.SGD([weight], lr=0.5)
    >>> run = record(sgd, lambda k: weight.square().sum() / 2, steps=3)
    >>> run.theta.values.ravel(), run.loss.values
    (array([8., 4., 2., 1.], dtype=float32), array([32.,  8.,  2.]))
    """
    steps = whole_number("steps", steps, least=1)
    _check_takes_a_step(loss)
    probe = Probe(
        optimizer, path, trajectory=trajectory, model=model, quantities=quantities, every=every,
        landscape=landscape, snapshots=snapshots, resume=resume, step=step, distributed=distributed, seed=seed,
        data=data, max_trajectory_values=max_trajectory_values,
    )  # fmt: skip
    probe.require_room(steps)
    diverged, interrupted = -1, 0
    try:
        with probe:
            diverged = _train(probe, loss, scheduler, _counted(steps, progress))
            probe.note(diverged_at_step=diverged)
    except KeyboardInterrupt:
        interrupted = 1
    recorded = probe.dataset() if probe.writes else xarray.Dataset()
    return recorded.assign_attrs(diverged_at_step=diverged, interrupted=interrupted)


def _check_takes_a_step(loss: Any) -> None:
    try:
        signature(loss).bind(0)
    except TypeError as error:
        raise InputError(
            f"loss cannot be called with the number of steps taken ({error}): give a function of"
            " that number, like lambda k: …"
        ) from None
    except ValueError:  # a builtin function without a signature
        return


def _train(probe: Any, loss: Callable[[int], Tensor], scheduler: Any, numbers: Any) -> int:
    """The number of steps after which the loss or a weight was not finite, or −1."""
    for k in numbers:
        probe.optimizer.zero_grad()
        value = loss(k)
        if not isinstance(value, Tensor):
            raise InputError(f"the loss must be a tensor with a gradient, not {value!r}")
        probe.observe(loss=value)
        number = as_number(value)
        if hasattr(numbers, "set_postfix_str"):
            numbers.set_postfix_str(f"loss {number:.4g}", refresh=False)
        if not math.isfinite(number):
            return k
        value.backward()
        probe.optimizer.step()
        if not _is_finite(probe.layout.parameters):
            return k + 1
        if scheduler is not None:
            scheduler.step()
    return -1


def _is_finite(parameters: Iterable[Tensor]) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in parameters)


def _counted(steps: int, progress: bool) -> Iterable[int]:
    if not progress:
        return range(steps)
    from tqdm.auto import tqdm

    return tqdm(range(steps), unit="step")
