"""The equilibrium of rules that make the momentum of a matrix orthogonal, as Muon does.

What the finite iteration of the direction makes of a momentum has no formula, so the direction itself is given random
matrices: u² and c(ρ) are measured.
"""

from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import sympy
from sympy import Matrix

from swd_dynamics.rules.direction import Step
from swd_dynamics.rules.update import State, UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.balance import Law
from swd_dynamics.symbolic.correlation import (
    FORGOTTEN,
    LONGEST_MEMORY,
    STRAIGHT,
    Array,
    CorrelatedMotion,
    Filter,
    Output,
)
from swd_dynamics.symbolic.derivation import NotDerivable, stated
from swd_dynamics.symbolic.notation import Letter

# Matrices on which a correlation is measured: entries of all of them together, the fewest matrices and the most. The
# error of c is about 1/√ENTRIES, .004; with half as many it is .006, and the norm of a 32 × 32 matrix is off by .3 %.
ENTRIES, FEWEST, MOST = 2**16, 8, 256
NODES = 20  # correlations at which c is measured; between them it is a polynomial of degree 9
RUNS = 64  # in noise: one gives an R that is off by 2 % for a 32 × 32 matrix, and the mean of 64 is off by .3 %
DEGREES = (1, 3, 5, 7)  # and 9, whose coefficient makes c(1) = 1


def law_of_matrices(rule: UpdateRule, shape: tuple[int, ...] | None) -> Law:
    """The law of a rule that makes matrices orthogonal.

    Raises
    ------
    NotDerivable
        If the direction is of another kind, or the shape is not that of a matrix.

    Examples
    --------
    A matrix with one row is only divided by its norm, so that ‖move‖² = 1 and, without momentum, c(0) = 0:

    >>> from swd_dynamics.rules import Decoupled, Muon
    >>> direction = Muon(momentum=0.0, nesterov=False, ns_coefficients=(1.0, 0.0, 0.0), coarse=False)
    >>> law = law_of_matrices(UpdateRule(0.5, direction, Decoupled(1.0)), (1, 4))
    >>> round(float(4 * law.numbers(1.0).variance), 12), round(0.5**2 / (1 - 0.5**2), 12)
    (0.333333333333, 0.333333333333)
    """
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
    output, weights = orthogonalised(replace(direction, momentum=0.0), shape), momentum_weights(direction)
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
    motion = CorrelatedMotion(sympy.Float(rule.lr), output, filtered, weights, rate, pull)
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
    With one row, a move is the momentum divided by its norm, and c(ρ) is almost ρ:

    >>> from swd_dynamics.rules import Muon
    >>> output = orthogonalised(Muon(ns_coefficients=(1.0, 0.0, 0.0), coarse=False), (1, 200))
    >>> round(output.square, 12), output.correlation(np.array([0.5])).round(2)
    (0.005, array([0.5]))
    """
    plain = replace(direction, momentum=0.0)
    generator = np.random.default_rng(0)

    def output(x: Array) -> Array:
        step = Step(0 * x, x, 1.0, 1)
        return plain.move(plain.remember(plain.rest(0 * x), step), step)

    angles = (np.arange(NODES) + 0.5) / NODES
    nodes = np.sin(np.pi / 2 * angles)
    count = min(max(FEWEST, ENTRIES // (shape[0] * shape[1])), MOST)
    squares, outputs, inputs = np.zeros(count), np.zeros((count, NODES)), np.zeros((count, NODES))
    for row in range(count):
        first, second = generator.standard_normal((2, *shape))
        move = output(first)
        squares[row] = np.mean(move**2)
        for i, rho in enumerate(nodes):
            other = rho * first + np.sqrt(1 - rho**2) * second
            inputs[row, i], outputs[row, i] = np.mean(first * other), np.mean(move * output(other))
    # The products of the inputs, whose mean ρ is known, vary with those of the outputs: what they explain is taken off.
    away = inputs - inputs.mean(axis=0)
    explained = (away * outputs).sum(axis=0) / (away * away).sum(axis=0)
    measured = (outputs.mean(axis=0) - explained * (inputs.mean(axis=0) - nodes)) / squares.mean()
    last = angles**9
    basis = np.stack([angles**degree - last for degree in DEGREES], axis=1)
    coefficients = np.linalg.lstsq(basis, measured - last, rcond=None)[0]

    def correlation(rho: Array) -> Array:
        t = 2 / np.pi * np.arcsin(np.clip(rho, -1, 1))
        return t**9 + sum(c * (t**degree - t**9) for c, degree in zip(coefficients, DEGREES, strict=True))

    return Output(float(squares.mean()), correlation, float(2 / np.pi * coefficients[0]))


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
