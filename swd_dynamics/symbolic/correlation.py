"""Directions that turn a momentum into something of a fixed size: its sign, or an orthogonal matrix.

In noise the momentum x is Gaussian, because it is a sum of many gradients. Let ρₖ be its correlation with itself k
steps later, and c(ρ) the correlation of two outputs of which the inputs have the correlation ρ. With a = 1 − R the
weights are the sum of aᵏ times the moves of k steps before, so that

    Var θ = η²·u²·(1 + 2·Σₖ aᵏ·c(ρₖ))/(1 − a²)

where u² is the mean square of an entry of a move. For signs c(ρ) = (2/π)·arcsin ρ. For orthogonalised matrices u² and c
are measured, with the direction itself, on random matrices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import Matrix, Symbol

from swd_dynamics.rules.direction import Step
from swd_dynamics.rules.shaped import is_by_tensor
from swd_dynamics.rules.update import State, UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.balance import Law, Motion
from swd_dynamics.symbolic.derivation import NotDerivable, stated
from swd_dynamics.symbolic.form import one_minus
from swd_dynamics.symbolic.noise import expected
from swd_dynamics.symbolic.notation import Letter, decayed, primed
from swd_dynamics.symbolic.trace import Trace, trace, trace_steps, without_bias

Array = NDArray[np.float64]

# The response of a memory to a gradient is followed until it is this small. With 1e-8 the angle of Lion, for which the
# response is added up over 1/(1 − β₂) steps, would lose its sixth digit.
FORGOTTEN = 1e-16
LONGEST_MEMORY = 100_000  # steps, of which 37/(1 − β) are needed; ten times as many would take a minute

# Matrices on which a correlation is measured: entries of all of them together, and the fewest matrices. The error of c
# is about 1/√ENTRIES, .004; half as many make it .006 and the norm of a 32 × 32 matrix wrong by .3 %.
ENTRIES, FEWEST = 2**16, 8
NODES = 20  # correlations at which c is measured; between them it is a polynomial of degree 9
RUNS = 64  # in noise: one gives an R that is off by 2 % for a 32 × 32 matrix, and the mean of 64 is off by .3 %
DEGREES = (1, 3, 5, 7)  # and 9, whose coefficient makes c(1) = 1

GAUSSIAN = "the momentum is Gaussian: it is a sum of many gradients, or the gradients are Gaussian"
STRAIGHT = "λθ in the gradient is so small, compared with the noise, that the direction answers to it linearly"


@dataclass(frozen=True)
class Output:
    """What a direction makes of a Gaussian momentum.

    Attributes
    ----------
    square : number or Expr — u², the mean square of an entry of the move
    correlation : callable ρ → c(ρ), arrays
    slope : float — c′(0)

    Examples
    --------
    >>> SIGN.correlation(np.array([0.5])).round(12), SIGN.correlation(np.ones(1))
    (array([0.33333333]), array([1.]))
    """

    square: Any
    correlation: Callable[[Array], Array]
    slope: float


class Filter(NamedTuple):
    """A linear memory, memory′ = feed·memory + column·G, and the momentum x = row·memory + direct·G before the step.

    Arrays of shape (entries, entries), (entries,), (entries,) and a number.
    """

    feed: Array
    column: Array
    row: Array
    direct: float


SIGN = Output(1, lambda rho: 2 / np.pi * np.arcsin(np.clip(rho, -1, 1)), 2 / np.pi)


def correlated_law(
    rule: UpdateRule, letters: UpdateRule, numbers: Mapping[Symbol, Any], shape: tuple[int, ...] | None
) -> Law | None:
    """The law of a rule whose direction is a sign or an orthogonalisation; None for another rule.

    Parameters
    ----------
    rule : UpdateRule; letters : UpdateRule — the same rule in symbols; numbers : of these symbols
    shape : tuple of int or None — of the weights

    Raises
    ------
    NotDerivable
        If a number is missing that the correlations need, or the shape of a matrix.
    """
    if is_by_tensor(rule):
        return _law_of_matrices(rule, shape)
    traced = trace(letters).map(without_bias)
    signs = traced.move.atoms(sympy.sign)
    if len(signs) != 1:
        return None
    (sign,) = signs
    size, after = cast(Any, traced.move).xreplace({sign: sympy.S.One}), _after(traced)
    gradients = (notation.total, *traced.memory)
    inner = sympy.expand(sign.args[0].xreplace(after))
    linear = [inner, *map(sympy.expand, traced.remembered)]
    is_sign = traced.move == size * sign and not size.free_symbols & {*gradients, *after, notation.theta}
    if not is_sign or not all(_is_linear(each, gradients) for each in linear):
        return None
    return _law_of_signs(letters, traced, inner, size, numbers)


def _after(traced: Trace) -> dict[Symbol, Any]:
    return dict(zip(map(primed, traced.memory), traced.remembered, strict=True))


def _is_linear(expression: Any, inputs: Sequence[Symbol]) -> bool:
    if expression.has(notation.theta) or not expression.is_polynomial(*inputs):
        return False
    return all(sum(powers) == 1 for powers, c in sympy.Poly(expression, *inputs).terms() if c != 0)


def _law_of_signs(letters: UpdateRule, traced: Trace, inner: Any, size: Any, numbers: Mapping[Symbol, Any]) -> Law:
    memory: Any = [*traced.memory]
    remembered: Any = Matrix([*traced.remembered])
    feed = remembered.jacobian(memory) if memory else sympy.zeros(0, 0)
    column = remembered.diff(notation.total)
    row = Matrix([[inner.diff(symbol) for symbol in memory]])
    direct = inner.diff(notation.total)
    parts = [sympy.Matrix(each).xreplace(dict(numbers)) for each in (feed, column, row, [[direct]])]
    if unknown := set().union(*(part.free_symbols for part in parts)):
        names = " and ".join(sorted(map(notation.shown_name, unknown)))
        raise NotDerivable(
            f"the sum of the correlations of all steps has no formula for a sign: give a number for {names} to the rule"
        )
    feed_, column_, row_, direct_ = (np.array(part, dtype=float).reshape(part.shape) for part in parts)
    filtered = Filter(feed_, column_.ravel(), row_.ravel(), float(direct_[0, 0]))
    states, weights = responses(filtered)
    covariance = Matrix(states.T @ states) * notation.noise**2 if memory else None
    filtering = {
        symbol: numbers[symbol] for symbol in (*inner.free_symbols, *remembered.free_symbols) if symbol in numbers
    }
    decay = (
        traced.decay_rate.xreplace(_after(traced))
        .xreplace(filtering)
        .replace(notation.mean, lambda x: expected(sympy.expand(x), memory, covariance))
    )
    output = replace(SIGN, square=size**2)
    pull = traced.total.diff(notation.theta)
    motion = _Motion(letters.lr, output, filtered, weights, decay, pull)
    first = [row * feed**j * column for j in range(2)] if memory else []
    shown = Matrix([direct, *(one_minus(sympy.factor(each[0])) for each in first)])
    names = Matrix([Letter(f"w{digit}") for digit in "₀₁₂"[: len(shown)]])
    steps = (
        *trace_steps(trace(letters)),
        stated(f"The sign is that of x, which adds w to itself {AFTER}", names, shown),
    )
    steps += (stated(f"{TAKEN} (van Vleck & Middleton 1966)", Letter("cₖ"), 2 * sympy.asin(Letter("ρₖ")) / sympy.pi),)
    conditions = (*traced.conditions, *([MANY_STEPS] if trace(letters).has(decayed) else []))
    return motion.law(numbers, steps, (*conditions, *([STRAIGHT] if pull != 0 else [])))


AFTER = (
    "0, 1 and 2 steps after a unit of gradient, and so on: from w follow the correlations ρₖ of x with x k steps later"
)
TAKEN = "Signs k steps apart have the correlation"
MANY_STEPS = "many steps were taken, so that bias corrections are 1"


def responses(filtered: Filter) -> tuple[Array, Array]:
    """The memory j steps after a unit of gradient, shape (steps, entries), and the weights w of x, shape (steps + 1,).

    Examples
    --------
    >>> responses(Filter(np.array([[0.5]]), np.array([0.5]), np.array([1.0]), 0.0))[1][:4].tolist()
    [0.0, 0.5, 0.25, 0.125]
    """
    state, states = filtered.column, []
    while state.size and np.abs(state).max() > FORGOTTEN:
        states.append(state)
        if len(states) > LONGEST_MEMORY:
            raise NotDerivable(f"the memory of the rule is longer than {LONGEST_MEMORY} steps, and is not added up")
        state = filtered.feed @ state
    remembered = np.array(states).reshape(len(states), len(filtered.column))
    return remembered, np.concatenate([[filtered.direct], remembered @ filtered.row])


def correlations(weights: Array) -> Array:
    """ρₖ, the correlation of Σⱼ wⱼξₙ₋ⱼ with itself k steps later, for k from 0 on.

    Examples
    --------
    >>> correlations(0.5 ** np.arange(50))[:3].round(12).tolist()
    [1.0, 0.5, 0.25]
    """
    size = 2 * len(weights)
    spectrum = np.abs(np.fft.rfft(weights, size)) ** 2
    found = np.fft.irfft(spectrum, size)[: len(weights)]
    return found / found[0]


@dataclass(frozen=True)
class _Motion:
    """The weights of a rule in noise: η, what comes out of the direction, the memory, R(σ) of the rule, and λ of L2."""

    lr: Any
    output: Output
    filtered: Filter
    weights: Array
    decay: Any
    pull: Any

    @property
    def slope(self) -> Any:
        """The mean change of a move for a unit that is added to x: √(c′(0)·u²) over the deviation of x (Price 1958)."""
        alone = np.sqrt(self.output.slope / (self.weights @ self.weights))
        return sympy.sqrt(self.output.square) * float(alone) / notation.noise

    def law(self, numbers: Mapping[Symbol, Any], steps, conditions) -> Law:
        rate = self.decay + self.lr * self.slope * self.pull * float(self.weights.sum())
        passed = self.output.correlation(correlations(self.weights))[1:]
        spread = sympy.Float(1 + 2 * float(passed.sum()), 15)
        variance = self.lr**2 * self.output.square * Letter("S") / (1 - (1 - notation.decay_rate) ** 2)
        leading = Motion(self.lr**2 * self.output.square * spread / (2 * rate), rate / spread, rate)
        open_parts = [self.decay, self.lr * self.slope * self.pull, self.lr**2 * self.output.square]
        parts = sympy.Matrix(open_parts).xreplace(dict(numbers))
        is_known = not parts.free_symbols - {notation.noise}
        evaluate = sympy.lambdify(notation.noise, list(parts), "numpy")
        steps = (
            *steps,
            stated("The decay rate in noise", notation.decay_rate, rate),
            stated("The variance of θ, where S is 1 + 2·Σₖ(1 − R)ᵏcₖ", Letter("Var θ"), variance),
            stated("S where R is small", Letter("S"), spread),
        )
        return Law(
            exact=None,
            leading=leading if rate != 0 else None,
            numbers=(lambda sigma: self._in_numbers(evaluate(sigma), passed)) if is_known else None,
            steps=steps,
            conditions=(GAUSSIAN, *conditions),
        )

    def _in_numbers(self, parts: Sequence[float], passed: Array) -> Motion | None:
        """Var θ, 1 − ρ₁ and R, where the moves have the correlations c₁, c₂, … and the mean square η²u².

        The parts are R of the rule, η·slope·λ of L2, and η²u².

        θ and the memory are a linear system, into which the moves of noise enter at θ. With the matrix A of the system
        and e = (1, 0, …), θ answers to a unit by eᵀAᵏe, and these answers overlap by eᵀAᵏPe, where P = APAᵀ + eeᵀ.
        """
        rate, pull, squares = map(float, parts)
        size = 1 + len(self.filtered.column)
        a = np.zeros((size, size))
        a[0, 0] = 1 - rate - pull * self.filtered.direct
        a[0, 1:] = -pull * self.filtered.row
        a[1:, 0], a[1:, 1:] = self.filtered.column, self.filtered.feed
        if not pull:  # the memory does not hear of θ
            a = a[:1, :1]
        roots, vectors = np.linalg.eig(a)
        largest = np.abs(roots).max()
        if not largest < 1 - 1e-12:
            return None
        unit = np.eye(len(a))[0]
        overlap = np.linalg.solve(np.eye(a.size) - np.kron(a, a), np.outer(unit, unit).ravel()).reshape(a.shape)
        shares = vectors[0] * np.linalg.solve(vectors, overlap[:, 0])  # eᵀAᵏPe = Σ shares·rootsᵏ
        before = np.power.outer(roots, np.arange(len(passed)))  # rootsᵏ⁻¹ for k = 1, 2, …
        variance = shares @ (1 + 2 * roots * (before @ passed))
        gap = shares @ ((1 - roots) - (1 - roots) ** 2 * (before @ passed))
        return Motion(squares * variance.real, (gap / variance).real, 1 - largest)


def _law_of_matrices(rule: UpdateRule, shape: tuple[int, ...] | None) -> Law:
    """The law of a rule that makes matrices orthogonal."""
    direction, kind = rule.direction, type(rule.direction).__name__
    if not is_dataclass(direction) or not {"momentum", "ns_steps"} <= {field.name for field in fields(direction)}:
        raise NotDerivable(
            f"{kind} looks at the shapes of tensors, and only the orthogonalisation of a momentum with ns_steps is"
            " known here: measure the equilibrium on a run"
        )
    if shape is None or len(shape) != 2:
        raise NotDerivable(
            f"{kind} makes a matrix orthogonal, and its equilibrium depends on the shape: give shape=(rows, columns)"
        )
    if rule.has_schedule or not isinstance(rule.lr, int | float):
        raise NotDerivable(f"{kind} has no formula: give one number for lr")
    output, weights = orthogonalised(direction, shape), momentum_weights(direction)
    rate, pull = _measured_rates(rule, shape)
    feed = weights[2] / weights[1] if len(weights) > 2 else 0.0
    filtered = Filter(np.array([[feed]]), np.ones(1), weights[1:2] if len(weights) > 1 else np.zeros(1), weights[0])
    known = np.array([0.1, 0.5, 0.9])
    names = Matrix([Letter(f"c({rho})") for rho in known])
    values = Matrix([sympy.Float(c, 6) for c in output.correlation(known)])
    steps = (
        stated(f"The mean square of an entry of a move, from random matrices {shape}", Letter("u²"), output.square),
        stated("The correlation of two moves where that of two momenta is .1, .5 and .9", names, values),
    )
    said = (f"u² and c(ρ) were measured on random matrices {shape}", *([STRAIGHT] if pull else []))
    motion = _Motion(sympy.Float(rule.lr), output, filtered, weights, rate, pull)
    return motion.law({}, steps, said)


@lru_cache(maxsize=32)
def orthogonalised(direction: Any, shape: tuple[int, int]) -> Output:
    """u² and c(ρ) of an orthogonalising direction, measured on random matrices.

    Parameters
    ----------
    direction : Muon, or a frozen dataclass with its fields ``momentum`` and ``ns_steps``
    shape : tuple of int — rows and columns

    Returns
    -------
    Output

    Examples
    --------
    With one row, a move is the momentum divided by its norm. Without rounding c(ρ) is almost ρ:

    >>> from swd_dynamics.rules import Muon
    >>> output = orthogonalised(Muon(ns_coefficients=(1.0, 0.0, 0.0), coarse=False), (1, 200))
    >>> output.square, output.correlation(np.array([0.5])).round(2)
    (0.00..., array([0.5]))
    """
    plain = replace(direction, momentum=0.0)
    generator = np.random.default_rng(0)

    def output(x: Array) -> Array:
        step = Step(0 * x, x, 1.0, 1)
        return plain.move(plain.remember(plain.rest(0 * x), step), step)

    angles = (np.arange(NODES) + 0.5) / NODES
    nodes = np.sin(np.pi / 2 * angles)
    squares, products = 0.0, np.zeros(NODES)
    count = max(FEWEST, ENTRIES // (shape[0] * shape[1]))
    for _ in range(count):
        first, second = generator.standard_normal((2, *shape))
        move = output(first)
        squares += np.mean(move**2) / count
        for i, rho in enumerate(nodes):
            products[i] += np.mean(move * output(rho * first + np.sqrt(1 - rho**2) * second)) / count
    last = angles**9
    basis = np.stack([angles**degree - last for degree in DEGREES], axis=1)
    coefficients = np.linalg.lstsq(basis, products / squares - last, rcond=None)[0]

    def correlation(rho: Array) -> Array:
        t = 2 / np.pi * np.arcsin(np.clip(rho, -1, 1))
        return t**9 + sum(c * (t**degree - t**9) for c, degree in zip(coefficients, DEGREES, strict=True))

    return Output(float(squares), correlation, float(2 / np.pi * coefficients[0]))


def momentum_weights(direction: Any) -> Array:
    """What the momentum of an orthogonalising direction is made of: the weight of the gradient of j steps before.

    Without Newton–Schulz steps the move is the momentum x divided by its norm, and η_eff is η·‖move‖/‖x‖.

    Examples
    --------
    >>> from swd_dynamics.rules import Muon
    >>> momentum_weights(Muon(0.5, nesterov=False))[:3].round(12).tolist()
    [0.5, 0.25, 0.125]
    """
    plain = replace(direction, ns_steps=0, coarse=False)
    none, weights, state = np.zeros((1, 1)), [], plain.rest(np.zeros((1, 1)))
    for k in range(1, LONGEST_MEMORY):
        step = Step(none, none + (k == 1), 1.0, k)
        state = plain.remember(state, step)
        move = float(plain.move(state, step)[0, 0])
        if move == 0 or (weights and abs(weights[-1]) < FORGOTTEN):
            break
        weights.append(move / float(np.max(plain.effective_lr(state, step))))
    return np.array(weights)


def _measured_rates(rule: UpdateRule, shape: tuple[int, int]) -> tuple[Any, float]:
    """R as an expression in σ, and the λ of what is added to the gradients, from steps of the rule in noise."""
    weights = np.abs(momentum_weights(rule.direction))
    steps = 1 + int(np.flatnonzero(weights > 1e-3 * weights.max())[-1])
    one, four = (np.mean([_rate_in_noise(rule, sigma, shape, steps, seed) for seed in range(RUNS)]) for sigma in (1, 4))
    ones = np.ones(shape)
    pull = float(np.mean(rule.parts(rule.start(ones), ones).step.gradient) - 1)
    for power in (0, -1):
        if one == 0 or abs(four / one - 4.0**power) < 1e-6:
            return sympy.Float(float(one)) * notation.noise**power, pull
    raise NotDerivable("the decay rate depends on the size of the gradients, and is not proportional to 1/‖g‖")


def _rate_in_noise(rule: UpdateRule, sigma: float, shape: tuple[int, int], steps: int, seed: int) -> float:
    """R of a step with weights that are 0, after enough steps for the memory to forget that it began at 0."""
    *noise, last = sigma * np.random.default_rng(seed).standard_normal((steps, *shape))
    weights = np.zeros(shape)
    memory = rule.direction.rest(weights)
    for k, gradient in enumerate(noise, 1):
        memory = rule.direction.remember(memory, Step(weights, gradient, rule.lr, k))
    return float(np.mean(rule.parts(State(weights, memory, steps - 1), last).decay_rate))
