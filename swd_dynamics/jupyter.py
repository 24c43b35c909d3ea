"""Displays for an IPython shell: a rule as its equations, rules side by side, and a figure as a picture."""

import re
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from swd_dynamics.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from swd_dynamics.rules import UpdateRule
    from swd_dynamics.symbolic.derivation import Derivation


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
    from swd_dynamics.symbolic.printer import latex

    try:
        derived = equations(rule)
    except Exception:  # an error in a user's direction is reported when the rule is derived or takes a step
        return None
    sides = [(latex(step.equation.lhs), latex(step.equation.rhs)) for step in derived.steps]
    numbers = _numbers(derived.values)
    return "\n\n".join([f"**{rule.name}**", f"$$ {aligned(sides)} $$", *([numbers] if numbers else [])])


@dataclass(frozen=True, repr=False)
class SideBySide:
    """The equations of several rules, as a table in a notebook and as text in a terminal.

    Attributes
    ----------
    rules : dict of str to UpdateRule
    derived : dict of str to Derivation — the equations of each rule
    """

    rules: "dict[str, UpdateRule]"
    derived: "dict[str, Derivation]"

    @property
    def data(self) -> str:
        """The table as Markdown."""
        from swd_dynamics.planes.courses import decay_mode
        from swd_dynamics.plots.style import LOOKS
        from swd_dynamics.symbolic.printer import latex

        columns, differing, shared = self._columns(latex)
        colours = [LOOKS[decay_mode(rule)].colour for rule in self.rules.values()]
        heads = [_row(["", *(f"**{name}**" for name in self.rules)]), "|---" * (1 + len(self.rules)) + "|"]
        table = [*heads, *(_differing(name, columns, colours) for name in differing)]
        numbers = [_numbers(each.values) for each in self.derived.values()]
        if len(set(numbers)) > 1:
            table.append(_row(["", *numbers]))
        same = ", ".join(f"${name} = {columns[0][name]}$" for name in shared)
        below = [f"The same in each: {same}", *([numbers[0]] if len(set(numbers)) == 1 else [])]
        return "\n\n".join(["\n".join(table), *below])

    def _repr_markdown_(self) -> str:
        return self.data

    def latex(self) -> str:
        r"""The table as a part of a LaTeX document, without colours. It needs amsmath.

        Examples
        --------
        >>> from swd_dynamics.rules import CATALOG
        >>> rules = {name: CATALOG[name](lr=0.5, weight_decay=0.25) for name in ("SGD", "SGDW")}
        >>> print(side_by_side(**rules).latex())
        \begin{tabular}{lll}
         & SGD & SGDW \\
        \hline
        $G$ & $g + \lambda \theta$ & $g$ \\
        $R$ & $0$ & $\eta \lambda$ \\
        \end{tabular}
        <BLANKLINE>
        The same in each: $\theta' = \left(1 - R\right) \theta - \eta G$
        <BLANKLINE>
        $\eta = 0.5$, $\lambda = 0.25$
        """
        from swd_dynamics.symbolic.names import words_latex
        from swd_dynamics.symbolic.printer import latex

        columns, differing, shared = self._columns(latex)
        rows = [[name, *(column.get(name, "") for column in columns)] for name in differing]
        table = [[f"${cell}$" if cell else "" for cell in row] for row in rows]
        numbers = [_escaped(_numbers(each.values)) for each in self.derived.values()]
        table += [["", *numbers]] if len(set(numbers)) > 1 else []
        lines = [rf"{' & '.join(row)} \\" for row in (["", *map(words_latex, self.rules)], *table)]
        aligned = "l" * (1 + len(self.rules))
        lines = [rf"\begin{{tabular}}{{{aligned}}}", lines[0], r"\hline", *lines[1:], r"\end{tabular}"]
        same = ", ".join(f"${name} = {columns[0][name]}$" for name in shared)
        below = [f"The same in each: {same}"] * bool(same) + [numbers[0]] * (len(set(numbers)) == 1)
        return "\n\n".join(["\n".join(lines), *below])

    def __str__(self) -> str:
        from swd_dynamics.symbolic.printer import text

        columns, differing, shared = self._columns(text)
        width = max(map(len, self.rules))
        lines = []
        for symbol in differing:
            lines.append(symbol)
            lines += [f"    {rule:{width}}  {column.get(symbol, '')}".rstrip() for rule, column in self._with(columns)]
        numbers = [_numbers_in_text(each.values) for each in self.derived.values()]
        if len(set(numbers)) > 1:
            lines += ["numbers", *(f"    {rule:{width}}  {said}" for rule, said in self._with(numbers))]
        lines += ["The same in each"] * bool(shared) + [f"    {symbol} = {columns[0][symbol]}" for symbol in shared]
        return "\n".join([*lines, *set(numbers)] if len(set(numbers)) == 1 else lines)

    __repr__ = __str__

    def _with(self, values: list) -> zip:
        return zip(self.rules, values, strict=True)

    def _columns(self, written: Callable[[Any], str]) -> tuple[list[dict[str, str]], list[str], list[str]]:
        """The formula of each symbol in each rule, the symbols whose formulas differ, and the others."""
        columns = [
            {written(step.equation.lhs): written(step.equation.rhs) for step in each.steps}
            for each in self.derived.values()
        ]
        names = dict.fromkeys(name for column in columns for name in column)
        differing = [name for name in names if len({column.get(name) for column in columns}) > 1]
        return columns, differing, [name for name in names if name not in differing]


def side_by_side(*unnamed: Any, **rules: "UpdateRule") -> SideBySide:
    r"""What differs between the equations of several rules, as a table with a column for each rule.

    In a notebook, a formula that no other column has is in the colour of its rule's decay mode. Below the table are the
    equations that are the same in each rule, and the numbers. A terminal shows the same as lines of text.

    Parameters
    ----------
    **rules : UpdateRule
        The rules, each under the heading of its column.

    Returns
    -------
    SideBySide
        Its attribute ``data`` is the table as Markdown.

    Raises
    ------
    InputError
        If no rule is given, or a rule without a name, or one of them has no formula.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> rules = {name: CATALOG[name](lr=0.5, weight_decay=0.25) for name in ("SGD", "SGDW")}
    >>> side_by_side(**rules)
    G
        SGD   g + λθ
        SGDW  g
    R
        SGD   0
        SGDW  ηλ
    The same in each
        θ′ = (1 − R)θ − ηG
    η = 0.5, λ = 0.25
    >>> print(side_by_side(**rules).data)
    |  | **SGD** | **SGDW** |
    |---|---|---|
    | $G$ | $\textcolor{#D55E00}{g + \lambda \theta}$ | $\textcolor{#0072B2}{g}$ |
    | $R$ | $\textcolor{#D55E00}{0}$ | $\textcolor{#0072B2}{\eta \lambda}$ |
    <BLANKLINE>
    The same in each: $\theta' = \left(1 - R\right) \theta - \eta G$
    <BLANKLINE>
    $\eta = 0.5$, $\lambda = 0.25$
    """
    from swd_dynamics.symbolic import equations

    if unnamed or not rules:
        raise InputError('give the rules by name, as side_by_side(a=sd.CATALOG["SGD"](lr=0.1), b=…)')
    return SideBySide(rules, {name: equations(rule) for name, rule in rules.items()})


def _differing(name: str, columns: list[dict[str, str]], colours: list[str]) -> str:
    """A row of the table: the formulas of a symbol, coloured where no other rule has the same."""
    formulas = [column.get(name, "") for column in columns]
    cells = [
        rf"\textcolor{{{colour}}}{{{formula}}}" if formula and formulas.count(formula) == 1 else formula
        for formula, colour in zip(formulas, colours, strict=True)
    ]
    return _row([f"${cell}$".replace("|", r"\vert ") if cell else "" for cell in (name, *cells)])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _numbers(values: dict) -> str:
    """The numbers of a rule's symbols, as formulas in a sentence."""
    from swd_dynamics.symbolic.printer import latex

    return ", ".join(f"${latex(symbol)} = {_number(value)}$" for symbol, value in values.items())


def _escaped(numbers: str) -> str:
    """The numbers with each _ in words escaped, as in the name of a schedule's field: Jupyter would show the escape."""
    return re.sub(r"\\text{[^}]*}", lambda words: words[0].replace("_", r"\_"), numbers)


def _numbers_in_text(values: dict) -> str:
    from swd_dynamics.symbolic.names import symbol_text
    from swd_dynamics.symbolic.symbols import value_text

    return ", ".join(f"{symbol_text(symbol)} = {value_text(value)}" for symbol, value in values.items())


def _number(value: Any) -> str:
    from swd_dynamics.symbolic.names import number_latex

    if callable(value):
        return rf"\text{{{value if is_dataclass(value) else 'a schedule'}}}"
    if np.ndim(value):
        ends = (number_latex(end(value)) for end in (np.min, np.max)) if np.size(value) else ()
        return r" \ldots ".join(ends) or r"\text{no values}"
    return number_latex(value)
