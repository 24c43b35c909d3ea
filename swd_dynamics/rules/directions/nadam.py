"""NAdam: Adam with Nesterov's momentum on a schedule."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import decayed, mean, sqrt
from swd_dynamics.checks import check_argument, check_pair

FADING = 0.96  # the base of the schedule, as in the paper


class ScheduledMoments(NamedTuple):
    m: Any
    v: Any
    mu_product: Any


@dataclass(frozen=True)
class NAdam:
    """NAdam: Adam's m and v, move [(1−μₖ)g/(1−Π) + μₖ₊₁m/(1−Πμₖ₊₁)]/(√v̂ + ε), η_eff = η/√v̄.

    μₖ = β₁(1 − ½·.96^(kψ)) rises from about ½β₁ to β₁; ψ is ``momentum_decay``, and Π is the product of μ₁ … μₖ.
    v̂ = v/(1−β₂ᵏ), and v̄ is the mean of v̂ over all weights. A unit of gradient moves a weight by
    η(1 − μₖ + μₖ₊₁)/√v̄ in the end; η_eff takes it after the schedule has ended, where μₖ₊₁ = μₖ. As in Adam,
    neither the bias corrections of the momentum nor ε enter η_eff.

    torch keeps Π in its default dtype: where that is float32, its steps differ from these by 10⁻⁸ of a step.

    Source: Dozat 2016, "Incorporating Nesterov momentum into Adam"; torch.optim.NAdam.

    Examples
    --------
    With β₁ = 0 there is no momentum, and the first step is η·sign(g); η_eff = η/|g|:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, NAdam(betas=(0.0, 0.75), eps=0.0))
    >>> parts = rule.parts(rule.start(np.ones(2)), np.array([4.0, -4.0]))
    >>> parts.state.theta.tolist(), float(rule.direction.effective_lr(parts.memory, parts.step))
    ([0.75, 1.25], 0.0625)
    """

    betas: tuple[Any, Any] = (0.9, 0.999)
    eps: Any = 1e-8
    momentum_decay: Any = 4e-3

    def __post_init__(self):
        check_pair("betas", self.betas, ("[0, 1)", "[0, 1)"))
        check_argument("eps", self.eps, "[0, inf)")
        check_argument("momentum_decay", self.momentum_decay, "[0, inf)")

    def rest(self, theta):
        return ScheduledMoments(0 * theta, 0 * theta, 0 * theta + 1)

    def remember(self, memory, step):
        (beta1, beta2), gradient = self.betas, step.gradient
        m = beta1 * memory.m + (1 - beta1) * gradient
        v = beta2 * memory.v + (1 - beta2) * gradient * gradient
        return ScheduledMoments(m, v, memory.mu_product * self.mu(step.k))

    def mu(self, k):
        """μₖ, the momentum of step k."""
        return self.betas[0] * (1 - decayed(FADING, k * self.momentum_decay) / 2)

    def move(self, memory, step):
        mu, mu_next = self.mu(step.k), self.mu(step.k + 1)
        now = (1 - mu) * step.gradient / (1 - memory.mu_product)
        ahead = mu_next * memory.m / (1 - memory.mu_product * mu_next)
        return (now + ahead) / self.divisor(memory, step)

    def effective_lr(self, memory, step):
        return step.lr / sqrt(mean(self._corrected(memory, step)))

    def effective_lr_by_weight(self, memory, step):
        return step.lr / self.divisor(memory, step)

    def divisor(self, memory, step):
        """What the momentum is divided by."""
        return sqrt(self._corrected(memory, step)) + self.eps

    def _corrected(self, memory, step):
        return memory.v / (1 - decayed(self.betas[1], step.k))
