"""The laws of norm and rotation, drawn on the curves of one run."""

from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from swd_dynamics.plots.style import LOOKS, house_style, measured, theory

MOST = 4  # parameters drawn: with more, the panels are too low to be read


def explained(found: Any) -> Figure:
    """Norm and rotation of the largest parameters over the steps: laws as lines, the run as points.

    Parameters
    ----------
    found : :class:`~swd_dynamics.crosscheck.Explained`
        What :func:`swd_dynamics.explain` returned.

    Examples
    --------
    >>> from swd_dynamics.crosscheck.course import Course
    >>> from swd_dynamics.crosscheck.explain import Explained
    >>> two = np.array([1.0, 2.0])
    >>> course = Course("w", (2,), two, two, two, two, two, two)
    >>> len(explained(Explained("AdamW", "decoupled", (course,), ())).axes)
    2
    """
    shown = sorted(found.courses, key=lambda course: -np.prod(course.shape))[:MOST]
    mode = found.mode if found.mode in LOOKS else "unknown"
    with house_style():
        figure = Figure(figsize=(8.6, 1.4 + 1.9 * len(shown)))
        panels = figure.subplots(len(shown), 2, sharex=True, squeeze=False)
        for (left, right), course in zip(panels, shown, strict=True):
            for axes, law, seen in ((left, course.norm_law, course.norm), (right, course.angle_law, course.angle)):
                most = course.last_with_law  # beyond, η is so small that its law says nothing
                axes.plot(
                    course.steps[:most], law[:most], **theory(mode, label="law, for the η and gradients of that time")
                )
                axes.plot(course.steps, seen, **measured(mode, label="the run"))
            left.set_ylim(
                0, 1.4 * np.nanmax([*course.norm_law[: course.last_with_law], *course.norm])
            )  # room for the remark
            right.set_yscale("log")  # the first steps of Adam turn the weights ten times as far as later ones
            right.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            right.yaxis.set_minor_locator(NullLocator())
            left.set_ylabel(course.parameter)
            remark = "\n".join(wrap(course.said, 56))
            left.text(0.98, 0.97, remark, transform=left.transAxes, fontsize=8, ha="right", va="top")
        panels[0, 0].set_title("norm ‖θ‖", loc="left")
        panels[0, 1].set_title("angle of a step, radians", loc="left")
        for axes in panels[-1]:
            axes.set_xlabel("step k")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        title = f"{found.optimizer}: where noise and decay would balance, and where the run is"
        among = len(found.courses) + found.omitted
        title += f"\n(the {len(shown)} largest of {among} parameters)" * (len(shown) < among)
        figure.suptitle(title, x=0.01, ha="left")
    return figure
