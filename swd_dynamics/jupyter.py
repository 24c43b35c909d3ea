"""What an IPython shell has to be told to show a rule as its equations, and a figure as a picture."""

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
    formatters["text/markdown"].for_type_by_name("swd_dynamics.rules.update", "UpdateRule", rule_markdown)
    formatters["image/png"].for_type_by_name("matplotlib.figure", "Figure", _png)


def rule_markdown(rule: "UpdateRule") -> str | None:
    r"""A rule as its equations, with what its letters stand for; None if it cannot be read as formulas.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> print(rule_markdown(CATALOG["SGD"](lr=0.5, weight_decay=0.25)))
    **SGD with L2**
    <BLANKLINE>
    $$ \begin{aligned} G &= \lambda \theta + g \\ R &= 0 \\
    \theta' &= - \eta G + \theta \left(1 - R\right) \end{aligned} $$
    <BLANKLINE>
    $\eta = 0.5$, $\lambda = 0.25$
    """
    from swd_dynamics.symbolic import NotDerivable, equations
    from swd_dynamics.symbolic.derivation import aligned
    from swd_dynamics.symbolic.notation import latex

    try:
        derived = equations(rule)
    except NotDerivable:
        return None
    sides = [(latex(step.equation.lhs), latex(step.equation.rhs)) for step in derived.steps]
    title = derived.title.partition(": ")[2]
    numbers = ", ".join(f"${latex(letter)} = {_number(value)}$" for letter, value in derived.values.items())
    return "\n\n".join([f"**{title}**", f"$$ {aligned(sides)} $$", *([numbers] if numbers else [])])


def _number(value: Any) -> str:
    if callable(value):
        return rf"\text{{a schedule, {type(value).__name__}}}"
    if np.ndim(value):
        return rf"{np.min(value):g} \ldots {np.max(value):g}"
    mantissa, _, exponent = f"{value:g}".partition("e")
    power = rf"10^{{{int(exponent)}}}" if exponent else ""
    return power if mantissa == "1" and power else r" \cdot ".join(filter(None, (mantissa, power)))


def _png(figure: "Figure") -> bytes:
    from swd_dynamics.plots.style import figure_png

    return figure_png(figure)
