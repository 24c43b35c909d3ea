"""Learning rate as a function of the number of steps taken, with the formulas of torch.optim.lr_scheduler.

``schedule(k)`` is η of the step that follows k steps. k is a whole number or, for a flow, any number. Any
function of k is a schedule; these are the usual ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, floor, pi

from swd_dynamics.checks import check_argument
from swd_dynamics.tables import Table


@dataclass(frozen=True)
class Constant:
    """The same learning rate at every step.

    Examples
    --------
    >>> Constant(0.5)(25)
    0.5
    """

    lr: float

    def __post_init__(self):
        check_argument("lr", self.lr, "(0, inf)")

    def __call__(self, k) -> float:
        return self.lr


@dataclass(frozen=True)
class StepDecay:
    """η·γ^⌊k/step_size⌋, torch's StepLR.

    Examples
    --------
    >>> StepDecay(0.5, step_size=10, gamma=0.5)(25)
    0.125
    """

    lr: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self):
        check_argument("lr", self.lr, "(0, inf)")
        check_argument("step_size", self.step_size, "[1, inf)")
        check_argument("gamma", self.gamma, "(0, inf)")

    def __call__(self, k) -> float:
        return self.lr * self.gamma ** floor(k / self.step_size)


@dataclass(frozen=True)
class Cosine:
    """η_min + ½(η − η_min)(1 + cos πk/steps), torch's CosineAnnealingLR; η_min after the last step.

    Examples
    --------
    >>> Cosine(1.0, steps=10, lr_min=0.5)(5)
    0.75
    """

    lr: float
    steps: int
    lr_min: float = 0.0

    def __post_init__(self):
        check_argument("lr", self.lr, "(0, inf)")
        check_argument("steps", self.steps, "[1, inf)")
        check_argument("lr_min", self.lr_min, "[0, inf)")

    def __call__(self, k) -> float:
        return self.lr_min + 0.5 * (self.lr - self.lr_min) * (1 + cos(pi * min(k / self.steps, 1)))


@dataclass(frozen=True)
class Linear:
    """η_min + (η − η_min)(1 − k/steps), torch's PolynomialLR with η_min = 0; η_min after the last step.

    Examples
    --------
    >>> Linear(1.0, steps=10)(5)
    0.5
    """

    lr: float
    steps: int
    lr_min: float = 0.0

    def __post_init__(self):
        check_argument("lr", self.lr, "(0, inf)")
        check_argument("steps", self.steps, "[1, inf)")
        check_argument("lr_min", self.lr_min, "[0, inf)")

    def __call__(self, k) -> float:
        return self.lr_min + (self.lr - self.lr_min) * (1 - min(k / self.steps, 1))


@dataclass(frozen=True)
class EqualMemory:
    """η/(1 + ληk): with decoupled decay, R = λη, every update counts the same in the final weights.

    An update of the step that follows k steps is in the final weights with the factor η_k·Π(1 − R), over the steps
    after it. With this schedule that is the learning rate of the last step, for each k. It has no end: more steps may
    follow. For another decay, λ is R/η, as λ/(1−β) for stable decay with momentum β:
    :func:`swd_dynamics.symbolic.equal_memory` derives it. Without decay, λ = 0, it is constant.

    Source: Bergsma et al. 2025, 2505.13738. Elsewhere it is called inverse time decay.

    Examples
    --------
    The second update counts η₁ = ¼, and the first η₀(1 − λη₁) = ½·½:

    >>> schedule = EqualMemory(0.5, weight_decay=2.0)
    >>> schedule(1), schedule(0) * (1 - 2.0 * schedule(1))
    (0.25, 0.25)
    """

    lr: float
    weight_decay: float

    def __post_init__(self):
        check_argument("lr", self.lr, "(0, inf)")
        check_argument("weight_decay", self.weight_decay, "[0, inf)")

    def __call__(self, k) -> float:
        return self.lr / (1 + self.weight_decay * self.lr * k)


@dataclass(frozen=True)
class Warmup:
    """Linear warm-up of another schedule: its value times a factor that rises to 1 over ``steps``, torch's LinearLR.

    Examples
    --------
    >>> Warmup(Constant(0.5), steps=4, start_factor=0.5)(2)
    0.375
    """

    schedule: Callable
    steps: int
    start_factor: float = 1 / 3

    def __post_init__(self):
        check_argument("steps", self.steps, "[1, inf)")
        check_argument("start_factor", self.start_factor, "(0, 1]")

    def __call__(self, k) -> float:
        factor = self.start_factor + (1 - self.start_factor) * min(k / self.steps, 1)
        return self.schedule(k) * factor


SCHEDULES = Table("schedule", constant=Constant, step=StepDecay, cosine=Cosine)
