"""The map of a sweep: a quantity over two arguments, a panel for each optimizer."""

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from swd_dynamics.errors import InputError
from swd_dynamics.plots.style import house_style
from swd_dynamics.tables import listed

SYMBOLS = {"lr": "learning rate η", "weight_decay": "weight decay λ"}
PANELS = 3  # in a row; four would be too small to read on a page
SHOWN = 0.9  # of the values have colours of their own, so that some very bad runs do not hide the differences
TICKS = 8  # labels on an axis at most
NO_VALUE = "#ffffff"  # of a cell where no run ended


def sweep_map(
    found: xarray.Dataset,
    quantity: str = "test_error",
    *,
    x: str = "weight_decay",
    y: str = "lr",
    title: str = "",
    figure: Figure | None = None,
) -> Figure:
    """A quantity of a sweep as colours over two arguments, averaged over the seeds.

    All panels have the same colours; the highest tenth of the values has one colour. A star marks the smallest value of
    each panel, which stands in its title, and dots mark the smallest value of each row. A cross marks cells in which a
    run diverged or failed.

    Parameters
    ----------
    found : Dataset
        From :func:`swd_dynamics.sweep`. Dimensions other than optimizer, seed, ``x`` and ``y`` must have one value.
    quantity : str
        A variable of it without steps, such as "test_error" or "train_loss".
    x, y : str
        Arguments in the grid. Positive values that are far apart have a logarithmic axis.
    title : str

    Raises
    ------
    InputError
        If the sweep has no such variable or argument, or has a further dimension.

    Examples
    --------
    >>> import swd_dynamics as sd
    >>> found = sd.sweep("quadratic", ["SGD"], {"lr": [0.1, 0.2], "weight_decay": [0.0, 0.1]}, steps=3)
    >>> sweep_map(found, "train_loss").axes[0].get_title("left")
    'SGD: best 0.14'
    """
    others = _checked(found, quantity, x, y)
    flat = found.squeeze(others, drop=True).transpose("optimizer", y, x, ...)
    values = flat[quantity].mean("seed", skipna=False)
    bad = flat["train_loss"].isnull().any("seed")
    names = found["optimizer"].values.tolist()
    columns = min(PANELS, len(names))
    rows = -(-len(names) // columns)
    finite = values.values[np.isfinite(values.values)]
    limits = (float(finite.min()), float(np.quantile(finite, SHOWN))) if finite.size else (0.0, 1.0)
    with house_style():
        figure = figure or Figure(figsize=(1.2 + 2.3 * columns, 0.9 + 2.2 * rows))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        for axes, name in zip(grid.flat, names, strict=False):
            image = _panel(axes, values.sel(optimizer=name).values, bad.sel(optimizer=name).values, limits)
            _label(axes, found[x].values, found[y].values)
            axes.set_title(_title(name, values.sel(optimizer=name).values))
        for axes in grid[-1]:
            axes.set_xlabel(SYMBOLS.get(x, x))
        for axes in grid[:, 0]:
            axes.set_ylabel(SYMBOLS.get(y, y))
        figure.colorbar(image, ax=grid.ravel().tolist(), label=quantity.replace("_", " "), shrink=0.9, extend="max")
        figure.suptitle(title or f"{quantity.replace('_', ' ').capitalize()}, mean over the seeds")
    return figure


def _checked(found: xarray.Dataset, quantity: str, x: str, y: str) -> list[str]:
    """Refuse what cannot be drawn; the names of the dimensions that have one value and are not drawn."""
    scalar = [name for name, variable in found.data_vars.items() if "step" not in variable.dims]
    if quantity not in scalar:
        raise InputError(f"quantity = {quantity!r} is not in this sweep; it has {listed(quantity, map(str, scalar))}")
    grid = [str(name) for name in found[quantity].dims if name not in ("optimizer", "seed")]
    for name in (x, y):
        if name not in grid or x == y:
            raise InputError(f"{name!r} is not an argument for an axis: the grid of this sweep has {', '.join(grid)}")
    others = [name for name in grid if name not in (x, y)]
    if more := [name for name in others if found.sizes[name] > 1]:
        raise InputError(f"choose one value of {', '.join(more)}: found.sel({more[0]}=…)")
    return others


def _panel(axes: Axes, values: NDArray, bad: NDArray, limits: tuple[float, float]):
    image = axes.imshow(values, origin="lower", aspect="auto", vmin=limits[0], vmax=limits[1], cmap="cividis_r")
    axes.set_facecolor(NO_VALUE)
    axes.grid(False)
    rows, columns = np.nonzero(bad)
    axes.plot(columns, rows, linestyle="none", marker="x", color="black", markersize=4)
    for row in np.nonzero(np.isfinite(values).any(axis=1))[0]:
        axes.plot(np.nanargmin(values[row]), row, linestyle="none", marker="o", color="white", markersize=3.5)
    if np.isfinite(values).any():
        row, column = np.unravel_index(np.nanargmin(values), values.shape)
        axes.plot(column, row, linestyle="none", marker="*", color="white", markeredgecolor="black", markersize=11)
    return image


def _title(name: str, values: NDArray) -> str:
    return f"{name}: best {np.nanmin(values):.3g}" if np.isfinite(values).any() else f"{name}: no run ended"


def _label(axes: Axes, x: NDArray, y: NDArray) -> None:
    """Write the values at the cells, some of them where they are many."""
    for axis, values in ((axes.xaxis, x), (axes.yaxis, y)):
        places = np.unique(np.linspace(0, len(values) - 1, min(TICKS, len(values))).round().astype(int))
        texts = [f"{values[i]:.2g}" if isinstance(values[i], float) else str(values[i]) for i in places]
        axis.set_ticks(places, texts)
    axes.tick_params(axis="x", labelrotation=45)
