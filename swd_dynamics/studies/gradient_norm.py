"""Study: how large the gradient is at the end of training, and why: at rest it balances the decay."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import sympy
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from swd_dynamics.plots import LABELS, house_style, measured, theory
from swd_dynamics.rules.schedule import Constant, Cosine
from swd_dynamics.studies.judging import farthest
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.paired import judge_more
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.training import train
from swd_dynamics.sweeping import sweep
from swd_dynamics.symbolic import fixed_point, lettered, notation
from swd_dynamics.tasks import tanh_network
from swd_dynamics.tensors.preconditioner import preconditioner_of
from swd_dynamics.verdict import Verdict, judge, judge_at_least, must_be_refuted

CLAIM = (
    "Where decay has come to rest, it holds the gradient up: ∇L = −(R/η_eff)·θ, with η_eff of each weight. So a larger"
    " λ ends with a larger gradient, with every decay, and stable decay ends with a smaller gradient than decoupled"
    " decay only where its R/η_eff is smaller."
)
SOURCE = "2011.11152 (large constant weight decay leads to large gradient norms at the end); the law is derived here"
CAPTION = (
    "Points: ‖g‖ of the loss on all training images at the end of training, mean over the seeds; filled where η falls"
    " to 0 along half a cosine, open where η is constant. Lines: (R/η_eff)·‖θ‖ with the final ‖θ‖ of the runs with"
    " the cosine. In both panels runs with a small λ lie above their line, because they end before they rest. With a"
    " constant η the noise of the batches adds to the gradient. AdamW and AdamS lie above their lines for any λ, by"
    " up to × 1.63 and × 1.50 in runs at rest (the labels are means for the largest λ): their η_eff differs"
    " from weight to weight, and the line has one η_eff for all weights, η/√v̄. With η_eff of each weight the law holds"
    " for them too: the short black lines. This was tested with one λ of each optimizer, the largest. The study shows"
    " one small network on 8 × 8 digits, with one η for each family."
)

BETA = 0.9
SGD: dict[str, Any] = {"lr": 0.1, "momentum": BETA}
ADAM: dict[str, Any] = {"lr": 3e-3, "betas": (BETA, 0.999)}
# The smallest and the largest exponent of λ, in half decades. Around them the test error is best.
RANGES = {
    "SGD": (SGD, -4.0, -1.0),
    "SGDW": (SGD, -3.0, 0.0),
    "SGDS": (SGD, -4.0, -1.0),
    "Adam": (ADAM, -4.0, -1.0),
    "AdamW": (ADAM, -2.0, 1.0),
    "AdamS": (ADAM, -4.0, -1.0),
}
METHODS = {name: Method(name, fixed) for name, (fixed, *_) in RANGES.items()}
SCHEDULES: dict[str, Any] = {"cosine": lambda steps: Cosine(1.0, steps), "constant": lambda steps: Constant(1.0)}

# A run counts as at rest if ΣR of its steps is at least this: then e⁻³, a twentieth, of the start is left in θ.
SETTLED = 3.0
LEFT = np.exp(-SETTLED)  # relative difference allowed: what is left of the start
ADAMS = ("Adam", "AdamW", "AdamS")
ISOTROPIC = ("SGD", "SGDW", "SGDS", "Adam")  # one η_eff for all weights, or none at rest


class FinalGradients(NamedTuple):
    """The ends of the runs of one optimizer; arrays of shape (decays, seeds).

    decays : array, shape (decays,) — λ
    norm : ‖g‖ of the full loss
    law : (R/η_eff)·‖θ‖
    memory : ΣR over the run
    test_error : fraction
    """

    decays: NDArray
    norm: NDArray
    law: NDArray
    memory: NDArray
    test_error: NDArray

    @property
    def ratios(self) -> NDArray:
        """‖g‖ divided by the law, of the runs that have come to rest."""
        return (self.norm / self.law)[self.memory >= SETTLED]

    @property
    def best(self) -> int:
        """The place of the λ with the smallest mean test error."""
        return int(self.test_error.mean(axis=1).argmin())


def measure(setting: Setting) -> Findings:
    """Train with every λ, and compare the final gradient with the law."""
    work = [(name, schedule) for schedule in SCHEDULES for name in RANGES]
    tracked = setting.track(work, "gradient-norm")
    found = {(name, schedule): final_gradients(name, schedule, setting) for name, schedule in tracked}
    by_weight = {name: by_weights(name, setting) for name in setting.track(("AdamW", "AdamS"), "by weight")}
    return Findings(judge_ends(found, by_weight), (found, by_weight))


# The theory


def held_share(name: str, weight_decay: float, v: NDArray | float = 1.0, mean: float = 1.0) -> NDArray:
    """R/η_eff of each weight at rest, −∇L/θ, from the derived rest point of the rule.

    On f = ½h(θ − θ⋆)² the gradient at rest is h(θ − θ⋆), so −∇L/θ = h(θ⋆/θ − 1), which does not depend on h.

    Parameters
    ----------
    name : str — in METHODS
    v : array, shape (n,), or float — the second moments, for the Adam family
    mean : float — v̄

    Examples
    --------
    Momentum .9 weakens decoupled decay to a tenth. L2 has λ whatever v is; decoupled decay of Adam has λ√v.

    >>> round(float(held_share("SGDW", 0.5)), 12)
    0.05
    >>> float(held_share("Adam", 0.5, v=4.0)), float(held_share("AdamW", 0.5, v=4.0))
    (0.5, 1.0)
    """
    rule, values = lettered(METHODS[name].rule(weight_decay=weight_decay, **({"eps": 0.0} if name in ADAMS else {})))
    own, average = sympy.symbols("v_own v_mean", positive=True)
    share = notation.curvature * (notation.theta_star / fixed_point(rule).value - 1)
    share = share.replace(notation.mean, lambda inside: average)
    share = share.subs({symbol: own for symbol in share.free_symbols if symbol.name == "v"})
    return sympy.lambdify((own, average), sympy.expand(share).subs(values), "numpy")(v, mean)


# The runs


def small_network(setting: Setting, seed: int):
    """A 64-32-10 tanh network on the first images of the digits."""
    return tanh_network((32,), samples=500, batch_size=50, seed=seed, device=setting.device)


def length(setting: Setting) -> tuple[int, int]:
    """Steps of a run, and seeds."""
    return (300, 2) if setting.quick else (1000, 5)


def final_gradients(name: str, schedule: str, setting: Setting) -> FinalGradients:
    """Train with every λ and from every seed."""
    (steps, seeds), (fixed, low, high) = length(setting), RANGES[name]
    if setting.quick and schedule == "constant":
        steps //= 2  # ΣR is that of the cosine
    decays = 10.0 ** np.arange(low, high + 0.01, 0.5)
    # The seeds of the pilot, from 0 on, are not used again.
    found = sweep(
        partial(small_network, setting),
        {name: (name, {key: value for key, value in fixed.items() if key != "lr"})},
        {"lr": [fixed["lr"]], "weight_decay": decays},
        steps=steps,
        seeds=range(10, 10 + seeds),
        schedule=schedule,
        evaluations=1,
    ).isel(optimizer=0, lr=0)
    factor = SCHEDULES[schedule](steps)
    at_full = found.effective_lr.values / factor(steps - 1)  # η_eff where the schedule is 1
    v = (fixed["lr"] / at_full) ** 2 if name in ADAMS else np.ones_like(at_full)
    share = np.array(
        [held_share(name, decay, v=row, mean=row) * np.ones_like(row) for decay, row in zip(decays, v, strict=True)]
    )
    memory = share * at_full * sum(factor(k) for k in range(steps))
    return FinalGradients(
        decays, found.gradient_norm.values, share * found.weight_norm.values, memory, found.test_error.values
    )


def by_weights(name: str, setting: Setting) -> NDArray:
    """‖∇L‖ divided by the law with η_eff of each weight, of real runs with the cosine and the largest λ, by seed."""
    (steps, seeds), (*_, high) = length(setting), RANGES[name]
    return np.array([_by_weight(name, 10.0**high, seed, steps, setting) for seed in range(10, 10 + seeds)])


def _by_weight(name: str, decay: float, seed: int, steps: int, setting: Setting) -> float:
    trained = small_network(setting, seed)
    optimizer = METHODS[name].optimizer(trained.model.parameters(), weight_decay=decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, Cosine(1.0, steps))
    for _ in train(optimizer, trained.loss, steps, scheduler):
        pass
    root: Any = preconditioner_of(optimizer)  # √v̂ + ε
    root = root.numpy(force=True)
    share = held_share(name, decay, v=root**2, mean=float((root**2).mean()))
    theta = trained.theta
    return float(np.linalg.norm(trained.gradient(theta)) / np.linalg.norm(share * theta))


# The verdicts


def judge_ends(found: dict[tuple[str, str], FinalGradients], by_weight: dict[str, NDArray]) -> list[Verdict]:
    """All verdicts: on the law, and on the published comparison of the decays."""
    cosine = {name: found[name, "cosine"] for name in RANGES}
    return [
        *(_law(name, seen) for name, seen in cosine.items()),
        *(_law_by_weight(name, ratios) for name, ratios in by_weight.items()),
        must_be_refuted("control: SGDW, λ for R/η_eff", _with_decay_alone(cosine["SGDW"])),
        *(_noise_adds(name, found[name, "constant"]) for name in ISOTROPIC),
        *(_grows(name, seen) for name, seen in cosine.items()),
        *_stable_ends_lower(cosine),
    ]


def _law(name: str, seen: FinalGradients) -> Verdict:
    claim = f"Where {name} has come to rest, ‖g‖ = (R/η_eff)·‖θ‖, with every λ and seed and one η_eff for all weights"
    return _as_law(name, claim, seen.ratios)


def _as_law(name: str, claim: str, ratios: NDArray) -> Verdict:
    why = (
        f"relative {LEFT:.2g}: what is left of the start after ΣR = {SETTLED:g}; the number is ‖g‖ divided by the law,"
        f" the farthest from 1 of {ratios.size} runs with ΣR of at least that"
    )
    return judge(
        f"{name}: law",
        claim,
        predicted=1.0,
        measured=farthest(ratios, 1.0) if ratios.size else np.nan,
        allowed=LEFT,
        why=why,
    )


def _law_by_weight(name: str, ratios: NDArray) -> Verdict:
    claim = (
        f"Where {name} has come to rest, with its largest λ, ‖g‖ is the norm of (R/η_eff)·θ with η_eff of each weight"
    )
    return _as_law(f"{name}, by weight", claim, ratios)


def _with_decay_alone(seen: FinalGradients) -> Verdict:
    claim = "Where SGDW has come to rest, ‖g‖ = λ‖θ‖, as if momentum did not weaken its decay"
    return _as_law("", claim, seen.ratios * (1 - BETA))


def _noise_adds(name: str, seen: FinalGradients) -> Verdict:
    return judge_at_least(
        f"{name}, constant η: noise adds",
        f"With a constant η the noise of the batches makes ‖g‖ of {name} larger than the law at rest, in every run",
        least=1 - LEFT,
        measured=float(seen.ratios.min()) if seen.ratios.size else np.nan,
        why=f"1 less {LEFT:.2g}, what is left of the start; the number is ‖g‖ divided by the law, the smallest of all",
    )


def _grows(name: str, seen: FinalGradients) -> Verdict:
    one, more = seen.norm[seen.best], seen.norm[min(seen.best + 2, len(seen.decays) - 1)]
    return judge_more(
        f"{name}: larger λ, larger ‖g‖",
        f"With {name} ten times the best λ ends with a larger gradient than the best λ (difference of log₁₀ ‖g‖)",
        np.log10(more),
        np.log10(one),
        why="any difference that the seeds can tell from 0; the best λ is that with the smallest test error",
    )


def _stable_ends_lower(cosine: dict[str, FinalGradients]) -> list[Verdict]:
    """The published comparison, at the best λ of each and at one λ."""
    why = "any difference that the seeds can tell from 0"
    verdicts = [
        judge_more(
            f"{stable} below {other}",
            f"Each with its best λ, {stable} ends with a smaller gradient than {other} (difference of log₁₀ ‖g‖)",
            np.log10(cosine[other].norm[cosine[other].best]),
            np.log10(cosine[stable].norm[cosine[stable].best]),
            why=f"{why}; the best λ is that with the smallest test error",
        )
        for stable, other in (("AdamS", "AdamW"), ("AdamS", "Adam"), ("SGDS", "SGD"))
    ]
    for stable, other in (("SGDS", "SGDW"), ("AdamS", "AdamW")):
        one, two = cosine[stable], cosine[other]
        both = np.isclose(one.decays[:, None], two.decays).nonzero()
        i, j = (int(places[-1]) for places in both)
        claim = f"With the same λ = {one.decays[i]:g}, {stable} ends with a smaller gradient than {other}"
        verdicts.append(
            judge_more(
                f"{stable} below {other}, one λ",
                f"{claim} (difference of log₁₀ ‖g‖)",
                np.log10(two.norm[j]),
                np.log10(one.norm[i]),
                why=f"{why}; the largest λ with which both are trained",
            )
        )
    return verdicts


# The figure

ETA = r"η$_{\mathrm{eff}}$"
RATIO = f"R/{ETA}"


def draw(data: tuple[dict[tuple[str, str], FinalGradients], dict[str, NDArray]]) -> Figure:
    """The final gradient over λ, for the SGD family and the Adam family, with the law."""
    found, by_weight = data
    with house_style():
        figure = Figure(figsize=(9.6, 5.0))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, family in zip(panels, (("SGD", "SGDW", "SGDS"), ADAMS), strict=True):
            for name in family:
                _draw_optimizer(axes, name, found)
            axes.set(
                xscale="log",
                yscale="log",
                xlabel="weight decay λ",
                title=f"{family[0]} family, η = {RANGES[family[0]][0]['lr']:g}",
            )
        early = "small λ, above the line:\nthese runs end before they rest"
        panels[0].text(0.4, 0.05, early, transform=panels[0].transAxes, fontsize=9)
        for name, ratios in by_weight.items():
            _draw_law_by_weight(panels[1], found[name, "cosine"], ratios)
        _mark(panels[1], found["AdamS", "cosine"], f": {ETA} differs\nfrom weight to weight", (0.03, 0.93))
        _mark(panels[1], found["AdamW", "cosine"], "", (0.72, 0.93))
        panels[0].set_ylabel("‖g‖ of the training loss at the end")
        figure.legend(handles=_keys(), loc="outside lower center", ncols=4)
        figure.suptitle(TITLE, x=0.01, ha="left")
    return figure


TITLE = (
    "With every decay a larger λ ends with a larger gradient. Where a run has come to rest,\n"
    f"the gradient balances the decay: ‖g‖ = ‖({RATIO})·θ‖, with {ETA} of each weight"
)
# So that lines and points that coincide can be told apart: what is drawn first is thicker and larger.
LOOKS: dict[str, tuple[float, float]] = {"L2": (4.0, 8.5), "decoupled": (1.8, 6.0), "stable": (1.6, 5.0)}


def _draw_optimizer(axes: Axes, name: str, found: dict[tuple[str, str], FinalGradients]) -> None:
    mode, seen = METHODS[name].mode, found[name, "cosine"]
    linewidth, markersize = LOOKS[mode]
    axes.plot(seen.decays, _middle(seen.law), **theory(mode, linewidth=linewidth))
    for schedule, more in (("constant", {"markerfacecolor": "none"}), ("cosine", {})):
        points = found[name, schedule]
        axes.plot(points.decays, _middle(points.norm), **measured(mode, markersize=markersize, **more))


def _draw_law_by_weight(axes: Axes, seen: FinalGradients, ratios: NDArray) -> None:
    """The law with η_eff of each weight, at the largest λ: a short line, in front of the points."""
    law = float(seen.norm[-1].mean() / ratios.mean())
    axes.plot(seen.decays[-1] * np.array([0.6, 1.7]), [law, law], color="black", linewidth=1.4, zorder=5)


def _mark(axes: Axes, seen: FinalGradients, why: str, place: tuple[float, float]) -> None:
    """How far the gradient with the largest λ is above the line for one η_eff."""
    said = f"× {float((seen.norm / seen.law)[-1].mean()):.2g}{why}"
    at = (seen.decays[-1], float(seen.norm[-1].mean()))
    arrow = {"arrowstyle": "-", "color": "#444444", "shrinkB": 5}
    axes.annotate(said, at, xytext=place, textcoords="axes fraction", fontsize=9, va="top", arrowprops=arrow)


def _middle(values: NDArray) -> NDArray:
    """The geometric mean over the seeds."""
    return np.exp(np.log(values).mean(axis=1))


def _keys() -> list[Line2D]:
    modes = ("L2", "decoupled", "stable")
    keys = [Line2D([], [], **measured(mode, linestyle="-", label=LABELS[mode])) for mode in modes]
    shapes: list[dict[str, Any]] = [
        {"linestyle": "-", "label": f"law with one {ETA}, ({RATIO})·‖θ‖"},
        {"linestyle": "none", "marker": "o", "label": "measured, η falls along a cosine"},
        {"linestyle": "none", "marker": "o", "markerfacecolor": "none", "label": "measured, constant η"},
    ]
    pairs = zip(keys, [Line2D([], [], color="#444444", **shape) for shape in shapes], strict=True)
    by_weight = Line2D([], [], color="black", linewidth=1.4, label=f"law with {ETA} of each weight")
    return [*(key for pair in pairs for key in pair), Line2D([], [], linestyle="none", label=" "), by_weight]


STUDY = Study(
    "gradient-norm",
    CLAIM,
    SOURCE,
    measure,
    draw,
    CAPTION,
    not_confirmed=frozenset(
        {
            *("AdamW: law", "AdamS: law"),  # one η_eff for all weights is not enough
            *("AdamS below AdamW", "AdamS below Adam", "SGDS below SGD"),
            *("SGDS below SGDW, one λ", "AdamS below AdamW, one λ"),
        }
    ),
)
