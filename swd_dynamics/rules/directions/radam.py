"""RAdam: Adam without preconditioner in its first steps, and with smaller steps in the next ones."""

from dataclasses import dataclass
from typing import Any, ClassVar

from swd_dynamics.arithmetic import decayed, mean, sqrt, where
from swd_dynamics.checks import check_argument, check_pair
from swd_dynamics.rules.directions.adam import Moments

LEAST_BETA2 = 2 / 3  # with smaller β₂ ρ never exceeds 5: torch's RAdam then moves by m̂ for ever


@dataclass(frozen=True)
class RAdam:
    """RAdam: Adam's m and v, move r·m̂√(1−β₂ᵏ)/(√v + ε) where ρ > 5, and m̂ before; η_eff = rη/√v̄, and η before.

    ρ = ρ_∞ − 2kβ₂ᵏ/(1−β₂ᵏ), with ρ_∞ = 2/(1−β₂) − 1, is the number of effective terms of the mean v, and
    r² = (ρ−4)(ρ−2)ρ_∞/((ρ_∞−4)(ρ_∞−2)ρ) rises to 1. m̂ = m/(1−β₁ᵏ); v̄ is the mean of v/(1−β₂ᵏ) over all weights. As in
    Adam, neither the bias correction of m nor ε enters η_eff. ε is added before √v is bias-corrected, as in torch.
    β₂ must exceed ⅔: with a smaller β₂ v is never used, and RAdam is a momentum method under another name.

    Source: Liu et al. 2020, 1908.03265; torch.optim.RAdam.

    Examples
    --------
    In the first step ρ = 1, so that the move is m̂ = g, whatever β₂ is:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, RAdam())
    >>> parts = rule.parts(rule.start(np.ones(2)), np.array([4.0, -4.0]))
    >>> parts.state.theta.round(12).tolist(), float(rule.direction.effective_lr(parts.memory, parts.step))
    ([0.0, 2.0], 0.25)
    """

    few: ClassVar = 5  # up to so many effective terms v is not used: torch's 5, where the paper has 4
    betas: tuple[Any, Any] = (0.9, 0.999)
    eps: Any = 1e-8

    def __post_init__(self):
        check_pair("betas", self.betas, ("[0, 1)", f"({LEAST_BETA2}, 1)"))
        check_argument("eps", self.eps, "[0, inf)")

    def rest(self, theta):
        return Moments(0 * theta, 0 * theta)

    def remember(self, memory, step):
        (beta1, beta2), gradient = self.betas, step.gradient
        m = beta1 * memory.m + (1 - beta1) * gradient
        return Moments(m, beta2 * memory.v + (1 - beta2) * gradient * gradient)

    def move(self, memory, step):
        m_hat = memory.m / (1 - decayed(self.betas[0], step.k))
        return self._rectified(m_hat, self.divisor(memory, step), step)

    def effective_lr(self, memory, step):
        v_hat = memory.v / (1 - decayed(self.betas[1], step.k))
        return self._rectified(step.lr, sqrt(mean(v_hat)), step)

    def effective_lr_by_weight(self, memory, step):
        return self._rectified(step.lr, self.divisor(memory, step), step)

    def divisor(self, memory, step):
        """What the momentum is divided by, once v has enough terms."""
        return (sqrt(memory.v) + self.eps) / sqrt(1 - decayed(self.betas[1], step.k))

    def _rectified(self, undivided, root, step):
        """r·undivided/root where v has enough terms, and undivided before."""
        beta2_k = decayed(self.betas[1], step.k)
        most = 2 / (1 - self.betas[1]) - 1
        lacking = 2 * step.k * beta2_k / (1 - beta2_k)
        # ρ > few, written so that it holds without a condition on β₂ once β₂ᵏ is 0.
        enough = lacking / (most - self.few) < 1
        terms = most - lacking
        ratio = (terms - 4) * (terms - 2) * most / ((most - 4) * (most - 2) * terms)
        return undivided * sqrt(where(enough, ratio, 1.0)) / where(enough, root, 1.0)
