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

from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.plots import COLOURS, LABELS, MARKERS, house_style
from swd_dynamics.rules import CATALOG, Adam, UpdateRule
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.symbolic import fixed_point, modified_equation, notation, numeric_equation
from swd_dynamics.tasks import Task, logistic_regression, quadratic, tanh_network
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "Behind momentum L2 and stable decay rest where ∇L + λθ = 0, decoupled decay where ∇L + (1−β)λθ = 0; "
    "under noise Adam's decays rest where √v says, and in full batch AdamW and AdamS clip the weights."
)
SOURCE = "arXiv 2011.11152 (stable decay), 1711.05101 (AdamW), 2404.04454 (its bound 1/λ); AdamS's bound: derived here"

Array = NDArray[np.float64]
SGD_LIKE = {"L2": "SGD", "decoupled": "SGDW", "stable": "SGDS"}
ADAM_LIKE = {"L2": "Adam", "decoupled": "AdamW", "stable": "AdamS"}

SGD_ARGUMENTS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5}
DIGITS_ARGUMENTS = {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.1}
NOISE_ARGUMENTS = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.5}
BATCH_ARGUMENTS = {"lr": 0.03, "betas": (0.9, 0.95), "weight_decay": 0.5}

NOISE = np.array([4.0, 6.0, 10.0, 20.0, 30.0])  # of the gradients, which are below 1 themselves; h = θ* = 1
COPIES, BURN_IN = 1200, 800  # of each noise; steps, five correlation times s/(η(h+cλ)) of the slowest weight
STANDARD_ERRORS = 4.0  # one false alarm in a thousand comparisons
LAST_LR = 1e-6  # of Adam without noise, whose sign steps never get smaller than the learning rate


@dataclass(frozen=True)
class Panel:
    """Rest points of each decay mode: measured points and theory's line, x and y each."""

    points: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    lines: dict[str, tuple[Array, Array]] = field(default_factory=dict)


def measure(setting: Setting) -> Findings:
    """Train to rest in four settings."""
    parts = (_quadratic, _logistic, _network, _noise, _full_batch)
    panels = {part.__name__[1:]: Panel() for part in parts if part is not _network}
    verdicts = []
    for part in setting.track(parts, "fixed-points"):
        verdicts += part(setting, panels.get(part.__name__[1:], Panel()))
    return Findings(verdicts, panels)


def rest_points(rule: UpdateRule, h: Array, optimum: Array, v: Array | None = None, v_mean: float = 0.0) -> Array:
    """The derived fixed point with each weight's h and θ* put in; of Adam also v, and its mean over all weights."""
    rest = fixed_point(rule).value
    second_moment = {symbol.name: symbol for symbol in rest.free_symbols}.get("v", notation.gradient)
    rest = rest.xreplace({notation.mean(second_moment): v_mean})
    symbols = (notation.curvature, notation.theta_star, second_moment)
    rows = zip(h, optimum, np.zeros_like(h) if v is None else v, strict=True)
    return np.array([float(rest.xreplace(dict(zip(symbols, row, strict=True)))) for row in rows])


def decay_coefficient(name: str, arguments: dict) -> float:
    """c, where F₀ ∝ g + cλθ: the rule is at rest where ∇L + cλθ = 0, whatever the loss."""
    flow: Any = modified_equation(CATALOG[name](**arguments)).first.expand()
    return float(flow.coeff(notation.theta) / flow.coeff(notation.gradient)) / arguments["weight_decay"]


def full_batch_rest(rule: UpdateRule, h: Array, optimum: Array) -> Array:
    """The zero of F₀ on a quadratic without noise, where v follows g².

    F₀ steps from one sign to the other where g = 0, over a width of ε. The zero is followed from an ε so large that
    the step is smooth down to Adam's own. There a weight sits on the edge, at its θ*, unless decay outweighs the step.
    """
    theta, direction = 0.5 * optimum, cast(Adam, rule.direction)
    for eps in np.geomspace(10.0, direction.eps, 40):
        flow = numeric_equation(replace(rule, direction=replace(direction, eps=float(eps)))).first
        found = root(lambda theta, flow=flow: flow(theta, h * (theta - optimum), ()), theta, tol=1e-12)
        theta = found.x
    if not np.abs(found.fun).max() < 1e-3:  # of a sign step, which is 1
        raise ArithmeticError(f"no rest point of F₀ was found: {found.message}")
    return theta


def _quadratic(setting: Setting, panel: Panel) -> list[Verdict]:
    """Closed forms, reached to round-off."""
    h, optimum = np.geomspace(0.05, 5, 7), np.array([1.0, -2.0, 0.5, 1.0, -0.5, 2.0, -1.0])
    why = "round-off: an eps a step, forgotten within 1/(1−√β) = 20 steps"
    verdicts, reached = [], {}
    for mode, name in SGD_LIKE.items():
        rule = CATALOG[name](**SGD_ARGUMENTS)
        task = quadratic(h, optimum, 0.0, device=setting.device)
        reached[name] = _trained(task, name, 600 if setting.quick else 4000, **SGD_ARGUMENTS)
        claim = f"SGD with momentum and {LABELS[mode]} decay rests at the derived fixed point"
        predicted = rest_points(rule, h, optimum)
        verdicts.append(_farthest(f"{name}: quadratic", claim, predicted, reached[name], 1e-12, why))
        curve = np.geomspace(0.04, 6, 60)
        panel.points[mode] = h, reached[name] / optimum
        panel.lines[mode] = curve, rest_points(rule, curve, np.ones_like(curve))
    unweakened = rest_points(CATALOG["SGDS"](**SGD_ARGUMENTS), h, optimum)
    wrong = _farthest("", "With decoupled decay c is 1, not 1−β", unweakened, reached["SGDW"], 1e-12, why)
    return [*verdicts, must_be_refuted("control: SGDW with c = 1", wrong)]


def _logistic(setting: Setting, panel: Panel) -> list[Verdict]:
    """Real images and a convex loss: at rest the gradient balances cλθ, weight by weight."""
    steps, why = 900 if setting.quick else 4000, "e^(−ηλk) leaves no more than 1.5e-8 of the start"
    return _balances(lambda: logistic_regression(device=setting.device), steps, 1e-6, why, panel)


def _network(setting: Setting, panel: Panel) -> list[Verdict]:
    """The same where the loss is not convex: which minimum is found may differ, the balance there may not."""
    steps, why = 1200 if setting.quick else 8000, "a network creeps along its valleys: not quite at rest"
    return _balances(lambda: tanh_network(samples=200, device=setting.device), steps, 0.05, why, panel)


def _balances(make: Callable[[], Task], steps: int, allowed: float, why: str, panel: Panel) -> list[Verdict]:
    verdicts, unbalanced = [], {}
    for mode, name in SGD_LIKE.items():
        task = make()
        theta = _trained(task, name, steps, **DIGITS_ARGUMENTS)
        decay, pull = DIGITS_ARGUMENTS["weight_decay"] * theta, -task.gradient(theta)
        c = decay_coefficient(name, DIGITS_ARGUMENTS)
        unbalanced[name] = float(np.linalg.norm(pull - c * decay) / np.linalg.norm(c * decay))
        claim = f"SGD with momentum and {LABELS[mode]} decay rests where ∇L + cλθ = 0 ({task.name}, digits)"
        found = {"predicted": c, "measured": float(pull @ decay / (decay @ decay)), "allowed": allowed * c}
        verdicts.append(judge(f"{name}: c, {task.name}", claim, **found, why=why))
        panel.points[mode], panel.lines[mode] = (decay, pull), (np.sort(decay), c * np.sort(decay))
    worst = max(unbalanced, key=unbalanced.__getitem__)
    claim = f"At rest ‖∇L + cλθ‖/‖cλθ‖ is 0, each decay with its own c ({task.name}, digits; {worst} has the largest)"
    found = {"predicted": 0.0, "measured": unbalanced[worst], "allowed": allowed}
    return [*verdicts, judge(f"balance, {task.name}", claim, **found, why=why)]


def _noise(setting: Setting, panel: Panel) -> list[Verdict]:
    """Gradient noise of known size s: √v is s, and nothing measured goes into the prediction."""
    steps, one, v = 1400 if setting.quick else 12000, np.ones_like(NOISE), NOISE**2
    why = f"{STANDARD_ERRORS:g} standard errors, s/((h+cλ)√N) in a long run, and what g² and the finite memory of v add"
    verdicts, scatter = [], []
    for mode, name in ADAM_LIKE.items():
        rule, s = CATALOG[name](**NOISE_ARGUMENTS), np.geomspace(NOISE[0] / 1.15, NOISE[-1] * 1.15, 60)
        means = _averaged(np.repeat(NOISE, COPIES), name, steps, setting.device).reshape(len(NOISE), COPIES)
        predicted = rest_points(rule, one, one, v, v.mean())
        error = NOISE * predicted / np.sqrt(COPIES * steps) * _short_run(steps * rule.lr / (NOISE * predicted))
        scatter.append(means.std(axis=1, ddof=1) / np.sqrt(COPIES) / error)
        allowed = STANDARD_ERRORS * error + _neglected(predicted, NOISE_ARGUMENTS["betas"][1])
        claim = f"{name} under gradient noise s ≫ |g| rests at the derived fixed point with √v = s"
        verdicts.append(_farthest(f"{name}: known noise", claim, predicted, means.mean(axis=1), allowed, why))
        panel.points[mode] = NOISE, means.mean(axis=1)
        panel.lines[mode] = s, rest_points(rule, np.ones_like(s), np.ones_like(s), s**2, v.mean())
    alike = rest_points(rule, one, one, v, NOISE.mean() ** 2)
    wrong = _farthest("", "The decay of AdamS is divided by the mean of √v", alike, means.mean(axis=1), allowed, why)
    return [*verdicts, _standard_error(np.array(scatter)), must_be_refuted("control: AdamS with mean of √v", wrong)]


def _short_run(times: Array) -> Array:
    """By what the mean over so many correlation times scatters less than s/((h+cλ)√steps)."""
    return np.sqrt(1 - (1 - np.exp(-times)) / times)


def _neglected(rest: Array, beta2: float) -> Array:
    """What a relative change of √v by g²/2s² + (1−β₂) would do to the rest point of h = θ* = 1."""
    return rest * (1 - rest) * ((1 - rest) ** 2 / (2 * NOISE**2) + (1 - beta2))


def _standard_error(scatter: Array) -> Verdict:
    """The check of what is allowed above."""
    claim = "Copies of a weight scatter as their standard error says (the farthest of 15 conditions)"
    farthest = float(scatter.flat[np.argmax(np.abs(scatter - 1))])
    why = f"{STANDARD_ERRORS:g} of its own errors 1/√(2·{COPIES}) = .02"
    return judge("standard error", claim, predicted=1.0, measured=farthest, allowed=0.08, why=why)


def _full_batch(setting: Setting, panel: Panel) -> list[Verdict]:
    """Without noise v follows g²: a step is a sign, and decay wins only where it is stronger than that."""
    optimum, curve = np.array([-3.0, -2.5, -1.25, -0.5, 0.5, 1.0, 1.75, 2.75]), np.linspace(-3.2, 3.2, 129)
    verdicts = []
    for mode, name in ADAM_LIKE.items():
        rule = CATALOG[name](**BATCH_ARGUMENTS)
        verdict, predicted = _batch_run(setting, "8 weights", name, np.ones(8), optimum)
        verdicts.append(verdict)
        panel.points[mode] = optimum, verdict.evidence["measured"]
        bound, slope = np.abs(predicted).max(), 1.0
        if mode == "L2":
            bound, slope = np.inf, rest_points(rule, np.ones(1), np.ones(1), np.ones(1), 1.0)[0]
        panel.lines[mode] = curve, np.clip(slope * curve, -bound, bound)
    optimum = np.array([1.0, -2.0, 0.5])
    verdict, _ = _batch_run(setting, "3 curvatures", "AdamS", np.array([1.0, 3.0, 0.1]), optimum, weight_decay=0.1)
    reached, allowed = verdict.evidence["measured"], verdict.evidence["allowed"]
    wrong = _farthest("", "The weights of AdamS in full batch rest at θ*", optimum, reached, allowed, verdict.why)
    return [*verdicts, verdict, must_be_refuted("control: AdamS rests at θ*", wrong)]


def _batch_run(setting: Setting, case: str, name: str, h: Array, optimum: Array, **changed) -> tuple[Verdict, Array]:
    arguments, steps = BATCH_ARGUMENTS | changed, 2000 if setting.quick else 12000
    task = quadratic(h, optimum, 0.0, device=setting.device)
    reached = _trained(task, name, steps, LAST_LR, **arguments)
    predicted = full_batch_rest(CATALOG[name](**arguments), h, optimum)
    claim = f"{name} in full batch rests where F₀ = 0: at ({', '.join(f'{theta:.4g}' for theta in predicted)})"
    why = "a hundred times the last learning rate: what is left of the chatter of sign steps, and of the approach"
    return _farthest(f"{name}: full batch, {case}", claim, predicted, reached, 100 * LAST_LR, why), predicted


def _trained(task: Task, name: str, steps: int, last_lr: float | None = None, **arguments) -> Array:
    """θ after so many steps of the real optimizer, the learning rate falling to ``last_lr`` in the last quarter."""
    optimizer = OPTIMIZERS[name](task.model.parameters(), **arguments)
    factor = last_lr / arguments["lr"] if last_lr else 1.0
    scheduler = LambdaLR(optimizer, lambda k: factor ** max(0.0, 4 * k / steps - 3))
    for k in range(steps):
        _step(optimizer, task, k)
        if last_lr:
            scheduler.step()
    return task.theta


def _averaged(noise: Array, name: str, steps: int, device: str) -> Array:
    """θ of h = θ* = 1 averaged over so many steps after the burn-in."""
    task = quadratic(np.ones_like(noise), 1.0, 0.0, noise, device=device)
    (theta,) = task.model.parameters()
    optimizer = OPTIMIZERS[name]([theta], **NOISE_ARGUMENTS)
    total = torch.zeros_like(theta)
    for k in range(BURN_IN + steps):
        _step(optimizer, task, k)
        if k >= BURN_IN:
            total += theta.detach()
    return (total / steps).cpu().numpy()


def _step(optimizer: torch.optim.Optimizer, task: Task, k: int) -> None:
    optimizer.zero_grad()
    task.loss(k).backward()
    optimizer.step()


def _farthest(name: str, claim: str, predicted: Array, measured: Array, allowed: Array | float, why: str) -> Verdict:
    """The verdict on the weight that lies farthest from its prediction, in units of what is allowed."""
    allowed = np.broadcast_to(allowed, predicted.shape)
    i = int(np.argmax(np.abs(predicted - measured) / allowed))
    claim = f"{claim}, each of {len(predicted)} weights"
    found = {"predicted": predicted[i], "measured": measured[i], "allowed": allowed[i]}
    return judge(name, claim, **found, why=why, evidence={"measured": measured, "allowed": allowed})


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
NOTES = {  # where in the panel, and in the colour of which decay
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
        keys = [Line2D([], [], **_line(mode), **_marker(mode), label=f"{LABELS[mode]} decay") for mode in SGD_LIKE]
        title = "Where weights come to rest: derived (lines) and reached by the real optimizers (points)\n"
        title += "At rest ∇L + cλθ = 0: c is how much of λ counts"
        figure.legend(handles=keys, loc="outside upper left", ncols=3, title=title, alignment="left", title_fontsize=11)
    return figure


def _line(mode: str) -> dict:
    """Stable decay is dashed, to be seen where it lies on L2's line."""
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
