"""A recording in a few lines of text: what made it, and the course of every quantity."""

import json
from textwrap import fill
from typing import Any

import numpy as np
import xarray

BLOCKS = "▁▂▃▄▅▆▇█"
UNKNOWN = "·"
WIDTH = 32
LINE = 100  # columns of a line of words
SAID = (
    "status", "device", "device_name", "dtype", "seed", "data", "git_commit", "model", "weights",
    "parameter_names", "decay_unknown_because", "incomplete_because", "loss_unknown_because",
    "distance_unknown_because",
)  # fmt: skip
# Relative change below which a course is drawn as constant. With 1e-16 round-off would be drawn as
# a course; with 1e-3 a slow change would not be drawn.
ROUND_OFF = 1e-9
# Ratio of the largest to the smallest value from which a course is drawn on a logarithmic scale. With a tenth, a loss
# that falls to a twentieth would be drawn so; with ten times as much, most of its course would be the lowest letter.
DECADES = 100.0
PEAK = 2.0  # a loss that rose to this multiple of its first value before it fell is worth a word


def sparkline(values: np.ndarray, width: int = WIDTH, *, log: bool = False) -> str:
    """A course drawn in block letters, from its smallest to its largest value; a dot is unknown.

    Parameters
    ----------
    values : array, shape (steps,)
    width : int
        Number of letters. Each letter stands for the mean over the same number of steps.
    log : bool
        Whether the scale is logarithmic. Values that are not positive are then unknown.

    Examples
    --------
    >>> sparkline(np.array([0.0, 1.0, 2.0, np.nan, 7.0])), sparkline(np.array([3.0, 3.0]))
    ('▁▂▃·█', '▁▁')
    >>> sparkline(2.0 ** np.arange(8), log=True)
    '▁▂▃▄▅▆▇█'
    """
    if not len(values):
        return ""
    values = np.asarray(values, dtype=float)
    if log:
        values = np.log(np.where(values > 0, values, np.nan))
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

    A course that spans more than two decades is drawn on a logarithmic scale. Quantities without any value are listed
    below the others. Quantities of single parameters and weights are left out.

    Examples
    --------
    >>> run = xarray.Dataset({"loss": ("step", [4.0, 1.0])}, {"step": [1, 2]}, {"optimizer": "SGD"})
    >>> print(summary(run))
    SGD, steps 1 to 2 (2 rows)
    the loss fell from 4 to 1
    <BLANKLINE>
    quantity        first         last      minimum      maximum  course
    loss                4            1            1            4  █▁
    """
    courses = dict(_courses(recording))
    empty = [name for name, values in courses.items() if len(values) and not np.isfinite(values).any()]
    width = max([8, *map(len, courses)])
    heads = "".join(f"{word:>13}" for word in ("first", "last", "minimum", "maximum"))
    lines = [f"{'quantity':{width}}{heads}  course"]
    if "loss" in empty:
        lines.append(f"{'loss':{width}}  not observed: call probe.observe(loss=loss) once in each step")
    lines += [_line(name, values, width) for name, values in courses.items() if name not in empty]
    unknown = [name for name in empty if name != "loss"]
    if unknown:
        said = f"without a value in any step: {', '.join(unknown)}"
        lines += ["", fill(said, LINE, subsequent_indent="    ", break_on_hyphens=False)]
    return "\n".join([*_made_by(recording), *_course_of_loss(recording), "", *lines])


def _line(name: str, values: np.ndarray, width: int) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return f"{name:{width}}"
    numbers = "".join(f"{value:13.5g}" for value in (*values[[0, -1]], known.min(), known.max()))
    return f"{name:{width}}{numbers}  {_drawn(values, known)}"


def _drawn(values: np.ndarray, known: np.ndarray) -> str:
    """The course as letters, or in a word."""
    is_constant = len(known) == len(values) > 1 and f"{known.min():.5g}" == f"{known.max():.5g}"
    if is_constant:  # to all digits that are shown
        return "constant"
    log = bool(known.min() > 0 and known.max() > DECADES * known.min())
    return sparkline(values, log=log) + " (logarithmic)" * log


def _course_of_loss(recording: xarray.Dataset) -> list[str]:
    if "loss" not in recording or recording["loss"].dims != ("step",):
        return []
    said = course_of_loss(recording["step"].values, recording["loss"].values)
    return [said] if said else []


def course_of_loss(steps: np.ndarray, losses: np.ndarray) -> str:
    """The course of a loss in words: from where to where, and its largest value if it rose; nothing if it is unknown.

    Examples
    --------
    >>> course_of_loss(np.array([1, 2, 3]), np.array([2.0, 64.0, 16.0]))
    'the loss grew from 2 to 16 (largest: 64 at step 2)'
    """
    finite = np.isfinite(losses)
    steps, losses = steps[finite], losses[finite]
    if len(losses) < 2:
        return ""
    first, last, peak = losses[0], losses[-1], int(np.argmax(losses))
    course = "grew" if last > first else "fell" if last < first else "is the same at both ends:"
    rose = last > first or losses[peak] > PEAK * abs(first)
    at = f" (largest: {losses[peak]:.4g} at step {steps[peak]})" if rose and losses[peak] > last else ""
    return f"the loss {course} from {first:.4g} to {last:.4g}{at}"


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
            letters = fact_in_words(facts[name])
            said = "".join(letter if letter.isprintable() else "?" for letter in letters)
            lines.append(f"{name.replace('_', ' ')}: {said}")
    return lines


def _worth_saying(fact: Any) -> bool:
    return str(fact) not in ("", "null", "[]", "none", "not given", "nothing is unknown")


def fact_in_words(fact: Any, most: int = 8) -> str:
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
