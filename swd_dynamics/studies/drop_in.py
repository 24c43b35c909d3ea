"""Study: AdamS takes the place of AdamW in one line of code, if the weight decay is translated."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from swd_dynamics.crosscheck import EquivalentDecay, equivalent_weight_decay
from swd_dynamics.plots import MUTED, house_style, measured, theory
from swd_dynamics.probe import record
from swd_dynamics.rules import State
from swd_dynamics.studies.judging import farthest, judge_relative
from swd_dynamics.studies.methods import family
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.training import train
from swd_dynamics.tasks import Task, tanh_network
from swd_dynamics.tasks.digits import digits, held_out
from swd_dynamics.verdict import Verdict, judge, judge_at_least, must_be_refuted

CLAIM = (
    "If AdamW's λ is translated by the mean of 1/√v̄ in a run of AdamW, AdamS has the same mean decay rate as AdamW, and"
    " shrinks the weights of a small network about as much. If AdamW's λ is kept, AdamS decays more than ten times too"
    " fast."
)
SOURCE = "follows from R = λη (1711.05101) and R = λη/√v̄ (2011.11152); the translation is derived here"
CAPTION = (
    "Left: a formula beside a line is its R, where λ′ is the translated λ. The number at the arrow is the mean R"
    " with AdamW's own λ divided by AdamW's R, of the seed for which it is smallest. It is less than λ/λ′, about 170,"
    " because with so strong a decay the gradients stay large: √v̄ of that run is 2.4 times that of the run with λ′."
    " Right: lines join measured points, and most standard deviations are smaller than the marks. Grey are the"
    " controls, AdamS with AdamW's own λ, with a third of the translated λ, and without decay. The study shows that"
    " the translation works for one small network on 8 × 8 digits, over a short run with one λ. It does not show that"
    " AdamS trains better than AdamW, or that a translated λ is the best λ for AdamS. The held-out error of this task"
    " (not drawn) cannot judge the translation, because decay hardly changes it: without decay it is the same, within"
    " what is allowed. Only with AdamW's own λ is it clearly larger. Only the mean decay rate is matched: R of AdamS"
    " still grows while the gradients shrink, so that AdamS shrinks the weights later than AdamW, and in the end a"
    " little more."
)

LR = 3e-3
DECAY = 0.3  # AdamW's λ: ηλ = 9e-4, so that the decay alone would shrink the weights by three fifths in a full run
TRAINED_ON = 1000  # images to train on; the other 797 are the test
CHECKPOINTS = 10  # the number of times in a run that the weights and the test error are measured
PART = 3  # a control has the translated λ divided by this: it is near, and must be refuted

PILOT = "relative .2, because √v̄ was measured in another run, the pilot"

# Differences that are allowed, with their reasons.
OTHER_RUN = 0.2  # relative: √v̄ is that of the pilot; stronger decay keeps gradients larger, and R of AdamS smaller
ROUND_OFF = 1e-10  # relative: float64 keeps R = 9e-4 in 1 − R to 2e-13, and both sides round some times more
STANDARD_ERRORS = 3.0  # standard errors of a difference of means over the seeds
# Of the difference of ‖θ‖ that AdamW's decay makes: OTHER_RUN, and a little for R that is the same on average only.
SHRINKING = 0.25
FEW_IMAGES = 0.5  # percent of the test's images: four images, too few to choose an optimizer
MANY = 10.0  # an order of magnitude

METHODS = {method.name: method for method in family("Adam", lr=LR, betas=(0.9, 0.999), weight_decay=DECAY)}
# The optimizers compared; without decay AdamS and AdamW are the same, Adam.
NAMES = {"AdamW": "AdamW", "AdamS": "AdamS", "AdamS, λ kept": "AdamS", "AdamS, a third": "AdamS", "no decay": "AdamS"}


class WatchedRun(NamedTuple):
    """What one run did; of several seeds, with an axis for the seeds first.

    R is measured in three ways, each of shape (steps,).

    published : R as the optimizer publishes it; NaN for AdamW, which publishes nothing
    outside : R as the weights of blank pixels shrink: without gradient, nothing but decay moves them
    by_rule : R of the catalogue's rule with the gradients of the run
    test_error : the percentage of the test's images that are misread, shape (CHECKPOINTS,)
    norm : ‖θ‖, shape (CHECKPOINTS,)
    """

    published: NDArray
    outside: NDArray
    by_rule: NDArray
    test_error: NDArray
    norm: NDArray


def measure(setting: Setting) -> Findings:
    """Translate AdamW's λ by a pilot run, then train with AdamW and with AdamS and each λ, all from the same seeds."""
    steps, seeds = (300, 3) if setting.quick else (1000, 5)
    found = translation(setting, steps)
    translated = found.weight_decay
    decays = dict(zip(NAMES, (DECAY, translated, DECAY, translated / PART, 0.0), strict=True))
    work = [(name, seed) for name in NAMES for seed in range(1, seeds + 1)]
    watched: dict[str, list[WatchedRun]] = {name: [] for name in NAMES}
    for name, seed in setting.track(work, "drop-in"):
        watched[name].append(watched_run(task(setting, seed), NAMES[name], decays[name], steps))
    runs = {name: WatchedRun(*map(np.array, zip(*each, strict=True))) for name, each in watched.items()}
    return Findings(judge_exchange(runs, found), (runs, found))


# The real runs


def task(setting: Setting, seed: int) -> Task:
    """A 64-32-10 tanh network on the first images of digits; initial weights and batches by the seed."""
    return tanh_network((32,), samples=TRAINED_ON, batch_size=50, seed=seed, device=setting.device)


def translation(setting: Setting, steps: int) -> EquivalentDecay:
    """AdamW's λ for AdamS, with the second moments of a recorded AdamW run from a seed that is not used again."""
    pilot = task(setting, seed=0)
    optimizer = METHODS["AdamW"].optimizer(pilot.model.parameters())
    recording = record(optimizer, pilot.loss, steps, trajectory=False, data=pilot.name, seed=0)
    return equivalent_weight_decay(METHODS["AdamW"].rule(), METHODS["AdamS"].rule(), recording)


def watched_run(trained: Task, name: str, weight_decay: float, steps: int) -> WatchedRun:
    """Train a task, and measure the decay rate in three ways."""
    weights, blank = list(trained.model.parameters()), blank_pixels()
    optimizer = METHODS[name].optimizer(weights, weight_decay=weight_decay)
    rule = METHODS[name].rule(weight_decay=weight_decay)
    memory: Any = rule.direction.rest(np.zeros(len(trained.theta)))
    published, by_rule, left, errors, norms = [], [], [_size(weights[0][:, blank])], [], []
    for k in train(optimizer, trained.loss, steps):
        parts = rule.parts(State(0.0, memory, k), _gradient(weights))
        memory = parts.memory
        by_rule.append(float(parts.decay_rate))
        published.append(float(optimizer.param_groups[0].get("decay_rate", np.nan)))
        left.append(_size(weights[0][:, blank]))
        if (k + 1) % (steps // CHECKPOINTS) == 0:
            errors.append(misread(trained.model))
            norms.append(float(np.linalg.norm(trained.theta)))
    outside = 1 - np.array(left[1:]) / np.array(left[:-1])
    return WatchedRun(np.array(published), outside, np.array(by_rule), np.array(errors), np.array(norms))


@torch.no_grad()
def misread(model: torch.nn.Module) -> float:
    """The percentage of the held-out images that a model misreads."""
    images, labels = unseen(next(model.parameters()).device)
    return 100 * float((model(images).argmax(dim=1) != labels).double().mean())


@cache
def unseen(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The held-out images and their labels."""
    images, labels = held_out(TRAINED_ON)
    return torch.tensor(images, device=device), torch.tensor(labels, device=device)


@cache
def blank_pixels() -> list[int]:
    """The pixels that are blank in every image trained on: their weights have no gradient."""
    return np.flatnonzero((digits(TRAINED_ON)[0] == 0).all(axis=0)).tolist()


def _size(weights: torch.Tensor) -> float:
    return float(weights.detach().abs().sum())


def _gradient(weights: list[torch.nn.Parameter]) -> NDArray:
    return torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None]).cpu().numpy()


# The verdicts


def judge_exchange(runs: dict[str, WatchedRun], found: EquivalentDecay) -> list[Verdict]:
    """The prediction of the pilot compared with the runs."""
    adamw, adams, kept, third, free = (runs[name] for name in NAMES)
    rate = LR * DECAY
    half = "half a step, because −ln(1−R) = R + R²/2"
    return [
        _rate("AdamS: decay rate", "With λ translated", adams, found),
        must_be_refuted("control: λ kept, decay rate", _rate("", "With AdamW's λ kept", kept, found)),
        must_be_refuted("control: λ′/3, decay rate", _rate("", "With a third of that λ", third, found)),
        _time_scale("AdamW: time scale", adamw, found, rate, half),
        _time_scale("AdamS: time scale", adams, found, OTHER_RUN, PILOT),
        _constant(adamw, rate),
        _moving(adams),
        judge_at_least(
            "λ kept: too fast",
            "With AdamW's λ kept, R of AdamS is more than ten times that of AdamW, with every seed",
            least=MANY,
            measured=too_fast(runs),
            why="ten is an order of magnitude; the number is the mean R of the seed with the smallest",
        ),
        _same_shrinking("weight norm", "With λ translated", adamw, adams, free),
        must_be_refuted("control: λ′/3, norm", _same_shrinking("", "With a third of that λ", adamw, third, free)),
        must_be_refuted("control: λ kept, norm", _same_shrinking("", "With AdamW's λ kept", adamw, kept, free)),
        _same_error("test error", "With λ translated", adamw, adams),
        _same_error("test error hardly feels decay", "Even without decay", adamw, free),
        must_be_refuted("control: λ kept, test error", _same_error("", "With AdamW's λ kept", adamw, kept)),
    ]


def _rate(name: str, how: str, seen: WatchedRun, found: EquivalentDecay) -> Verdict:
    claim = f"{how}, AdamS has the mean decay rate of AdamW, λη, with every seed"
    why = f"{PILOT}; the number is the mean R that AdamS publishes, for the seed that differs most"
    rate = farthest(seen.published.mean(axis=1), found.decay_rate)
    return judge_relative(name, claim, found.decay_rate, rate, OTHER_RUN, why)


def _time_scale(name: str, seen: WatchedRun, found: EquivalentDecay, relative: float, why: str) -> Verdict:
    """The number of steps in which decay leaves 1/e of a weight that has no gradient."""
    claim = "A weight without gradient falls to 1/e in 1/R steps, as predicted"
    steps = farthest(-1 / np.log1p(-seen.outside).mean(axis=1), found.time_scale)
    return judge_relative(
        name, claim, found.time_scale, steps, relative, f"{why}; the number is that of the seed that differs most"
    )


def _constant(seen: WatchedRun, rate: float) -> Verdict:
    claim = "AdamW shrinks the weights by the fraction λη in every step"
    why = "rounding; R is measured on weights without gradient, at the step that differs most"
    return judge_relative("AdamW: R is constant", claim, rate, farthest(seen.outside, rate), ROUND_OFF, why)


def _moving(seen: WatchedRun) -> Verdict:
    """The growth of AdamS's R from the first to the last tenth of a run: from outside, and by 1/√v̄."""
    tenth = seen.outside.shape[1] // 10
    rise, by_rule = (r[:, -tenth:].mean(axis=1) / r[:, :tenth].mean(axis=1) for r in (seen.outside, seen.by_rule))
    i = int(np.argmax(np.abs(rise / by_rule - 1)))
    claim = "From the first to the last tenth of a run, R of AdamS changes by the same factor as 1/√v̄"
    why = "rounding; R is measured on weights without gradient, √v̄ by the rule; the seed that differs most"
    return judge_relative("AdamS: R changes as 1/√v̄", claim, by_rule[i], rise[i], ROUND_OFF, why)


def _same_shrinking(name: str, how: str, adamw: WatchedRun, other: WatchedRun, free: WatchedRun) -> Verdict:
    """By how much decay made ‖θ‖ smaller than without decay, in units of what AdamW's decay did."""
    without = free.norm[:, -1]
    share = farthest((without - other.norm[:, -1]) / (without - adamw.norm[:, -1]), 1.0)
    why = f"{PILOT}, and .05 because R is the same on average only; the number is that of the seed that differs most"
    claim = f"{how}, the decay of AdamS makes ‖θ‖ smaller by as much as that of AdamW does"
    return judge(name, claim, predicted=1.0, measured=share, allowed=SHRINKING, why=why)


def _same_error(name: str, how: str, adamw: WatchedRun, other: WatchedRun) -> Verdict:
    one, two = adamw.test_error[:, -1], other.test_error[:, -1]
    error = np.sqrt((one.var(ddof=1) + two.var(ddof=1)) / len(one))
    return judge(
        name,
        f"{how}, a network trained with AdamS misreads the same percentage of held-out digits as with AdamW",
        predicted=one.mean(),
        measured=two.mean(),
        allowed=STANDARD_ERRORS * error + FEW_IMAGES,
        why=f"3 standard errors of a difference of means over {len(one)} seeds, plus .5 %, which is four images",
    )


# The figure

# Decay mode, changes of its style, name in the legend, and formula of R.
NEAR = {"color": MUTED, "markerfacecolor": "white"}
STYLES: dict[str, tuple[str, dict, str, str]] = {
    "AdamW": ("decoupled", {}, "AdamW, λ = {now:g}", "λη"),
    "AdamS": ("stable", {}, "AdamS, λ translated to λ′ = {then:.2g}", "λ′η/√v̄"),
    "AdamS, λ kept": ("stable", {"color": MUTED}, "control: AdamS with AdamW's λ = {now:g}", "λη/√v̄"),
    "AdamS, a third": ("stable", NEAR, "control: AdamS with λ′/3", "λ′η/(3√v̄)"),
    "no decay": ("none", {"color": MUTED}, "control: no decay", ""),
}


def draw(data: tuple[dict[str, WatchedRun], EquivalentDecay]) -> Figure:
    """Left: the decay rate over a run. Right: ‖θ‖. For AdamW, and AdamS with and without translation."""
    runs, found = data
    with house_style():
        figure = Figure(figsize=(9.4, 4.8))
        left, right = figure.subplots(1, 2)
        for i, name in enumerate(STYLES):
            if STYLES[name][3]:
                _draw_rate(left, name, runs[name], i)
            _draw_norm(right, name, runs[name], i)
        _label(left, right, runs)
        values = {"now": DECAY, "then": found.weight_decay}
        keys = [
            Line2D([], [], **_style(name), linestyle="-", label=STYLES[name][2].format(**values)) for name in STYLES
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=3)
        figure.suptitle(
            "AdamS with a translated λ decays as fast as AdamW on average, and shrinks the weights about as much,\n"
            f"but with AdamW's own λ it decays {int(too_fast(runs))} times too fast on average",
            x=0.01,
            ha="left",
        )
    return figure


def too_fast(runs: dict[str, WatchedRun]) -> float:
    """How many times as fast as AdamW AdamS decays with AdamW's λ: mean R divided by λη, of the smallest seed."""
    return float(runs["AdamS, λ kept"].outside.mean(axis=1).min() / (LR * DECAY))


def _style(name: str) -> dict:
    mode, change, *_ = STYLES[name]
    return {key: value for key, value in (measured(mode) | change).items() if key not in ("linestyle", "label")}


def _draw_rate(axes: Axes, name: str, runs: WatchedRun, i: int) -> None:
    mode, change, _, formula = STYLES[name]
    steps = np.arange(1, runs.outside.shape[1] + 1)
    shown = slice(len(steps) // 60 * i, None, len(steps) // 20)
    line = axes.plot(steps, runs.by_rule[0], **theory(mode, **change))[0]
    axes.plot(steps[shown], runs.outside[0][shown], **measured(mode, markersize=4, **change))
    axes.text(1.02 * len(steps), runs.by_rule[0][-1], formula, color=line.get_color(), va="center", fontsize=9)


def _draw_norm(axes: Axes, name: str, runs: WatchedRun, i: int) -> None:
    every = runs.outside.shape[1] // CHECKPOINTS
    steps = every * (np.arange(1, CHECKPOINTS + 1) + 0.1 * (i - 2))  # so that the points are side by side
    mean, deviation = runs.norm.mean(axis=0), runs.norm.std(axis=0, ddof=1)
    axes.errorbar(steps, mean, deviation, **_style(name), linewidth=1, capsize=2)


def _label(left: Axes, right: Axes, runs: dict[str, WatchedRun]) -> None:
    seeds, steps = runs["AdamS"].outside.shape
    left.set(title="decay rate: theory (lines), measured (points), one seed", yscale="log")
    left.set(xlabel="step k", ylabel="decay rate R of a step", xlim=(-0.02 * steps, 1.17 * steps))
    low, high = (float(runs[name].outside.mean()) for name in ("AdamW", "AdamS, λ kept"))
    place = {"xytext": (0.3 * steps, low), "arrowprops": {"arrowstyle": "<->", "shrinkA": 2, "shrinkB": 2}}
    left.annotate("", (0.3 * steps, high), **place)
    left.text(0.32 * steps, (low * high) ** 0.5, f"× {int(too_fast(runs))}", fontweight="bold", va="center")
    right.set(title=f"size of the weights: mean and s.d. of {seeds} seeds", ylim=(0, None))
    right.set(xlabel="step k (points drawn side by side)", ylabel="norm of all weights, ‖θ‖")


STUDY = Study("drop-in", CLAIM, SOURCE, measure, draw, CAPTION)
