"""Variants of two directions: each line can be replaced by what real optimizers are known to do instead.

With nothing changed each variant is the direction that it is made of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from swd_dynamics.arithmetic import maximum, mean, sqrt
from swd_dynamics.rules.direction import Direction
from swd_dynamics.rules.directions.adam import Adam, AMSGrad, MaxMoments
from swd_dynamics.rules.directions.sgd import HeavyBall, Momentum, Nesterov


@dataclass(frozen=True)
class MomentumVariant:
    """Heavy ball or Nesterov momentum: m ← βm + gain·g, with m₁ = first·g₁.

    momentum, gain, first : float
    nesterov : bool — the move is g + βm, not m
    published : Direction — its η_eff is that of the decay
    """

    momentum: Any
    gain: Any
    first: Any
    nesterov: bool
    published: Direction

    @classmethod
    def of(cls, direction: HeavyBall | Nesterov) -> "MomentumVariant":
        """The direction with nothing changed."""
        gain = 1 - getattr(direction, "dampening", 0.0)
        return cls(direction.momentum, gain, 1.0, isinstance(direction, Nesterov), direction)

    def rest(self, theta):
        return Momentum(0 * theta)

    def remember(self, memory, step):
        if step.k == 1:
            return Momentum(self.first * step.gradient)
        return Momentum(self.momentum * memory.m + self.gain * step.gradient)

    def move(self, memory, step):
        return step.gradient + self.momentum * memory.m if self.nesterov else memory.m

    def effective_lr(self, memory, step):
        return self.published.effective_lr(memory, step)


def steps_taken(k: Any) -> Any:
    """The number of steps that a bias correction counts: all, each once."""
    return k


@dataclass(frozen=True)
class AdamVariant:
    """Adam or AMSGrad: each line that is known to be written in several ways can be changed.

    betas, eps : as Adam's
    amsgrad : "no", "before" or "after" — a maximum of v is kept, taken before or after the bias correction
    corrects : str — which moments the bias correction reaches: "mv", "m", "v" or ""
    stored : str — the moments whose bias correction is written back into the memory
    eps_at : where ε stands: √v̂ + ε ("outside"), √(v̂ + ε) ("inside"), √v + ε before the correction ("before"),
        max(√v̂, ε) ("maximum"), nowhere ("none")
    mean_eps_at : where ε stands in η_eff: nowhere ("none"), √v̄ + ε ("outside"), √(v̄ + ε) ("inside")
    mean_corrected : bool — whether v̄ is a mean of v̂, not of v
    average : callable — the mean over all weights, or a mean over each tensor or group
    swapped : bool — whether the bias correction of m has β₂, and that of v has β₁
    count : callable (k) → number of steps, or one for each weight, that the bias corrections have
    """

    betas: tuple[Any, Any]
    eps: Any
    amsgrad: Literal["no", "before", "after"] = "no"
    corrects: str = "mv"
    stored: str = ""
    eps_at: Literal["outside", "inside", "before", "maximum", "none"] = "outside"
    mean_eps_at: Literal["none", "outside", "inside"] = "none"
    mean_corrected: bool = True
    average: Callable = mean
    swapped: bool = False
    count: Callable = steps_taken

    @classmethod
    def of(cls, direction: Adam | AMSGrad) -> "AdamVariant":
        """The direction with nothing changed."""
        return cls(direction.betas, direction.eps, "before" if isinstance(direction, AMSGrad) else "no")

    def rest(self, theta):
        return MaxMoments(0 * theta, 0 * theta, 0 * theta)

    def remember(self, memory, step):
        (beta1, beta2), gradient, k = self.betas, step.gradient, step.k
        m = beta1 * memory.m + (1 - beta1) * gradient
        v = beta2 * memory.v + (1 - beta2) * gradient * gradient
        largest = memory.v_max if self.amsgrad == "no" else maximum(memory.v_max, self._in_maximum(v, k))
        m = m / self._one_less_power("m", k) if "m" in self.stored else m
        if "v" not in self.stored:
            return MaxMoments(m, v, largest)
        bias = self._one_less_power("v", k)
        return MaxMoments(m, v / bias, largest) if self.amsgrad == "no" else MaxMoments(m, v, largest / bias)

    def _in_maximum(self, v, k):
        return v / self._one_less_power("v", k) if self.amsgrad == "after" else v

    def _one_less_power(self, moment: str, k):
        """1 − βᵏ with the β and the count of steps that the bias correction of this moment has."""
        order = "vm" if self.swapped else "mv"
        return 1 - self.betas[order.index(moment)] ** self.count(k)

    def _bias(self, moment: str, k):
        """1 − βᵏ, or 1 if the moment is corrected already."""
        done = moment in self.stored or (moment == "v" and self.amsgrad == "after")
        return 1.0 if done else self._one_less_power(moment, k)

    def move(self, memory, step):
        m = memory.m / self._bias("m", step.k) if "m" in self.corrects else memory.m
        return m / self._divisor(memory, step)

    def _divisor(self, memory, step):
        v = memory.v if self.amsgrad == "no" else memory.v_max
        bias = self._bias("v", step.k) if "v" in self.corrects else 1.0
        roots = {"outside": lambda: sqrt(v / bias) + self.eps, "inside": lambda: sqrt(v / bias + self.eps),
                 "before": lambda: (sqrt(v) + self.eps) / sqrt(bias),
                 "maximum": lambda: maximum(sqrt(v / bias), self.eps), "none": lambda: sqrt(v / bias)}  # fmt: skip
        return roots[self.eps_at]()

    def effective_lr_by_weight(self, memory, step):
        return step.lr / self._divisor(memory, step)

    def effective_lr(self, memory, step):
        v = memory.v if self.amsgrad == "no" else memory.v_max
        corrected = self.mean_corrected and "v" in self.corrects
        mean_v = self.average(v / (self._bias("v", step.k) if corrected else 1.0))
        inside = self.eps if self.mean_eps_at == "inside" else 0.0
        return step.lr / (sqrt(mean_v + inside) + (self.eps if self.mean_eps_at == "outside" else 0.0))
