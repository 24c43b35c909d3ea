"""Schedule-free SGD and Adam, which average the weights in the place of a learning-rate schedule."""

import operator
from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import decayed, each, maximum, mean, sqrt
from swd_dynamics.checks import check_argument, check_pair


class Averaged(NamedTuple):
    v: Any  # stays 0 in gradient descent
    lr_max: Any
    total: Any
    share: Any
    z: Any


@dataclass(frozen=True)
class _ScheduleFree:
    """The averaging that both share; θ is y, at which gradients are taken, and not the average x."""

    warmup_steps: int = 0
    r: Any = 0.0
    weight_lr_power: Any = 2.0

    def __post_init__(self):
        check_argument("warmup_steps", self.warmup_steps, "[0, inf)")
        check_argument("r", self.r, "[0, inf)")
        check_argument("weight_lr_power", self.weight_lr_power, "[0, inf)")

    def rest(self, theta):
        return Averaged(0 * theta, 0 * theta, 0 * theta, 0 * theta, z=theta)

    def _averaged(self, memory, step, v) -> Averaged:
        """The new memory, except for z."""
        lr_max = maximum(memory.lr_max, 0 * step.theta + self._warm(step))
        weight = step.k**self.r * each(operator.pow, lr_max, self.weight_lr_power)
        return Averaged(v, lr_max, memory.total + weight, weight / (memory.total + weight), memory.z)

    def _warm(self, step):
        """η′ = η·min(1, k/warmup_steps)."""
        return step.lr * min(step.k / self.warmup_steps, 1.0) if self.warmup_steps else step.lr

    def _toward_average(self, memory, step, beta, taken):
        """The move of y: of y′ = (1−c)y + cz − η′(1 − β(1−c))p, where z is the one before its step to z − η′p."""
        own = (1 - beta) * (1 - memory.share) * self._warm(step) / step.lr * taken
        return own + memory.share / step.lr * (step.theta - memory.z)


@dataclass(frozen=True)
class ScheduleFreeSGD(_ScheduleFree):
    """Schedule-free gradient descent: z ← z − η′g, x ← (1−c)x + cz, θ = (1−β)z + βx, η_eff = η′.

    η′ is η in a linear warm-up of ``warmup_steps``. c = w/Σw with w = k^r·(max η′)^q, the largest so far, and q =
    ``weight_lr_power``: with one η c = 1/k, and x is the mean of all z. The weights θ of the rule are those at which
    gradients are taken (y in the paper); x, which the authors evaluate, is θ + (1 − 1/β)(z − θ). L2 decay is the
    authors' own, λθ in g. Of derivations there are only the equations of one step: z and Σw never come to rest.

    Source: Defazio et al. 2024, 2405.15682; schedulefree.SGDScheduleFree.

    Examples
    --------
    z goes from 1 to ½ and to 0, and x to ½ and then to their mean ¼, of which θ takes one half:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.5, ScheduleFreeSGD(momentum=0.5))
    >>> one = np.ones(1)
    >>> rule(rule(rule.start(one), one), one).theta.tolist()
    [0.125]
    """

    momentum: Any = 0.9

    def __post_init__(self):
        super().__post_init__()
        check_argument("momentum", self.momentum, "(0, 1)")

    def remember(self, memory, step):
        averaged = self._averaged(memory, step, memory.v)
        return averaged._replace(z=memory.z - self._warm(step) * step.gradient)

    def move(self, memory, step):
        return self._toward_average(memory, step, self.momentum, step.gradient)

    def effective_lr(self, memory, step):
        return self._warm(step)


@dataclass(frozen=True)
class ScheduleFreeAdam(_ScheduleFree):
    """Schedule-free Adam: v ← β₂v + (1−β₂)g², p = g/(√v̂ + ε) + lθ, z ← z − η′p, θ and η′ as in schedule-free SGD.

    η_eff = η′/√v̄, as Adam's. v̂ = v/(1−β₂ᵏ), and v̄ is its mean over all weights. l = ``decay_at_y`` is the authors' own
    decay, AdamWScheduleFree's ``weight_decay``: it is a part of the step of z, behind the preconditioner. None of the
    decay modes does that: L2 goes through v, and decoupled and stable decay act on θ and not on z.

    Source: Defazio et al. 2024, 2405.15682; schedulefree.AdamWScheduleFree.

    Examples
    --------
    In the first step z moves by η′ and θ with it:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, ScheduleFreeAdam(eps=0.0))
    >>> rule(rule.start(np.ones(2)), np.array([4.0, -4.0])).theta.tolist()
    [0.75, 1.25]
    """

    betas: tuple[Any, Any] = (0.9, 0.999)
    eps: Any = 1e-8
    decay_at_y: Any = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_pair("betas", self.betas, ("(0, 1)", "[0, 1)"))
        check_argument("eps", self.eps, "[0, inf)")
        check_argument("decay_at_y", self.decay_at_y, "[0, inf)")

    def remember(self, memory, step):
        v = self.betas[1] * memory.v + (1 - self.betas[1]) * step.gradient * step.gradient
        averaged = self._averaged(memory, step, v)
        return averaged._replace(z=memory.z - self._warm(step) * self._taken(averaged, step))

    def move(self, memory, step):
        return self._toward_average(memory, step, self.betas[0], self._taken(memory, step))

    def effective_lr(self, memory, step):
        return self._warm(step) / sqrt(mean(self._corrected(memory, step)))

    def effective_lr_by_weight(self, memory, step):
        return self._warm(step) / (sqrt(self._corrected(memory, step)) + self.eps)

    def _taken(self, memory, step):
        """p, the step of z without the learning rate."""
        return step.gradient / (sqrt(self._corrected(memory, step)) + self.eps) + self.decay_at_y * step.theta

    def _corrected(self, memory, step):
        return memory.v / (1 - decayed(self.betas[1], step.k))
