"""Study: each decay comes to rest where its rule says: on quadratics and digits, under noise, in full batch."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.optimize import root
from torch.optim.lr_scheduler import LambdaLR

from swd_dynamics.plots import COLOURS, LABELS, MARKERS, house_style
from swd_dynamics.rules import Adam, UpdateRule
from swd_dynamics.studies.judging import farthest, judge_relative, judge_weights
from swd_dynamics.studies.methods import Method, family
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.training import train
from swd_dynamics.symbolic import fixed_point, modified_equation, notation, numeric_equation
from swd_dynamics.tasks import Task, logistic_regression, quadratic, tanh_network
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "Behind momentum L2 and stable decay rest where ∇L + λθ = 0, decoupled decay where ∇L + (1−β)λθ = 0; "
    "under noise Adam's decays rest where √v says, and in full batch AdamW and AdamS clip the weights."
)
SOURCE = "arXiv 2011.11152 (stable decay), 1711.05101 (AdamW), 2404.04454 (its bound 1/λ); AdamS's bound: derived here"

Array = NDArray[np.float64]

SGD_ARGUMENTS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5}
DIGITS_ARGUMENTS = {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.1}
NOISE_ARGUMENTS = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.5}
BATCH_ARGUMENTS = {"lr": 0.03, "betas": (0.9, 0.95), "weight_decay": 0.5}

# Standard deviations of the gradient noise. The gradients are below 1 (h = θ* = 1), so that √v is the noise.
NOISE = np.array([4.0, 6.0, 10.0, 20.0, 30.0])
COPIES = 1200  # weights for each noise; half as many have √2 times the standard error
BURN_IN = 800  # steps: five correlation times s/(η(h+cλ)) of the slowest weight; half as many leave 8 % of the start
STANDARD_ERRORS = 4.0  # allowed: one false alarm in a thousand comparisons; at 2 there would be one in twenty
LAST_LR = 1e-6  # η at the end of a run of Adam without noise: the weights stay that near the rest point, not nearer


@dataclass(frozen=True)
class Panel:
    """The rest points of each decay mode: the points measured and the line of the theory, each as x and y."""

    points: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    lines: dict[str, tuple[Array, Array]] = field(default_factory=dict)


def measure(setting: Setting) -> Findings:
    """Train to rest in five settings, and draw four of them."""
    panels = {name: Panel() for name in AXES}
    verdicts = []
    for where in setting.track(SETTINGS, "fixed-points"):
        verdicts += SETTINGS[where](setting, panels.get(where, Panel()))
    return Findings(verdicts, panels)


def rest_points(rule: UpdateRule, h: Array, optimum: Array, v: Array | None = None, v_mean: float = 0.0) -> Array:
    """The derived fixed point at each weight's h and θ*; for Adam also at its v, and at the mean of v."""
    rest = fixed_point(rule).value
    second_moment = {symbol.name: symbol for symbol in rest.free_symbols}.get("v", notation.gradient)
    rest = rest.xreplace({notation.mean(second_moment): v_mean})
    symbols = (notation.curvature, notation.theta_star, second_moment)
    rows = zip(h, optimum, np.zeros_like(h) if v is None else v, strict=True)
    return np.array([float(rest.xreplace(dict(zip(symbols, row, strict=True)))) for row in rows])


def decay_coefficient(method: Method) -> float:
    """c, where F₀ ∝ g + cλθ: the rule is at rest where ∇L + cλθ = 0, whatever the loss."""
    flow: Any = modified_equation(method.rule()).first.expand()
    return float(flow.coeff(notation.theta) / flow.coeff(notation.gradient)) / method.arguments["weight_decay"]


def full_batch_rest(rule: UpdateRule, h: Array, optimum: Array) -> Array:
    """The zero of F₀ on a quadratic without noise, where v follows g².

    Where g = 0, F₀ changes its sign over a width of ε. The zero is followed from a large ε, for which F₀ is
    smooth, down to Adam's own. In the end a weight is at its θ*, on this edge, unless decay outweighs the step.
    """
    theta, direction = 0.5 * optimum, cast(Adam, rule.direction)
    for eps in np.geomspace(10.0, direction.eps, 40):
        flow = numeric_equation(replace(rule, direction=replace(direction, eps=float(eps)))).first
        found = root(lambda theta, flow=flow: flow(theta, h * (theta - optimum), ()), theta, tol=1e-12)
        theta = found.x
    if not np.abs(found.fun).max() < 1e-3:  # a sign step is 1
        raise ArithmeticError(f"no rest point of F₀ was found: {found.message}")
    return theta


def _quadratic(setting: Setting, panel: Panel) -> list[Verdict]:
    """Closed forms, reached to round-off."""
    h, optimum = np.geomspace(0.05, 5, 7), np.array([1.0, -2.0, 0.5, 1.0, -0.5, 2.0, -1.0])
    curve = np.geomspace(0.04, 6, 60)
    why = "round-off: an eps a step, forgotten within 1/(1−√β) = 20 steps"
    verdicts, reached, predicted = [], {}, {}
    for method in family("SGD", **SGD_ARGUMENTS):
        name, mode, rule = method.name, method.mode, method.rule()
        task = quadratic(h, optimum, 0.0, device=setting.device)
        reached[name] = _trained(task, method, 600 if setting.quick else 4000)
        predicted[name] = rest_points(rule, h, optimum)
        claim = f"SGD with momentum and {LABELS[mode]} decay rests at the derived fixed point"
        verdicts.append(judge_weights(f"{name}: quadratic", claim, predicted[name], reached[name], 1e-12, why))
        panel.points[mode] = h, reached[name] / optimum
        panel.lines[mode] = curve, rest_points(rule, curve, np.ones_like(curve))
    claim = "With decoupled decay c is 1, not 1−β"
    wrong = judge_weights("", claim, predicted["SGDS"], reached["SGDW"], 1e-12, why)
    return [*verdicts, must_be_refuted("control: SGDW with c = 1", wrong)]


def _logistic(setting: Setting, panel: Panel) -> list[Verdict]:
    """Real images and a convex loss: at rest the gradient balances cλθ, weight by weight."""
    steps, why = 900 if setting.quick else 4000, "e^(−ηλk) leaves no more than 1.5e-8 of the start"
    return _balances(lambda: logistic_regression(device=setting.device), steps, 1e-6, why, panel)


def _network(setting: Setting, panel: Panel) -> list[Verdict]:
    """A loss that is not convex: each decay may find another minimum, but the same balance holds in it."""
    steps, why = 1200 if setting.quick else 8000, "a network creeps along its valleys: not quite at rest"
    return _balances(lambda: tanh_network(samples=200, device=setting.device), steps, 0.05, why, panel)


def _balances(make: Callable[[], Task], steps: int, allowed: float, why: str, panel: Panel) -> list[Verdict]:
    verdicts, unbalanced = [], {}
    for method in family("SGD", **DIGITS_ARGUMENTS):
        task, mode, c = make(), method.mode, decay_coefficient(method)
        theta = _trained(task, method, steps)
        decay, pull = DIGITS_ARGUMENTS["weight_decay"] * theta, -task.gradient(theta)
        unbalanced[method.name] = float(np.linalg.norm(pull - c * decay) / np.linalg.norm(c * decay))
        claim = f"SGD with momentum and {LABELS[mode]} decay rests where ∇L + cλθ = 0 ({task.name}, digits)"
        measured = float(pull @ decay / (decay @ decay))
        verdicts.append(judge_relative(f"{method.name}: c, {task.name}", claim, c, measured, allowed, why))
        panel.points[mode], panel.lines[mode] = (decay, pull), (np.sort(decay), c * np.sort(decay))
    worst = max(unbalanced, key=unbalanced.__getitem__)
    claim = f"At rest ‖∇L + cλθ‖/‖cλθ‖ is 0, each decay with its own c ({task.name}, digits; {worst} has the largest)"
    found = {"predicted": 0.0, "measured": unbalanced[worst], "allowed": allowed}
    return [*verdicts, judge(f"balance, {task.name}", claim, **found, why=why)]


def _noise(setting: Setting, panel: Panel) -> list[Verdict]:
    """Gradient noise of known size s: √v is s, and the prediction contains nothing measured."""
    steps, one, v = 1400 if setting.quick else 12000, np.ones_like(NOISE), NOISE**2
    s = np.geomspace(NOISE[0] / 1.15, NOISE[-1] * 1.15, 60)
    why = f"{STANDARD_ERRORS:g} standard errors, s/((h+cλ)√N) in a long run, and what g² and the finite memory of v add"
    verdicts, scatter = [], []
    for method in family("Adam", **NOISE_ARGUMENTS):
        rule = method.rule()
        copies = _averaged(np.repeat(NOISE, COPIES), method, steps, setting.device).reshape(len(NOISE), COPIES)
        means, predicted = copies.mean(axis=1), rest_points(rule, one, one, v, v.mean())
        error = NOISE * predicted / np.sqrt(COPIES * steps) * _short_run(steps * rule.lr / (NOISE * predicted))
        scatter.append(copies.std(axis=1, ddof=1) / np.sqrt(COPIES) / error)
        allowed = STANDARD_ERRORS * error + _neglected(predicted, NOISE_ARGUMENTS["betas"][1])
        claim = f"{method.name} under gradient noise s ≫ |g| rests at the derived fixed point with √v = s"
        verdicts.append(judge_weights(f"{method.name}: known noise", claim, predicted, means, allowed, why))
        panel.points[method.mode] = NOISE, means
        panel.lines[method.mode] = s, rest_points(rule, np.ones_like(s), np.ones_like(s), s**2, v.mean())
    alike = rest_points(rule, one, one, v, NOISE.mean() ** 2)
    wrong = judge_weights("", "The decay of AdamS is divided by the mean of √v", alike, means, allowed, why)
    return [*verdicts, _standard_error(np.array(scatter)), must_be_refuted("control: AdamS with mean of √v", wrong)]


def _short_run(times: Array) -> Array:
    """The scatter of a mean over so many correlation times, in units of s/((h+cλ)√steps)."""
    return np.sqrt(1 - (1 - np.exp(-times)) / times)


def _neglected(rest: Array, beta2: float) -> Array:
    """The change of the rest point of h = θ* = 1 if √v grows by the fraction g²/2s² + (1−β₂)."""
    return rest * (1 - rest) * ((1 - rest) ** 2 / (2 * NOISE**2) + (1 - beta2))


def _standard_error(scatter: Array) -> Verdict:
    """The verdict on the standard errors that the verdicts above allow."""
    claim = "Copies of a weight scatter as their standard error says (the farthest of 15 conditions)"
    why = f"{STANDARD_ERRORS:g} of its own errors 1/√(2·{COPIES}) = .02"
    return judge("standard error", claim, predicted=1.0, measured=farthest(scatter, 1.0), allowed=0.08, why=why)


def _full_batch(setting: Setting, panel: Panel) -> list[Verdict]:
    """Without noise v follows g²: a step is a sign, and decay wins only where λθ is larger than the step."""
    optimum, curve = np.array([-3.0, -2.5, -1.25, -0.5, 0.5, 1.0, 1.75, 2.75]), np.linspace(-3.2, 3.2, 129)
    verdicts = []
    for method in family("Adam", **BATCH_ARGUMENTS):
        verdict, predicted = _batch_run(setting, "8 weights", method, np.ones(8), optimum)
        verdicts.append(verdict)
        panel.points[method.mode] = optimum, verdict.evidence["measured"]
        bound, slope = np.abs(predicted).max(), 1.0
        if method.mode == "L2":
            bound, slope = np.inf, rest_points(method.rule(), np.ones(1), np.ones(1), np.ones(1), 1.0)[0]
        panel.lines[method.mode] = curve, np.clip(slope * curve, -bound, bound)
    adams = Method("AdamS", BATCH_ARGUMENTS | {"weight_decay": 0.1})
    optimum = np.array([1.0, -2.0, 0.5])
    verdict, _ = _batch_run(setting, "3 curvatures", adams, np.array([1.0, 3.0, 0.1]), optimum)
    reached, allowed = verdict.evidence["measured"], verdict.evidence["allowed"]
    wrong = judge_weights("", "The weights of AdamS in full batch rest at θ*", optimum, reached, allowed, verdict.why)
    return [*verdicts, verdict, must_be_refuted("control: AdamS rests at θ*", wrong)]


def _batch_run(setting: Setting, case: str, method: Method, h: Array, optimum: Array) -> tuple[Verdict, Array]:
    task = quadratic(h, optimum, 0.0, device=setting.device)
    reached = _trained(task, method, 2000 if setting.quick else 12000, LAST_LR)
    predicted = full_batch_rest(method.rule(), h, optimum)
    claim = f"{method.name} in full batch rests where F₀ = 0: at ({', '.join(f'{theta:.4g}' for theta in predicted)})"
    why = "a hundred times the last learning rate: what is left of the chatter of sign steps, and of the approach"
    name = f"{method.name}: full batch, {case}"
    return judge_weights(name, claim, predicted, reached, 100 * LAST_LR, why), predicted


def _trained(task: Task, method: Method, steps: int, last_lr: float | None = None) -> Array:
    """θ after so many steps of the real optimizer; the learning rate falls to ``last_lr`` in the last quarter."""
    optimizer = method.optimizer(task.model.parameters())
    factor = last_lr / method.arguments["lr"] if last_lr else 1.0
    scheduler = LambdaLR(optimizer, lambda k: factor ** max(0.0, 4 * k / steps - 3))
    for _ in train(optimizer, task.loss, steps, scheduler):
        pass
    return task.theta


def _averaged(noise: Array, method: Method, steps: int, device: str) -> Array:
    """θ of h = θ* = 1, averaged over so many steps after the burn-in."""
    task = quadratic(np.ones_like(noise), 1.0, 0.0, noise, device=device)
    (theta,) = task.model.parameters()
    total = torch.zeros_like(theta)
    for k in train(method.optimizer([theta]), task.loss, BURN_IN + steps):
        if k >= BURN_IN:
            total += theta.detach()
    return (total / steps).cpu().numpy()


SETTINGS: dict[str, Callable[[Setting, Panel], list[Verdict]]] = {
    "quadratic": _quadratic, "logistic": _logistic, "network": _network, "noise": _noise, "full_batch": _full_batch,
}  # fmt: skip

AXES: dict[str, dict] = {
    "quadratic": {"title": "SGD, β = {momentum}, on a quadratic, λ = {weight_decay}".format(**SGD_ARGUMENTS)}
    | {"xlabel": "curvature h", "ylabel": "weight at rest, θ/θ*", "ylim": (0, 1.05)}
    | {"xscale": "log", "xticks": (0.1, 1), "xticklabels": ("0.1", "1")},
    "logistic": {"title": "The same on real images: logistic regression, λ = {weight_decay}".format(**DIGITS_ARGUMENTS)}
    | {"xlabel": "λθ at rest (every tenth weight)", "ylabel": "−∂L/∂θ at rest"},
    "noise": {"title": "Adam under gradient noise, h = 1, λ = {weight_decay}".format(**NOISE_ARGUMENTS)}
    | {"xlabel": "standard deviation s of the noise, in units of hθ*", "ylabel": "weight at rest, θ/θ*"}
    | {"ylim": (0, 1.05), "xscale": "log", "xticks": NOISE, "xticklabels": [f"{s:g}" for s in NOISE]},
    "full_batch": {"title": "Adam in full batch, h = 1, λ = {weight_decay}".format(**BATCH_ARGUMENTS)}
    | {"xlabel": "minimum of the loss, θ*", "ylabel": "weight at rest, θ", "ylim": (-2.7, 2.9)},
}
# Position in the panel, decay mode of the colour, and text.
NOTES = {
    "quadratic": [(0.05, 0.84, "decoupled", "SGDW: c = 1−β"), (0.52, 0.42, "L2", "SGD, SGDS: c = 1")],
    "logistic": [(0.72, 0.62, "decoupled", "SGDW: c = 1−β"), (0.24, 0.86, "L2", "SGD, SGDS: c = 1")],
    "noise": [
        (0.05, 0.15, "decoupled", "AdamW: c = s"),
        (0.05, 0.58, "L2", "Adam: c = 1"),
        (0.48, 0.86, "stable", "AdamS: c = s/rms(s)"),
    ],
    "full_batch": [
        (0.65, 0.97, "decoupled", "AdamW: |θ| ≤ 1/λ"),
        (0.62, 0.42, "L2", "Adam: c = 1"),
        (0.03, 0.41, "stable", "AdamS:\n|θ| ≤ rms(g)/λ"),
    ],
}


def draw(panels: dict[str, Panel]) -> Figure:
    """Where the weights rest: theory as lines, real runs as points."""
    with house_style():
        figure = Figure(figsize=(9.6, 8.2))
        for ax, (name, panel) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
            _draw_panel(ax, panel, every=10 if name == "logistic" else 1)
            ax.set(**AXES[name])
            ax.minorticks_off()
            for x, y, mode, text in NOTES[name]:
                ax.text(x, y, text, color=COLOURS[mode], transform=ax.transAxes, va="top")
        keys = [
            Line2D([], [], **_line(mode), **_marker(mode), label=f"{LABELS[mode]} decay")
            for mode in panels["noise"].lines
        ]
        title = "Where weights come to rest: derived (lines) and reached by the real optimizers (points)\n"
        title += "At rest ∇L + cλθ = 0: c is how much of λ counts"
        figure.legend(handles=keys, loc="outside upper left", ncols=3, title=title, alignment="left", title_fontsize=11)
    return figure


def _line(mode: str) -> dict:
    """Stable decay is dashed, so that it shows where it coincides with L2."""
    return {"color": COLOURS[mode], "linestyle": (0, (4, 2.5)) if mode == "stable" else "-"}


def _marker(mode: str) -> dict:
    """L2's squares are large and open, for the same reason."""
    size, face = (9, "none") if mode == "L2" else (5, COLOURS[mode])
    return {"marker": MARKERS[mode], "markersize": size, "markerfacecolor": face, "markeredgewidth": 1.3}


def _draw_panel(ax: Axes, panel: Panel, every: int) -> None:
    for mode, (x, y) in panel.points.items():
        shown = np.argsort(x)[::every]
        ax.plot(*panel.lines[mode], **_line(mode))
        ax.plot(x[shown], y[shown], **_marker(mode), color=COLOURS[mode], linestyle="none")


STUDY = Study("fixed-points", CLAIM, SOURCE, measure, draw)
