"""The one table of symbols: code says ``lr`` and ``momentum``, formulas say η and β."""

import dataclasses
from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache, update_wrapper
from typing import Any, Generic, TypeVar
from unicodedata import normalize

import numpy as np
import sympy
from sympy import Symbol
from sympy.core.function import AppliedUndef
from sympy.printing.pretty.pretty_symbology import pretty_symbol, pretty_use_unicode

from swd_dynamics.arithmetic import is_symbolic
from swd_dynamics.rules.decay import Corrected
from swd_dynamics.rules.gate import as_rule
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


def lettered(rule: UpdateRule) -> tuple[UpdateRule, dict[Symbol, Any]]:
    """The rule with a symbol for every number in it, and the number of each symbol.

    A zero stays a zero: without dampening there is no τ. A sympy expression stays as it is, and so does a value that is
    not a float, because an int or a bool is structure. A schedule becomes a symbol, and an array becomes a symbol with
    a value for every weight. No symbol has the name of a symbol of the user's, or of one that a derivation shows.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> rule, values = lettered(CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.05))
    >>> rule.direction
    HeavyBall(momentum=β, dampening=0)
    >>> values
    {η: 0.1, β: 0.9, λ: 0.05}
    """
    values: dict[Symbol, Any] = {}
    rule = as_rule(rule)
    lr_letter = _letter_lr(rule, values)
    letters = _Letters(values, {shown_name(symbol) for symbol in (*SHOWN, *values, *own_symbols(rule))})
    direction = letters.of_fields(rule.direction)
    if isinstance(rule.decay, Corrected):
        return UpdateRule(lr_letter, direction, _corrected(rule, rule.decay, lr_letter, letters)), values
    return UpdateRule(lr_letter, direction, letters.of_fields(rule.decay)), values


def _corrected(rule: UpdateRule, given: Corrected, lr_letter: Any, letters: "_Letters") -> Any:
    """Corrected decay with η/κ in the place of η_max: κ, the ratio of the two, is fixed as η → 0."""
    decay = letters.of_fields(dataclasses.replace(given, lr_max=lr_share))
    lr_max = given.lr_max
    if not (is_symbolic(rule.lr) or is_symbolic(lr_max) or rule.has_schedule):
        ratio = _array(rule.lr) / _array(lr_max)
        letter = (PerWeight if ratio.ndim else Letter)(OF_LARGEST, positive=True)
        letters.values[letter] = ratio if ratio.ndim else float(ratio)
        return dataclasses.replace(decay, lr_max=lr_letter / letter)
    same = is_symbolic(lr_max) and lr_max == rule.lr
    return dataclasses.replace(decay, lr_max=lr_letter / (1 if same else Letter(OF_LARGEST, positive=True)))


def with_symbols(rule: UpdateRule, but: Sequence[str]) -> UpdateRule:
    """The rule with a symbol for every number in it, but for the hyperparameters of these names.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> with_symbols(CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.05), but=["lr"])
    UpdateRule(lr=0.1, direction=HeavyBall(momentum=β, dampening=0), decay=Stable(weight_decay=λ))
    """
    letters, _ = lettered(rule)
    direction, decay = _restored(letters.direction, rule.direction, but), _restored(letters.decay, rule.decay, but)
    return UpdateRule(rule.lr if "lr" in but else letters.lr, direction, decay)


def _restored(part: Any, original: Any, names: Sequence[str]) -> Any:
    numbers = {name: value for name, value in hyperparameters(original).items() if name in names}
    return dataclasses.replace(part, **numbers)


def hyperparameters(part) -> dict[str, Any]:
    """The hyperparameters of a direction or a decay by name: the fields of a dataclass, or any object's attributes."""
    if dataclasses.is_dataclass(part):
        return {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.init}
    return dict(getattr(part, "__dict__", {}))


def symbols_of(part) -> set[Symbol]:
    """The symbols in the hyperparameters of a direction or a decay, also of a direction that wraps another."""
    found: set[Symbol] = set()
    for value in hyperparameters(part).values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            found |= entry.free_symbols if is_symbolic(entry) else set()
            found |= symbols_of(entry) if dataclasses.is_dataclass(entry) else set()
    return found


def own_symbols(rule: UpdateRule) -> set[Symbol]:
    """The symbols in a rule's learning rate and hyperparameters."""
    of_lr = rule.lr.free_symbols if is_symbolic(rule.lr) else set()
    return {*of_lr, *symbols_of(rule.direction), *symbols_of(rule.decay)}


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


@dataclasses.dataclass(frozen=True)
class _Letters:
    """The symbols for a rule's numbers: the number of each, and the names that are taken."""

    values: dict[Symbol, Any]
    taken: set[str]

    def of_fields(self, part: Any) -> Any:
        """A direction or a decay with a symbol for each of its numbers."""
        letters = {name: self._of_field(part, name, value) for name, value in hyperparameters(part).items()}
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            return dataclasses.replace(part, **letters)
        twin = copy(part)
        getattr(twin, "__dict__", {}).update(letters)
        return twin

    def _of_field(self, part, field: str, value):
        names = HYPERPARAMETERS.get(f"{type(part).__name__}.{field}", HYPERPARAMETERS.get(field, field))
        if not isinstance(value, tuple | list):
            return self._of(names if isinstance(names, str) else field, value)
        if isinstance(names, str) or len(names) != len(value):
            stem = names if isinstance(names, str) else names[0][0]
            names = [numbered(stem, i) for i in range(1, len(value) + 1)]
        return tuple(self._of(name, entry) for name, entry in zip(names, value, strict=True))

    def _of(self, name: str, value):
        if isinstance(value, float | np.floating):
            if value == 0 or not np.isfinite(value):
                return 0 if value == 0 else value
            symbol = Symbol(self._named(name), positive=bool(value > 0), negative=bool(value < 0))
        elif isinstance(value, np.ndarray) or type(value).__name__ == "Tensor":
            value = _array(value)
            sign = {"nonnegative": True} if (value >= 0).all() else {"real": True}
            symbol = PerWeight(self._named(name), **sign)
        else:
            return value
        self.values[symbol] = value
        self.taken.add(shown_name(symbol))
        return symbol

    def _named(self, name: str) -> str:
        """The name of the symbol: that of the field itself where its letter is taken, as a direction's beta."""
        free = self._free(name)
        is_own = free == shown_name(name) and free in HYPERPARAMETERS.values()
        return name if is_own else free

    def _free(self, name: str) -> str:
        """The name, with a number if it is taken, as by a field of that name in the direction and in the decay."""
        others = (numbered(name, i) for i in range(2, len(self.taken) + 3))
        return next(free for free in map(shown_name, (name, *others)) if free not in self.taken)


def _array(value: Any) -> np.ndarray:
    """An array of numbers, also from a torch tensor on any device."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=float)


def exact(values: dict[Symbol, Any]) -> dict[Symbol, sympy.Expr]:
    """The single numbers among the values, as the exact decimals that the user typed: .9 is 9/10."""
    return {s: sympy.Rational(repr(float(v))) for s, v in values.items() if isinstance(v, float | int | np.floating)}
