"""ASGD, gradient descent whose steps become smaller, and whose weights may be averaged."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import rounded
from swd_dynamics.checks import check_argument


class StepRates(NamedTuple):
    eta: Any
    following: Any


@dataclass(frozen=True)
class ASGD:
    """Gradient descent with smaller and smaller steps: move (ηₖ/η)(g + lθ), η_eff = ηₖ.

    ηₖ₊₁ = η/(1 + lηk)^α with l = ``lambd``, and η₁ = η: the η of one step is used in the next step, as in torch. lθ is
    torch's own decay, besides ``weight_decay``. The running average of the weights, which torch keeps in its state as
    ``ax`` from step ``t0`` on, has no effect on the steps and is not part of the rule. ASGD has no derivation, because
    ηₖ depends on the number of the step.

    torch keeps ηₖ in float32, and so does this rule unless ``coarse=False``. Where torch's default type is float64,
    torch does not round ηₖ. torch's foreach kernel also computes ηₖ in float32, with other roundings than this rule
    has: its steps differ from the rule's by 1e-7 of their length, except where the default type is float64.

    Source: Polyak & Juditsky 1992; torch.optim.ASGD.

    Examples
    --------
    With l = 2 and α = 1, η₂ = η/(1 + 2η) is ⅓ of a unit for η = 1; lθ takes 2θ off in the first step:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(1.0, ASGD(lambd=2.0, alpha=1.0, coarse=False))
    >>> rule(rule(rule.start(np.ones(1)), np.zeros(1)), np.zeros(1)).theta.round(12).tolist()
    [-0.333333333333]
    """

    lambd: Any = 1e-4
    alpha: Any = 0.75
    coarse: bool = True

    def __post_init__(self):
        check_argument("lambd", self.lambd, "[0, inf)")
        check_argument("alpha", self.alpha, "[0, inf)")

    def rest(self, theta):
        return StepRates(0 * theta, 0 * theta)

    def remember(self, memory, step):
        eta = self._rounded(0 * step.theta + step.lr) if step.k == 1 else memory.following
        following = step.lr / (1 + self.lambd * step.lr * step.k) ** self.alpha
        return StepRates(eta, self._rounded(0 * step.theta + following))

    def move(self, memory, step):
        return memory.eta / step.lr * (step.gradient + self.lambd * step.theta)

    def effective_lr(self, memory, step):
        return memory.eta

    def _rounded(self, eta):
        return rounded(eta, "float32") if self.coarse else eta
