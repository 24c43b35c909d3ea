"""The atlas of weight decay: the optimizers of a package whose decay is not the one their arguments say."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D

from swd_dynamics.plots.style import COLOURS, LOOKS, MUTED, Look, house_style

OTHER = Look("#8C6239", "<", "other")  # a brown, because the pink of Okabe & Ito's is that of corrected decay
IN_ORDER = ("decoupled", "independent", "corrected", "cautious", "stable", "preconditioned", "none", "other", "L2")
MISNAMED = "not what the name says"
ROW = 0.19  # height of an optimizer, in inches: with half as much the names of 8 points overlap
SMALLEST_DRAWN = 1e-4  # R/ηλ; the markers of smaller ratios would crowd all others
FEW = 14  # rows that fit into one panel of a screen's height
BEFORE, AFTER = "settled", "gradients / 10"


EQUAL = (
    "R counts as ηλ only if nine weights in ten are within 2 % of it, less than a marker's width,\n"
    "and the median still is after the gradients fell to a tenth."
)
CUT = f"A bar that begins at {SMALLEST_DRAWN:g} is cut: some of its weights have an even smaller R/ηλ.\n"


class Group(NamedTuple):
    """A heading, its colour, and the optimizers below it."""

    heading: str
    colour: str
    entries: list[Any]


def draw_atlas(entries: Sequence[Any], claim: str) -> Figure:
    """A row for each optimizer in which R is not ηλ, or whose name says another kind of decay than it has.

    The open marker is the median of R/ηλ over the weights, the pale bar has nine weights in ten, and the filled marker
    is the median after the gradients fell to a tenth. The other optimizers are counted below the panels.

    Parameters
    ----------
    entries : sequence of swd_dynamics.auditing.atlas.AtlasEntry
    claim : str
        The title.
    """
    panels = _panels(_groups(entries))
    tallest = max((_height(panel) for panel in panels), default=1)
    with house_style():
        figure = Figure(figsize=(5.7 * max(len(panels), 1.3), 2.2 + ROW * tallest))
        figure.suptitle(claim, fontsize=11, x=0.01, ha="left")
        if not panels:
            figure.text(0.5, 0.4, _counted(entries), ha="center")
            return figure
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False, sharex=True)[0], panels, strict=True):
            _draw_panel(axes, panel, tallest)
        keys = figure.legend(handles=_keys(), loc="outside lower left", ncols=3, fontsize=8, alignment="left")
        keys.set_title(_counted(entries), prop=FontProperties(size=8))
    return figure


def _counted(entries: Sequence[Any]) -> str:
    """How many optimizers are drawn and why, and how many are not."""
    rows = [entry for entry in entries if _drawn(entry)]
    rest = [entry for entry in entries if not _drawn(entry)]
    drawn = {"with R ≠ ηλ": sum(not entry.decays_by_nominal for entry in rows)}
    drawn["with R = ηλ, but another kind than the name says"] = len(rows) - drawn["with R ≠ ηλ"]
    omitted = Counter(map(_why_omitted, rest))
    cut = any(entry.ratio(BEFORE, "5 %") < SMALLEST_DRAWN for entry in rows)
    said = f"Drawn: {_listed(drawn)}.\n{EQUAL}\n{CUT * cut}" if rows else ""
    return said + (f"In the table, and not drawn: {_listed(omitted)}." if rest else "")


def _listed(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in counted.items() if count)


def _why_omitted(entry: Any) -> str:
    if not entry.found:
        return "not audited"
    if not entry.nominal > 0:
        return "without weight_decay"
    if not entry.measured:
        return "whose R could not be measured"
    return "with R = ηλ" if entry.decays_by_nominal else f"with R < {SMALLEST_DRAWN:g} ηλ"


def _drawn(entry: Any) -> bool:
    return entry.contradicts_name or (entry.measured and _large_enough(entry) and not entry.decays_by_nominal)


def _large_enough(entry: Any) -> bool:
    return entry.ratio(BEFORE) > SMALLEST_DRAWN and entry.ratio(AFTER) > SMALLEST_DRAWN


def _groups(entries: Sequence[Any]) -> list[Group]:
    """The optimizers whose names mislead first, then each kind; the strongest decay first.

    A heading says how many optimizers of its kind the table has, if that is not the number of rows.
    """
    drawn = sorted(filter(_drawn, entries), key=lambda entry: (-_sortable(entry.ratio(BEFORE)), entry.name.lower()))
    wrong, rest = ([entry for entry in drawn if entry.contradicts_name is which] for which in (True, False))
    groups = [Group(f"{MISNAMED}: {len(wrong)}", "#000000", wrong)]
    for kind in dict.fromkeys([*IN_ORDER, *(entry.kind for entry in rest)]):
        colour, _, words = _style(kind)
        rows, all_of_kind = ([entry for entry in among if entry.kind == kind] for among in (rest, entries))
        of = f" of {len(all_of_kind)} in the table" * (len(rows) < len(all_of_kind))
        groups.append(Group(f"{words}: {len(rows)}{of}", colour, rows))
    return [group for group in groups if group.entries]


def _sortable(ratio: float) -> float:
    return float(np.nan_to_num(ratio, nan=-1.0))


def _style(kind: str) -> Look:
    """Colour, marker and words of a kind; those of an unknown decay mode where the kind is not a decay mode."""
    if kind == "other":
        return OTHER
    unknown = LOOKS["unknown"]
    return LOOKS[kind] if kind in LOOKS else unknown._replace(label=kind)


def _height(groups: Sequence[Group]) -> int:
    return sum(1 + len(group.entries) for group in groups)


def _panels(groups: list[Group]) -> list[list[Group]]:
    """The groups in one panel, or in two that are about as tall as each other."""
    if _height(groups) <= FEW or len(groups) < 2:
        return [groups] if groups else []
    above = list(accumulate(1 + len(group.entries) for group in groups))
    split = min(range(1, len(groups)), key=lambda i: max(above[i - 1], above[-1] - above[i - 1]))
    return [groups[:split], groups[split:]]


def _draw_panel(axes: Axes, groups: list[Group], tallest: int) -> None:
    names, i = {}, 0
    for group in groups:
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        style: dict[str, Any] = {"color": group.colour, "va": "center", "weight": "bold", "fontsize": 9, "bbox": behind}
        axes.text(0.01, i, group.heading, transform=axes.get_yaxis_transform(), **style)
        for entry in group.entries:
            i += 1
            names[i] = entry.name
            _draw_entry(axes, i, entry)
        i += 1
    axes.axvline(1, color=MUTED, linewidth=1, zorder=0)
    axes.annotate("R = ηλ", (1, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=9)
    axes.set(xscale="log", ylim=(tallest - 0.4, -0.6), xlabel="R/ηλ (1: the decay rate is lr · weight_decay)")
    axes.set_yticks(list(names), list(names.values()), fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", linewidth=0.3)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}")


def _draw_entry(axes: Axes, i: int, entry: Any) -> None:
    colour, marker, _ = _style(entry.kind)
    before, after = entry.ratio(BEFORE), entry.ratio(AFTER)
    if entry.contradicts_name:
        style: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 8}
        axes.text(1.01, i, f"{entry.kind}, not {entry.named}", color=colour, **style)
        if not _large_enough(entry):
            axes.text(0.01, i, f"R is not above {SMALLEST_DRAWN:g} ηλ: see the table", color="#666666", **style)
            return
    low, high = (max(entry.ratio(BEFORE, column), SMALLEST_DRAWN) for column in ("5 %", "95 %"))
    axes.plot([low, high], [i, i], color=colour, linewidth=5, alpha=0.25, solid_capstyle="butt")
    axes.plot([before, after], [i, i], color=colour, linewidth=1)
    axes.plot(before, i, color=colour, marker=marker, markersize=5, markerfacecolor="white")
    axes.plot(after, i, color=colour, marker=marker, markersize=4)


def _keys() -> list[Line2D]:
    style: dict[str, Any] = {"color": COLOURS["none"]}
    point: dict[str, Any] = {**style, "marker": "o", "linestyle": "none"}
    return [
        Line2D([], [], **point, markerfacecolor="white", label="median of the weights"),
        Line2D([], [], **style, linewidth=5, alpha=0.25, label="nine weights in ten"),
        Line2D([], [], **point, label="median after the gradients fell to a tenth"),
    ]
