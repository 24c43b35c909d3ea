"""Adadelta, which multiplies by the root mean square of its own earlier moves."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import mean, sqrt
from swd_dynamics.checks import check_argument


class SquaresAndScale(NamedTuple):
    v: Any
    scale: Any
    u: Any


@dataclass(frozen=True)
class Adadelta:
    """Adadelta: v ← ρv + (1−ρ)g², s = √(u + ε)/√(v + ε), u ← ρu + (1−ρ)(sg)², move s·g, η_eff = η/√⟨1/s²⟩.

    u is the running mean of the squares of the moves, which torch calls ``acc_delta``; s has the u of *before* this
    step. ⟨⟩ is the mean over all weights of (η/η_i)², with η_i = ηs of each weight: the same mean that is v̄ in Adam's
    η_eff. Here ε enters η_eff, because the first moves are √ε times as large as without ε.

    Under a steady gradient s rises to 1, so that Adadelta becomes gradient descent, but only in about
    (g² + ε)/((1−ρ)ε) steps: with the default ε, 10⁷ for a gradient of 1.

    Source: Zeiler 2012, 1212.5701; torch.optim.Adadelta.

    Examples
    --------
    With ρ = ¾ and a gradient of 4, v = 4, and u was 0. With ε = ½ the move is 4·√(½/4½) = 4/3; η_eff = η/3.

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.75, Adadelta(rho=0.75, eps=0.5))
    >>> parts = rule.parts(rule.start(np.ones(1)), np.array([4.0]))
    >>> float(parts.move[0].round(12)), float(rule.direction.effective_lr(parts.memory, parts.step).round(12))
    (1.333333333333, 0.25)
    """

    rho: Any = 0.9
    eps: Any = 1e-6

    def __post_init__(self):
        check_argument("rho", self.rho, "[0, 1)")
        check_argument("eps", self.eps, "[0, inf)")

    def rest(self, theta):
        return SquaresAndScale(0 * theta, 0 * theta, 0 * theta)

    def remember(self, memory, step):
        gradient = step.gradient
        v = self.rho * memory.v + (1 - self.rho) * gradient * gradient
        scale = sqrt(memory.u + self.eps) / sqrt(v + self.eps)
        u = self.rho * memory.u + (1 - self.rho) * (scale * gradient) * (scale * gradient)
        return SquaresAndScale(v, scale, u)

    def move(self, memory, step):
        return memory.scale * step.gradient

    def effective_lr(self, memory, step):
        return step.lr / sqrt(mean(1 / (memory.scale * memory.scale)))

    def effective_lr_by_weight(self, memory, step):
        return step.lr * memory.scale
