"""One cell of a sweep, trained with a real torch optimizer."""

import warnings
from math import nan
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector

from swd_dynamics.errors import InputError
from swd_dynamics.probe import Probe
from swd_dynamics.sweeping.outcome import CURVES, NUMBERS, TOO_LARGE, Outcomes, failed
from swd_dynamics.sweeping.plan import Cell, Plan
from swd_dynamics.tasks import Task
from swd_dynamics.tensors.known import known


def train_cell(plan: Plan, cell: Cell) -> Outcomes:
    """Train one cell. Whatever goes wrong in it is its outcome.

    Examples
    --------
    Gradient descent on f = ½θ² at η = ½, from θ = 8: after two steps θ = 2 and f = 2.

    >>> from functools import partial
    >>> from swd_dynamics.sweeping.plan import planned
    >>> from swd_dynamics.tasks import quadratic
    >>> plan = planned(partial(quadratic, spectrum=(1.0,), start=(8.0,)), ["SGD"], {"lr": [0.5]}, steps=2)
    >>> values = train_cell(plan, plan.cells[0]).values
    >>> values["train_loss_curve"].tolist(), values["weight_norm"].tolist()
    ([[8.0, 2.0]], [2.0])
    """
    try:
        return _trained(plan, cell)
    except Exception as error:  # an error of foreign code is a result
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        return failed(cell.number, len(plan.evaluated), f"{kind}{' '.join(str(error).split())}"[:300])


def _trained(plan: Plan, cell: Cell) -> Outcomes:
    task = plan.task(cell.seed)
    optimizer = plan.candidates[cell.candidate].optimizer(task.model.parameters(), **plan.arguments(cell))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, plan.schedule)
    numbers, curves = dict.fromkeys(NUMBERS, nan), {name: np.full(len(plan.evaluated), nan) for name in CURVES}
    first = None
    for k in range(plan.steps):
        optimizer.zero_grad()
        loss = task.loss(k)
        value = loss.item()
        first = value if first is None else first
        if not value <= TOO_LARGE * abs(first):  # NaN neither
            numbers["diverged_at"] = k + 1
            break
        loss.backward()
        if k + 1 == plan.steps:
            numbers |= _last_step(optimizer)
        else:
            optimizer.step()
        scheduler.step()
        if k + 1 in plan.evaluated:
            i = plan.evaluated.index(k + 1)
            for name, value in _evaluated(task).items():
                curves[name][i] = value
    else:
        numbers |= _end(task, curves)
    if not np.isnan(curves["test_error_curve"]).all():
        numbers["best_test_error"] = float(np.nanmin(curves["test_error_curve"]))
    values = {name: np.array([value]) for name, value in (numbers | curves).items()}
    return Outcomes([cell.number], values, {})


def _evaluated(task: Task) -> dict[str, float]:
    with torch.no_grad():
        error = nan if task.test_error is None else float(task.test_error(task.model))
        return {"test_error_curve": error, "train_loss_curve": float(task.full_loss(task.model))}


def _last_step(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Take the last step, and measure R and η_eff in it."""
    group = optimizer.param_groups[0]
    with warnings.catch_warnings():
        # A sweep has NaN for a foreign optimizer, as its variables say; a warning from each cell would say no more.
        warnings.filterwarnings("ignore", "decay_rate and effective_lr of the recording", RuntimeWarning)
        row = _probed_step(optimizer)
    numbers = {name: row[name].values.item() for name in ("decay_rate", "decay_ratio", "effective_lr")}
    decoupled = known(optimizer).is_decoupled
    if decoupled is not None and not decoupled(group) and group["weight_decay"]:
        numbers["decay_rate"] = numbers["decay_ratio"] = nan
    return numbers


def _probed_step(optimizer: torch.optim.Optimizer) -> Any:
    """Take a step, and return its row of a recording."""
    with Probe(optimizer, quantities=("decay_rate", "decay_ratio", "effective_lr"), distributed=False) as probe:
        optimizer.step()
    return probe.dataset().isel(step=-1)


def _end(task: Task, curves: dict[str, np.ndarray]) -> dict[str, float]:
    """What is measured after the last step, in which the losses were evaluated."""
    parameters = list(task.model.parameters())
    gradients = torch.autograd.grad(task.full_loss(task.model), parameters)
    return {
        "test_error": curves["test_error_curve"][-1],
        "train_loss": curves["train_loss_curve"][-1],
        "gradient_norm": float(parameters_to_vector(gradients).norm()),
        "weight_norm": float(parameters_to_vector(parameters).detach().norm()),
    }
