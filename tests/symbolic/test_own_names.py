"""Symbols and fields of the user's that have the names of the derivations' own: they are never mixed up."""

from collections import namedtuple
from dataclasses import make_dataclass

import numpy as np
import pytest
import sympy
from symbolic.algebra import equal, eta, g, h, theta_star
from symbolic.odd_directions import Sized

from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG, UpdateRule
from swd_dynamics.rules.directions.sgd import Momentum
from swd_dynamics.symbolic import (
    NotDerivable,
    eigenvalues,
    fixed_point,
    lettered,
    long_run_decay_rate,
    modified_equation,
    notation,
    numeric_equation,
    numeric_linear_map,
    stability_limit,
)

pytestmark = pytest.mark.slow  # derives with many names

# A name of ours, and the assumptions with which sympy would take a user's symbol for the one of ours.
OURS = {
    "z": {},
    "theta": {"real": True},
    "g": {"real": True},
    "m": {"real": True},
    "R": {"real": True},
    "s": {"real": True},
    "k": {"integer": True, "positive": True},
} | {name: {"positive": True} for name in ("beta", "eta", "lambda", "h", "size", "root_0")}


@pytest.mark.parametrize("name", OURS)
def test_a_symbol_of_the_users(name):
    """Assert that every result for λ of the user's is the theory's, whatever the symbol is called: β = .9, η = .1."""
    own = sympy.Symbol(name, **OURS[name])
    rule = CATALOG["SGDW"](lr=0.1, momentum=0.9, weight_decay=own)
    assert equal(stability_limit(rule).value, 19 * (2 - own / 10))
    assert equal(fixed_point(rule).value, h * theta_star / (h + own / 10))
    assert equal(long_run_decay_rate(rule).value, own / 10)
    assert equal(modified_equation(rule).first, -10 * g - own * notation.theta)
    assert equal(modified_equation(rule).second_in_rates, 95 * notation.gradient_dot + own * notation.theta_dot / 2)


def test_a_name_that_is_there_twice_is_said():
    """Assert that a formula with the curvature h and a user's h says that they are two, and others say nothing."""
    for name, count in {"h": 1, "nu": 0}.items():
        rule = CATALOG["SGDW"](lr=0.1, momentum=0.9, weight_decay=sympy.Symbol(name))
        assert sum("it is another" in said for said in fixed_point(rule).assumptions) == count


def test_an_lr_that_is_called_eta_is_the_eta():
    """Assert that lr = η is not said to be another η, that lr = h is another h, and that a second η is another η."""
    named = sympy.symbols("eta h", positive=True)
    for lr, weight_decay, count in [(named[0], 0.1, 0), (named[1], 0.1, 1), (named[0], sympy.Symbol("eta"), 1)]:
        found = fixed_point(CATALOG["SGDW"](lr=lr, momentum=0.9, weight_decay=weight_decay))
        assert sum("it is another" in said for said in found.assumptions) == count


def test_letters_leave_the_users_names_alone():
    """Assert that the momentum is not β where the user's λ is, and that η is not the user's eta."""
    own = sympy.Symbol("beta", positive=True)
    rule, values = lettered(CATALOG["SGDW"](lr=0.1, momentum=0.9, weight_decay=own))
    assert rule.decay.weight_decay == own and own not in values
    assert sorted(values.values()) == [0.1, 0.9]
    assert sympy.Symbol("eta", positive=True) != eta


class OneField:
    """Heavy ball whose β is the only field, whatever the name of that field is."""

    def rest(self, theta):
        return Momentum(0 * theta)

    def remember(self, memory, step):
        (momentum,) = vars(self).values()
        return Momentum(momentum * memory.m + step.gradient)

    def move(self, memory, step):
        return memory.m

    def effective_lr(self, memory, step):
        return step.lr


@pytest.mark.parametrize("name", ["h", "z", "g", "eta", "theta", "m", "k", "R"])
def test_a_field_with_the_name_of_a_symbol(name):
    """Assert that a β whose field has the name of one of our symbols gives heavy ball's results at β = .9, η = .1."""
    rule = UpdateRule(0.1, make_dataclass("Own", [name], bases=(OneField,), frozen=True)(0.9))
    assert stability_limit(rule).value == 38
    assert equal(modified_equation(rule).first, -10 * g)
    assert numeric_equation(rule).first(np.zeros(1), np.ones(1), ()) == pytest.approx([-10])
    assert numeric_linear_map(rule)(np.array([[2.0]])) == pytest.approx(np.array([[0.8, -0.09], [2.0, 0.9]]))
    product = sympy.prod(eigenvalues(rule).value)
    assert equal(product, sympy.Rational(9, 10))


@pytest.mark.parametrize("name", ["h", "x0", "z", "root_m"])
def test_a_memory_with_the_name_of_a_symbol(name):
    """Assert the same where the entry of the memory has such a name."""
    memory = namedtuple("memory", name)

    class Own(OneField):
        def rest(self, theta):
            return memory(0 * theta)

        def remember(self, memory, step):
            return type(memory)(self.beta * memory[0] + step.gradient)

        def move(self, memory, step):
            return memory[0]

    rule = UpdateRule(0.1, make_dataclass("Named", ["beta"], bases=(Own,), frozen=True)(0.9))
    assert stability_limit(rule).value == 38
    equation = numeric_equation(rule)
    assert equation.first(np.zeros(1), np.ones(1), ()) == pytest.approx([-10])
    assert equation.starting(np.zeros(1), np.ones(1), np.zeros(1), np.zeros(1), 0.1)[0] == pytest.approx([10])


@pytest.mark.parametrize("name", ["thetadot", "gdot", "Gdot"])
def test_a_memory_with_the_name_of_a_rate_is_refused(name):
    """Assert that a memory entry that has the symbol of a rate of change is refused."""
    memory = namedtuple("memory", name)
    own = type("Own", (OneField,), {"rest": lambda self, theta: memory(0 * theta)})
    with pytest.raises(NotDerivable):
        modified_equation(UpdateRule(0.1, own()))


def test_numbers_are_asked_for_by_name():
    """Assert that a linear map in numbers of a rule with a symbol asks for a number."""
    with pytest.raises(InputError):
        numeric_linear_map(CATALOG["SGDW"](lr=0.1, momentum=0.9, weight_decay=sympy.Symbol("h")))


@pytest.mark.parametrize("a", [-0.5, 0.5, sympy.Rational(-1, 2), np.array([-0.5, 0.5])], ids=str)
def test_the_sign_of_a_hyperparameter(a):
    """Assert that √(a²)·g has the flow −|a|·g: a letter has the sign of its number, and that of an array is open."""
    equation = numeric_equation(UpdateRule(0.1, Sized(a=a)))
    assert equation.first(np.zeros(2), np.array([2.0, -4.0]), ()).tolist() == [-1.0, 2.0]
