"""Study: how the best λ of AdamW and of AdamS moves with the batch size."""

from collections.abc import Callable
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import sympy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from swd_dynamics.plots import MUTED, house_style, measured
from swd_dynamics.rules import CATALOG
from swd_dynamics.studies.judging import vertex
from swd_dynamics.studies.paired import judge_same, paired_difference
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.tuning import SHAPE, Contestant, percent, trained
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.trace import long_run, trace
from swd_dynamics.tasks import tanh_network
from swd_dynamics.verdict import Verdict, must_be_refuted

CLAIM = (
    "In runs over the same number of epochs with the same η, the best λ of AdamW grows in proportion to the batch size"
    " B, so that R·steps is constant. By the same law that of AdamS grows as B·√v̄, which is √B where √v̄ falls as 1/√B:"
    " AdamS needs a smaller change of λ than AdamW, by the exponent of √v̄."
)
SOURCE = "Bergsma et al. 2025, “Power Lines”, for ηλ·steps of AdamW; for AdamS it follows from R = λη/√v̄ (2011.11152)"
CAPTION = (
    "Left and middle: the mean test error over λ at each batch size; lines join measured points. A circle is the"
    " largest harmless λ: its error is one percentage point above the smallest, and all larger λ of the grid have"
    " larger errors. Right: these λ over the batch size, with 95 % intervals. The lines are two predictions, each drawn"
    " through the middle of the points: if R·steps is constant, decay leaves the same share of the start, and if"
    " R/η_eff is constant, the rest point of the weights is the same. All runs see the images equally often and have"
    " the same constant η, so those with large batches take fewer steps. Whether R·steps stays constant is not decided."
    " With AdamS and B = 10 the smallest error is at the end of the grid, so that its point is uncertain (hollow):"
    " without it the exponent of AdamS is 1.35 ± 0.63.\n\n"
    "The intervals are those of Student's t, by the jackknife over the seeds. The predicted exponents are 1.00 (AdamW)"
    " and 1.11 (AdamS) if R·steps is constant, and −0.12 and 0 if R/η_eff is constant. The exponent of √v̄ in the"
    " predictions is measured in the last step of the same runs. The best λ (not drawn) is that of a parabola in log λ"
    " through the smallest error and its two neighbours. It is known less well than the largest harmless λ, because the"
    " curves are flat around it. Its exponent is 1.26 ± 0.20 with AdamW, and with AdamS it is not measured: at B = 10"
    " the smallest error is at the end of the grid, so that neither the best λ nor the smallest error is known. The"
    " circle of AdamS at B = 10 is one percentage point above the smallest error of the grid. It does not end a range"
    " of harmless λ, because at λ = 1.1e-3 the error is already 11.0 %, where 10.8 % is harmless. The exponent of AdamS"
    " in the title contains this circle; that without B = 10 was computed after the results were known. The claim"
    " supposes that √v̄ falls as 1/√B, but it rises slightly, as B to the power 0.12. So the same law predicts that"
    " AdamS needs the larger change of λ, with the exponent 1.11 instead of 1. Which of the two needs the larger change"
    " is not decided by the runs. The study is about one small network and 500 images."
)

EPOCHS, SAMPLES, LR = 24, 500, 1e-2
BATCHES = (10, 20, 50, 100)
WEIGHT_DECAYS = {
    "AdamW": tuple(np.geomspace(0.03, 5.0, 9)),
    "AdamS": tuple(np.geomspace(3e-4, 5e-2, 9)),
}
HARM = 1.0  # percentage points of test error, 13 images: two standard errors of the difference of two points of a curve

# A quarter: the rival predictions differ by a half where √v̄ falls as 1/√B, and half of that tells them apart.
MARGIN = 0.25


INVARIANTS = {"memory": "R·steps", "rest point": "R/η_eff"}
IN_FIGURES = {"memory": "R·steps", "rest point": r"R/η$_{\mathrm{eff}}$"}

# The theory


@cache
def exponents(name: str) -> dict[str, sympy.Expr]:
    """How λ ∝ Bˣ must move to keep an invariant: x by the invariant, with p of √v̄ ∝ B⁻ᵖ as a symbol.

    R and η_eff are those of the catalogue's rule. The steps of a run are ∝ 1/B.

    Examples
    --------
    >>> exponents("AdamW")
    {'memory': 1, 'rest point': p}
    >>> exponents("AdamS")
    {'memory': 1 - p, 'rest point': 0}
    """
    size, power, decay = sympy.symbols("B p λ", positive=True)
    wanted = sympy.Symbol("x", real=True)

    def rate(of: str) -> sympy.Expr:
        return long_run(trace(CATALOG[of](lr=notation.lr, weight_decay=decay))).decay_rate

    effective_lr = rate("AdamS") / decay  # the definition of stable decay
    kept = {"memory": rate(name) / size, "rest point": rate(name) / effective_lr}
    found = {}
    for invariant, formula in kept.items():
        law: Any = formula.replace(notation.mean, lambda v: size ** (-2 * power)).subs(decay, size**wanted)
        slope = size * sympy.expand_log(sympy.log(law), force=True).diff(size)
        (found[invariant],) = sympy.solve(sympy.expand(slope), wanted)
    return found


# The measurement


class Scan(NamedTuple):
    """The runs of one optimizer.

    errors : array, shape (batch sizes, λ, seeds) — test error in percent
    root_v : array, shape (batch sizes, seeds) — √v̄ at the end of the runs with the best λ
    """

    name: str
    errors: NDArray
    root_v: NDArray

    @property
    def decays(self) -> NDArray:
        """The λ of the grid."""
        return np.array(WEIGHT_DECAYS[self.name])

    def without(self, seed: int) -> "Scan":
        """The same runs but those of a seed."""
        return self._replace(errors=np.delete(self.errors, seed, -1), root_v=np.delete(self.root_v, seed, -1))

    def found(self, kind: str) -> NDArray:
        """The best, or the largest harmless, λ of each batch size."""
        return np.array([KINDS[kind](self.decays, errors.mean(axis=-1)) for errors in self.errors])

    def slope(self, kind: str = "best") -> float:
        """The exponent x of such a λ ∝ Bˣ."""
        return power(self.found(kind))

    @property
    def noise(self) -> float:
        """The exponent p of √v̄ ∝ B⁻ᵖ."""
        return -power(np.exp(np.log(self.root_v).mean(axis=-1)))


def lowest(decays: NDArray, errors: NDArray) -> float:
    """The λ of the smallest error, by the parabola in log λ through this point and its neighbours.

    NaN where the point is at the end of the grid: then the grid may not hold the best λ.

    Examples
    --------
    >>> decays = np.array([0.25, 0.5, 1.0, 2.0])
    >>> round(lowest(decays, np.log(decays / 0.75) ** 2), 12)
    0.75
    """
    at_end = np.argmin(errors) in (0, len(errors) - 1)
    return np.nan if at_end else float(np.exp(vertex(np.log(decays), errors)))


def harmless(decays: NDArray, errors: NDArray) -> float:
    """The largest λ whose error is at most that of the best point plus HARM, interpolated in log λ.

    NaN where no λ of the grid does harm.

    Examples
    --------
    Between 1 and 4 the error rises by 2·HARM, so half of the way in log λ does no harm.

    >>> harmless(np.array([0.25, 1.0, 4.0]), np.array([5.0, 5.0, 5.0 + 2 * HARM]))
    2.0
    """
    bound = errors.min() + HARM
    last = int(np.flatnonzero(errors <= bound)[-1])
    if last + 1 == len(decays):
        return np.nan
    share = (bound - errors[last]) / (errors[last + 1] - errors[last])
    return float(decays[last] * (decays[last + 1] / decays[last]) ** share)


KINDS: dict[str, Callable[[NDArray, NDArray], float]] = {"best": lowest, "largest harmless": harmless}


def power(values: NDArray) -> float:
    """The exponent of a power law of the batch size, by least squares of the logarithms; NaN if a value is.

    Examples
    --------
    >>> round(power(np.sqrt(BATCHES)), 12)
    0.5
    """
    return float(np.polyfit(np.log(BATCHES), np.log(values), 1)[0]) if np.isfinite(values).all() else np.nan


def jackknife(scans: tuple[Scan, ...], quantity: Any) -> NDArray:
    """A value for each seed whose mean and spread are those of a quantity of all seeds: n·q − (n−1)·q without the seed.

    Source: Tukey 1958.

    Returns
    -------
    array, shape (seeds,)

    Examples
    --------
    Of a mean they are the values themselves:

    >>> scan = Scan("AdamW", np.zeros((1, 1, 3)), np.array([[1.0, 2.0, 6.0]]))
    >>> jackknife((scan,), lambda scan: scan.root_v.mean()).tolist()
    [1.0, 2.0, 6.0]
    """
    seeds = scans[0].root_v.shape[-1]
    left = [quantity(*(scan.without(seed) for scan in scans)) for seed in range(seeds)]
    return seeds * quantity(*scans) - (seeds - 1) * np.array(left)


def measure(setting: Setting) -> Findings:
    """Train with both optimizers at every batch size and every λ, all from the same seeds."""
    seeds = range(4 if setting.quick else 12)
    epochs = EPOCHS // 3 if setting.quick else EPOCHS
    work = [(name, size) for name in WEIGHT_DECAYS for size in BATCHES]
    errors: dict[str, list] = {name: [] for name in WEIGHT_DECAYS}
    roots: dict[str, list] = {name: [] for name in WEIGHT_DECAYS}
    for name, size in setting.track(work, "batch-size"):
        task = partial(tanh_network, **SHAPE | {"batch_size": size}, samples=SAMPLES, device=setting.device)
        training: dict[str, Any] = {"steps": epochs * SAMPLES // size, "schedule": "constant", "evaluations": 1}
        ((_, runs),) = trained(task, [Contestant(name, name, (LR,), WEIGHT_DECAYS[name])], seeds, **training)
        found = percent(runs).values[0]
        errors[name].append(found)
        roots[name].append(LR / runs.effective_lr.values[0, np.argmin(found.mean(axis=-1))])
    scans = {name: Scan(name, np.array(errors[name]), np.array(roots[name])) for name in WEIGHT_DECAYS}
    return Findings(judge_exponents(scans), scans)


# The verdicts


def judge_exponents(scans: dict[str, Scan]) -> list[Verdict]:
    """The measured exponents compared with those of the two invariants, with the measured exponent of √v̄."""
    pair = tuple(scans.values())
    noise = jackknife(pair, lambda one, other: (one.noise + other.noise) / 2)
    return [
        *(_exponent(scan, *which) for scan in pair for which in product(KINDS, INVARIANTS)),
        judge_same(
            "noise: √v̄ ∝ 1/√B",
            "√v̄ at the end of the runs falls as 1/√B, as where the gradients are all noise",
            one=noise,
            other=0.5,
            margin=MARGIN,
            why="a quarter would bring each prediction as near to the rival one; the mean of both optimizers",
        ),
        *(_apart(pair, noise, kind) for kind in KINDS),
        must_be_refuted("control: fewer at larger B", _against(scans["AdamW"])),
    ]


def predicted(scan: Scan, invariant: str) -> float:
    """The exponent that keeps an invariant, with the measured exponent of √v̄."""
    formula = exponents(scan.name)[invariant]
    return float(formula.subs(dict.fromkeys(formula.free_symbols, scan.noise)))


def _cause(values: NDArray) -> dict[str, str]:
    """The cause of an undecided verdict, where it is not the number of seeds."""
    outside = "at some batch size such a λ is outside of the grid, in all runs or without one of the seeds"
    return {} if np.isfinite(values).all() else {"cause": outside}


def _exponent(scan: Scan, kind: str, invariant: str) -> Verdict:
    formula = exponents(scan.name)[invariant]
    symbols = ", where √v̄ ∝ B^−p" * bool(formula.free_symbols)
    values = jackknife((scan,), lambda s: s.slope(kind) - predicted(s, invariant)) + predicted(scan, invariant)
    return judge_same(
        f"{scan.name}, {kind} λ: {invariant}",
        f"The {kind} λ of {scan.name} moves with the batch size so that {INVARIANTS[invariant]} is constant: as B to"
        f" the power {formula}{symbols}".replace(" - ", " − "),
        one=values,
        other=predicted(scan, invariant),
        margin=MARGIN,
        why="a quarter is half of the distance to the rival prediction where gradients are all noise; by the jackknife",
        **_cause(values),
    )


def _apart(pair: tuple[Scan, ...], noise: NDArray, kind: str) -> Verdict:
    values = jackknife(pair, lambda adamw, adams: adamw.slope(kind) - adams.slope(kind))
    return judge_same(
        f"AdamW − AdamS, {kind} λ",
        f"The exponent of the {kind} λ of AdamS is smaller than that of AdamW by p, as both invariants predict",
        one=values,
        other=noise,
        margin=MARGIN,
        why="the number is the difference of the exponents minus p; a quarter is half of p where gradients are noise",
        **_cause(values),
    )


def _against(scan: Scan) -> Verdict:
    """The mutant: a law with the wrong sign, in which λ must fall as the steps become fewer."""
    slope = jackknife((scan,), lambda scan: scan.slope("largest harmless"))
    claim = "The largest harmless λ of AdamW is proportional to the number of steps"
    return judge_same("", claim, one=slope, other=-1.0, margin=MARGIN, why="as for the other exponents")


# The figure


DRAWN = "largest harmless"  # the kind of λ in the figure
MODES = {"AdamW": "decoupled", "AdamS": "stable"}


def draw(scans: dict[str, Scan]) -> Figure:
    """The error over λ with each optimizer, and the largest harmless λ over the batch size with the two predictions."""
    with house_style():
        figure = Figure(figsize=(10.6, 4.4))
        *lefts, right = figure.subplots(1, len(scans) + 1)
        for axes, scan in zip(lefts, scans.values(), strict=True):
            _draw_errors(axes, scan)
            _draw_power(right, scan)
        lefts[0].legend(loc="upper left", title="batch size", alignment="left")
        _finish_power(right, scans)
        figure.suptitle(_title(scans), x=0.01, ha="left")
    return figure


def _title(scans: dict[str, Scan]) -> str:
    said = [f"{_known(scan, DRAWN)} with {scan.name}" for scan in scans.values()]
    decided = {_exponent(scan, DRAWN, "memory").status for scan in scans.values()}
    undecided = ", which does not decide whether R·steps is constant" if decided == {"inconclusive"} else ""
    return (
        f"The largest λ that costs at most {HARM:.0f} percentage point of test error grows with the batch size B:\n"
        f"its exponent is {' and '.join(said)}{undecided}"
    )


def _known(scan: Scan, kind: str) -> str:
    """An exponent with its confidence interval."""
    found = paired_difference(jackknife((scan,), lambda scan: scan.slope(kind)), 0.0)
    return f"{found.mean:.2f} ± {found.half_width:.2f}" if np.isfinite(found.mean) else "not measured"


def _draw_errors(axes: Axes, scan: Scan) -> None:
    shades = matplotlib.colormaps["cividis"](np.linspace(0.0, 0.85, len(BATCHES)))
    x, found = np.log(scan.decays), scan.found(DRAWN)
    for i, (size, shade) in enumerate(zip(BATCHES, shades, strict=True)):
        mean = scan.errors[i].mean(axis=-1)
        axes.plot(scan.decays, mean, color=shade, linewidth=1.5, label=str(size))
        axes.plot(found[i], np.interp(np.log(found[i]), x, mean), color=shade, **CIRCLES)
    smallest = scan.errors.mean(axis=-1).min()
    axes.set(xscale="log", xlabel=f"λ of {scan.name}", ylabel="test error, %", ylim=(smallest - 0.4, smallest + 5))
    axes.set_title(f"{scan.name} (○: {HARM:.0f} point above the smallest)")


CIRCLES: dict[str, Any] = {"marker": "o", "markerfacecolor": "white", "markersize": 7, "linestyle": "none"}
LINES = {"memory": ("--", "black"), "rest point": (":", MUTED)}


def _draw_power(axes: Axes, scan: Scan) -> None:
    sizes, values, look = np.array(BATCHES, dtype=float), scan.found(DRAWN), measured(MODES[scan.name], label=None)
    known = np.isfinite(values)
    axes.errorbar(sizes, values, _bars(scan, DRAWN), capsize=3, **look)
    ends = np.isin(scan.errors.mean(axis=-1).argmin(axis=1), (0, len(scan.decays) - 1))  # the smallest is not known
    axes.plot(sizes[ends], values[ends], **look | {"markerfacecolor": "white", "zorder": 4})
    if known.any():
        axes.text(sizes[-1], 2 * values[known][-1], scan.name, color=look["color"], fontweight="bold", ha="right")
        middle, centre = np.exp(np.log(sizes[known]).mean()), np.exp(np.log(values[known]).mean())
        for invariant, (dash, shade) in LINES.items():
            line = centre * (sizes / middle) ** predicted(scan, invariant)
            axes.plot(sizes, line, color=shade, linestyle=dash, linewidth=1.4)


def _finish_power(axes: Axes, scans: dict[str, Scan]) -> None:
    """The axes and the key of the right panel."""
    for invariant, (dash, shade) in LINES.items():
        label = f"predicted if {IN_FIGURES[invariant]} is constant"
        axes.plot([], [], color=shade, linestyle=dash, linewidth=1.4, label=label)
    axes.plot([], [], **CIRCLES, color=MUTED, label="uncertain (see the caption)")
    values = np.concatenate([scan.found(DRAWN) for scan in scans.values()])
    axes.set(xscale="log", yscale="log", xlabel="batch size B", ylabel=f"largest λ that costs at most {HARM:.0f} point")
    axes.set_ylim(np.nanmin(values) / 5, np.nanmax(values) * 60)
    axes.set_xticks(BATCHES, map(str, BATCHES))
    axes.minorticks_off()
    axes.set_title("λ of the circles (bars: 95 % intervals)")
    axes.legend(loc="upper left")


def _bars(scan: Scan, kind: str) -> list[NDArray]:
    """The 95 % interval of a λ at each batch size, downwards and upwards on a logarithmic axis."""
    values = scan.found(kind)
    error = np.array(
        [
            paired_difference(jackknife((scan,), lambda s, i=i: np.log(s.found(kind)[i])), 0.0).half_width
            for i in range(len(BATCHES))
        ]
    )
    return [values * (1 - np.exp(-error)), values * (np.exp(error) - 1)]


NOT_CONFIRMED = frozenset(
    {
        *(f"{name}, {kind} λ: {invariant}" for name, kind, invariant in product(WEIGHT_DECAYS, KINDS, INVARIANTS)),
        *(f"AdamW − AdamS, {kind} λ" for kind in KINDS),
        "noise: √v̄ ∝ 1/√B",
    }
)
STUDY = Study("batch-size", CLAIM, SOURCE, measure, draw, CAPTION, NOT_CONFIRMED)
