"""What an IPython shell has to be told to show a rule as its equations, and a figure as a picture."""

from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from swd_dynamics.rules import UpdateRule


def show_in(shell: Any) -> None:
    """Register the two with a running IPython shell. Neither class is imported for it.

    A rule knows no sympy (it is below it), and only pyplot, which nobody here needs, makes a figure show itself.
    """
    formatters = shell.display_formatter.formatters
    others = [formatter for kind, formatter in formatters.items() if kind.startswith("image/") and kind != "image/png"]

    def picture(figure: "Figure") -> bytes | None:
        from swd_dynamics.plots.style import figure_png

        shown = any(kind.__name__ == "Figure" for other in others for kind in other.type_printers)
        return None if shown else figure_png(figure)  # someone who asked for another format has it

    formatters["text/markdown"].for_type_by_name("swd_dynamics.rules.update", "UpdateRule", rule_markdown)
    formatters["image/png"].for_type_by_name("matplotlib.figure", "Figure", picture)


def rule_markdown(rule: "UpdateRule") -> str | None:
    r"""A rule as its equations, with what its letters stand for; None if it cannot be read as formulas, or is broken.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> print(rule_markdown(CATALOG["SGD"](lr=0.5, weight_decay=0.25)))
    **SGD with L2 decay**
    <BLANKLINE>
    $$ \begin{aligned} G &= \lambda \theta + g \\ R &= 0 \\
    \theta' &= - \eta G + \theta \left(1 - R\right) \end{aligned} $$
    <BLANKLINE>
    $\eta = 0.5$, $\lambda = 0.25$
    """
    from swd_dynamics.symbolic import equations
    from swd_dynamics.symbolic.derivation import aligned
    from swd_dynamics.symbolic.notation import latex

    try:
        derived = equations(rule)
    except Exception:  # whatever is wrong with a user's direction is said when it is asked to derive or to step
        return None
    sides = [(latex(step.equation.lhs), latex(step.equation.rhs)) for step in derived.steps]
    numbers = ", ".join(f"${latex(letter)} = {_number(value)}$" for letter, value in derived.values.items())
    return "\n\n".join([f"**{rule.name}**", f"$$ {aligned(sides)} $$", *([numbers] if numbers else [])])


def _number(value: Any) -> str:
    if callable(value):
        return rf"\text{{{value if is_dataclass(value) else 'a schedule'}}}"
    if np.ndim(value):
        return rf"{np.min(value):g} \ldots {np.max(value):g}" if np.size(value) else r"\text{no values}"
    mantissa, _, exponent = f"{value:g}".partition("e")
    power = rf"10^{{{int(exponent)}}}" if exponent else ""
    return power if mantissa == "1" and power else r" \cdot ".join(filter(None, (mantissa, power)))
