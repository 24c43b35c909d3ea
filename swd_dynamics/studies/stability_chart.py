"""Study: the map of learning rate, momentum and weight decay on which a run converges, for each place of the decay."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import sympy
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from swd_dynamics.plots import COLOURS, LABELS, Runs, house_style, stability_chart
from swd_dynamics.rules import CATALOG, UpdateRule
from swd_dynamics.studies.frozen_runs import BETA, FAMILIES, Cells, arguments_of, converges, entries, real_optimizer
from swd_dynamics.studies.judging import farthest, judge_relative
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.symbolic import NumericStability, notation, numeric_stability, stability_limit
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "Momentum raises the largest stable learning rate with L2 and with decoupled decay, whatever its length. With"
    " stable decay it raises that limit only up to β = (√h − √λ)/(√h + √λ), where the limit is 4/(√h + √λ)², the step"
    " of Polyak's optimal heavy ball for curvatures from λ to h; more momentum lowers the limit, to 0."
)
SOURCE = (
    "the Jury conditions (Jury 1964) of the derived linear map; the maximum is derived here. Polyak 1964 has the same"
    " step, for another question: the fastest convergence"
)
CAPTION = (
    "Greys: |z| of the largest eigenvalue of the derived linear map on f = ½hθ² with h = 1. Lines: the derived"
    " stability limit. Points: torch runs of SGD, SGDW and SGDS, black if they converged and white if they diverged."
    " Above: λ = 0.01. The star is the largest learning rate that stable decay allows with any momentum. Past β = (h −"
    " λ)/(h + λ), a memory of 51 steps here, stable decay allows less than without momentum. The reason is that R ="
    " ηλ/(1 − β) grows with the momentum; in units of η/(1 − β) the limit of stable decay grows with β too. Below: β ="
    " 0.9. Where λ is large, the limit is that of the decay alone: ηλ = 2(1 + β) with L2, 2 with decoupled and 2(1 − β)"
    " with stable decay.\n\n"
    "Inside its limit, except next to it, stable decay lets a perturbation fade at least as fast as"
    " L2 does. Also tested, but not drawn: every optimizer of the catalogue that has a linear map with its second"
    " moment frozen. In a pilot run the best momentum was read off as 0.8211, where 0.8182 is predicted, after which"
    " the momenta to which the curve is fitted were restricted to a narrower range. No run depends on a seed."
)

H, DECAY = 1.0, 0.01  # of the upper row; only λ/h matters
# The decays compared, and the optimizer of each.
MODES = {"L2": "SGD", "decoupled": "SGDW", "stable": "SGDS"}
BESIDE = (0.97, 1.03)  # curvatures of runs beside a limit, in units of it
# Learning rates and λ of the runs of every catalogue entry, and the v of half of their weights each: all decays alone
# are stable there, so that a limit h > 0 exists.
LRS, DECAYS, SECOND_MOMENTS = (0.05, 0.5), (0.005, 0.05), (0.16, 0.36)
FROZEN = ("v", "v_max", "s", "u")  # the names of frozen memory in the linear maps
AT_LIMIT = 1e-9  # allowed for |z| − 1 at the limit: a root of a polynomial of degree 2 or 3, in float64
AROUND = np.linspace(-0.06, 0.06, 9)  # momenta around the best, in which the limits of real runs are searched
HALVINGS, NEAR = 12, 0.05  # of the search for a limit, which begins at ±NEAR of the predicted one


class Peak(NamedTuple):
    """The largest limit that stable decay allows: momentum and learning rate, derived and measured."""

    derived: tuple[float, float]
    measured: tuple[float, float]
    momenta: NDArray
    limits: NDArray


class Chart(NamedTuple):
    """Real runs over two hyperparameters with each decay, and which of them should converge."""

    y: str
    at: dict[str, tuple[float, float]]
    runs: dict[str, Runs]
    expected: dict[str, NDArray]


def measure(setting: Setting) -> Findings:
    """Train on two charts, search the best momentum, and try every entry of the catalogue beside its limit."""
    quick = setting.quick
    momentum = chart("momentum", (0.0, 0.96 if quick else 0.99), 60 if quick else 400, quick)
    decay = chart("weight_decay", (1e-3, 100.0), 60 if quick else 120, quick)
    peak = search_peak(AROUND[::2], 60) if quick else search_peak(AROUND, 200)
    verdicts = [_on_chart(found, mode) for found in (momentum, decay) for mode in MODES]
    verdicts += [*_of_peak(peak), *_catalogue(setting), *_controls(momentum, peak)]
    return Findings(verdicts, (momentum, decay, peak))


def rule_of(mode: str) -> UpdateRule:
    """The heavy ball with a decay, at the values that a chart does not change."""
    return CATALOG[MODES[mode]](lr=0.1, momentum=BETA, weight_decay=DECAY)


def chart(y: str, ends: tuple[float, float], third: int, quick: bool) -> Chart:
    """Real runs over the learning rate and another hyperparameter, beside a grid that no limit goes through."""
    at = {"lr": (0.1, 10.0), y: ends}
    lrs = np.geomspace(0.5, 5.0, 6) if quick else np.geomspace(0.13, 7.5, 14)
    inner = (1.1, 0.9 / (1 - ends[1])) if y == "momentum" else (1.5 * ends[0], 0.7 * ends[1])
    values = np.geomspace(*inner, 4 if quick else 9)
    values = 1 - 1 / values if y == "momentum" else values
    x, across = (each.ravel() for each in np.meshgrid(lrs, values))
    runs, expected = {}, {}
    for mode in MODES:
        numbers = numeric_stability(rule_of(mode))
        runs[mode] = Runs(x, across, run_all(mode, {"lr": x, y: across}, third))
        expected[mode] = numbers.limit(**{"lr": x, y: across}) > H
    return Chart(y, at, runs, expected)


def run_all(mode: str, numbers: dict[str, NDArray], third: int) -> NDArray:
    """Whether each real run of the heavy ball with f = ½hθ² converges; each has its own optimizer's numbers."""
    values = {"weight_decay": np.full_like(numbers["lr"], DECAY), **numbers}
    momenta = values.pop("momentum", np.full_like(values["lr"], BETA))
    found = np.empty(len(momenta), dtype=bool)
    for beta in np.unique(momenta):
        own = momenta == beta
        lrs, decays = (values[name][own][:, None] for name in ("lr", "weight_decay"))
        cells = Cells(lrs, decays, np.full_like(lrs, H), np.ones_like(lrs))
        found[own] = converges(MODES[mode], cells, third, momentum=float(beta))[:, 0]
    return found


def derived_peak(h: Any, decay: Any) -> tuple[sympy.Expr, sympy.Expr]:
    """The momentum at which stable decay allows the largest learning rate, and that learning rate.

    The derived limit h_max(η, β) = h is solved for η, and ∂η/∂β = 0 for β.

    Examples
    --------
    With h = 1 and λ = 1/9, (√h − √λ)/(√h + √λ) = 1/2, and 4/(√h + √λ)² = 9/4:

    >>> derived_peak(1, sympy.Rational(1, 9))
    (1/2, 9/4)
    """
    beta = sympy.Symbol("β", positive=True)
    limit = stability_limit(CATALOG["SGDS"](lr=notation.lr, momentum=beta, weight_decay=decay)).value
    (largest,) = sympy.solve(sympy.numer(sympy.together(limit - h)), notation.lr)
    at_rest = sympy.solve(sympy.numer(sympy.together(sympy.diff(largest, beta))), beta)
    (best,) = [each for each in at_rest if 0 < float(each.subs(_between(each))) < 1]
    return sympy.simplify(best), sympy.simplify(largest.subs(beta, best))


def _between(expression: sympy.Expr) -> dict:
    """Numbers for symbols: the first in the order of names is larger, as h is compared with λ."""
    return {s: 1 / sympy.Integer(1 + 3 * i) for i, s in enumerate(sorted(expression.free_symbols, key=str))}


def search_peak(around: NDArray, third: int) -> Peak:
    """The largest η of real SGDS runs for momenta around the best, by bisection, and the maximum of a curve through
    them."""
    best, largest = map(float, derived_peak(sympy.Rational(H), sympy.Rational(repr(DECAY))))
    momenta = best + around
    low, high = np.full_like(momenta, (1 - NEAR) * largest), np.full_like(momenta, (1 + NEAR) * largest)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        alive = run_all("stable", {"lr": middle, "momentum": momenta}, third)
        low, high = np.where(alive, middle, low), np.where(alive, high, middle)
    limits = (low + high) / 2
    fit = np.polynomial.Polynomial.fit(momenta, limits, 4)
    (at,) = [float(r.real) for r in fit.deriv().roots() if abs(r.imag) < 1e-9 and momenta[0] < r.real < momenta[-1]]
    return Peak((best, largest), (at, float(fit(at))), momenta, limits)


def beside(name: str, third: int) -> tuple[int, int, float]:
    """Runs on the wrong side of an entry's derived limit, their number, and the largest ||z| − 1| at the limit."""
    numbers = numeric_stability(CATALOG[name](lr=0.1, weight_decay=0.1, **arguments_of(name)))
    lrs, decays = (each.reshape(-1, 1) for each in np.meshgrid(LRS, DECAYS))
    shape = (len(lrs), len(SECOND_MOMENTS) * len(BESIDE))
    v = np.broadcast_to(np.repeat(SECOND_MOMENTS, len(BESIDE)), shape)
    sides = np.broadcast_to(np.tile(BESIDE, len(SECOND_MOMENTS)), shape)
    known = values_of(numbers, lrs, decays, v)
    limits = np.broadcast_to(numbers.limit(**known), shape)
    wrong = converges(name, Cells(lrs, decays, sides * limits, v), third) != (sides < 1)
    return int(wrong.sum()), wrong.size, float(np.abs(numbers.growth(limits, **known) - 1).max())


def values_of(numbers: NumericStability, lrs: NDArray, decays: NDArray, v: NDArray) -> dict[str, NDArray]:
    """The numbers of a linear map: η, λ and frozen memory, and η/η_max with the η_max = 1 of these runs."""
    known = {"lr": lrs, "weight_decay": decays, **{name: v for name in FROZEN if name in numbers.names}}
    return known | ({"kappa": lrs} if "kappa" in numbers.names else {})


def _on_chart(found: Chart, mode: str) -> Verdict:
    runs, expected = found.runs[mode], found.expected[mode]
    over = "momentum" if found.y == "momentum" else "λ"
    return judge(
        f"η and {over}, {LABELS[mode]}",
        f"All {expected.size} runs of {MODES[mode]} over η and {over} converge or diverge as the derived limit says",
        predicted=0.0,
        measured=float((runs.converged != expected).sum()),
        allowed=0.0,
        why="the number of runs on the wrong side of the limit",
    )


def _of_peak(peak: Peak) -> Iterator[Verdict]:
    (beta, lr), (seen_beta, seen_lr) = peak.derived, peak.measured
    claim = "Of all momenta, stable decay allows the largest learning rate at β = (√h − √λ)/(√h + √λ)"
    why = f"{len(peak.limits)} limits, each right to 1e-4, and a curve of fourth degree; they are flat near the best"
    yield judge("the best momentum", claim, predicted=beta, measured=seen_beta, allowed=0.005, why=why)
    claim = "That learning rate is 4/(√h + √λ)², Polyak's step for curvatures from λ to h"
    polyak = 4 / (H**0.5 + DECAY**0.5) ** 2
    yield judge_relative("the largest η", claim, polyak, seen_lr, 1e-3, why)
    yield judge_relative(
        "the derived peak",
        "The peak derived from the limit is Polyak's step",
        polyak,
        lr,
        1e-12,
        "algebra, then float64",
    )


def _catalogue(setting: Setting) -> Iterator[Verdict]:
    """Every family of the catalogue beside its limits; the short form tries one entry of most families."""
    at_limit: dict[str, float] = {}
    for family in setting.track(FAMILIES, "stability of the catalogue"):
        names = entries(family)
        if setting.quick:
            names = names[:3] if family in ("SGD", "Adam") else names[:1]
        tried = {name: beside(name, 30 if setting.quick else 100) for name in names}
        at_limit |= {name: size for name, (*_, size) in tried.items()}
        by_rule = [name for name in names if real_optimizer(name) is None]
        said = f" ({', '.join(by_rule)}: the rule itself, since torch has no such optimizer)" if by_rule else ""
        wrong, count = (sum(each[i] for each in tried.values()) for i in (0, 1))
        yield judge(
            f"catalogue, {family}",
            f"{', '.join(names)} converge at .97 and diverge at 1.03 times the derived limit{said}",
            predicted=0.0,
            measured=float(wrong),
            allowed=0.0,
            why=f"the number of runs on the wrong side; {count} runs with the second moment frozen",
        )
    yield judge(
        "catalogue, |z|",
        f"At the derived limit the largest |z| is 1, for {len(at_limit)} entries of the catalogue",
        predicted=1.0,
        measured=1 + farthest(list(at_limit.values()), 0.0),
        allowed=AT_LIMIT,
        why="round-off of eigenvalues in float64",
    )


def _controls(momentum: Chart, peak: Peak) -> Iterator[Verdict]:
    for mode, name in (("L2", "control: L2's limit"), ("decoupled", "control: R = ηλ")):
        swapped = momentum._replace(expected={"stable": momentum.expected[mode]})
        claim = f"All runs of SGDS over η and momentum converge or diverge as the limit derived for {LABELS[mode]} says"
        yield must_be_refuted(name, replace(_on_chart(swapped, "stable"), claim=claim))
    claim = "With stable decay the limit is largest at the longest memory tried, as with L2"
    at = float(peak.momenta[np.argmax(peak.limits)])
    why = "the spacing of the momenta is less"
    false = judge("", claim, predicted=float(peak.momenta[-1]), measured=at, allowed=0.03, why=why)
    yield must_be_refuted("control: more momentum, larger η", false)
    claim = "The largest learning rate of stable decay is 4/(h + λ), the limit of L2 for β → 1"
    false = judge_relative("", claim, 4 / (H + DECAY), peak.measured[1], 1e-3, "as for Polyak's step")
    yield must_be_refuted("control: the limit of L2", false)


def draw(data: tuple[Chart, Chart, Peak]) -> Figure:
    """Charts over learning rate and momentum, and over learning rate and λ, each with three decays."""
    momentum, decay, peak = data
    with house_style():
        figure = Figure(figsize=(8.8, 6.8))
        parts: Any = figure.subfigures(2, 1)
    for found, part, said in ((momentum, parts[0], f"λ = {DECAY:g}"), (decay, parts[1], f"β = {BETA:g}")):
        titles = {mode: f"{LABELS[mode]}, {said}" for mode in MODES}
        rules = {title: rule_of(mode) for mode, title in titles.items()}
        runs = {title: found.runs[mode] for mode, title in titles.items()}
        stability_chart(rules, x="lr", y=found.y, at=found.at, curvature=H, runs=runs, figure=part)
        for (mode, title), axes in zip(titles.items(), part.axes, strict=False):
            axes.set_title(title, loc="left", color=COLOURS[mode])
    best, largest = peak.derived
    star: dict[str, Any] = {
        "marker": "*",
        "markersize": 13,
        "color": "white",
        "markeredgecolor": "black",
        "linestyle": "none",
    }
    parts[0].axes[2].plot(largest, 1 / (1 - best), **star)
    parts[0].legend(
        handles=[Line2D([], [], **star, label=f"largest η of stable decay, {largest:.2f}")],
        loc="outside lower right",
        fontsize="small",
        frameon=False,
    )
    figure.suptitle(
        "More momentum allows larger learning rates with L2 and decoupled decay, but with stable decay\n"
        "only up to a peak at η = 4/(√h + √λ)² (star; h is the curvature). Then the limit falls, to 0 as β → 1",
        x=0.01,
        ha="left",
    )
    return figure


STUDY = Study("stability-chart", CLAIM, SOURCE, measure, draw, CAPTION)
