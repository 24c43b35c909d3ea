"""What a derivation returns: a result, its assumptions and the steps to it, readable in Jupyter and in a terminal."""

from abc import ABC
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import sympy

from swd_dynamics.errors import InputError
from swd_dynamics.symbolic.notation import latex

TEX = {"θ": r"\theta", "θ′": r"\theta'", "F₀": "F_0", "F₁": "F_1", "h_max": r"h_{\max}"}  # names of results


class NotDerivable(InputError):
    """The rule has a form that this derivation does not cover. The message names the part and says what to write.

    Examples
    --------
    Adam's step is linear only while its preconditioner is constant:

    >>> from swd_dynamics.rules import CATALOG
    >>> from swd_dynamics.symbolic import numeric_linear_map
    >>> numeric_linear_map(CATALOG["AdamW"](lr=0.1))
    Traceback (most recent call last):
    swd_dynamics.symbolic.derivation.NotDerivable: the step is linear only with its preconditioner frozen, ...
    """


class DerivationStep(NamedTuple):
    """One step of a derivation: what was done, in words, and the equation that results.

    Examples
    --------
    The steps are in symbols. Gradient descent becomes unstable at z = −1, where h = 2/η:

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> from swd_dynamics.symbolic import stability_limit
    >>> stability_limit(UpdateRule(0.5, SGD())).steps[-2]
    Jury: a root leaves at z = −1 where p(−1) = 0
          2
      h = ─
          η
    """

    done: str
    equation: Any

    def latex(self) -> str:
        return latex(self.equation)

    def _repr_markdown_(self) -> str:
        return f"{self.done}\n\n$$ {self.latex()} $$"

    def __str__(self) -> str:
        return f"{self.done}\n{_indented(self.equation)}"

    __repr__ = __str__


def stated(done: str, left, right) -> DerivationStep:
    """The step with the equation left = right, which sympy leaves as it is."""
    return DerivationStep(done, sympy.Eq(left, right, evaluate=False))


@dataclass(frozen=True, repr=False)
class Derived(ABC):
    """The fields of a :class:`Derivation` and of a :class:`ModifiedEquation`, and how both are shown."""

    title: str
    results: dict[str, Any]
    steps: tuple[DerivationStep, ...]
    assumptions: tuple[str, ...] = ()
    values: dict = field(default_factory=dict)

    @property
    def value(self):
        """The result, or the first of several results."""
        return next(iter(self.results.values()))

    def latex(self) -> str:
        """The results as LaTeX; several results are lines, aligned."""
        named = [(TEX.get(name, name), latex(sympy.sympify(result))) for name, result in self.results.items()]
        return " = ".join(named[0]) if len(named) == 1 else aligned(named)

    def with_numbers(self, values: dict, exact: dict):
        """The same derivation with numbers put into its results."""
        numbers = {name: substituted(result, exact) for name, result in self.results.items()}
        return replace(self, results=numbers, values=values)

    def _repr_markdown_(self) -> str:
        lines = [f"**{self.title}**"]
        lines += [f"{i}. {s.done}\n\n   $$ {s.latex()} $$" for i, s in enumerate(self.steps, 1)]
        lines += [f"**Result** $$ {self.latex()} $$"]
        lines += ["*Assumes:* " + "; ".join(self.assumptions) + "."] if self.assumptions else []
        return "\n\n".join(lines)

    def __str__(self) -> str:
        lines = [self.title, "=" * len(self.title)]
        lines += [f"{i}. {s}" for i, s in enumerate(self.steps, 1)]
        lines += ["Result", *(f"   {name} =\n{_indented(result)}" for name, result in self.results.items())]
        lines += ["Assumes: " + "; ".join(self.assumptions) + "."] if self.assumptions else []
        return "\n".join(lines)

    __repr__ = __str__


@dataclass(frozen=True, repr=False)
class Derivation(Derived):
    """A derived result.

    Attributes
    ----------
    title : str
    results : dict of str to sympy expression — the results by name; where the rule had numbers, they are put in
    steps : tuple of DerivationStep — the steps to the results, in symbols
    assumptions : tuple of str — what the derivation assumes
    values : dict of sympy symbol to number — the number of each symbol, where the rule had numbers

    Examples
    --------
    Gradient descent is stable up to h = 2/η, and η is ½:

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> from swd_dynamics.symbolic import stability_limit
    >>> found = stability_limit(UpdateRule(0.5, SGD()))
    >>> found.value, found.values
    (4, {eta: 0.5})
    >>> print(found)
    The stability limit on f = ½h(θ−θ*)²
    ...
    Result
       h_max =
          4
    """


def aligned(equations: Iterable[tuple[str, str]]) -> str:
    """Equations as aligned lines of LaTeX, each given as its two sides."""
    lines = r" \\ ".join(f"{left} &= {right}" for left, right in equations)
    return rf"\begin{{aligned}} {lines} \end{{aligned}}"


def _indented(expression) -> str:
    drawn = sympy.pretty(expression, use_unicode=True, wrap_line=False)
    return "\n".join("      " + line for line in drawn.splitlines())


def substituted(result, values: dict):
    """A result, or each of a tuple of results, with symbols replaced."""
    if isinstance(result, tuple):
        return tuple(substituted(part, values) for part in result)
    return result.xreplace(values)
