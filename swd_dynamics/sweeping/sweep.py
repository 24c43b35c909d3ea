"""Train an optimizer many times: over a grid of its arguments, and over seeds."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import xarray

from swd_dynamics.checks import as_path, whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.sweeping.batched import train_batched, why_not_batched
from swd_dynamics.sweeping.cluster import train_on_cluster
from swd_dynamics.sweeping.outcome import CURVES, NUMBERS, Outcomes
from swd_dynamics.sweeping.plan import EVALUATIONS, Cell, Plan, planned
from swd_dynamics.sweeping.store import Folder, Memory
from swd_dynamics.sweeping.workers import train_in_processes
from swd_dynamics.tables import Table
from swd_dynamics.tasks import Task

ENGINES: Table[Any] = Table(
    "engine", auto=None, vmap=train_batched, processes=train_in_processes, dask=train_on_cluster
)
# Weights of a network from which training many at once gains nothing, because each one keeps a core busy. A network
# with ten times as many is trained faster in processes, one with a tenth is trained faster by vmap.
LARGE = 100_000


def sweep(
    task: str | Callable[..., Task],
    optimizers: Any,
    grid: Mapping[str, Any],
    *,
    steps: int,
    seeds: int | Iterable[int] = 1,
    schedule: str | Callable[[int], Callable[[int], float]] = "constant",
    evaluations: int = EVALUATIONS,
    engine: str = "auto",
    path: str | os.PathLike | None = None,
    jobs: int | None = None,
    scheduler: str | None = None,
    progress: bool = False,
) -> xarray.Dataset:
    """Train with every optimizer, at every point of a grid of arguments, from every seed.

    A run that diverges or fails is a value and ends nothing. An interrupt (Ctrl-C) ends the sweep and keeps the cells
    that are done. With a ``path`` they also survive a kill, and the same call resumes the sweep and trains only the
    cells that are missing.

    Parameters
    ----------
    task : str or callable (seed) → Task
        A name in TASKS, or a function that makes the task with a seed, for example
        ``functools.partial(swd_dynamics.tasks.tanh_network, hidden=(32,), batch_size=50)``.
    optimizers : sequence or mapping
        Names of real optimizers, as "AdamS", or functions of the parameters, as ``torch.optim.NAdam``. A mapping gives
        them names of your own. ``("SGD", {"momentum": 0.9})`` is an optimizer with arguments that are the same in every
        cell.
    grid : mapping of str to sequence
        Arguments of the optimizers, each with its values, as ``{"lr": [0.01, 0.1], "weight_decay": [0, 1e-3]}``.
    steps : int
        Steps of each run.
    seeds : int or iterable of int
        How many seeds, from 0, or which.
    schedule : str or callable (steps) → callable (k) → float
        "constant", "cosine" (to 0), "step" (to a tenth after each third), or a function that returns what the learning
        rate is multiplied by after k steps.
    evaluations : int
        How often the losses are evaluated in a run.
    engine : str
        "vmap": small networks, all at once in this process, by their rules. "processes": one by one with the real
        optimizers. "dask": the same on a cluster; a script that starts one on this machine needs
        ``if __name__ == "__main__":``. "auto": vmap where it can be used and is faster, else processes.
    path : str or path, optional
        The folder of the sweep; without it the results are kept in memory.
    jobs : int, optional
        Processes or workers at a time; one for each core by default.
    scheduler : str, optional
        The address of a Dask scheduler; without it "dask" starts a cluster on this machine.
    progress : bool
        Whether to show a bar.

    Returns
    -------
    xarray.Dataset
        By optimizer, the arguments of the grid, and seed; curves also by step. ``long_name`` says what a variable is.
        ``found.test_error.sel(optimizer="SGD", lr=0.1)`` takes cells by their names, and
        ``found.test_error.mean("seed").to_series()`` has a row with names for each point of the grid.
        Cells that failed are NaN, with their reasons in the attribute ``failed``, as JSON; ``interrupted`` is 1 after
        an interrupt. ``done`` is the number of cells that are done, and ``engine`` the engine that was used.

    Raises
    ------
    InputError
        If an argument is not allowed, an optimizer or the task cannot be made, or the folder holds another sweep.

    Examples
    --------
    Gradient descent on f = ½θ² from θ = 1 multiplies θ by 1 − η − ηλ in a step:

    >>> from functools import partial
    >>> from swd_dynamics.tasks import quadratic
    >>> line = partial(quadratic, spectrum=(1.0,), start=(1.0,))
    >>> found = sweep(line, ["SGD"], {"lr": [0.25, 0.5], "weight_decay": [0.0, 1.0]}, steps=1)
    >>> found.weight_norm.sel(optimizer="SGD", seed=0).values.tolist()
    [[0.75, 0.5], [0.5, 0.0]]
    >>> found.weight_norm.mean("seed").to_series().unstack("weight_decay")
    weight_decay     0.0  1.0
    optimizer lr
    SGD       0.25  0.75  0.5
              0.50  0.50  0.0
    """
    plan = planned(task, optimizers, grid, seeds=seeds, steps=steps, schedule=schedule, evaluations=evaluations)
    if jobs is not None:
        whole_number("jobs", jobs, least=1)
    name, train = _engine(engine, plan, jobs, scheduler)
    store = Memory(plan) if path is None else Folder(plan, as_path("path", path))
    interrupted = False
    try:
        with store:
            _fill(store, plan, train, progress)
    except KeyboardInterrupt:
        interrupted = True
    return _dataset(plan, store).assign_attrs(engine=name, interrupted=int(interrupted), done=int(store.done.sum()))


def _engine(engine: str, plan: Plan, jobs: int | None, scheduler: str | None) -> tuple[str, Callable]:
    ENGINES[engine]  # refuses an unknown name
    why_not = why_not_batched(plan) if engine in ("auto", "vmap") else ""
    if engine == "vmap" and why_not:
        raise InputError(f'engine = "vmap" cannot train this sweep: {why_not}. Use "processes" or "auto"')
    if engine == "auto":
        task = plan.task(plan.seeds[0])
        engine = "processes" if why_not or task.theta.size > LARGE else "vmap"
    if scheduler is not None and engine != "dask":
        raise InputError(f'scheduler = {scheduler!r} is for engine = "dask", and the engine is {engine!r}')
    if engine == "vmap":
        return engine, train_batched
    more = {"scheduler": scheduler} if engine == "dask" else {}
    return engine, partial(ENGINES[engine], jobs=jobs, **more)


def _fill(store: Memory, plan: Plan, train: Callable[..., Iterator[Outcomes]], progress: bool) -> None:
    """Train the cells that are not in the store yet."""
    from tqdm.auto import tqdm

    cells = plan.cells
    missing: Sequence[Cell] = [cell for cell in cells if not store.done[cell.number]]
    done = len(cells) - len(missing)
    # smoothing=0: the rate is the mean since the beginning, because the cells of a block arrive at once.
    with tqdm(total=len(cells), initial=done, unit="cell", smoothing=0, miniters=0, disable=not progress) as bar:

        def say(text: str) -> None:
            bar.set_postfix_str(text, refresh=False)
            bar.update(0)  # draws the bar if it was not drawn a moment ago

        more = {"say": say} if train is train_batched else {}
        for outcomes in train(plan, missing, **more):
            store.add(outcomes)
            bar.update(len(outcomes.cells))


def _dataset(plan: Plan, store: Memory) -> xarray.Dataset:
    dims = ("optimizer", *plan.axes, "seed")
    coordinates: dict[str, Any] = {
        "optimizer": [candidate.label for candidate in plan.candidates],
        **{name: _coordinate(name, values) for name, values in plan.axes.items()},
        "seed": list(plan.seeds),
        "step": ("step", list(plan.evaluated), {"long_name": "number of steps taken"}),
    }
    variables = {}
    for name, long_name in (NUMBERS | CURVES).items():
        values = store.values[name]
        shaped = values.reshape(plan.shape + values.shape[1:])
        variables[name] = ((*dims, "step") if name in CURVES else dims, shaped, {"long_name": long_name})
    attributes = {
        "plan": json.dumps(plan.description, default=repr),
        "failed": json.dumps(dict(sorted(store.reasons.items()))),
    }
    return xarray.Dataset(variables, coordinates, attributes)


def _coordinate(name: str, values: tuple) -> Any:
    """The values of an argument; pairs, such as betas, as text."""
    are_plain = all(isinstance(value, int | float | str) for value in values)
    return (name, list(values) if are_plain else [str(value) for value in values])
