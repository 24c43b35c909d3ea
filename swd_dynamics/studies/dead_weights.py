"""Study: how fast decay removes weights that get no gradient, as those of pixels without ink, and what λ does there."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch.nn import functional

from swd_dynamics.plots import COLOURS, LABELS, MUTED, house_style, measured, theory
from swd_dynamics.rules import CATALOG
from swd_dynamics.studies.half_lives import (
    half_life,
    largest_root,
    long_run_half_life,
    with_gradients,
    without_gradient,
)
from swd_dynamics.studies.judging import farthest, judge_curve, judge_relative
from swd_dynamics.studies.linear_map import crossing
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.training import train
from swd_dynamics.symbolic import long_run_decay_rate
from swd_dynamics.tasks import Task, tanh_network
from swd_dynamics.tasks.digits import PIXELS, digits
from swd_dynamics.tasks.text import corpus
from swd_dynamics.verdict import Verdict, judge, judge_at_least, must_be_refuted

CLAIM = (
    "With Adam and L2, λ does not matter for a weight that gets no gradient, because Adam divides λθ by its own size:"
    " any λ from 1e-5 to 1 halves it in the same number of steps, a little more than |θ|/(2η), while AdamW, AdamS and"
    " SGD take a time proportional to 1/λ, up to λ = 0.02. λ matters only below ε/|θ|, where Adam's ε takes over, and"
    " above 2ε(1 + β₁)/(η(1 − β₁)): there a weight that has vanished returns, once its second moment has faded too."
)
SOURCE = "derived here from the steps of the rules without gradient, and from their linear map with √v = 0"
CAPTION = (
    "Left: steps until half of a weight is left, in a tanh network on digits, for a weight of a pixel that is never"
    " inked; η = 0.001 for Adam and 0.1 for SGD. Lines: the rule without gradient; for AdamS the rule with the"
    " gradients of all weights of the run, since its R has the mean of v over all of them. Filled points: reached in"
    " the run. Open points: not reached, and extrapolated from its second half. Adam with L2 takes 69 steps,"
    " 1.1·|θ|/(2η), because √v also remembers the first, larger λθ, so that the steps are a little smaller than η."
    " SGD with L2 and SGDS coincide up to λ = 0.02, beyond which L2 with momentum oscillates and is slower than"
    " proportional to 1/λ. Right: a weight that trains alone, without gradient, with η = 0.001 and a shorter memory"
    " of v than torch's default (the lines are measured). Of the two λ nearest to 3.8e-4, the derived number, the"
    " smaller does not return in these 3000 steps, and the larger does.\n\n"
    "It returns in bursts: its second moment fades until the step is unstable, the weight grows, and so does its"
    " second moment. Also tested, but not drawn: rows of an embedding for letters that never occur, with six adaptive"
    " optimizers. The allowed errors of ε and of these rows were set after pilot runs, in which RMSprop's rows had"
    " differed by 25 % between λ = 1e-6 and 0.1. The smaller of the two λ was then raised to 1e-5. The runs have one"
    " seed, which is that of the pilot runs. The claim said “about |θ|/(2η)” and “proportional to 1/λ” without an end"
    " at first; the measured numbers are the same."
)

SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}
ADAM: dict[str, Any] = {"lr": 1e-3}
ARGUMENTS = {
    name: ADAM if name.startswith("Adam") else SGD for name in ("SGD", "SGDW", "SGDS", "Adam", "AdamW", "AdamS")
}
LOW, HIGH, LOWEST = -6.0, 0.0, -10.0  # exponents of λ; the last is the lowest one of Adam
IMAGES, HIDDEN = 500, 16
ADAPTIVE = ("Adam", "AMSGrad", "RMSprop", "Adagrad", "Adamax", "NAdam")  # whose torch optimizers have L2
EQUAL = (1e-5, 1e-1)  # the λ at which they are compared
BURSTS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8}
BURST_STEPS = 3000
SHOWN = (EQUAL[0], 3.6e-4, 4e-4, EQUAL[1])  # λ in the figure: the two in the middle are near to that which is derived
ROUND_OFF = 1e-6  # relative: the logarithm of 1 − R·k loses nine digits at R = 1e-9
LONG_RUN = 1e-3  # relative: what is left of the start of L2 with momentum after 75 steps, β^75 = 4e-4


class HalfLives(NamedTuple):
    """Steps until half of a weight is left, by rule and in the run, and whether the run came to that.

    decays : array, shape (decays,) — λ
    start : array, shape (weights,) — |θ| before the first step
    predicted, seen, reached : arrays, shape (decays, weights)
    turned : array of bool, shape (decays,) — whether a weight changed its sign
    """

    decays: NDArray
    start: NDArray
    predicted: NDArray
    seen: NDArray
    reached: NDArray
    turned: NDArray

    @property
    def largest(self) -> int:
        """The place of the weight that is largest before the first step."""
        return int(self.start.argmax())


class DeadWeights(NamedTuple):
    """The half-lives by method, and |θ| of one weight under Adam in the long run, by λ."""

    lives: dict[str, HalfLives]
    courses: dict[float, NDArray]


def measure(setting: Setting) -> Findings:
    """Train on digits with each decay and λ, then a vocabulary with letters to spare, then a weight alone."""
    lives = {name: half_lives(name, setting) for name in setting.track(ARGUMENTS, "dead-weights on digits")}
    courses = dict(zip(SHOWN, alone(np.array(SHOWN)).T, strict=True))
    verdicts = [
        *_as_by_rule(lives),
        *_laws(lives),
        *_equal(lives["Adam"]),
        *_without_occurrence(setting),
        *_bursts(courses, 5 if setting.quick else 15),
        *_controls(lives),
    ]
    return Findings(verdicts, DeadWeights(lives, courses))


# The theory


def burst_decay() -> float:
    """λ above which a weight that has vanished returns: there |eigenvalue| = 1 where its second moment has faded."""
    rule = CATALOG["Adam"]
    exponent = crossing(lambda x: 1 - largest_root(rule(**BURSTS, weight_decay=10.0**x)), LOW, HIGH)
    return 10.0**exponent


# The runs


def network() -> Task:
    """A tanh network on the first images of the digits, in which some pixels are never inked."""
    return tanh_network((HIDDEN,), samples=IMAGES, batch_size=50)


def unheard() -> NDArray:
    """The places in θ of the weights of pixels that are 0 in all images: their gradient is exactly 0."""
    weights = np.arange(HIDDEN * PIXELS).reshape(HIDDEN, PIXELS)
    return weights[:, (digits(IMAGES)[0] == 0).all(axis=0)].ravel()


def trained_path(method: Method, task: Task, steps: int) -> tuple[NDArray, NDArray]:
    """θ before each step and after the last, shape (steps + 1, n), and the gradients, shape (steps, n)."""
    parameters = list(task.model.parameters())
    optimizer, path, gradients = method.optimizer(parameters), [task.theta], []
    for _ in train(optimizer, task.loss, steps):
        path.append(task.theta)
        gradients.append(torch.cat([torch.as_tensor(p.grad).ravel() for p in parameters]).numpy(force=True))
    return np.array(path), np.array(gradients)


def half_lives(name: str, setting: Setting) -> HalfLives:
    """The half-lives of a method for each λ."""
    steps, apart = (150, 1.0) if setting.quick else (400, 0.5)
    decays = 10.0 ** np.arange(LOWEST if name == "Adam" else LOW, HIGH + 0.01, apart)
    rows = []
    for decay in decays:
        method, task = Method(name, ARGUMENTS[name] | {"weight_decay": decay}), network()
        dead = unheard()
        path, gradients = trained_path(method, task, steps)
        if name == "AdamS":
            foreseen = with_gradients(method.rule(), path[0], gradients)[:, dead]
        else:
            foreseen = without_gradient(method.rule(), path[0, dead], steps)
        turned = (path[:, dead] * path[0, dead] < 0).any()
        rows.append((half_life(foreseen)[0], *half_life(path[:, dead]), turned))
    return HalfLives(decays, np.abs(path[0, dead]), *map(np.array, zip(*rows, strict=True)))


def spare_letters(name: str, decay: float, steps: int) -> NDArray:
    """The weights of letters that never occur, in an embedding of 128 letters that learns to predict the next one."""
    alphabet, text, _ = corpus()
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(128, 8, generator=generator, dtype=torch.float64).requires_grad_()
    readout = (torch.randn(8, len(alphabet), generator=generator, dtype=torch.float64) / 8**0.5).requires_grad_()
    optimizer = Method(name, {"lr": 1e-2, "weight_decay": decay}).optimizer([embedding, readout])

    def loss(_) -> torch.Tensor:
        at = torch.randint(len(text) - 1, (64,), generator=generator)
        return functional.cross_entropy(functional.embedding(text[at], embedding) @ readout, text[at + 1])

    path = [embedding[len(alphabet) :].detach().flatten().clone()]
    path += [embedding[len(alphabet) :].detach().flatten().clone() for _ in train(optimizer, loss, steps)]
    return torch.stack(path).numpy()


def alone(decays: NDArray, start: float = 0.1) -> NDArray:
    """|θ| of weights without gradient under torch.optim.Adam, each with its own λ. Shape (BURST_STEPS + 1, decays)."""
    weights = [torch.full((1,), start, dtype=torch.float64, requires_grad=True) for _ in decays]
    groups = [{"params": [each], "weight_decay": float(decay)} for each, decay in zip(weights, decays, strict=True)]
    optimizer = torch.optim.Adam(groups, **BURSTS)
    path = [[start] * len(weights)]
    path += [
        [abs(w.item()) for w in weights] for _ in train(optimizer, lambda _: 0 * torch.cat(weights).sum(), BURST_STEPS)
    ]
    return np.array(path)


# The verdicts


def _as_by_rule(lives: dict[str, HalfLives]) -> Iterator[Verdict]:
    for name, found in lives.items():
        claim = (
            f"Weights of pixels without ink under {name} have the half-lives of the rule without gradient, for all λ"
        )
        if name == "AdamS":
            claim = "Weights of pixels without ink under AdamS have the half-lives of the rule with the v̄ of the run"
        verdict = judge_curve(
            f"{name}: half-life", claim, found.predicted, found.seen, ROUND_OFF, "relative; round-off"
        )
        yield verdict


def _laws(lives: dict[str, HalfLives]) -> Iterator[Verdict]:
    """The half-lives by the derived R, of the runs that are too short to see the half."""
    for name in ("SGD", "SGDW", "SGDS", "AdamW"):
        found = lives[name]
        slow = ~found.reached.any(axis=1) & ~found.turned
        laws = [
            long_run_half_life(Method(name, ARGUMENTS[name] | {"weight_decay": decay}).rule())
            for decay in found.decays[slow]
        ]
        why = "relative 1e-3: what momentum has not yet forgotten" if name == "SGD" else "relative; round-off"
        claim = f"Where the decay of {name} is slow, the half-life is ln 2/−ln(1 − R) with the derived R"
        allowed = LONG_RUN if name == "SGD" else ROUND_OFF
        yield judge_curve(f"{name}: R", claim, np.array(laws)[:, None], found.seen[slow], allowed, why)
    sgd = lives["SGD"]
    rules = [Method("SGD", SGD | {"weight_decay": decay}).rule() for decay in sgd.decays]
    complex_ = np.array([not long_run_decay_rate(rule).value.is_real for rule in rules])
    claim = "With L2 and momentum a weight changes its sign exactly with those λ for which R is complex"
    wrong = int((complex_ != sgd.turned).sum())
    yield judge("SGD: oscillates", claim, predicted=0, measured=wrong, allowed=0, why="a count of λ")


def _equal(adam: HalfLives) -> Iterator[Verdict]:
    seen = adam.seen[:, adam.largest]
    same = seen[adam.decays > 9e-6]
    claim = (
        "Under Adam with L2 the largest of these weights has one half-life for all λ from 1e-5 to 1 (largest/smallest)"
    )
    why = "relative .02, where ε is a hundredth of λθ"
    yield judge_relative("Adam: one half-life", claim, 1.0, float(same.max() / same.min()), 0.02, why)
    rule = Method("Adam", ADAM | {"weight_decay": adam.decays[0]}).rule()
    foreseen = -np.log(2) / np.log(largest_root(rule))
    claim = (
        f"At λ = {adam.decays[0]:g} the half-life is that of the linear map with √v = 0, where ε is all that divides"
    )
    why = "relative .01: √v is up to a thousandth of ε, and momentum remembers ten steps"
    yield judge_relative("Adam: only ε", claim, float(foreseen), float(seen[0]), 0.01, why)
    claim = "The λ where ε takes over: the half-lives for small λ, continued as 1/λ, meet that for large λ"
    law, fast = foreseen * adam.decays[0], adam.predicted[-1, adam.largest]
    where = float(seen[0] * adam.decays[0] / seen[-1])
    yield judge_relative("Adam: ε takes over", claim, float(law / fast), where, 0.01, why)


def _without_occurrence(setting: Setting) -> Iterator[Verdict]:
    """The λ that do not matter, for letters that never occur and six adaptive optimizers."""
    steps = 150 if setting.quick else 400
    for name in setting.track(ADAPTIVE, "dead-weights of letters"):
        paths = [spare_letters(name, decay, steps) for decay in EQUAL]
        few, many = (half_life(path[:, np.abs(path[0]) > 0.5])[0] for path in paths)
        claim = f"Under {name} with L2, rows of letters that never occur have one half-life at λ = 1e-5 and at λ = 0.1"
        why = "relative .05: ε is up to a fiftieth of √v; the ratio that is farthest from 1, of weights above ½"
        yield judge_relative(f"letters, {name}", claim, 1.0, farthest(few / many, 1.0), 0.05, why)


def _bursts(courses: dict[float, NDArray], count: int) -> Iterator[Verdict]:
    tried = np.geomspace(2e-4, 8e-4, count)
    returned = _returned(alone(tried).T)
    seen = np.sqrt(tried[~returned].max() * tried[returned].min()) if 0 < returned.sum() < count else np.nan
    claim = "The smallest λ with which a weight that has vanished under Adam returns, because √v has faded too"
    why = f"half of a step of the grid of {count} λ"
    yield judge_relative("bursts: λ", claim, burst_decay(), float(seen), (tried[1] / tried[0]) ** 0.5 - 1, why)
    few, *_, many = courses.values()
    claim = "With λ = 0.1 the weight returns to a hundredth of η or more (largest |θ|/η in the second half)"
    late = many[BURST_STEPS // 2 :].max() / BURSTS["lr"]
    why = "two orders of magnitude below a step of η; before, the weight was below 1e-30"
    yield judge_at_least("bursts: size", claim, least=0.01, measured=float(late), why=why)
    claim = "With λ = 1e-5 the weight does not return (largest |θ|/η in the second half)"
    late = few[BURST_STEPS // 2 :].max() / BURSTS["lr"]
    yield judge("bursts: none", claim, predicted=0.0, measured=float(late), allowed=1e-12, why="far below a step of η")


def _returned(courses: NDArray) -> NDArray:
    """Whether each weight grows again by ten orders of magnitude, from its smallest size. Shape (courses,)."""
    least = courses.argmin(axis=1)
    return np.array(
        [course[k:].max() > 1e10 * max(course[k], 1e-300) for course, k in zip(courses, least, strict=True)]
    )


def _controls(lives: dict[str, HalfLives]) -> Iterator[Verdict]:
    """The negative controls: AdamW's law for L2 and the other way round, v̄ left out, and momentum left out."""
    adam, adamw, adams, sgd = (lives[name] for name in ("Adam", "AdamW", "AdamS", "SGD"))
    seen = adamw.seen[adamw.decays > 9e-6][:, 0]
    claim = "Under AdamW the half-life is one for all λ from 1e-5 to 1 (largest/smallest)"
    one = judge_relative("", claim, 1.0, float(seen.max() / seen.min()), 0.02, "relative .02")
    yield must_be_refuted("control: AdamW as Adam", one)
    claim = "Under Adam with L2 the half-life is that of AdamW with the same λ"
    many = judge_curve("", claim, adamw.seen, adam.seen[-len(adamw.decays) :], 0.1, "relative")
    yield must_be_refuted("control: Adam as AdamW", many)
    claim = "The R of AdamS is ηλ, without v̄"
    yield must_be_refuted("control: AdamS without v̄", judge_curve("", claim, adamw.seen, adams.seen, 0.1, "relative"))
    claim = "The R of L2 with momentum is ηλ"
    slow = ~sgd.reached.any(axis=1)
    wrong = judge_curve("", claim, lives["SGDW"].seen[slow], sgd.seen[slow], 0.1, "relative")
    yield must_be_refuted("control: L2 without momentum", wrong)


# The figure

PALE = "#F2B488"  # a light orange
TITLE = (
    "Adam with L2 halves a weight that gets no gradient in the same time for any λ from 1e-5 to 1.\n"
    "With SGD, AdamW and AdamS ten times the λ halves it in a tenth of the time, up to λ = 0.02"
)


# What the lines and the filling of the points mean, in the key.
SHARED: list[dict[str, Any]] = [
    {"linestyle": "-", "label": "Adam, derived"},
    {"linestyle": "--", "label": "SGD, β = 0.9, derived"},
    {"linestyle": "none", "marker": "o", "label": "torch, half was reached"},
    {"linestyle": "none", "marker": "o", "markerfacecolor": "white", "label": "torch, extrapolated"},
]


def draw(found: DeadWeights) -> Figure:
    """The half-lives over λ by method, and one weight under Adam over the steps."""
    with house_style():
        figure = Figure(figsize=(9.4, 5.0))
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
        _draw_lives(left, found.lives)
        _draw_courses(right, found.courses)
        modes = [Line2D([], [], **measured(mode, label=LABELS[mode])) for mode in ("L2", "decoupled", "stable")]
        shared = [Line2D([], [], color="#444444", **look) for look in SHARED]
        figure.legend(handles=[*modes, *shared], loc="outside lower left", ncols=4, title="left", alignment="left")
        figure.suptitle(TITLE, x=0.01, ha="left")
    return figure


def _draw_lives(axes: Axes, lives: dict[str, HalfLives]) -> None:
    """SGD with broken lines; points open where the half-life is extrapolated."""
    for name, found in lives.items():
        mode, is_adam = Method(name, ARGUMENTS[name]).mode, name.startswith("Adam")
        line, seen = (each[:, found.largest] for each in (found.predicted, found.seen))
        reached = found.reached[:, found.largest]
        axes.plot(found.decays, line, **theory(mode, label=None, linestyle="-" if is_adam else "--", linewidth=1.5))
        look: dict[str, Any] = measured(mode, label=None, markersize=5 if is_adam else 4)
        axes.plot(found.decays[reached], seen[reached], **look)
        look["markerfacecolor"] = "white"
        axes.plot(found.decays[~reached], seen[~reached], **look)
    size = lives["Adam"].start.max()
    axes.axvline(BURSTS["eps"] / size, color=MUTED, linewidth=1, zorder=1)
    axes.text(1.3 * BURSTS["eps"] / size, 2, "λ|θ| is\nAdam's ε", color="#666666", fontsize=9)
    axes.set(xscale="log", yscale="log", xlabel="weight decay λ", ylabel="steps until half of the weight is left")
    axes.set_title(f"a weight from a pixel that is never inked, |θ| = {size:.2f} at first")


def _draw_courses(axes: Axes, courses: dict[float, NDArray]) -> None:
    """Orange what returns, black and grey what does not; thin the smallest and the largest λ."""
    for decay, course in courses.items():
        thin, returns = decay in EQUAL, bool(_returned(course[None])[0])
        colour = ("#222222" if thin else MUTED) if not returns else COLOURS["L2"] if thin else PALE
        label = f"λ = {decay:.1e}".replace("e-0", "e-").replace(".0e", "e")
        axes.plot(course, color=colour, linewidth=1.1 if thin else 2.6, label=label, zorder=2.5 if thin else 2.0)
    axes.axhline(BURSTS["lr"], color=MUTED, linewidth=1, zorder=1)
    axes.text(BURST_STEPS, 4 * BURSTS["lr"], "η", color="#666666", ha="right")
    axes.set(yscale="log", ylim=(1e-60, 1e3), xlabel="step k", ylabel="size of the weight, |θ|")
    axes.set_title(f"torch, Adam with L2, β₂ = 0.99: returns if λ > {burst_decay():.1e}".replace("e-0", "e-"))
    axes.legend(loc="lower left", frameon=True, framealpha=1, edgecolor="none")


STUDY = Study("dead-weights", CLAIM, SOURCE, measure, draw, CAPTION)
