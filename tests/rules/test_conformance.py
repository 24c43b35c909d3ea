"""One rule in four arithmetics: Python floats, numpy, torch and sympy with numbers put in agree."""

import itertools

import numpy as np
import pytest
import sympy
import torch
from aggregated_momentum import AggregatedMomentum
from tolerances import round_off

from swd_dynamics.rules import (
    ASGD,
    CATALOG,
    DECAYS,
    SGD,
    Adafactor,
    Adai,
    Adam,
    AMSGrad,
    Corrected,
    HeavyBall,
    Muon,
    Nesterov,
    NoDecay,
    UpdateRule,
)
from swd_dynamics.symbolic import NotDerivable, equations, notation

STEPS = 20
RATE = 0.07
DIRECTIONS = {
    "plain": SGD(),
    "heavy ball": HeavyBall(0.9),
    "dampened": HeavyBall(0.9, dampening=0.3),
    "Nesterov": Nesterov(0.8),
    "Adam": Adam((0.9, 0.99), eps=1e-3),
    "AMSGrad": AMSGrad((0.8, 0.95), eps=1e-3),
    "Adai": Adai((0.3, 0.9)),
    "aggregated": AggregatedMomentum(0.5, 0.9),
}
SGD_ARGUMENTS = {
    "plain": {},
    "heavy ball": {"momentum": 0.9},
    "dampened": {"momentum": 0.9, "dampening": 0.5},
    "Nesterov": {"momentum": 0.9, "nesterov": True},
}


def rules():
    """Every direction with every decay, and every entry of the catalogue."""
    for (name, direction), (mode, decay) in itertools.product(DIRECTIONS.items(), DECAYS.items()):
        numbers = {NoDecay: (), Corrected: (RATE, 0.2)}.get(decay, (RATE,))
        yield pytest.param(UpdateRule(0.05, direction, decay(*numbers)), id=f"{name}, {mode}")
    vectors = {name: entry for name, entry in CATALOG.items() if entry.family is not Muon}  # which takes matrices
    for name, entry in vectors.items():
        for kind, arguments in SGD_ARGUMENTS.items() if name.startswith("SGD") else [("defaults", {})]:
            yield pytest.param(entry(lr=0.05, weight_decay=RATE, **arguments), id=f"{name}, {kind}")


# Those whose steps depend on the number of the step in a way that no derivation knows.
WITHOUT_EQUATIONS = (Adafactor, ASGD)
every_rule = pytest.mark.parametrize("rule", list(rules()))


def stream(weights):
    """Weights to start from and a gradient for every step, in tenths of both signs."""
    generator = np.random.default_rng(7)
    return generator.normal(size=weights), generator.normal(size=(STEPS, weights)) + 0.3


def states(rule, theta, gradients):
    """The state before the first and after every step."""
    return list(itertools.accumulate(gradients, rule, initial=rule.start(theta)))


def path(rule, theta, gradients):
    return np.array([np.asarray(state.theta) for state in states(rule, theta, gradients)])


@every_rule
def test_numpy_and_torch(rule):
    """Assert that twenty steps of three weights are the same in numpy and in torch."""
    theta, gradients = stream(3)
    tensors = path(rule, torch.from_numpy(theta), torch.from_numpy(gradients))
    assert np.linalg.norm(path(rule, theta, gradients) - tensors, axis=1).max() <= round_off(STEPS, theta)


@every_rule
def test_floats_and_numpy(rule):
    """Assert that twenty steps of one weight are the same as a Python float and as a vector of length one."""
    theta, gradients = stream(1)
    floats = path(rule, float(theta[0]), gradients[:, 0].tolist())
    assert np.abs(floats - path(rule, theta, gradients)[:, 0]).max() <= round_off(STEPS, theta)


def compiled(expression):
    """An expression as a function of numbers looked up by their symbols; one weight is its own mean."""
    words = {"mean": lambda x: x, "decayed": pow, "maximum": max, "clip": lambda x, low, high: min(max(x, low), high)}
    letters = sorted(expression.free_symbols, key=str)
    function = sympy.lambdify(letters, expression, [words, "math"])
    return lambda numbers: function(*(numbers[letter.name] for letter in letters))


def printed(rule):
    """A derivation's equations as a function that computes them line by line, as a reader would, and θ′ at once."""
    derivation = equations(rule)
    lines = [(step.equation.lhs.name, compiled(step.equation.rhs)) for step in derivation.steps]
    at_once = compiled(derivation.value)
    memory = getattr(rule.direction.rest(0.0), "_fields", ())
    after = [notation.primed(sympy.Symbol(name)).name for name in memory]

    def step(state, gradient):
        numbers = {symbol.name: value for symbol, value in derivation.values.items()}
        numbers |= {
            "θ": state.theta,
            "g": gradient,
            "k": state.step + 1,
            **dict(zip(memory, state.memory, strict=True)),
        }
        for name, line in lines:
            numbers[name] = line(numbers)
        return numbers["θ′"], [numbers[name] for name in after], at_once(numbers)

    return step


@every_rule
@pytest.mark.slow
def test_floats_and_sympy(rule):
    """Assert that the printed equations, line by line with the numbers put in, take the steps of the rule."""
    if isinstance(rule.direction, WITHOUT_EQUATIONS):
        with pytest.raises(NotDerivable, match="depends on the step number"):
            equations(rule)
        return
    theta, gradients = stream(1)
    run = states(rule, float(theta[0]), gradients[:, 0].tolist())
    step, allowed = printed(rule), round_off(STEPS, theta)
    for before, after, gradient in zip(run[1:], run[2:], gradients[1:, 0].tolist(), strict=False):
        line_by_line, memory, at_once = step(before, gradient)
        assert abs(line_by_line - after.theta) <= allowed
        assert abs(at_once - after.theta) <= allowed
        assert memory == pytest.approx(list(after.memory), rel=allowed, abs=allowed)


@every_rule
def test_arguments_are_left_alone(rule):
    """Assert that a step changes neither the weights nor the gradient it is given, and that steps are counted."""
    theta, gradients = stream(3)
    kept = theta.copy(), gradients.copy()
    run = states(rule, theta, gradients)
    assert np.array_equal(theta, kept[0])
    assert np.array_equal(gradients, kept[1])
    assert [state.step for state in run] == list(range(STEPS + 1))


@every_rule
def test_parts_make_the_step(rule):
    """Assert that θ′ = (1 − R)θ − η·move of the parts a step is taken apart into."""
    theta, gradients = stream(3)
    before = states(rule, theta, gradients)[-1]
    parts = rule.parts(before, gradients[0])
    made = (1 - parts.decay_rate) * before.theta - rule.lr_at(before.step) * parts.move
    assert np.array_equal(made, rule(before, gradients[0]).theta)
