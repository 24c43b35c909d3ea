"""The one printer of formulas: as text for a terminal, and as LaTeX, both in the same order.

Factors stand as on paper, numbers and hyperparameters before the weights: ηλθ. In a sum the 1 of 1 − β and the positive
terms come first, and other numbers last, as in h + 0.5. A polynomial in z is monic, with descending powers. The numbers
of a formula are all decimals, or all fractions: see :func:`has_decimals`.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import sympy
from sympy import Symbol
from sympy.printing.latex import LatexPrinter
from sympy.printing.str import StrPrinter

from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.names import number_latex, number_text, symbol_latex, symbol_text
from swd_dynamics.symbolic.order import Term, common_bar, in_order, term_of

# Number of digits up to which the numerator and the denominator of a fraction are short. With 2, 5/12 is a fraction and
# 199/300 is 0.663333; with 3, a learning rate of 0.001 would give a mixture of 1/1000 and 0.0005.
DIGITS = 2

PLACES = 4  # digits after the point up to which a decimal that is exact is shorter to read than a fraction

BRACKETED = (notation.mean, notation.norm, sympy.Abs, sympy.Piecewise)  # functions whose text is in brackets

SUPERSCRIPTS = str.maketrans("0123456789-k", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻ᵏ")


@lru_cache(maxsize=4096)
def text(expression: Any, decimals: bool | None = None) -> str:
    """An expression as one line of text, with decimals or fractions: by default as :func:`has_decimals` says.

    Examples
    --------
    >>> beta = Symbol("beta", positive=True)
    >>> text((beta - 1) * notation.theta + (1 + beta) * notation.gradient_dot / (2 * (1 - beta) ** 2))
    '(1 + β)ġ/(2(1 − β)²) − (1 − β)θ'
    """
    return _TextPrinter(has_decimals(expression) if decimals is None else decimals).doprint(expression)


def latex(expression: Any, decimals: bool | None = None) -> str:
    r"""An expression as LaTeX, with the numbers of :func:`text`.

    Examples
    --------
    >>> latex(notation.lr * notation.theta_star / sympy.sqrt(2))
    '\\frac{\\sqrt{2} \\eta \\theta^{\\star}}{2}'
    """
    return _latex(sympy.sympify(expression), decimals)  # which makes matrices immutable


@lru_cache(maxsize=4096)
def _latex(expression: Any, decimals: bool | None) -> str:
    return _LatexPrinter(has_decimals(expression) if decimals is None else decimals).doprint(expression)


@lru_cache(maxsize=4096)
def has_decimals(expression: Any) -> bool:
    """Whether the numbers of an expression, or of a tuple of expressions, are printed as decimals.

    They are if one of them is no short fraction. They also are if all have at most four digits after the point and one
    was not made by a formula: it stands alone, has more than one digit, or has a denominator with the factor 5.

    Examples
    --------
    The ½ of ġ/2 is the formula's. The 0.5 of h + 0.5 stands alone, and so does 28.5. A third has no exact decimal.

    >>> h, half = notation.curvature, sympy.Rational(1, 2)
    >>> [text(e) for e in (h / 2, h + half, sympy.Rational(57, 2), h / 10, h / 3)]
    ['h/2', 'h + 0.5', '28.5', '0.1h', 'h/3']
    """
    roots = [power.exp for power in expression.atoms(sympy.Pow) if power.exp.is_Rational]
    plain = expression.xreplace({p: Symbol("p") for p in roots if not p.is_Integer})
    numbers = [n for n in plain.atoms(sympy.Number) if n.is_Float or (n.is_Rational and not n.is_Integer)]
    if any(n.is_Float or (_digits(n) > DIGITS and not _is_short_decimal(n)) for n in numbers):
        return True
    if not all(map(_is_short_decimal, numbers)):
        return any(_digits(n) > DIGITS for n in numbers)
    return any(n.q % 5 == 0 or _digits(n) > 1 for n in numbers) or _stands_alone(plain)


def approximated(said: str, expression: Any, written: Callable[[Any], str], sign: str) -> str:
    """What was printed of a result, and after the sign its number to six digits if it is a number with roots."""
    if not isinstance(expression, sympy.Expr) or expression.free_symbols:
        return said
    has_root = any(not power.exp.is_Integer for power in expression.atoms(sympy.Pow))
    return f"{said} {sign} {written(sympy.N(expression, 6))}" if has_root else said


def _digits(number: Any) -> int:
    return max(len(str(abs(number.p))), len(str(number.q)))


def _is_short_decimal(number: Any) -> bool:
    return 10**PLACES % number.q == 0


def _stands_alone(expression: Any) -> bool:
    """Whether a fraction is a whole expression, or a term of a sum that is not under one bar."""
    whole = expression.args if isinstance(expression, sympy.Tuple) else (expression,)
    sums = [sum_ for sum_ in expression.atoms(sympy.Add) if common_bar(sum_) == 1]
    return any(part.is_Rational and not part.is_Integer for part in (*whole, *(t for sum_ in sums for t in sum_.args)))


class _Arranged:
    """Sums and products of both printers. What differs is how factors are joined and how a fraction is drawn."""

    _print: Any
    _name: Callable[[Any], str]
    _bracketed: Callable[[str], str]
    _fraction: Callable[[str, str, bool], str]  # above the bar, under it, and whether that needs brackets
    _product: Callable[[list], str]
    _minus: str
    _negative: str  # the sign of a first term
    decimals = False

    def _print_Symbol(self, expr, **_):
        return self._name(expr)

    _print_Letter = _print_PerWeight = _print_Dummy = _print_Symbol

    def _print_Add(self, expr, order=None):
        bar = common_bar(expr) if not self.decimals else 1
        if bar != 1:
            return self._fraction(self._sum([term * bar for term in expr.args], True), str(bar), False)
        return self._sum(expr.args)

    def _sum(self, terms, in_brackets=False) -> str:
        said = ""
        for term in in_order(terms):
            sign = self._minus if term_of(term).negative else "+"
            said += f" {sign} " if said else self._first_sign(term_of(term))
            said += self._unsigned(term_of(term))
        return self._bracketed(said) if in_brackets else said

    def _first_sign(self, parts: Term) -> str:
        return self._negative if parts.negative else ""

    def _print_Mul(self, expr):
        parts = term_of(expr)
        return self._first_sign(parts) + self._unsigned(parts)

    def _unsigned(self, parts: Term) -> str:
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


def _is_one_bracket(said: str) -> bool:
    """Whether the first bracket is closed by the last one."""
    depth = 0
    for place, letter in enumerate(said):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place == len(said) - 1
    return False


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
        base: Any = factor.base if factor.is_Pow else factor
        base = base.args[0] if isinstance(base, notation.decayed) else base
        if base.is_Symbol:
            return "letter" if len(re.sub("[₀-₉′Π\u0300-\u036f⋆]|_max", "", symbol_text(base))) == 1 else "word"
        return "letter" if drawn[0] in "(⟨|" else "word"

    def _print_Pow(self, expr, rational=False):
        base, power = expr.base, expr.exp
        if power.is_Rational and power.is_negative:
            return self._unsigned(term_of(expr))
        if power == sympy.Rational(1, 2):
            bare = base.is_Symbol or isinstance(base, notation.mean | sympy.Piecewise) or base.is_Integer
            return f"√{self._print(base)}" if bare else f"√({self._print(base)})"
        drawn = self._print(base)
        bare = base.is_Symbol or isinstance(base, BRACKETED) or base.is_Integer
        drawn = drawn if bare else f"({drawn})"
        exponent = f"{power.p}/{power.q}".removesuffix("/1") if power.is_Rational else self._print(power)
        raised = re.fullmatch("-?[0-9]+|k", exponent)
        return drawn + (exponent.translate(SUPERSCRIPTS) if raised else f"^({exponent})")

    def _print_root(self, expr):
        inside, degree = expr.args
        return f"√({self._print(inside)})" if degree == 2 else f"({self._print(inside)})^(1/{degree})"

    def _print_acos(self, expr):
        return self._called("arccos", expr)

    def _print_asin(self, expr):
        return self._called("arcsin", expr)

    def _print_Pi(self, expr):
        return "π"

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

    def _print_inner(self, expr):
        return f"⟨{', '.join(map(self._print, expr.args))}⟩"

    def _print_over_modes(self, expr):
        return f"Σⱼ[{self._print(expr.args[0])}]"

    def _print_Abs(self, expr):
        return f"|{self._print(expr.args[0])}|"

    def _print_Piecewise(self, expr):
        *cases, (last, _) = expr.args
        said = [f"{self._print(value)} if {self._print(condition)}" for value, condition in cases]
        return f"({', '.join([*said, f'else {self._print(last)}'])})"

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
        super().__init__({"inv_trig_style": "full"})
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
        return self._unsigned(term_of(expr)) if is_under else super()._print_Pow(expr)

    def _print_Rational(self, expr):
        return self._print_Float(expr) if self.decimals and not expr.is_Integer else super()._print_Rational(expr)

    def _print_Float(self, expr):
        return number_latex(float(expr))
