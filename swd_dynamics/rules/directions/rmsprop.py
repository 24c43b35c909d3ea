"""RMSprop, plain or centred, with or without momentum."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from swd_dynamics.arithmetic import mean, sqrt
from swd_dynamics.checks import check_argument


class Squares(NamedTuple):
    v: Any


class CentredSquares(NamedTuple):
    v: Any
    g_avg: Any


class SquaresWithMomentum(NamedTuple):
    v: Any
    m: Any


class CentredSquaresWithMomentum(NamedTuple):
    v: Any
    g_avg: Any
    m: Any


# The memory by whether the mean of the gradients is kept, and whether there is momentum.
MEMORIES: dict[tuple[bool, bool], Any] = {
    (False, False): Squares,
    (True, False): CentredSquares,
    (False, True): SquaresWithMomentum,
    (True, True): CentredSquaresWithMomentum,
}


@dataclass(frozen=True)
class RMSprop:
    """RMSprop: v ← αv + (1−α)g², m ← βm + g/(√v + ε), move m, η_eff = η/((1−β)√v̄).

    v is not bias-corrected. The preconditioner is inside the sum m, so that each gradient keeps the preconditioner of
    its own step. If ``centered``, v − ḡ² takes the place of v in the move, with ḡ ← αḡ + (1−α)g. v̄ is the mean of v
    (or of v − ḡ²) over all weights. ε is added outside the root, as in torch, and does not enter η_eff.

    Source: Tieleman & Hinton 2012; centred: Graves 2013, 1308.0850; torch.optim.RMSprop.

    Examples
    --------
    With α = ¾ the first v is g²/4, so that the first step is 2η·sign(g). With β = ½ and the same gradient's sum over
    all later steps, η_eff = η/(½·|g|/2):

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, RMSprop(alpha=0.75, eps=0.0, momentum=0.5))
    >>> parts = rule.parts(rule.start(np.ones(2)), np.array([4.0, -4.0]))
    >>> parts.state.theta.tolist(), float(rule.direction.effective_lr(parts.memory, parts.step))
    ([0.5, 1.5], 0.25)
    """

    alpha: Any = 0.99
    eps: Any = 1e-8
    momentum: Any = 0.0
    centered: bool = False

    def __post_init__(self):
        check_argument("alpha", self.alpha, "[0, 1)")
        check_argument("eps", self.eps, "[0, inf)")
        check_argument("momentum", self.momentum, "[0, 1)")

    def rest(self, theta):
        kind = MEMORIES[bool(self.centered), bool(np.any(self.momentum != 0))]
        return kind(*(0 * theta for _ in kind._fields))

    def remember(self, memory, step):
        gradient = step.gradient
        kept = {"v": self.alpha * memory.v + (1 - self.alpha) * gradient * gradient}
        if self.centered:
            kept["g_avg"] = self.alpha * memory.g_avg + (1 - self.alpha) * gradient
        if "m" in memory._fields:
            divided = gradient / self.divisor(memory._replace(**kept), step)
            kept["m"] = self.momentum * memory.m + divided
        return type(memory)(**kept)

    def move(self, memory, step):
        return memory.m if "m" in memory._fields else step.gradient / self.divisor(memory, step)

    def effective_lr(self, memory, step):
        return step.lr / ((1 - self.momentum) * sqrt(mean(self.second_moment(memory))))

    def effective_lr_by_weight(self, memory, step):
        return step.lr / ((1 - self.momentum) * self.divisor(memory, step))

    def divisor(self, memory, step):
        """What the gradient is divided by."""
        return sqrt(self.second_moment(memory)) + self.eps

    def second_moment(self, memory):
        """v, or v − ḡ² if centred."""
        return memory.v - memory.g_avg * memory.g_avg if self.centered else memory.v
