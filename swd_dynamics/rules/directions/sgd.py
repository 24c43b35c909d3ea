"""Gradient descent, heavy ball and Nesterov momentum: the directions of torch.optim.SGD."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from swd_dynamics.checks import check_argument
from swd_dynamics.errors import InputError
from swd_dynamics.rules.direction import Direction


class Nothing(NamedTuple):
    """The memory of a direction without memory."""


class Momentum(NamedTuple):
    m: Any


@dataclass(frozen=True)
class SGD:
    """Gradient descent: step g, η_eff = η.

    Examples
    --------
    On f = ½θ², whose gradient is θ, a step of η = ½ halves θ:

    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.5, SGD())
    >>> rule(rule.start(8.0), 8.0).theta
    4.0
    """

    def rest(self, theta):
        return Nothing()

    def remember(self, memory, step):
        return memory

    def move(self, memory, step):
        return step.gradient

    def effective_lr(self, memory, step):
        return step.lr


@dataclass(frozen=True)
class HeavyBall:
    """Heavy-ball momentum: m ← βm + (1−τ)g, step m, η_eff = η(1−τ)/(1−β).

    The first m is the *undamped* first gradient, as in torch.

    Source: Polyak 1964; torch.optim.SGD.

    Examples
    --------
    Under a gradient that stays 1, m rises as 1, 1½, 1¾, …, towards η_eff/η = 2:

    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, HeavyBall(0.5))
    >>> rule(rule(rule.start(1.0), 1.0), 1.0)
    State(theta=0.375, memory=Momentum(m=1.5), step=2)
    """

    momentum: Any
    dampening: Any = 0.0

    def __post_init__(self):
        check_argument("momentum", self.momentum, "(0, 1)")
        check_argument("dampening", self.dampening, "[0, 1)")

    def rest(self, theta):
        return Momentum(0 * theta)

    def remember(self, memory, step):
        if step.k == 1:
            return Momentum(step.gradient)
        return Momentum(self.momentum * memory.m + (1 - self.dampening) * step.gradient)

    def move(self, memory, step):
        return memory.m

    def effective_lr(self, memory, step):
        return step.lr * (1 - self.dampening) / (1 - self.momentum)


@dataclass(frozen=True)
class Nesterov:
    """Nesterov momentum as torch writes it: m ← βm + g, step g + βm, η_eff = η/(1−β).

    Source: Sutskever et al. 2013; torch.optim.SGD(nesterov=True), which allows no dampening.

    Examples
    --------
    Under a gradient that stays 1, the steps are η·1½, η·1¾, …, towards η_eff = 2η:

    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Nesterov(0.5))
    >>> rule(rule(rule.start(1.0), 1.0), 1.0)
    State(theta=0.1875, memory=Momentum(m=1.5), step=2)
    """

    momentum: Any

    def __post_init__(self):
        check_argument("momentum", self.momentum, "(0, 1)")

    def rest(self, theta):
        return Momentum(0 * theta)

    def remember(self, memory, step):
        return Momentum(self.momentum * memory.m + step.gradient)

    def move(self, memory, step):
        return step.gradient + self.momentum * memory.m

    def effective_lr(self, memory, step):
        return step.lr / (1 - self.momentum)


def sgd_family(momentum=0.0, dampening=0.0, nesterov=False) -> Direction:
    """The directions of torch.optim.SGD, with m the momentum:

    - without momentum: the step is g, η_eff = η; dampening then does nothing
    - with momentum: m ← βm + (1−τ)g, the step is m, η_eff = η(1−τ)/(1−β)
    - with Nesterov's momentum: m ← βm + g, the step is g + βm, η_eff = η/(1−β); it allows no dampening
    """
    check_argument("momentum", momentum, "[0, 1)")
    if np.any(momentum != 0):
        if not nesterov:
            return HeavyBall(momentum, dampening)
        if dampening == 0:
            return Nesterov(momentum)
    check_argument("dampening", dampening, "[0, 1)")
    if nesterov:
        raise InputError(f"nesterov needs momentum > 0 and dampening = 0, not {momentum} and {dampening}")
    return SGD()
