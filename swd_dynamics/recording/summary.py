"""A recording in a few lines of text: what made it, and the course of every quantity."""

import json
from typing import Any

import numpy as np
import xarray

BLOCKS = "▁▂▃▄▅▆▇█"
UNKNOWN = "·"
WIDTH = 32
SAID = (
    "status", "device", "device_name", "dtype", "seed", "data", "git_commit", "model", "weights",
    "parameter_names", "decay_unknown_because", "incomplete_because", "distance_unknown_because",
)  # fmt: skip
# Relative change below which a course is drawn as constant. With 1e-16 round-off would be drawn as
# a course; with 1e-3 a slow change would not be drawn.
ROUND_OFF = 1e-9


def sparkline(values: np.ndarray, width: int = WIDTH) -> str:
    """A course drawn in block letters, from its smallest to its largest value; a dot is unknown.

    Parameters
    ----------
    values : array, shape (steps,)
    width : int
        Number of letters. Each letter stands for the mean over the same number of steps.

    Examples
    --------
    >>> sparkline(np.array([0.0, 1.0, 2.0, np.nan, 7.0])), sparkline(np.array([3.0, 3.0]))
    ('▁▂▃·█', '▁▁')
    """
    if not len(values):
        return ""
    values = np.asarray(values, dtype=float)
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    values = values / largest if largest > 1 else values  # so that no mean overflows
    pieces = np.array_split(values, min(width, len(values)))
    known = [piece[np.isfinite(piece)] for piece in pieces]
    means = np.array([piece.mean() if len(piece) else np.nan for piece in known])
    if np.isnan(means).all():
        return UNKNOWN * len(means)
    low, high = np.nanmin(means), np.nanmax(means)
    is_constant = high - low <= ROUND_OFF * max(abs(low), abs(high))
    heights = (means - low) / (1 if is_constant else high - low) * (len(BLOCKS) - 1)
    return "".join(UNKNOWN if np.isnan(height) else BLOCKS[round(height)] for height in heights)


def summary(recording: xarray.Dataset) -> str:
    """What made a recording, and every quantity's first and last value, extremes and course.

    Quantities of single parameters and weights are left out.

    Examples
    --------
    >>> run = xarray.Dataset({"loss": ("step", [4.0, 1.0])}, {"step": [1, 2]}, {"optimizer": "SGD"})
    >>> print(summary(run))
    SGD, steps 1 to 2 (2 rows)
    <BLANKLINE>
    quantity        first         last      minimum      maximum  course
    loss                4            1            1            4  █▁
    """
    courses = dict(_courses(recording))
    width = max([8, *map(len, courses)])
    heads = "".join(f"{word:>13}" for word in ("first", "last", "minimum", "maximum"))
    lines = [f"{'quantity':{width}}{heads}  course"]
    for name, values in courses.items():
        known = values[np.isfinite(values)]
        extremes = (known.min(), known.max()) if len(known) else (np.nan, np.nan)
        shown = (*values[[0, -1]], *extremes) if len(values) else ()
        numbers = "".join(f"{value:13.5g}" for value in shown)
        lines.append(f"{name:{width}}{numbers}  {sparkline(values)}")
    return "\n".join([*_made_by(recording), "", *lines])


def _courses(recording: xarray.Dataset):
    for name, variable in recording.data_vars.items():
        if variable.dims == ("step",):
            yield str(name), variable.values.astype(float)
        elif variable.dims == ("step", "group") and not _says_it_again(recording, str(name)):
            for i in range(variable.shape[1]):
                title = f"{name}[{i}]" if variable.shape[1] > 1 else str(name)
                yield title, variable.values[:, i].astype(float)


def _says_it_again(recording: xarray.Dataset, name: str) -> bool:
    """Whether a quantity of the only group equals the same quantity of all weights."""
    others = set(recording.data_vars) - {name}
    return recording.sizes["group"] == 1 and name.removesuffix("_group") in others


def _made_by(recording: xarray.Dataset) -> list[str]:
    facts, steps = recording.attrs, recording["step"].values
    span = f"steps {steps[0]} to {steps[-1]} ({len(steps)} rows)" if len(steps) else "no steps yet"
    lines = [f"{facts.get('optimizer', 'an unknown optimizer')}, {span}"]
    for name in SAID:
        if name in facts and _worth_saying(facts[name]):
            letters = _short(facts[name])
            said = "".join(letter if letter.isprintable() else "?" for letter in letters)
            lines.append(f"{name.replace('_', ' ')}: {said}")
    return lines


def _worth_saying(fact: Any) -> bool:
    return str(fact) not in ("", "null", "[]", "none", "not given", "nothing is unknown")


def _short(fact: Any, most: int = 8) -> str:
    """A fact on one line; the first entries of a long list or a long table."""
    try:
        entries = json.loads(fact)
    except (TypeError, ValueError):
        return str(fact)
    if not isinstance(entries, list | dict):
        return str(entries)
    if isinstance(entries, dict):
        entries = [f"{key} {value}" for key, value in entries.items()]
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return ", ".join(map(str, entries[:most])) + more
