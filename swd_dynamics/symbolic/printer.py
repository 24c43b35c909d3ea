"""The one printer of formulas: as text for a terminal, and as LaTeX. The order of symbols and terms is the same in both.

Factors stand as on paper, numbers and hyperparameters before the weights: ηλθ. In a sum the 1 of 1 − β and the positive
terms come first. A polynomial in z is monic, with descending powers. Fractions are printed if all of a formula's
numbers are short, and decimals otherwise.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from unicodedata import normalize

import sympy
from sympy import Expr, Symbol
from sympy.printing.latex import LatexPrinter
from sympy.printing.str import StrPrinter

from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.form import is_turned
from swd_dynamics.symbolic.notation import PerWeight, before, shown_name

# Number of digits up to which the numerator and the denominator of a fraction are short. With 2, 69/2 is a fraction and
# 199/200 is 0.995; with 3, a learning rate of 0.001 would give a mixture of 1/1000 and 0.0005.
DIGITS = 2

SMALL_NUMBER = 1e-3  # below it, a number comes last in a sum as ε does: √v + 1e-08

SUPERSCRIPTS = str.maketrans("0123456789-k", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻ᵏ")
FIRST = ("β", "β₀", "β₁", "β₂", "τ", "η", "s", "h", "λ", "ε", "k", "R")  # in a product, after other scalars
LAST = ("m", "v", "G", "g", "Ġ", "ġ", "θ", "θ̇", "θ⋆")  # in a product, after other entries of the memory
GREEK = {"β": "beta", "τ": "tau", "η": "eta", "λ": "lambda", "ε": "epsilon", "θ": "theta"}
TEX = {"θ⋆": r"\theta^{\star}", "θ̇": r"\dot{\theta}", "ġ": r"\dot{g}", "Ġ": r"\dot{G}", "Ḟ₀": r"\dot{F}_0"}
TEX |= {"h_max": r"h_{\max}", "β₁_product": r"\Pi\beta_1", "Ṁ": r"\dot{M}"}
NAMES = {"β₁_product": "Πβ₁"}  # entries of a memory whose names in code are not symbols
HAT = "\u0302"


@lru_cache(maxsize=4096)
def text(expression: Any) -> str:
    """An expression as one line of text.

    Examples
    --------
    >>> beta = Symbol("beta", positive=True)
    >>> text((beta - 1) * notation.theta + (1 + beta) * notation.gradient_dot / (2 * (1 - beta) ** 2))
    '(1 + β)ġ/(2(1 − β)²) − (1 − β)θ'
    """
    return _TextPrinter(has_long_numbers(expression)).doprint(expression)


def latex(expression: Any) -> str:
    r"""An expression as LaTeX.

    Examples
    --------
    >>> latex(notation.lr * notation.theta_star / sympy.sqrt(2))
    '\\frac{\\sqrt{2} \\eta \\theta^{\\star}}{2}'
    """
    expression = sympy.sympify(expression)
    return _LatexPrinter(has_long_numbers(expression)).doprint(expression)


def symbol_text(symbol: Symbol | str) -> str:
    """The name of a symbol in a formula, with Unicode letters."""
    name = shown_name(symbol)
    stem, prime = name.removesuffix("′"), "′" if name.endswith("′") else ""
    return NAMES.get(stem, stem) + prime


def symbol_latex(symbol: Symbol | str) -> str:
    r"""The name of a symbol as LaTeX.

    Examples
    --------
    >>> [symbol_latex(name) for name in ("β₁", "m′", "v̂_max", "F₀", "m⁽¹⁾")]
    ['\\beta_{1}', "m'", '\\hat{v}_{max}', 'F_{0}', 'm^{(1)}']
    """
    name = shown_name(symbol)
    if name.endswith("′"):
        return symbol_latex(name[:-1]) + "'"
    if name in TEX:
        return TEX[name]
    if HAT in name:
        stem, bar, index = symbol_latex(name.replace(HAT, "")).partition("_")
        return rf"\hat{{{stem}}}{bar}{index}"
    if order := re.fullmatch("(.*)⁽(.)⁾", name):
        return f"{symbol_latex(order[1])}^{{({normalize('NFKC', order[2])})}}"
    letters = "".join(GREEK.get(letter, letter) for letter in name)
    plain = re.sub("[₀-₉]+", lambda digits: "_" + normalize("NFKC", digits[0]), letters)
    return sympy.latex(Symbol(plain))


def hatted(symbol: Symbol) -> Symbol:
    """The symbol of a bias-corrected entry of the memory: m̂ for m′."""
    stem, bar, rest = shown_name(before(symbol) or symbol).partition("_")
    return type(symbol)(stem + HAT + bar + rest, **symbol.assumptions0)


def has_long_numbers(expression: Any) -> bool:
    """Whether a number in an expression is not exact, or is no short fraction."""
    powers = [power.exp for power in expression.atoms(sympy.Pow)]
    numbers = expression.xreplace({p: Symbol("p") for p in powers if p.is_Rational and not p.is_Integer}).atoms(
        sympy.Number
    )
    return any(n.is_Float or (n.is_Rational and not n.is_Integer and _is_long(n)) for n in numbers)


def _is_long(number: Any) -> bool:
    return max(len(str(abs(number.p))), len(str(number.q))) > DIGITS


@dataclass(frozen=True)
class _Term:
    """A term of a sum: its sign, a positive number and the factors above and below the bar, each with its power."""

    negative: bool
    number: Any
    above: tuple[Expr, ...]
    below: tuple[Expr, ...]


@lru_cache(maxsize=4096)
def _term(expression: Any) -> _Term:
    number, above, below = sympy.S.One, [], []
    for factor in sympy.Mul.make_args(expression):
        if factor.is_Number and factor.is_finite:
            number *= factor
            continue
        base, power = factor.as_base_exp() if factor.is_Pow else (factor, sympy.S.One)
        if base.is_Add and power.is_Integer and is_turned(base):
            number, base = number * (-1) ** power, -base
        if base.is_Add and power.is_Integer and (content := _content(base)) != 1:
            number, base = number * content**power, base / content
        under = power.is_Rational and power.is_negative
        (below if under else above).append(sympy.Pow(base, -power if under else power))
    return _Term(bool(number.is_negative), abs(number), _sorted(above), _sorted(below))


def _content(sum_: Any) -> Any:
    """The number that every term of a sum has as a factor: a whole number, or one with the bar that all terms have."""
    content = sum_.primitive()[0]
    return content if content.is_Integer or content.q == _common_bar(sum_) else sympy.S.One


def _sorted(factors) -> tuple[Expr, ...]:
    return tuple(sorted(factors, key=_place))


def is_variable(symbol: Any) -> bool:
    """Whether a symbol is one of the quantities that a step or a flow changes."""
    return isinstance(symbol, PerWeight) and symbol_text(symbol) not in FIRST


def _place(factor: Any) -> tuple:
    """The place of a factor in a product."""
    base = factor.base if factor.is_Pow else factor
    base = base.args[0] if isinstance(base, notation.decayed) else base
    inner = base.args[0] if isinstance(base, sympy.Abs | sympy.sign) else base
    if inner.is_Symbol and is_variable(inner):
        name = symbol_text(inner).removesuffix("′")
        return (5, LAST.index(name) if name in LAST else -1, name)
    if base.is_Symbol:
        name = symbol_text(base)
        return (7, 0, name) if base == notation.z else (1, FIRST.index(name) if name in FIRST else -1, name)
    if base.is_Add:
        factors = {part for term in base.args for part in sympy.Mul.make_args(term)}
        varies = any(is_variable(part) for part in factors) and not base.has(notation.mean)
        return (6 if varies else 2, len(base.args), text(base))
    return (0 if base.is_number else 4, 0, str(base))


def _is_one_bracket(said: str) -> bool:
    """Whether the first bracket is closed by the last one."""
    depth = 0
    for place, letter in enumerate(said):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place == len(said) - 1
    return False


def in_order(terms) -> list[Expr]:
    """The terms of a sum in the order in which they are printed."""
    ordered = sorted(terms, key=_place_in_sum)
    first = next((i for i, term in enumerate(ordered) if not _term(term).negative), 0)
    return [ordered[first], *ordered[:first], *ordered[first + 1 :]]


def _place_in_sum(term: Any) -> tuple:
    parts = _term(term)
    powers = [sympy.degree(term, notation.z) if factor.has(notation.z) else 0 for factor in parts.above[-1:]]
    if term == notation.z or any(powers):
        return (0, -int(powers[0]) if powers else -1)
    places = [_place(factor) for factor in (*parts.above, *parts.below)]
    variables = [place for place in map(_place, parts.above) if place[0] >= 5]
    if (parts.number < SMALL_NUMBER and not parts.above) or (term.is_Symbol and symbol_text(term) == "ε"):
        return (3,)
    if variables:
        return (2, variables[-1], len(parts.above), places)
    degree = sum(int(factor.exp) if factor.is_Pow and factor.exp.is_Integer else 1 for factor in parts.above)
    return (1, degree, places)


class _Arranged:
    """Sums and products of both printers. What differs is how factors are joined and how a fraction is drawn."""

    _print: Any
    decimals = False

    def _print_Symbol(self, expr, **_):
        return self._name(expr)

    _print_Letter = _print_PerWeight = _print_Dummy = _print_Symbol

    def _print_Add(self, expr, order=None):
        bar = _common_bar(expr) if not self.decimals else 1
        if bar != 1:
            return self._fraction(self._sum([term * bar for term in expr.args], True), str(bar), False)
        return self._sum(expr.args)

    def _sum(self, terms, in_brackets=False) -> str:
        said = ""
        for term in in_order(terms):
            sign = self._minus if _term(term).negative else "+"
            said += f" {sign} " if said else self._first_sign(_term(term))
            said += self._unsigned(_term(term))
        return self._bracketed(said) if in_brackets else said

    def _first_sign(self, parts: _Term) -> str:
        return self._negative if parts.negative else ""

    def _print_Mul(self, expr):
        parts = _term(expr)
        return self._first_sign(parts) + self._unsigned(parts)

    def _unsigned(self, parts: _Term) -> str:
        number, bar = parts.number, sympy.S.One
        if number.is_Rational and not self.decimals:
            number, bar = sympy.Integer(number.p), sympy.Integer(number.q)
        below = [bar] * (bar != 1) + [*parts.below]
        is_shown = not parts.above or self._print(number) != "1"
        above = self._product([number] * is_shown + [*parts.above])
        if not below:
            return above
        is_one = len(below) == 1 and not below[0].is_Add
        return self._fraction(above, self._product(below), not is_one)


def _common_bar(expr) -> Any:
    """The number by which every term of a sum is divided, if it is the same and the only divisor."""
    bars = {number.q if number.is_Rational else 0 for number, _ in (term.as_coeff_Mul() for term in expr.args)}
    divided = any(power.exp.is_negative for power in expr.atoms(sympy.Pow))
    return 1 if len(bars) > 1 or divided or 0 in bars else bars.pop()


class _TextPrinter(_Arranged, StrPrinter):
    """Formulas in one line, with superscripts, and without a sign of multiplication where none is needed."""

    _minus, _negative = "−", "−"
    _name = staticmethod(symbol_text)

    def __init__(self, decimals: bool):
        super().__init__()
        self.decimals = decimals

    def _bracketed(self, said: str) -> str:
        return f"({said})"

    def _fraction(self, above: str, under: str, in_brackets: bool) -> str:
        whole = under.startswith("(") and under.endswith(")") and _is_one_bracket(under)
        return f"{above}/({under})" if in_brackets and not whole else f"{above}/{under}"

    def _product(self, factors) -> str:
        said, last = "", ""
        for factor in factors:
            drawn = self._print(factor)
            kind = self._kind(factor, drawn)
            if kind == "sum":
                drawn = f"({drawn})"
            joined = last in ("number", "letter", "sum") and kind in ("sum", "letter", "root")
            said += drawn if not said or joined else f"·{drawn}"
            last = kind
        return said

    def _kind(self, factor, drawn: str) -> str:
        if factor.is_Add:
            return "sum"
        if factor.is_number:
            return "number" if re.fullmatch(r"[\d.]+", drawn) else "word"
        if drawn.startswith("√"):
            return "root"
        base = factor.base if factor.is_Pow else factor
        base = base.args[0] if isinstance(base, notation.decayed) else base
        if base.is_Symbol:
            return "letter" if len(re.sub("[₀-₉′Π\u0300-\u036f⋆]|_max", "", symbol_text(base))) == 1 else "word"
        return "letter" if drawn[0] in "(⟨|" else "word"

    def _print_Pow(self, expr, rational=False):
        base, power = expr.base, expr.exp
        if power.is_Rational and power.is_negative:
            return self._unsigned(_term(expr))
        if power == sympy.Rational(1, 2):
            bare = base.is_Symbol or isinstance(base, notation.mean) or base.is_Integer
            return f"√{self._print(base)}" if bare else f"√({self._print(base)})"
        drawn = self._print(base)
        bare = base.is_Symbol or isinstance(base, notation.mean | sympy.Abs | notation.norm) or base.is_Integer
        drawn = drawn if bare else f"({drawn})"
        exponent = self._print(power)
        raised = re.fullmatch("-?[0-9]+|k", exponent)
        return drawn + (exponent.translate(SUPERSCRIPTS) if raised else f"^({exponent})")

    def _print_decayed(self, expr):
        return self._print_Pow(sympy.Pow(*expr.args, evaluate=False))

    def _print_Rational(self, expr):
        if not self.decimals or expr.is_Integer:
            return f"{expr.p}/{expr.q}".removesuffix("/1").replace("-", "−")
        return number_text(abs(expr)) if expr >= 0 else "−" + number_text(abs(expr))

    def _print_Integer(self, expr):
        return str(expr.p).replace("-", "−")

    def _print_Float(self, expr):
        return number_text(abs(expr)) if expr >= 0 else "−" + number_text(abs(expr))

    def _print_Infinity(self, expr):
        return "∞"

    def _print_ImaginaryUnit(self, expr):
        return "i"

    def _print_Equality(self, expr):
        return f"{self._print(expr.lhs)} = {self._print(expr.rhs)}"

    def _called(self, name: str, expr) -> str:
        return f"{name}({', '.join(map(self._print, expr.args))})"

    def _print_mean(self, expr):
        return f"⟨{self._print(expr.args[0])}⟩"

    def _print_Abs(self, expr):
        return f"|{self._print(expr.args[0])}|"

    def _print_norm(self, expr):
        return f"‖{self._print(expr.args[0])}‖"

    def _print_maximum(self, expr):
        return self._called("max", expr)

    _print_Max = _print_maximum

    def _print_Min(self, expr):
        return self._called("min", expr)

    def _print_transpose(self, expr):
        drawn = self._print(expr.args[0])
        return f"{drawn}ᵀ" if expr.args[0].is_Symbol else f"({drawn})ᵀ"

    def _print_matmul(self, expr):
        return " @ ".join(self._print(part) if part.is_Symbol else f"({self._print(part)})" for part in expr.args)


class _LatexPrinter(_Arranged, LatexPrinter):
    """The same sums and products as LaTeX; all else as sympy draws it."""

    _minus, _negative = "-", "- "
    _name = staticmethod(symbol_latex)

    def __init__(self, decimals: bool):
        super().__init__()
        self.decimals = decimals

    def _bracketed(self, said: str) -> str:
        return said

    def _fraction(self, above: str, under: str, in_brackets: bool) -> str:
        return rf"\frac{{{above.removeprefix(' ')}}}{{{under}}}"

    def _product(self, factors) -> str:
        if len(factors) == 1:
            return self._print(factors[0])
        drawn = [rf"\left({self._print(f)}\right)" if f.is_Add else self._print(f) for f in factors]
        return " ".join(drawn)

    def _print_Pow(self, expr):
        is_under = expr.exp.is_Rational and expr.exp.is_negative
        return self._unsigned(_term(expr)) if is_under else super()._print_Pow(expr)

    def _print_Rational(self, expr):
        return self._print_Float(expr) if self.decimals and not expr.is_Integer else super()._print_Rational(expr)

    def _print_Float(self, expr):
        return number_latex(float(expr))


def number_text(value: Any) -> str:
    """A number as text, to six digits: 0.1, 1e-08."""
    return f"{float(value):.6g}"


def number_latex(value: float) -> str:
    r"""A number to six digits, with a power of ten where it is very large or small.

    Examples
    --------
    >>> [number_latex(value) for value in (0.1, 1e-8, 3.7e-6)]
    ['0.1', '10^{-8}', '3.7 \\cdot 10^{-6}']
    """
    mantissa, _, exponent = f"{value:.6g}".partition("e")
    power = rf"10^{{{int(exponent)}}}" if exponent else ""
    return power if mantissa == "1" and power else r" \cdot ".join(filter(None, (mantissa, power)))
