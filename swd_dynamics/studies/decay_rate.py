"""Study: which decay is stable, by R/η_eff along real runs with changing learning rate and gradient scale."""

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from xarray import Dataset

from swd_dynamics.plots import COLOURS, MUTED, house_style, measured, theory
from swd_dynamics.rules import DecayStep, Step, UpdateRule
from swd_dynamics.rules.directions.adam import Moments
from swd_dynamics.studies.changing_runs import FACTOR, ROUND_OFF, changing, other_decays, run_with_changes, stated_rates
from swd_dynamics.studies.judging import farthest, judge_curve, judge_relative
from swd_dynamics.studies.methods import Method, family
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.training import train
from swd_dynamics.symbolic import long_run_decay_rate
from swd_dynamics.tasks import quadratic, tanh_network
from swd_dynamics.verdict import Verdict, judge_at_least, must_be_refuted

CLAIM = (
    "With one η_eff for all weights, stable decay keeps R/η_eff at λ whatever the learning rate and the gradients do,"
    " and SGDW keeps it at λ(1−β). With AdamW it is λ√v̄, and with L2 it settles again after each change of η (SGD) or"
    " differs from weight to weight (Adam)."
)
SOURCE = "the definition of stable weight decay, arXiv 2011.11152 (Xie, Sato & Sugiyama 2020)"
CAPTION = (
    "R is the fraction of the weights that a step subtracts (Δθ = −R·θ − update), and η_eff is η/√v̄, one number for"
    " all weights, because v̄ is the mean of v̂ over them. λ is 0.01 and β₁, β₂ are 0.9, 0.95. After a third of each"
    " run η is divided by 10, and after two thirds the loss is multiplied by 10. Lines are derived from the rule, and"
    " points are torch runs. The arrow shows how far AdamW's ratio falls, from its first value (dotted line) to its"
    " smallest. With L2 every weight has its own R: open squares are the median, and the band holds 90 %, of the 32"
    " weights of the quadratic, or of the weights of the network that have a gradient. At step 264 on digits the lower"
    " edge of the band falls to 0, because there nearly 5 % of the weights have a negative R: for a step, perturbations"
    " of them grow. With another definition, η_eff = η/√v̂ of each weight (as in gradient-norm), the roles change: with"
    " L2 R/η_eff is then about λ for every weight in the long run, and with AdamS it differs from weight to weight.\n\n"
    "How far AdamW's ratio falls depends on the length of the run, because the gradients go on shrinking. Also tested,"
    " but not drawn: SGD, SGDW and SGDS, and Adam with the other decay modes. The study does not show that a constant"
    " ratio trains better. The claim and the title once spoke of R/η_eff of every weight, without saying that η_eff is"
    " one for all of them."
)

DECAY = 0.01  # λ
LR = {"SGD": 0.1, "Adam": 0.01}
SGD_METHODS = family("SGD", lr=LR["SGD"], momentum=0.9, weight_decay=DECAY)
ADAM_METHODS = family("Adam", lr=LR["Adam"], betas=(0.9, 0.95), weight_decay=DECAY)
METHODS = {method.name: method for method in SGD_METHODS + ADAM_METHODS}
# The standard deviation of the gradient noise of each weight of the quadratic. The gradients are smaller, so that √v
# is known; with half the noise they would count.
NOISE = np.repeat([0.03, 0.3, 1.0, 3.0], 8)

# Relative differences that are allowed, with their reasons.
RESPONSE = 1e-9  # 1 − δ′/δ loses the digits by which R is smaller than 1
WITNESS = 1e-7  # δ is a difference of weights up to a thousand times as large, R down to 1e-5 of it
SETTLED = 1e-3  # the transient shrinks by .91 a step, in the quick form to 1e-4
SAMPLED = 0.1  # v̂ averages over 40 steps; time and the weights of one noise average further
UNLIKE = 0.2  # two training runs: one takes larger steps while v̄ catches up with its gradients


class RatioCurves(NamedTuple):
    """R/η_eff along a run, as percentiles 5, 50 and 95 over the weights; R and R/η_eff by the rule.

    Shapes are (3, steps) and (lines, steps). Where the rule predicts nothing, there are no lines.
    """

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
        if where == "digits":
            found.append(_fallen(curves[where, "AdamW"]))
        else:
            found += other_decays(task, third, **METHODS["Adam"].arguments)
        verdicts += [replace(verdict, name=f"{verdict.name}, {where}") for verdict in found]
    return Findings(verdicts, curves)


# The real runs


def ratio_curves(name: str, recording: Dataset, third: int, *, known_noise: bool) -> RatioCurves:
    """R and R/η_eff of a recorded run and by the rule; for Adam with L2 the rule needs the noise."""
    lrs = recording.effective_lr.values[:, 0]
    ratio = np.tile(recording.decay_ratio.values, (3, 1))
    if name != "Adam":
        rates, by_rule = stated_rates(rule(name, third), recording)
        rates = responded(rule(name, third), len(lrs)) if name == "SGD" else rates
        return RatioCurves(ratio, rates[None], (rates / by_rule)[None])
    ratio = np.quantile(_weight_ratios(recording), [0.05, 0.5, 0.95], axis=1)
    rates, by_rule = frozen(third) if known_noise else (np.empty((0, len(lrs))), lrs)
    return RatioCurves(ratio, rates, rates / by_rule)


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
    return changing(METHODS[name], third)


def responded(rule: UpdateRule, steps: int) -> NDArray:
    """R of a rule that is affine in θ and g, shape (steps,).

    With such a rule a perturbation of θ develops as θ itself does without gradients.
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
    claim, why = f"R/η_eff of {name} is {value:.3g} at every step", "round-off; the step with the largest error counts"
    return judge_relative(f"{name}: constant", claim, value, farthest(ratio, value), ROUND_OFF, why)


def _black_box(method: Method, recording: Dataset) -> Verdict:
    name, recorded = method.name, recording.decay_rate.values
    claim = f"Two runs of {name} from θ and θ+δ with the same gradients approach each other by the recorded R"
    why = "the round-off of the weights compared with δ, divided by R"
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
    first = decoupled.decay.decay_rate(DecayStep(None, lr, 1, effective_lr=lambda: None)) / effective_lr
    foreseen, seen_steps = (_steps_to(curve[third:], after) for curve in (by_rule, ratio))
    late = SETTLED, "relative 1e-3, because so much of the transient may be left"
    whole = "With L2 a perturbation of θ shrinks at every step as the rule derives"
    rows = [
        ("first step", "The first step of L2 subtracts as much as SGDW's", first, ratio[0], ROUND_OFF, "round-off"),
        ("settled", "R/η_eff of L2 then settles above λ", before, ratio[third - 1], *late),
        ("at the drop", "When η drops, R/η_eff of L2 does not change at once", before, ratio[third], *late),
        ("settled anew", "After the drop R/η_eff of L2 settles at another value", after, ratio[-1], *late),
        ("steps to settle", "It takes so many steps to settle to within 1 %", foreseen, seen_steps, 0, "a count"),
    ]
    return [
        *(judge_relative(f"SGD: {name}", *more) for name, *more in rows),
        judge_curve("SGD: whole course", whole, by_rule, ratio, RESPONSE, "the digits that 1 − δ′/δ loses"),
    ]


def _steps_to(ratio: NDArray, value: float) -> int:
    """The number of steps after which a ratio stays within 1 % of a value."""
    return int(np.flatnonzero(np.abs(ratio / value - 1) > 0.01)[-1]) + 1


def _moving(name: str, seen: RatioCurves, recording: Dataset, third: int) -> list[Verdict]:
    claim = "R/η_eff of AdamW is λ√v̄ at every step, where the rule computes v̄ from the recorded gradients"
    follows = judge_curve("AdamW: λ√v̄", claim, seen.ratio_by_rule[0], seen.ratio[1], ROUND_OFF, "round-off")
    wrong = _constant(name, seen.ratio[1, third], seen.ratio[1])
    return [follows, must_be_refuted("control: AdamW constant", wrong)]


def _tenfold(seen: RatioCurves, unchanged: Dataset, third: int) -> Verdict:
    """AdamW with the gradient scale changed, compared with the same run without the change."""
    late = slice(-(third // 4), None)
    times = seen.ratio[1, late].mean() / unchanged.decay_ratio.values[late].mean()
    claim = f"When the loss is multiplied by {FACTOR:g}, R/η_eff of AdamW becomes {FACTOR:g} times as large"
    why = "relative .2, because the run is compared with another that diverges from it; means over the last twelfth"
    return judge_relative(f"AdamW: loss × {FACTOR:g}", claim, FACTOR, times, UNLIKE, why)


def fall(ratio: NDArray) -> float:
    """The factor from the smallest of some values to the largest."""
    return float(ratio.max() / ratio.min())


def _fallen(seen: RatioCurves) -> Verdict:
    """The factor that the figure shows."""
    steps = int(seen.ratio[1].argmin()) + 1
    claim = "While the network learns, R/η_eff of AdamW falls to a tenth of its first value or further"
    why = f"an order of magnitude; the number is the largest value divided by the smallest, that of step {steps}"
    return judge_at_least("AdamW: fall", claim, least=10.0, measured=fall(seen.ratio[1]), why=why)


def _per_weight(name: str, seen: RatioCurves, recording: Dataset, third: int) -> list[Verdict]:
    """Adam with L2: every weight has a ratio of its own."""
    ratio = _weight_ratios(recording)[third + third // 2 : 2 * third].mean(axis=0)
    return _known_noise(seen, recording, ratio, third) if len(seen.rate_by_rule) else [_spread(ratio)]


def _spread(ratio: NDArray) -> Verdict:
    claim = "With L2 the 99th percentile of R/η_eff over the weights is at least ten times the 1st"
    why = "an order of magnitude; infinite if the 1st percentile is negative, because there perturbations grow"
    low, high = np.quantile(ratio, [0.01, 0.99])
    return judge_at_least("Adam: spread", claim, least=10.0, measured=high / low if low > 0 else np.inf, why=why)


def _known_noise(seen: RatioCurves, recording: Dataset, ratio: NDArray, third: int) -> list[Verdict]:
    """How R differs between the weights with the least and the most noise, and falls as all gradients grow."""
    spread = seen.ratio_by_rule[0, third] / seen.ratio_by_rule[1, third]
    least, most = (ratio[noise == NOISE].mean() for noise in (NOISE.min(), NOISE.max()))
    fall = seen.rate_by_rule[0, -1] / seen.rate_by_rule[0, third]
    rates, quarter = recording.decay_rate_weight.values, third // 4
    after, before = (rates[end - quarter : end].mean(axis=0) for end in (3 * third, 2 * third))
    times = np.exp(np.log(after / before).mean())  # a geometric mean, because R falls by a factor
    claim = "With L2 R/η_eff of a weight is proportional to 1/√v̂"
    why = "relative .1, because √v is that of the known noise"
    grown = f"With L2 R falls when the loss is multiplied by {FACTOR:g}"
    return [
        judge_relative("Adam: spread", claim, spread, least / most, SAMPLED, why),
        judge_relative(f"Adam: loss × {FACTOR:g}", grown, fall, times, SAMPLED, why),
    ]


JUDGES = {"SGD": _momentum, "SGDW": _stable, "SGDS": _stable, "Adam": _per_weight, "AdamW": _moving, "AdamS": _stable}


# The figure

ETA = r"η$_{\mathrm{eff}}$"
RATIO = f"R/{ETA}"
TITLES = {"digits": "Adam, tanh network on digits", "quadratic": "Adam, quadratic with known noise"}
VALUES = {"AdamW": "AdamW: λ√v̄", "AdamS": "AdamS: λ"}
ENDS = ("L2, least noise", "L2, most noise")  # the lines of Adam with L2


def draw(curves: dict[tuple[str, str], RatioCurves]) -> Figure:
    """R/η_eff of Adam's three decays on both tasks, while the learning rate and the gradients change."""
    adamw = curves["digits", "AdamW"].ratio[1] / DECAY
    times, steps = f"{float(f'{fall(adamw):.2g}'):,.0f}", int(adamw.argmin()) + 1
    with house_style():
        figure = Figure(figsize=(7.4, 4.4))
        for axes, where in zip(figure.subplots(1, 2), TITLES, strict=True):
            _draw_panel(axes, {name: curves[where, name] for name in ("Adam", "AdamW", "AdamS")})
            axes.set(title=TITLES[where], xlabel="step k", ylabel=f"{RATIO}, in units of λ")
        figure.axes[0].set_ylim(adamw.min() / 4, 100)
        figure.axes[1].set_ylim(0.25, 250)
        _draw_fall(figure.axes[0], adamw, times)
        figure.legend(handles=_key(), loc="outside lower left", ncols=3, columnspacing=1, fontsize=8.5)
        figure.suptitle(
            f"With one {ETA} for all weights, only stable decay of Adam's three keeps {RATIO} at λ.\n"
            f"On digits AdamW's falls {times}-fold in {steps} steps. With L2 each weight has its own",
            x=0.01,
            ha="left",
        )
    return figure


def _key() -> list[Any]:
    """What lines, points, the band and the two symbols of the vertical axis mean."""
    look: dict[str, Any] = {"color": "#444444", "linestyle": "none"}
    open_square: dict[str, Any] = {"marker": "s", "markersize": 6, "markerfacecolor": "none", "color": COLOURS["L2"]}
    return [
        Line2D([], [], color="#444444", label="derived from the rule"),
        Line2D([], [], **look, marker="o", markersize=4, label="torch run"),
        Line2D([], [], linestyle="none", **open_square, label="torch run, L2: median weight"),
        Patch(color=COLOURS["L2"], alpha=0.2, linewidth=0, label="torch run, L2: 5–95 % of weights"),
        Line2D([], [], **look, label="R: fraction of θ that a step subtracts"),
        Line2D([], [], **look, label=f"{ETA} = η/√v̄, v̄: mean over the weights"),
    ]


def _draw_fall(axes: Axes, ratio: NDArray, times: str) -> None:
    """An arrow from the largest to the smallest value of AdamW's ratio, with the factor between them."""
    k = int(ratio.argmin()) + 1
    arrow = {"arrowstyle": "<->", "color": COLOURS["decoupled"], "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (0.9 * k, ratio.min()), (0.9 * k, ratio.max()), arrowprops=arrow)
    look: dict[str, Any] = {"color": COLOURS["decoupled"], "fontweight": "bold", "ha": "right", "va": "center"}
    axes.text(0.87 * k, ratio.max() / 4, f"÷ {times}", bbox={"color": "white", "pad": 1}, **look)
    axes.plot([1, 0.95 * k], [ratio.max()] * 2, ":", color=COLOURS["decoupled"], linewidth=1)


def _draw_panel(axes: Axes, runs: dict[str, RatioCurves]) -> None:
    for name, seen in runs.items():
        _draw_run(axes, name, seen)
    steps = len(seen.ratio[1])
    axes.set(yscale="log", xlim=(-0.02 * steps, 1.47 * steps), xticks=range(0, steps + 1, steps // 3))
    axes.minorticks_off()
    for step, text in ((steps // 3, f"η ÷ {FACTOR:g}"), (2 * steps // 3, f"loss × {FACTOR:g}")):
        axes.axvline(step + 0.5, color=MUTED, linewidth=1, linestyle="--", zorder=1)
        axes.text(step + 0.5, 0.98, f" {text}", transform=axes.get_xaxis_transform(), va="top", fontsize=9)


def _draw_run(axes: Axes, name: str, seen: RatioCurves) -> None:
    mode = METHODS[name].mode
    low, middle, high = seen.ratio / DECAY
    steps, lines = np.arange(1, len(middle) + 1), seen.ratio_by_rule / DECAY
    for line in lines:
        axes.plot(steps, line, **theory(mode, label=None))
    shown = slice(len(steps) // 80 * list(COLOURS).index(mode), None, len(steps) // 25)
    look = measured(mode, label=None, markersize=4)
    if name == "Adam":  # open and on top, so that neither the median nor the points of AdamS hide the other
        look |= {"markerfacecolor": "none", "markersize": 6, "zorder": 3}
    axes.plot(steps[shown], middle[shown], **look)
    ends = list(zip([VALUES[name]] if name in VALUES else ENDS, lines[:, -1], strict=False))
    if (low < high).any():
        axes.fill_between(steps, low, high, color=COLOURS[mode], alpha=0.2, linewidth=0)
        median = ("L2, median", float(np.median(middle)))  # over the steps, since a single step is far from the others
        below = (median[0], 0.3 * median[1])  # below the name of AdamS, where the median is
        ends = [*ends, median] if ends else [("L2, 5–95 %", high[-1]), below]
    for text, at in ends:
        axes.text(1.02 * len(steps), at, text, color=COLOURS[mode], va="center", fontsize=9, fontweight="bold")


STUDY = Study("decay-rate", CLAIM, SOURCE, measure, draw, CAPTION)
