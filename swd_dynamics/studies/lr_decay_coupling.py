"""Study: how far the best λ depends on η, for each decay; the slopes are derived from what could stay constant."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import sympy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from swd_dynamics.plots import MUTED, house_style, measured
from swd_dynamics.rules import CATALOG, UpdateRule
from swd_dynamics.studies.judging import vertex
from swd_dynamics.studies.paired import judge_more, judge_same, paired_difference
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.sweeping import sweep
from swd_dynamics.symbolic import fixed_point, lettered, long_run_decay_rate, notation
from swd_dynamics.tasks import tanh_network
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "How the best λ moves with η follows from what stays constant along the valley of best λ. If that is the memory of"
    " the weights, R·steps, log λ falls by about 1 where log η grows by 1. If it is the rest point, λ does not depend"
    " on η. Where η falls to 0 in the end, the valley is nearer to a constant rest point, and where η is constant,"
    " nearer to a constant memory, with every decay."
)
SOURCE = "1711.05101 (with decoupled decay the best λ depends less on η); memory: 2405.13698; rest point: 2011.11152"
CAPTION = (
    "Left and middle: each cell is the mean test error of a small tanh network on the digits after runs with one η"
    " and one λ; η falls to 0 along half a cosine (left) or is constant (middle). Circles mark the best λ for each η"
    " whose best error is within 15 % of the best of the map. Right: the slope of log λ over log η through such"
    " circles, with each optimizer. At 0 the best λ does not depend on η, and at −1 it falls as 1/η. Bars and ± are"
    " 95 % intervals. Both predicted slopes follow from the rule, and a grey tick is half-way between them: a bar on"
    " one side of its tick decides which slope is nearer. Only that of AdamS does not.\n\n"
    "The network has 64, 32 and 10 units. The best λ is that of a parabola in log λ through the smallest error and"
    " its two neighbours. The intervals are those of Student's t, by the jackknife over the seeds. The predicted lines"
    " on the maps go through the middle of the circles. For the Adam family the measured change of √v̄ with η and λ"
    " enters the predictions, so that they are not exactly 0 and −1. “Falls as 1/η” means that the whole interval of"
    " the slope is within 0.25 of −1, and with SGDW that is not decided. The maps of the other optimizers are not"
    " drawn. Those of SGDW and SGDS are the same map, moved by 1/(1−β) = 10 in λ: their runs are the same to"
    " round-off. That the schedule decides was seen in a pilot with other seeds. The study does not show that the"
    " slopes are the same for large networks or long runs."
)

BETA = 0.9
# What an optimizer is trained with; λ is in a range of three decades around the best.
EXPONENTS = {"SGD": -4.0, "SGDW": -3.0, "SGDS": -4.0, "Adam": -4.5, "AdamW": -2.0, "AdamS": -4.0}  # of the smallest λ
LARGEST_LR = {"SGD": 0.0, "Adam": -1.0}  # the exponent for each family; the smallest η is two decades below
HALF_DECADES = (5, 7)  # values of η, and of λ, each √10 times the one before
CONSTANT = ("SGDW", "AdamW")  # also trained with a constant η

TUNED = 1.15  # an η counts if its best error is at most so many times the best of the map
SMALL = 1e-9  # λ in the theory: powers are those of the first order in λ to as many digits
MARGIN = 0.25  # a quarter of the difference of two slopes that have to be told apart
SAME_RUN = 1e-6  # relative; see _same_run

INVARIANTS = {"memory": "R·steps", "rest point": "the rest point"}


class ErrorMap(NamedTuple):
    """Test errors over (η, λ), and the valley of best λ in them.

    lrs, decays : array — of the grid
    error : array, shape (lrs, decays, seeds) — percent; infinite for a run that diverged
    norm : array, the same shape — ‖θ‖ at the end
    log_v : array, the same shape — log v̄ at the end, up to a constant; 0 for SGD
    """

    lrs: NDArray
    decays: NDArray
    error: NDArray
    norm: NDArray
    log_v: NDArray

    @property
    def rows(self) -> NDArray:
        """Which η are tuned well enough to count."""
        mean = self.error.mean(axis=2)
        return np.flatnonzero(mean.min(axis=1) <= TUNED * mean.min())

    def valley(self, seeds: NDArray | slice = slice(None)) -> NDArray:
        """log₁₀ of the best λ for each tuned η, of some seeds: the vertex of a parabola through three cells."""
        mean, x = self.error[..., seeds].mean(axis=2), np.log10(self.decays)
        return np.array([vertex(x, np.minimum(mean[i], 100.0)) for i in self.rows])

    def slope(self, seeds: NDArray | slice = slice(None)) -> float:
        """Of the valley in (log η, log λ)."""
        if len(self.rows) < 2:
            return np.nan
        return float(np.polyfit(np.log10(self.lrs[self.rows]), self.valley(seeds), 1)[0])

    @property
    def slopes(self) -> NDArray:
        """The jackknife's pseudo-values of the slope, one a seed: their mean and spread are those of the slope."""
        n = self.error.shape[2]
        without = np.array([self.slope(np.delete(np.arange(n), i)) for i in range(n)])
        return n * self.slope() - (n - 1) * without

    @property
    def moments(self) -> tuple[float, float]:
        """The powers of η and of λ with which v̄ changes, in the cells that are tuned well enough to count."""
        mean = self.error.mean(axis=2)
        i, j = np.nonzero(mean <= TUNED * mean.min())
        columns = np.column_stack([np.ones(len(i)), np.log(self.lrs[i]), np.log(self.decays[j])])
        _, by_lr, by_decay = np.linalg.lstsq(columns, self.log_v.mean(axis=2)[i, j], rcond=None)[0]
        return float(by_lr), float(by_decay)


def measure(setting: Setting) -> Findings:
    """Sweep η and λ with every optimizer, and compare the slopes of the valleys with the derived slopes."""
    maps = {(name, "cosine"): error_map(name, "cosine", setting) for name in setting.track(EXPONENTS, "cosine")}
    maps |= {(name, "constant"): error_map(name, "constant", setting) for name in setting.track(CONSTANT, "constant")}
    return Findings(judge_maps(maps), maps)


def _fixed(name: str) -> dict:
    """The arguments of an optimizer that are not in the grid."""
    return {"momentum": BETA} if name.startswith("SGD") else {"betas": (BETA, 0.999), "eps": 1e-8}


def error_map(name: str, schedule: str, setting: Setting) -> ErrorMap:
    """Train from every seed at every point of the grid."""
    steps, seeds = (60, 3) if setting.quick else (300, 8)
    top = LARGEST_LR[name.rstrip("WS")] if name.startswith("Adam") else LARGEST_LR["SGD"]
    lrs, decays = (
        10.0 ** (start + np.arange(n) / 2) for start, n in zip((top - 2, EXPONENTS[name]), HALF_DECADES, strict=True)
    )
    task = partial(tanh_network, hidden=(32,), samples=500, batch_size=50, device=setting.device)
    # The seeds of the pilot, from 0 on, are not used again.
    grid = {"lr": lrs, "weight_decay": decays}
    found = sweep(
        task,
        [(name, _fixed(name))],
        grid,
        steps=steps,
        seeds=range(10, 10 + seeds),
        schedule=schedule,
        evaluations=1,
    ).isel(optimizer=0)
    error = np.where(np.isnan(found.test_error), np.inf, 100 * found.test_error)
    log_v = 2 * np.log(lrs[:, None, None] / found.effective_lr.values) if name.startswith("Adam") else 0 * error
    return ErrorMap(lrs, decays, error, found.weight_norm.values, log_v)


# The theory


def predicted_slope(name: str, invariant: str, moments: tuple[float, float] = (0.0, 0.0)) -> float:
    """The slope d log λ / d log η along which an invariant of a rule stays constant, to first order in λ.

    An invariant I(η, λ, v) is constant along −(p_η + p_v·b)/(p_λ + p_v·c), with its powers p_x = ∂ log I/∂ log x, and
    v ∝ ηᵇλᶜ.

    Parameters
    ----------
    name : str — in CATALOG
    invariant : "memory" or "rest point"
    moments : pair of float — b and c

    Examples
    --------
    R = ηλ of decoupled decay is constant along λ ∝ 1/η. Its rest point, h(θ⋆ − θ) = (1−β)λθ, does not depend on η.

    >>> predicted_slope("SGDW", "memory"), predicted_slope("SGDW", "rest point")
    (-1.0, 0.0)

    R of AdamS is ηλ/√v̄. Where v̄ ∝ 1/√η, R ∝ η^1.25·λ.

    >>> predicted_slope("AdamS", "memory", (-0.5, 0.0))
    -1.25
    """
    fixed = _fixed(name) | ({"eps": 0.0} if name.startswith("Adam") else {})
    rule, values = lettered(CATALOG[name](lr=0.1, weight_decay=SMALL, **fixed))
    kept = _invariant(rule, invariant)
    numbers = {symbol: sympy.Rational(str(value)) for symbol, value in values.items()}
    v = sympy.Symbol("v", positive=True)

    def power(symbol: sympy.Symbol) -> float:
        rate = symbol * sympy.diff(sympy.log(kept), symbol)
        return round(float(rate.subs({**numbers, v: 1}).evalf(40)), 6) + 0.0

    by_lr, by_decay = moments
    by_v = power(v)
    return -(power(rule.lr) + by_v * by_lr) / (power(rule.weight_decay) + by_v * by_decay) + 0.0


def _invariant(rule: UpdateRule, invariant: str) -> sympy.Expr:
    """What stays constant, with one v for all weights."""
    if invariant == "memory":
        kept = long_run_decay_rate(rule).value
    else:
        kept = notation.curvature * (notation.theta_star / fixed_point(rule).value - 1)
    v = sympy.Symbol("v", positive=True)
    alike = kept.replace(notation.mean, lambda inside: inside)
    return sympy.expand(alike.subs({symbol: v for symbol in alike.free_symbols if symbol.name == "v"}))


# The verdicts


def judge_maps(maps: dict[tuple[str, str], ErrorMap]) -> list[Verdict]:
    """All verdicts."""
    sgdw, sgds = maps["SGDW", "cosine"], maps["SGDS", "cosine"]
    claim = "A run of SGDS with λ is the run of SGDW with λ/(1−β), at every point of the map and with every seed"
    wrong = "A run of SGDS with λ is the run of SGDW with the same λ"
    unmoved = (
        sgdw._replace(norm=sgdw.norm[:, 2:]),
        sgds._replace(norm=sgds.norm[:, :-2]),
    )  # two half-decades are 1/(1−β)
    return [
        *(v for key, seen in maps.items() if key[0] != "SGDS" for v in judge_slopes(*key, seen)),
        *judge_coupling(maps),
        _same_run("SGDS is SGDW", claim, sgdw, sgds),
        must_be_refuted("control: SGDS is SGDW, λ kept", _same_run("", wrong, *unmoved)),
    ]


def judge_slopes(name: str, schedule: str, seen: ErrorMap) -> list[Verdict]:
    """Which invariant the measured slope of the valley is nearer to, and whether it is the slope of either."""
    how = "" if schedule == "cosine" else ", constant η"
    trained = f"With {name}," if schedule == "cosine" else f"With {name} and a constant η,"
    why = f"{MARGIN:g}: a quarter of the distance between the slopes −1 and 0; jackknife over the seeds"
    predicted = {invariant: predicted_slope(name, invariant, seen.moments) for invariant in INVARIANTS}
    nearer, farther = ("rest point", "memory") if schedule == "cosine" else ("memory", "rest point")
    side = 1.0 if predicted[nearer] > predicted[farther] else -1.0
    which = judge_more(
        f"{name}{how}: nearer to {nearer}",
        f"{trained} the slope is nearer to that of a constant {nearer} (distance from half-way)",
        side * seen.slopes,
        side * sum(predicted.values()) / 2,
        why="half-way between the two predicted slopes; jackknife over the seeds",
    )
    return [which] + [
        judge_same(
            f"{name}{how}: {invariant}",
            f"{trained} {said} stays constant along the best λ (slope of log λ over log η)",
            seen.slopes,
            predicted[invariant],
            margin=MARGIN,
            why=why,
        )
        for invariant, said in INVARIANTS.items()
    ]


def judge_coupling(maps: dict[tuple[str, str], ErrorMap]) -> list[Verdict]:
    """Whether one decay makes the best λ less dependent on η than another: the published claim, and ours."""
    return [
        judge_more(
            f"{less} below {more}",
            f"With {less} the best λ falls less where η grows than with {more} (difference of the slopes)",
            -maps[more, "cosine"].slopes,
            -maps[less, "cosine"].slopes,
            why="any difference that the seeds can tell from 0; jackknife",
        )
        for less, more in (("SGDW", "SGD"), ("AdamW", "Adam"), ("AdamS", "AdamW"))
    ]


def _same_run(name: str, claim: str, sgdw: ErrorMap, sgds: ErrorMap) -> Verdict:
    largest = np.nanmax(np.abs(sgds.norm / sgdw.norm - 1))
    return judge(
        name,
        claim,
        predicted=0.0,
        measured=largest,
        allowed=SAME_RUN,
        why="the largest relative difference of ‖θ‖ at the end; the two round differently, by 1e-16 a step, and"
        " training at the largest η amplifies that",
    )


# The figure

LINES: dict[str, Any] = {"memory": "-", "rest point": "--"}  # the dashes of a prediction
CIRCLES: dict = {"color": "white", "marker": "o", "markersize": 8, "markeredgecolor": "black", "linestyle": "none"}
MODES = {"": "L2", "W": "decoupled", "S": "stable"}  # by the end of an optimizer's name
SHOWN = "AdamW"  # whose two maps are drawn
SCHEDULES = {"cosine": "η falls to 0", "constant": "η constant"}


def draw(maps: dict[tuple[str, str], ErrorMap]) -> Figure:
    """Two maps, with the measured valley and the two predicted slopes, and the slopes of all optimizers."""
    with house_style():
        figure = Figure(figsize=(10.6, 4.9))
        *lefts, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
        best = min(maps[SHOWN, schedule].error.mean(axis=2).min() for schedule in SCHEDULES)
        for axes, schedule in zip(lefts, SCHEDULES, strict=True):
            _draw_map(axes, maps[SHOWN, schedule], best)
            _draw_valley(axes, maps[SHOWN, schedule])
            axes.set_title(f"{SHOWN}, {SCHEDULES[schedule]}: slope {_known(maps[SHOWN, schedule])}")
        figure.colorbar(lefts[0].collections[0], ax=lefts[1], extend="max", label="test error, % of images misread")
        _draw_slopes(right, maps)
        figure.legend(handles=_keys(), loc="outside lower center", ncols=4)
        figure.suptitle(_title(maps), x=0.01, ha="left")
    return figure


def _draw_map(axes: Axes, seen: ErrorMap, best: float) -> None:
    x, y, mean = np.log10(seen.lrs), np.log10(seen.decays), seen.error.mean(axis=2)
    shown = np.where(np.isfinite(mean), mean, 100.0)
    axes.pcolormesh(x, y, shown.T, vmin=best, vmax=1.6 * best, shading="nearest")
    axes.set(xlabel="learning rate η", ylabel="weight decay λ")
    axes.set(xlim=(x[0] - 0.25, x[-1] + 0.25), ylim=(y[0] - 0.25, y[-1] + 0.25))
    for ticks, values in ((axes.set_xticks, x), (axes.set_yticks, y)):
        whole = np.arange(np.ceil(values[0]), values[-1] + 0.1)
        ticks(whole, [f"$10^{{{int(n)}}}$" for n in whole])


def _draw_valley(axes: Axes, seen: ErrorMap) -> None:
    x, at, valley = np.log10(seen.lrs), np.log10(seen.lrs[seen.rows]), seen.valley()
    for invariant, style in LINES.items():
        line = valley.mean() + predicted_slope(SHOWN, invariant, seen.moments) * (x - at.mean())
        axes.plot(x, line, color="white", linewidth=4)
        axes.plot(x, line, color="black", linewidth=1.8, linestyle=style)
    axes.plot(at, valley, **CIRCLES)


def _draw_slopes(axes: Axes, maps: dict[tuple[str, str], ErrorMap]) -> None:
    """From above, for each optimizer and schedule: the measured slope with its interval, and the predicted slopes."""
    for y, ((name, _), seen) in enumerate(maps.items()):
        slope = paired_difference(seen.slopes, 0.0)
        look = measured(MODES[name.removeprefix("SGD").removeprefix("Adam")], label=None)
        axes.errorbar(slope.mean, y, xerr=slope.half_width, capsize=3, **look)
        predicted = {invariant: predicted_slope(name, invariant, seen.moments) for invariant in LINES}
        for invariant, style in LINES.items():
            axes.vlines(predicted[invariant], y - 0.38, y + 0.38, color="black", linewidth=1.8, linestyle=style)
        axes.vlines(sum(predicted.values()) / 2, y - 0.38, y + 0.38, color=MUTED, linewidth=1.8)
    rows = [f"{name},\n{SCHEDULES[schedule]}" for name, schedule in maps]
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set(ylim=(len(rows) - 0.5, -0.5), title="slope with each optimizer", xlabel="slope of log λ over log η")
    axes.set_xticks([-1, -0.5, 0], ["−1\n(λ ∝ 1/η)", "−0.5", "0\n(no change)"])


def _keys() -> list[Line2D]:
    lines = {"memory": "predicted if R·steps is constant", "rest point": "predicted if the rest point is constant"}
    return [
        Line2D([], [], **CIRCLES, label="best λ for an η"),
        Line2D([], [], color=MUTED, linewidth=1.8, label="half-way between both"),
        *(
            Line2D([], [], color="black", linewidth=1.8, linestyle=LINES[name], label=text)
            for name, text in lines.items()
        ),
    ]


def _title(maps: dict[tuple[str, str], ErrorMap]) -> str:
    """Whether the best λ falls as 1/η, for both schedules, as far as the verdicts decide it, with the slopes."""
    found = {schedule: maps[SHOWN, schedule] for schedule in SCHEDULES}
    falls = {schedule: judge_slopes(SHOWN, schedule, seen)[1].status for schedule, seen in found.items()}
    said = {"confirmed": "falls as 1/η", "refuted": "does not fall as 1/η", "inconclusive": "may fall as 1/η or not"}
    return (
        f"Where η falls to 0, the best λ of {SHOWN} {said[falls['cosine']]} (slope {_known(found['cosine'])}).\n"
        f"Where η is constant, it {said[falls['constant']]} (slope {_known(found['constant'])}; ±: 95 % intervals)"
    )


def _known(seen: ErrorMap) -> str:
    """A slope with its 95 % interval."""
    slope = paired_difference(seen.slopes, 0.0)
    return f"{slope.mean:.2f} ± {slope.half_width:.2f}".replace("-", "−")


STUDY = Study(
    "lr-decay-coupling",
    CLAIM,
    SOURCE,
    measure,
    draw,
    CAPTION,
    not_confirmed=frozenset(
        {
            *(f"{name}: memory" for name in ("SGD", "SGDW", "Adam", "AdamW", "AdamS")),
            *(f"{name}: rest point" for name in ("SGD", "SGDW", "AdamW", "AdamS")),
            *("SGDW, constant η: memory", "SGDW, constant η: rest point", "AdamW, constant η: rest point"),
            *("AdamW below Adam", "AdamS below AdamW", "AdamS: nearer to rest point"),
        }
    ),
)
