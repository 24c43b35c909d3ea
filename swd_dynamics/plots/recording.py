"""Recorded quantities over the steps of one run or of several runs, drawn."""

import json
from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten, wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from swd_dynamics.errors import InputError
from swd_dynamics.plots.style import house_style, measured, with_remark
from swd_dynamics.recording.summary import fact_in_words
from swd_dynamics.rules import CATALOG
from swd_dynamics.rules.decay import mode_of
from swd_dynamics.tables import Table

if TYPE_CHECKING:
    import xarray

MOST_LINES = 10  # lines in one panel: with twice as many, colours repeat and a reader cannot tell the lines apart
MOST_MARKERS = 60  # markers on one line, the other steps are fine points; doubled, markers overlap and hide each other
# Number of stretches of a very long run: the extremes of each stretch are drawn, so that no outlier is lost. At half,
# the outline of a noisy line becomes coarse; doubled, drawing takes twice as long and looks the same.
STRETCHES = 1000
SAME_MODE: tuple[dict, ...] = ({}, {"markerfacecolor": "white"}, {"marker": "x"}, {"marker": "+"})  # of several runs
# Values of a run that diverged. The sizes of larger ones overflow when matplotlib makes an axis, and they are drawn at
# this height; at a tenth of it, values that could be drawn are not. Infinite values are not drawn.
HIGHEST = 1e307
WIDE = 1e250  # beyond this or its inverse matplotlib's own margins and ticks of a logarithmic axis may overflow
SYMBOLS = {"R": "decay_rate", "η": "lr", "η_eff": "effective_lr", "R/η_eff": "decay_ratio", "‖θ‖": "theta_norm",
           "‖g‖": "gradient_norm"}  # fmt: skip
USUAL = ("loss", "decay_ratio")  # drawn when no quantity is named
FINE = "."  # the marker of the steps between two large markers
BAND = (0.05, 0.95)  # of the weights, around the median
# Relative: R of weights that differ by more is drawn as a median. A tenth of it is round-off of R in float32.
DIFFERS = 1e-5
# Times the first quartile of the sizes: values of both signs that reach further are drawn on a symmetric logarithmic
# axis, as in _scale. At half of it noisy losses would be.
FAR = 30
SAID = 90  # characters of a line of a title, and of the description of the data
FACTS = ("task", "data", "seed")  # those of the facts on the data that a title has


def recording(
    recorded: "xarray.Dataset | Mapping[str, xarray.Dataset]", *quantities: str, title: str | None = None
) -> Figure:
    """Recorded quantities over the steps: one panel for each, in the colour of the optimizer's decay mode.

    Parameters
    ----------
    recorded : xarray.Dataset, or dict of str to xarray.Dataset
        Returned by :func:`swd_dynamics.record` or :func:`swd_dynamics.open_recording`; several by name to compare.
    *quantities : str
        Variables over the steps. Of a single recording, a variable may have a number for each parameter or group; of
        several, one number a step. By default the loss and R/η_eff. Where the recording has R of each weight and the
        weights differ, ``decay_rate`` and ``decay_ratio`` are drawn as the median and as a band with nine weights in
        ten, because the mean follows a few weights. Otherwise they are means over all weights, also those of a group
        without decay, beside which AdamS's ``decay_ratio`` is less than λ: draw ``decay_ratio_group``.
    title : str, optional

    Raises
    ------
    InputError
        If the recording has no such variable, a variable is not a quantity over the steps, or there is nothing to draw.

    Examples
    --------
    >>> import xarray
    >>> run = xarray.Dataset({"loss": ("step", [4.0, 1.0])}, {"step": [1, 2]}, {"optimizer": "SGD"})
    >>> figure = recording(run, "loss")
    >>> [points.get_ydata().tolist() for points in figure.axes[0].lines]
    [[4.0, 1.0]]
    """
    runs = _by_name(recorded)
    names = quantities or tuple(name for name in USUAL if all(name in run.data_vars for run in runs.values()))
    if not names or not any(run.sizes.get("step", 0) for run in runs.values()):
        raise InputError("there is nothing to draw: give at least one quantity, of a recording with steps")
    for run in runs.values():
        for name in names:
            _check(run, name, alone=len(runs) == 1)
    with house_style():
        figure = Figure(figsize=(7.5, 1.2 + 2.2 * len(names)))
        panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(panels, names, strict=True):
            _draw_panel(axes, runs, name)
        panels[-1].set_xlabel("step k")
        shown = [with_remark(name, _mode(run)) for name, run in runs.items()]
        if len(runs) > 1:
            lines = _in_legend(panels[0])
            _literally(figure.legend(lines, shown, loc="outside lower center", ncols=len(runs)))
        conditions = _conditions(next(iter(runs.values()))) if len(runs) == 1 else ""
        figure.suptitle(title or f"{', '.join(shown)}, recorded{conditions}".replace("$", r"\$"), fontsize=12)
    return figure


def _conditions(run: "xarray.Dataset") -> str:
    """η and λ of the parameter groups, and the data, as far as the recording says them."""
    groups = json.loads(run.attrs.get("optimizer_arguments", "[]")) or [{}]
    symbols = {"η": "lr", "λ": "weight_decay"}
    values = {name: [group.get(key) for group in groups] for name, key in symbols.items()}
    numbers = [f"{name} = {_of_groups(each)}" for name, each in values.items() if isinstance(each[0], int | float)]
    if "lr" in run and np.ptp(run["lr"].values, axis=0).any() and numbers:
        numbers[0] += " at first"  # η has a schedule
    data = _in_a_line(run.attrs["data"]) if run.attrs.get("data", "not given") != "not given" else ""
    return (f" with {', '.join(numbers)}" if numbers else "") + (f"\n{data}" if data else "")


def _in_a_line(data: str) -> str:
    """The data in words, of a table of facts only those that tell runs apart; the summary of a run has all of them."""
    try:
        facts = json.loads(data)
    except ValueError:
        facts = None
    if isinstance(facts, dict):
        data = json.dumps({name: facts[name] for name in FACTS if name in facts} or facts)
    return shorten(fact_in_words(data), SAID, placeholder=" …")


def _of_groups(values: Sequence) -> str:
    """A number of all groups, or the different numbers of several groups."""
    said = list(dict.fromkeys(f"{value:g}" if isinstance(value, int | float) else "–" for value in values))
    return said[0] if len(said) == 1 else f"{' / '.join(said[:3])}{'/ …' * (len(said) > 3)} (groups)"


def _by_name(recorded) -> dict[str, "xarray.Dataset"]:
    """The recordings by the names that the figure gives them."""
    if hasattr(recorded, "data_vars"):
        return {str(recorded.attrs.get("optimizer", "unknown optimizer")): recorded}
    if not isinstance(recorded, Mapping) or not all(hasattr(run, "data_vars") for run in recorded.values()):
        raise InputError(
            f"{type(recorded).__name__} is not a recording: give what record or open_recording returned, or a"
            ' dictionary of several, as {"AdamW": one, "AdamS": another}'
        )
    return {str(name): run for name, run in recorded.items()}


def _check(run: "xarray.Dataset", name: str, alone: bool) -> None:
    if not isinstance(name, str):
        raise InputError(f'{name!r} is not the name of a quantity: give names, as recording(run, "loss", "lr")')
    drawable = [str(variable) for variable in run.data_vars if _is_course(run[variable], alone)]
    if name in run.data_vars and name not in drawable:
        dims = run[name].dims
        raise InputError(f"{name} has the dimensions {dims}; what can be drawn is {', '.join(drawable)}")
    known: Table[None] = Table("quantity", "", _name_of_symbol(drawable), **dict.fromkeys(drawable))
    known[name]


def _name_of_symbol(drawable: Sequence[str]) -> Callable[[str], str]:
    """What can be done about a symbol: the name under which its quantity is recorded."""

    def advice(name: str) -> str:
        meant = SYMBOLS.get(name, "")
        return f"unknown quantity {name!r}: {name} is recorded as {meant}" if meant in drawable else ""

    return advice


def _is_course(variable: "xarray.DataArray", alone: bool) -> bool:
    """Whether a variable is one line over the steps or, in a recording that is drawn alone, several lines."""
    lines = (("step",), ("step", "group"), ("step", "parameter"), ("step", "eigenvalue"))
    return variable.dims in lines and (alone or variable[:1].size <= 1)


def _draw_panel(axes, runs: Mapping[str, "xarray.Dataset"], name: str) -> None:
    seen: list[str] = []
    for title, run in runs.items():
        mode = _mode(run)
        _draw(axes, run, name, mode, title, again=seen.count(mode), turn=len(seen) / len(runs))
        seen.append(mode)
    first = next(iter(runs.values()))[name]
    axes.set_ylabel(name, fontsize=9)
    courses = first[:1].size
    left_out = f" (the first {MOST_LINES} of {courses})" if courses > MOST_LINES else ""
    medians = [title for title, run in runs.items() if _of_weights(run, name) is not None]
    values = {title: _course(run, name).ravel() for title, run in runs.items()}
    _scale(axes, np.concatenate(list(values.values())))
    unknown = [_why_unknown(runs[title], name, title) for title, seen in values.items() if np.isnan(seen).all()]
    infinite = [title for title, seen in values.items() if np.isinf(seen).any() and not np.isfinite(seen).any()]
    unknown += [f"{title}: not finite" for title in infinite]
    unknown += _hidden_by_logarithm(axes)
    if not any(np.isfinite(seen).any() for seen in values.values()):
        axes.set_yticks([])  # the numbers would be those of an empty axis
    panel_title = _panel_title(first.attrs.get("long_name", ""), medians, len(runs)) + left_out
    said = [line for sentence in [panel_title, *unknown] for line in wrap(sentence, SAID, break_on_hyphens=False)]
    axes.set_title("\n".join(said), fontsize=9, loc="left", parse_math=False)
    if courses > 1:
        labels = [str(line.get_label()) for line in _in_legend(axes)]
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
        _literally(axes.legend(_in_legend(axes), labels, fontsize=7, **place))


def _hidden_by_logarithm(axes) -> list[str]:
    """Which lines a logarithmic axis does not show, because all of their values are 0 or less."""
    if axes.get_yscale() != "log":
        return []
    zero = [str(line.get_label()) for line in _in_legend(axes) if not np.any(np.asarray(line.get_ydata()) > 0)]
    return [f"not shown on this logarithmic axis, because it is 0: {', '.join(zero)}"] * bool(zero)


def _panel_title(long_name: str, medians: Sequence[str], runs: int) -> str:
    """The quantity in words, and the recordings of which the median is drawn and not the mean."""
    if not medians:
        return long_name
    who = f"{', '.join(medians)}: " if runs > 1 else ""
    return f"{long_name.partition(',')[0]} ({who}median of the weights, and nine weights in ten shaded)"


def _course(run: "xarray.Dataset", name: str) -> np.ndarray:
    """The values that are drawn, shape (steps, lines): the variable, or the median of the weights where they differ."""
    weights, variable = _of_weights(run, name), run[name]
    if weights is not None:
        return np.nanmedian(weights, axis=1)[:, None]
    return variable.values.astype(float).reshape(len(variable), int(np.prod(variable.shape[1:])))


def _of_weights(run: "xarray.Dataset", name: str) -> np.ndarray | None:
    """R or R/η_eff of the weights that mostly have gradients, if it differs among them; None if not known."""
    if name not in ("decay_rate", "decay_ratio") or not {"decay_rate_weight", "gradient"} <= set(run.data_vars):
        return None
    moved = (run["gradient"].values != 0).mean(axis=0) > 0.5
    rates = run["decay_rate_weight"].values[:, moved].astype(float)
    if name == "decay_ratio":
        lrs = run.get("effective_lr")
        if lrs is None or lrs.shape[1:] != (1,):  # of several groups, each weight would need its own
            return None
        rates = rates / lrs.values
    known = np.isfinite(rates).all(axis=1)
    spread = np.ptp(rates[known], axis=1) > DIFFERS * np.abs(rates[known]).max(axis=1, initial=0.0)
    return rates if moved.any() and known.all() and spread.any() else None


def _in_legend(axes) -> list:
    """The lines that a legend names: all lines except those of fine points."""
    return [line for line in axes.lines if line.get_marker() != FINE]


def _literally(legend) -> None:
    """Show the names of a legend as they are, also with a $ in them."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def _why_unknown(run: "xarray.Dataset", name: str, title: str) -> str:
    if name == "loss":
        return f"{title}: not observed; call probe.observe(loss=loss) once in each step"
    reasons = run.attrs.get("decay_unknown_because", "nothing is unknown")
    return f"{title}: not known" + (f", because {fact_in_words(reasons)}" if reasons != "nothing is unknown" else "")


def _draw(axes, run: "xarray.Dataset", name: str, mode: str, title: str, again: int, turn: float) -> None:
    variable, courses = run[name], _course(run, name)
    if (weights := _of_weights(run, name)) is not None:
        low, high = np.quantile(weights, BAND, axis=1)
        axes.fill_between(run["step"].values, low, high, color=measured(mode)["color"], alpha=0.2, linewidth=0)
    courses = np.where(np.isfinite(courses), courses.clip(-HIGHEST, HIGHEST), np.nan)
    for i in range(min(courses.shape[1], MOST_LINES)):
        style: dict[str, Any] = measured(mode, label=title, markersize=4)
        if courses.shape[1] > 1:
            style |= {"label": _label(run, variable.dims, i), "color": f"C{i}"}
        steps, course, shown = run["step"].values, courses[:, i], _shown(courses[:, i])
        every = max(1, -(-len(course) // MOST_MARKERS))
        marked = np.union1d(np.arange(int(turn * every), len(course), every), len(course) - 1)
        if every > 1:  # every step is a fine point, and the markers say which run the points belong to
            fine: dict[str, Any] = {"color": style["color"], "markersize": 2.5, "markeredgewidth": 0}
            axes.plot(steps[shown], course[shown], FINE, **fine, label="_")
        axes.plot(steps[marked], course[marked], **style | SAME_MODE[again % len(SAME_MODE)])


def _shown(course: np.ndarray) -> np.ndarray:
    """The steps that are drawn: all, or of a long run the first, the last, and the extremes of each stretch."""
    if len(course) <= 2 * STRETCHES:
        return np.arange(len(course))
    stretches = np.array_split(np.arange(len(course)), STRETCHES)
    lowest = [part[np.argmin(np.nan_to_num(course[part], nan=np.inf))] for part in stretches]
    highest = [part[np.argmax(np.nan_to_num(course[part], nan=-np.inf))] for part in stretches]
    return np.unique([0, *lowest, *highest, len(course) - 1])


def _scale(axes, values: np.ndarray) -> None:
    """Make the axis logarithmic if the values differ much: symmetric around 0 if some are negative."""
    known = values[np.isfinite(values)]
    positive = known[known > 0]
    usual = np.quantile(np.abs(known[known != 0]), 0.25) if known.any() else 0.0
    if len(positive) and (known < 0).any() and 1 / WIDE < usual < np.abs(known).max() / FAR < WIDE / FAR:
        axes.set_yscale("symlog", linthresh=10 ** np.ceil(np.log10(usual)))  # a decade, as the ticks are
    if not len(positive) or (known < 0).any() or positive.max() / 30 <= positive.min():
        return
    low, high = positive.min(), min(positive.max(), HIGHEST)
    if low < 1 / WIDE or high > WIDE:
        _fit_decades(axes, low, high)
    else:
        axes.set_yscale("log")


def _fit_decades(axes, low: float, high: float) -> None:
    """A logarithmic axis of whole decades, with ticks that do not overflow."""
    first = max(np.floor(np.log10(low)), -323)  # 10^−324 is 0
    decades = 10.0 ** np.arange(first, np.ceil(np.log10(high)) + 1)
    axes.set_autoscaley_on(False)
    axes.set_yscale("log")
    axes.set_ylim(min(low, decades[0]), decades[-1])
    axes.yaxis.set_major_locator(FixedLocator(decades[:: max(1, len(decades) // 6)].tolist()))
    axes.yaxis.set_minor_locator(NullLocator())


def _mode(run: "xarray.Dataset") -> str:
    """The decay mode of the optimizer, which decides its look; ``"unknown"`` for an optimizer not in the catalogue."""
    name = str(run.attrs.get("optimizer", ""))
    return (mode_of(CATALOG[name].decay) or "unknown") if name in CATALOG else "unknown"


def _label(run: "xarray.Dataset", dims: Sequence, i: int) -> str:
    if dims[-1] == "parameter" and "parameter" in run.coords:
        return str(run["parameter"].values[i])
    return f"{dims[-1]} {i}"
