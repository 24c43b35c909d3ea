"""Study: how much of the gap between the test errors of Adam and SGD does AdamS close."""

from importlib.util import find_spec
from math import inf, nan, sqrt
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from swd_dynamics.plots import MUTED, house_style, measured
from swd_dynamics.studies.paired import judge_more, paired_difference, planted
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.tuning import (
    MISSING_DATA,
    Tuned,
    arenas,
    contestants_of,
    tuned,
    tuning_seeds,
)
from swd_dynamics.verdict import NOTHING, Verdict, must_be_refuted

CLAIM = (
    "Adam with L2 decay generalizes worse than SGD with momentum, and fixing the decay, AdamS, closes at least half of"
    " the gap between their test errors."
)
SOURCE = "arXiv 2011.11152 (Xie, Sato & Sugiyama 2020); that “half” is meant by “closes” is chosen here"
CAPTION = (
    "Left and middle: the test error of each optimizer, tuned on its own grid, as a difference from SGD for the same"
    " seed. Small marks are seeds, large marks their means with a confidence interval of 95 %. A point to the left of"
    " the grey line is better than SGD. Right: the fraction of the gap that a decay which is not L2 closes: for AdamS"
    " it is (Adam − AdamS)/(Adam − SGD), where each name stands for a mean test error, with Fieller's interval of 95 %"
    " for a ratio of two means. 0 is Adam and 1 is SGD. A negative fraction says that the error is farther from that"
    " of SGD than Adam's is. Where no gap is certain, there is no fraction and no panel. The study is about small tanh"
    " networks that are trained for some hundred steps, with a cosine schedule. They misread more than half of"
    " MNIST-1D, which has ten classes, so that a guess misreads 90 %. The negative controls plant a difference of one"
    " percentage point, a size that was chosen after the results were known."
)

STEPS, SCHEDULE = 300, "cosine"
HALF = 0.5  # of the gap: less would leave Adam nearer to where it was than to SGD
# What the control plants, in percentage points: about as much as the differences that the full form finds, .2 to 1.7.
# The short form has 4 seeds, whose intervals are 3.8 times as wide as those of 24 seeds with the same scatter.
PLANTED, PLANTED_IN_SHORT_FORM = 1.0, 3.8
RIVALS = ("AdamW", "AdamS")


class Fraction(NamedTuple):
    """A ratio of two means over seeds, and Fieller's confidence interval; its ends are ∞ where there are none."""

    value: float
    low: float
    high: float


def closed(part: NDArray, whole: NDArray) -> Fraction:
    """The ratio of the means of two quantities, one value of each for every seed.

    φ is in the interval where the paired test does not find mean(part − φ·whole) ≠ 0: a quadratic inequality in φ,
    (p̄ − φw̄)² ≤ t²·(s_p² − 2φs_pw + φ²s_w²)/n.

    Source: Fieller 1954.

    Examples
    --------
    Where each seed has the same ratio, the interval is a point:

    >>> [round(x, 6) for x in closed(np.array([10.0, 11.0, 12.0]), np.array([20.0, 22.0, 24.0]))]
    [0.5, 0.5, 0.5]
    """
    means, cov = np.array([part.mean(), whole.mean()]), np.cov(part, whole) / len(part)
    single = paired_difference(part, 0.0)
    t = single.half_width / single.standard_error if single.standard_error else 0.0
    a = means[1] ** 2 - t**2 * cov[1, 1]
    b = means[0] * means[1] - t**2 * cov[0, 1]
    c = means[0] ** 2 - t**2 * cov[0, 0]
    value = float(means[0] / means[1]) if means[1] else nan
    if a <= 0:  # the gap may be 0
        return Fraction(value, -inf, inf)
    root = sqrt(max(b**2 - a * c, 0.0))
    return Fraction(value, float((b - root) / a), float((b + root) / a))


class Gap(NamedTuple):
    """What a task came to: the tuned optimizers."""

    task: str
    found: dict[str, Tuned]

    def errors(self, label: str) -> NDArray:
        """The test errors of an optimizer in percent, shape (seeds,)."""
        return self.found[label].errors

    @property
    def is_certain(self) -> bool:
        """Whether Adam's error is larger than SGD's, by the confidence interval."""
        found = paired_difference(self.errors("Adam"), self.errors("SGD"))
        return found.mean - found.half_width > 0

    def fraction(self, label: str) -> Fraction:
        """The fraction of the gap between Adam and SGD that an optimizer closes."""
        return closed(self.errors("Adam") - self.errors(label), self.errors("Adam") - self.errors("SGD"))


def measure(setting: Setting) -> Findings:
    """Tune SGD, Adam, AdamW and AdamS on every task, and train them from the reported seeds."""
    steps, seeds = (STEPS // 5, range(4)) if setting.quick else (STEPS, range(24))
    tuning = tuning_seeds(setting.quick)
    training: dict[str, Any] = {"steps": steps, "schedule": SCHEDULE, "evaluations": 1}
    listed = [contestants_of("SGD")[0], *contestants_of("Adam")]
    chosen, gaps = arenas(setting.device), []
    for name in setting.track(chosen, "sgd-generalization"):
        gaps.append(Gap(name, tuned(chosen[name], listed, seeds=seeds, tuning=tuning, **training)))
    handicap = PLANTED_IN_SHORT_FORM if setting.quick else PLANTED
    return Findings([verdict for gap in gaps for verdict in judge_gap(gap, handicap)], gaps)


# The verdicts


def judge_gap(gap: Gap, handicap: float = PLANTED) -> list[Verdict]:
    """Whether there is a gap, and how much of it a fixed decay closes, on one task."""
    task = gap.task
    sgd, adam, adams = (gap.errors(label) for label in ("SGD", "Adam", "AdamS"))
    why = f"in percentage points of test error on {task}, seed by seed"
    unit = "(difference in percentage points)"
    why += "" if find_spec("mnist1d") else f"; {MISSING_DATA}"
    claim = "Adam with L2 decay has a larger test error than SGD with momentum, both tuned"
    worse = (
        f"an optimizer with the scatter of AdamS over the seeds, and a mean test error that is {handicap:.1f} points"
        " larger than that of Adam, has a smaller test error than Adam"
    )
    return [
        judge_more(f"{task}: the gap", f"On {task} {claim} {unit}", larger=adam, smaller=sgd, why=why),
        judge_more(
            f"{task}: AdamS < Adam",
            f"On {task} AdamS has a smaller test error than Adam with L2 decay, both tuned {unit}",
            larger=adam,
            smaller=adams,
            why=why,
        ),
        *(_half(gap, label) for label in RIVALS),
        must_be_refuted(
            f"control: {task}, worse",
            judge_more("", f"On {task} {worse}", larger=adam, smaller=planted(adams, adam, handicap), why=why),
        ),
    ]


def _half(gap: Gap, label: str) -> Verdict:
    """Adam − AdamS > ½(Adam − SGD), which is linear, so that it needs no ratio."""
    adam, sgd = gap.errors("Adam"), gap.errors("SGD")
    name = f"{gap.task}: {label} closes half"
    claim = f"On {gap.task} {label} closes at least half of the gap between Adam and SGD"
    if not gap.is_certain:
        cause = _no_gap(gap)
        why = "there is no gap to compare with"
        return Verdict(name, claim, "> 0", NOTHING, "any more", why, "inconclusive", cause=cause, seeds=len(adam))
    fraction = gap.fraction(label)
    why = (
        f"the number is what {label} closes beyond half of the gap, in percentage points; the fraction of the gap is"
        f" {fraction.value:.2g}, in a 95% interval from {fraction.low:.2g} to {fraction.high:.2g}"
    )
    said = f"{claim} (percentage points beyond half)"
    return judge_more(name, said, larger=adam - gap.errors(label), smaller=HALF * (adam - sgd), why=why)


# The figure


def draw(gaps: list[Gap]) -> Figure:
    """For each task the differences from SGD and, where there is a gap, the fractions that AdamW and AdamS close."""
    panels = [(draw_one, gap) for gap in gaps for draw_one in (_draw_errors, _draw_fractions)]
    panels = [(draw_one, gap) for draw_one, gap in panels if draw_one is _draw_errors or gap.is_certain]
    with house_style():
        figure = Figure(figsize=(max(3.6 * len(panels) + 0.4, 7.4), 4.0))  # the title needs 7 inches
        for place, (draw_one, gap) in enumerate(panels):
            draw_one(figure.add_subplot(1, len(panels), place + 1), gap)
        seeds = len(gaps[0].errors("SGD"))
        point: dict[str, Any] = {"color": "#444444", "marker": "o", "linestyle": "none"}
        line: dict[str, Any] = point | {"linestyle": "-"}
        keys = [
            Line2D([], [], **point, markersize=3, alpha=0.45, label="one seed"),
            Line2D([], [], **line, markersize=8, label=f"mean of {seeds} seeds, 95 % interval"),
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=2)
        figure.suptitle(_title(gaps), x=0.01, ha="left")
    return figure


def _draw_errors(axes: Axes, gap: Gap) -> None:
    labels = list(gap.found)
    for place, label in enumerate(labels[1:]):
        differences = gap.errors(label) - gap.errors("SGD")
        style: dict[str, Any] = measured(gap.found[label].contestant.mode, label=None, markersize=8)
        spread = place + 0.16 + 0.2 * np.linspace(0, 1, len(differences))
        axes.plot(differences, spread, **{**style, "markersize": 3, "alpha": 0.45})
        half = paired_difference(differences, 0.0).half_width
        axes.errorbar(differences.mean(), place, xerr=half, capsize=3, **style)
    axes.axvline(0, color=MUTED, linewidth=1.2)
    sgd = gap.errors("SGD").mean()
    axes.set_yticks(range(len(labels) - 1), labels[1:])
    axes.set(xlabel="difference from SGD, percentage points", ylim=(len(labels) - 1.4, -0.5))
    axes.set_title(f"{gap.task}: test error (SGD: {sgd:.1f} %)", pad=16)


def _draw_fractions(axes: Axes, gap: Gap) -> None:
    reach = 1.6  # beyond it an interval ends with an arrow
    for place, label in enumerate(RIVALS):
        fraction, style = gap.fraction(label), measured(gap.found[label].contestant.mode, label=None, markersize=8)
        ends = np.clip([fraction.low, fraction.high], -reach, reach)
        axes.plot(ends, [place, place], color=style["color"])
        for end, wanted, arrow in zip(ends, (fraction.low, fraction.high), "<>", strict=True):
            axes.plot(end, place, **{**style, "marker": arrow if wanted != end else "|"})
        axes.plot(fraction.value, place, **style)
        at = float(np.clip(fraction.value, -0.8 * reach, 0.8 * reach))
        axes.annotate(f"{fraction.value:.2f}".replace("-", "−"), (at, place - 0.16), ha="center")
    for at, name in ((0, "Adam"), (HALF, "half"), (1, "SGD")):
        axes.axvline(at, color=MUTED, linewidth=1.2, linestyle=":" if name == "half" else "-", zorder=0)
        axes.text(at, -0.62, name, ha="center", va="bottom", fontsize=9)
    axes.set_yticks(range(len(RIVALS)), RIVALS)
    axes.set(xlabel="fraction of the gap that is closed", ylim=(len(RIVALS) - 0.5, -0.6))
    axes.set(xlim=(-1.08 * reach, 1.08 * reach))
    axes.set_title(f"{gap.task}: gap from Adam to SGD", pad=16)


def _title(gaps: list[Gap]) -> str:
    """For each task, whether Adam is worse than SGD, and what AdamS closes of this gap."""
    return ".\n".join(f"On {gap.task} {_closes_half(gap) if gap.is_certain else _no_gap(gap)}" for gap in gaps)


def _closes_half(gap: Gap) -> str:
    found, status = gap.fraction("AdamS"), _half(gap, "AdamS").status
    words = {"confirmed": "AdamS closes more than half of the gap to SGD"}
    words["refuted"] = "AdamS does not close half of the gap to SGD"
    if found.low > 0:
        said = words.get(status, "it is undecided whether AdamS closes half of the gap to SGD")
        return f"{said} (it closes {found.value:.2f})"
    if found.high < 0:
        return f"{words[status]}, and is farther from SGD than Adam"
    if status in words:
        return f"{words[status]}, and it is undecided whether it closes any"
    return "it is undecided whether AdamS closes any of the gap to SGD"


def _no_gap(gap: Gap) -> str:
    worse = paired_difference(gap.errors("Adam"), gap.errors("SGD"))
    certain = (
        "Adam is not worse than SGD" if worse.mean + worse.half_width < 0 else "it is not certain that Adam is worse"
    )
    return f"{certain}, so there is no gap to close"


NOT_CONFIRMED = frozenset(
    {
        "digits: the gap",
        "digits: AdamS < Adam",
        "digits: AdamW closes half",
        "digits: AdamS closes half",
        "MNIST-1D: AdamS < Adam",
        "MNIST-1D: AdamW closes half",
        "MNIST-1D: AdamS closes half",
    }
)
STUDY = Study("sgd-generalization", CLAIM, SOURCE, measure, draw, CAPTION, NOT_CONFIRMED)
