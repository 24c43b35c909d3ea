"""What a derivation returns: a result, its assumptions and the steps to it, readable in Jupyter and in a terminal."""

import textwrap
from abc import ABC
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import sympy

from swd_dynamics.errors import InputError
from swd_dynamics.symbolic.arrange import arranged, free_names, is_cubic, plus_minus
from swd_dynamics.symbolic.lines import equation_lines, formula_lines, terminal_width
from swd_dynamics.symbolic.names import symbol_latex, symbol_text, words_latex
from swd_dynamics.symbolic.notation import BRACKETS, mean
from swd_dynamics.symbolic.printer import approximated, has_decimals, latex
from swd_dynamics.symbolic.size import expanded_terms, written
from swd_dynamics.symbolic.symbols import Meaning, SymbolTable, exact_number, keyword_of, numbers_by_name, table_of


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


# Number of parts (symbols, numbers and operations, counted wherever they are written) of the longest formula from which
# anything is derived. The parts of F₁ of known optimizers have up to 260, and derivations from nested signs with up to
# 1000 end within 2 s. A formula that an iteration makes has 10⁴ to 10⁶, and walks over it do not end.
LONGEST = 1000

# Number of terms up to which a product of sums is multiplied out. Those of known optimizers have up to 40.
MOST_TERMS = 1000


def refuse_longer(expression: Any, what: str) -> None:
    """Raise NotDerivable where a formula is too long to derive from; ``what`` names the formula."""
    if (parts := written(expression)) > LONGEST:
        raise NotDerivable(
            f"{what} has {parts} symbols and operations when it is written out, as an iteration inside a step makes"
            f" them, and nothing is derived from more than {LONGEST}. Steps and a Flow(rule, …, order='state') need no"
            " formula"
        )


def refuse_wider(expression: Any, what: str) -> None:
    """Raise NotDerivable where a formula has too many terms once it is multiplied out."""
    if (terms := expanded_terms(expression)) > MOST_TERMS:
        raise NotDerivable(
            f"{what} has up to {terms} terms when it is multiplied out, and more than {MOST_TERMS} have no formula that"
            " could be read. Give numbers to the rule, or use Flow(rule, …, order='state'), which needs none"
        )


ALIKE = "{} has the same number for all weights, which is then its mean too; to give another mean, name it"


class DerivationStep(NamedTuple):
    """One step of a derivation: what was done, in words, and the equation that results.

    Examples
    --------
    The steps are in symbols. Gradient descent becomes unstable at z = −1, where h = 2/η:

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> from swd_dynamics.symbolic import stability_limit
    >>> stability_limit(UpdateRule(0.5, SGD())).steps[-2]
    A root z leaves the unit circle at z = −1, where p(−1) = 0
        h = 2/η
    """

    done: str
    equation: Any

    def latex(self) -> str:
        """The equation as LaTeX."""
        return latex(arranged(self.equation))

    def text(self, width: int | None = None) -> str:
        """The equation as lines of text, by default no wider than the terminal."""
        return "\n".join(equation_lines(self.equation, width or terminal_width()))

    def _repr_markdown_(self) -> str:
        return f"{self.done}\n\n$$ {self.latex()} $$"

    def __str__(self) -> str:
        return f"{_filled(self.done)}\n{_indented(self.text(terminal_width() - INDENT))}"

    __repr__ = __str__


class Steps(tuple[DerivationStep, ...]):
    """The steps of a derivation, numbered where they are printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(f"{_filled(f'{i}. {step.done}')}\n{_equation(step)}" for i, step in enumerate(self, 1))


def stated(done: str, left, right) -> DerivationStep:
    """The step with the equation left = right, which sympy leaves as it is."""
    return DerivationStep(done, sympy.Eq(left, right, evaluate=False))


UNSTABLE = "with these numbers the steps are unstable: noise scatters the weights without bound"
ROUND_OFF = 1e-9  # of an eigenvalue of 1 that noise does not excite; a rule this near to its limit has Var θ ~ 10⁹


@dataclass(frozen=True)
class StableWhile:
    """The linear map within whose stability results hold, and which of the results are ∞ or undefined beyond.

    Attributes
    ----------
    matrix : Matrix
    infinite, undefined : tuple of str
    """

    matrix: Any
    infinite: tuple[str, ...]
    undefined: tuple[str, ...] = ()

    def applied(self, derived: Any, put: dict) -> Any:
        """The derivation with numbers in this map, and with the results beyond its stability."""
        left = replace(self, matrix=self.matrix.xreplace(put))
        if not left._is_unstable(derived.results[self.infinite[0]]):
            return replace(derived, stable_while=left)
        beyond = dict.fromkeys(self.infinite, sympy.oo) | dict.fromkeys(self.undefined, sympy.nan)
        results = {name: beyond.get(name, result) for name, result in derived.results.items()}
        said = () if UNSTABLE in derived.assumptions else (UNSTABLE,)
        return replace(derived, results=results, stable_while=left, assumptions=(*derived.assumptions, *said))

    def _is_unstable(self, variance: Any) -> bool:
        if variance.has(sympy.zoo) or variance.is_negative:
            return True
        if self.matrix.free_symbols:
            return False
        eigenvalues = np.linalg.eigvals(np.array(self.matrix.evalf(), dtype=complex))
        return bool(np.abs(eigenvalues).max() > 1 + ROUND_OFF)


@dataclass(frozen=True, repr=False)
class Derived(ABC):
    """The fields of a :class:`Derivation` and of a :class:`ModifiedEquation`, and how both are shown."""

    title: str
    results: dict[str, Any]
    steps: tuple[DerivationStep, ...]
    assumptions: tuple[str, ...] = ()
    values: dict = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)
    stable_while: "StableWhile | None" = None

    def __post_init__(self):
        object.__setattr__(self, "steps", self.steps if isinstance(self.steps, Steps) else Steps(self.steps))

    @property
    def value(self):
        """The result, or the first of several results: exact, as sympy has it."""
        return next(iter(self.results.values()))

    @property
    def symbols(self) -> SymbolTable:
        """The symbols of the results and of the steps, with their meaning and the number that the rule gives them."""
        equations = [getattr(step.equation, "rhs", step.equation) for step in self.steps]
        shown = [*sympy.flatten(self.results.values()), *equations]
        brackets: set[sympy.Symbol] = {
            symbol for function, symbol in BRACKETS.items() if any(e.has(function) for e in shown)
        }
        table = table_of(brackets.union(self._open_symbols(), *(e.free_symbols for e in equations)), self.values)
        return SymbolTable(
            [*table, *(Meaning(sympy.Symbol(name), said, "", None) for name, said in self.named.items())]
        )

    def __call__(self, *unnamed, **numbers):
        """The same derivation with numbers put into its results by name, as in ``derivation(h=2, theta_star=1)``.

        ``.symbols`` lists the names. A name that is not a symbol of the results is refused. The mean of a symbol over
        all weights, as ⟨v⟩, has the symbol's name and ``_mean``: ``derivation(v=9, v_mean=4)``. If only ``v`` is given,
        all weights have the same v, and the assumptions say so.
        """
        if unnamed:
            names = [f"{row.keyword}=…" for row in table_of(self._open_symbols(), {})]
            advice = f"name the symbol of each: {', '.join(names)}" if names else "this result has no symbols"
            raise InputError(f"{', '.join(map(str, unnamed))} cannot be put into the result: {advice}")
        means = {f"{keyword_of(each.args[0])}_mean": each for each in self._means()}
        put = {means[name]: exact_number(name, numbers.pop(name)) for name in [*numbers] if name in means}
        alike = [each.args[0] for name, each in means.items() if each not in put and name[: -len("_mean")] in numbers]
        meant = replace(
            self._substituted(put),
            assumptions=(*self.assumptions, *(ALIKE.format(symbol_text(symbol)) for symbol in alike)),
        )
        exact = numbers_by_name(meant._open_symbols(), self.values, numbers)
        return meant.with_numbers(self.values | exact, exact)

    def _means(self) -> set:
        """The means of single symbols over all weights in the results."""
        results = map(sympy.sympify, sympy.flatten(self.results.values()))
        found = set().union(*(result.atoms(mean) for result in results))
        return {each for each in found if each.args[0].is_Symbol}

    def __float__(self) -> float:
        if names := [row.keyword for row in table_of(_symbols_in(self.value), {})]:
            give = ", ".join(f"{name}=…" for name in names)
            raise InputError(f"there is no number yet for {' and '.join(names)}: give it, as result({give})")
        return float(self.value)

    def _open_symbols(self) -> set:
        return set().union(*(_symbols_in(result) for result in self.results.values()))

    @property
    def _decimals(self) -> bool:
        """Whether the numbers of the results are decimals, so that all of them have one form."""
        return has_decimals(sympy.Tuple(*sympy.flatten(self.results.values())))

    def latex(self, *, steps: bool = False) -> str:
        r"""The results as LaTeX; several results are lines, aligned.

        With ``steps=True``, the whole derivation as a part of a document: a numbered list of the steps, each in words
        and as a displayed equation, then the result and the assumptions. It is ASCII, and needs amsmath.

        Examples
        --------
        >>> from swd_dynamics.rules import CATALOG
        >>> from swd_dynamics.symbolic import equations
        >>> print(equations(CATALOG["SGDW"](lr=0.5, weight_decay=0.25)).latex(steps=True))
        One step: SGD with decoupled decay
        \begin{enumerate}
        \item The gradient that the direction receives
        \[ G = g \]
        \item The fraction of the weights that the step subtracts
        \[ R = \eta \lambda \]
        \item The step
        \[ \theta' = \left(1 - R\right) \theta - \eta G \]
        \end{enumerate}
        Result:
        \[ \theta' = \frac{7 \theta}{8} - \frac{g}{2} \]
        """
        decimals = self._decimals
        named = [side for name, result in self.results.items() for side in _latex_sides(name, result, decimals)]
        result = " = ".join(named[0]) if len(named) == 1 else aligned(named)
        return self._document(result) if steps else result

    def _document(self, result: str) -> str:
        items = [line for s in self.steps for line in (rf"\item {words_latex(s.done)}", rf"\[ {s.latex()} \]")]
        lines = [words_latex(self.title), *_listed("enumerate", items), "Result:", rf"\[ {result} \]"]
        assumed = [rf"\item {words_latex(each)}" for each in self.assumptions]
        return "\n".join(lines + (["Assumptions:", *_listed("itemize", assumed)] if assumed else []))

    def text(self, width: int | None = None) -> str:
        """The results as lines of text, by default no wider than the terminal.

        The numbers of all results have one form. They are decimals if each is exact with four digits after the point,
        as in 34.125 and h + 0.5. Fractions are left where the formula made them, as in ġ/2 and h/3. If a fraction
        would be long, all are decimals, rounded to six digits. ``.value`` is exact.
        """
        width, decimals = width or terminal_width(), self._decimals
        lines = [line for name, result in self.results.items() for line in formula_lines(name, result, width, decimals)]
        return "\n".join(lines)

    def with_numbers(self, values: dict, exact: dict):
        """The same derivation with numbers put into its results."""
        arranged_ = replace(self, results={name: arranged(result) for name, result in self.results.items()})
        return replace(arranged_._substituted(exact), values=values)

    def _substituted(self, put: dict):
        results = {name: substituted(result, put) for name, result in self.results.items()}
        found = replace(self, results=results)
        return found if self.stable_while is None else self.stable_while.applied(found, put)

    def _repr_markdown_(self) -> str:
        lines = [f"**{self.title}**"]
        lines += [f"{i}. {s.done}\n\n   $$ {s.latex()} $$" for i, s in enumerate(self.steps, 1)]
        lines += [f"**Result** $$ {self.latex()} $$"]
        lines += ["Assumptions:\n\n" + "\n".join(f"- {each}" for each in self.assumptions)] * bool(self.assumptions)
        return "\n\n".join(lines)

    def _result(self) -> str:
        return _indented(self.text(terminal_width() - INDENT))

    def _assumed(self) -> list[str]:
        listed = [_filled(f"- {each}", "  ") for each in self.assumptions]
        return ["Assumptions:", *listed] if listed else []

    def __str__(self) -> str:
        """The title, the steps, the result and the assumptions."""
        lines = [self.title, "=" * len(self.title), repr(self.steps), "Result", self._result(), *self._assumed()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """The result and the assumptions, and where the steps are."""
        more = f"{len(self.steps)} steps: print this derivation, or see .steps and .symbols"
        return "\n".join([self.title, self._result(), *self._assumed(), more])


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
    named : dict of str to str — the meaning of each further name in the steps, which takes no number
    stable_while : StableWhile, optional — the linear map that must be stable, where results are ∞ beyond

    Examples
    --------
    Gradient descent is stable up to h = 2/η, and η is ½:

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> from swd_dynamics.symbolic import stability_limit
    >>> found = stability_limit(UpdateRule(0.5, SGD()))
    >>> found.value, found.values
    (4, {η: 0.5})
    >>> found
    The stability limit on f = ½h(θ − θ⋆)²
        h_max = 4
    8 steps: print this derivation, or see .steps and .symbols

    A rule of symbols has a formula, into which numbers are put by name:

    >>> import sympy
    >>> found = stability_limit(UpdateRule(sympy.Symbol("eta", positive=True), SGD()))
    >>> print(found.text(), "and", found(eta=0.5).text())
    h_max = 2/η and h_max = 4
    """


def aligned(equations: Iterable[tuple[str, str]]) -> str:
    """Equations as aligned lines of LaTeX, each given as its two sides."""
    lines = r" \\ ".join(f"{left} &= {right}" for left, right in equations)
    return rf"\begin{{aligned}} {lines} \end{{aligned}}"


def _listed(kind: str, items: list[str]) -> list[str]:
    return [rf"\begin{{{kind}}}", *items, rf"\end{{{kind}}}"]


def _latex_sides(name: str, result: Any, decimals: bool) -> list[tuple[str, str]]:
    if is_cubic(result):
        return [(symbol_latex(name), rf"\text{{the {len(result)} roots of the polynomial in the last step}}")]
    if isinstance(result, tuple) and (pair := plus_minus(result)):
        b, c = free_names(result)
        said = rf"{b} \pm \sqrt{{{b}^2 - {c}}}"
        sides = (latex(arranged(each), decimals) for each in pair)
        return [(symbol_latex(name), said), *zip((b, c), sides, strict=True)]
    if isinstance(result, tuple):
        return [side for each in result for side in _latex_sides(name, each, decimals)]
    said = approximated(latex(arranged(result), decimals), result, latex, r"\approx")
    return [(symbol_latex(name), said)]


def _symbols_in(result: Any) -> set:
    return sympy.Tuple(*result).free_symbols if isinstance(result, tuple) else result.free_symbols


INDENT = 4  # columns of an equation below its words


def _equation(step: DerivationStep) -> str:
    return _indented(step.text(terminal_width() - INDENT))


def _indented(lines: str) -> str:
    return textwrap.indent(lines, " " * INDENT)


def _filled(sentence: str, indent: str = "   ") -> str:
    return textwrap.fill(sentence, terminal_width(), subsequent_indent=indent)


def substituted(result, values: dict):
    """A result, or each of a tuple of results, with symbols replaced."""
    if isinstance(result, tuple):
        return tuple(substituted(part, values) for part in result)
    return result.xreplace(values)
