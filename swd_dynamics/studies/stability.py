"""Study: runs survive up to the limit that the linear map of their step allows, which differs from decay to decay."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from swd_dynamics.plots import COLOURS, LABELS, MUTED, house_style, measured, theory
from swd_dynamics.probe import record
from swd_dynamics.studies.judging import farthest, judge_relative
from swd_dynamics.studies.linear_map import Rest, crossing, rest_point, resting_decay, spectral_radius
from swd_dynamics.studies.methods import Method, family
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.training import begin_late, train
from swd_dynamics.symbolic import notation, stability_limit
from swd_dynamics.tasks import Task, logistic_regression, quadratic
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "A run survives up to the curvature that the linear map of its step allows, decay included, and no further. "
    "So with momentum L2 allows larger learning rates than stable decay with the same λ and the same rest point."
)
SOURCE = "the Jury conditions (Jury 1964) of the derived linear map; stable decay as in arXiv 2011.11152"
CAPTION = (
    "Left: each mark is a torch run of SGD and one of SGDS on f = ½hθ² at one learning rate η and one curvature h,"
    " with β = 0.9. The numbers below the curves are the η from which the decay alone makes a run diverge. Right: the"
    " factor by which a small perturbation of the weights at rest grows in each step of torch runs, in logistic"
    " regression on scikit-learn's handwritten digits. A factor above 1 is divergence. L2 and SGDS with the same λ"
    " rest at the same point, which is not drawn here; fixed-points tests it. The limit is η(h + λ) = 2(1+β) with L2"
    " and η(h + 19λ) = 2(1+β) with SGDS, where 19 is (1+β)/(1−β). So the limits differ little where λ is small"
    " compared with h, and the factor of the title belongs to this λ and this β.\n\n"
    "SGDW is SGDS with a λ that is (1−β) times as large. SGDW is not drawn, because with the same λ it rests at"
    " another point. There the loss is less curved, and SGDW allows the largest η of the three, on the digits 8.28 in"
    " the full form. Also tested, but not drawn: runs without decay, Nesterov, Adam with a constant v, and AdamS"
    " without gradients."
)

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
KEY = "#666666"  # in the figure, for what both decays share
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
    verdicts += _l2_over_stable(edges["L2"], edges["stable"])
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
        "Without gradients R of AdamS grows, and the run diverges from the R at which the derived limit is h = 0",
        predicted=DECAY * crossing(limit(method), 0.1, 10.0),
        measured=float(growing[0]) if len(growing) else float("nan"),
        allowed=2 * (beta2**-0.5 - 1),
        why="R = ηλ/√v̄ grows by the factor 1/√β₂ per step, and the first step past the limit is measured",
    )


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


def _same_edge(found: Boundary) -> Verdict:
    direction, label, some = found.direction, LABELS[found.method.mode], found.predicted > 0
    decay = label if found.method.mode == "none" else f"{label} decay"
    held = " and a constant v" if direction == "Adam" else ""
    claim = f"On quadratics {direction} with {decay}{held} survives up to the derived curvature at every η"
    return _worst(f"{direction}, {label}", claim, found.measured[some] / found.predicted[some])


def _worst(name: str, claim: str, ratios: np.ndarray) -> Verdict:
    why = (
        "the number is measured/predicted curvature where it is farthest from 1; half a cell of the last search is "
        f"3e-4 of the lowest curvature predicted, and what is left of the initial transient, β^{THIRD}, adds 4e-5"
    )
    return judge_relative(name, claim, 1.0, farthest(ratios, 1.0), EDGE, why)


def _same_side(found: Iterable[Boundary]) -> Verdict:
    wrong = np.concatenate([(b.survived != (b.grid < b.predicted[:, None])).ravel() for b in found])
    return judge(
        "the whole grid",
        f"All {wrong.size} runs in the (η, h) plane survive below their derived line and diverge above it",
        predicted=0.0,
        measured=float(wrong.sum()),
        allowed=0.0,
        why="the number of runs on the wrong side; the line is at h = 0 where the decay alone makes a run diverge",
    )


def _on_digits(edge: Edge) -> Iterator[Verdict]:
    name, decay = f"digits, {LABELS[edge.mode]}", f"{LABELS[edge.mode]} decay"
    claim = f"On the digits heavy ball with {decay} leaves its rest point from the derived η on"
    why = (
        f"relative {EDGE_ON_DIGITS:g}: the search ends at 2e-5, what is left of the transient, β^{THIRD}, adds as "
        f"much, and for a perturbation of {NUDGE:g} the loss is a quadratic"
    )
    yield judge_relative(name, claim, edge.predicted, edge.measured, EDGE_ON_DIGITS, why)
    derived = np.array([edge.derived(ratio * edge.predicted) for ratio in edge.ratios])
    yield judge(
        f"{name}, growth",
        f"With {decay} a perturbation changes by the derived factor |z| per step, for η within a tenth of the limit",
        predicted=0.0,
        measured=float(np.abs(edge.growth - derived).max()),
        allowed=1e-3,
        why="the largest difference of |z|; round-off hides a perturbation below 1e-12, and one above 1e-3 is so "
        "large that the loss is no quadratic",
    )


def _l2_over_stable(l2: Edge, stable: Edge) -> list[Verdict]:
    """How much larger a learning rate L2 allows than stable decay, and the control: no larger at all."""
    predicted, measured = l2.predicted / stable.predicted, l2.measured / stable.measured
    allowed, why = 2 * EDGE_ON_DIGITS, "the relative errors allowed for the two limits add up"
    claim = f"On the digits L2 allows a {predicted:.3g} times larger η than stable decay with the same rest point"
    same = "L2 and stable decay allow the same η on the digits, because they have the same rest point"
    return [
        judge_relative("digits, L2/stable", claim, predicted, measured, allowed, why),
        must_be_refuted("control: one η", judge_relative("", same, 1.0, measured, allowed, why)),
    ]


def _controls(heavy: dict[str, Boundary], edges: dict[str, Edge]) -> Iterator[Verdict]:
    """The negative controls: wrong limits, each compared with runs for which the right limit holds."""
    stable, plain = heavy["stable"], heavy["none"]
    some = stable.predicted > 0
    wrong = {
        "L2's line for stable decay": (
            "On quadratics heavy ball with stable decay survives up to the curvature derived for L2",
            stable.measured[some] / heavy["L2"].predicted[some],
        ),
        "2/η, momentum forgotten": (
            "On quadratics heavy ball without decay survives up to h = 2/η, as gradient descent does",
            plain.measured * plain.lrs / 2,
        ),
    }
    for name, (claim, ratios) in wrong.items():
        yield must_be_refuted(f"control: {name}", _worst(name, claim, ratios))
    swapped = next(_on_digits(edges["stable"]._replace(predicted=edges["L2"].predicted)))
    claim = "On the digits heavy ball with stable decay leaves its rest point from the η derived for L2 on"
    yield must_be_refuted("control: L2's η on the digits", replace(swapped, claim=claim))


def draw(data: tuple[dict[str, Boundary], dict[str, Edge]]) -> Figure:
    """Where L2 and stable decay diverge: runs of the heavy ball in the (η, ηh) plane, and on the digits."""
    heavy, edges = data
    with house_style():
        figure = Figure(figsize=(7.4, 4.0))
        plane, digits = figure.subplots(1, 2)
        _draw_plane(plane, heavy["L2"], heavy["stable"])
        times = _draw_digits(digits, edges["L2"], edges["stable"])
        figure.suptitle(
            f"Runs survive up to the derived learning rate and no further. With β = {BETA:g} L2 allows\n"
            f"{times} times as large a one as stable decay in logistic regression on digits (same λ)",
            x=0.01,
            ha="left",
        )
    return figure


def _draw_plane(axes, l2: Boundary, stable: Boundary) -> None:
    x = np.broadcast_to(l2.lrs[:, None], l2.grid.shape)
    crosses = {"color": MUTED, "marker": "x", "linestyle": "none"}
    for label, runs, look in (
        ("both survive", stable.survived, measured("stable")),
        ("only L2 survives", l2.survived & ~stable.survived, measured("L2")),
        ("both diverge", ~l2.survived & ~stable.survived, crosses),
    ):
        axes.plot(x[runs], (x * l2.grid)[runs], **look | {"label": label, "markersize": 3})
    for found in (stable, l2):
        mode, largest = found.method.mode, limit(found.method)
        end = crossing(largest, 1e-2, 1e2)
        lrs = np.geomspace(0.008, end, 80)
        axes.plot(lrs, [lr * largest(lr) for lr in lrs], **theory(mode, label=None))
        _mark(axes, f"η = {end:.2f}", (end, 0), (0, -4), mode, va="top", ha="center")
    axes.set(xscale="log", xlabel="learning rate η", ylabel="learning rate × curvature h, ηh", ylim=(-0.6, 6))
    axes.set_xlim(0.006, 12)
    axes.set_title(f"quadratics ½hθ², λ = {DECAY:g} (lines: derived)")
    axes.legend(loc="upper center", ncols=3, columnspacing=0.7, handletextpad=0, handlelength=1.2, fontsize=8.5)


def _draw_digits(axes, l2: Edge, stable: Edge) -> str:
    """Draw the growth of perturbations, and return the ratio of the two limits as it is written in the panel."""
    times = f"{l2.predicted / stable.predicted:.1f}"
    axes.axhline(1, color=MUTED, linewidth=1)
    for edge in (l2, stable):
        fine = np.linspace(0.85 * stable.predicted, 1.1 * l2.predicted, 150)
        axes.plot(fine, [edge.derived(lr) for lr in fine], **theory(edge.mode, label=None))
        axes.plot(edge.ratios * edge.predicted, edge.growth, **measured(edge.mode, label=None, markersize=4))
        left, text = edge is l2, f"{LABELS[edge.mode]} diverges\nfrom η = {edge.predicted:.2f}"
        place = {"ha": "right" if left else "left", "va": "bottom"}
        _mark(axes, text, (edge.predicted, 1), (-8, 48) if left else (14, 4), edge.mode, **place)
    ends = {"xy": (l2.predicted, 0.86), "xytext": (stable.predicted, 0.86)}
    axes.annotate("", **ends, arrowprops={"arrowstyle": "<->", "shrinkA": 0, "shrinkB": 0})
    axes.text((l2.predicted + stable.predicted) / 2, 0.85, f"× {times}", ha="center", va="top", fontweight="bold")
    axes.plot([], [], color=KEY, label="derived")
    axes.plot([], [], "o", color=KEY, markersize=4, label="torch runs")
    axes.legend(loc="upper center", fontsize=8.5)
    axes.text(1.0, 1.005, "grows", transform=axes.get_yaxis_transform(), color=KEY, ha="right", va="bottom")
    axes.text(1.0, 0.995, "fades", transform=axes.get_yaxis_transform(), color=KEY, ha="right", va="top")
    axes.set(xlabel="learning rate η", ylabel="growth of a perturbation per step", ylim=(0.7, 1.4))
    axes.set_title(f"logistic regression on digits, λ = {DECAY_ON_DIGITS:g}")
    return times


def _mark(axes, text: str, at: tuple[float, float], offset: tuple[float, float], mode: str, **more) -> None:
    """A number at the point of the panel that it belongs to."""
    axes.annotate(text, at, offset, textcoords="offset points", color=COLOURS[mode], fontweight="bold", **more)


STUDY = Study("stability", CLAIM, SOURCE, measure, draw, CAPTION)
