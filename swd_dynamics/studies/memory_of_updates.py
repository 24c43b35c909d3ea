"""Study: which updates of a run the final weights remember, by the schedule of the learning rate and by the decay."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from swd_dynamics.plots import COLOURS, MUTED, house_style, measured
from swd_dynamics.rules import EqualMemory
from swd_dynamics.studies.judging import farthest, judge_relative
from swd_dynamics.studies.methods import family
from swd_dynamics.studies.perturbed_runs import BETA, DIRECTIONS, EQUAL, LR, SCHEDULES, TOTALS, Case, GradientWeights
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.symbolic import gradient_weights, notation
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "With decay the weights are a moving average of updates, whose memory is 1/R steps long only where the learning"
    " rate is constant. Where it falls to 0 linearly and ληT is large, four times the λ halves the memory; with a"
    " cosine or with corrected decay, λ matters even less. At ληT = 10 the last tenth of the updates then hardly"
    " counts. One schedule, derived from R, gives every update the same weight."
)
SOURCE = (
    "the moving average: Wang & Aitchison 2024 (2405.13698); its schedules: Bergsma et al. 2025 (2505.13738);"
    " the powers of λ are derived here"
)
CAPTION = (
    "A point is the difference of two torch runs with the same gradients, except that one gradient differs by 1. A"
    " line is derived from the rule. The gradients are fixed noise, so that the loss does not react: what is shown is"
    " the memory of the optimizer. In training, the curvature of the loss erases more. Left: the factor with which"
    " each update counts in the final weights of SGDW without momentum, divided by the mean of these factors, at ληT"
    " = 10 (η is the largest learning rate, T the number of steps). With a constant η the curve goes on to 10. Equal"
    " memory is the schedule η/(1 + ληk), whose last learning rate is η/11 there. The last tenth of the updates has"
    " 63 % of the sum with a constant η, 5 % with linear, 0.8 % with cosine, and 10 % with equal memory. The first"
    " half has 0.7, 28, 40 and 50 %. Right: the mean age of an update, in which each update counts by its factor, as"
    " a part of the run. A constant η keeps 1/R steps, which is 0.1 of a run at ληT = 10. A run without decay is at"
    " the left end of each curve, and the powers of λ beside the names hold at the right end.\n\n"
    "Linear is nearest to equal memory at ληT = 3.5 (seen in a pilot, which had expected 2): as much noise is"
    " averaged there as by 89 % of the updates if each counted the same, and without decay by 75 %. At ληT = 50 the"
    " last tenth counts more than an equal share, also with linear. Also tested, but not drawn: heavy ball, and Adam"
    " with a constant v, with five decays each; there a gradient counts through all later updates that momentum"
    " passes it to."
)

PROBED = 40  # gradients of a run that are perturbed with momentum; without, all are
SHOWN, STEEP = 10.0, (5.0, 50.0)  # ληT of the left panel, and between which the power of λ is measured
EXACT = 1e-8  # relative to the largest weight: Adam's v changes by 2⁻⁴⁰ in each of 1500 steps, all else is round-off
POWER = 0.06  # allowed for a power of λ; see WHY_POWER
WHY_POWER = (
    "the power holds where ληT is large and R small: at ληT = 5 the start of the run is not forgotten, which changes"
    " the slope by .03, and at 50 a step has R = .05 or less, which changes the slope by .03 more"
)


def parts_of_sum(weights: NDArray) -> NDArray:
    """The weights of a run as parts of their sum."""
    return weights / weights.sum(axis=-1, keepdims=True)


def last_tenth(weights: NDArray) -> NDArray:
    """The share of the last tenth of the updates in the final weights.

    Examples
    --------
    >>> float(last_tenth(np.ones(20)))
    0.1
    """
    return parts_of_sum(weights)[..., -(weights.shape[-1] // 10) :].sum(axis=-1)


def first_half(weights: NDArray) -> NDArray:
    """The share of the first half of the updates."""
    return parts_of_sum(weights)[..., : weights.shape[-1] // 2].sum(axis=-1)


def mean_age(weights: NDArray) -> NDArray:
    """The mean age of an update, weighted by its share in the final weights, as a part of the run.

    Examples
    --------
    >>> float(mean_age(np.ones(3)))
    0.5
    """
    steps = weights.shape[-1]
    return parts_of_sum(weights) @ (steps - 0.5 - np.arange(steps)) / steps


def effective_number(weights: NDArray) -> NDArray:
    """(Σw)²/Σw², the number of updates of the same weight with as much noise, as a part of the run.

    Examples
    --------
    >>> float(effective_number(np.array([1.0, 1.0, 0.0, 0.0])))
    0.5
    """
    return weights.sum(axis=-1) ** 2 / (weights**2).sum(axis=-1) / weights.shape[-1]


def memory_power(schedule: str, mode: str) -> sympy.Rational:
    """The power of λ with which the mean age changes where ληT is large, by the end of the schedule and by R.

    At the age x, as a part of the run, η ∝ xᵖ, and R ∝ ηᑫ: w ∝ xᵖ·exp(−c·λ·x^(pq+1)), whose mean x is
    proportional to λ^(−1/(pq+1)). p is the leading power of the schedule at its end, q that of η in R.

    Examples
    --------
    >>> memory_power("linear", "decoupled"), memory_power("cosine", "corrected")
    (-1/2, -1/5)
    """
    x = sympy.Symbol("x", positive=True)
    age = {"constant": sympy.S.One, "linear": x, "cosine": (1 - sympy.cos(sympy.pi * x)) / 2}[schedule]
    _, p = sympy.sympify(age).leadterm(x)
    lr, (method,) = notation.lr, family("SGD", (mode,), weight_decay=1.0)
    largest = {"lr_max": sympy.Symbol("η_max", positive=True)} if mode in ("independent", "corrected") else {}
    rate = method.rule(lr=lr, **largest).parts(method.rule(lr=lr, **largest).start(1.0), 0.0).decay_rate
    q = sympy.simplify(lr * sympy.diff(sympy.log(rate), lr))
    return sympy.nsimplify(-1 / (p * q + 1))


def measure(setting: Setting) -> Findings:
    """Perturb single gradients of torch runs under every schedule and decay, and compare with the derived weights."""
    found = {}
    for case in setting.track(cases(setting.quick), "memory of updates"):
        everything = np.arange(case.steps)
        some = np.unique(np.linspace(0, case.steps - 1, PROBED).astype(int))
        found[case.direction, case.mode, case.schedule] = case.memory(everything if case.direction == "SGD" else some)
    return Findings([*_of_weights(found), *_of_equal(found), *_of_shares(found), *_of_powers(found)], found)


def cases(quick: bool) -> list[Case]:
    """Every direction with each of its decays and schedules; equal memory where it has a closed form."""
    made = []
    for direction, (_, modes, _) in DIRECTIONS.items():
        steps = (500 if quick else 2000) if direction == "SGD" else (150 if quick else 1500)
        for mode in modes:
            passes_momentum = mode == "L2" and direction != "SGD"
            equal = [] if passes_momentum or mode == "corrected" else [EQUAL]
            made += [Case(direction, mode, schedule, steps) for schedule in (*SCHEDULES, *equal)]
    return made


WHY_EXACT = (
    f"relative to the largest factor: round-off, and in 1500 steps Adam's v changes by {EXACT / 10:g} of itself; the"
    " largest error of all schedules, λ and perturbed gradients is measured"
)


def _of_weights(found: dict[tuple[str, str, str], GradientWeights]) -> Iterator[Verdict]:
    """Whether gradients count as derived, for each direction and decay."""
    for direction, (_, modes, _) in DIRECTIONS.items():
        for mode in modes:
            errors = [each.error for (d, m, _), each in found.items() if (d, m) == (direction, mode)]
            yield judge(
                f"{direction}, {mode}",
                f"Under {direction} with {mode} decay each gradient counts in torch's final weights as derived",
                predicted=0.0,
                measured=max(errors),
                allowed=EXACT,
                why=WHY_EXACT,
            )
    stable = found["heavy ball", "stable", "linear"]
    wrong = stable._replace(derived=found["heavy ball", "L2", "linear"].derived)
    yield must_be_refuted(
        "control: L2 for stable decay",
        judge(
            "",
            "Under heavy ball with stable decay each gradient counts as derived for L2 with the same λ",
            predicted=0.0,
            measured=wrong.error,
            allowed=EXACT,
            why=WHY_EXACT,
        ),
    )


def _of_equal(found: dict[tuple[str, str, str], GradientWeights]) -> Iterator[Verdict]:
    """Whether all updates count the same under the derived schedule, and by how much."""
    for direction, (_, modes, _) in DIRECTIONS.items():
        for mode in modes:
            if (direction, mode, EQUAL) in found:
                yield _spread(found[direction, mode, EQUAL])
    sgd = found["SGD", "decoupled", EQUAL]
    yield judge_relative(
        "equal memory: the weight",
        f"At ληT = {SHOWN:g} each gradient counts with the factor η/(1 + λη(T − 1)), the last learning rate",
        LR / (1 + SHOWN * (1 - 1 / sgd.steps)),
        farthest(sgd.measured[sgd.row(SHOWN)], LR / (1 + SHOWN * (1 - 1 / sgd.steps))),
        EXACT,
        "round-off; the factor farthest from the predicted one is measured",
    )
    linear = _spread(found["SGD", "decoupled", "linear"])
    yield must_be_refuted("control: linear is equal", linear)


def _spread(found: GradientWeights) -> Verdict:
    """The relative spread of updates; with momentum, a gradient has 1 − β^(T−s) of its updates in a run of T steps."""
    passed = np.ones(found.steps)
    if found.direction != "SGD":
        passed = 1 - BETA ** (found.steps - np.arange(found.steps))
    updates = found.measured / passed[found.probed]
    name = f"{found.direction}, {found.mode}: equal"
    claim = (
        f"Under {found.direction} with {found.mode} decay and the schedule of {found.schedule} all updates count the"
        " same"
    )
    spread = float((updates.max(axis=1) / updates.min(axis=1) - 1).max())
    return judge(name, claim, predicted=0.0, measured=spread, allowed=EXACT, why="the largest factor/the smallest − 1")


def _of_shares(found: dict[tuple[str, str, str], GradientWeights]) -> Iterator[Verdict]:
    """Which part of the run SGDW remembers under each schedule, compared with integrals over the run."""
    for schedule in (*SCHEDULES, EQUAL):
        each, integral = found["SGD", "decoupled", schedule], continuous(schedule, SHOWN)
        for part, share in (("last tenth", last_tenth), ("first half", first_half)):
            predicted, seen = float(share(integral)), float(share(each.measured)[each.row(SHOWN)])
            claim = f"At ληT = {SHOWN:g} with the schedule {schedule}, the {part} of the updates has its share"
            yield judge(
                f"{schedule}, {part}",
                claim,
                predicted=predicted,
                measured=seen,
                allowed=0.5 * SHOWN / each.steps,
                why="the integral takes e^−R for 1 − R, and R is ληT/T at most; half of that is allowed",
            )
    linear = found["SGD", "decoupled", "linear"]
    integrals = np.array([float(effective_number(continuous("linear", total))) for total in TOTALS])
    numbers, i = effective_number(linear.measured), int(integrals.argmax())
    claim = (
        f"Decay makes linear-to-zero remember more updates: 3/4 of them without decay, and {100 * integrals[i]:.0f} %"
        f" at ληT = {TOTALS[i]:g}, where the effective number is largest"
    )
    why = "the integral takes e^−R for 1 − R; the largest number of all ληT is measured"
    yield judge_relative("linear, effective number", claim, integrals[i], float(numbers.max()), 0.005, why)
    claim, why = "Of the ληT tried, the memory of linear-to-zero is most even there", "one ληT of those tried"
    yield judge_relative("linear, most even", claim, TOTALS[i], TOTALS[int(numbers.argmax())], 0.0, why)
    claim = "Linear-to-zero remembers the last tenth of the updates as equal memory does"
    share = float(last_tenth(linear.measured)[linear.row(SHOWN)])
    false = judge_relative("", claim, 0.1, share, 0.1, "a tenth of the share")
    yield must_be_refuted("control: the end of linear", false)


def continuous(schedule: str, total: float) -> NDArray:
    """The weights of updates for steps without size: w(x) = η(x)·exp(−∫₀ˣ R) at the age x, on a fine grid of the run.

    R is ληT·η(x)/η_max. The first entry is the oldest update, at x = 1.
    """
    points = 20_000
    x = (np.arange(points) + 0.5) / points
    made = EqualMemory(LR, weight_decay=total / LR) if schedule == EQUAL else SCHEDULES[schedule](1)
    lr = np.array([made(1 - each) for each in x]) / LR
    return (lr * np.exp(-total * np.cumsum(lr) / points))[::-1]


def _of_powers(found: dict[tuple[str, str, str], GradientWeights]) -> Iterator[Verdict]:
    """With which power of λ the memory shortens, between two large ληT."""
    for mode in ("decoupled", "corrected"):
        for schedule in SCHEDULES:
            power = memory_power(schedule, mode)
            lr = "a constant η" if schedule == "constant" else f"the schedule {schedule}"
            claim = f"With {lr} and {mode} decay the mean age of an update changes as λ to the power {power}"
            seen = slope(found["SGD", mode, schedule])
            yield judge(
                f"{schedule}, {mode}: power",
                claim,
                predicted=float(power),
                measured=seen,
                allowed=POWER,
                why=WHY_POWER,
            )
    yield judge(
        "equal memory: power",
        "With the schedule of equal memory the mean age does not depend on λ",
        predicted=0.0,
        measured=slope(found["SGD", "decoupled", EQUAL]),
        allowed=EXACT,
        why="round-off",
    )
    claim = "With the schedule linear the memory is 1/R steps, so that its mean age changes as 1/λ"
    linear = slope(found["SGD", "decoupled", "linear"])
    false = judge("", claim, predicted=-1.0, measured=linear, allowed=POWER, why=WHY_POWER)
    yield must_be_refuted("control: 1/R steps", false)


def draw(found: dict[tuple[str, str, str], GradientWeights]) -> Figure:
    """The weight of each update at one λ, and the mean age of an update over λ, under each schedule."""
    with house_style():
        figure = Figure(figsize=(8.6, 4.3))
        left, right = figure.subplots(1, 2)
        _draw_weights(left, found)
        _draw_ages(right, found)
        figure.suptitle(
            "Weights remember the updates of 1/R steps only if the learning rate is constant:\n"
            "if it falls to 0 linearly and λ is large, four times the λ only halves this memory",
            x=0.01,
            ha="left",
        )
    return figure


# Of each schedule: its dashes, and where its name stands in the left panel, from which side.
DRAWN: dict[str, tuple[Any, tuple[float, float, str]]] = {
    "constant": ("-", (0.83, 2.75, "right")),
    "linear": ((0, (5, 2)), (0.50, 1.2, "left")),
    "cosine": ((0, (1.5, 1.5)), (0.39, 1.75, "right")),
    EQUAL: ((0, (6, 2, 1, 2)), (0.01, 1.07, "left")),
}
POINTS = 26  # of a curve in the left panel
FINE = 600  # steps of the runs for which the lines of the right panel are derived
NEXT_TO = {("corrected", "linear"): 9, ("decoupled", "cosine"): -6}  # points by which a name is moved up


def _draw_weights(axes: Axes, found: dict[tuple[str, str, str], GradientWeights]) -> None:
    colour = COLOURS["decoupled"]
    for schedule, (dashes, (left, low, side)) in DRAWN.items():
        each = found["SGD", "decoupled", schedule]
        row, x = each.row(SHOWN), (each.probed + 0.5) / each.steps
        mean = each.derived[row].mean()
        axes.plot(x, each.derived[row] / mean, color=colour, linestyle=dashes)
        some = np.linspace(0, each.steps - 1, POINTS).astype(int)
        axes.plot(x[some], each.measured[row][some] / mean, **measured("decoupled", label=None, markersize=3.5))
        axes.text(left, low, schedule, color=colour, fontsize=9, fontweight="bold", ha=side)
    axes.axvspan(0.9, 1, color=MUTED, alpha=0.18, linewidth=0)
    axes.text(0.95, 2.3, "last tenth", ha="center", va="center", fontsize=9, color="#555555", rotation=90)
    axes.set(
        xlim=(0, 1),
        ylim=(0, 3.4),
        xlabel="when the step was taken, as a part of the run",
        ylabel="how much an update counts, mean = 1",
    )
    axes.set_title(f"what SGDW's final weights remember at ληT = {SHOWN:g}")


def _draw_ages(axes: Axes, found: dict[tuple[str, str, str], GradientWeights]) -> None:
    totals = np.geomspace(TOTALS[0], TOTALS[-1], 25)
    for mode, schedule in [("decoupled", schedule) for schedule in DRAWN] + [("corrected", "linear")]:
        case = Case("SGD", mode, schedule, FINE)
        ages = [float(mean_age(gradient_weights(case.rule(total), FINE))) for total in totals]
        axes.plot(totals, ages, color=COLOURS[mode], linestyle=DRAWN[schedule][0])
        ends = mean_age(found["SGD", mode, schedule].measured)
        axes.plot(TOTALS, ends, **measured(mode, label=None, markersize=4.5))
        power = "" if schedule == EQUAL else _power(memory_power(schedule, mode))
        text = f"{schedule}{', SGDC' if mode == 'corrected' else ''}{power}"
        offset = {"xytext": (7, NEXT_TO.get((mode, schedule), 0)), "textcoords": "offset points", "va": "center"}
        axes.annotate(text, (TOTALS[-1], ends[-1]), **offset, color=COLOURS[mode], annotation_clip=False, fontsize=9)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="ληT, the sum of R at constant η",
        ylabel="mean age of an update, part of the run",
    )
    axes.set_xlim(0.08, 2500)
    axes.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
    axes.minorticks_off()
    axes.set_title("how old the remembered updates are, on average")
    keys = {"decoupled": "SGDW, decoupled decay", "corrected": "SGDC, corrected decay"}
    looks = [measured(mode, label=label, markersize=4.5, linestyle="-") for mode, label in keys.items()]
    axes.legend(handles=[Line2D([], [], **look) for look in looks], loc="lower left")


def _power(power: sympy.Rational) -> str:
    return f": ∝ λ$^{{{power}}}$".replace("-", "−")


def slope(found: GradientWeights) -> float:
    """d log(mean age)/d log λ between the two ληT of STEEP."""
    low, high = (float(mean_age(found.measured)[found.row(total)]) for total in STEEP)
    return float(np.log(high / low) / np.log(STEEP[1] / STEEP[0]))


STUDY = Study("memory-of-updates", CLAIM, SOURCE, measure, draw, CAPTION)
