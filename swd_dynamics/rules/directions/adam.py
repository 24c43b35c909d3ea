"""Adam and AMSGrad."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import decayed, maximum, mean, sqrt
from swd_dynamics.checks import check_argument, check_pair


class Moments(NamedTuple):
    m: Any
    v: Any


class MaxMoments(NamedTuple):
    m: Any
    v: Any
    v_max: Any


@dataclass(frozen=True)
class _AdamFamily(ABC):
    """The two running means, the move and η_eff that Adam and AMSGrad share."""

    betas: tuple[Any, Any] = (0.9, 0.999)
    eps: Any = 1e-8

    def __post_init__(self):
        check_pair("betas", self.betas, ("[0, 1)", "[0, 1)"))
        check_argument("eps", self.eps, "[0, inf)")

    @abstractmethod
    def second_moment(self, memory) -> Any:
        """The entry of the memory that preconditions the move, without bias correction."""

    def means(self, memory, step) -> tuple[Any, Any]:
        """The new running means m and v of the gradient and of its square."""
        beta1, beta2 = self.betas
        m = beta1 * memory.m + (1 - beta1) * step.gradient
        v = beta2 * memory.v + (1 - beta2) * step.gradient * step.gradient
        return m, v

    def move(self, memory, step):
        m_hat = memory.m / (1 - decayed(self.betas[0], step.k))
        return m_hat / (sqrt(self._corrected(memory, step)) + self.eps)

    def effective_lr(self, memory, step):
        return step.lr / sqrt(mean(self._corrected(memory, step)))

    def effective_lr_by_weight(self, memory, step):
        return step.lr / (sqrt(self._corrected(memory, step)) + self.eps)

    def _corrected(self, memory, step):
        return self.second_moment(memory) / (1 - decayed(self.betas[1], step.k))


@dataclass(frozen=True)
class Adam(_AdamFamily):
    """Adam: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², move m̂/(√v̂ + ε), η_eff = η/√v̄.

    m̂ = m/(1−β₁ᵏ), v̂ = v/(1−β₂ᵏ); v̄ is the mean of v̂ over all weights. ε is added outside the root, as in the paper and
    in torch, and does not enter η_eff.

    Source: Kingma & Ba 2015, 1412.6980; η_eff: Xie, Sato & Sugiyama 2020, 2011.11152.

    Examples
    --------
    The first step is η·sign(g), whatever the size of g; η_eff = η/|g|:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Adam(betas=(0.5, 0.75), eps=0.0))
    >>> parts = rule.parts(rule.start(np.ones(2)), np.array([4.0, -4.0]))
    >>> parts.state.theta.tolist(), float(rule.direction.effective_lr(parts.memory, parts.step))
    ([0.75, 1.25], 0.0625)
    """

    def rest(self, theta):
        return Moments(0 * theta, 0 * theta)

    def remember(self, memory, step):
        return Moments(*self.means(memory, step))

    def second_moment(self, memory):
        return memory.v


@dataclass(frozen=True)
class AMSGrad(_AdamFamily):
    """AMSGrad: Adam with v̂ replaced by the largest v so far, divided by 1−β₂ᵏ; η_eff = η/√(mean of that).

    The maximum is taken before the bias correction, as torch and the authors of stable decay do.

    Source: Reddi, Kale & Kumar 2018, 1904.09237; torch.optim.Adam(amsgrad=True).

    Examples
    --------
    After a gradient of 4 and a gradient of 0, v has fallen, but its largest value has not:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, AMSGrad(betas=(0.5, 0.75)))
    >>> rule(rule(rule.start(np.ones(1)), np.array([4.0])), np.array([0.0])).memory
    MaxMoments(m=array([1.]), v=array([3.]), v_max=array([4.]))
    """

    def rest(self, theta):
        return MaxMoments(0 * theta, 0 * theta, 0 * theta)

    def remember(self, memory, step):
        m, v = self.means(memory, step)
        return MaxMoments(m, v, maximum(memory.v_max, v))

    def second_moment(self, memory):
        return memory.v_max
