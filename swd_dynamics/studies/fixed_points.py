"""Study: where weights come to rest with each decay: on quadratics and digits, under noise, in full batch."""

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

from swd_dynamics.flows import Flow
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.plots import COLOURS, LABELS, MUTED, house_style, measured, theory
from swd_dynamics.rules import Adam, UpdateRule
from swd_dynamics.rules.shaped import shaped
from swd_dynamics.studies.judging import farthest, judge_relative, judge_weights
from swd_dynamics.studies.methods import Method, family
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.training import train
from swd_dynamics.symbolic import fixed_point, modified_equation, notation, numeric_equation
from swd_dynamics.tasks import Task, logistic_regression, quadratic, tanh_network
from swd_dynamics.tasks.quadratic import Weights
from swd_dynamics.tasks.task import DrawnLoss
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "With momentum, L2 and stable decay come to rest where ∇L + λθ = 0, and decoupled decay where ∇L + (1−β)λθ = 0. "
    "AdamW clips weights at ±1/λ if their gradients are exact, and shrinks noisy weights the more, the larger √v is."
)
SOURCE = "arXiv 2011.11152 (stable decay), 1711.05101 (AdamW), 2404.04454 (its bound 1/λ); AdamS's bound: derived here"
Array = NDArray[np.float64]

SGD_ARGUMENTS: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5}
DIGITS_ARGUMENTS: dict[str, Any] = {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.1}
NOISE_ARGUMENTS: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.5}
BATCH_ARGUMENTS: dict[str, Any] = {"lr": 0.03, "betas": (0.9, 0.95), "weight_decay": 0.5}

OTHERS = ("independent", "corrected", "cautious", "preconditioned")  # the other decay modes: tested, not drawn
LR_MAX = 2  # η_max of independent and corrected decay, in units of η: at 1 both would be decoupled decay with another λ

MUON_ARGUMENTS = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.5}
SINGULAR_VALUES = np.array([4.0, 3.0, 2.5, 1.0, 0.5, 0.2])  # of W⋆: three above 1/λ = 2, and three below
MUON_ALLOWED = 0.02

# Standard deviations of the gradient noise. The gradients are below 1 (h = θ⋆ = 1), so that √v is the noise.
KEPT_BY_L2 = 1 / (1 + NOISE_ARGUMENTS["weight_decay"])  # of each weight, with h = 1: h/(h + λ)
NOISE = np.array([4.0, 6.0, 10.0, 20.0, 30.0])
COPIES = 1200  # weights for each noise; half as many have √2 times the standard error
BURN_IN = 800  # steps: five correlation times s/(η(h+cλ)) of the slowest weight; half as many leave 8 % of the start
STANDARD_ERRORS = 4.0  # allowed: one false alarm in a thousand comparisons; at 2 there would be one in twenty
LAST_LR = 1e-6  # η at the end of a run of Adam without noise: the weights stay that near the rest point, not nearer

CAPTION = (
    "Points are torch runs on f = ½h(θ − θ⋆)² with h = 1, on the right also with θ⋆ = 1. With exact gradients a step"
    " of Adam is a sign, so AdamW keeps θ⋆ up to 1/λ, and AdamS up to rms(g)/λ, here 0.76/0.5 = 1.53, where rms is the"
    " root of the mean square over all weights. With noisy gradients √v is the standard deviation s of a weight's"
    " noise: AdamW comes to rest at θ⋆/(1 + λs/h), AdamS at θ⋆/(1 + λs/(h·rms(s))), and Adam with L2 at θ⋆/(1 + λ/h)."
    f" Noisy points are means over {COPIES} copies of each weight and over all steps after the first {BURN_IN}. Left: β"
    " = (0.9, 0.95), and 12,000 steps from η = 0.03, which falls to 1e-6 in the last quarter; with torch's default β₂"
    " = 0.999 more steps are needed. Right: β = (0.9, 0.99), η = 0.1, 12,000 steps.\n\n"
    "(The short form takes fewer steps.) Most training lies between these two extremes. Also tested, but not drawn:"
    " SGD with momentum and each decay, on a quadratic and on digits; the other decay modes with exact gradients, of"
    " which cautious decay comes to rest at θ⋆, as no decay does, and Adam with preconditioned decay where L2 does;"
    " and Muon on a matrix, which does not clip singular values at 1/λ = 2: those of 4, 3 and 2.5 come to rest at"
    " 2.09, 1.46 and 1.77, because five Newton–Schulz steps are not the polar factor."
)


@dataclass(frozen=True)
class Panel:
    """The rest points of each decay mode: the points measured and the line of the theory, each as x and y."""

    points: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    lines: dict[str, tuple[Array, Array]] = field(default_factory=dict)


def measure(setting: Setting) -> Findings:
    """Train to rest in five settings, and draw those of Adam."""
    panels = {name: Panel() for name in DRAWN}
    verdicts = []
    for trained in setting.track([*NOT_DRAWN, *DRAWN], "fixed-points"):
        verdicts += DRAWN[trained](setting, panels[trained]) if trained in DRAWN else NOT_DRAWN[trained](setting)
    return Findings(verdicts, panels)


def rest_points(rule: UpdateRule, h: Array, optimum: Array, v: Array | None = None, v_mean: float = 0.0) -> Array:
    """The derived fixed point at each weight's h and θ⋆; for Adam also at its v, and at the mean of v."""
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
    smooth, down to Adam's own. In the end a weight is at its θ⋆, on this edge, unless decay outweighs the step.
    """
    theta, direction = 0.5 * optimum, cast(Adam, rule.direction)
    for eps in np.geomspace(10.0, direction.eps, 40):
        flow = numeric_equation(replace(rule, direction=replace(direction, eps=float(eps)))).first
        found = root(lambda theta, flow=flow: flow(theta, h * (theta - optimum), ()), theta, tol=1e-12)
        theta = found.x
    if not np.abs(found.fun).max() < 1e-3:  # a sign step is 1
        raise ArithmeticError(f"no rest point of F₀ was found: {found.message}")
    return theta


def _quadratic(setting: Setting) -> list[Verdict]:
    """Closed forms, reached to round-off."""
    h, optimum = np.geomspace(0.05, 5, 7), np.array([1.0, -2.0, 0.5, 1.0, -0.5, 2.0, -1.0])
    why = "round-off of the last 1/(1−√β) = 20 steps, which is all that the weights remember"
    verdicts, reached, predicted = [], {}, {}
    for method in family("SGD", **SGD_ARGUMENTS):
        name = method.name
        task = quadratic(h, optimum, 0.0, device=setting.device)
        reached[name] = _trained(task, method, 600 if setting.quick else 4000)
        predicted[name] = rest_points(method.rule(), h, optimum)
        claim = f"SGD with momentum and {LABELS[method.mode]} decay comes to rest at the derived fixed point"
        verdicts.append(judge_weights(f"{name}: quadratic", claim, predicted[name], reached[name], 1e-12, why))
    claim = "SGD with momentum and decoupled decay comes to rest at the fixed point of stable decay"
    wrong = judge_weights("", claim, predicted["SGDS"], reached["SGDW"], 1e-12, why)
    return [*verdicts, must_be_refuted("control: SGDW with c = 1", wrong)]


def _other_decays(setting: Setting) -> list[Verdict]:
    """The other decay modes with exact gradients, for SGD with momentum and for Adam, where F₀ is 0."""
    optimum, reached = np.array([-3.0, -1.25, 0.5, 1.0, 2.75]), {}
    methods = [*family("SGD", OTHERS, **SGD_ARGUMENTS), *family("Adam", OTHERS, **BATCH_ARGUMENTS)]
    verdicts = []
    for method in map(_with_largest_lr, methods):
        last_lr, allowed, why = _end_of(method)
        task = quadratic(np.ones(5), optimum, 0.0, device=setting.device)
        reached[method.name] = _trained(task, method, 1000 if setting.quick else 12000, last_lr)
        equation = modified_equation(method.rule(lr=last_lr or method.arguments["lr"]))
        predicted = np.array([equation.rest_point(h=1.0, theta_star=float(theta)) for theta in optimum])
        claim = f"{method.name} with exact gradients rests where F₀ = 0"
        verdicts.append(judge_weights(f"{method.name}: F₀ = 0", claim, predicted, reached[method.name], allowed, why))
    wrong = rest_points(Method("SGDW", SGD_ARGUMENTS).rule(), np.ones(5), optimum)
    claim = "Cautious decay comes to rest where decoupled decay does"
    control = judge_weights("", claim, wrong, reached["SGDCautious"], 3e-3, "as above")
    return [*verdicts, must_be_refuted("control: SGDCautious at SGDW's", control)]


def _end_of(method: Method) -> tuple[float | None, float, str]:
    """The last learning rate if it must fall, the allowed distance from the rest point, and why so much is allowed."""
    if method.name in ("SGDIndependent", "SGDC"):
        return None, 1e-12, "round-off, because the step is linear and keeps its learning rate"
    if method.name == "SGDCautious":
        why = (
            "a thousandth: the decay goes on and off around the rest point, and the steps shrink faster than that ends"
        )
        return LAST_LR, 3e-3, why
    why = "a hundred times the last learning rate, for the last steps of size η and what is left of the approach"
    return LAST_LR, 100 * LAST_LR, why


def _with_largest_lr(method: Method) -> Method:
    """The method with an η_max, if its decay has one."""
    has = method.mode in ("independent", "corrected")
    return Method(method.name, method.arguments | ({"lr_max": LR_MAX * method.arguments["lr"]} if has else {}))


def _muon(setting: Setting) -> list[Verdict]:
    """Muon on f = ½‖W − W⋆‖²: where the singular values of W rest, by the flow of its rule and by torch's optimizer.

    An exact polar factor would clip them at 1/λ. Muon's five Newton–Schulz steps take a singular value of the gradient
    to a number around 1, which depends on its share of the gradient's norm.
    """
    method, rank = Method("MuonW", MUON_ARGUMENTS), len(SINGULAR_VALUES)
    left, right = (np.linalg.qr(np.random.default_rng(seed).standard_normal((rank, rank)))[0] for seed in (0, 1))
    optimum, steps = left @ np.diag(SINGULAR_VALUES) @ right.T, 1000 if setting.quick else 12000
    task = _matrix_quadratic(optimum, setting.device)
    found = left.T @ _trained(task, method, steps, LAST_LR).reshape(rank, rank) @ right
    start, rested = np.diag(SINGULAR_VALUES).ravel(), np.zeros(rank * rank)
    flow = Flow(shaped(method.rule(coarse=False), ((rank, rank),)), lambda theta: theta - start, order="state")
    predicted = np.diag(flow.solve(rested, 4000, tolerance=1e-6).theta[-1].reshape(rank, rank))
    claim, why = (
        "Muon rests where the flow of its rule does",
        "1 % of 1/λ: torch's Newton–Schulz rounds to three digits",
    )
    exact = np.minimum(SINGULAR_VALUES, 1 / MUON_ARGUMENTS["weight_decay"])
    clipped = judge_weights("", "Muon clips singular values at 1/λ", exact, np.diag(found), MUON_ALLOWED, why)
    return [
        judge_weights("MuonW: singular values", claim, predicted, np.diag(found), MUON_ALLOWED, why),
        must_be_refuted("control: MuonW clips at 1/λ", clipped),
    ]


def _matrix_quadratic(optimum: Array, device: str) -> Task:
    """f = ½‖W − W⋆‖² of one matrix, from W = 0."""
    minimum = torch.tensor(optimum, device=device)

    def loss(model: torch.nn.Module) -> torch.Tensor:
        return 0.5 * ((model() - minimum) ** 2).sum()

    return Task("matrix quadratic", Weights(torch.zeros_like(minimum)), DrawnLoss(lambda step: (), loss), loss, {})


def _logistic(setting: Setting) -> list[Verdict]:
    """Real images and a convex loss: at rest the gradient balances cλθ, weight by weight."""
    steps, why = (
        900 if setting.quick else 4000,
        "after k steps the fraction e^(−ηλk) of the start is left, at most 1.5e-8",
    )
    return _balances(lambda: logistic_regression(device=setting.device), steps, 1e-6, why)


def _network(setting: Setting) -> list[Verdict]:
    """A loss that is not convex: each decay may find another minimum, but the same balance holds in it."""
    steps, why = 1200 if setting.quick else 8000, "a network moves slowly along its valleys, so it is not quite at rest"
    return _balances(lambda: tanh_network(samples=200, device=setting.device), steps, 0.05, why)


def _balances(make: Callable[[], Task], steps: int, allowed: float, why: str) -> list[Verdict]:
    verdicts, unbalanced = [], {}
    for method in family("SGD", **DIGITS_ARGUMENTS):
        task, c = make(), decay_coefficient(method)
        theta = _trained(task, method, steps)
        decay, pull = DIGITS_ARGUMENTS["weight_decay"] * theta, -task.gradient(theta)
        unbalanced[method.name] = float(np.linalg.norm(pull - c * decay) / np.linalg.norm(c * decay))
        claim = f"SGD with momentum and {LABELS[method.mode]} decay rests where ∇L + cλθ = 0 ({task.name}, digits)"
        measured = float(pull @ decay / (decay @ decay))
        verdicts.append(judge_relative(f"{method.name}: c, {task.name}", claim, c, measured, allowed, why))
    worst = max(unbalanced, key=unbalanced.__getitem__)
    claim = f"At rest ‖∇L + cλθ‖/‖cλθ‖ is 0 with the c of each decay ({task.name}, digits; largest for {worst})"
    found = {"predicted": 0.0, "measured": unbalanced[worst], "allowed": allowed}
    return [*verdicts, judge(f"balance, {task.name}", claim, **found, why=why)]


def _noise(setting: Setting, panel: Panel) -> list[Verdict]:
    """Gradient noise of known size s: √v is s, and the prediction contains nothing measured."""
    steps, one, v = 1400 if setting.quick else 12000, np.ones_like(NOISE), NOISE**2
    s = np.geomspace(NOISE[0] / 1.15, NOISE[-1] * 1.15, 60)
    why = f"{STANDARD_ERRORS:g} standard errors, and the neglected effects of g² and of the finite memory of v on √v"
    verdicts, scatter = [], []
    for method in family("Adam", **NOISE_ARGUMENTS):
        rule = method.rule()
        copies = _averaged(np.repeat(NOISE, COPIES), method, steps, setting.device).reshape(len(NOISE), COPIES)
        means, predicted = copies.mean(axis=1), rest_points(rule, one, one, v, v.mean())
        error = NOISE * predicted / np.sqrt(COPIES * steps) * _short_run(steps * rule.lr / (NOISE * predicted))
        scatter.append(copies.std(axis=1, ddof=1) / np.sqrt(COPIES) / error)
        allowed = STANDARD_ERRORS * error + _neglected(predicted, NOISE_ARGUMENTS["betas"][1])
        claim = f"{method.name} under gradient noise s ≫ |g| comes to rest at the fixed point derived with √v = s"
        verdicts.append(judge_weights(f"{method.name}: known noise", claim, predicted, means, allowed, why))
        panel.points[method.mode] = NOISE, means
        panel.lines[method.mode] = s, rest_points(rule, np.ones_like(s), np.ones_like(s), s**2, v.mean())
    alike = rest_points(rule, one, one, v, NOISE.mean() ** 2)
    wrong = judge_weights(
        "", "AdamS comes to rest where it would if its decay were divided by the mean of √v", alike, means, allowed, why
    )
    return [*verdicts, _standard_error(np.array(scatter)), must_be_refuted("control: AdamS with mean of √v", wrong)]


def _short_run(times: Array) -> Array:
    """The scatter of a mean over so many correlation times, in units of s/((h+cλ)√steps)."""
    return np.sqrt(1 - (1 - np.exp(-times)) / times)


def _neglected(rest: Array, beta2: float) -> Array:
    """The change of the rest point of h = θ⋆ = 1 if √v grows by the fraction g²/2s² + (1−β₂)."""
    return rest * (1 - rest) * ((1 - rest) ** 2 / (2 * NOISE**2) + (1 - beta2))


def _standard_error(scatter: Array) -> Verdict:
    """The verdict on the standard errors that the verdicts above allow."""
    claim = "Copies of a weight scatter by the derived standard error (the worst of 15 conditions)"
    why = f"{STANDARD_ERRORS:g} standard errors 1/√(2·{COPIES}) = .02 of an estimated standard deviation"
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
    wrong = judge_weights(
        "", "In full batch the weights of AdamS come to rest at θ⋆", optimum, reached, allowed, verdict.why
    )
    return [*verdicts, verdict, must_be_refuted("control: AdamS rests at θ⋆", wrong)]


def _batch_run(setting: Setting, case: str, method: Method, h: Array, optimum: Array) -> tuple[Verdict, Array]:
    task = quadratic(h, optimum, 0.0, device=setting.device)
    reached = _trained(task, method, 2000 if setting.quick else 12000, LAST_LR)
    predicted = full_batch_rest(method.rule(), h, optimum)
    claim = f"{method.name} in full batch rests where F₀ = 0, at ({', '.join(f'{theta:.4g}' for theta in predicted)})"
    why = "a hundred times the last learning rate, for the last steps of size η and what is left of the approach"
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
    """θ of h = θ⋆ = 1, averaged over so many steps after the burn-in."""
    task = quadratic(np.ones_like(noise), 1.0, 0.0, noise, device=device)
    (theta,) = task.model.parameters()
    total = torch.zeros_like(theta)
    for k in train(method.optimizer([theta]), task.loss, BURN_IN + steps):
        if k >= BURN_IN:
            total += theta.detach()
    return (total / steps).cpu().numpy()


NOT_DRAWN: dict[str, Callable[[Setting], list[Verdict]]] = {
    "quadratic": _quadratic, "other decays": _other_decays, "logistic": _logistic, "network": _network,
    **({"Muon": _muon} if "MuonW" in OPTIMIZERS else {}),
}  # fmt: skip
DRAWN: dict[str, Callable[[Setting, Panel], list[Verdict]]] = {"full_batch": _full_batch, "noise": _noise}

AXES: dict[str, dict] = {
    "full_batch": {"title": "exact gradients, λ = {weight_decay}, h = 1".format(**BATCH_ARGUMENTS)}
    | {"xlabel": "weight without decay, θ⋆", "ylabel": "weight at rest, θ"}
    | {"xlim": (-3.3, 3.3), "ylim": (-2.7, 2.7)},
    "noise": {"title": "noisy gradients, λ = {weight_decay}, h = θ⋆ = 1".format(**NOISE_ARGUMENTS)}
    | {"xlabel": "standard deviation s of a gradient's noise", "ylabel": "fraction of the weight that is left, θ/θ⋆"}
    | {"ylim": (0, 1.05), "xscale": "log", "xticks": NOISE, "xticklabels": [f"{s:g}" for s in NOISE]},
}
# Position in the panel, decay mode of the colour, and text.
NOTES = {
    "full_batch": [
        (0.97, 0.95, "decoupled", f"AdamW clips at 1/λ = {1 / BATCH_ARGUMENTS['weight_decay']:g}"),
        (0.03, 0.60, "stable", "AdamS clips\nat rms(g)/λ\n(g: gradient)"),
        (0.55, 0.45, "L2", f"Adam with L2\nkeeps {100 * KEPT_BY_L2:.0f} %"),
    ],
    "noise": [
        (0.97, 0.24, "decoupled", "AdamW keeps {kept}\nat s = 30"),
        (0.03, 0.60, "L2", f"Adam with L2 keeps {100 * KEPT_BY_L2:.0f} %"),
        (0.97, 0.98, "stable", "AdamS follows s/rms(s)\n(rms: of all weights)"),
    ],
}
TITLE = (
    "AdamW does not shrink weights that have exact gradients, it clips them at 1/λ,\n"
    "but it shrinks weights that have noisy gradients, the noisiest here to {kept}"
)
BEHIND = {"decoupled": {"markersize": 9}}  # where AdamS's points are on those of AdamW, both must show


def draw(panels: dict[str, Panel]) -> Figure:
    """Where the weights of Adam come to rest: theory as lines, real runs as points."""
    kept = f"{100 * panels['noise'].points['decoupled'][1][-1]:.0f} %"
    with house_style():
        figure = Figure(figsize=(7.4, 4.3))
        for ax, (name, panel) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            _draw_panel(ax, panel)
            ax.set(**AXES[name])
            ax.minorticks_off()
            for x, y, mode, text in NOTES[name]:
                place = {"transform": ax.transAxes, "va": "top", "ha": "right" if x > 0.9 else "left"}
                ax.text(x, y, text.format(kept=kept), color=COLOURS[mode], fontweight="bold", **place)
        figure.suptitle(TITLE.format(kept=kept), x=0.01, ha="left")
        line = Line2D([], [], color=MUTED, label="derived (h: curvature)")
        points = Line2D([], [], color=MUTED, marker="o", linestyle="none", label="torch runs, on the right their means")
        figure.legend(handles=[line, points], loc="outside lower center", ncols=2)
    return figure


def _draw_panel(ax: Axes, panel: Panel) -> None:
    for mode, (x, y) in panel.points.items():
        ax.plot(*panel.lines[mode], **theory(mode))
        ax.plot(x, y, **measured(mode, **BEHIND.get(mode, {})))


STUDY = Study("fixed-points", CLAIM, SOURCE, measure, draw, CAPTION)
