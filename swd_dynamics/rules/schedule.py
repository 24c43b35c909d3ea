"""Learning rate as a function of the number of steps taken, with the formulas of torch.optim.lr_scheduler.

``schedule(k)`` is η of the step that follows k steps. k is a whole number or, for a flow, any number. Any
function of k is a schedule; these are the usual ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, floor, pi

from swd_dynamics.checks import check
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
        check("lr", self.lr, "(0, inf)")

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
        check("lr", self.lr, "(0, inf)")
        check("step_size", self.step_size, "[1, inf)")
        check("gamma", self.gamma, "(0, inf)")

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
        check("lr", self.lr, "(0, inf)")
        check("steps", self.steps, "[1, inf)")
        check("lr_min", self.lr_min, "[0, inf)")

    def __call__(self, k) -> float:
        return self.lr_min + 0.5 * (self.lr - self.lr_min) * (1 + cos(pi * min(k / self.steps, 1)))


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
        check("steps", self.steps, "[1, inf)")
        check("start_factor", self.start_factor, "(0, 1]")

    def __call__(self, k) -> float:
        factor = self.start_factor + (1 - self.start_factor) * min(k / self.steps, 1)
        return self.schedule(k) * factor


SCHEDULES = Table("schedule", constant=Constant, step=StepDecay, cosine=Cosine)
