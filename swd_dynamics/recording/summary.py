"""A recording in a few lines of text: what made it, and the course of every quantity."""

import json
from typing import Any

import numpy as np
import xarray

BLOCKS = "▁▂▃▄▅▆▇█"
UNKNOWN = "·"
WIDTH = 32
SAID = (
    "status", "device", "device_name", "dtype", "seed", "data", "git_commit", "model", "weights", "parameter_names",
    "decay_unknown_because", "incomplete_because", "distance_unknown_because",
)  # fmt: skip
ROUND_OFF = 1e-9  # relative; what moves by less stands still


def sparkline(values: np.ndarray, width: int = WIDTH) -> str:
    """A course drawn in block letters, from the smallest value to the largest; a dot where nothing is known.

    Parameters
    ----------
    values : array, shape (steps,)
    width : int
        Letters; each stands for the mean of as many steps.

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
    stands_still = high - low <= ROUND_OFF * max(abs(low), abs(high))
    heights = (means - low) / (1 if stands_still else high - low) * (len(BLOCKS) - 1)
    return "".join(UNKNOWN if np.isnan(height) else BLOCKS[round(height)] for height in heights)


def summary(recording: xarray.Dataset) -> str:
    """What made a recording, and of every quantity its first and last value, its extremes and its course.

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
        numbers = "".join(f"{value:13.5g}" for value in (*values[[0, -1]], *extremes)) if len(values) else ""
        lines.append(f"{name:{width}}{numbers}  {sparkline(values)}")
    return "\n".join([*_made_by(recording), "", *lines])


def _courses(recording: xarray.Dataset):
    for name, variable in recording.data_vars.items():
        if variable.dims == ("step",):
            yield str(name), variable.values.astype(float)
        elif variable.dims == ("step", "group") and not _says_it_again(recording, str(name)):
            for i in range(variable.shape[1]):
                yield f"{name}[{i}]" if variable.shape[1] > 1 else str(name), variable.values[:, i].astype(float)


def _says_it_again(recording: xarray.Dataset, name: str) -> bool:
    """Whether a quantity of the only group is that of all weights."""
    return recording.sizes["group"] == 1 and name.removesuffix("_group") in set(recording.data_vars) - {name}


def _made_by(recording: xarray.Dataset) -> list[str]:
    facts, steps = recording.attrs, recording["step"].values
    span = f"steps {steps[0]} to {steps[-1]} ({len(steps)} rows)" if len(steps) else "no steps yet"
    lines = [f"{facts.get('optimizer', 'an unknown optimizer')}, {span}"]
    for name in SAID:
        if name in facts and _worth_saying(facts[name]):
            said = "".join(letter if letter.isprintable() else "?" for letter in _short(facts[name]))
            lines.append(f"{name.replace('_', ' ')}: {said}")
    return lines


def _worth_saying(fact: Any) -> bool:
    return str(fact) not in ("", "null", "[]", "none", "not given", "nothing is unknown")


def _short(fact: Any, most: int = 8) -> str:
    """A fact on one line; of a long list, or a long table, the first entries."""
    try:
        entries = json.loads(fact)
    except (TypeError, ValueError):
        return str(fact)
    if not isinstance(entries, list | dict):
        return str(entries)
    words = [str(entry) for entry in entries] if isinstance(entries, list) else [f"{k} {v}" for k, v in entries.items()]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
