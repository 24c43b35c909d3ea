"""The stability chart of a rule: how fast a perturbation grows or fades, over two of its hyperparameters."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.errors import InputError
from swd_dynamics.plots.style import house_style

if TYPE_CHECKING:
    from swd_dynamics.rules import UpdateRule
    from swd_dynamics.symbolic import NumericStability

# Purple where a perturbation fades and orange where it grows, told apart by every form of colour vision. |z| of the
# heavy ball is √β at least, so that the colours must tell .9 and .99 apart: they are logarithmic in the distance from
# 1, and linear within NEAR of it. With a NEAR of .1 all of the stable region would be white.
NEAR, FAR = 0.01, 1.0
# Without its darkest ends, on which black points could not be seen.
GROWTH_COLOURS = LinearSegmentedColormap.from_list(
    "growth", matplotlib.colormaps["PuOr_r"](np.linspace(0.12, 0.85, 256))
)
TICKS = (0.0, 0.9, 0.99, 1.0, 1.01, 1.1, 2.0)  # of |z| on the colour bar
NODES = 120  # of each axis; with half as many the edge of the colours is off the line by a pixel
SYMBOLS = {"lr": "learning rate η", "weight_decay": "weight decay λ", "curvature": "curvature h"}
MEMORY = ("momentum", "beta_1")  # drawn over 1/(1 − β), the length of their memory, since β is always near 1
LINE = "#222222"


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
    axes are logarithmic; a momentum β has the axis 1/(1 − β).

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
        If a name is not that of a hyperparameter with a number in the rule, or an axis has no range.
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
    _check_axes(x, y, at)
    grid = [values_between(name, *at[name]) for name in (x, y)]
    with house_style():
        figure = figure or Figure(figsize=(1.6 + 2.4 * len(named), 3.4))
        panels = figure.subplots(1, len(named), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (name, rule) in zip(panels, named.items(), strict=True):
            image = _draw(axes, numeric_stability(rule), (x, y), grid, {"curvature": curvature, **numbers})
            _draw_runs(axes, (x, y), (runs or {}).get(name))
            axes.set(xlabel=_label(x), title=name)
        panels[0].set_ylabel(_label(y))
        bar = figure.colorbar(image, ax=panels.tolist(), label="|z|, growth per step", extend="max")
        bar.set_ticks([tick - 1 for tick in TICKS], labels=[f"{tick:g}" for tick in TICKS])
        bar.minorticks_off()
        if title:
            figure.suptitle(title, x=0.01, ha="left")
    return figure


def _check_axes(x: str, y: str, at: Mapping[str, tuple[float, float]]) -> None:
    if x == y:
        raise InputError(f"x and y are both {x!r}: a chart needs two different hyperparameters")
    for name in (x, y):
        if np.shape(at.get(name, ())) != (2,):
            raise InputError(f"at = {dict(at)!r} must have the smallest and the largest value of {name}")


def values_between(name: str, low: float, high: float) -> NDArray:
    """The values of a hyperparameter between two, evenly spaced on its axis.

    Examples
    --------
    >>> values_between("momentum", 0.5, 0.75)[[0, -1]].round(12).tolist()
    [0.5, 0.75]
    """
    start, end = place(name, [low, high])
    spaced = np.geomspace(start, end, NODES)
    return 1 - 1 / spaced if name in MEMORY else spaced


def place(name: str, values: ArrayLike) -> NDArray:
    """Where the values of a hyperparameter are on its axis.

    Examples
    --------
    >>> place("momentum", [0.5, 0.75]).tolist(), place("lr", [0.5, 0.75]).tolist()
    ([2.0, 4.0], [0.5, 0.75])
    """
    values = np.asarray(values, dtype=float)
    return 1 / (1 - values) if name in MEMORY else values


def _draw(axes: Axes, numbers: "NumericStability", names: tuple[str, str], grid: list[NDArray], known: dict) -> Any:
    x, y = grid
    values = known | {names[0]: x, names[1]: y[:, None]}
    curvature = values.pop("curvature")
    growth = np.broadcast_to(numbers.growth(curvature, **values), (len(y), len(x)))
    across = (place(names[0], x), place(names[1], y))
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


def _draw_runs(axes: Axes, names: tuple[str, str], runs: Runs | None) -> None:
    if runs is None:
        return
    converged = np.asarray(runs.converged, dtype=bool)
    x, y = (place(name, values) for name, values in zip(names, (runs.x, runs.y), strict=True))
    for chosen, inside, edge in ((converged, LINE, "white"), (~converged, "white", LINE)):
        look = {"linestyle": "none", "marker": "o", "markersize": 4, "markeredgewidth": 0.7}
        axes.plot(x[chosen], y[chosen], **look, markerfacecolor=inside, markeredgecolor=edge)


def _label(name: str) -> str:
    return "memory of the momentum, 1/(1 − β)" if name in MEMORY else SYMBOLS.get(name, name)
