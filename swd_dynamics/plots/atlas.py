"""The atlas of weight decay: the decay rate of every optimizer of a package, before and after gradients shrink."""

from collections.abc import Sequence
from math import isclose, isnan
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from swd_dynamics.plots.style import COLOURS, LABELS, MARKERS, MUTED, house_style

KIND_STYLES = {kind: (COLOURS[kind], MARKERS[kind], LABELS[kind]) for kind in ("L2", "decoupled", "stable")}
KIND_STYLES["other"] = ("#CC79A7", "v", "other")  # a colour of Okabe & Ito, as the others are
KIND_STYLES["none"] = (COLOURS["none"], MARKERS["none"], LABELS["none"])
KIND_STYLES["not audited"] = (MUTED, "x", "not audited")
ROW = 0.15  # height of an optimizer, in inches: with half as much the names of 7 points overlap
SMALLEST_DRAWN = 1e-7  # a rate; smaller rates are written as words, since their markers would crowd all others
ROUND_OFF_RATE = 1e-10  # a smaller rate is round-off, as in the audit
INSET = 0.008  # the distance between the axis and words, as a share of the width
BEFORE, AFTER = "settled", "gradients / 10"


def draw_atlas(entries: Sequence[Any], title: str, nominal: float) -> Figure:
    """One line for each optimizer, under a heading for each kind: R before and after gradients fall to a tenth.

    The marker for R before is open, and the marker for R after is filled.

    Parameters
    ----------
    entries : sequence of swd_dynamics.auditing.atlas.AtlasEntry
    title : str
    nominal : float
        ηλ, drawn as a guide. An optimizer with another ηλ has an asterisk after its name.
    """
    lines = _lines(entries)
    with house_style():
        figure = Figure(figsize=(8.2, 1.7 + ROW * len(lines)))
        axes = figure.subplots()
        axes.axvline(nominal, color=MUTED, linewidth=0.8, zorder=0)
        for i, (kind, entry) in enumerate(lines):
            (_draw_heading if entry is None else _draw_entry)(axes, i, kind, entry)
        _finish(axes, lines, nominal)
        figure.suptitle(title, fontsize=11)
        starred = any(_has_another(entry, nominal) for entry in entries)
        figure.legend(handles=_keys(starred), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _lines(entries: Sequence[Any]) -> list[tuple[str, Any]]:
    """A heading (None) and the optimizers of each kind, the strongest decay first."""
    lines: list[tuple[str, Any]] = []
    for kind in KIND_STYLES:
        own = [entry for entry in entries if entry.kind == kind]
        own.sort(key=lambda entry: (-np.nan_to_num(entry.rate(BEFORE), nan=-1.0), entry.name.lower()))
        lines += [(kind, None), *((kind, entry) for entry in own)] if own else []
    return lines


def _draw_heading(axes: Axes, i: int, kind: str, _) -> None:
    colour, _, words = KIND_STYLES[kind]
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    style: dict[str, Any] = {"color": colour, "va": "center", "weight": "bold", "fontsize": 9, "bbox": behind}
    axes.text(INSET, i, words, transform=axes.get_yaxis_transform(), **style)
    axes.axhline(i, color=colour, linewidth=0.6, alpha=0.4)


def _draw_entry(axes: Axes, i: int, kind: str, entry) -> None:
    colour, marker, _ = KIND_STYLES[kind]
    before, after = entry.rate(BEFORE), entry.rate(AFTER)
    if not (before > SMALLEST_DRAWN and after > SMALLEST_DRAWN):
        words = _cut(_words(entry, before, after))
        axes.text(INSET, i, words, transform=axes.get_yaxis_transform(), color="#666666", va="center", fontsize=6)
        return
    axes.plot([before, after], [i, i], color=colour, linewidth=1.2)
    axes.plot(before, i, color=colour, marker=marker, markersize=5, markerfacecolor="white")
    axes.plot(after, i, color=colour, marker=marker, markersize=4)


def _words(entry, before: float, after: float) -> str:
    """The words of an optimizer whose rates are not drawn."""
    if entry.found is None:
        return entry.reason.rpartition("gradients alone: ")[2]
    rates = f"R = {before:.1g}, then {after:.1g}: " if max(abs(before), abs(after)) > ROUND_OFF_RATE else ""
    return rates + entry.reasons


def _cut(words: str, width: int = 125) -> str:
    return words if len(words) <= width else words[: width - 1] + "…"


def _finish(axes: Axes, lines: list[tuple[str, Any]], nominal: float) -> None:
    axes.set_xscale("log")
    axes.set_ylim(len(lines) - 0.4, -0.6)
    named = [
        (i, entry.name + "*" * _has_another(entry, nominal)) for i, (_, entry) in enumerate(lines) if entry is not None
    ]
    axes.set_yticks([i for i, _ in named], [name for _, name in named], fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", linewidth=0.3)
    axes.set_xlabel(
        "R, the fraction by which a perturbation of the weights shrinks in a step (median over the weights)"
    )
    axes.annotate("ηλ", (nominal, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8)


def _has_another(entry: Any, nominal: float) -> bool:
    """Whether an optimizer's ηλ is known and is not the nominal ηλ."""
    return not isnan(entry.own_nominal) and not isclose(entry.own_nominal, nominal)


def _keys(starred: bool) -> list[Line2D]:
    style: dict[str, Any] = {"color": COLOURS["none"], "marker": "o", "linestyle": "none"}
    note = [Line2D([], [], linestyle="none", label="* with another ηλ (see the table)")] if starred else []
    return [
        Line2D([], [], **style, markerfacecolor="white", label="settled"),
        Line2D([], [], **style, label="140 to 240 steps after gradients fell to a tenth"),
        *note,
    ]
