"""The stability chart of a rule: how fast a perturbation grows or fades, over two of its hyperparameters."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.errors import InputError
from swd_dynamics.plots.style import house_style
from swd_dynamics.tables import listed

if TYPE_CHECKING:
    from swd_dynamics.rules import UpdateRule
    from swd_dynamics.symbolic import NumericStability

# Light grey where a perturbation fades and dark grey where it grows: legible in print, and the colour of no decay mode.
# |z| of the heavy ball is √β at least, so that the greys must tell .9 and .99 apart: they are logarithmic in the
# distance from 1, and linear within NEAR of it. With a NEAR of .1 all of the stable region would have one grey.
NEAR, FAR = 0.01, 1.0
# Without white, which is the margin's colour, and without black, on which the line of the limit could not be seen.
GROWTH_COLOURS = LinearSegmentedColormap.from_list("growth", matplotlib.colormaps["Greys"](np.linspace(0.06, 0.7, 256)))
TICKS = (0.0, 0.9, 0.99, 1.0, 1.01, 1.1, 2.0)  # of |z| on the colour bar
NODES = 120  # of each axis; with half as many the edge of the colours is off the line by a pixel
SYMBOLS = {"lr": "learning rate η", "weight_decay": "weight decay λ", "curvature": "curvature h"}
LETTERS = {"lr": "η", "weight_decay": "λ", "curvature": "h", "momentum": "β", "dampening": "τ"}
MOMENTA = ("momentum", "beta_1", "beta")
OTHERS = ("lr", "lr_max", "weight_decay", "curvature", "eps", "v")  # all that is not a share in [0, 1)
LINE = "#222222"


class Range(NamedTuple):
    """The range of a hyperparameter on an axis. A share β in [0, 1) is drawn over 1/(1 − β), the length of its memory.

    Examples
    --------
    >>> Range("beta_2", 0.5, 0.75).is_share, Range("lr", 0.5, 0.75).is_share
    (True, False)
    """

    name: str
    low: float
    high: float

    @property
    def is_share(self) -> bool:
        """Whether the axis is that of 1/(1 − β), since a β is always near 1."""
        return self.name not in OTHERS and 0 <= self.low < self.high < 1

    @property
    def label(self) -> str:
        if not self.is_share:
            return SYMBOLS.get(self.name, self.name)
        memory = f"1/(1 − {letter(self.name)})"
        return f"memory of the momentum, {memory}" if self.name in MOMENTA else memory

    def place(self, values: ArrayLike) -> NDArray:
        """Where values of the hyperparameter are on the axis.

        Examples
        --------
        >>> Range("momentum", 0.0, 0.9).place([0.5, 0.75]).tolist(), Range("lr", 0.5, 2.0).place([0.5]).tolist()
        ([2.0, 4.0], [0.5])
        """
        values = np.asarray(values, dtype=float)
        return 1 / (1 - values) if self.is_share else values

    def values(self) -> NDArray:
        """The values of the hyperparameter between its ends, evenly spaced on the axis.

        Examples
        --------
        >>> Range("momentum", 0.5, 0.75).values()[[0, -1]].round(12).tolist()
        [0.5, 0.75]
        """
        start, end = self.place([self.low, self.high])
        spaced = np.geomspace(start, end, NODES)
        return 1 - 1 / spaced if self.is_share else spaced


class Runs(NamedTuple):
    """Real runs to draw in a stability chart: their place, and whether they converged. Arrays of one shape.

    Examples
    --------
    >>> Runs(x=np.array([0.1, 5.0]), y=np.array([1.0, 1.0]), converged=np.array([True, False])).converged.sum()
    np.int64(1)
    """

    x: NDArray
    y: NDArray
    converged: NDArray


def stability_chart(
    rules: "UpdateRule | Mapping[str, UpdateRule]",
    *,
    x: str = "lr",
    y: str = "weight_decay",
    at: Mapping[str, tuple[float, float]],
    curvature: float = 1.0,
    runs: Mapping[str, Runs] | None = None,
    title: str = "",
    figure: Any = None,
    **numbers: float,
) -> Figure:
    """The growth |z| of a perturbation as colours over two hyperparameters, on f = ½hθ², for one rule or several.

    z is the largest eigenvalue of the derived linear map. A black line is where the derived stability limit is h. Both
    axes are logarithmic; a momentum β, or another share in [0, 1), has the axis 1/(1 − β).

    Parameters
    ----------
    rules : UpdateRule, or mapping of a panel's title to UpdateRule
    x, y : str
        Two of the rule's hyperparameters, as "lr", "weight_decay", "momentum" or "beta_1"; or "curvature".
    at : mapping of str to two numbers
        The smallest and the largest value of ``x`` and of ``y``.
    curvature : float
        h, where no axis has it.
    runs : mapping of a panel's title to Runs, optional
        Real runs: filled circles converged, open (white) circles diverged. The title of a single rule is "".
    title : str
    figure : Figure or SubFigure, optional
        What to draw on; by default a new figure.
    **numbers
        Other hyperparameters, and the frozen memory of an adaptive direction, as ``v=1.0``.

    Returns
    -------
    Figure

    Raises
    ------
    InputError
        If a name is not that of a hyperparameter with a number in the rule, or an axis has no range, or a range that
        has no place on a logarithmic axis.
    NotDerivable
        If a step is not linear, or its stability limit has no formula.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> rule = CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.1)
    >>> figure = stability_chart(rule, at={"lr": (0.01, 10), "weight_decay": (0.01, 10)})
    >>> figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
    ('learning rate η', 'weight decay λ')
    """
    from swd_dynamics.symbolic import numeric_stability  # imported here because sympy comes with it

    named = rules if isinstance(rules, Mapping) else {"": rules}
    ranges = _ranges(x, y, at)
    stabilities = {name: numeric_stability(rule) for name, rule in named.items()}
    for stability in stabilities.values():
        _check_names(stability, (x, y))
    known = {"curvature": curvature, **numbers}
    with house_style():
        figure = figure or Figure(figsize=(1.6 + 2.4 * len(named), 3.6))
        panels = figure.subplots(1, len(named), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (name, stability) in zip(panels, stabilities.items(), strict=True):
            image = _draw(axes, stability, ranges, known)
            _draw_runs(axes, ranges, (runs or {}).get(name))
            axes.set(xlabel=ranges[0].label, title=name)
        panels[0].set_ylabel(ranges[1].label)
        bar = figure.colorbar(image, ax=panels.tolist(), label="|z|, growth per step", extend="max")
        bar.set_ticks([tick - 1 for tick in TICKS], labels=[f"{tick:g}" for tick in TICKS])
        bar.minorticks_off()
        said = _said(stabilities.values(), (x, y), known)
        figure.legend(handles=_key(said, has_runs=bool(runs)), loc="outside lower left", ncols=3, fontsize="small")
        if title:
            figure.suptitle(title, x=0.01, ha="left")
    return figure


def _ranges(x: str, y: str, at: Mapping[str, tuple[float, float]]) -> tuple[Range, Range]:
    if x == y:
        raise InputError(f"x and y are both {x!r}: a chart needs two different hyperparameters")
    for name in (x, y):
        if np.shape(at.get(name, ())) != (2,):
            raise InputError(f"at = {dict(at)!r} must have the smallest and the largest value of {name}")
        if not (np.isfinite(at[name]).all() and at[name][0] < at[name][1]):
            raise InputError(
                f"at[{name!r}] = {at[name]!r} is not a range: give the smaller number first, then the larger"
            )
    first, second = (Range(name, *map(float, at[name])) for name in (x, y))
    for each in (first, second):
        if each.low <= 0 and not each.is_share:
            allowed = "numbers above 0" if each.name in OTHERS else "numbers above 0, or both in [0, 1)"
            raise InputError(f"at[{each.name!r}] = {at[each.name]!r}: the axis is logarithmic, and needs {allowed}")
        if each.name in (*MOMENTA, "beta_2") and not each.is_share:
            raise InputError(f"at[{each.name!r}] = {at[each.name]!r} is not allowed: {each.name} lies in [0, 1)")
    return first, second


def _check_names(stability: "NumericStability", names: tuple[str, str]) -> None:
    allowed = (*stability.names, "curvature")
    for name in names:
        if name == "weight_decay" and name not in allowed:
            said = f"{stability.rule.name} has no weight decay to draw: give the rule a λ ≠ 0, as weight_decay=0.1"
            raise InputError(f"{said}, or another axis: {', '.join(allowed)}")
        if name not in allowed:
            raise InputError(
                f"{name} is not a hyperparameter of this rule's linear map; it has {listed(name, allowed)}"
            )


def letter(name: str) -> str:
    """The symbol of a hyperparameter, by the name under which it is given.

    Examples
    --------
    >>> letter("beta_2"), letter("momentum"), letter("nu")
    ('β₂', 'β', 'nu')
    """
    stem, _, index = name.partition("_")
    if stem == "beta" and (not index or index.isdigit()):
        return "β" + index.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
    return LETTERS.get(name, name)


def _said(stabilities: Iterable["NumericStability"], names: tuple[str, str], known: Mapping[str, float]) -> str:
    """What the line is, and the numbers that are the same everywhere in the chart."""
    fixed = [{**each.numbers, **known} for each in stabilities]
    shown = [name for name in fixed[0] if name not in (*names, "eps") and np.ndim(fixed[0][name]) == 0]
    alike = [name for name in shown if all(each.get(name) == fixed[0][name] for each in fixed)]
    return ", ".join(["derived limit", *(f"{letter(name)} = {float(fixed[0][name]):g}" for name in alike)])


def _key(said: str, *, has_runs: bool) -> list[Line2D]:
    """The entries of the key: the line and, where there are runs, their two circles."""
    line = Line2D([], [], color=LINE, linewidth=1.6, label=said)
    circles = [
        Line2D([], [], **_look(converged=done), label=label)
        for done, label in ((True, "run that converged"), (False, "run that diverged"))
    ]
    return [line, *circles] if has_runs else [line]


def _look(*, converged: bool) -> dict[str, Any]:
    inside, edge = (LINE, "white") if converged else ("white", LINE)
    look = {"linestyle": "none", "marker": "o", "markersize": 4, "markeredgewidth": 0.7}
    return look | {"markerfacecolor": inside, "markeredgecolor": edge}


def _draw(axes: Axes, numbers: "NumericStability", ranges: tuple[Range, Range], known: dict) -> Any:
    x, y = (each.values() for each in ranges)
    values = known | {ranges[0].name: x, ranges[1].name: y[:, None]}
    curvature = values.pop("curvature")
    growth = np.broadcast_to(numbers.growth(curvature, **values), (len(y), len(x)))
    across = (ranges[0].place(x), ranges[1].place(y))
    norm = SymLogNorm(NEAR, vmin=-FAR, vmax=FAR)
    image = axes.pcolormesh(*across, growth - 1, cmap=GROWTH_COLOURS, norm=norm, shading="gouraud", rasterized=True)
    room = np.broadcast_to(numbers.limit(**values) - curvature, growth.shape)
    axes.contour(*across, room, levels=[0], colors=[LINE], linewidths=1.6)
    axes.set(xscale="log", yscale="log")
    axes.grid(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    return image


def _draw_runs(axes: Axes, ranges: tuple[Range, Range], runs: Runs | None) -> None:
    if runs is None:
        return
    converged = np.asarray(runs.converged, dtype=bool)
    x, y = (each.place(values) for each, values in zip(ranges, (runs.x, runs.y), strict=True))
    for chosen, done in ((converged, True), (~converged, False)):
        axes.plot(x[chosen], y[chosen], **_look(converged=done))
