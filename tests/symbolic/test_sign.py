"""Directions that use what the gradient alone did not show: a sign, the weights, the learning rate."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import sympy
from aggregated_momentum import AggregatedMomentum
from symbolic.algebra import beta, beta_1, beta_2, equal, eta, g, gdot, lam, theta

from swd_dynamics.arithmetic import sign, sqrt
from swd_dynamics.rules import L2, SGD, Decoupled, HeavyBall, UpdateRule
from swd_dynamics.rules.directions.sgd import Momentum
from swd_dynamics.symbolic import (
    NotDerivable,
    fixed_point,
    linear_map,
    long_run_decay_rate,
    modified_equation,
    numeric_equation,
    stability_limit,
)


class Mixtures(NamedTuple):
    c: Any
    m: Any


@dataclass(frozen=True)
class Lion:
    """The sign of a mixture of gradients: c = β₁m + (1−β₁)g, m ← β₂m + (1−β₂)g, move sign(c)."""

    betas: tuple[Any, Any]

    def rest(self, theta):
        return Mixtures(0 * theta, 0 * theta)

    def remember(self, memory, step):
        mixed = (beta * memory.m + (1 - beta) * step.gradient for beta in self.betas)
        return Mixtures(*mixed)

    def move(self, memory, step):
        return sign(memory.c)

    def effective_lr(self, memory, step):
        return step.lr


@dataclass(frozen=True)
class OwnL2:
    """Heavy ball that adds λθ to the gradient itself, and sums η times the gradient: it needs θ and η."""

    momentum: Any
    strength: Any

    def rest(self, theta):
        return Momentum(0 * theta)

    def remember(self, memory, step):
        return Momentum(self.momentum * memory.m + step.lr * (step.gradient + self.strength * step.theta))

    def move(self, memory, step):
        return memory.m / step.lr

    def effective_lr(self, memory, step):
        return step.lr / (1 - self.momentum)


@dataclass(frozen=True)
class Summed(OwnL2):
    """AdaGrad: the squares are summed, and no step forgets one."""

    def remember(self, memory, step):
        return Momentum(memory.m + step.gradient * step.gradient)

    def move(self, memory, step):
        return step.gradient / sqrt(memory.m)


@dataclass(frozen=True)
class Scaled(OwnL2):
    """Gradient descent whose move is proportional to η."""

    def move(self, memory, step):
        return step.lr * step.gradient


def test_the_flow_of_a_sign():
    """Assert that Lion's flow is −sign(g) − λθ, and that its second order is the turn of the decay alone.

    Between the kinks of the sign the lag of the memory does not count.
    """
    equation = modified_equation(UpdateRule(eta, Lion((beta_1, beta_2)), Decoupled(lam)))
    assert equal(equation.first, -sympy.sign(g) - lam * theta)
    assert equal(equation.second, -lam * (lam * theta + sympy.sign(g)) / 2)
    assert any("g is not 0" in assumption for assumption in equation.assumptions)
    assert any("no sign changes" in assumption for assumption in equation.assumptions)


def test_the_flow_of_a_sign_in_numbers():
    """Assert that the compiled flow of Lion is −1 for a positive gradient, 1 for a negative and 0 for none."""
    equation = numeric_equation(UpdateRule(0.1, Lion((0.9, 0.99))))
    assert equation.first(np.zeros(3), np.array([2.0, -3.0, 0.0]), ()).tolist() == [-1.0, 1.0, 0.0]


@pytest.mark.parametrize("derive", [linear_map, stability_limit, fixed_point, long_run_decay_rate])
def test_a_sign_is_not_linear(derive):
    """Assert that where a linear step is needed, a sign is refused."""
    with pytest.raises(NotDerivable, match="not linear"):
        derive(UpdateRule(0.1, Lion((0.9, 0.99))))


@pytest.mark.parametrize("derive", [modified_equation, stability_limit, fixed_point])
@pytest.mark.slow
def test_a_direction_that_sees_theta_and_lr(derive):
    """Assert that L2 written into the memory, with η, gives what L2 as a decay gives: the memory may see θ and η."""
    inside = derive(UpdateRule(eta, OwnL2(beta, lam)))
    outside = derive(UpdateRule(eta, HeavyBall(beta), L2(lam)))
    for name, result in outside.results.items():
        assert equal(inside.results[name], result)


@pytest.mark.slow
def test_a_direction_that_sees_theta_in_numbers():
    """Assert that the compiled flow of such a direction takes numbers for θ and η."""
    inside, outside = (
        numeric_equation(UpdateRule(0.1, direction, decay))
        for direction, decay in [(OwnL2(0.5, 0.3), L2(0.0)), (HeavyBall(0.5), L2(0.3))]
    )
    at = [np.array([2.0, -1.0]), np.array([0.5, 1.5])]
    assert inside.first(*at, ()) == pytest.approx(outside.first(*at, ()))


def test_a_move_in_proportion_to_lr_is_of_the_next_order():
    """Assert that a move of η·g has the flow dθ/dt = η·(−g), in which F₀ is 0, and the same in numbers."""
    equation = modified_equation(UpdateRule(eta, Scaled(beta, lam)))
    assert equation.first == 0
    assert equal(equation.second, -g)
    second = numeric_equation(UpdateRule(0.1, Scaled(0.5, 0.3))).second
    assert second(*[np.array([2.0])] * 4, ()).tolist() == [-2.0]


def test_a_memory_that_never_forgets_has_no_flow():
    """Assert that a sum of all squares has no slow manifold, and that this is said."""
    with pytest.raises(NotDerivable, match="m changes without end"):
        modified_equation(UpdateRule(0.1, Summed(0.9, 0.1)))


@pytest.mark.slow
def test_without_a_sign_nothing_is_said_of_it():
    """Assert that a direction without a sign assumes nothing about signs."""
    for direction in (SGD(), AggregatedMomentum(0.5, 0.9)):
        said = " ".join(modified_equation(UpdateRule(0.1, direction)).assumptions)
        assert "sign" not in said and gdot not in modified_equation(UpdateRule(0.1, direction)).first.free_symbols
