"""Rprop, whose steps grow while a gradient keeps its sign and shrink where the sign changes."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import clip, mean, sign, sqrt
from swd_dynamics.checks import check_pair


class StepSizes(NamedTuple):
    last: Any
    size: Any


@dataclass(frozen=True)
class Rprop:
    """Rprop: each weight moves by its own step size Δ against the sign of its gradient; η_eff = ‖Δ‖/‖g‖.

    Δ is η in the first step. Where a gradient has the sign of the gradient before, Δ ← η⁺Δ. Where it has the other
    sign, Δ ← η⁻Δ, the weight does not move, and the gradient counts as 0 in the next step. Δ stays between the two
    ``step_sizes``. ``etas`` is (η⁻, η⁺). η is used in the first step only: a schedule has no effect, as in torch.
    ‖·‖ is over all weights: η_eff is the length of a step per length of the gradient, as it is in sign descent.

    Source: Riedmiller & Braun 1993; torch.optim.Rprop.

    Examples
    --------
    The second gradient of the first weight has the same sign, and that of the second weight has not:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.5, Rprop(etas=(0.5, 1.5)))
    >>> state = rule(rule.start(np.zeros(2)), np.array([1.0, 1.0]))
    >>> rule(state, np.array([3.0, -3.0])).theta.tolist()
    [-1.25, -0.5]
    """

    etas: tuple[Any, Any] = (0.5, 1.2)
    step_sizes: tuple[Any, Any] = (1e-6, 50.0)

    def __post_init__(self):
        check_pair("etas", self.etas, ("(0, 1)", "(1, inf)"))
        check_pair("step_sizes", self.step_sizes, ("[0, inf)", "(0, inf)"))

    def rest(self, theta):
        return StepSizes(0 * theta, 0 * theta)

    def remember(self, memory, step):
        (slower, faster), (least, most) = self.etas, self.step_sizes
        size = 0 * step.theta + step.lr if step.k == 1 else memory.size
        same = sign(memory.last * step.gradient)
        kept, turned = same * (same + 1) / 2, same * (same - 1) / 2  # 1 or 0
        factor = (1 - same * same) + kept * faster + turned * slower
        return StepSizes((1 - turned) * step.gradient, clip(factor * size, least, most))

    def move(self, memory, step):
        return sign(memory.last) * memory.size / step.lr

    def effective_lr(self, memory, step):
        return sqrt(mean(memory.size * memory.size) / mean(step.gradient * step.gradient))
