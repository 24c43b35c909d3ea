"""Sign descent with and without momentum: Signum."""

from dataclasses import dataclass
from typing import Any

from swd_dynamics.arithmetic import mean, sign, sqrt
from swd_dynamics.checks import check_argument
from swd_dynamics.rules.directions.sgd import Momentum


@dataclass(frozen=True)
class Signum:
    """Sign of the momentum: m ← βm + (1−β)g, move sign(m), η_eff = η/√⟨m²⟩.

    ⟨⟩ is the mean over all weights. sign(m) is m/|m|, so the preconditioner of a weight is |m|, as √v̂ is Adam's, and
    η_eff is made of |m| as Adam's is made of √v̂. So Signum without momentum is Adam with β₁ = β₂ = ε = 0, whatever the
    decay. Where stable decay holds the weights at rest, ‖θ‖ is ‖g‖/λ, as it is in gradient descent with L2.

    Source: Bernstein et al. 2018, 1802.04434, Algorithm 2; without momentum it is their signSGD.

    Examples
    --------
    Every weight moves by η, and η_eff is η/√((1² + 7²)/2) = η/5:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Signum(momentum=0.0))
    >>> parts = rule.parts(rule.start(np.ones(2)), np.array([1.0, -7.0]))
    >>> parts.state.theta.tolist(), float(rule.direction.effective_lr(parts.memory, parts.step))
    ([0.75, 1.25], 0.05)
    """

    momentum: Any = 0.9

    def __post_init__(self):
        check_argument("momentum", self.momentum, "[0, 1)")

    def rest(self, theta):
        return Momentum(0 * theta)

    def remember(self, memory, step):
        return Momentum(self.momentum * memory.m + (1 - self.momentum) * step.gradient)

    def move(self, memory, step):
        return sign(memory.m)

    def effective_lr(self, memory, step):
        return step.lr / sqrt(mean(memory.m * memory.m))
