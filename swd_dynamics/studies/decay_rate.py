"""Study: which decay is stable, by R/η_eff along real runs with changing learning rate and gradient scale."""

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from xarray import Dataset

from swd_dynamics.plots import COLOURS, MUTED, house_style, measured, theory
from swd_dynamics.probe import record
from swd_dynamics.rules import State, Step, UpdateRule
from swd_dynamics.rules.directions.adam import Moments
from swd_dynamics.studies.judging import farthest, judge_curve, judge_relative
from swd_dynamics.studies.methods import Method, family
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.training import train
from swd_dynamics.symbolic import long_run_decay_rate
from swd_dynamics.tasks import Task, quadratic, tanh_network
from swd_dynamics.verdict import Verdict, judge_at_least, must_be_refuted

CLAIM = (
    "Whatever learning rate and gradients do, R/η_eff is λ for SGDS and AdamS and λ(1−β) for SGDW; "
    "for AdamW it is λ√v̄, and with L2 it settles anew after a change (SGD) or differs from weight to weight (Adam)."
)
SOURCE = "the definition of stable weight decay, arXiv 2011.11152 (Xie, Sato & Sugiyama 2020)"

FACTOR = 10.0  # after a third of the run η is divided by it; after two thirds the loss is multiplied by it
DECAY = 0.01  # λ
LR = {"SGD": 0.1, "Adam": 0.01}
SGD_METHODS = family("SGD", lr=LR["SGD"], momentum=0.9, weight_decay=DECAY)
ADAM_METHODS = family("Adam", lr=LR["Adam"], betas=(0.9, 0.95), weight_decay=DECAY)
METHODS = {method.name: method for method in SGD_METHODS + ADAM_METHODS}
# The standard deviation of the gradient noise of each weight of the quadratic. The gradients are smaller, so that √v
# is known; with half the noise they would count.
NOISE = np.repeat([0.03, 0.3, 1.0, 3.0], 8)

# Relative differences that are allowed, with their reasons.
ROUND_OFF = 1e-12  # R and η_eff are a few products of float64 numbers, v̄ is a mean over a thousand
RESPONSE = 1e-9  # 1 − δ′/δ loses the digits by which R is smaller than 1
WITNESS = 1e-7  # δ is a difference of weights up to a thousand times as large, R down to 1e-5 of it
SETTLED = 1e-3  # the transient shrinks by .91 a step, in the quick form to 1e-4
SAMPLED = 0.1  # v̂ averages over 40 steps; time and the weights of one noise average further
UNLIKE = 0.2  # two training runs: one takes larger steps while v̄ catches up with its gradients


class RatioCurves(NamedTuple):
    """R and R/η_eff along a run: percentiles 5, 50 and 95 over the weights, and by the rule.

    Shapes are (3, steps) and (lines, steps). Where the rule predicts nothing, there are no lines.
    """

    rate: NDArray
    ratio: NDArray
    rate_by_rule: NDArray
    ratio_by_rule: NDArray


def measure(setting: Setting) -> Findings:
    """Train with every optimizer on both tasks, and compare the ratio recorded with the rule's."""
    third = 100 if setting.quick else 300
    start = np.tile([0.2, -0.2], len(NOISE) // 2)  # so near the minimum that the noise is larger than the gradient
    tasks = {
        "quadratic": quadratic(NOISE, start=start, noise=NOISE, device=setting.device),
        "digits": tanh_network((16,), batch_size=50, device=setting.device),
    }
    verdicts: list[Verdict] = []
    curves: dict[tuple[str, str], RatioCurves] = {}
    for where, task in tasks.items():
        found: list[Verdict] = []
        for name in setting.track(METHODS, f"decay-rate on {where}"):
            recording = run_with_changes(task, METHODS[name], third)
            known_noise = where == "quadratic"
            seen = curves[where, name] = ratio_curves(name, recording, third, known_noise=known_noise)
            found += JUDGES[name](name, seen, recording, third)
            found += [] if name == "Adam" else [_black_box(METHODS[name], recording)]
        unchanged = run_with_changes(task, METHODS["AdamW"], third, factor=1.0)
        found.append(_tenfold(curves[where, "AdamW"], unchanged, third))
        verdicts += [replace(verdict, name=f"{verdict.name}, {where}") for verdict in found]
    return Findings(verdicts, curves)


# The real runs


def run_with_changes(task: Task, method: Method, third: int, factor: float = FACTOR) -> Dataset:
    """A recorded run: η falls tenfold after a third of it, and the loss grows by ``factor`` after two thirds."""
    task = task.fresh()
    optimizer = method.optimizer(task.model.parameters())
    drop = torch.optim.lr_scheduler.MultiStepLR(optimizer, [third], 1 / FACTOR)

    def loss(k: int) -> torch.Tensor:
        return task.loss(k) * (factor if k >= 2 * third else 1.0)

    return record(optimizer, loss, 3 * third, scheduler=drop, data=task.name)


def ratio_curves(name: str, recording: Dataset, third: int, *, known_noise: bool) -> RatioCurves:
    """R and R/η_eff of a recorded run and by the rule; for Adam with L2 the rule needs the noise."""
    lrs = recording.effective_lr.values[:, 0]
    ratio = np.tile(recording.decay_ratio.values, (3, 1))
    if name != "Adam":
        rates, by_rule = stated_rates(rule(name, third), recording)
        rates = responded(rule(name, third), len(lrs)) if name == "SGD" else rates
        return RatioCurves(ratio * lrs, ratio, rates[None], (rates / by_rule)[None])
    ratio = np.quantile(_weight_ratios(recording), [0.05, 0.5, 0.95], axis=1)
    rates, by_rule = frozen(third) if known_noise else (np.empty((0, len(lrs))), lrs)
    return RatioCurves(ratio * lrs, ratio, rates, rates / by_rule)


def _weight_ratios(recording: Dataset) -> NDArray:
    """R/η_eff of the weights that have gradients (those of blank pixels have none). Shape (steps, weights)."""
    moved = (recording.gradient.values != 0).mean(axis=0) > 0.5
    return recording.decay_rate_weight.values[:, moved] / recording.effective_lr.values[:, :1]


def witness(method: Method, recording: Dataset) -> NDArray:
    """R from outside: the real optimizer is given the recorded gradients twice, from θ and from θ + δ.

    R = 1 − δ′/δ, shape (steps,); nothing that an optimizer publishes is read. With the gradients fixed, all
    methods but Adam with L2 are affine in θ: δ = 1 gives the same R as a small δ, and all weights agree.
    """
    theta = recording.theta.values[0]
    change = _fed(method, recording, theta + 1) - _fed(method, recording, theta)
    return (1 - change[1:] / change[:-1]).mean(axis=1)


def _fed(method: Method, recording: Dataset, theta: NDArray) -> NDArray:
    """θ of the real optimizer with the recorded gradients, shape (steps + 1, n)."""
    weights = torch.nn.Parameter(torch.tensor(theta))
    optimizer = method.optimizer([weights])
    gradients, lrs = torch.tensor(recording.gradient.values), recording.lr.values[:, 0]

    def loss(k: int) -> torch.Tensor:
        optimizer.param_groups[0]["lr"] = float(lrs[k])
        return gradients[k] @ weights

    rows = [weights.detach().numpy().copy() for _ in train(optimizer, loss, len(lrs))]
    return np.array([theta, *rows])


# What the rules predict


def rule(name: str, third: int) -> UpdateRule:
    """The catalogue's rule, with the learning rate falling tenfold after a third of the run."""
    method = METHODS[name]
    return method.rule(lr=lambda step: method.arguments["lr"] / (1 if step < third else FACTOR))


def stated_rates(rule: UpdateRule, recording: Dataset) -> tuple[NDArray, NDArray]:
    """R and η_eff of the rule's own steps from the recorded weights and gradients. Shape (steps,)."""
    rates, lrs, memory = [], [], rule.direction.rest(recording.theta.values[0])
    for k, gradient in enumerate(recording.gradient.values):
        parts = rule.parts(State(recording.theta.values[k], memory, k), gradient)
        memory = parts.memory
        rates.append(parts.decay_rate)
        lrs.append(rule.direction.effective_lr(memory, parts.step))
    return np.array(rates, float), np.array(lrs, float)


def responded(rule: UpdateRule, steps: int) -> NDArray:
    """R of a rule that is affine in θ and g, shape (steps,).

    For such a rule a change of θ changes as θ itself does without gradient.
    """
    state, rates = rule.start(1.0), []
    for _ in range(steps):
        after = rule(state, 0.0)
        rates.append(1 - after.theta / state.theta)
        state = after
    return np.array(rates)


@cache
def final_decay_rate(name: str, lr: float):
    """R after many steps, derived; Adam's contains the symbol v."""
    return long_run_decay_rate(METHODS[name].rule(lr=lr)).value


def settled(lr: float) -> float:
    """R/η_eff to which L2 with momentum settles."""
    return float(final_decay_rate("SGD", lr)) / rule("SGD", 0).direction.effective_lr(None, Step(None, None, lr, None))


def frozen(third: int) -> tuple[NDArray, NDArray]:
    """R of Adam with L2 for the weights with the least and the most noise, and η_eff; the known noise makes √v."""
    direction, lr, many = rule("Adam", third).direction, LR["Adam"], 10**6  # steps: no bias is left to correct
    stages = []
    for eta, scale in ((lr, 1.0), (lr / FACTOR, 1.0), (lr / FACTOR, FACTOR)):
        final = final_decay_rate("Adam", eta)
        (v,) = final.free_symbols
        ends = [float(final.subs(v, (scale * noise) ** 2)) for noise in (NOISE.min(), NOISE.max())]
        lrs = direction.effective_lr(Moments(0.0, (scale * NOISE) ** 2), Step(None, None, eta, many))
        stages.append([*ends, lrs])
    *rates, lrs = np.repeat(np.transpose(stages), third, axis=1)
    return np.array(rates), lrs


# The verdicts


def _constant(name: str, value: float, ratio: NDArray) -> Verdict:
    """Value and constancy in one verdict: on the ratio that is farthest from the value predicted."""
    claim, why = f"The ratio R/η_eff of {name} is {value:.3g} at every step", "round-off; measured: the farthest off"
    return judge_relative(f"{name}: constant", claim, value, farthest(ratio, value), ROUND_OFF, why)


def _black_box(method: Method, recording: Dataset) -> Verdict:
    name, recorded = method.name, recording.decay_rate.values
    claim = f"Two runs of {name} with the same gradients, from θ and θ+δ, draw together by the R recorded"
    why = "round-off of the weights against δ, divided by R"
    return judge_curve(f"{name}: black box", claim, witness(method, recording), recorded, WITNESS, why)


def _stable(name: str, seen: RatioCurves, recording: Dataset, third: int) -> list[Verdict]:
    verdicts = [_constant(name, seen.ratio_by_rule[0, 0], seen.ratio[1])]
    if name == "SGDW":
        verdicts.append(must_be_refuted("control: SGDW at λ", _constant(name, DECAY, seen.ratio[1])))
    return verdicts


def _momentum(name: str, seen: RatioCurves, recording: Dataset, third: int) -> list[Verdict]:
    """L2 with momentum: the first step, the two values to which it settles, and how long that takes."""
    ratio, by_rule, lr = seen.ratio[1], seen.ratio_by_rule[0], LR["SGD"]
    before, after = settled(lr), settled(lr / FACTOR)
    decoupled = rule("SGDW", third)
    effective_lr = decoupled.direction.effective_lr(None, Step(None, None, lr, 1))
    first = decoupled.decay.decay_rate(lr, lambda: None) / effective_lr
    foreseen, seen_steps = (_steps_to(curve[third:], after) for curve in (by_rule, ratio))
    late = SETTLED, "relative 1e-3: what is left of the transient"
    whole = "L2's ratio is at every step how the rule itself answers a change of θ"
    rows = [
        ("first step", "L2's first step takes off what SGDW does", first, ratio[0], ROUND_OFF, "round-off"),
        ("settled", "L2's ratio then settles, above λ", before, ratio[third - 1], *late),
        ("at the drop", "A drop of η leaves it there at first", before, ratio[third], *late),
        ("settled anew", "It then settles to another value", after, ratio[-1], *late),
        ("steps to settle", "That takes so many steps, to within 1 %", foreseen, seen_steps, 0, "a count"),
    ]
    return [
        *(judge_relative(f"SGD: {name}", *more) for name, *more in rows),
        judge_curve("SGD: whole course", whole, by_rule, ratio, RESPONSE, "digits lost in 1 − δ′/δ"),
    ]


def _steps_to(ratio: NDArray, value: float) -> int:
    """The number of steps after which a ratio stays within 1 % of a value."""
    return int(np.flatnonzero(np.abs(ratio / value - 1) > 0.01)[-1]) + 1


def _moving(name: str, seen: RatioCurves, recording: Dataset, third: int) -> list[Verdict]:
    claim = "R/η_eff of AdamW is λ√v̄ at every step, v̄ by the rule from the recorded gradients"
    follows = judge_curve("AdamW: λ√v̄", claim, seen.ratio_by_rule[0], seen.ratio[1], ROUND_OFF, "round-off")
    wrong = _constant(name, seen.ratio[1, third], seen.ratio[1])
    return [follows, must_be_refuted("control: AdamW constant", wrong)]


def _tenfold(seen: RatioCurves, unchanged: Dataset, third: int) -> Verdict:
    """AdamW with the gradient scale changed, compared with the same run without the change."""
    late = slice(-(third // 4), None)
    times = seen.ratio[1, late].mean() / unchanged.decay_ratio.values[late].mean()
    claim = f"AdamW's ratio becomes {FACTOR:g} times what it is in a run without the change of gradient scale"
    why = "relative .2: two training runs that part at the change; means over the last twelfth"
    return judge_relative(f"AdamW: loss × {FACTOR:g}", claim, FACTOR, times, UNLIKE, why)


def _per_weight(name: str, seen: RatioCurves, recording: Dataset, third: int) -> list[Verdict]:
    """Adam with L2: every weight has a ratio of its own."""
    ratio = _weight_ratios(recording)[third + third // 2 : 2 * third].mean(axis=0)
    return _known_noise(seen, recording, ratio, third) if len(seen.rate_by_rule) else [_spread(ratio)]


def _spread(ratio: NDArray) -> Verdict:
    claim = "With L2 the ratio differs tenfold and more between weights, from 1st to 99th percentile"
    why = "an order of magnitude; infinite where the 1st percentile is negative, for there changes grow"
    low, high = np.quantile(ratio, [0.01, 0.99])
    return judge_at_least("Adam: spread", claim, least=10.0, measured=high / low if low > 0 else np.inf, why=why)


def _known_noise(seen: RatioCurves, recording: Dataset, ratio: NDArray, third: int) -> list[Verdict]:
    """How R differs between the weights with the least and the most noise, and falls as all gradients grow."""
    spread = seen.ratio_by_rule[0, third] / seen.ratio_by_rule[1, third]
    quiet, loud = (ratio[noise == NOISE].mean() for noise in (NOISE.min(), NOISE.max()))
    fall = seen.rate_by_rule[0, -1] / seen.rate_by_rule[0, third]
    rates, quarter = recording.decay_rate_weight.values, third // 4
    after, before = (rates[end - quarter : end].mean(axis=0) for end in (3 * third, 2 * third))
    times = np.exp(
        np.log(after / before).mean()
    )  # a geometric mean: the weights differ in R, but R falls by one factor
    claim, why = "With L2 the ratio goes as 1/√v̂ from weight to weight", "relative .1: √v is that of the known noise"
    grown = "With L2 R falls as the gradients grow"
    return [
        judge_relative("Adam: spread", claim, spread, quiet / loud, SAMPLED, why),
        judge_relative(f"Adam: loss × {FACTOR:g}", grown, fall, times, SAMPLED, why),
    ]


JUDGES = {"SGD": _momentum, "SGDW": _stable, "SGDS": _stable, "Adam": _per_weight, "AdamW": _moving, "AdamS": _stable}


# The figure

# Task, quantity, and limits of the vertical axis for SGD and for Adam.
PANELS = [
    ("digits", "rate", (3e-5, 1e-1), (3e-6, 1e0)),
    ("digits", "ratio", (5e-2, 3e0), (3e-6, 2e2)),
    ("quadratic", "ratio", (5e-2, 3e0), (2e-1, 5e2)),
]
CALLED = {"SGD": "SGD with momentum", "Adam": "Adam", "digits": "tanh network on digits", "quadratic": "quadratic"}
RATIO = r"R/η$_{\mathrm{eff}}$"
VALUES = {"SGDW": "λ(1−β)", "SGDS": "λ", "AdamW": "λ√v̄", "AdamS": "λ"}


def draw(curves: dict[tuple[str, str], RatioCurves]) -> Figure:
    """R changes with η and the gradients; R/η_eff is constant for stable decay, and for SGDW."""
    with house_style():
        figure = Figure(figsize=(10, 9))
        grid = figure.subplots(3, 2, sharex=True)
        for row, (where, what, *limits) in zip(grid, PANELS, strict=True):
            for axes, direction, ylim in zip(row, ("SGD", "Adam"), limits, strict=True):
                names = [n for w, n in curves if w == where and n.startswith(direction)]
                _draw_panel(axes, {name: curves[where, name] for name in names}, what)
                axes.set(ylim=ylim, title=f"{CALLED[direction]}, {CALLED[where]}")
            row[0].set_ylabel(f"{RATIO}, in units of λ" if what == "ratio" else "decay rate R of a step")
        for axes in grid[-1]:
            axes.set_xlabel("step k")
        handles = sorted(grid[1, 1].get_legend_handles_labels()[0], key=lambda handle: "band" in handle.get_label())
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        figure.suptitle(
            f"Stable decay keeps {RATIO} at λ, whatever the learning rate and the gradients do", fontsize=12
        )
    return figure


def _draw_panel(axes: Axes, runs: dict[str, RatioCurves], what: str) -> None:
    for name, seen in runs.items():
        _draw_run(axes, name, seen, what)
    steps = len(seen.rate[1])
    third = steps // 3
    axes.set(yscale="log", xlim=(-0.02 * steps, 1.16 * steps), xticks=range(0, steps + 1, third))
    for step, text in ((third, f"η ÷ {FACTOR:g}"), (2 * third, f"loss × {FACTOR:g}")):
        axes.axvline(step + 0.5, color=MUTED, linewidth=1, linestyle="--", zorder=1)
        axes.text(step + 0.5, 0.98, f" {text}", transform=axes.get_xaxis_transform(), va="top", fontsize=9)


def _draw_run(axes: Axes, name: str, seen: RatioCurves, what: str) -> None:
    mode, unit = METHODS[name].mode, DECAY if what == "ratio" else 1.0
    low, middle, high = getattr(seen, what) / unit
    steps = np.arange(1, len(middle) + 1)
    lines = getattr(seen, f"{what}_by_rule") / unit
    for line in lines:
        axes.plot(steps, line, **theory(mode, label=None))
    axes.plot([], [], **theory(mode))  # an entry in the legend
    shown = slice(len(steps) // 80 * list(COLOURS).index(mode), None, len(steps) // 25)
    axes.plot(steps[shown], middle[shown], **measured(mode, markersize=4))
    if (low < high).any():
        band = "L2 with Adam: points at the median,\nband over 5–95 % of the weights"
        axes.fill_between(steps, low, high, color=COLOURS[mode], alpha=0.2, linewidth=0, label=band)
    ends = zip([VALUES[name]] if name in VALUES else ["least noisy", "most noisy"], lines, strict=False)
    for text, line in ends if what == "ratio" and name != "SGD" else ():
        axes.text(1.02 * len(steps), line[-1], text, color=COLOURS[mode], va="center", fontsize=9)


STUDY = Study("decay-rate", CLAIM, SOURCE, measure, draw)
