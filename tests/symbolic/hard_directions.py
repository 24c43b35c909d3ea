"""Directions of well-known optimizers, each of which once made a derivation slow, wrong or endless."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import sympy
from symbolic.odd_directions import AdaBelief, AdaDelta, EpsInside, Moments, RMSprop

from swd_dynamics.arithmetic import clip, decayed, is_symbolic, matmul, maximum, mean, norm, sign, sqrt, transpose
from swd_dynamics.rules import Stable, UpdateRule
from swd_dynamics.rules.directions.sgd import Momentum


class Squares(NamedTuple):
    v: Any


class Centered(NamedTuple):
    a: Any
    v: Any
    m: Any


class Products(NamedTuple):
    m: Any
    v: Any
    product: Any


class Signs(NamedTuple):
    before: Any
    step: Any


class Iterates(NamedTuple):
    average: Any


@dataclass(frozen=True)
class Lion:
    """sign(β₁m + (1 − β₁)g), whose m has β₂, by the ``kind`` of sign: the sign itself, x/√(x² + ε) or tanh(x/ε).

    Source: Chen et al. 2023, 2302.06675.
    """

    betas: tuple = (0.9, 0.99)
    eps: Any = 0.01
    kind: int = 0

    def rest(self, theta):
        return Moments(0 * theta, 0 * theta)

    def remember(self, memory, step):
        mixed = (beta * memory.m + (1 - beta) * step.gradient for beta in self.betas)
        c, m = mixed
        return Moments(m, c)

    def move(self, memory, step):
        return (sign(memory.v), memory.v / sqrt(memory.v * memory.v + self.eps), tanh(memory.v / self.eps))[self.kind]

    def effective_lr(self, memory, step):
        return step.lr


def tanh(x):
    """A word that a rule of one's own may bring: sympy's function for sympy."""
    return sympy.tanh(x) if is_symbolic(x) else np.tanh(x)


@dataclass(frozen=True)
class Signum:
    """The sign of a momentum."""

    momentum: Any = 0.9

    def rest(self, theta):
        return Momentum(0 * theta)

    def remember(self, memory, step):
        return Momentum(self.momentum * memory.m + (1 - self.momentum) * step.gradient)

    def move(self, memory, step):
        return sign(memory.m)

    def effective_lr(self, memory, step):
        return step.lr


@dataclass(frozen=True)
class Muon(Signum):
    """A momentum made orthogonal by Newton and Schulz's iteration, five times."""

    def move(self, memory, step):
        x = memory.m / (norm(memory.m) + 1e-7)
        for _ in range(5):
            square = matmul(x, transpose(x))
            polynomial = -4.775 * square + 2.0315 * matmul(square, square)
            x = 3.4445 * x + matmul(polynomial, x)
        return x


@dataclass(frozen=True)
class MatmulFree(Muon):
    """The same polynomial for weights that are single numbers, in plain arithmetic: a polynomial of degree 5⁵."""

    def move(self, memory, step):
        x = memory.m / (sqrt(memory.m * memory.m) + 1e-7)
        for _ in range(5):
            x = 3.4445 * x - 4.775 * x * x * x + 2.0315 * x * x * x * x * x
        return x


@dataclass(frozen=True)
class Adagrad:
    """The squares are summed, and no step forgets one: Duchi, Hazan & Singer 2011."""

    eps: Any = 1e-10

    def rest(self, theta):
        return Squares(0 * theta)

    def remember(self, memory, step):
        return Squares(memory.v + step.gradient * step.gradient)

    def move(self, memory, step):
        return step.gradient / (sqrt(memory.v) + self.eps)

    def effective_lr(self, memory, step):
        return step.lr / sqrt(mean(memory.v))


@dataclass(frozen=True)
class Adamax(EpsInside):
    """Adam with the largest |g| of the past, which fades: Kingma & Ba 2014, 1412.6980, Algorithm 2."""

    def remember(self, memory, step):
        beta1, beta2 = self.betas
        size = sqrt(step.gradient * step.gradient) + self.eps
        return Moments(beta1 * memory.m + (1 - beta1) * step.gradient, maximum(beta2 * memory.v, size))

    def move(self, memory, step):
        return memory.m / ((1 - decayed(self.betas[0], step.k)) * memory.v)

    def effective_lr(self, memory, step):
        return step.lr / sqrt(mean(memory.v * memory.v))


@dataclass(frozen=True)
class CenteredRMSprop:
    """Heavy ball on g/(√(v − a²) + ε), where a is the running mean of g, as torch's RMSprop with ``centered``."""

    alpha: Any = 0.99
    momentum: Any = 0.9
    eps: Any = 1e-8

    def rest(self, theta):
        return Centered(0 * theta, 0 * theta, 0 * theta)

    def remember(self, memory, step):
        a = self.alpha * memory.a + (1 - self.alpha) * step.gradient
        v = self.alpha * memory.v + (1 - self.alpha) * step.gradient * step.gradient
        return Centered(a, v, self.momentum * memory.m + step.gradient / (sqrt(v - a * a) + self.eps))

    def move(self, memory, step):
        return memory.m

    def effective_lr(self, memory, step):
        return step.lr / ((1 - self.momentum) * sqrt(mean(memory.v - memory.a * memory.a)))


@dataclass(frozen=True)
class NAdam:
    """Nesterov's Adam, whose β₁ grows with the steps and whose product of all β₁ is remembered: Dozat 2016."""

    betas: tuple = (0.9, 0.999)
    eps: Any = 1e-8
    momentum_decay: Any = 0.004

    def rest(self, theta):
        return Products(0 * theta, 0 * theta, 1 + 0 * theta)

    def remember(self, memory, step):
        beta1, beta2 = self.betas
        return Products(
            beta1 * memory.m + (1 - beta1) * step.gradient,
            beta2 * memory.v + (1 - beta2) * step.gradient * step.gradient,
            memory.product * self._momentum(step.k),
        )

    def move(self, memory, step):
        now, then = self._momentum(step.k), self._momentum(step.k + 1)
        new = (1 - now) * step.gradient / (1 - memory.product)
        old = then * memory.m / (1 - memory.product * then)
        return (new + old) / (sqrt(memory.v / (1 - decayed(self.betas[1], step.k))) + self.eps)

    def _momentum(self, k):
        return self.betas[0] * (1 - decayed(0.96, k * self.momentum_decay) / 2)

    def effective_lr(self, memory, step):
        return step.lr / sqrt(mean(memory.v))


@dataclass(frozen=True)
class RAdam(EpsInside):
    """Adam with a factor for the variance of v, which is 1 in the long run: Liu et al. 2019, 1908.03265."""

    def move(self, memory, step):
        m_hat, v_hat = self._corrected(memory, step)
        whole = 2 / (1 - self.betas[1]) - 1
        faded = decayed(self.betas[1], step.k)
        length = whole - 2 * step.k * faded / (1 - faded)
        above, below = (length - 4) * (length - 2) * whole, (whole - 4) * (whole - 2) * length
        return sqrt(above / below) * m_hat / (sqrt(v_hat) + self.eps)


@dataclass(frozen=True)
class Rprop:
    """Steps of a size of their own, which grows while the gradient keeps its sign: Riedmiller & Braun 1993."""

    etas: tuple = (0.5, 1.2)
    sizes: tuple = (1e-6, 50.0)

    def rest(self, theta):
        return Signs(0 * theta, 0 * theta + 0.01)

    def remember(self, memory, step):
        same = sign(step.gradient * memory.before)
        down, up = self.etas
        factor = 1 + (up - 1) * (same * same + same) / 2 + (down - 1) * (same * same - same) / 2
        return Signs(step.gradient, clip(memory.step * factor, *self.sizes))

    def move(self, memory, step):
        return sign(step.gradient) * memory.step

    def effective_lr(self, memory, step):
        return step.lr


@dataclass(frozen=True)
class Averaged:
    """Gradient descent with the running mean of its iterates, as ASGD: the mean does not enter the step."""

    power: Any = 0.75

    def rest(self, theta):
        return Iterates(0 * theta)

    def remember(self, memory, step):
        return Iterates(memory.average + (step.theta - memory.average) / step.k)

    def move(self, memory, step):
        return step.gradient

    def effective_lr(self, memory, step):
        return step.lr


@dataclass(frozen=True)
class Saturated(Signum):
    """m/(1 + m²), which is smooth and not linear."""

    def move(self, memory, step):
        return memory.m / (1 + memory.m * memory.m)


HARD = {
    "AdaBelief": AdaBelief(),
    "smooth Lion": Lion(kind=1),
    "Lion of tanh": Lion(kind=2),
    "Lion": Lion(),
    "Signum": Signum(),
    "Muon": Muon(),
    "Muon of numbers": MatmulFree(),
    "Adagrad": Adagrad(),
    "Adadelta": AdaDelta(0.9, 1e-6),
    "Adamax": Adamax(),
    "RMSprop, centered": CenteredRMSprop(),
    "RMSprop, momentum": RMSprop(0.99, 0.9, 1e-8),
    "NAdam": NAdam(),
    "RAdam": RAdam(),
    "Rprop": Rprop(),
    "ASGD": Averaged(),
    "saturated": Saturated(),
    "ε inside the root": EpsInside(),
}


def hard_rules():
    """Every hard direction without decay and with stable decay, in numbers."""
    for name, direction in HARD.items():
        yield name, UpdateRule(0.1, direction)
        yield f"{name} × stable", UpdateRule(0.1, direction, Stable(0.1))
