"""Directions that keep the contract and that nobody would train with, each hard for derivations in one way."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import decayed, mean, sqrt


class Last(NamedTuple):
    """The last three gradients, the newest first."""

    new: Any
    old: Any
    older: Any


class Six(NamedTuple):
    a: Any
    b: Any
    c: Any
    d: Any
    e: Any
    f: Any


class Three(NamedTuple):
    a: Any
    b: Any
    c: Any


class Moments(NamedTuple):
    m: Any
    v: Any


class Held(NamedTuple):
    h: Any


@dataclass(frozen=True)
class ThreeGradients:
    """The weighted sum of the last three gradients."""

    weights: tuple

    def rest(self, theta):
        return Last(0 * theta, 0 * theta, 0 * theta)

    def remember(self, memory, step):
        return Last(step.gradient, memory.new, memory.old)

    def move(self, memory, step):
        return sum(weight * gradient for weight, gradient in zip(self.weights, memory, strict=True))

    def effective_lr(self, memory, step):
        return step.lr * sum(self.weights)


@dataclass(frozen=True)
class Damped(ThreeGradients):
    """g + a(g − g_before)."""

    weights: tuple = ()
    a: Any = 0.0

    def move(self, memory, step):
        return memory.new + self.a * (memory.new - memory.old)

    def effective_lr(self, memory, step):
        return step.lr


@dataclass(frozen=True)
class Sized(Damped):
    """√(a²)·g, so that the sign of a does not count."""

    def move(self, memory, step):
        return sqrt(self.a * self.a) * step.gradient


@dataclass(frozen=True)
class Delayed:
    """Gradients five steps old."""

    def rest(self, theta):
        return Six(*[0 * theta] * 6)

    def remember(self, memory, step):
        return Six(step.gradient, *memory[:5])

    def move(self, memory, step):
        return memory.f

    def effective_lr(self, memory, step):
        return step.lr


@dataclass(frozen=True)
class Averages:
    """A weighted sum of three running means of the gradient."""

    betas: tuple
    weights: tuple

    def rest(self, theta):
        return Three(0 * theta, 0 * theta, 0 * theta)

    def remember(self, memory, step):
        pairs = zip(self.betas, memory, strict=True)
        return Three(*(beta * m + (1 - beta) * step.gradient for beta, m in pairs))

    def move(self, memory, step):
        return sum(weight * m for weight, m in zip(self.weights, memory, strict=True))

    def effective_lr(self, memory, step):
        return step.lr * sum(self.weights)


@dataclass(frozen=True)
class EpsInside:
    """Adam with ε inside the root."""

    betas: tuple = (0.9, 0.999)
    eps: Any = 1e-8

    def rest(self, theta):
        return Moments(0 * theta, 0 * theta)

    def remember(self, memory, step):
        beta1, beta2 = self.betas
        m = beta1 * memory.m + (1 - beta1) * step.gradient
        return Moments(m, beta2 * memory.v + (1 - beta2) * step.gradient * step.gradient)

    def move(self, memory, step):
        m_hat, v_hat = self._corrected(memory, step)
        return m_hat / sqrt(v_hat + self.eps)

    def effective_lr(self, memory, step):
        return step.lr / sqrt(mean(self._corrected(memory, step)[1]))

    def _corrected(self, memory, step):
        return tuple(entry / (1 - decayed(beta, step.k)) for entry, beta in zip(memory, self.betas, strict=True))


@dataclass(frozen=True)
class AdaBelief(EpsInside):
    """v follows the square of the gradient's distance from its mean.

    Source: Zhuang et al. 2020, 2010.07468.
    """

    def remember(self, memory, step):
        beta1, beta2 = self.betas
        m = beta1 * memory.m + (1 - beta1) * step.gradient
        apart = step.gradient - m
        return Moments(m, beta2 * memory.v + (1 - beta2) * apart * apart + self.eps)

    def move(self, memory, step):
        m_hat, v_hat = self._corrected(memory, step)
        return m_hat / (sqrt(v_hat) + self.eps)


@dataclass(frozen=True)
class RMSprop:
    """Heavy ball on g/(√v + ε), as torch's RMSprop with momentum."""

    alpha: Any
    momentum: Any
    eps: Any

    def rest(self, theta):
        return Moments(0 * theta, 0 * theta)

    def remember(self, memory, step):
        v = self.alpha * memory.v + (1 - self.alpha) * step.gradient * step.gradient
        return Moments(self.momentum * memory.m + step.gradient / (sqrt(v) + self.eps), v)

    def move(self, memory, step):
        return memory.m

    def effective_lr(self, memory, step):
        return step.lr / ((1 - self.momentum) * sqrt(mean(memory.v)))


@dataclass(frozen=True)
class AdaDelta:
    """A preconditioner in the numerator too, which follows the squares of the moves.

    Source: Zeiler 2012, 1212.5701.
    """

    rho: Any
    eps: Any

    def rest(self, theta):
        return Moments(0 * theta, 0 * theta)

    def remember(self, memory, step):
        v = self.rho * memory.v + (1 - self.rho) * step.gradient * step.gradient
        move = sqrt(memory.m + self.eps) / sqrt(v + self.eps) * step.gradient
        return Moments(self.rho * memory.m + (1 - self.rho) * move * move, v)

    def move(self, memory, step):
        return sqrt(memory.m + self.eps) / sqrt(memory.v + self.eps) * step.gradient

    def effective_lr(self, memory, step):
        return step.lr


class PlainMomentum:
    """Heavy ball as a plain class, with the name of the curvature for its β and for its memory."""

    def __init__(self, h):
        self.h = h

    def rest(self, theta):
        return Held(0 * theta)

    def remember(self, memory, step):
        return Held(self.h * memory.h + step.gradient)

    def move(self, memory, step):
        return memory.h

    def effective_lr(self, memory, step):
        return step.lr / (1 - self.h)


@dataclass(frozen=True)
class FrozenMomentum(PlainMomentum):
    """The same as a frozen dataclass."""

    h: Any


@dataclass
class UnfrozenMomentum(PlainMomentum):
    """The same as a dataclass that can change."""

    h: Any


@dataclass(frozen=True, slots=True)
class SlottedDecay:
    """Decoupled decay, in slots."""

    weight_decay: Any

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, step):
        return self.weight_decay * step.lr


class PlainDecay:
    """Decoupled decay as a plain class."""

    def __init__(self, weight_decay):
        self.weight_decay = weight_decay

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, step):
        return self.weight_decay * step.lr


@dataclass(frozen=True)
class PowerDecay:
    """R = λ·ηᵖ."""

    weight_decay: Any
    power: int

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, step):
        return self.weight_decay * step.lr**self.power
