"""Adadelta, which multiplies by the root mean square of its own earlier moves."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import mean, sqrt
from swd_dynamics.checks import check


class SquaresOfMoves(NamedTuple):
    v: Any
    u: Any
    delta: Any


@dataclass(frozen=True)
class Adadelta:
    """Adadelta: v ← ρv + (1−ρ)g², u ← ρu + (1−ρ)Δ², Δ ← g·√(u + ε)/√(v + ε), move Δ, η_eff = η/√⟨(v+ε)/(u+ε)⟩.

    u is the running mean of the squares of the moves *before* this step, which torch calls ``acc_delta`` and updates
    after the step. ⟨⟩ is the mean over all weights of (η/η_i)², with η_i = η√(u+ε)/√(v+ε) of each weight: the same
    mean that is v̄ in Adam's η_eff. Here ε enters η_eff, because the first moves are √ε times as large as without ε.

    Source: Zeiler 2012, 1212.5701; torch.optim.Adadelta.

    Examples
    --------
    With ρ = ¾ and a gradient of 4, v = 4 and u = 0. With ε = ½ the move is 4·√(½/4½) = 4/3; η_eff = η/3.

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.75, Adadelta(rho=0.75, eps=0.5))
    >>> parts = rule.parts(rule.start(np.ones(1)), np.array([4.0]))
    >>> float(parts.move[0].round(12)), float(rule.direction.effective_lr(parts.memory, parts.step))
    (1.333333333333, 0.25)
    """

    rho: Any = 0.9
    eps: Any = 1e-6

    def __post_init__(self):
        check("rho", self.rho, "[0, 1)")
        check("eps", self.eps, "[0, inf)")

    def rest(self, theta):
        return SquaresOfMoves(0 * theta, 0 * theta, 0 * theta)

    def remember(self, memory, step):
        gradient = step.gradient
        v = self.rho * memory.v + (1 - self.rho) * gradient * gradient
        u = self.rho * memory.u + (1 - self.rho) * memory.delta * memory.delta
        return SquaresOfMoves(v, u, sqrt(u + self.eps) / sqrt(v + self.eps) * gradient)

    def move(self, memory, step):
        return memory.delta

    def effective_lr(self, memory, step):
        return step.lr / sqrt(mean((memory.v + self.eps) / (memory.u + self.eps)))
