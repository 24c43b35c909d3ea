"""The one table of symbols: code says ``lr`` and ``momentum``, formulas say η and β."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, update_wrapper
from typing import Any, Generic, TypeVar
from unicodedata import normalize

import sympy
from sympy import Symbol
from sympy.core.function import AppliedUndef
from sympy.printing.pretty.pretty_symbology import pretty_symbol, pretty_use_unicode

from swd_dynamics.rules.update import UpdateRule

Result = TypeVar("Result")


class Letter(Symbol):
    """A symbol of the derivations themselves. It differs from a user's symbol of the same name."""

    __slots__ = ()

    @classmethod
    def class_key(cls):
        """Among the symbols of users in a product and in a sum, by name."""
        return Symbol.class_key()


class PerWeight(Symbol):
    """A symbol with a value for every weight. Other symbols are one number, which may leave a mean over the weights."""

    __slots__ = ()

    @classmethod
    def class_key(cls):
        """After the numbers in a product: βm, as on paper."""
        return (2, 0, "Symbol per weight")


theta = PerWeight("θ", real=True)
theta_dot = PerWeight("θ̇", real=True)
theta_star = PerWeight("θ⋆", real=True)
gradient = PerWeight("g", real=True)
gradient_dot = PerWeight("ġ", real=True)
total = PerWeight("G", real=True, nonzero=True)  # the gradient with what L2 adds to it
total_dot = PerWeight("Ġ", real=True)
curvature = PerWeight("h", positive=True)
lr = Letter("η", positive=True)
lr_share = PerWeight("s", positive=True)  # a weight's learning rate, in units of the largest
OF_LARGEST = "κ"  # the letter for η/η_max, the learning rate in units of the largest one of its schedule
k = Letter("k", integer=True, positive=True)
decay_rate = Letter("R", real=True)
noise = Letter("σ", positive=True)  # the standard deviation of the noise in each gradient
layer_size = Letter("C", positive=True)  # the number of weights of a layer
layer_gradient = Letter("Γ", positive=True)  # ‖g‖·‖θ‖ of a layer whose loss does not depend on ‖θ‖
layer_norm = Letter("‖θ‖", positive=True)
z: Any = Letter("z")  # the argument of a characteristic polynomial; Any: sympy annotates generators as strings

GRADIENTS = (theta, theta_dot, gradient, gradient_dot, total, total_dot)  # no entry of a memory may be called so
LAYER = (noise, layer_size, layer_gradient, layer_norm)
SHOWN = (*GRADIENTS, theta_star, curvature, lr, k, decay_rate, z, *LAYER)  # what a formula may show, not of the rule

HYPERPARAMETERS = {
    "lr": "η",
    "lr_max": "η_max",
    "momentum": "β",
    "dampening": "τ",
    "betas": ("β₁", "β₂"),
    "Adai.betas": ("β₀", "β₂"),
    "eps": "ε",
    "weight_decay": "λ",
}


class mean(sympy.Function):
    """The mean over all weights. It is linear, and a factor that is the same for every weight leaves it."""

    nargs = 1

    @classmethod
    def eval(cls, x):
        if isinstance(x, sympy.Add):
            return sympy.Add(*(cls(term) for term in x.args))
        if not x.has(PerWeight):
            return x
        same, varying = x.as_independent(PerWeight, as_Add=False)
        return None if same == 1 else same * cls(varying)

    def _eval_derivative(self, s):  # the derivative along a flow, where s is one number
        return self.func(sympy.diff(self.args[0], s))

    def _eval_is_positive(self):
        return self.args[0].is_positive

    def _eval_is_real(self):
        return self.args[0].is_real

    def _latex(self, printer, exp=None):
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"\left\langle {printer._print(self.args[0])} \right\rangle{power}"


class decayed(sympy.Function):
    """βᵏ, whose limit for many steps k is 0."""

    nargs = 2

    def _latex(self, printer, exp=None):
        beta, k = self.args
        return rf"{printer.parenthesize(beta, 1000, strict=True)}^{{{printer._print(k)}}}"


class maximum(sympy.Function):
    """The larger of a value that is held and a new value."""

    nargs = 2

    def _latex(self, printer, exp=None):
        held, new = map(printer._print, self.args)
        return rf"\max\left({held}, {new}\right)"


class clip(sympy.Function):
    """A value limited to an interval."""

    nargs = 3

    def _latex(self, printer, exp=None):
        return rf"\operatorname{{clip}}\left({', '.join(map(printer._print, self.args))}\right)"


class matmul(sympy.Function):
    """The product of two matrices: no law, because a weight of the product depends on a row and a column of weights."""

    nargs = 2

    def _latex(self, printer, exp=None):
        return r" \cdot ".join(printer.parenthesize(factor, 1000, strict=True) for factor in self.args)


class transpose(sympy.Function):
    """A matrix with rows and columns exchanged."""

    nargs = 1

    def _latex(self, printer, exp=None):
        return rf"{printer.parenthesize(self.args[0], 1000, strict=True)}^{{\top}}"


class norm(sympy.Function):
    """√(Σx²) over all weights."""

    nargs = 1

    def _latex(self, printer, exp=None):
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"\left\| {printer._print(self.args[0])} \right\|{power}"


SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
LAWS = {word.__name__: word for word in (mean, decayed, maximum, clip, matmul, transpose, norm)}
BRACKETS: dict[Any, Symbol] = {mean: Letter("⟨·⟩"), norm: Letter("‖·‖")}  # how a formula shows these functions
LAWLESS = (matmul, transpose, norm)  # known by name only: no derivative, no mean, no limit


def with_laws(expression) -> sympy.Expr:
    """The expression with the opaque words of :mod:`swd_dynamics.arithmetic` as functions that know their laws.

    A float in the code of a rule is the decimal that was written there: .9 is 9/10.
    """
    expression = sympy.sympify(expression)
    decimals = {number: sympy.Rational(repr(float(number))) for number in expression.atoms(sympy.Float)}
    return expression.xreplace(decimals).replace(
        lambda e: isinstance(e, AppliedUndef) and e.func.__name__ in LAWS,
        lambda e: LAWS[e.func.__name__](*e.args),
    )


def in_unicode(name: str) -> str:
    """The name in Greek letters and subscripts, also where the terminal has none and sympy would leave it as it is."""
    was = pretty_use_unicode(True)
    try:
        return str(pretty_symbol(name))
    finally:
        pretty_use_unicode(was)


def shown_name(symbol: Symbol | str) -> str:
    """The name with which a symbol is printed: Greek letters and the digits of an index in Unicode.

    Examples
    --------
    >>> [shown_name(name) for name in ("beta_1", "η", "gdot", "v_max")]
    ['β₁', 'η', 'ġ', 'v_max']
    """
    return _shown(getattr(symbol, "name", str(symbol)))


@lru_cache(maxsize=4096)  # names are looked up for every symbol of every formula
def _shown(name: str) -> str:
    stem, bar, index = name.partition("_")
    if not bar or index.isdigit():
        return normalize("NFC", in_unicode(stem + bar + index))
    return f"{normalize('NFC', in_unicode(stem))}_{index}"


def numbered(stem: str, number: int) -> str:
    """A name with an index: β₂, rate_2."""
    return stem + (f"_{number}" if len(stem) > 1 else str(number).translate(SUBSCRIPTS))


_before: dict[Symbol, Symbol] = {}  # of each primed symbol, the symbol of the quantity before the step


def primed(symbol: Symbol) -> Symbol:
    """The same quantity after the step."""
    after = type(symbol)(shown_name(symbol) + "′", **symbol.assumptions0)
    _before[after] = symbol
    return after


def before(symbol: Symbol) -> Symbol | None:
    """The symbol of a quantity before the step, for the symbol of the same quantity after it."""
    return _before.get(symbol)


class cached(Generic[Result]):
    """A function of a rule whose results are kept, for rules that cannot change: the parts are frozen dataclasses."""

    def __init__(self, function: Callable[[UpdateRule], Result]):
        self.function, self.kept = function, lru_cache(maxsize=256)(function)
        self.cache_clear = self.kept.cache_clear
        update_wrapper(self, function)

    def __call__(self, rule: UpdateRule) -> Result:
        return self.kept(rule) if _is_frozen(rule.direction) and _is_frozen(rule.decay) else self.function(rule)


def _is_frozen(part: Any) -> bool:
    try:
        hash(part)
    except TypeError:  # a field is a list or an array
        return False
    return dataclasses.is_dataclass(part) and getattr(part, "__dataclass_params__").frozen  # noqa: B009 - undeclared
