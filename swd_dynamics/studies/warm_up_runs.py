"""Runs at the edge of stability whose learning rate rises: the sharpness and the size of their oscillation."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from swd_dynamics.studies.edge_runs import slow_mean
from swd_dynamics.studies.judging import judge_curve, judge_relative
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.scheduled_runs import ADAM, BEFORE, SGD, Piece, Start, factors, flow_of
from swd_dynamics.studies.stability import limit
from swd_dynamics.studies.training import begin_late, train
from swd_dynamics.tasks import Task
from swd_dynamics.tensors.preconditioner import preconditioner_of
from swd_dynamics.verdict import Verdict, must_be_refuted

ALONG, SIZE = 0.05, 0.1
WHY_ALONG = (
    "relative; when η begins to rise or ceases to, the oscillation has to become larger or smaller, for which the"
    " sharpness leaves the limit: a swing of a fifth in ‖δ‖² goes with one percent in the sharpness, so that a factor"
    " of two goes with 3.5 percent"
)
WHY_SIZE = "relative; the oscillation swings about the size that the flow predicts, and a mean over one period remains"


class Rise(NamedTuple):
    """How η rises linearly to a multiple ``top`` of the first η, is held, and is the first η again.

    rise, hold, after : int — steps of the three parts
    points : int — times that the sharpness is measured while η rises and is held
    """

    top: float
    rise: int
    hold: int
    after: int
    points: int

    @property
    def until(self) -> int:
        """Steps before η falls."""
        return self.rise + self.hold

    @property
    def pieces(self) -> list[Piece]:
        rise = Piece(self.rise, 1.0, self.top)
        return [rise, Piece(self.hold, self.top, self.top), Piece(self.after, 1.0, 1.0)]


FULL, QUICK = Rise(2.0, 200, 100, 100, 15), Rise(1.5, 50, 15, 15, 5)
# Of Adam, which has no flow beside it: in the short form η rises equally fast, but for a shorter time.
ADAM_FULL, ADAM_QUICK = Rise(2.0, 200, 100, 2, 15), Rise(1.75, 150, 0, 2, 5)


class WarmUp(NamedTuple):
    """A torch run whose η rises, is held and is the first η again; sharpness in units of the limit at the first η.

    steps : array of int — where the sharpness was measured, counted from where η begins to rise; the last is the last
        step but one, and the others are before η falls
    sharpness, second : array — the two largest eigenvalues at the run's slow mean; for Adam those of D⁻¹H
    now : array — the limit at the η of these steps
    flow : array — the sharpness of the central flow at these steps; empty for Adam
    size, flow_size : float — the mean of ‖δ‖² until η falls, of the run and of the flow; nan without a flow
    """

    steps: np.ndarray
    sharpness: np.ndarray
    second: np.ndarray
    now: np.ndarray
    flow: np.ndarray
    size: float
    flow_size: float


def warm_ups(task: Task, gradient: Callable, begins: dict[str, Start], quick: bool) -> dict[str, WarmUp]:
    """The run of each method."""
    sgd, adam = (QUICK, ADAM_QUICK) if quick else (FULL, ADAM_FULL)
    found = {name: of_sgd(task, gradient, SGD[name], begin, sgd) for name, begin in begins.items()}
    return found | {name: of_adam(task, method, adam) for name, method in ADAM.items()}


def of_sgd(task: Task, gradient: Callable, method: Method, begin: Start, plan: Rise) -> WarmUp:
    """SGD from a settled oscillation, beside the central flow under the same schedule."""
    fresh = task.fresh()
    fresh.set_theta(begin.state.theta)
    optimizer = method.optimizer(fresh.model.parameters())
    memory: Any = begin.state.memory
    begin_late(optimizer, memory._asdict())
    times = factors(plan.pieces)
    lrs = times * method.arguments["lr"]
    flow = flow_of(gradient, method, lambda k: lrs[k]).solve(begin.theta, len(lrs), memory=begin.memory)
    run = followed_up(fresh, optimizer, method, times, 0, plan)
    size = float(flow.variance[1 : plan.until].mean())
    return run._replace(flow=flow.sharpness[run.steps, 0] * run.now, flow_size=size)


def of_adam(task: Task, method: Method, plan: Rise) -> WarmUp:
    """Adam, at first at constant η, with which it reaches the edge."""
    fresh = task.fresh()
    optimizer = method.optimizer(fresh.model.parameters())
    return followed_up(fresh, optimizer, method, factors([Piece(BEFORE, 1.0, 1.0), *plan.pieces]), BEFORE, plan)


def followed_up(
    task: Task, optimizer: torch.optim.Optimizer, method: Method, times: np.ndarray, first: int, plan: Rise
) -> WarmUp:
    """Train with factors that multiply η; find eigenvalues and ‖δ‖² at slow means of three iterates."""
    until = plan.until
    steps = np.append(np.linspace(0, until - 2, plan.points + 1)[1:], until + plan.after - 2).astype(int)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: times[min(k, len(times) - 1)])
    thetas, divisors = [task.theta], {}
    for k in train(optimizer, task.loss, len(times), scheduler):
        thetas.append(task.theta)
        if (np.abs(first + steps - k) <= 1).any():
            divisors[k] = _divisor(optimizer, task)
    mean, turned = slow_mean(np.array(thetas))  # the first is that of step 1
    lr = method.arguments["lr"]
    largest = limit(method)(lr)
    now = np.array([limit(method)(lr * times[first + k]) for k in steps]) / largest
    pairs = []
    for k in first + steps:
        divisor = (divisors[k - 1] + 2 * divisors[k] + divisors[k + 1]) / 4
        pairs.append(two_largest(task, mean[k - 1], divisor))
    sharpness, second = np.array(pairs).T / largest
    size = float(turned[first : first + until - 1].mean())
    return WarmUp(steps, sharpness, second, now, np.empty(0), size, np.nan)


def _divisor(optimizer: torch.optim.Optimizer, task: Task) -> np.ndarray:
    """D = √v̂ + ε, or 1."""
    found = preconditioner_of(optimizer)
    return np.ones_like(task.theta) if found is None else found.cpu().numpy()


def two_largest(task: Task, theta: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """The two largest eigenvalues of D⁻¹H at θ, the largest first, from the dense Hessian H."""
    root = divisor**-0.5
    return np.linalg.eigvalsh(root[:, None] * task.hessian(theta) * root)[:-3:-1]


def on_warm_ups(runs: dict[str, WarmUp], begins: dict[str, Start]) -> Iterator[Verdict]:
    """The verdicts on runs whose η rises, and their controls."""
    for name, run in runs.items():
        claim = f"While η of {name} rises at the edge, its sharpness falls along the limit"
        yield _along(f"{name}, warm-up", claim, run, run.sharpness)
    for name in ADAM:
        run = runs[name]
        claim = f"While η of {name} rises, one of its two largest eigenvalues is at the limit"
        yield _along(f"{name}, warm-up, one of two", claim, run, nearest_to_limit(run.now, run.sharpness, run.second))
    for name in SGD:
        run = runs[name]
        claim = f"While η of {name} rises, the mean of ‖δ‖² is that of the central flow"
        yield _size(f"{name}, warm-up, size", claim, run, run.flow_size)
    run = runs["SGD"]
    claim = "SGD whose η has risen and is the first again ends with the sharpness of the central flow"
    yield judge_relative("SGD, after a warm-up", claim, run.flow[-1], run.sharpness[-1], ALONG, WHY_ALONG)
    yield from _controls(runs, begins)


def nearest_to_limit(now: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """At each step the one of several values that is nearest to the limit.

    Examples
    --------
    >>> nearest_to_limit(np.array([1.0, 2.0]), np.array([1.5, 2.25]), np.array([1.25, 1.0]))
    array([1.25, 2.25])
    """
    values = np.array(others)
    return np.take_along_axis(values, np.abs(values - now).argmin(axis=0)[None], axis=0)[0]


def _along(name: str, claim: str, run: WarmUp, values: np.ndarray, limits: np.ndarray | float | None = None) -> Verdict:
    predicted = run.now if limits is None else limits * np.ones_like(run.now)
    return judge_curve(name, claim, predicted[:-1], values[:-1], ALONG, WHY_ALONG)


def _size(name: str, claim: str, run: WarmUp, predicted: float) -> Verdict:
    return judge_relative(name, claim, predicted, run.size, SIZE, WHY_SIZE)


def _controls(runs: dict[str, WarmUp], begins: dict[str, Start]) -> Iterator[Verdict]:
    run, begin = runs["SGD"], begins["SGD"]
    claim = "While η of SGD rises, the sharpness stays at the limit of the first η"
    yield must_be_refuted("control: first η", _along("", claim, run, run.sharpness, 1.0))
    claim = "While η of SGD rises, the mean of ‖δ‖² is what the central flow has before"
    before = float(((begin.state.theta - begin.theta) ** 2).sum())
    yield must_be_refuted("control: size before", _size("", claim, run, before))
    claim = "SGD whose η has risen and is the first again ends with the limit of this η"
    false = judge_relative("", claim, 1.0, run.sharpness[-1], ALONG, WHY_ALONG)
    yield must_be_refuted("control: no trace of a warm-up", false)
