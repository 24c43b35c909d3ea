"""Study: whether the oscillation at the edge of stability settles or bursts follows from one derived equation."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import brentq

from swd_dynamics.plots import COLOURS, MUTED, house_style, measured
from swd_dynamics.rules import CATALOG
from swd_dynamics.studies.edge_runs import regression
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.settled_orbits import (
    OrbitFinder,
    SettledOrbit,
    at_orbit,
    fitted_root,
    sizes,
)
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.symbolic import BurstRoots, NumericOscillation, numeric_oscillation
from swd_dynamics.tasks import Task
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "Whether the oscillation at the edge of stability settles or bursts is decided by the roots of one equation that is"
    " derived from the optimizer's step. On the orbit that is tested, heavy ball bursts from a much smaller momentum on"
    " than Nesterov's momentum, and L2 from a slightly smaller one than stable decay."
)
SOURCE = (
    "theory of this project; for gradient descent, that a growing oscillation and a falling sharpness drive each other "
    "is from Damian, Nichani & Lee 2023, arXiv 2209.15594"
)
CAPTION = (
    "A SiLU network (8-16-16-1) is trained in full batches by torch's SGD and by SGDS on 50 random inputs and outputs,"
    " in float64. With R/η_eff = 0.03 the weights come to rest on an orbit θ ± δ of period two, at the limit h_max = 9."
    " The orbit is the same for all momenta and decay modes with this R/η_eff and this limit; it is found by Newton's"
    " method, and η is chosen for the limit. Left: the growth rate of a small change of ‖δ‖. The lines are the largest"
    " real part of the roots of the derived equation; the points are fitted to two torch runs whose first δ differ by"
    " two millionths. Below 0 the oscillation settles. Right: the measured size of the oscillation in two torch runs"
    " that start with a δ that is 5 % too large, and the derived envelope. The bars on the zero line are at the derived"
    " momenta from which on the oscillation bursts; heavy ball with stable decay, without a bar, bursts from 0.43 on."
    " These momenta are those of one orbit. Weaker decay is a second orbit, with R/η_eff = 0.028 and a larger δ. There"
    " only heavy ball with L2 was tested; it bursts from β = 0.36 on. All this is about the oscillation: its curvature"
    " can be at the limit in the mean over time while the oscillation bursts, as edge-of-stability shows. Not tested:"
    " other networks; runs without decay, in which this network fits its data and the oscillation fades, so that"
    " nothing settles; and Adam, for which the equation is not derived.\n\n"
    "SGDW is left out, because at the same R/η_eff it takes the same steps as SGDS. The equation has the curvatures of"
    " L + ½σ²S, the loss in the mean over the oscillation, where S is the sharpness. With those of the loss L alone it"
    " is wrong by one percent, which a control shows. There is also a simpler derived rule, for oscillations whose size"
    " swings faster than the slow directions of the loss respond. Here they swing more slowly, so that the rule does"
    " not apply: it would let heavy ball settle up to β = 0.69. What is allowed was set after pilot runs of this task."
    " That the claim is about one orbit was added to it after the measurement. At first the derived momenta, as the"
    " measured ones, were interpolated linearly between momenta that are 0.1 apart, which made them too small by 0.006"
    " to 0.007 with heavy ball, 0.009 with weaker decay and 0.002 with Nesterov's momentum. Now the derived ones are"
    " roots of the derived growth, and the measured ones have torch runs of their own beside them. What is allowed is"
    " the same."
)

RATIO, LIMIT = 0.03, 9.0  # R/η_eff and h_max; at R/η_eff = 0.033 Newton's method finds no orbit any more
WEAKER = 0.028  # R/η_eff of a second orbit, whose δ is a quarter larger
BETAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FINE = 0.025  # the distance of the momenta of the derived lines; with twice as much their corners are seen
PERIODS, LONGEST = 2.0, 250  # length of the runs that a root is fitted to; with a growth of e⁹ they are still linear
NUDGE, AFTER = 0.05, 300  # relative change of δ in the runs whose outcome is judged, and their number of steps
SETTLES, BURSTS = 0.3, 0.6  # momenta of the two runs on the right

ROOT, THRESHOLD = 0.003, 0.01
WHY_ROOT = (
    "|s − derived s|/|derived s|, the largest of all momenta{}; the theory leaves out higher orders of σ², and the fit "
    "has two pairs of roots for the many of a run, which makes up to 0.001"
)
ONE_RUN = ", where all these optimizers take the same steps"  # without momentum
WHY_THRESHOLD = (
    "in units of β; the derived momentum is a root of the derived growth. The measured growth is interpolated linearly "
    f"between torch runs {THRESHOLD:g} below and above this momentum; this line is wrong by less than 0.0005"
)
WHY_SIDE = "the number of runs on the wrong side of growth 0"


class Curve(NamedTuple):
    """The roots of one kind of momentum and decay over β.

    momenta : array
    oscillations : list of NumericOscillation — those of the methods
    roots : list of BurstRoots — as derived
    fitted : array of complex — the leading root s of torch runs, per step
    line : array, shape (2, p) — many momenta, and the derived growth at each
    derived_end, measured_end : float — the momentum at which settling ends
    """

    methods: list[Method]
    momenta: np.ndarray
    oscillations: list[NumericOscillation]
    roots: list[BurstRoots]
    fitted: NDArray[np.complex128]
    line: np.ndarray
    derived_end: float
    measured_end: float

    @property
    def derived(self) -> NDArray[np.complex128]:
        """The derived leading roots, per step."""
        return np.array([each.leading for each in self.roots])

    @property
    def errors(self) -> np.ndarray:
        """The relative error of each root."""
        return np.abs(self.fitted - self.derived) / np.abs(self.derived)


class Kind(NamedTuple):
    """An optimizer whose λ is R/η_eff, whether its momentum is Nesterov's, and the momenta of the short form.

    With the first of these momenta the oscillation settles, and with the second it bursts.
    """

    optimizer: str
    nesterov: bool
    few: tuple[float, float]

    def method(self, orbit: SettledOrbit, beta: float) -> Method:
        """The method with this momentum whose limit and R/η_eff are those of the orbit."""
        return at_orbit(orbit, self.optimizer, orbit.ratio, momentum=beta, nesterov=self.nesterov and beta > 0)

    def growth(self, orbit: SettledOrbit, beta: float) -> float:
        """The derived growth of a change of the orbit with this momentum."""
        return orbit.roots(numeric_oscillation(self.method(orbit, beta).rule())).growth

    def end(self, orbit: SettledOrbit) -> float:
        """The momentum at which the derived growth is 0."""
        found: Any = brentq(lambda beta: self.growth(orbit, beta), *self.few, xtol=1e-6)
        return float(found)


KINDS = {
    "heavy ball, L2": Kind("SGD", False, (0.3, 0.5)),
    "heavy ball, stable": Kind("SGDS", False, (0.3, 0.5)),
    "Nesterov, stable": Kind("SGDS", True, (0.7, 0.9)),
}
# The momenta that are marked on the zero line: the side of the number, and its distance in points.
MARKED = {
    "heavy ball, L2": ("center", (0, -27)),
    "Nesterov, stable": ("right", (-4, 6)),
    "weaker decay": ("right", (-3, 6)),
}
# The decay mode, the line of what is derived, and the marks of torch runs.
LOOK = {
    "heavy ball, L2": ("L2", "-", {}),
    "heavy ball, stable": ("stable", "-", {}),
    "Nesterov, stable": ("stable", "--", {"markerfacecolor": "none"}),
    "weaker decay": ("L2", ":", {"marker": "x"}),
}


class Nudged(NamedTuple):
    """Runs of heavy ball with L2 whose first δ is too large.

    sizes : dict of float to array — by momentum, ‖δ‖ in units of the settled one
    growth, share : dict of float to float — the derived growth rate, and the part of δ in its root
    """

    sizes: dict[float, np.ndarray]
    growth: dict[float, float]
    share: dict[float, float]

    @property
    def wrong(self) -> int:
        """The number of runs that settle and should burst, or burst and should settle."""
        settled = {beta: float(np.abs(size[-AFTER // 4 :] - 1).max()) < NUDGE for beta, size in self.sizes.items()}
        return sum(settled[beta] != (self.growth[beta] < 0) for beta in settled)


def measure(setting: Setting) -> Findings:
    """Find a settled oscillation, derive how perturbations of it grow, and measure how those of torch runs do."""
    task = regression(setting.device)
    finder = OrbitFinder(task)
    orbit = finder.first(RATIO, LIMIT)
    weaker = finder.beside(orbit, ratio=WEAKER, limit=LIMIT)
    curves = {}
    for name in setting.track(KINDS, "settled-oscillation"):
        kind = KINDS[name]
        curves[name] = trace_curve(task, orbit, kind, kind.few if setting.quick else BETAS)
    heavy = KINDS["heavy ball, L2"]
    curves["weaker decay"] = trace_curve(task, weaker, heavy, heavy.few if setting.quick else BETAS[2:6])
    watched = (SETTLES, BURSTS) if setting.quick else BETAS
    nudged = nudge(task, orbit, [heavy.method(orbit, beta) for beta in watched])
    verdicts = [*_on_curves(curves), _on_sides(nudged), *_controls(orbit, curves["heavy ball, L2"])]
    return Findings(verdicts, (curves, nudged))


def trace_curve(task: Task, orbit: SettledOrbit, kind: Kind, momenta: tuple[float, ...]) -> Curve:
    """The derived and the fitted root at each momentum, and where settling ends."""
    methods = [kind.method(orbit, beta) for beta in momenta]
    oscillations = [numeric_oscillation(method.rule()) for method in methods]
    roots = [orbit.roots(each) for each in oscillations]
    fitted = [fit(task, orbit, *each) for each in zip(methods, roots, strict=True)]
    many = np.linspace(momenta[0], momenta[-1], round((momenta[-1] - momenta[0]) / FINE) + 1)
    line = np.array([many, [kind.growth(orbit, beta) for beta in many]])
    end = kind.end(orbit)
    own = measured_end(task, orbit, kind, end)
    return Curve(methods, np.array(momenta), oscillations, roots, np.array(fitted), line, end, own)


def fit(task: Task, orbit: SettledOrbit, method: Method, roots: BurstRoots) -> complex:
    """The leading root of torch runs whose length is that of some derived periods."""
    return fitted_root(task, orbit, method, min(int(PERIODS * 2 * np.pi / roots.frequency), LONGEST))


def measured_end(task: Task, orbit: SettledOrbit, kind: Kind, derived: float) -> float:
    """The momentum at which torch runs cease to settle, from two runs beside the derived one."""
    growth, momenta = [], derived + THRESHOLD * np.array([-1.0, 1.0])
    for beta in momenta:
        method = kind.method(orbit, beta)
        roots = orbit.roots(numeric_oscillation(method.rule()))
        growth.append(fit(task, orbit, method, roots).real)
    return zero_of_line(momenta, np.array(growth))


def nudge(task: Task, orbit: SettledOrbit, methods: list[Method]) -> Nudged:
    """Runs from a δ that is too large, and what the derived root says of them."""
    size, growth, share = {}, {}, {}
    for method in methods:
        beta, roots = method.arguments["momentum"], orbit.roots(numeric_oscillation(method.rule()))
        size[beta], growth[beta] = sizes(task, orbit, method, NUDGE, AFTER), roots.growth
        share[beta] = float(roots.shares[np.argmin(np.abs(roots.roots - roots.leading))])
    return Nudged(size, growth, share)


def zero_of_line(x: np.ndarray, y: np.ndarray) -> float:
    """Where the straight line through two points is 0.

    Examples
    --------
    >>> zero_of_line(np.array([0.5, 1.0]), np.array([-1.0, 1.0]))
    0.75
    """
    return float(x[0] - y[0] * (x[1] - x[0]) / (y[1] - y[0]))


def _on_curves(curves: dict[str, Curve]) -> Iterator[Verdict]:
    for name, curve in curves.items():
        claim = f"A change of a settled oscillation grows and turns as the derived root says ({name})"
        beta = curve.momenta[np.argmax(curve.errors)]
        where = f" (at β = {beta:g}{ONE_RUN if beta == 0 else ''})"
        yield _root(f"{name}: root", claim, float(curve.errors.max()), where)
    for name, curve in curves.items():
        yield judge(
            f"{name}: first burst",
            f"The oscillation ceases to settle at the momentum that is derived ({name})",
            predicted=curve.derived_end,
            measured=curve.measured_end,
            allowed=THRESHOLD,
            why=WHY_THRESHOLD,
        )


def _root(name: str, claim: str, off: float, where: str = "") -> Verdict:
    return judge(name, claim, predicted=0.0, measured=off, allowed=ROOT, why=WHY_ROOT.format(where))


def _on_sides(nudged: Nudged) -> Verdict:
    claim = "Runs whose oscillation is 5 % too large settle if the derived growth is negative, and burst otherwise"
    return judge("outcome", claim, predicted=0.0, measured=nudged.wrong, allowed=0.0, why=WHY_SIDE)


def _controls(orbit: SettledOrbit, heavy: Curve) -> Iterator[Verdict]:
    def off(roots: list[complex]) -> float:
        return float((np.abs(heavy.fitted - roots) / np.abs(roots)).max())

    plain = [orbit.roots(each, orbit.plain).leading for each in heavy.oscillations]
    claim = "The slow mean feels the curvatures of the loss L alone"
    yield must_be_refuted("control: curvatures of L", _root("", claim, off(plain)))
    claim = "Heavy ball bursts as gradient descent with its η_eff does: momentum has no memory of its own"
    rates = [method.arguments["lr"] / (1 - method.arguments["momentum"]) for method in heavy.methods]
    plain = [CATALOG["SGD"](lr=rate, weight_decay=orbit.ratio) for rate in rates]
    forgetful = [orbit.roots(numeric_oscillation(rule)).leading for rule in plain]
    yield must_be_refuted("control: no memory", _root("", claim, off(forgetful)))


def draw(data: tuple[dict[str, Curve], Nudged]) -> Figure:
    """The growth rate over the momentum, and a run on either side of 0."""
    curves, nudged = data
    ends = {name: curves[name].derived_end for name in MARKED}
    heavy, nesterov, weaker = ends.values()
    with house_style():
        figure = Figure(figsize=(7.6, 4.2))
        left, right = figure.subplots(1, 2)
        _draw_growth(left, curves)
        _draw_ends(left, ends)
        _draw_runs(right, nudged)
        figure.suptitle(
            f"One oscillation bursts, as derived, from β = {heavy:.2f} on with heavy ball (L2), and from\n"
            f"{nesterov:.2f} on with Nesterov's momentum. Another, with weaker decay, bursts from {weaker:.2f} on",
            x=0.01,
            ha="left",
        )
    return figure


def _draw_growth(axes, curves: dict[str, Curve]) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.8)
    for name, (mode, style, marks) in LOOK.items():
        axes.plot(*curves[name].line, color=COLOURS[mode], linestyle=style, linewidth=1.2)
        label = f"heavy ball, L2, {name}" if name == "weaker decay" else name
        points = measured(mode, label=label) | marks
        axes.plot(curves[name].momenta, curves[name].fitted.real, **points)
    axes.plot([], [], color=MUTED, label="derived (points: torch runs)")
    axes.plot(
        [], [], marker="|", markersize=10, markeredgewidth=1.6, color="black", linestyle="none", label="settling ends"
    )
    axes.set(
        xlabel="momentum β",
        ylabel="growth rate per step of a small change",
        title="below 0 the oscillation settles",
    )
    axes.legend(fontsize=8.5, loc="upper left")


def _draw_ends(axes, ends: dict[str, float]) -> None:
    """Bars on the zero line at the momenta at which settling ends, with their numbers."""
    for name, end in ends.items():
        axes.plot(end, 0, marker="|", markersize=15, markeredgewidth=1.6, color="black")
        side, shift = MARKED[name]
        axes.annotate(f"{end:.2f}", (end, 0), shift, textcoords="offset points", ha=side, fontsize=8.5)
    axes.set_ylim(-0.045, None)


def _draw_runs(axes, nudged: Nudged) -> None:
    for beta, colour in ((BURSTS, COLOURS["L2"]), (SETTLES, "black")):
        size, said = nudged.sizes[beta], "bursts" if nudged.growth[beta] > 0 else "settles"
        k = np.arange(len(size)) + 1
        axes.plot(k, np.abs(size), color=colour, linewidth=1.1, label=f"β = {beta:g}: {said}")
        envelope = 2 * nudged.share[beta] * NUDGE * np.exp(nudged.growth[beta] * k)
        near = envelope < 1
        for sign in (1, -1):
            axes.plot(k[near], 1 + sign * envelope[near], color=colour, linestyle=":", linewidth=1)
    axes.plot([], [], color=MUTED, linestyle=":", label="derived envelope")
    axes.set(xlabel="step", ylabel="size of the oscillation / settled size", title="torch runs of heavy ball with L2")
    axes.set_ylim(0, 1.4 * float(np.abs(nudged.sizes[BURSTS]).max()))
    axes.legend(fontsize=8.5, loc="upper right")


STUDY = Study("settled-oscillation", CLAIM, SOURCE, measure, draw, CAPTION)
