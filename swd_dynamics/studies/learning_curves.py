"""Study: test error and training loss along runs with the three decays, under two schedules."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from swd_dynamics.plots import LABELS, house_style, measured
from swd_dynamics.studies.paired import judge_more, paired_difference
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.tuning import Contestant, Tuned, arenas, contestants_of, trained, tuned, tuning_seeds
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "Under a step and a cosine schedule, SGD and Adam with stable weight decay end with a smaller test error than with"
    " L2 regularization, and Adam also than with decoupled decay, although the training loss of Adam with stable decay"
    " is not smaller than with L2. The curves of SGDW and SGDS are the same at every step, because their decay rates"
    " are."
)
SOURCE = "arXiv 2011.11152 (Xie, Sato & Sugiyama 2020), the learning curves; the last sentence follows from R and η_eff"
CAPTION = (
    "Lines are measured: means over seeds, with bands of one standard error. The corners have the differences that were"
    " tested at the last step, seed by seed, with intervals of 95 % that allow for six comparisons. Those that are"
    " decided are bold. Points are percentage points. The training loss is that on all training images, without the"
    " decay. It was compared only between AdamS and Adam with L2 (the claim once spoke of the training loss of all)."
    " Each optimizer is tuned on its own grid for each schedule, on seeds that are not shown. Dotted lines are the"
    " drops of the step schedule to a tenth. The blue line of SGDW is drawn wide, because that of SGDS lies on it. The"
    " study shows one small network on 8 × 8 digits."
)

STEPS, EVALUATIONS = 300, 30
SCHEDULES = ("step", "cosine")
DIRECTIONS = {"SGD": ("SGD", "SGDW", "SGDS"), "Adam": ("Adam", "AdamW", "AdamS")}  # L2, decoupled, stable
PAIRS = (("SGDS", "SGD"), ("AdamS", "Adam"), ("AdamS", "AdamW"))
COMPARISONS = len(PAIRS) * len(SCHEDULES)  # of test errors, judged together
# The largest difference of two training losses, relative: rounding in float32, 6e-8 in each of 300 steps, grows at most
# in proportion to the steps where runs do not diverge from each other; a λ that is off by a percent changes it by 1e-2.
ROUND_OFF = 1e-3


class Curves(NamedTuple):
    """The tuned optimizers of one schedule, and the control: SGDW with the λ of SGDS."""

    schedule: str
    found: dict[str, Tuned]
    untranslated: NDArray

    def curve(self, label: str, name: str) -> NDArray:
        """A curve of an optimizer, shape (seeds, evaluations)."""
        return self.found[label].runs[name].values


def measure(setting: Setting) -> Findings:
    """Tune the six optimizers for each schedule, and follow them from the reported seeds."""
    steps, seeds = (STEPS // 5, range(4)) if setting.quick else (STEPS, range(16))
    tuning = tuning_seeds(setting.quick)
    arena = arenas(setting.device, only_digits=True)["digits"]
    found = []
    for schedule in setting.track(SCHEDULES, "learning-curves"):
        training: dict[str, Any] = {"steps": steps, "schedule": schedule, "evaluations": EVALUATIONS}
        listed = [each for direction in DIRECTIONS for each in contestants_of(direction)]
        best = tuned(arena, listed, seeds=seeds, tuning=tuning, **training)
        stable = best["SGDS"].contestant
        same = Contestant("SGDW", "SGDW", stable.lrs, stable.decays, stable.arguments)
        ((_, runs),) = trained(arena.task, [same], seeds, **training)
        found.append(Curves(schedule, best, runs.train_loss_curve.values[0, 0]))
    return Findings(judge_curves(found), found)


# The verdicts


def judge_curves(found: list[Curves]) -> list[Verdict]:
    """The ends of the curves seed by seed, and the sameness of SGDW and SGDS at every evaluation."""
    verdicts = [_lower(curves, *pair) for curves in found for pair in PAIRS]
    verdicts += [_no_better_fit(curves) for curves in found]
    verdicts += [_one_curve(curves, curves.curve("SGDW", "train_loss_curve")) for curves in found]
    control = _one_curve(found[0], found[0].untranslated)
    return [*verdicts, must_be_refuted("control: λ not translated", control)]


def _ends(curves: Curves, stable: str, rival: str) -> tuple[NDArray, NDArray]:
    """The last test errors of two optimizers, seed by seed, in percent."""
    return curves.found[stable].errors, curves.found[rival].errors


def _losses(curves: Curves) -> tuple[NDArray, NDArray]:
    """The last training losses of AdamS and of Adam with L2, seed by seed."""
    return curves.found["AdamS"].runs.train_loss.values, curves.found["Adam"].runs.train_loss.values


def _lower(curves: Curves, stable: str, rival: str) -> Verdict:
    stable_ends, rival_ends = _ends(curves, stable, rival)
    return judge_more(
        f"{curves.schedule}: {stable} < {rival}",
        f"At the end of a {curves.schedule} schedule {stable} has a smaller test error than {rival}, both tuned",
        larger=rival_ends,
        smaller=stable_ends,
        comparisons=COMPARISONS,
        why="in percentage points of the error on the 1297 held-out digits",
    )


def _no_better_fit(curves: Curves) -> Verdict:
    """The paper's reading: stable decay generalizes better without training better."""
    stable, l2 = _losses(curves)
    return judge_more(
        f"{curves.schedule}: AdamS fits no better",
        f"At the end of a {curves.schedule} schedule AdamS has no smaller training loss than Adam with L2 decay",
        larger=stable,
        smaller=l2,
        comparisons=COMPARISONS,
        why="the loss on all training images, in nats",
    )


def _one_curve(curves: Curves, decoupled: NDArray) -> Verdict:
    stable = curves.curve("SGDS", "train_loss_curve")
    seeds, times = stable.shape
    return judge(
        f"{curves.schedule}: SGDW is SGDS",
        f"Under a {curves.schedule} schedule SGDW has the training loss of SGDS at every evaluation",
        predicted=0.0,
        measured=float(np.max(np.abs(decoupled / stable - 1))),
        allowed=ROUND_OFF,
        why=f"rounding in float32; the largest relative difference of {seeds} seeds and {times} evaluations",
    )


# The figure

ROWS = {"test_error_curve": ("test error, %", 100.0), "train_loss_curve": ("training loss, nats", 1.0)}


def draw(found: list[Curves]) -> Figure:
    """A column for each optimizer and schedule; above the test error, below the training loss."""
    columns = [(direction, curves) for direction in DIRECTIONS for curves in found]
    with house_style():
        figure = Figure(figsize=(11.0, 5.6))
        panels = figure.subplots(2, len(columns), sharex=True, sharey="row")
        for across, (direction, curves) in enumerate(columns):
            for down, name in enumerate(ROWS):
                _draw_curves(panels[down][across], direction, curves, name)
            panels[0][across].set_title(f"{direction}, {curves.schedule} schedule")
            panels[1][across].set_xlabel("step k")
        for down, (label, _) in enumerate(ROWS.values()):
            panels[down][0].set_ylabel(label)
        figure.legend(handles=_key(), loc="outside lower center", ncols=5)
        figure.suptitle(_title(found), x=0.01, ha="left")
    return figure


def _key() -> list[Line2D]:
    names = {"L2": "SGD, Adam", "decoupled": "AdamW", "stable": "SGDS, AdamS"}
    keys = [
        Line2D([], [], color=measured(mode)["color"], label=f"{LABELS[mode]} ({text})") for mode, text in names.items()
    ]
    wide = {"color": measured("decoupled")["color"], "linewidth": 4.5, "alpha": 0.45}
    keys.insert(2, Line2D([], [], **wide, label="SGDW (under SGDS)"))
    return [*keys, Line2D([], [], color="#999999", linewidth=0.8, linestyle=":", label="η falls to a tenth")]


def _draw_curves(axes: Axes, direction: str, curves: Curves, name: str) -> None:
    unit, last = ROWS[name][1], int(curves.found["SGD"].runs.step[-1])
    for label in DIRECTIONS[direction]:
        values = unit * curves.curve(label, name)
        steps = curves.found[label].runs.step.values
        mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / len(values) ** 0.5
        color = measured(curves.found[label].contestant.mode)["color"]
        under = label == "SGDW"  # a wider line, because that of SGDS lies on it
        axes.plot(steps, mean, color=color, linewidth=4.5 if under else 1.5, alpha=0.45 if under else 1.0)
        axes.fill_between(steps, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
    _write_differences(axes, direction, curves, name)
    if curves.schedule == "step":
        for k in (last / 3, 2 * last / 3):
            axes.axvline(k, color="#999999", linewidth=0.8, linestyle=":")
    axes.set(yscale="log", xlim=(0, last))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2) if unit > 1 else (1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def _write_differences(axes: Axes, direction: str, curves: Curves, name: str) -> None:
    """The tested differences of the last values, in the upper right corner; those that are decided are bold."""
    of_errors = name == "test_error_curve"
    pairs = [pair for pair in PAIRS if pair[0] in DIRECTIONS[direction]]
    shown = [(*pair, _ends(curves, *pair)) for pair in pairs] if of_errors else []
    if direction == "Adam" and not of_errors:
        shown = [("AdamS", "Adam", _losses(curves))]
    for place, (stable, rival, ends) in enumerate(shown):
        found = paired_difference(*ends, COMPARISONS)
        decided = abs(found.mean) > found.half_width
        word = "larger" if found.mean > 0 else "smaller"
        digits = 2 if of_errors else 4
        number = f"{abs(found.mean):.{digits}f} ± {found.half_width:.{digits}f}" + " points" * of_errors
        undecided = "" if decided else ", undecided"
        axes.text(
            0.98,
            0.97 - 0.2 * place,
            f"{stable} {word} than {rival}\nby {number}{undecided}",
            fontweight="bold" if decided else "normal",
            fontsize=9,
            ha="right",
            va="top",
            transform=axes.transAxes,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )


def _title(found: list[Curves]) -> str:
    wins = [_lower(curves, *pair) for curves in found for pair in PAIRS]
    won, lost = (sum(v.status == status for v in wins) for status in ("confirmed", "refuted"))
    return (
        f"Stable decay ends with a smaller test error than L2 or decoupled decay in {won} of {len(wins)} comparisons,\n"
        f"with a larger one in {lost} (upper row, bold), and {len(wins) - won - lost} are undecided"
    )


NOT_CONFIRMED = frozenset(f"{schedule}: {stable} < {rival}" for schedule in SCHEDULES for stable, rival in PAIRS)
STUDY = Study("learning-curves", CLAIM, SOURCE, measure, draw, CAPTION, NOT_CONFIRMED)
