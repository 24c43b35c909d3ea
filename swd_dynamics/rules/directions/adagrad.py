"""Adagrad, which divides by the root of the sum of all squared gradients."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import mean, sqrt
from swd_dynamics.checks import check_argument


class SumOfSquares(NamedTuple):
    v: Any


@dataclass(frozen=True)
class Adagrad:
    """Adagrad: v ← v + g² from v₀, move g/((1 + (k−1)·δ)(√v + ε)), η_eff = η/((1 + (k−1)·δ)√v̄).

    v is a sum over all steps, so that η_eff falls as 1/√k under gradients of one size. δ is ``lr_decay``, by which the
    moves shrink besides, and v₀ is ``initial_accumulator_value``; v̄ is the mean of v over all weights. The decay of
    the moves does not reach a decoupled weight decay, whose R is λη. ε is added outside the root, as in torch, and does
    not enter η_eff.

    Source: Duchi, Hazan & Singer 2011; torch.optim.Adagrad.

    Examples
    --------
    After gradients of 3 and 4, v = 9 + 16, and the second move is 4/5:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Adagrad(eps=0.0))
    >>> after_one = rule(rule.start(np.ones(1)), np.array([3.0]))
    >>> parts = rule.parts(after_one, np.array([4.0]))
    >>> parts.move.tolist(), float(rule.direction.effective_lr(parts.memory, parts.step))
    ([0.8], 0.05)
    """

    lr_decay: Any = 0.0
    initial_accumulator_value: Any = 0.0
    eps: Any = 1e-10

    def __post_init__(self):
        for name in ("lr_decay", "initial_accumulator_value", "eps"):
            check_argument(name, getattr(self, name), "[0, inf)")

    def rest(self, theta):
        return SumOfSquares(0 * theta + self.initial_accumulator_value)

    def remember(self, memory, step):
        return SumOfSquares(memory.v + step.gradient * step.gradient)

    def move(self, memory, step):
        return step.gradient / (self._slowing(step) * self.divisor(memory, step))

    def effective_lr(self, memory, step):
        return step.lr / (self._slowing(step) * sqrt(mean(memory.v)))

    def effective_lr_by_weight(self, memory, step):
        return step.lr / (self._slowing(step) * self.divisor(memory, step))

    def divisor(self, memory, step):
        """What the gradient is divided by, besides the decay of the moves."""
        return sqrt(memory.v) + self.eps

    def _slowing(self, step):
        return 1 + (step.k - 1) * self.lr_decay
