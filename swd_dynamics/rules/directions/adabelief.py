"""AdaBelief, which divides by the root mean square of the gradients' distance from their mean."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import decayed, mean, sqrt
from swd_dynamics.checks import check_argument, check_pair


class MeanAndVariance(NamedTuple):
    m: Any
    s: Any


@dataclass(frozen=True)
class AdaBelief:
    """AdaBelief: m ← β₁m + (1−β₁)g, s ← β₂s + (1−β₂)(g − m)² + ε, move m̂/(√ŝ + ε), η_eff = η/√s̄.

    m̂ = m/(1−β₁ᵏ), ŝ = s/(1−β₂ᵏ); g − m is taken with the new m; s̄ is the mean of ŝ over all weights. ε enters twice,
    as in the authors' own optimizer: it is added to s in every step, so that s comes to at least ε/(1−β₂), and to √ŝ.
    η_eff contains the ε in s, and not the other ε.

    Source: Zhuang et al. 2020, 2010.07468.

    Examples
    --------
    With β₁ = ½ the first g − m is g/2, so that the first step is 2η·sign(g), where Adam's is η·sign(g):

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, AdaBelief(betas=(0.5, 0.75), eps=0.0))
    >>> parts = rule.parts(rule.start(np.ones(2)), np.array([4.0, -4.0]))
    >>> parts.state.theta.tolist(), float(rule.direction.effective_lr(parts.memory, parts.step))
    ([0.5, 1.5], 0.125)
    """

    betas: tuple[Any, Any] = (0.9, 0.999)
    eps: Any = 1e-16

    def __post_init__(self):
        check_pair("betas", self.betas, ("[0, 1)", "[0, 1)"))
        check_argument("eps", self.eps, "[0, inf)")

    def rest(self, theta):
        return MeanAndVariance(0 * theta, 0 * theta)

    def remember(self, memory, step):
        beta1, beta2 = self.betas
        m = beta1 * memory.m + (1 - beta1) * step.gradient
        surprise = step.gradient - m
        return MeanAndVariance(m, beta2 * memory.s + (1 - beta2) * surprise * surprise + self.eps)

    def move(self, memory, step):
        m_hat = memory.m / (1 - decayed(self.betas[0], step.k))
        return m_hat / self.divisor(memory, step)

    def effective_lr(self, memory, step):
        return step.lr / sqrt(mean(self._corrected(memory, step)))

    def effective_lr_by_weight(self, memory, step):
        return step.lr / self.divisor(memory, step)

    def divisor(self, memory, step):
        """What the momentum is divided by."""
        return sqrt(self._corrected(memory, step)) + self.eps

    def _corrected(self, memory, step):
        return memory.s / (1 - decayed(self.betas[1], step.k))
