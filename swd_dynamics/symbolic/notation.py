"""The one table of symbols: code says ``lr`` and ``momentum``, formulas say η and β."""

import dataclasses
from typing import Any, cast

import numpy as np
import sympy
from sympy import Symbol
from sympy.core.function import AppliedUndef

from swd_dynamics.arithmetic import is_symbolic
from swd_dynamics.rules.update import UpdateRule


class PerWeight(Symbol):
    """A symbol with a value for every weight. Other symbols are one number, which may leave a mean over the weights."""

    __slots__ = ()

    @classmethod
    def class_key(cls):
        """After the numbers in a product: βm, as on paper."""
        return (2, 0, "Symbol per weight")


theta = PerWeight("theta", real=True)
theta_dot = PerWeight("thetadot", real=True)
theta_star = PerWeight("θ⋆", real=True)
gradient = PerWeight("g", real=True)
gradient_dot = PerWeight("gdot", real=True)
total = PerWeight("G", real=True, nonzero=True)  # the gradient with what L2 adds to it
total_dot = PerWeight("Gdot", real=True)
curvature = PerWeight("h", positive=True)
lr = Symbol("eta", positive=True)
lr_share = PerWeight("s", positive=True)  # a weight's learning rate, in units of the largest
k = Symbol("k", integer=True, positive=True)
decay_rate = Symbol("R", real=True)

HYPERPARAMETERS = {
    "lr": "eta",
    "momentum": "beta",
    "dampening": "tau",
    "betas": ("beta_1", "beta_2"),
    "Adai.betas": ("beta_0", "beta_2"),
    "eps": "epsilon",
    "weight_decay": "lambda",
}


class mean(sympy.Function):
    """The mean over all weights. It is linear, and a factor that is the same for every weight leaves it."""

    nargs = 1

    @classmethod
    def eval(cls, x):
        if isinstance(x, sympy.Add):
            return sympy.Add(*(cls(term) for term in x.args))
        same, varying = x.as_independent(PerWeight, as_Add=False)
        if varying == 1:
            return x
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

    def _pretty(self, printer):
        beta, k = cast(Any, self.args)
        return printer._print(sympy.Pow(beta, k, evaluate=False))


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


LAWS = {word.__name__: word for word in (mean, decayed, maximum, clip, matmul, transpose, norm)}
LAWLESS = (matmul, transpose, norm)  # known by name only: no derivative, no mean, no limit


def with_laws(expression) -> sympy.Expr:
    """The expression with the opaque words of :mod:`swd_dynamics.arithmetic` as functions that know their laws."""
    return sympy.sympify(expression).replace(
        lambda e: isinstance(e, AppliedUndef) and e.func.__name__ in LAWS,
        lambda e: LAWS[e.func.__name__](*e.args),
    )


_before: dict[Symbol, Symbol] = {}  # of each primed symbol, the symbol of the quantity before the step


def primed(symbol: Symbol) -> Symbol:
    """The same quantity after the step."""
    after = type(symbol)(sympy.pretty(symbol) + "′", **symbol.assumptions0)
    _before[after] = symbol
    return after


def latex(expression, **options) -> str:
    """LaTeX, in which a quantity after the step has a prime."""
    primes = {s: f"{sympy.latex(_before[s])}'" for s in sympy.sympify(expression).atoms(Symbol) if s in _before}
    return sympy.latex(expression, symbol_names={theta_star: r"\theta^{*}", **primes}, **options)


def lettered(rule: UpdateRule) -> tuple[UpdateRule, dict[Symbol, Any]]:
    """The rule with a symbol for every number in it, and the number of each symbol.

    A zero stays a zero: without dampening there is no τ. A sympy expression stays as it is, and so does a value that is
    not a float, because an int or a bool is structure. A schedule becomes a symbol, and an array becomes a symbol with
    a value for every weight.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> rule, values = lettered(CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.05))
    >>> rule.direction
    HeavyBall(momentum=beta, dampening=0)
    >>> values
    {eta: 0.1, beta: 0.9, lambda: 0.05}
    """
    values: dict[Symbol, Any] = {}
    letter = _letter_lr(rule, values)
    direction = _letter_fields(rule.direction, values)
    return UpdateRule(letter, direction, _letter_fields(rule.decay, values)), values


def _letter_lr(rule: UpdateRule, values: dict[Symbol, Any]):
    if is_symbolic(rule.lr) and rule.lr.free_symbols:
        return rule.lr
    if rule.has_schedule or np.ndim(rule.lr) == 0:
        values[lr] = rule.lr if rule.has_schedule else float(rule.lr)
        return lr
    each = _array(rule.lr)
    largest = float(each.max())  # groups: one η for the time t = ηk, and each weight's share of it
    values[lr], values[lr_share] = largest, each / largest
    return lr * lr_share


def _letter_fields(part, values: dict[Symbol, Any]) -> Any:
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return part
    letters = {}
    for field in dataclasses.fields(part):
        value, names = getattr(part, field.name), _names(part, field.name)
        if isinstance(value, tuple | list):
            names = names if isinstance(names, tuple) else tuple(f"{names}_{i + 1}" for i in range(len(value)))
            letters[field.name] = tuple(_letter(name, v, values) for name, v in zip(names, value, strict=True))
        else:
            letters[field.name] = _letter(names, value, values)
    return dataclasses.replace(part, **letters)


def _names(part, field: str):
    return HYPERPARAMETERS.get(f"{type(part).__name__}.{field}", HYPERPARAMETERS.get(field, field))


def _letter(name: str, value, values: dict[Symbol, Any]):
    if isinstance(value, float | np.floating) and value == 0:
        return 0
    name = _free_name(name, values)
    if isinstance(value, float | np.floating):
        symbol = Symbol(name, positive=True)
    elif isinstance(value, np.ndarray) or type(value).__name__ == "Tensor":
        symbol = PerWeight(name, nonnegative=True)
    else:
        return value
    values[symbol] = _array(value) if isinstance(symbol, PerWeight) else value
    return symbol


def _array(value: Any) -> np.ndarray:
    """An array of numbers, also from a torch tensor on any device."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=float)


def _free_name(name: str, values: dict[Symbol, Any]) -> str:
    """The name, with a number if it is taken: the direction and the decay may have fields of one name."""
    taken = {symbol.name for symbol in values}
    return next(free for free in (name, *(f"{name}_{i}" for i in range(2, len(taken) + 3))) if free not in taken)


def exact(values: dict[Symbol, Any]) -> dict[Symbol, sympy.Expr]:
    """The single numbers among the values, as the exact decimals that the user typed: .9 is 9/10."""
    return {s: sympy.Rational(repr(float(v))) for s, v in values.items() if isinstance(v, float | int | np.floating)}
