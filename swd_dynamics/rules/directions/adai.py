"""Adai, whose momentum differs from weight to weight."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import clip, decayed, mean
from swd_dynamics.checks import check_argument, check_pair


class AdaptiveMomentum(NamedTuple):
    v: Any
    beta1_product: Any
    m: Any


@dataclass(frozen=True)
class Adai:
    """Adaptive inertia: the momentum of each weight adapts, the learning rate does not; η_eff = η.

    v ← β₂v + (1−β₂)g², β₁ = clip(1 − β₀ v̂/v̄, 0, 1−ε), m ← β₁m + (1−β₁)g, step m/(1 − Πβ₁).
    ``betas`` is (β₀, β₂).

    Source: Xie et al. 2022, 2006.15815.

    Examples
    --------
    The weight with the larger gradients has the smaller β₁. For 0 and 4, v̂/v̄ is 0 and 2, and β₁ is 1 − ε and 1 − 2β₀.

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Adai(betas=(0.25, 0.75), eps=0.125))
    >>> rule(rule.start(np.ones(2)), np.array([0.0, 4.0])).memory.beta1_product.tolist()
    [0.875, 0.5]
    """

    betas: tuple[Any, Any] = (0.1, 0.99)
    eps: Any = 1e-3

    def __post_init__(self):
        check_pair("betas", self.betas, ("(0, inf)", "[0, 1)"))
        check_argument("eps", self.eps, "(0, 1)")

    def rest(self, theta):
        return AdaptiveMomentum(v=0 * theta, beta1_product=0 * theta + 1, m=0 * theta)

    def remember(self, memory, step):
        (beta0, beta2), gradient = self.betas, step.gradient
        v = beta2 * memory.v + (1 - beta2) * gradient * gradient
        v_hat = v / (1 - decayed(beta2, step.k))
        beta1 = clip(1 - beta0 * v_hat / mean(v_hat), 0, 1 - self.eps)
        return AdaptiveMomentum(v, memory.beta1_product * beta1, beta1 * memory.m + (1 - beta1) * gradient)

    def move(self, memory, step):
        return memory.m / (1 - memory.beta1_product)

    def effective_lr(self, memory, step):
        return step.lr
