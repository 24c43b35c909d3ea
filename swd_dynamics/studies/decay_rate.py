"""Study: which decay is stable, by the ratio R/η_eff along real runs whose learning rate and gradient scale change."""

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from xarray import Dataset

from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.plots import COLOURS, MUTED, house_style, measured, theory
from swd_dynamics.probe import record
from swd_dynamics.rules import CATALOG, State, Step, UpdateRule
from swd_dynamics.rules.directions.adam import Moments
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.symbolic import long_run_decay_rate
from swd_dynamics.tasks import Task, quadratic, tanh_network
from swd_dynamics.verdict import Verdict, judge, judge_at_least, must_be_refuted

CLAIM = (
    "Whatever learning rate and gradients do, R/η_eff is λ for SGDS and AdamS and λ(1−β) for SGDW; "
    "for AdamW it is λ√v̄, and with L2 it settles anew after a change (SGD) or differs from weight to weight (Adam)."
)
SOURCE = "the definition of stable weight decay, arXiv 2011.11152 (Xie, Sato & Sugiyama 2020)"

FACTOR = 10.0  # the learning rate is divided by it after a third of the run, the loss multiplied by it after two thirds
DECAY = 0.01
SGD_LIKE: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": DECAY}
ADAM_LIKE: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": DECAY}
NOISE = np.repeat([0.03, 0.3, 1.0, 3.0], 8)  # of the gradients of the quadratic's weights

ROUND_OFF = 1e-12  # relative: R and η_eff are a few products of float64 numbers, v̄ a mean over a thousand
RESPONSE = 1e-9  # relative: 1 − δ′/δ loses the digits by which R is smaller than 1
WITNESS = 1e-7  # relative: δ is a difference of weights up to a thousand times as large, R down to 1e-5 of it
SETTLED = 1e-3  # relative: the transient shrinks by .91 a step, in the quick form to 1e-4
SAMPLED = 0.1  # relative: v̂ averages over 40 steps; time and the weights of a kind average further
UNLIKE = 0.2  # relative: two training runs, of which one takes larger steps while v̄ catches up with its gradients


MODES = {"SGD": "L2", "SGDW": "decoupled", "SGDS": "stable", "Adam": "L2", "AdamW": "decoupled", "AdamS": "stable"}


class Course(NamedTuple):
    """A run in R_k and R_k/η_eff: 5th, 50th and 95th percentile over weights, shape (3, steps), and by the rule.

    Where the rule predicts nothing, its arrays, shape (lines, steps), have no lines.
    """

    rate: NDArray
    ratio: NDArray
    rate_by_rule: NDArray
    ratio_by_rule: NDArray


def measure(setting: Setting) -> Findings:
    """Run every optimizer on both tasks, and hold the ratio that the probe recorded against the rule's."""
    third = 100 if setting.quick else 300
    start = np.tile([0.2, -0.2], len(NOISE) // 2)  # so near that noise outweighs the gradient, as predicting √v needs
    tasks = {
        "quadratic": quadratic(NOISE, start=start, noise=NOISE, device=setting.device),
        "digits": tanh_network((16,), batch_size=50, device=setting.device),
    }
    verdicts: list[Verdict] = []
    courses: dict[tuple[str, str], Course] = {}
    for where, task in tasks.items():
        found: list[Verdict] = []
        for name in setting.track(MODES, f"decay-rate on {where}"):
            recording = run(task, name, third)
            courses[where, name] = seen = course(name, recording, third, known_noise=where == "quadratic")
            found += JUDGES[name](name, seen, recording, third)
            found += [] if name == "Adam" else [_black_box(name, recording)]
        found.append(_tenfold(courses[where, "AdamW"], run(task, "AdamW", third, factor=1.0), third))
        verdicts += [replace(verdict, name=f"{verdict.name}, {where}") for verdict in found]
    return Findings(verdicts, courses)


# The real runs


def arguments(name: str) -> dict[str, Any]:
    """The arguments of an optimizer of that name."""
    return SGD_LIKE if name.startswith("SGD") else ADAM_LIKE


def real(name: str, weights) -> torch.optim.Optimizer:
    """The real optimizer with the arguments of this study."""
    return OPTIMIZERS[name](weights, **arguments(name))


def run(task: Task, name: str, third: int, factor: float = FACTOR) -> Dataset:
    """A recorded run: η falls tenfold after a third of it, the loss is multiplied by ``factor`` after two thirds."""
    task = task.fresh()
    optimizer = real(name, task.model.parameters())
    drop = torch.optim.lr_scheduler.MultiStepLR(optimizer, [third], 1 / FACTOR)

    def loss(k: int) -> torch.Tensor:
        return task.loss(k) * (factor if k >= 2 * third else 1.0)

    return record(optimizer, loss, 3 * third, scheduler=drop, data=task.name)


def course(name: str, recording: Dataset, third: int, *, known_noise: bool) -> Course:
    """A recorded run and what the rule predicts for it; Adam with L2 is predicted where the gradient noise is known."""
    lrs = recording.effective_lr.values[:, 0]
    ratio = np.tile(recording.decay_ratio.values, (3, 1))
    if name != "Adam":
        rates, by_rule = stated(rule(name, third), recording)
        rates = responded(rule(name, third), len(lrs)) if name == "SGD" else rates
        return Course(ratio * lrs, ratio, rates[None], (rates / by_rule)[None])
    ratio = np.quantile(_weight_ratios(recording), [0.05, 0.5, 0.95], axis=1)
    rates, by_rule = frozen(third) if known_noise else (np.empty((0, len(lrs))), lrs)
    return Course(ratio * lrs, ratio, rates, rates / by_rule)


def _weight_ratios(recording: Dataset) -> NDArray:
    """R/η_eff of the weights that hear of the data: blank pixels have no gradient. Shape (steps, weights)."""
    heard = (recording.gradient.values != 0).mean(axis=0) > 0.5
    return recording.decay_rate_weight.values[:, heard] / recording.effective_lr.values[:, :1]


def witness(name: str, recording: Dataset) -> NDArray:
    """R from outside: the real optimizer, fed the recorded gradients, from θ and from θ + δ. Shape (steps,).

    R = 1 − δ′/δ; nothing that an optimizer publishes is read. With the gradients held these methods are affine in θ,
    so that δ = 1 is as good as a small one and all weights agree. Adam with L2 is not: its R is a derivative.
    """
    theta = recording.theta.values[0]
    change = _fed(name, recording, theta + 1) - _fed(name, recording, theta)
    return (1 - change[1:] / change[:-1]).mean(axis=1)


def _fed(name: str, recording: Dataset, theta: NDArray) -> NDArray:
    weights = torch.nn.Parameter(torch.tensor(theta))
    optimizer = real(name, [weights])
    rows = [theta]
    for gradient, lr in zip(recording.gradient.values, recording.lr.values[:, 0], strict=True):
        optimizer.param_groups[0]["lr"] = float(lr)
        weights.grad = torch.tensor(gradient)
        optimizer.step()
        rows.append(weights.detach().numpy().copy())
    return np.array(rows)


# What the rules predict


def rule(name: str, third: int) -> UpdateRule:
    """The catalogue's rule, with the learning rate falling tenfold after a third of the run."""
    given = arguments(name)
    falling: dict[str, Any] = {"lr": lambda step: given["lr"] / (1 if step < third else FACTOR)}
    return CATALOG[name](**(given | falling))


def stated(rule: UpdateRule, recording: Dataset) -> tuple[NDArray, NDArray]:
    """R and η_eff as the rule states them when it is fed the recorded weights and gradients. Shape (steps,)."""
    rates, lrs, memory = [], [], rule.direction.rest(recording.theta.values[0])
    for k, gradient in enumerate(recording.gradient.values):
        parts = rule.parts(State(recording.theta.values[k], memory, k), gradient)
        memory = parts.memory
        rates.append(parts.decay_rate)
        lrs.append(rule.direction.effective_lr(memory, parts.step))
    return np.array(rates, float), np.array(lrs, float)


def responded(rule: UpdateRule, steps: int) -> NDArray:
    """R of a rule that is affine in θ and g: a change of θ obeys the rule itself with no gradient. Shape (steps,)."""
    state, rates = rule.start(1.0), []
    for _ in range(steps):
        after = rule(state, 0.0)
        rates.append(1 - after.theta / state.theta)
        state = after
    return np.array(rates)


@cache
def long_run(name: str, lr: float):
    """R after many steps, derived; Adam's has the letter v in it."""
    return long_run_decay_rate(CATALOG[name](**(arguments(name) | {"lr": lr}))).value


def settled(lr: float) -> float:
    """R/η_eff that L2 behind momentum settles to."""
    return float(long_run("SGD", lr)) / rule("SGD", 0).direction.effective_lr(None, Step(None, None, lr, None))


def frozen(third: int) -> tuple[NDArray, NDArray]:
    """R of the quadratic's quietest and loudest weight under Adam with L2, and η_eff: √v is made by the known noise."""
    direction, lr, many = rule("Adam", third).direction, ADAM_LIKE["lr"], 10**6  # steps, to leave no bias to correct
    stages = []
    for eta, scale in ((lr, 1.0), (lr / FACTOR, 1.0), (lr / FACTOR, FACTOR)):
        (v,) = long_run("Adam", eta).free_symbols
        ends = [float(long_run("Adam", eta).subs(v, (scale * noise) ** 2)) for noise in (NOISE.min(), NOISE.max())]
        stages.append([*ends, direction.effective_lr(Moments(0.0, (scale * NOISE) ** 2), Step(None, None, eta, many))])
    *rates, lrs = np.repeat(np.transpose(stages), third, axis=1)
    return np.array(rates), lrs


# The verdicts


def _near(name: str, claim: str, predicted: float, measured: float, relative: float, why: str) -> Verdict:
    return judge(name, claim, predicted=predicted, measured=measured, allowed=relative * predicted, why=why)


def _close(name: str, claim: str, ours: NDArray, theirs: NDArray, allowed: float, why: str) -> Verdict:
    why = f"{why}; measured is the largest relative departure of all steps"
    return judge(name, claim, predicted=0.0, measured=np.max(np.abs(ours / theirs - 1)), allowed=allowed, why=why)


def _constant(name: str, value: float, ratio: NDArray) -> Verdict:
    """Value and constancy in one: the ratio that lies farthest from the value predicted."""
    farthest = ratio[np.argmax(np.abs(ratio - value))]
    claim = f"The ratio R/η_eff of {name} is {value:.3g} at every step"
    return _near(f"{name}: constant", claim, value, farthest, ROUND_OFF, "round-off; measured: the farthest off")


def _black_box(name: str, recording: Dataset) -> Verdict:
    claim = f"Two runs of {name} with the same gradients, from θ and θ+δ, draw together by the R recorded"
    why = "round-off of the weights against δ, divided by R"
    return _close(f"{name}: black box", claim, recording.decay_rate.values, witness(name, recording), WITNESS, why)


def _stable(name: str, seen: Course, recording: Dataset, third: int) -> list[Verdict]:
    verdicts = [_constant(name, seen.ratio_by_rule[0, 0], seen.ratio[1])]
    if name == "SGDW":
        verdicts.append(must_be_refuted("control: SGDW at λ", _constant(name, DECAY, seen.ratio[1])))
    return verdicts


def _momentum(name: str, seen: Course, recording: Dataset, third: int) -> list[Verdict]:
    """L2 behind momentum: the first step, the two values it settles to, and how long that takes."""
    ratio, by_rule, lr = seen.ratio[1], seen.ratio_by_rule[0], SGD_LIKE["lr"]
    before, after = settled(lr), settled(lr / FACTOR)
    decoupled = rule("SGDW", third)
    first = decoupled.decay.decay_rate(lr, lambda: None) / decoupled.direction.effective_lr(
        None, Step(None, None, lr, 1)
    )
    foreseen, seen_steps = (_steps_to(curve[third:], after) for curve in (by_rule, ratio))
    late = "relative 1e-3: what is left of the transient"
    course = "L2's ratio is at every step how the rule itself answers a change of θ"
    return [
        _near("SGD: first step", "L2's first step takes off what SGDW does", first, ratio[0], ROUND_OFF, "round-off"),
        _near("SGD: settled", "L2's ratio then settles, above λ", before, ratio[third - 1], SETTLED, late),
        _near("SGD: at the drop", "A drop of η leaves it there at first", before, ratio[third], SETTLED, late),
        _near("SGD: settled anew", "It then settles to another value", after, ratio[-1], SETTLED, late),
        _near("SGD: steps to settle", "That takes so many steps, to within 1 %", foreseen, seen_steps, 0, "a count"),
        _close("SGD: whole course", course, ratio, by_rule, RESPONSE, "digits lost in 1 − δ′/δ"),
    ]


def _steps_to(ratio: NDArray, value: float) -> int:
    """The number of steps after which a ratio stays within 1 % of a value."""
    return int(np.flatnonzero(np.abs(ratio / value - 1) > 0.01)[-1]) + 1


def _moving(name: str, seen: Course, recording: Dataset, third: int) -> list[Verdict]:
    claim = "R/η_eff of AdamW is λ√v̄ at every step, v̄ by the rule from the recorded gradients"
    follows = _close("AdamW: λ√v̄", claim, seen.ratio[1], seen.ratio_by_rule[0], ROUND_OFF, "round-off")
    wrong = _constant(name, seen.ratio[1, third], seen.ratio[1])
    return [follows, must_be_refuted("control: AdamW constant", wrong)]


def _tenfold(seen: Course, control: Dataset, third: int) -> Verdict:
    """AdamW with the gradient scale changed, against the same run without."""
    late = slice(-(third // 4), None)
    times = seen.ratio[1, late].mean() / control.decay_ratio.values[late].mean()
    claim = f"AdamW's ratio becomes {FACTOR:g} times what it is in a run without the change of gradient scale"
    why = "relative .2: two training runs that part at the change; means over the last twelfth"
    return _near(f"AdamW: loss × {FACTOR:g}", claim, FACTOR, times, UNLIKE, why)


def _per_weight(name: str, seen: Course, recording: Dataset, third: int) -> list[Verdict]:
    """Adam with L2: one number does not do, for every weight has its own."""
    ratio = _weight_ratios(recording)[third + third // 2 : 2 * third].mean(axis=0)
    return _known_noise(seen, recording, ratio, third) if len(seen.rate_by_rule) else [_spread(ratio)]


def _spread(ratio: NDArray) -> Verdict:
    claim = "With L2 the ratio differs tenfold and more between weights, from 1st to 99th percentile"
    why = "an order of magnitude; infinite where the 1st percentile is negative, for there changes grow"
    low, high = np.quantile(ratio, [0.01, 0.99])
    return judge_at_least("Adam: spread", claim, least=10.0, measured=high / low if low > 0 else np.inf, why=why)


def _known_noise(seen: Course, recording: Dataset, ratio: NDArray, third: int) -> list[Verdict]:
    spread = seen.ratio_by_rule[0, third] / seen.ratio_by_rule[1, third]
    quiet, loud = (ratio[noise == NOISE].mean() for noise in (NOISE.min(), NOISE.max()))
    fall = seen.rate_by_rule[0, -1] / seen.rate_by_rule[0, third]
    rates, quarter = recording.decay_rate_weight.values, third // 4
    after, before = (rates[end - quarter : end].mean(axis=0) for end in (3 * third, 2 * third))
    times = np.exp(np.log(after / before).mean())  # a geometric mean: each weight has its own R, all fall alike
    claim, why = "With L2 the ratio goes as 1/√v̂ from weight to weight", "relative .1: √v is that of the known noise"
    return [
        _near("Adam: spread", claim, spread, quiet / loud, SAMPLED, why),
        _near(f"Adam: loss × {FACTOR:g}", "With L2 R falls as the gradients grow", fall, times, SAMPLED, why),
    ]


JUDGES = {"SGD": _momentum, "SGDW": _stable, "SGDS": _stable, "Adam": _per_weight, "AdamW": _moving, "AdamS": _stable}


# The figure

PANELS = [  # where, what, limits of the vertical axis for SGD and for Adam
    ("digits", "rate", (3e-5, 1e-1), (3e-6, 1e0)),
    ("digits", "ratio", (5e-2, 3e0), (3e-6, 2e2)),
    ("quadratic", "ratio", (5e-2, 3e0), (2e-1, 5e2)),
]
CALLED = {"SGD": "SGD with momentum", "Adam": "Adam", "digits": "tanh network on digits", "quadratic": "quadratic"}
RATIO = r"R/η$_{\mathrm{eff}}$"
VALUES = {"SGDW": "λ(1−β)", "SGDS": "λ", "AdamW": "λ√v̄", "AdamS": "λ"}


def draw(courses: dict[tuple[str, str], Course]) -> Figure:
    """R moves with everything; its ratio to η_eff stands still for stable decay, and for SGDW."""
    with house_style():
        figure = Figure(figsize=(10, 9))
        grid = figure.subplots(3, 2, sharex=True)
        for row, (where, what, *limits) in zip(grid, PANELS, strict=True):
            for axes, family, ylim in zip(row, ("SGD", "Adam"), limits, strict=True):
                _draw_panel(axes, {n: c for (w, n), c in courses.items() if w == where and n.startswith(family)}, what)
                axes.set(ylim=ylim, title=f"{CALLED[family]}, {CALLED[where]}")
            row[0].set_ylabel(f"{RATIO}, in units of λ" if what == "ratio" else "decay rate R of a step")
        for axes in grid[-1]:
            axes.set_xlabel("step k")
        handles = sorted(grid[1, 1].get_legend_handles_labels()[0], key=lambda handle: "band" in handle.get_label())
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        figure.suptitle(
            f"Stable decay keeps {RATIO} at λ, whatever the learning rate and the gradients do", fontsize=12
        )
    return figure


def _draw_panel(axes: Axes, runs: dict[str, Course], what: str) -> None:
    for name, seen in runs.items():
        _draw_run(axes, name, seen, what)
    steps = len(seen.rate[1])
    third = steps // 3
    axes.set(yscale="log", xlim=(-0.02 * steps, 1.16 * steps), xticks=range(0, steps + 1, third))
    for step, text in ((third, f"η ÷ {FACTOR:g}"), (2 * third, f"loss × {FACTOR:g}")):
        axes.axvline(step + 0.5, color=MUTED, linewidth=1, linestyle="--", zorder=1)
        axes.text(step + 0.5, 0.98, f" {text}", transform=axes.get_xaxis_transform(), va="top", fontsize=9)


def _draw_run(axes: Axes, name: str, seen: Course, what: str) -> None:
    mode, unit = MODES[name], DECAY if what == "ratio" else 1.0
    low, middle, high = getattr(seen, what) / unit
    steps = np.arange(1, len(middle) + 1)
    lines = getattr(seen, f"{what}_by_rule") / unit
    for line in lines:
        axes.plot(steps, line, **theory(mode, label=None))
    axes.plot([], [], **theory(mode))  # its entry in the legend
    shown = slice(len(steps) // 80 * list(COLOURS).index(mode), None, len(steps) // 25)
    axes.plot(steps[shown], middle[shown], **measured(mode, markersize=4))
    if (low < high).any():
        band = "L2 with Adam: points at the median,\nband over 5–95 % of the weights"
        axes.fill_between(steps, low, high, color=COLOURS[mode], alpha=0.2, linewidth=0, label=band)
    ends = zip([VALUES[name]] if name in VALUES else ["least noisy", "most noisy"], lines, strict=False)
    for text, line in ends if what == "ratio" and name != "SGD" else ():
        axes.text(1.02 * len(steps), line[-1], text, color=COLOURS[mode], va="center", fontsize=9)


STUDY = Study("decay-rate", CLAIM, SOURCE, measure, draw)
