"""Study: every weight decay moves the edge of stability, to the place that the linear map of its rule predicts."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from swd_dynamics.plots import LABELS, MUTED, house_style, measured, theory
from swd_dynamics.probe import record
from swd_dynamics.studies.judging import farthest, judge_relative
from swd_dynamics.studies.methods import Method, family
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.training import begin_late, train
from swd_dynamics.symbolic import eigenvalues, fixed_point, notation, stability_limit
from swd_dynamics.tasks import Task, logistic_regression, quadratic
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = "A run survives up to the curvature that the linear map of its rule allows, decay included, and no further."
SOURCE = "the Jury conditions (Jury 1964) of the derived linear map; stable decay as in arXiv 2011.11152"

BETA, DECAY = 0.9, 1.0  # on a quadratic the unit of λ is arbitrary: the learning rate changes ηλ
STILL = 1 - 2.0**-40  # a β₂ that keeps v constant: in all the steps of a run v fades by 2e-10 of itself
TINY = 1e-150  # a start so small that g² adds nothing to v, even in a run that grows 1e100-fold
THIRD = 40  # steps in a third of a run; half as many would leave eight times as much of the start's transient
POINTS = (31, 601)  # curvatures between two bounds, for each round in which the bounds close in
EDGE, EDGE_ON_DIGITS = 1e-3, 1e-4  # relative error allowed for h, or η, at the edge
DECAY_ON_DIGITS = 0.1  # λ
# The distance from the rest point at which a run on the digits starts: far above round-off, and so small that the
# loss is a quadratic even where the run grows a million times as far away.
NUDGE = 1e-9
NEAR = 0.005  # relative distance from the predicted η within which the edge is searched

DIRECTIONS = {
    "heavy ball": ("SGD", {"momentum": BETA}),
    "Nesterov": ("SGD", {"momentum": BETA, "nesterov": True}),
    "Adam": ("Adam", {"betas": (BETA, STILL), "eps": 0.0}),
}


def methods(direction: str, weight_decay: float = DECAY) -> dict[str, Method]:
    """The methods of a direction by decay mode, and first the one without decay."""
    name, arguments = DIRECTIONS[direction]
    decaying = family(name, **arguments, weight_decay=weight_decay)
    return {"none": Method(name, arguments | {"weight_decay": 0.0}), **{m.mode: m for m in decaying}}


def real(method: Method, parameters, **more) -> torch.optim.Optimizer:
    """The real optimizer; AdamS without its limit on R, so that the edge at R = 2 shows."""
    uncapped = {"max_decay_rate": math.inf} if method.name == "AdamS" else {}
    return method.optimizer(parameters, **uncapped, **more)


class Boundary(NamedTuple):
    """The edge on quadratics: rows are learning rates, columns of ``grid`` (h) and ``survived`` are curvatures."""

    direction: str
    method: Method
    lrs: np.ndarray
    grid: np.ndarray
    survived: np.ndarray
    predicted: np.ndarray
    measured: np.ndarray


class Rest(NamedTuple):
    """The point where a run on the digits rests, with the largest curvature there and its direction."""

    theta: np.ndarray
    curvature: float
    steepest: np.ndarray


class Edge(NamedTuple):
    """The edge on the digits as η, and around it the growth of a perturbation: pairs of η/η_limit and |z|."""

    mode: str
    predicted: float
    measured: float
    ratios: np.ndarray
    growth: np.ndarray
    derived: Callable[[float], float]


def measure(setting: Setting) -> Findings:
    """Find the edge of real runs on quadratics and on the digits, and compare it with the derived edge."""
    work = [(direction, mode) for direction in DIRECTIONS for mode in methods(direction)]
    tracked = setting.track(work, "stability on quadratics")
    found = [boundary(direction, mode, setting) for direction, mode in tracked]
    verdicts = [*map(_same_edge, found), _same_side(found), vanishing_gradients(setting)]
    task = logistic_regression(samples=100 if setting.quick else 500, device=setting.device)
    points = 10 if setting.quick else 22  # an even number, so that no point lies on the edge itself
    decaying = methods("heavy ball", DECAY_ON_DIGITS)
    decaying.pop("none")  # without decay separable data have no optimum
    edges = {mode: digits_edge(task, decaying[mode], points) for mode in setting.track(decaying, "stability on digits")}
    verdicts += [verdict for edge in edges.values() for verdict in _on_digits(edge)]
    heavy = {b.method.mode: b for b in found if b.direction == "heavy ball"}
    return Findings([*verdicts, *_controls(heavy, edges)], (heavy, edges))


@lru_cache
def limit(method: Method) -> Callable[..., float]:
    """The derived largest stable curvature as a function (η, v, v̄); negative where no curvature is stable."""
    v, h = notation.PerWeight("v", positive=True), stability_limit(method.rule(lr=notation.lr)).value
    return lambda lr, own=1.0, mean=1.0: float(h.subs(notation.mean(v), mean).subs({v: own, notation.lr: lr}))


def boundary(direction: str, mode: str, setting: Setting) -> Boundary:
    """A grid over all curvatures, then a finer one between the last survivor and the first that diverged."""
    method, adam, quick = methods(direction)[mode], direction == "Adam", setting.quick
    lrs = np.geomspace(0.05, 1.5, 6 if quick else 13) if adam else np.geomspace(0.01, 5.0, 12 if quick else 25)
    v = np.geomspace(0.01, 0.3, len(lrs)) if adam else np.ones(len(lrs))
    without = limit(methods(direction)["none"])
    low, high = np.zeros(len(lrs)), np.array([1.3 * without(*row) for row in zip(lrs, v, strict=True)])
    grids, row = [], np.arange(len(lrs))
    for points in POINTS:
        h = np.linspace(low, high, points, axis=1)
        alive = survives(method, lrs, h, v if adam else None, setting.device)
        first = np.where(alive.all(axis=1), points - 1, (~alive).argmax(axis=1))
        low, high = h[row, np.maximum(first - 1, 0)], h[row, first]
        grids.append((h, alive))
    predicted = [max(0.0, limit(method)(lr, own, v.mean())) for lr, own in zip(lrs, v, strict=True)]
    grid, survived = grids[0]
    return Boundary(direction, method, lrs, grid, survived, np.array(predicted), (low + high) / 2)


def survives(method: Method, lrs, curvatures, v, device: str) -> np.ndarray:
    """Whether each run, f = ½hθ² with its own η and h, is never larger in its last third than in the one before.

    The first third is left to the transients of the start, which fade by β a step or faster. One optimizer
    trains all the runs: a parameter group for each learning rate, a weight for each curvature. With v given,
    Adam starts with it, and with the momentum at rest.
    """
    h = torch.tensor(curvatures, device=device)
    rows = [torch.full_like(h[0], 1.0 if v is None else TINY).requires_grad_() for _ in lrs]
    optimizer = real(method, [{"params": [row], "lr": float(lr)} for row, lr in zip(rows, lrs, strict=True)])
    if v is not None:
        begin_late(optimizer, {"m": np.zeros(h.numel()), "v": np.repeat(v, h.shape[1])})
    peak = torch.zeros(3, *h.shape, dtype=h.dtype, device=device)
    for step in train(optimizer, lambda _: (0.5 * h * torch.stack(rows) ** 2).sum(), 3 * THIRD):
        third = peak[step // THIRD]
        torch.maximum(third, torch.stack(rows).detach().abs(), out=third)  # a NaN stays: its run has diverged
    return (peak[2] <= peak[1]).cpu().numpy()


def vanishing_gradients(setting: Setting) -> Verdict:
    """AdamS without gradients: v̄ fades by β₂ a step, and R = ηλ/√v̄ grows until the decay itself diverges."""
    method, beta2 = methods("Adam")["stable"], 0.98
    task = quadratic(spectrum=(0.0,), start=1.0, device=setting.device)
    optimizer = real(method, task.model.parameters(), lr=0.5, betas=(BETA, beta2))
    begin_late(optimizer, {"m": np.zeros(1), "v": np.ones(1)})
    recording = record(optimizer, task.loss, 200)
    size = np.abs(recording.theta.values.ravel())
    growing = recording.decay_rate.values[size[1:] > size[:-1]]
    return judge(
        "AdamS, gradients vanish",
        "With the gradients gone AdamS blows up from the R on at which its derived limit has come down to h = 0",
        predicted=DECAY * crossing(limit(method), 0.1, 10.0),
        measured=float(growing[0]) if len(growing) else float("nan"),
        allowed=2 * (beta2**-0.5 - 1),
        why="R = ηλ/√v̄ grows by 1/√β₂ a step, and what is seen is the first step past the limit",
    )


def crossing(function: Callable[[float], float], low: float, high: float, halvings: int = 50) -> float:
    """The point between ``low`` and ``high`` where a function turns negative, by bisection.

    NaN if the function is not positive at ``low`` and negative at ``high``.
    """
    if not function(low) > 0 > function(high):
        return float("nan")
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2


def digits_edge(task: Task, method: Method, points: int) -> Edge:
    """The η from which a perturbed run leaves its rest point, and the growth of the perturbation around this η."""
    rest = rest_point(task, resting_decay(method))
    lr = crossing(lambda lr: limit(method)(lr) - rest.curvature, 1e-3, 1e3)

    def comes_back(lr: float) -> float:
        away = np.abs(nudged(task, method, rest, lr, 3 * THIRD))
        _, before, after = away.reshape(3, THIRD).max(axis=1)
        return 1.0 if after <= before else -1.0

    found = crossing(comes_back, (1 - NEAR) * lr, (1 + NEAR) * lr, halvings=8)
    ratios = np.linspace(0.9, 1.1, points)
    growth = [growth_factor(nudged(task, method, rest, ratio * lr, steps=20)) for ratio in ratios]
    return Edge(method.mode, lr, found, ratios, np.array(growth), spectral_radius(method, rest.curvature))


def resting_decay(method: Method) -> float:
    """The c with which a rule rests where ∇L + cθ = 0, from its derived fixed point hθ*/(h + c)."""
    rest = fixed_point(method.rule(lr=notation.lr)).value
    return 1 / float(rest.subs({notation.curvature: 1.0, notation.theta_star: 1.0})) - 1


@lru_cache(maxsize=4)
def rest_point(task: Task, c: float) -> Rest:
    """The zero of ∇L + cθ by Newton's method."""
    theta = np.zeros_like(task.theta)
    for _ in range(30):
        step = np.linalg.solve(task.hessian(theta) + c * np.eye(theta.size), task.gradient(theta) + c * theta)
        theta = theta - step
        if np.abs(step).max() < 1e-7:  # the remaining error is of the order of its square
            break
    curvatures, vectors = np.linalg.eigh(task.hessian(theta))
    return Rest(theta, float(curvatures[-1]), vectors[:, -1])


def nudged(task: Task, method: Method, rest: Rest, lr: float, steps: int) -> np.ndarray:
    """The distance from the rest point, along the steepest direction, of a real run that starts near it.

    The momentum starts at rest.
    """
    task = task.fresh()
    task.set_theta(rest.theta + NUDGE * rest.steepest)
    optimizer = real(method, task.model.parameters(), lr=lr)
    added = method.rule(lr=lr).decay.added_gradient(rest.theta)
    begin_late(optimizer, {"m": (task.gradient(rest.theta) + added) / (1 - BETA)})
    return np.array([rest.steepest @ (task.theta - rest.theta) for _ in train(optimizer, task.loss, steps)])


def growth_factor(away: np.ndarray) -> float:
    """The larger |z| of the recurrence aₖ₊₁ = T·aₖ − D·aₖ₋₁ that fits a run best.

    Every step has the same weight, however far the run has come, except where round-off is near.
    """
    weight = 1 / (np.hypot(away[1:-1], away[:-2]) + 1e-3 * NUDGE)
    steps = np.column_stack([away[1:-1], -away[:-2]]) * weight[:, None]
    (trace, product), *_ = np.linalg.lstsq(steps, away[2:] * weight, rcond=None)
    return float(np.abs(np.roots([1, -trace, product])).max())


def spectral_radius(method: Method, curvature: float) -> Callable[[float], float]:
    """The largest |eigenvalue| of the derived linear map as a function of η."""
    roots = [root.subs(notation.curvature, curvature) for root in eigenvalues(method.rule(lr=notation.lr)).value]
    return lambda lr: max(abs(complex(root.subs(notation.lr, lr))) for root in roots)


def _same_edge(found: Boundary) -> Verdict:
    direction, label, some = found.direction, LABELS[found.method.mode], found.predicted > 0
    held = ", v held still," if direction == "Adam" else ""
    claim = f"{direction}{held} with {label} survives on quadratics up to the derived h at each η"
    return _worst(f"{direction}, {label}", claim, found.measured[some] / found.predicted[some])


def _worst(name: str, claim: str, ratios: np.ndarray) -> Verdict:
    why = (
        "measured/predicted h, farthest from 1; half a last cell of the search is 3e-4 of the lowest h predicted, "
        f"and what β^{THIRD} leaves of the start's transient moves the edge by 4e-5"
    )
    return judge_relative(name, claim, 1.0, farthest(ratios, 1.0), EDGE, why)


def _same_side(found: Iterable[Boundary]) -> Verdict:
    wrong = np.concatenate([(b.survived != (b.grid < b.predicted[:, None])).ravel() for b in found])
    return judge(
        "the whole grid",
        f"Of {wrong.size} runs all over the (η, h) plane those below the derived line survive, and no others",
        predicted=0.0,
        measured=float(wrong.sum()),
        allowed=0.0,
        why="runs on the wrong side of their line; where the decay alone is past its limit the line is at 0",
    )


def _on_digits(edge: Edge) -> Iterator[Verdict]:
    name, decay = f"digits, {LABELS[edge.mode]}", f"with {LABELS[edge.mode]} decay on the digits"
    claim = f"Heavy ball {decay} leaves its rest point from the derived η on"
    why = (
        f"{EDGE_ON_DIGITS:g} of it: the search ends at 2e-5, what β^{THIRD} leaves of the transient adds as much, "
        f"and to a nudge of {NUDGE:g} the loss is a quadratic"
    )
    yield judge_relative(name, claim, edge.predicted, edge.measured, EDGE_ON_DIGITS, why)
    derived = np.array([edge.derived(ratio * edge.predicted) for ratio in edge.ratios])
    yield judge(
        f"{name}, growth",
        f"A nudge {decay} shrinks or grows by the derived |z| a step, up to a tenth off the edge",
        predicted=0.0,
        measured=float(np.abs(edge.growth - derived).max()),
        allowed=1e-3,
        why="the largest difference; a nudge below 1e-12 is lost in round-off, one grown to 1e-3 bends the gradient",
    )


def _controls(heavy: dict[str, Boundary], edges: dict[str, Edge]) -> Iterator[Verdict]:
    """The negative controls: wrong lines, each compared with runs for which the right line holds."""
    stable, plain = heavy["stable"], heavy["none"]
    some = stable.predicted > 0
    wrong = {
        "L2's line for stable decay": stable.measured[some] / heavy["L2"].predicted[some],
        "2/η, momentum forgotten": plain.measured * plain.lrs / 2,
    }
    for what, ratios in wrong.items():
        yield must_be_refuted(f"control: {what}", _worst(what, f"Heavy ball's edge on quadratics is {what}", ratios))
    swapped = next(_on_digits(edges["stable"]._replace(predicted=edges["L2"].predicted)))
    yield must_be_refuted("control: L2's η on the digits", swapped)


def draw(data: tuple[dict[str, Boundary], dict[str, Edge]]) -> Figure:
    """Runs of the heavy ball in the (η, ηh) plane, a panel for each decay; the growth of perturbations on digits."""
    heavy, edges = data
    with house_style():
        figure = Figure(figsize=(9.4, 7.4))
        panels = figure.subplots(2, 2)
        for axes, mode in zip(panels.flat, edges, strict=False):
            _draw_plane(axes, heavy[mode])
        _draw_digits(panels[1, 1], edges)
        figure.suptitle("Real runs survive up to the derived line, and no further", x=0.01, ha="left", fontsize=13)
    return figure


def _draw_plane(axes, found: Boundary) -> None:
    mode, lrs, alive = found.method.mode, np.geomspace(0.008, 6.5, 150), found.survived
    x, y = np.broadcast_to(found.lrs[:, None], found.grid.shape), found.grid * found.lrs[:, None]
    without = limit(methods(found.direction)["none"])(1.0)
    axes.axhline(without, color="black", linewidth=1, linestyle="--", label="no decay")
    line = [max(0.0, lr * limit(found.method)(lr)) for lr in lrs]
    axes.plot(lrs, line, **theory(mode, color="black", label="derived limit"))
    axes.plot(x[alive], y[alive], **measured(mode, label="survived", markersize=3.4))
    axes.plot(x[~alive], y[~alive], "x", color=MUTED, markersize=3.4, label="blew up")
    axes.set(xscale="log", xlabel="learning rate η  (λ = 1)", ylabel="ηh, curvature in units of 1/η", ylim=(-0.15, 5.9))
    axes.set_title(f"heavy ball, β = {BETA:g}, {LABELS[mode]} decay")
    axes.legend(loc="upper center", ncols=4, columnspacing=1, handletextpad=0.3, handlelength=1.5)


def _draw_digits(axes, edges: dict[str, Edge]) -> None:
    fine = np.linspace(0.9, 1.1, 101)
    axes.axvline(1, color=MUTED, linewidth=1)
    axes.axhline(1, color=MUTED, linewidth=1)
    for mode, edge in edges.items():
        axes.plot(fine, [edge.derived(ratio * edge.predicted) for ratio in fine], **theory(mode, label=None))
        axes.plot(edge.ratios, edge.growth, **measured(mode, label=f"{LABELS[mode]}, η = {edge.predicted:.2f}"))
    axes.text(1.098, 0.97, "comes back", ha="right", va="top", color="#555555")
    axes.text(1.098, 1.01, "leaves", ha="right", va="bottom", color="#555555")
    axes.set(xlabel="η / derived limit", ylabel="growth of a nudge, factor per step")
    axes.set_title(f"logistic regression on digits, λ = {DECAY_ON_DIGITS:g} (lines: derived)")
    axes.legend(loc="upper left", title="derived limit", alignment="left", handletextpad=0.3)


STUDY = Study("stability", CLAIM, SOURCE, measure, draw)
