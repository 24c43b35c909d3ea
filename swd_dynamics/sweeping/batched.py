"""Many cells of a sweep in one process: small networks trained at once, by the rule, through ``torch.func``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, nan
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG, State
from swd_dynamics.rules.decay import L2
from swd_dynamics.rules.shaped import is_by_tensor
from swd_dynamics.sweeping.outcome import CURVES, NUMBERS, TOO_LARGE, Outcomes
from swd_dynamics.sweeping.plan import Candidate, Cell, Plan
from swd_dynamics.sweeping.training import train_cell
from swd_dynamics.tasks import Task
from swd_dynamics.tasks.task import DrawnLoss, at_weights

BATCHED = ("lr", "weight_decay")  # arguments that may differ within a block
LIMITED = ("AdamS", "AMSGradS")  # whose optimizers omit a decay with R > 2, which their rules have
# Weights of all networks in a block. With many more a step's numbers do not fit into the caches of a CPU, and with many
# fewer most of the time goes into calling torch's functions.
BLOCK_WEIGHTS = 300_000


class CellBlock(NamedTuple):
    """Cells that are trained together: one optimizer, some points of the grid, and for each point the same seeds."""

    candidate: Candidate
    arguments: dict[str, Any]  # that are the same in all its cells
    points: list[tuple]  # the values of BATCHED, as far as they are in the grid
    names: tuple[str, ...]  # of these values
    seeds: tuple[int, ...]
    cells: list[int]  # seed by seed, and for each seed point by point


def why_not_batched(plan: Plan) -> str:
    """Why the runs of a plan cannot be trained together; empty if they can.

    Examples
    --------
    >>> from swd_dynamics.sweeping.plan import planned
    >>> why_not_batched(planned("network", ["SGD"], {"lr": [0.1]}, steps=1))
    ''
    >>> why_not_batched(planned("network", {"mine": torch.optim.NAdam}, {"lr": [0.1]}, steps=1))
    'there is no rule for mine'
    >>> why_not_batched(planned("network", ["AdafactorW"], {"lr": [0.1]}, steps=1))
    'a step of AdafactorW depends on the shapes of the tensors'
    """
    first = plan.cells[0]
    for candidate in plan.candidates:
        if candidate.name is None:
            return f"there is no rule for {candidate.label}"
        try:
            rule = candidate.rule(**plan.arguments(first))
        except InputError as error:
            return f"there is no rule for {candidate.label} with these arguments ({error})"
        if is_by_tensor(rule):
            return f"a step of {candidate.label} depends on the shapes of the tensors"
    task = plan.task(first.seed)
    if not isinstance(task.batch_loss, DrawnLoss):
        return f"the batch_loss of the task {task.name!r} is not a swd_dynamics.tasks.DrawnLoss"
    if next(task.model.buffers(), None) is not None:
        return "the model has buffers, such as the running means of a BatchNorm"
    if not all(parameter.requires_grad for parameter in task.model.parameters()):
        return "some of the model's parameters are not trained"
    try:
        _Training(plan, next(blocks(plan, [first], 1))).try_out()
    except Exception as error:  # of the reader's model and losses, for example one that draws random numbers
        return f"torch.func.vmap cannot train its model ({' '.join(str(error).split())[:200]})"
    return ""


def train_batched(plan: Plan, cells: Sequence[Cell], say: Any = lambda text: None) -> Iterator[Outcomes]:
    """Train some cells, block by block.

    A cell whose arguments the rule or the optimizer refuses is trained alone by the real optimizer, which may fail.

    Parameters
    ----------
    say : callable (text) — told which step a block is at
    """
    regular = []
    for cell in cells:
        if _is_regular(plan, cell):
            regular.append(cell)
        else:
            yield train_cell(plan, cell)
    weights = plan.task(plan.seeds[0]).theta.size
    for block in blocks(plan, regular, max(1, BLOCK_WEIGHTS // weights)):
        yield _Training(plan, block).outcomes(say)


def _is_regular(plan: Plan, cell: Cell) -> bool:
    """Whether both the rule and the optimizer take the arguments of a cell."""
    candidate, arguments = plan.candidates[cell.candidate], plan.arguments(cell)
    try:
        candidate.rule(**arguments)
        candidate.optimizer([torch.nn.Parameter(torch.zeros(1))], **arguments)
    except Exception:  # training the cell says what is wrong
        return False
    return True


def blocks(plan: Plan, cells: Sequence[Cell], largest: int) -> Iterator[CellBlock]:
    """The cells as blocks of at most so many cells, except that all seeds of a point stay together."""
    names = tuple(name for name in plan.axes if name in BATCHED)
    by_point: dict[int, list[Cell]] = {}
    for cell in cells:
        by_point.setdefault(cell.number // len(plan.seeds), []).append(cell)
    alike: dict[tuple, list[list[Cell]]] = {}
    for runs in by_point.values():
        others = repr([value for name, value in plan.arguments(runs[0]).items() if name not in names])
        seeds = tuple(run.seed for run in runs)
        alike.setdefault((runs[0].candidate, others, seeds), []).append(runs)
    for points in alike.values():
        count = ceil(len(points) * len(points[0]) / largest)  # of blocks, which are equally large
        for i in range(min(count, len(points))):
            yield _block(plan, points[i::count], names)


def _block(plan: Plan, points: list[list[Cell]], names: tuple[str, ...]) -> CellBlock:
    head = points[0][0]
    return CellBlock(
        candidate=plan.candidates[head.candidate],
        arguments={name: value for name, value in plan.arguments(head).items() if name not in names},
        points=[tuple(plan.arguments(runs[0])[name] for name in names) for runs in points],
        names=names,
        seeds=tuple(run.seed for run in points[0]),
        cells=[runs[i].number for i in range(len(points[0])) for runs in points],
    )


class _Training:
    """The training of a block. Arrays have the shape (seeds, points, …)."""

    def __init__(self, plan: Plan, block: CellBlock):
        self.plan, self.block = plan, block
        self.tasks: list[Task] = [plan.task(seed) for seed in block.seeds]
        self.model = self.tasks[0].model
        start = torch.stack([_weights(task.model) for task in self.tasks])
        self.theta = start.unsqueeze(1).repeat(1, len(block.points), 1)
        columns = zip(*block.points, strict=True)
        self.varied = {name: start.new_tensor(column) for name, column in zip(block.names, columns, strict=True)}
        rule = block.candidate.rule(**block.arguments)
        self.lr = self.varied.pop("lr", start.new_tensor(rule.lr)).expand(len(block.points))
        self.memory = vmap(vmap(rule.direction.rest))(self.theta)
        loss: Any = self.tasks[0].batch_loss.loss  # pyright: ignore[reportFunctionMemberAccess]
        derivative = grad_and_value(lambda theta, batch: at_weights(self.model, theta, loss, *batch))
        self.derivative = vmap(vmap(derivative, in_dims=(0, None)), in_dims=(0, 0))
        self.diverged = torch.full(self.theta.shape[:2], nan, dtype=torch.float64)

    def try_out(self) -> None:
        """Compute whatever training computes with the model; the weights do not change."""
        self.derivative(self.theta, self._batch(0))
        self._end(self._evaluated())

    def outcomes(self, say: Any) -> Outcomes:
        first, evaluations, numbers = None, [], {}
        for k in range(self.plan.steps):
            gradients, losses = self.derivative(self.theta, self._batch(k))
            first = losses.abs() if first is None else first
            bad = ~(losses <= TOO_LARGE * first) & self.diverged.isnan()
            if bad.any():
                self.diverged[bad] = k + 1
                self.theta[bad] = nan
                gradients[bad] = nan
            numbers = self._step(k, gradients)
            if k + 1 in self.plan.evaluated:
                evaluations.append(self._evaluated())
            say(f"{self.block.candidate.label}, step {k + 1} of {self.plan.steps}")
        curves = {name: torch.stack([each[name] for each in evaluations], dim=-1) for name in CURVES}
        return self._as_outcomes(numbers | self._end(curves) | curves)

    def _batch(self, k: int) -> tuple[Tensor, ...]:
        draws = [task.batch_loss.draw(k) for task in self.tasks]  # pyright: ignore[reportFunctionMemberAccess]
        return tuple(torch.stack(parts) for parts in zip(*draws, strict=True))

    def _step(self, k: int, gradients: Tensor) -> dict[str, Tensor]:
        """Take step k + 1 of every rule. In the last step, R and η_eff are returned."""
        factor, is_last = self.plan.schedule(k), k + 1 == self.plan.steps
        candidate, arguments = self.block.candidate, self.block.arguments
        given = {*candidate.arguments, *arguments, *self.varied}
        needs_largest = "lr_max" in CATALOG[str(candidate.name)].decay_arguments and "lr_max" not in given

        def step(theta, memory, gradient, lr, varied):
            largest = {"lr_max": lr} if needs_largest else {}
            rule = candidate.rule(lr=lambda _: lr * factor, **largest, **arguments, **varied)
            if candidate.name in LIMITED:
                rule = replace(rule, decay=_LimitedDecay(rule.weight_decay))
            parts = rule.parts(State(theta, memory, k), gradient)
            if not is_last:
                return parts.state.theta, parts.memory, ()
            rate = nan * rule.weight_decay if isinstance(rule.decay, L2) else parts.decay_rate
            rate = torch.where(torch.as_tensor(rule.weight_decay) == 0, 0.0, rate)
            effective_lr = rule.direction.effective_lr(parts.memory, parts.step)
            return parts.state.theta, parts.memory, ((rate + 0 * theta).mean(), (effective_lr + 0 * theta)[0])

        over_seeds = vmap(vmap(step), in_dims=(0, 0, 0, None, None))
        self.theta, self.memory, measured = over_seeds(self.theta, self.memory, gradients, self.lr, self.varied)
        return dict(zip(("decay_rate", "effective_lr"), measured, strict=False))

    def _evaluated(self) -> dict[str, Tensor]:
        errors = [self._each(i, task.test_error) for i, task in enumerate(self.tasks)]
        losses = [self._each(i, task.full_loss) for i, task in enumerate(self.tasks)]
        return {"test_error_curve": torch.stack(errors), "train_loss_curve": torch.stack(losses)}

    def _each(self, i: int, function: Any) -> Tensor:
        """A function of the model for every point of a seed; NaN where the run has diverged."""
        theta = self.theta[i]
        if function is None:
            return torch.full(theta.shape[:1], nan, dtype=torch.float64)
        with torch.no_grad():
            values = vmap(lambda weights: at_weights(self.model, weights, function))(theta)
        return torch.where(self.diverged[i].isnan(), values.to(torch.float64), nan)

    def _end(self, curves: dict[str, Tensor]) -> dict[str, Tensor]:
        gradients = [
            vmap(grad(lambda theta, task=task: at_weights(self.model, theta, task.full_loss)))(self.theta[i])
            for i, task in enumerate(self.tasks)
        ]
        errors = curves["test_error_curve"]
        best = torch.where(errors.isnan(), torch.inf, errors).amin(dim=-1)
        return {
            "test_error": errors[..., -1],
            "best_test_error": torch.where(best.isinf(), nan, best),
            "train_loss": curves["train_loss_curve"][..., -1],
            "gradient_norm": torch.where(self.diverged.isnan(), torch.stack(gradients).norm(dim=-1), nan),
            "weight_norm": self.theta.norm(dim=-1),
            "diverged_at": self.diverged,
        }

    def _as_outcomes(self, found: dict[str, Tensor]) -> Outcomes:
        found["decay_ratio"] = found["decay_rate"] / found["effective_lr"]
        values = {name: found[name].flatten(0, 1).to(torch.float64).numpy() for name in (*NUMBERS, *CURVES)}
        return Outcomes(self.block.cells, values, {})


@dataclass(frozen=True)
class _LimitedDecay:
    """Stable decay as the optimizer AdamS has it: none in a step in which R > 2, and none while v̄ = 0."""

    weight_decay: Any

    def added_gradient(self, theta: Any) -> Any:
        return 0

    def decay_rate(self, step: Any) -> Any:
        rate = self.weight_decay * step.effective_lr()
        return torch.where(rate <= 2, rate, 0.0)


def _weights(model: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
