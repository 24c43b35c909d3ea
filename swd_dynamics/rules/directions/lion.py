"""Lion, the sign of a momentum that weighs the newest gradient more than its memory does."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import mean, sign, sqrt
from swd_dynamics.checks import check_pair


class Interpolated(NamedTuple):
    m: Any
    u: Any


@dataclass(frozen=True)
class Lion:
    """Lion: u = β₁m + (1−β₁)g, m ← β₂m + (1−β₂)g, move sign(u), η_eff = η/√⟨u²⟩.

    u is made of the m before the step, so u is an entry of the memory here. ⟨⟩ is the mean over all weights. η_eff is
    defined as in :class:`~swd_dynamics.rules.directions.signum.Signum`: the weights of all gradients in u add up to 1.

    Source: Chen et al. 2023, 2302.06675, Algorithm 2.

    Examples
    --------
    The first u is (1−β₁)g, and every weight moves by η:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Lion(betas=(0.5, 0.75)))
    >>> rule(rule.start(np.ones(2)), np.array([4.0, -8.0]))
    State(theta=array([0.75, 1.25]), memory=Interpolated(m=array([ 1., -2.]), u=array([ 2., -4.])), step=1)
    """

    betas: tuple[Any, Any] = (0.9, 0.99)

    def __post_init__(self):
        check_pair("betas", self.betas, ("[0, 1)", "[0, 1)"))

    def rest(self, theta):
        return Interpolated(0 * theta, 0 * theta)

    def remember(self, memory, step):
        (beta1, beta2), gradient = self.betas, step.gradient
        u = beta1 * memory.m + (1 - beta1) * gradient
        return Interpolated(beta2 * memory.m + (1 - beta2) * gradient, u)

    def move(self, memory, step):
        return sign(memory.u)

    def effective_lr(self, memory, step):
        return step.lr / sqrt(mean(memory.u * memory.u))
