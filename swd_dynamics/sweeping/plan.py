"""What a sweep trains: optimizers × a grid of their arguments × seeds, each of them one cell."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from itertools import product
from math import ceil
from typing import Any, NamedTuple

import torch

from swd_dynamics.checks import check, shown, whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.rules import CATALOG, UpdateRule
from swd_dynamics.rules.schedule import Constant, Cosine, StepDecay
from swd_dynamics.tables import Table
from swd_dynamics.tasks import TASKS, Task

# Evaluations of a run, at equal distances. With ten times as many, evaluating tiny networks takes longer than training.
EVALUATIONS = 10

FACTORS: Table[Callable[[int], Callable[[int], float]]] = Table(
    "schedule",
    constant=lambda steps: Constant(1.0),
    cosine=lambda steps: Cosine(1.0, steps),
    step=lambda steps: StepDecay(1.0, ceil(steps / 3)),
)


@dataclass(frozen=True)
class Candidate:
    """An optimizer of a sweep.

    Attributes
    ----------
    label : str — its name in the results
    factory : callable (parameters, **arguments) → torch.optim.Optimizer
    name : str or None — its name in CATALOG, if it has a rule
    arguments : dict — arguments that are the same in every cell

    Examples
    --------
    >>> Candidate("heavy ball", OPTIMIZERS["SGD"], "SGD", {"momentum": 0.5}).rule(lr=0.25).direction
    HeavyBall(momentum=0.5, dampening=0.0)
    """

    label: str
    factory: Callable[..., torch.optim.Optimizer]
    name: str | None
    arguments: dict[str, Any]

    def optimizer(self, parameters: Iterable[torch.nn.Parameter], **arguments: Any) -> torch.optim.Optimizer:
        """The real optimizer."""
        return self.factory(parameters, **(self.arguments | arguments))

    def rule(self, **arguments: Any) -> UpdateRule:
        """The same optimizer as a rule.

        Raises
        ------
        InputError
            If there is no rule for it.
        """
        if self.name is None:
            raise InputError(f"there is no rule for {self.label!r}")
        return CATALOG[self.name](**(self.arguments | arguments))


class Cell(NamedTuple):
    """One training run of a sweep.

    number : int — its place among all cells of the plan
    candidate : int — the place of its optimizer
    point : tuple — the value of every argument in the grid, in the order of the axes
    seed : int
    """

    number: int
    candidate: int
    point: tuple
    seed: int


@dataclass(frozen=True)
class Plan:
    """All that a sweep trains. Made by :func:`planned`.

    Attributes
    ----------
    make_task : callable (seed=…) → Task
    candidates : tuple of Candidate
    axes : dict of str to tuple — the arguments in the grid, each with its values
    seeds : tuple of int
    steps : int — of each run
    schedule : callable (k) → float — what the learning rate is multiplied by after k steps
    schedule_name : str
    evaluated : tuple of int — the numbers of steps after which the losses are evaluated; the last is ``steps``

    Examples
    --------
    >>> plan = planned("quadratic", ["SGD"], {"lr": [0.1, 0.2]}, seeds=2, steps=5)
    >>> [(cell.point, cell.seed) for cell in plan.cells]
    [((0.1,), 0), ((0.1,), 1), ((0.2,), 0), ((0.2,), 1)]
    """

    make_task: Callable[..., Task]
    candidates: tuple[Candidate, ...]
    axes: dict[str, tuple]
    seeds: tuple[int, ...]
    steps: int
    schedule: Callable[[int], float]
    schedule_name: str
    evaluated: tuple[int, ...]

    def task(self, seed: int) -> Task:
        """The task with a seed."""
        return self.make_task(seed=seed)

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of optimizers, of values on each axis, and of seeds."""
        return (len(self.candidates), *map(len, self.axes.values()), len(self.seeds))

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells, in the order of the dimensions of the result."""
        points = product(range(len(self.candidates)), product(*self.axes.values()), self.seeds)
        return [Cell(number, *which) for number, which in enumerate(points)]

    def arguments(self, cell: Cell) -> dict[str, Any]:
        """The arguments of a cell's optimizer that are in the grid."""
        return dict(zip(self.axes, cell.point, strict=True))

    @property
    def description(self) -> dict[str, Any]:
        """The plan in values that JSON can hold: two plans with the same description train the same cells."""
        task = self.task(self.seeds[0])
        facts = {"name": task.name, "weights": task.theta.size, **task.description}
        return {
            "task": {key: value for key, value in facts.items() if key != "seed"},
            "optimizers": {each.label: [each.name or _named(each.factory), each.arguments] for each in self.candidates},
            "grid": {name: list(values) for name, values in self.axes.items()},
            "seeds": list(self.seeds),
            "steps": self.steps,
            "schedule": self.schedule_name,
            "evaluated": list(self.evaluated),
        }


def planned(
    task: str | Callable[..., Task],
    optimizers: Any,
    grid: Mapping[str, Any],
    *,
    seeds: int | Iterable[int] = 1,
    steps: int,
    schedule: str | Callable[[int], Callable[[int], float]] = "constant",
    evaluations: int = EVALUATIONS,
) -> Plan:
    """The plan of a sweep, with the arguments of :func:`swd_dynamics.sweep`, which are checked here.

    Raises
    ------
    InputError
        If an argument is not allowed, or an optimizer does not take an argument of the grid.

    Examples
    --------
    >>> planned("quadratic", ["SGD"], {"lr": [0.1, 0.2]}, seeds=3, steps=5).shape
    (1, 2, 3)
    """
    steps = whole_number("steps", steps, least=1)
    evaluations = min(whole_number("evaluations", evaluations, least=1), steps)
    chosen = seeds if isinstance(seeds, Iterable) else range(whole_number("seeds", seeds, least=1))
    numbers = tuple(whole_number("seed", seed) for seed in chosen)
    if not numbers or len(set(numbers)) < len(numbers):
        raise InputError(f"seeds = {shown(seeds)} is not allowed: give at least one seed, each once")
    axes = _axes(grid)
    candidates = tuple(_candidates(optimizers))
    factor, name = _schedule(schedule, steps)
    plan = Plan(
        make_task=_task_maker(task),
        candidates=candidates,
        axes=axes,
        seeds=numbers,
        steps=steps,
        schedule=factor,
        schedule_name=name,
        evaluated=tuple(ceil(steps * (i + 1) / evaluations) for i in range(evaluations)),
    )
    _try_out(plan)
    return plan


def _axes(grid: Any) -> dict[str, tuple]:
    if not isinstance(grid, Mapping) or not grid:
        raise InputError(
            f'grid = {shown(grid)} is not allowed: give arguments and their values, as {{"lr": [0.1, 0.2]}}'
        )
    axes = {}
    for name, values in grid.items():
        listed: list[Any] = (
            list(values) if isinstance(values, Iterable) and not isinstance(values, str | Mapping) else [values]
        )
        if not listed or len({repr(value) for value in listed}) < len(listed):
            raise InputError(f"grid[{name!r}] = {shown(values)} is not allowed: give at least one value, each once")
        if name in ("optimizer", "seed", "step"):
            raise InputError(f"grid cannot have {name!r}, which is a dimension of the result already")
        axes[name] = tuple(_plain(value) for value in listed)
    return axes


def _plain(value: Any) -> Any:
    """A value without numpy and torch; a pair, such as betas, as a tuple."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(value) if isinstance(value, list) else value


def _candidates(optimizers: Any) -> Iterable[Candidate]:
    if isinstance(optimizers, str) or callable(optimizers):
        optimizers = [optimizers]
    if not isinstance(optimizers, Iterable):
        raise InputError(f"optimizers = {shown(optimizers)} is not allowed: give names in a list, as ['SGD', 'AdamS']")
    if not isinstance(optimizers, Mapping):
        named = [(_label(each), each) for each in optimizers]
        optimizers = dict(named)
        if len(optimizers) < len(named):
            raise InputError(f"optimizers = {shown([label for label, _ in named])}: two of them have the same name")
    if not optimizers:
        raise InputError("optimizers is empty: give at least one")
    for label, given in optimizers.items():
        what, arguments = given if isinstance(given, tuple) and len(given) == 2 else (given, {})
        if not isinstance(arguments, Mapping) or not (isinstance(what, str) or callable(what)):
            raise InputError(
                f"optimizer {label!r} = {shown(given)} is not allowed: give a name, a function of the parameters, or"
                ' one of these with fixed arguments, as ("SGD", {"momentum": 0.9})'
            )
        name = what if isinstance(what, str) else None
        factory: Any = what if name is None else OPTIMIZERS[name]
        yield Candidate(str(label), factory, name, dict(arguments))


def _label(optimizer: Any) -> str:
    """The name of an optimizer that was given without a name."""
    what, arguments = optimizer if isinstance(optimizer, tuple) and len(optimizer) == 2 else (optimizer, {})
    name = what if isinstance(what, str) else getattr(what, "__name__", repr(what))
    if not isinstance(arguments, Mapping) or not arguments:
        return name
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def _schedule(schedule: Any, steps: int) -> tuple[Any, str]:
    make: Any = FACTORS[schedule] if isinstance(schedule, str) else schedule
    if not callable(make):
        raise InputError(
            f"schedule = {shown(schedule)} is not allowed: give a name, or a function of the number of steps"
        )
    factor: Any = make(steps)
    if not callable(factor):
        raise InputError(f"schedule({steps}) returned {shown(factor)}: it must return a function of the step")
    check("the schedule's factor after 0 steps", factor(0), "(0, inf)")
    return factor, schedule if isinstance(schedule, str) else _named(schedule)


def _task_maker(task: Any) -> Any:
    make: Any = TASKS[task] if isinstance(task, str) else task
    if not callable(make):
        raise InputError(f"task = {shown(task)} is not allowed: give a name in TASKS, or a function seed → Task")
    return make


def _try_out(plan: Plan) -> None:
    """Refuse a task or an optimizer that cannot be made, before anything is trained."""
    seed, first = plan.seeds[0], plan.arguments(plan.cells[0])
    try:
        task = plan.task(seed)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the task cannot be made by task(seed={seed}): {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise InputError(f"task(seed={seed}) returned {shown(task)}: it must return a swd_dynamics.tasks.Task")
    for candidate in plan.candidates:
        try:
            made = candidate.optimizer(task.fresh().model.parameters(), **first)
        except Exception as error:
            takes = _arguments_of(candidate.factory) if "unexpected keyword" in str(error) else ""
            raise InputError(f"{candidate.label} cannot be made with {shown(first)}: {error}{takes}") from error
        if not isinstance(made, torch.optim.Optimizer):
            raise InputError(f"{candidate.label} made {shown(made)}: it must make a torch.optim.Optimizer")


def _arguments_of(factory: Any) -> str:
    """The arguments that an optimizer takes besides its parameters, for the end of a message."""
    try:
        names = list(signature(factory).parameters)[1:]
    except (TypeError, ValueError):  # a builtin does not say its arguments
        return ""
    return f"; it takes {', '.join(names)}" if names else ""


def _named(value: Any) -> str:
    """A function by its name; one made by :func:`functools.partial` with its arguments."""
    if hasattr(value, "func"):
        return f"{_named(value.func)} with {shown(value.keywords)}"
    return getattr(value, "__qualname__", type(value).__name__)
