"""A recording in a few lines of text: what made it, and the course of every quantity."""

import json
from collections.abc import Iterator
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
import xarray

BLOCKS = "▁▂▃▄▅▆▇█"
UNKNOWN = "·"
WIDTH = 32
LINE = 100  # columns of a line
DIGITS = 4  # of a number
LOGARITHMIC = " (log)"  # after a course on a logarithmic scale
NUMBER = 11  # columns of a number: a sign, four digits with a point, a power of ten, and a space
SECTIONS = {
    "loss and learning rate": ("loss", "lr", "effective_lr"),
    "weights θ, gradient g, momentum m, and the change Δθ of θ in a step": (
        "theta_norm", "gradient_norm", "update_norm", "momentum_norm", "theta_rms", "gradient_rms",
        "update_rms", "update_sparsity", "changed_outside", "distance",
    ),
    "angles": ("cos_theta_update", "cos_gradient_momentum", "rotation"),
    "second moment v": ("v_mean", "v_bar"),
    "weight decay": (
        "decay_rate", "decay_ratio", "decay_fraction", "decay_rate_std", "decay_rate_min", "decay_rate_max",
    ),
    "sharpness of the loss": (
        "sharpness", "sharpness_along_theta", "sharpness_along_descent", "lifting_decay", "critical_step",
        "critical_sharpness",
    ),
}  # fmt: skip
OTHERS = "other quantities"
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


class SummaryRow(NamedTuple):
    """A quantity over the steps; of a quantity of several parameter groups, that of one group.

    Attributes
    ----------
    title : str
        Its name, with the number of the group.
    base : str
        The name of the quantity of all weights.
    values : array, shape (steps,)
    meaning : str
    """

    title: str
    base: str
    values: np.ndarray
    meaning: str

    @property
    def is_known(self) -> bool:
        """Whether there is a value in any step."""
        return bool(np.isfinite(self.values).any())


def summary(recording: xarray.Dataset) -> str:
    """What made a recording, and every quantity's first and last value, extremes, course and meaning.

    A course that spans more than two decades is drawn on a logarithmic scale. Quantities without any value are listed
    below the others. Quantities of single parameters and weights are left out.

    Examples
    --------
    >>> loss = ("step", [4.0, 1.0], {"long_name": "training loss before the step"})
    >>> run = xarray.Dataset({"loss": loss}, {"step": [1, 2]}, {"optimizer": "SGD"})
    >>> print(summary(run))
    SGD, steps 1 to 2 (2 rows)
    the loss fell from 4 to 1
    <BLANKLINE>
    quantity      first       last    minimum    maximum  course
    – loss and learning rate –
    loss              4          1          1          4  █▁
    <BLANKLINE>
    what the quantities mean
    loss  training loss before the step
    """
    courses = [*_courses(recording)]
    width = max([8, *(len(course.title) for course in courses)])
    heads = "".join(f"{word:>{NUMBER}}" for word in ("first", "last", "minimum", "maximum"))
    lines = [*_made_by(recording), *_course_of_loss(recording), *_divergence(recording)]
    lines += ["", f"{'quantity':{width}}{heads}  course"]
    shown = [course for course in courses if course.is_known or course.base == "loss" or not len(course.values)]
    for section in (*SECTIONS, OTHERS):
        rows = [_line(course, width) for course in shown if _section(course) == section]
        lines += [f"– {section} –", *rows] if rows else []
    unknown = [course.title for course in courses if course not in shown]
    if unknown:
        lines += ["", *_filled(f"without a value in any step: {', '.join(unknown)}", "    ")]
    return "\n".join([*lines, *_meanings(shown)])


def _section(course: SummaryRow) -> str:
    return next((section for section, names in SECTIONS.items() if course.base in names), OTHERS)


def _filled(words: str, indent: str) -> list[str]:
    return wrap(words, LINE, subsequent_indent=indent, break_on_hyphens=False)


def _meanings(shown: list[SummaryRow]) -> list[str]:
    """What each quantity that is shown means, in the order of the sections; each is said once."""
    ordered = [course for section in (*SECTIONS, OTHERS) for course in shown if _section(course) == section]
    said = {course.base: course.meaning for course in reversed(ordered) if course.meaning}
    width = max(map(len, said), default=0)
    lines = [
        line
        for base, meaning in reversed(said.items())
        for line in _filled(f"{base:{width}}  {meaning}", " " * (width + 2))
    ]
    return ["", "what the quantities mean", *lines] if lines else []


def _line(course: SummaryRow, width: int) -> str:
    values = course.values
    known = values[np.isfinite(values)]
    if course.base == "loss" and len(values) and not len(known):
        return f"{course.title:{width}}  not observed: call probe.observe(loss=loss) once in each step"
    if not len(known):
        return f"{course.title:{width}}"
    numbers = "".join(f"{value:{NUMBER}.{DIGITS}g}" for value in (*values[[0, -1]], known.min(), known.max()))
    letters = LINE - width - 4 * NUMBER - len(LOGARITHMIC) - 2
    return f"{course.title:{width}}{numbers}  {_drawn(values, known, max(8, min(WIDTH, letters)))}"


def _drawn(values: np.ndarray, known: np.ndarray, letters: int) -> str:
    """The course as letters, or in a word."""
    is_constant = len(known) == len(values) > 1 and f"{known.min():.{DIGITS}g}" == f"{known.max():.{DIGITS}g}"
    if is_constant:  # to all digits that are shown
        return "constant"
    log = bool(known.min() > 0 and known.max() > DECADES * known.min())
    return sparkline(values, letters, log=log) + LOGARITHMIC * log


def _course_of_loss(recording: xarray.Dataset) -> list[str]:
    if "loss" not in recording or recording["loss"].dims != ("step",):
        return []
    said = course_of_loss(recording["step"].values, recording["loss"].values)
    return [said] if said else []


def _divergence(recording: xarray.Dataset) -> list[str]:
    """From which step on ‖θ‖ is not finite; nothing if it is at the end, or never was."""
    if "theta_norm" not in recording or recording["theta_norm"].dims != ("step",):
        return []
    end = _end_of_finite(recording["theta_norm"].values)
    steps = recording["step"].values
    return [f"‖θ‖ is not finite from step {steps[end]} on"] if 0 < end < len(steps) else []


def _end_of_finite(values: np.ndarray) -> int:
    """The number of values up to the last finite one."""
    finite = np.nonzero(np.isfinite(values))[0]
    return int(finite[-1]) + 1 if len(finite) else 0


def course_of_loss(steps: np.ndarray, losses: np.ndarray) -> str:
    """The course of a loss in words: from where to where, and its largest value if it rose; nothing if it is unknown.

    Examples
    --------
    >>> course_of_loss(np.array([1, 2, 3]), np.array([2.0, 64.0, 16.0]))
    'the loss grew from 2 to 16 (largest: 64 at step 2)'
    """
    finite, end = np.isfinite(losses), _end_of_finite(losses)
    lost = f", and has no finite value from step {steps[end]} on" if 0 < end < len(steps) else ""
    steps, losses = steps[finite], losses[finite]
    if len(losses) < 2:
        return ""
    first, last, peak = losses[0], losses[-1], int(np.argmax(losses))
    course = "grew" if last > first else "fell" if last < first else "is the same at both ends:"
    rose = last > first or losses[peak] > PEAK * abs(first)
    at = f" (largest: {losses[peak]:.4g} at step {steps[peak]})" if rose and losses[peak] > last else ""
    return f"the loss {course} from {first:.4g} to {last:.4g}{at}{lost}"


def _courses(recording: xarray.Dataset) -> Iterator[SummaryRow]:
    for key, variable in recording.data_vars.items():
        name, meaning = str(key), str(variable.attrs.get("long_name", ""))
        if variable.dims == ("step",):
            yield SummaryRow(name, name, variable.values.astype(float), meaning)
        elif variable.dims == ("step", "group") and not _says_it_again(recording, name):
            base = name.removesuffix("_group")
            for i in range(variable.shape[1]):
                title = f"{name}[{i}]" if variable.shape[1] > 1 else name
                yield SummaryRow(title, base, variable.values[:, i].astype(float), meaning)


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
            lines += _filled(f"{name.replace('_', ' ')}: {said}", "    ")
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
