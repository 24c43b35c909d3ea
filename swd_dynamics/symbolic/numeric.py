"""A derived modified equation as numpy functions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import sympy
from numpy.typing import NDArray

from swd_dynamics.errors import InputError
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import NotDerivable
from swd_dynamics.symbolic.letters import lettered
from swd_dynamics.symbolic.linear import find_linear_map
from swd_dynamics.symbolic.modified import ModifiedEquation, along, modified_equation
from swd_dynamics.symbolic.notation import cached
from swd_dynamics.symbolic.trace import trace

Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class NumericEquation:
    """F₀, F₁ and the slow manifold of a rule as functions of arrays, shape (n,) each.

    Attributes
    ----------
    lr : float or None — η of the time t = ηk; None where the rule has a schedule
    first : callable (θ, g, held) → F₀
    second : callable (θ, g, θ̇, ġ, held) → F₁
    starting : callable (θ, g, θ̇, ġ, η) → the memory before a step at θ, as the direction's own tuple
    held : callable (θ, g, θ̇, ġ, η) → the entries that are constant in the flow (a maximum), for the other functions
    turn : callable (θ, g, θ̇, ġ, held) → dF₀/dt; with θ̇ = v and ġ = Hv it is Jv, where J is the Jacobian of F₀

    Examples
    --------
    Heavy ball at β = ½, where θ = g = 1 and ġ = 0: F₀ = −g/(1−β), and m is at rest at g/(1−β).

    >>> from swd_dynamics.rules import CATALOG
    >>> equation = numeric_equation(CATALOG["SGD"](lr=0.1, momentum=0.5))
    >>> one, none = np.ones(1), np.zeros(1)
    >>> equation.first(one, one, ()), equation.starting(one, one, -2 * one, none, equation.lr)
    (array([-2.]), Momentum(m=array([2.])))
    """

    lr: float | None
    first: Callable[..., Array]
    second: Callable[..., Array]
    starting: Callable[..., tuple]
    held: Callable[..., tuple]
    turn: Callable[..., Array]

    def __repr__(self) -> str:
        eta = "of a schedule" if self.lr is None else f"η = {self.lr:g}"
        functions = "first (F₀), second (F₁), starting, held and turn"
        return f"The modified equation dθ/dt = F₀ + ηF₁ in numbers, {eta}: the functions {functions}"


@dataclass(frozen=True, repr=False)
class NumericMap:
    """One step, linearised, as a function of the Hessian: see :func:`numeric_linear_map`."""

    constants: list[list[Any]]
    slopes: list[list[Any]]

    def __call__(self, hessian: Array) -> Array:
        each = np.ones(len(hessian))
        rows = [
            [np.diag(a * each) + np.diag(b * each) @ hessian for a, b in zip(*pair, strict=True)]
            for pair in zip(self.constants, self.slopes, strict=True)
        ]
        return np.block(rows)

    def __repr__(self) -> str:
        size = len(self.constants)
        return f"The linear map of one step in numbers: a function, Hessian (n, n) → matrix ({size}n, {size}n)"


def numeric_equation(rule: UpdateRule) -> NumericEquation:
    """The modified equation of a rule whose hyperparameters are all numbers or arrays.

    Raises
    ------
    InputError
        If a hyperparameter is a symbol.
    NotDerivable
        If the rule has no modified equation, or if F₀ or F₁ depends on η itself.

    Examples
    --------
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> equation = numeric_equation(UpdateRule(0.1, SGD()))
    >>> equation.first(np.array([1.0]), np.array([2.0]), ()).tolist()
    [-2.0]
    """
    return numeric_equations(rule)(slice(None))


def numeric_equations(rule: UpdateRule) -> Callable[[Any], NumericEquation]:
    """The modified equation of some rows of a rule, whose arrays have a row for each of many runs.

    Returns
    -------
    callable (rows) → NumericEquation
        ``rows`` is an array of their numbers. η of the time t = ηk is the largest of all rows.

    Raises
    ------
    InputError, NotDerivable
        As :func:`numeric_equation`.

    Examples
    --------
    Gradient descent with decoupled decay, at two values of λ: F₀ = −g − λθ.

    >>> from swd_dynamics.rules import Decoupled, SGD, UpdateRule
    >>> rule = UpdateRule(0.5, SGD(), Decoupled(np.array([[0.25], [0.5]])))
    >>> numeric_equations(rule)(np.array([1])).first(np.ones((1, 3)), np.zeros((1, 3)), ()).tolist()
    [[-0.5, -0.5, -0.5]]
    """
    letters, values = lettered(rule)
    compiled = _compile(letters)
    if unknown := [letter.name for letter in (notation.lr, *_open_letters(letters)) if letter not in values]:
        raise InputError(f"{', '.join(unknown)} is a symbol: a flow needs numbers (or arrays) for all hyperparameters")
    numbers = [values[letter] for letter in _open_letters(letters)]
    lr = None if rule.has_schedule else float(values[notation.lr])
    rest = type(rule.direction.rest(0.0))
    return lambda rows: _equation(compiled, _of_rows(numbers, rows), lr, rest)


def _equation(compiled: dict[str, Callable], numbers: list, lr: float | None, rest: Any) -> NumericEquation:
    """The functions with the numbers of the hyperparameters in their places."""

    def first(theta, gradient, held):
        return _full(theta, compiled["first"](theta, gradient, held, numbers))

    def second(theta, gradient, theta_dot, gradient_dot, held):
        return _full(theta, compiled["second"](theta, gradient, theta_dot, gradient_dot, held, numbers))

    def starting(theta, gradient, theta_dot, gradient_dot, eta):
        entries = compiled["starting"](theta, gradient, theta_dot, gradient_dot, eta, numbers)
        full = [_full(theta, entry) for entry in entries]
        return rest(*full) if hasattr(rest, "_fields") else rest(full)

    def held(theta, gradient, theta_dot, gradient_dot, eta):
        entries = compiled["held"](theta, gradient, theta_dot, gradient_dot, eta, numbers)
        return tuple(_full(theta, entry) for entry in entries)

    def turn(theta, gradient, theta_dot, gradient_dot, held):
        return _full(theta, compiled["turn"](theta, gradient, theta_dot, gradient_dot, held, numbers))

    return NumericEquation(lr, first, second, starting, held, turn)


def _of_rows(numbers: list, rows: Any) -> list:
    """The numbers of some rows: of an array its rows, if it has one for each run."""
    if isinstance(rows, slice):
        return numbers
    return [number[rows] if np.ndim(number) > 1 else number for number in numbers]


def numeric_linear_map(rule: UpdateRule) -> NumericMap:
    """One step, linearised, as a function of the Hessian: shape (n, n) → (s·n, s·n), for θ and s − 1 memory entries.

    Where the linear map of one weight has the entry a + b·h, that of n weights has the block diag(a) + diag(b)·H.

    Raises
    ------
    NotDerivable
        If the step is linear only with a frozen preconditioner, whose value is not known here.
    InputError
        If the rule has a schedule.

    Examples
    --------
    Gradient descent on f = ½(θ₁² + 3θ₂²), with η = .5:

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> numeric_linear_map(UpdateRule(0.5, SGD()))(np.diag([1.0, 3.0])).tolist()
    [[0.5, 0.0], [0.0, -0.5]]
    """
    letters, values = lettered(rule)
    found = find_linear_map(letters)
    if found.roots:
        raise NotDerivable("the step is linear only with its preconditioner frozen, and at which value is not known")
    if rule.has_schedule:
        raise InputError("a rule with a schedule is another map at every step: give a number for lr")
    slope = sympy.Matrix(found.matrix.diff(notation.curvature))
    if unknown := found.matrix.free_symbols - {notation.curvature, *values}:
        names = ", ".join(map(str, unknown))
        raise InputError(f"{names} is a symbol: a map in numbers needs numbers (or arrays) for all hyperparameters")
    parts = sympy.lambdify(list(values), [found.at_zero_curvature().tolist(), slope.tolist()], dummify=True)
    constants, slopes = parts(*values.values())

    return NumericMap(constants, slopes)


def numeric_steps(rule: UpdateRule) -> Callable[[Any], Callable[..., tuple[Array, ...]]]:
    """One step of some rows of a rule, whose arrays have a row for each of many runs.

    The step of :class:`~swd_dynamics.rules.update.UpdateRule` takes the mean over all numbers in an array. This step
    takes it over the last axis only, the weights.

    Returns
    -------
    callable (rows) → callable (θ, g, memory, k) → (θ′, *memory′)
        ``rows`` is an array of their numbers, θ and the others are arrays of shape (rows, n), ``memory`` is a tuple of
        them, and k the number of the step, later than the first.

    Raises
    ------
    InputError
        If a hyperparameter is a symbol.
    NotDerivable
        If the rule cannot be read as formulas, or multiplies matrices.

    Examples
    --------
    Heavy ball from m = 4, with two values of β at once:

    >>> from swd_dynamics.rules import HeavyBall, UpdateRule
    >>> steps = numeric_steps(UpdateRule(0.5, HeavyBall(np.array([[0.25], [0.5]]))))
    >>> theta, m = steps(np.arange(2))(np.ones((2, 1)), np.zeros((2, 1)), (np.full((2, 1), 4.0),), 2)
    >>> theta.ravel().tolist(), m.ravel().tolist()
    ([0.5, 0.0], [1.0, 2.0])
    """
    letters, values = lettered(rule)
    symbols, after = _compile_step(letters)
    if unknown := [symbol.name for symbol in symbols if symbol not in values]:
        raise InputError(f"{', '.join(unknown)} is a symbol: a step needs numbers (or arrays) for all hyperparameters")
    numbers = [values[symbol] for symbol in symbols]

    def of(rows):
        chosen = _of_rows(numbers, rows)

        def step(theta, gradient, memory, k):
            return tuple(_full(theta, entry) for entry in after(theta, gradient, memory, k, chosen))

        return step

    return of


@cached
def _compile_step(rule: UpdateRule) -> tuple[list[sympy.Symbol], Callable]:
    """The hyperparameters, and the weights and memory after a step as a function."""
    traced = trace(rule)
    if traced.has(notation.matmul, notation.transpose):
        raise NotDerivable("the step multiplies matrices, and the weights are one vector here")
    new = dict(zip(map(notation.primed, traced.memory), traced.remembered, strict=True))
    moved = traced.update.xreplace(new).xreplace({notation.total: traced.total})
    after = sympy.Tuple(moved, *(entry.xreplace({notation.total: traced.total}) for entry in traced.remembered))
    point = [notation.theta, notation.gradient, list(traced.memory), notation.k]
    symbols: Any = sorted(after.free_symbols - {notation.theta, notation.gradient, notation.k, *traced.memory}, key=str)
    return symbols, _compiled([*point, symbols], after)


# The words of a rule that sympy does not know, for arrays whose last axis is that of the weights.
WORDS: dict[Any, Callable] = {
    notation.mean: lambda x: np.add.reduce(x, axis=-1, keepdims=True) / x.shape[-1] if np.ndim(x) else x,
    notation.norm: lambda x: np.sqrt(np.sum(x * x, axis=-1, keepdims=True)) if np.ndim(x) else abs(x),
    notation.decayed: lambda beta, k: beta**k,
    notation.maximum: np.maximum,
    notation.clip: np.clip,
}


def _compiled(arguments, expression) -> Callable:
    """A function of arrays. The mean is over the last axis, so that rows of θ can be weights of different runs."""
    expression = sympy.sympify(expression)
    for word in WORDS:
        # lambdify gives new names to symbols and subexpressions, and notation.mean would read them as single numbers
        expression = expression.replace(word, sympy.Function(word.__name__))
    words = {word.__name__: function for word, function in WORDS.items()}
    return sympy.lambdify(arguments, expression, modules=[words, "numpy"], cse=True, dummify=True)


def _full(theta, value) -> Array:
    array, shape = np.asarray(value, dtype=float), np.shape(theta)
    return (array if array.shape == shape else np.broadcast_to(array, shape)).copy()


@cached
def _open_letters(rule: UpdateRule) -> tuple[sympy.Symbol, ...]:
    """The symbols of a rule in symbols, without η, in a fixed order."""
    return tuple(letter for letter in lettered_symbols(rule) if letter != notation.lr)


def lettered_symbols(rule: UpdateRule) -> list[sympy.Symbol]:
    """Every symbol in the modified equation of a rule or in its slow manifold."""
    equation = modified_equation(rule)
    used = cast(set[sympy.Symbol], set().union(*(e.free_symbols for e in _expressions(equation))))
    given = {notation.theta, notation.theta_dot, notation.gradient, notation.gradient_dot, *equation.constants}
    return sorted(used - given, key=str)


def _expressions(equation: ModifiedEquation) -> list[sympy.Expr]:
    return [equation.first, equation.second_in_rates, *equation.starting.values(), *equation.constants.values()]


@cached
def _compile(rule: UpdateRule) -> dict[str, Callable]:
    equation = modified_equation(rule)
    if notation.lr in equation.first.free_symbols | equation.second_in_rates.free_symbols:
        raise NotDerivable("F₀ or F₁ depends on η itself: a memory or a move that uses η must cancel it")
    letters = _open_letters(rule)
    held = list(equation.constants)
    point, rates = [notation.theta, notation.gradient], [notation.theta_dot, notation.gradient_dot]

    return {
        "first": _compiled([*point, held, letters], equation.first),
        "second": _compiled([*point, *rates, held, letters], equation.second_in_rates),
        "starting": _compiled(
            [*point, *rates, notation.lr, letters], sympy.Tuple(*(equation.starting[s] for s in equation.memory))
        ),
        "turn": _compiled(
            [*point, *rates, held, letters],
            along(equation.first, {notation.theta: notation.theta_dot, notation.gradient: notation.gradient_dot}),
        ),
        "held": _compiled([*point, *rates, notation.lr, letters], sympy.Tuple(*equation.constants.values())),
    }
