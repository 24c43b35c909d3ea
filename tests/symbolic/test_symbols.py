"""Symbols for numbers: which number becomes which symbol, what stays as it is, and that numbers come back exactly."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import sympy
import torch
from aggregated_momentum import AggregatedMomentum
from symbolic.algebra import beta, beta_0, beta_1, beta_2, epsilon, equal, eta, gdot, lam, tau
from symbolic.quasi_hyperbolic import QuasiHyperbolic

from swd_dynamics.arithmetic import mean
from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG, L2, SGD, Adam, Constant, Cosine, HeavyBall, Nesterov, Stable, UpdateRule
from swd_dynamics.symbolic import (
    NotDerivable,
    equations,
    fixed_point,
    lettered,
    linear_map,
    modified_equation,
    notation,
    numeric_equation,
    stability_limit,
)
from swd_dynamics.symbolic.letters import exact
from swd_dynamics.symbolic.notation import PerWeight, shown_name


class Held(NamedTuple):
    m: Any
    m_1: Any


class Gradient(NamedTuple):
    g: Any


@dataclass(frozen=True)
class AwkwardNames:
    """Aggregated momentum whose β and buffers have the names of the decay's rate and of a derivation's own symbols."""

    rate: Any
    beta: Any
    plus_one: int = 0

    def rest(self, theta):
        return Held(0 * theta, 0 * theta)

    def remember(self, memory, step):
        return Held(self.rate * memory.m + step.gradient, self.beta * memory.m_1 + step.gradient)

    def move(self, memory, step):
        return (memory.m + memory.m_1) / 2

    def effective_lr(self, memory, step):
        return AggregatedMomentum(self.rate, self.beta).effective_lr(memory, step)


class Remembered:
    """A direction whose memory has the gradient's symbol."""

    def rest(self, theta):
        return Gradient(0 * theta)

    def remember(self, memory, step):
        return Gradient(step.gradient)

    def move(self, memory, step):
        return memory.g

    def effective_lr(self, memory, step):
        return step.lr


@dataclass(frozen=True)
class Centred:
    """Gradient descent with the mean over the weights subtracted, so that the weights are coupled."""

    def rest(self, theta):
        return ()

    def remember(self, memory, step):
        return memory

    def move(self, memory, step):
        return step.gradient - mean(step.gradient)

    def effective_lr(self, memory, step):
        return step.lr


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        (
            CATALOG["SGDS"](lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.05),
            {eta: 0.1, beta: 0.9, tau: 0.2, lam: 0.05},
        ),
        (
            CATALOG["AdamW"](lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.05),
            {eta: 0.1, beta_1: 0.8, beta_2: 0.95, epsilon: 1e-6, lam: 0.05},
        ),
        (
            CATALOG["AdaiS"](lr=0.1, betas=[0.2, 0.95], weight_decay=0.05),
            {eta: 0.1, beta_0: 0.2, beta_2: 0.95, epsilon: 1e-3, lam: 0.05},
        ),
        (UpdateRule(0.1, AggregatedMomentum(0.5, 0.9)), {eta: 0.1, beta_1: 0.5, beta_2: 0.9}),
    ],
    ids=["SGDS", "AdamW", "AdaiS", "aggregated"],
)
def test_symbols_of_numbers(rule, values):
    """Assert that every number has the paper's symbol, a user's own field the symbol of its name."""
    assert lettered(rule)[1] == values


def test_zeros_stay_zeros():
    """Assert that no dampening is no τ, no decay no λ and no ε an exact 0, in any float type."""
    assert lettered(CATALOG["SGD"](lr=0.1, momentum=0.9))[1] == {eta: 0.1, beta: 0.9}
    assert lettered(CATALOG["Adam"](lr=0.1, betas=(0.0, 0.5), eps=np.float32(0)))[1] == {eta: 0.1, beta_2: 0.5}


def test_numbers_come_back_exactly():
    """Assert that .9 is 9/10 in a result, not the float next to it."""
    limit = stability_limit(UpdateRule(0.1, HeavyBall(0.9))).value
    assert limit == sympy.Integer(38)
    assert exact({beta: 0.9, eta: 1e-8, lam: np.float64(0.1)}) == {
        beta: sympy.Rational(9, 10),
        eta: sympy.Rational(1, 10**8),
        lam: sympy.Rational(1, 10),
    }


def test_symbols_of_the_users_stay():
    """Assert that sympy symbols and expressions given as hyperparameters are kept, and need no number."""
    own, other = sympy.symbols("a b", positive=True)
    rule, values = lettered(CATALOG["SGDS"](lr=own, momentum=other, weight_decay=own * other))
    assert (rule.lr, rule.direction.momentum, rule.decay.weight_decay) == (own, other, own * other)
    assert values == {}
    assert equal(stability_limit(UpdateRule(own, HeavyBall(other))).value, 2 * (1 + other) / own)


def test_exact_sympy_numbers_count_as_numbers():
    """Assert that a rational learning rate becomes η like any other number."""
    assert lettered(UpdateRule(sympy.Rational(1, 10), SGD()))[1] == {eta: 0.1}


def test_arrays_become_symbols_for_every_weight():
    """Assert that arrays become symbols with a value for every weight: η times a share of it, and λ."""
    lr, rate = np.array([0.1, 0.05]), np.array([0.3, 0.0])
    rule, values = lettered(CATALOG["SGDW"](lr=lr, momentum=sympy.Rational(1, 2), weight_decay=rate))
    share, per_weight = notation.lr_share, PerWeight("λ", nonnegative=True)
    assert rule.lr == eta * share
    assert values[eta] == 0.1 and values[share].tolist() == [1.0, 0.5]
    assert values[per_weight] is rate
    first = modified_equation(rule).first
    assert equal(first, -share * (2 * notation.gradient + per_weight * notation.theta))


def test_a_mean_keeps_what_differs_from_weight_to_weight():
    """Assert that a mean lets one number for all weights through, and keeps an array's symbol inside."""
    one, many = sympy.Symbol("c"), PerWeight("d")
    assert notation.mean(one * many + one) == one * notation.mean(many) + one


def test_schedules_become_symbols():
    """Assert that to sympy a scheduled learning rate is η."""
    for schedule in (Constant(0.1), Cosine(0.1, 10)):
        rule, values = lettered(UpdateRule(schedule, SGD()))
        assert rule.lr == eta
        assert values == {eta: schedule}


@pytest.mark.slow
def test_fields_of_ones_own_keep_their_names():
    """Assert that a direction's fields beta and nu are called so in the table, where they are printed as β and ν."""
    rows = {shown_name(row.symbol): row for row in stability_limit(UpdateRule(0.1, QuasiHyperbolic(0.75, 0.5))).symbols}
    assert (rows["β"].keyword, rows["β"].value) == ("beta", 0.75)
    assert (rows["ν"].keyword, rows["ν"].value) == ("nu", 0.5)
    limit = stability_limit(lettered(UpdateRule(0.1, QuasiHyperbolic(0.75, 0.5)))[0])
    values = {limit(lr=0.1, nu=0.5, **{name: 0.75}).value for name in ("beta", "β", "momentum")}
    assert values == {sympy.Rational(35)}  # 2(1 + β)/(η(1 + β − 2νβ))


def test_ints_are_structure():
    """Assert that an int or a bool in a direction gets no symbol."""
    rule, values = lettered(UpdateRule(0.1, AwkwardNames(0.5, 0.75, 2)))
    assert rule.direction.plus_one == 2
    assert len(values) == 3


@pytest.mark.slow
def test_names_that_meet_are_kept_apart():
    """Assert that a direction's own ``rate`` and the decay's λ are two symbols, and buffers m and m_1 two memories."""
    rule = UpdateRule(0.125, AwkwardNames(0.5, 0.75), L2(0.25))
    _, values = lettered(rule)
    assert sorted(values.values()) == [0.125, 0.25, 0.5, 0.75]
    plain = UpdateRule(0.125, AggregatedMomentum(0.5, 0.75), L2(0.25))
    assert equal(modified_equation(rule).second, modified_equation(plain).second)
    assert linear_map(rule).results == linear_map(plain).results


@pytest.mark.parametrize("derive", [equations, modified_equation, linear_map])
def test_a_memory_with_the_gradients_symbol(derive):
    """Assert that a memory entry named as the gradient is refused with its name, not mixed up with it."""
    with pytest.raises(NotDerivable, match="the memory entry g has the symbol of"):
        derive(UpdateRule(0.1, Remembered()))


def test_weights_that_feel_one_another_have_no_map_of_one_weight():
    """Assert that a mean over what moves is refused by the linear map, and derived by the modified equation."""
    rule = UpdateRule(0.1, Centred())
    with pytest.raises(NotDerivable, match="couples the weights"):
        linear_map(rule)
    assert equal(modified_equation(rule).second, (gdot - notation.mean(gdot)) / 2)


@pytest.mark.parametrize("direction", [SGD(), Nesterov(0.5), Adam(), AggregatedMomentum(0.5, 0.75)])
def test_lettered_twice_is_lettered_once(direction):
    """Assert that a rule of symbols has no more numbers to symbol."""
    once, _ = lettered(UpdateRule(0.1, direction, Stable(0.25)))
    assert lettered(once) == (once, {})


def test_tensors_become_symbols_like_arrays():
    """Assert that per-weight tensors give the symbols, and the numbers, that arrays of the same values give."""
    values = ([0.1, 0.05], [0.2, 0.0])
    of_arrays, of_tensors = (
        lettered(CATALOG["SGDS"](lr=kind(values[0]), momentum=0.9, weight_decay=kind(values[1])))
        for kind in (np.array, lambda entries: torch.tensor(entries, dtype=torch.float64))
    )
    assert of_arrays[0] == of_tensors[0]
    assert all(np.array_equal(of_arrays[1][letter], of_tensors[1][letter]) for letter in of_arrays[1])


def test_a_learning_rate_that_is_no_symbol_is_refused():
    """Assert that a flow in the time ηk asks for one symbol, and its numbers for a number."""
    a = sympy.Symbol("a", positive=True)
    with pytest.raises(NotDerivable, match="not one symbol"):
        modified_equation(UpdateRule(2 * a, SGD()))
    with pytest.raises(InputError, match="needs numbers"):
        numeric_equation(UpdateRule(a, SGD()))


def test_numbers_without_names_are_refused_with_the_names():
    """Assert that numbers in order are refused as InputError, which lists the names that the result has."""
    found = fixed_point(CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.5))
    with pytest.raises(InputError) as caught:
        found(2, 1)
    assert all(name in str(caught.value) for name in ("2, 1", "h=", "theta_star="))
    assert found(h=2, theta_star=1).value == sympy.Rational(4, 5)  # hθ⋆/(h + λ)
    with pytest.raises(InputError):
        found(h=2, theta_star=1)(3)


def test_a_result_with_symbols_is_no_float():
    """Assert that a float of a formula is refused with the symbols that have no number, and given to one of numbers."""
    found = fixed_point(CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.5))
    with pytest.raises(InputError, match="theta_star=") as caught:
        float(found(h=2))
    assert "h=" not in str(caught.value)
    assert float(found(h=2, theta_star=1)) == 0.8
