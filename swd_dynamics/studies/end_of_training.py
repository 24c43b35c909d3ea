"""Study: why the gradient of a normalised layer grows at the end of training, and which decay keeps it from growing."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from swd_dynamics.plots import COLOURS, MUTED, house_style, measured, theory
from swd_dynamics.rules.schedule import Cosine
from swd_dynamics.studies.gradient_ratio import BINS, FROM, WEIGHTS, RatioCourse, digits_course, noise_course
from swd_dynamics.studies.judging import farthest, judge_curve, judge_relative
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.verdict import Verdict, judge_at_least, must_be_refuted

CLAIM = (
    "In a normalised layer a falling learning rate shortens the weights, so that ‖g‖/‖θ‖ rises at the end of"
    " training with SGDW, SGDS, AdamW and AdamS. Where η is small, its equilibrium rises as η^(−1/2) with SGDW and"
    " SGDS, as η^(−1) with"
    " AdamW, and still as η^(−2/3) with AdamS, and the runs lag behind it, as derived. Stable decay weakens Adam's rise"
    " and does not remove it; corrected decay (AdamC) does. At the very end the rise stops, because R has become too"
    " small for the weights to follow. In the same network without normalisation ‖g‖/‖θ‖ changes by less than a third."
)
SOURCE = (
    "2506.02285 (Defazio 2025): only normalised layers have the rise, and AdamC removes it; in contrast to 2011.11152,"
    " where decay makes the last gradients large in any network. The laws with momentum, of AdamW and of AdamS, and the"
    " end of the rise are derived here"
)
CAPTION = (
    "All learning rates fall to 0 along half a cosine. Left: layers of noise, in which the norm Γ of the gradient at"
    " ‖θ‖ = 1 is constant. Solid lines: the covariance of the derived linear map, integrated through the schedule."
    " Dotted (AdamC: in black): the equilibrium of the current η, which the weights, except with AdamC, no longer"
    " reach at the end. So AdamS, whose equilibrium rises more, ends with the same rise as SGDW at these λ (3.7"
    " times). The powers of η at the dotted lines hold for small η. So AdamC falls by a tenth on the left, although"
    " its equilibrium is constant for small η: at a quarter of the run this equilibrium is 13 % higher than at the"
    " end, because R is not small compared with 1−β₁ there. Right: the first layer of a network that learns digits in"
    " minibatches of 8, with weights that are normalised (filled; lines: the law with the layer's own Γ) and with"
    " weights that are not (open), whose ratio changes by 5 % under AdamW and AdamS and by 28 % under SGDW, where 30"
    " % are allowed. Under AdamC the ratio falls as Γ does, since the network learns. ‖g‖ is that of the minibatch.\n\n"
    "Without normalisation the decay sets how large the gradient is in the end, as the study gradient-norm shows, but"
    " a falling η changes it little. Also tested, but not drawn: SGDS, which is SGDW with another unit of λ, and the"
    " network with a readout that is trained too. No verdict fits a power of η to a run: those of the equilibrium are"
    " derived, and what is tested in noise are the course and the rise, 3.7-fold with SGDW, 8.1-fold with AdamW and"
    " 3.7-fold with AdamS. The allowed errors were set after pilot runs. The claim was narrowed when the results were"
    " known: to Adam's rise, because SGDW changes by 28 % without normalisation, from powers of η in runs to those of"
    " the equilibrium, and to small η. An earlier caption said that AdamC had not come to its equilibrium at a quarter;"
    " its weights are within 1 % of it."
)

SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}
ADAM: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99)}
# In noise, λ such that R ≈ .02 at the largest η: then ΣR is 40 over the run. With half of it, the rise is half as high.
IN_NOISE = {
    "SGDW": SGD | {"weight_decay": 0.2},
    "SGDS": SGD | {"weight_decay": 0.02},
    "AdamW": ADAM | {"weight_decay": 2.0},
    "AdamS": ADAM | {"weight_decay": 0.2},
    "AdamC": ADAM | {"weight_decay": 2.0, "lr_max": ADAM["lr"]},
}
ON_DIGITS = {
    "SGDW": SGD | {"weight_decay": 0.1},
    "AdamW": ADAM | {"weight_decay": 1.0},
    "AdamS": ADAM | {"weight_decay": 0.03},
    "AdamC": ADAM | {"weight_decay": 1.0, "lr_max": ADAM["lr"]},
}
DECAYING = ("SGDW", "AdamW", "AdamS")  # whose R/η does not fall with η
# The relative errors allowed, set after pilot runs. A bin of the short form has 25 steps, four layers and 512 weights,
# and the norm forgets its fluctuations in 25 steps only: sampling takes 1 %. v fluctuates by 10 % at β₂ = .99, which
# changes the mean of 1/√v and with it the ratio by up to 1 %. On digits twice the tenth by which the study
# `equilibrium` lets the norm be off, because the ratio has the square of the norm.
CHANGE = 0.3  # of ‖g‖/‖θ‖ from a quarter of a run on digits to its end: less is no rise, more is a rise
ALLOWED = {"SGD": 0.02, "Adam": 0.05, "digits": 0.2}


class Courses(NamedTuple):
    """The courses in noise, and on digits by seed: with normalisation, and without; all by the name of the method."""

    noise: dict[str, RatioCourse]
    normalised: dict[str, list[RatioCourse]]
    plain: dict[str, list[RatioCourse]]


def measure(setting: Setting) -> Findings:
    """Train layers of noise and networks on digits along a cosine."""
    steps, seeds = (1000, 1) if setting.quick else (4000, 3)
    noise = {
        name: noise_course(Method(name, arguments), 4 if setting.quick else 16, steps)
        for name, arguments in setting.track(IN_NOISE.items(), "end-of-training in noise")
    }
    methods = [Method(name, arguments) for name, arguments in ON_DIGITS.items()]
    normalised, plain = (
        {
            method.name: [digits_course(method, steps, seed, is_normalised) for seed in range(seeds)]
            for method in setting.track(methods, "end-of-training on digits")
            if is_normalised or method.name in DECAYING
        }
        for is_normalised in (True, False)
    )
    whole = [
        digits_course(Method("AdamW", ON_DIGITS["AdamW"]), steps, seed=0, is_normalised=each, trains_readout=True)
        for each in (True, False)
    ]
    found = Courses(noise, normalised, plain)
    return Findings([*_in_noise(found.noise), *_on_digits(found, whole), *_controls(found)], found)


# The verdicts


def _in_noise(found: dict[str, RatioCourse]) -> Iterator[Verdict]:
    for name, course in found.items():
        kind = name[: 4 if name.startswith("Adam") else 3]
        yield _follows(
            f"{name}: course", f"In layers of noise ‖g‖/‖θ‖ under {name} is the integrated one", course, kind
        )
        claim = f"From a quarter of the run to its end ‖g‖/‖θ‖ under {name} changes by the factor of the integrated law"
        why = f"relative {2 * ALLOWED[kind]:g}, twice the error that is allowed for each of both values"
        yield judge_relative(f"{name}: rise", claim, course.foreseen, course.rise, 2 * ALLOWED[kind], why)


WHY = {
    "SGD": "relative .02: sampling in the short form takes 1 %",
    "Adam": "relative .05: sampling takes 1 %, and the fluctuation of v up to 1 %, both in the square of the norm",
    "digits": "relative .2: twice what the norm may be off in the study equilibrium, because ‖θ‖² enters",
}


def _follows(name: str, claim: str, course: RatioCourse, kind: str) -> Verdict:
    return judge_curve(name, claim, course.law[FROM:], course.seen[FROM:], ALLOWED[kind], WHY[kind])


def _on_digits(found: Courses, whole: list[RatioCourse]) -> Iterator[Verdict]:
    for name, courses in found.normalised.items():
        claim = f"A normalised layer that {name} trains on digits has the ‖g‖/‖θ‖ of the law with its own Γ"
        yield max((_follows(f"digits, {name}", claim, each, "digits") for each in courses), key=lambda v: v.measured)
    for name in DECAYING:
        yield _rises(f"digits, {name}: rises", f"With normalisation ‖g‖/‖θ‖ rises under {name}", found.normalised[name])
        claim = f"In the same network without normalisation ‖g‖/‖θ‖ does not change by a third under {name}"
        yield _rises_not(f"digits, {name}, not normalised", claim, found.plain[name])
    claim = "Under AdamC ‖g‖/‖θ‖ of the normalised layer does not change by a third"
    yield _rises_not("digits, AdamC: no rise", claim, found.normalised["AdamC"])
    normalised, plain = whole
    claim = "With a readout that AdamW trains too, ‖g‖/‖θ‖ of the normalised layer rises"
    yield _rises("all weights: rises", claim, [normalised])
    claim = "With a readout that AdamW trains too, ‖g‖/‖θ‖ does not change by a third without normalisation"
    yield _rises_not("all weights, not normalised", claim, [plain])


def _rises(name: str, claim: str, courses: list[RatioCourse]) -> Verdict:
    why = "the last fortieth of a run divided by the one at a quarter, the least of all seeds; set after pilot runs"
    return judge_at_least(name, claim, least=1 + CHANGE, measured=min(each.rise for each in courses), why=why)


def _rises_not(name: str, claim: str, courses: list[RatioCourse]) -> Verdict:
    why = f"relative {CHANGE:g}: batches differ, and less noise in θ changes the gradient; the farthest of all seeds"
    return judge_relative(name, claim, 1.0, farthest([each.rise for each in courses], 1.0), CHANGE, why)


def _controls(found: Courses) -> Iterator[Verdict]:
    """The negative controls: no lag, the law of another optimizer, and the law where nothing is normalised."""
    adamw, adams, sgdw = (found.noise[name] for name in ("AdamW", "AdamS", "SGDW"))
    claim = "The weights are at the equilibrium of the current η until the end"
    yield must_be_refuted("control: no lag", _follows("", claim, adamw._replace(law=adamw.rest), "Adam"))
    claim = "Stable decay keeps ‖g‖/‖θ‖ of a normalised layer where it is"
    why = "relative .05"
    yield must_be_refuted("control: AdamS as AdamC", judge_relative("", claim, 1.0, adams.rise, ALLOWED["Adam"], why))
    claim = "Under AdamW ‖g‖/‖θ‖ rises by the factor of SGDW, whose R is the same"
    yield must_be_refuted(
        "control: AdamW as SGDW", judge_relative("", claim, sgdw.foreseen, adamw.rise, ALLOWED["Adam"], why)
    )
    lr, decay = SGD["lr"], IN_NOISE["SGDW"]["weight_decay"]
    claim = "With momentum too ‖g‖/‖θ‖ is √(2λ/η) at the equilibrium, here a quarter of the run after its start"
    start = float(np.sqrt(2 * decay / Cosine(lr, BINS)(FROM)))
    yield must_be_refuted(
        "control: √(2λ/η) with momentum", judge_relative("", claim, start, float(sgdw.seen[FROM]), 0.1, "relative .1")
    )
    claim = "A layer that is not normalised has the ‖g‖/‖θ‖ of the law of a normalised layer"
    yield must_be_refuted("control: not normalised", _follows("", claim, found.plain["AdamW"][0], "digits"))


# The figure

TITLE = (
    "As η falls to 0, ‖g‖/‖θ‖ of a normalised layer rises under SGDW, AdamS and, most, AdamW, but not\n"
    "under AdamC. In the same network without normalisation it changes by less than a third"
)
SHOWN = ("AdamW", "AdamS", "SGDW", "AdamC")
TIMES = ((np.arange(BINS) + 0.5) / BINS)[FROM:]
EVERY = slice(None, None, 2)  # of the points
HIGHEST = 18.0  # of the left panel: twice the last value of AdamW, at which the equilibria are apart from each other
SHIFT = {"AdamW": -18, "AdamS": -11, "SGDW": 14}  # in points, of the name of an equilibrium: closer, the names overlap


def draw(found: Courses) -> Figure:
    """‖g‖/‖θ‖ along the run: in layers of noise, and on digits with and without normalisation."""
    with house_style():
        figure = Figure(figsize=(9.2, 4.6))
        noise, real = figure.subplots(1, 2)
        _draw_noise(noise, found.noise)
        _draw_digits(real, found)
        for axes in (noise, real):
            axes.set(yscale="log", xlabel="fraction of the run (at 1 the learning rate η is 0)", xlim=(0.23, 1.02))
            axes.set_xticks([0.25, 0.5, 0.75, 1.0])
            axes.set_yticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"])
            axes.minorticks_off()
        noise.set_ylim(0.6, HIGHEST)
        real.set_ylim(0.5, 8)
        noise.set_ylabel("‖g‖/‖θ‖, relative to its value at 0.25")
        figure.suptitle(TITLE, x=0.01, ha="left")
    return figure


def _draw_course(axes: Axes, name: str, law: NDArray, seen: NDArray, label: str) -> None:
    """Points for the measured ratio, SGD's with circles, and a line for the law."""
    axes.plot(TIMES, law, **theory(Method(name, IN_NOISE[name]).mode, label=None))
    axes.plot(TIMES[EVERY], seen[EVERY], **_points(name, label))


def _points(name: str, label: str | None) -> dict[str, Any]:
    look = measured(Method(name, IN_NOISE[name]).mode, label=label)
    return look if name.startswith("Adam") else look | {"marker": "o"}


def _draw_noise(axes: Axes, found: dict[str, RatioCourse]) -> None:
    for name in SHOWN:
        course = found[name]
        law, seen, rest = (each[FROM:] / course.seen[FROM] for each in (course.law, course.seen, course.rest))
        _draw_course(axes, name, law, seen, name)
        _draw_equilibrium(axes, name, rest, course.power)
    axes.set_title(f"layers of noise, {WEIGHTS} weights")
    axes.plot([], [], ":", color=MUTED, label="equilibrium of the current η")
    axes.plot([], [], color=MUTED, label="derived for the falling η")
    axes.legend(loc="upper left")


def _draw_equilibrium(axes: Axes, name: str, rest: NDArray, power: float) -> None:
    """A dotted line under that of the law; for AdamC, whose two lines nearly coincide, a black one on top.

    Above it is the power of η, where the line leaves the panel.
    """
    if not power:
        axes.plot(TIMES, rest, ":", color="black", linewidth=1.3, zorder=2.5)
        axes.text(0.98, 0.85 * rest[-1], f"{name} (black dots): constant for small η", ha="right", va="top", fontsize=8)
        return
    colour = COLOURS[Method(name, IN_NOISE[name]).mode]
    axes.plot(TIMES, rest, ":", color=colour, linewidth=1.3, zorder=1)
    exponent = str(Fraction(power).limit_denominator(4)).replace("-", "−")
    leaves = float(np.interp(np.log(HIGHEST), np.log(rest), TIMES))
    said = f"{name}\n" + rf"$\propto\eta^{{{exponent}}}$"
    axes.annotate(
        said,
        (leaves, HIGHEST),
        (SHIFT[name], 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
        color=colour,
    )


def _draw_digits(axes: Axes, found: Courses) -> None:
    for name in SHOWN:
        courses = found.normalised[name]
        law, seen = _middle([each.law for each in courses], courses), _middle([each.seen for each in courses], courses)
        _draw_course(axes, name, law, seen, name)
        if courses := found.plain.get(name, []):
            size = {"AdamW": 8, "SGDW": 6}.get(name, 4)  # the points of AdamW and AdamS coincide
            look = _points(name, None) | {"markerfacecolor": "white", "markersize": size}
            axes.plot(TIMES[EVERY], _middle([each.seen for each in courses], courses)[EVERY], **look)
    axes.set_title(f"a layer that learns digits, mean of {len(found.plain['AdamW'])} runs")
    kinds = {"normalised (lines: derived)": {}, "not normalised": {"markerfacecolor": "white"}}
    keys = [
        Line2D([], [], color=MUTED, marker="o", linestyle="none", label=said, **look) for said, look in kinds.items()
    ]
    axes.legend(handles=keys, loc="upper left", title="shapes and colours as on the left", alignment="left")


def _middle(values: list[NDArray], courses: list[RatioCourse]) -> NDArray:
    """The geometric mean over the seeds of ratios, relative to what is measured at a quarter of the run."""
    return np.exp(np.mean([np.log(each / own.seen[FROM])[FROM:] for each, own in zip(values, courses, strict=True)], 0))


STUDY = Study("end-of-training", CLAIM, SOURCE, measure, draw, CAPTION)
