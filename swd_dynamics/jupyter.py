"""Displays for an IPython shell: a rule is shown as its equations, and a figure as a picture."""

from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from swd_dynamics.rules import UpdateRule


def show_in(shell: Any) -> None:
    """Register both displays with a running IPython shell, without importing the two classes.

    A rule cannot have a method that shows it, because ``rules`` lies below sympy. A figure shows itself only after
    pyplot was imported, which this package does not need.
    """
    formatters = shell.display_formatter.formatters
    others = [formatter for kind, formatter in formatters.items() if kind.startswith("image/") and kind != "image/png"]

    def picture(figure: "Figure") -> bytes | None:
        from swd_dynamics.plots.style import figure_png

        shown = any(kind.__name__ == "Figure" for other in others for kind in other.type_printers)
        return None if shown else figure_png(figure)  # None if the user has chosen another format for figures

    formatters["text/markdown"].for_type_by_name("swd_dynamics.rules.update", "UpdateRule", rule_markdown)
    formatters["image/png"].for_type_by_name("matplotlib.figure", "Figure", picture)


def rule_markdown(rule: "UpdateRule") -> str | None:
    r"""The equations of a rule with the values of its symbols; None if the rule is broken or has no formula.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> print(rule_markdown(CATALOG["SGD"](lr=0.5, weight_decay=0.25)))
    **SGD with L2 decay**
    <BLANKLINE>
    $$ \begin{aligned} G &= g + \lambda \theta \\ R &= 0 \\
    \theta' &= \left(1 - R\right) \theta - \eta G \end{aligned} $$
    <BLANKLINE>
    $\eta = 0.5$, $\lambda = 0.25$
    """
    from swd_dynamics.symbolic import equations
    from swd_dynamics.symbolic.derivation import aligned
    from swd_dynamics.symbolic.names import number_latex
    from swd_dynamics.symbolic.printer import latex

    try:
        derived = equations(rule)
    except Exception:  # an error in a user's direction is reported when the rule is derived or takes a step
        return None
    sides = [(latex(step.equation.lhs), latex(step.equation.rhs)) for step in derived.steps]
    numbers = ", ".join(
        f"${latex(letter)} = {_number(value, number_latex)}$" for letter, value in derived.values.items()
    )
    return "\n\n".join([f"**{rule.name}**", f"$$ {aligned(sides)} $$", *([numbers] if numbers else [])])


def _number(value: Any, number_latex: "Callable[[float], str]") -> str:
    if callable(value):
        return rf"\text{{{value if is_dataclass(value) else 'a schedule'}}}"
    if np.ndim(value):
        return (
            rf"{number_latex(np.min(value))} \ldots {number_latex(np.max(value))}"
            if np.size(value)
            else r"\text{no values}"
        )
    return number_latex(value)
