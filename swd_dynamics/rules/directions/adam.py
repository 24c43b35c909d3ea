"""Adam and AMSGrad."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import decayed, maximum, mean, sqrt
from swd_dynamics.checks import check, check_pair


class Moments(NamedTuple):
    m: Any
    v: Any


class MaxMoments(NamedTuple):
    m: Any
    v: Any
    v_max: Any


@dataclass(frozen=True)
class Adam:
    """Adam: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², step m̂/(√v̂ + ε), η_eff = η/√v̄.

    m̂ = m/(1−β₁ᵏ), v̂ = v/(1−β₂ᵏ); v̄ is the mean of v̂ over all weights. ε stands outside the root, as in the paper and
    in torch, and is no part of η_eff.

    Source: Kingma & Ba 2015, 1412.6980; η_eff: Xie, Sato & Sugiyama 2020, 2011.11152.

    Examples
    --------
    The first step is η·sign(g), whatever the size of g; η_eff = η/|g|:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Adam(betas=(0.5, 0.75), eps=0.0))
    >>> state = rule(rule.start(np.ones(2)), np.array([4.0, -4.0]))
    >>> state.theta.tolist(), float(rule.direction.effective_lr(0.25, state.memory, state.step))
    ([0.75, 1.25], 0.0625)
    """

    betas: tuple[Any, Any] = (0.9, 0.999)
    eps: Any = 1e-8

    def __post_init__(self):
        check_pair("betas", self.betas, ("[0, 1)", "[0, 1)"))
        check("eps", self.eps, "[0, inf)")

    def rest(self, theta):
        return Moments(0 * theta, 0 * theta)

    def remember(self, memory, gradient, step):
        beta1, beta2 = self.betas
        return Moments(
            m=beta1 * memory.m + (1 - beta1) * gradient,
            v=beta2 * memory.v + (1 - beta2) * gradient * gradient,
        )

    def step(self, memory, gradient, step):
        beta1, beta2 = self.betas
        return memory.m / (1 - decayed(beta1, step)) / (sqrt(memory.v / (1 - decayed(beta2, step))) + self.eps)

    def effective_lr(self, lr, memory, step):
        return lr / sqrt(mean(memory.v / (1 - decayed(self.betas[1], step))))


@dataclass(frozen=True)
class AMSGrad:
    """AMSGrad: Adam with v̂ replaced by the largest v so far, divided by 1−β₂ᵏ; η_eff = η/√(mean of that).

    The maximum is taken before the bias correction, as torch and the authors of stable decay do.

    Source: Reddi, Kale & Kumar 2018, 1904.09237; torch.optim.Adam(amsgrad=True).

    Examples
    --------
    After a gradient of 4 and one of 0, v has fallen and its largest value has not:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, AMSGrad(betas=(0.5, 0.75)))
    >>> rule(rule(rule.start(np.ones(1)), np.array([4.0])), np.array([0.0])).memory
    MaxMoments(m=array([1.]), v=array([3.]), v_max=array([4.]))
    """

    betas: tuple[Any, Any] = (0.9, 0.999)
    eps: Any = 1e-8

    def __post_init__(self):
        check_pair("betas", self.betas, ("[0, 1)", "[0, 1)"))
        check("eps", self.eps, "[0, inf)")

    def rest(self, theta):
        return MaxMoments(0 * theta, 0 * theta, 0 * theta)

    def remember(self, memory, gradient, step):
        beta1, beta2 = self.betas
        v = beta2 * memory.v + (1 - beta2) * gradient * gradient
        return MaxMoments(beta1 * memory.m + (1 - beta1) * gradient, v, maximum(memory.v_max, v))

    def step(self, memory, gradient, step):
        beta1, beta2 = self.betas
        return memory.m / (1 - decayed(beta1, step)) / (sqrt(memory.v_max / (1 - decayed(beta2, step))) + self.eps)

    def effective_lr(self, lr, memory, step):
        return lr / sqrt(mean(memory.v_max / (1 - decayed(self.betas[1], step))))
