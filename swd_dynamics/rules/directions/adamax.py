"""Adamax, which divides by a decaying maximum of the gradients' sizes."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import absolute, decayed, maximum, mean, sqrt
from swd_dynamics.checks import check_argument, check_pair


class MeanAndLargest(NamedTuple):
    m: Any
    u: Any


@dataclass(frozen=True)
class Adamax:
    """Adamax: m ← β₁m + (1−β₁)g, u ← max(β₂u, |g| + ε), move m̂/u, η_eff = η/√⟨u²⟩.

    m̂ = m/(1−β₁ᵏ); u needs no bias correction. ⟨⟩ is the mean over all weights: u takes the place of √v̂, so that ⟨u²⟩
    takes the place of Adam's v̄. ε is in u, as in torch (the paper has no ε), and so it enters η_eff.

    Source: Kingma & Ba 2015, 1412.6980, section 7.1; torch.optim.Adamax.

    Examples
    --------
    After a gradient of 4 and a gradient of 1, u = max(½·4, 1), and m̂ = (½·2 + ½·1)/¾ = 2:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Adamax(betas=(0.5, 0.5), eps=0.0))
    >>> parts = rule.parts(rule(rule.start(np.ones(1)), np.array([4.0])), np.array([1.0]))
    >>> parts.memory, parts.move.tolist()
    (MeanAndLargest(m=array([1.5]), u=array([2.])), [1.0])
    >>> float(rule.direction.effective_lr(parts.memory, parts.step))
    0.125
    """

    betas: tuple[Any, Any] = (0.9, 0.999)
    eps: Any = 1e-8

    def __post_init__(self):
        check_pair("betas", self.betas, ("[0, 1)", "[0, 1)"))
        check_argument("eps", self.eps, "[0, inf)")

    def rest(self, theta):
        return MeanAndLargest(0 * theta, 0 * theta)

    def remember(self, memory, step):
        beta1, beta2 = self.betas
        m = beta1 * memory.m + (1 - beta1) * step.gradient
        return MeanAndLargest(m, maximum(beta2 * memory.u, absolute(step.gradient) + self.eps))

    def move(self, memory, step):
        return memory.m / (1 - decayed(self.betas[0], step.k)) / memory.u

    def effective_lr(self, memory, step):
        return step.lr / sqrt(mean(memory.u * memory.u))

    def effective_lr_by_weight(self, memory, step):
        return step.lr / memory.u
