"""Runs at the edge of stability whose learning rate rises: the sharpness and the size of their oscillation."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from swd_dynamics.studies.central_flow import RATIO, gradient_of
from swd_dynamics.studies.edge_runs import slow_mean
from swd_dynamics.studies.judging import judge_curve, judge_relative
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.scheduled_runs import ADAM, BEFORE, SGD, Piece, Start, factors, flow_of
from swd_dynamics.studies.stability import limit
from swd_dynamics.studies.study import Setting
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


class Plan(NamedTuple):
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
    def pieces(self) -> list[Piece]:
        rise = Piece(self.rise, 1.0, self.top)
        return [rise, Piece(self.hold, self.top, self.top), Piece(self.after, 1.0, 1.0)]


FULL, QUICK = Plan(2.0, 200, 100, 100, 15), Plan(1.5, 50, 25, 25, 5)


class WarmUp(NamedTuple):
    """A torch run whose η rises, is held and is the first η again; sharpness in units of the limit at the first η.

    steps : array of int — where the sharpness was measured, counted from where η begins to rise
    sharpness : array — of the run's slow mean at these steps; for Adam that of D⁻¹H
    now : array — the limit at the η of these steps
    flow : array — of the central flow at these steps; empty for Adam
    size, flow_size : float — the mean of ‖δ‖² until η falls, of the run and of the flow; nan without a flow
    """

    steps: np.ndarray
    sharpness: np.ndarray
    now: np.ndarray
    flow: np.ndarray
    size: float
    flow_size: float


def warm_ups(task: Task, begins: dict[str, Start], setting: Setting) -> tuple[dict[str, WarmUp], float]:
    """The run of each method, and the mean size of the oscillation in the flow of SGDS at constant η."""
    plan, gradient = QUICK if setting.quick else FULL, gradient_of(task)
    found = {name: of_sgd(task, gradient, SGD[name], begins[name], plan) for name in SGD}
    found |= {name: of_adam(task, method, plan) for name, method in ADAM.items()}
    begin, until = begins["SGDS"], plan.rise + plan.hold
    constant = flow_of(gradient, SGD["SGDS"]).solve(begin.theta, until, memory=begin.memory)
    return found, float(constant.variance[1:until].mean())


def of_sgd(task: Task, gradient: Callable, method: Method, begin: Start, plan: Plan) -> WarmUp:
    """SGD from a settled oscillation, beside the central flow under the same schedule."""
    fresh = task.fresh()
    fresh.set_theta(begin.state.theta)
    optimizer = method.optimizer(fresh.model.parameters())
    begin_late(optimizer, begin.state.memory._asdict())
    times = factors(plan.pieces)
    lrs = times * method.arguments["lr"]
    flow = flow_of(gradient, method, lambda k: lrs[k]).solve(begin.theta, len(lrs), memory=begin.memory)
    run = watched(fresh, optimizer, method, times, 0, plan)
    until = plan.rise + plan.hold
    predicted = flow.sharpness[run.steps, 0] * run.now
    return run._replace(flow=predicted, flow_size=float(flow.variance[1:until].mean()))


def of_adam(task: Task, method: Method, plan: Plan) -> WarmUp:
    """Adam from the start of training, at first at constant η, by which it reaches the edge."""
    fresh = task.fresh()
    optimizer = method.optimizer(fresh.model.parameters())
    return watched(fresh, optimizer, method, factors([Piece(BEFORE, 1.0, 1.0), *plan.pieces]), BEFORE, plan)


def watched(
    task: Task, optimizer: torch.optim.Optimizer, method: Method, times: np.ndarray, first: int, plan: Plan
) -> WarmUp:
    """Train with factors that multiply η, and find sharpness and ‖δ‖² at the slow mean of three iterates."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: times[min(k, len(times) - 1)])
    thetas, divisors = [task.theta], []
    for _ in train(optimizer, task.loss, len(times), scheduler):
        thetas.append(task.theta)
        found = preconditioner_of(optimizer)
        divisors.append(np.ones_like(thetas[0]) if found is None else found.cpu().numpy())
    mean, turned = slow_mean(np.array(thetas))  # of steps 1, 2, …
    divisor = slow_mean(np.array(divisors))[0]
    until = plan.rise + plan.hold
    steps = np.append(np.linspace(0, until - 2, plan.points + 1).astype(int)[1:], until + plan.after - 2)
    lr, at = method.arguments["lr"], first + steps
    sharpness = np.array([largest_eigenvalue(task, mean[k - 1], divisor[k - 1]) for k in at])
    now = np.array([limit(method)(lr * times[k]) for k in at])
    until += first
    size = float(turned[first : until - 1].mean())
    return WarmUp(steps, sharpness / limit(method)(lr), now / limit(method)(lr), np.empty(0), size, np.nan)


def largest_eigenvalue(task: Task, theta: np.ndarray, divisor: np.ndarray) -> float:
    """Of D⁻¹H at θ, with the dense Hessian H."""
    root = divisor**-0.5
    return float(np.linalg.eigvalsh(root[:, None] * task.hessian(theta) * root)[-1])


def on_warm_ups(runs: dict[str, WarmUp], constant: float) -> Iterator[Verdict]:
    """The verdicts on runs whose η rises, and their controls."""
    for name, run in runs.items():
        claim = f"While η of {name} rises at the edge, and is held then, the sharpness falls along the limit"
        yield judge_curve(f"{name}, warm-up", claim, run.now[:-1], run.sharpness[:-1], ALONG, WHY_ALONG)
    for name in SGD:
        run = runs[name]
        yield _size(f"{name}, size", f"While η of {name} rises, the mean of ‖δ‖² is that of the flow", run, run.flow_size)
    for name in SGD:
        run = runs[name]
        claim = f"{name} whose η has risen and is the first again ends with the sharpness of the central flow"
        yield judge_relative(f"{name}, after", claim, run.flow[-1], run.sharpness[-1], ALONG, WHY_ALONG)
    run = runs["SGDS"]
    claim = "While η of SGDS rises, the sharpness stays at the limit of the first η"
    yield must_be_refuted(
        "control: first η", judge_curve("", claim, 1.0, run.sharpness[:-1], ALONG, WHY_ALONG)
    )
    claim = "While η of SGDS rises, the mean of ‖δ‖² is that of the flow with constant η"
    yield must_be_refuted("control: size at constant η", _size("", claim, run, constant))
    claim = "SGD whose η has risen and is the first again ends with the limit of this η"
    last = runs["SGD"].sharpness[-1]
    yield must_be_refuted("control: no trace", judge_relative("", claim, 1.0, last, ALONG, WHY_ALONG))


def _size(name: str, claim: str, run: WarmUp, predicted: float) -> Verdict:
    return judge_relative(name, claim, predicted, run.size, SIZE, WHY_SIZE)
