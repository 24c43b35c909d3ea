"""Recorded quantities over the steps of a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from swd_dynamics.errors import InputError, Table
from swd_dynamics.plots.style import COLOURS, house_style, measured
from swd_dynamics.rules import CATALOG, DECAYS

if TYPE_CHECKING:
    import xarray

MOST_LINES = 10  # that a reader can tell apart
POINTS = 100  # of one course; more would lie on one another


def draw_recording(recording: "xarray.Dataset", names: Sequence[str]) -> Figure:
    """One panel for each quantity, over the steps; in the colour of the optimizer's decay mode where it is known.

    Parameters
    ----------
    recording : xarray.Dataset
        Of :func:`swd_dynamics.record` or :func:`swd_dynamics.open_recording`.
    names : sequence of str
        Variables over the steps: one number each, or one for each parameter group or parameter.

    Raises
    ------
    InputError
        If a name is none of the recording's, or is no quantity over the steps, or there is nothing to draw.
    """
    if not names or not recording.sizes.get("step", 0):
        raise InputError("there is nothing to draw: give at least one quantity, of a recording with steps")
    for name in names:
        _check(recording, name)
    with house_style():
        figure = Figure(figsize=(7.5, 1.2 + 2.2 * len(names)))
        panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(panels, names, strict=True):
            _draw(axes, recording, name)
        panels[-1].set_xlabel("step k")
        figure.suptitle(f"{recording.attrs.get('optimizer', 'unknown optimizer')}, recorded", fontsize=12)
    return figure


def _check(recording: "xarray.Dataset", name: str) -> None:
    drawable = [str(variable) for variable in recording.data_vars if _is_course(recording[variable])]
    if name in recording.data_vars and name not in drawable:
        dims = recording[name].dims
        raise InputError(f"{name} has the dimensions {dims}; what can be drawn is {', '.join(drawable)}")
    Table("quantity", **dict.fromkeys(drawable))[name]


def _is_course(variable: "xarray.DataArray") -> bool:
    return variable.dims in (("step",), ("step", "group"), ("step", "parameter"))


def _draw(axes, recording: "xarray.Dataset", name: str) -> None:
    variable = recording[name]
    courses = variable.values.astype(float).reshape(len(variable), -1)
    every = max(1, len(courses) // POINTS)
    steps = recording["step"].values[::every]
    for i in range(min(courses.shape[1], MOST_LINES)):
        style = _style(recording, i, courses.shape[1])
        axes.plot(steps, courses[::every, i], **style, label=_label(recording, variable.dims, i), markersize=3)
    axes.set_ylabel(name, fontsize=9)
    left_out = f" (the first {MOST_LINES} of {courses.shape[1]})" if courses.shape[1] > MOST_LINES else ""
    axes.set_title(variable.attrs.get("long_name", "") + left_out, fontsize=9, loc="left")
    positive = courses[np.isfinite(courses) & (courses > 0)]
    if len(positive) and (courses[np.isfinite(courses)] >= 0).all() and positive.max() > 30 * positive.min():
        axes.set_yscale("log")
    if courses.shape[1] > 1:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _style(recording: "xarray.Dataset", i: int, courses: int) -> dict:
    style = measured(_mode(recording))
    del style["label"]
    if courses > 1:
        style["color"] = f"C{i}"
    return style | {"linestyle": "none"}


def _mode(recording: "xarray.Dataset") -> str:
    """The decay mode of the optimizer, as its colour says; that of no decay where it is not known."""
    name = str(recording.attrs.get("optimizer", ""))
    modes: dict[Any, str] = {decay: mode for mode, decay in DECAYS.items()}
    mode = modes.get(CATALOG[name].decay, "none") if name in CATALOG else "none"
    return mode if mode in COLOURS else "none"


def _label(recording: "xarray.Dataset", dims: tuple, i: int) -> str:
    if dims[-1] == "parameter" and "parameter" in recording.coords:
        return str(recording["parameter"].values[i])
    return f"{dims[-1]} {i}"
