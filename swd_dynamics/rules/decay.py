"""Where weight decay enters a step: four modes, side by side.

===========  ======  =====================  ====================  =====================================
mode         suffix  added to the gradient  R, subtracted from θ  Source
===========  ======  =====================  ====================  =====================================
none                 0                      0
L2                   λθ                     0                     the gradient of ½λ‖θ‖²
decoupled    W       0                      λη                    Loshchilov & Hutter 2019, 1711.05101
stable       S       0                      λη_eff                Xie, Sato & Sugiyama 2020, 2011.11152
===========  ======  =====================  ====================  =====================================

A step subtracts the fraction R of θ. The suffix ends an optimizer's name in the catalogue: Adam, AdamW, AdamS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from swd_dynamics.checks import check
from swd_dynamics.tables import Table


class Decay(Protocol):
    """The contract of a decay mode. Any object with these two methods is one.

    1. ``added_gradient(theta)`` returns what is added to the gradient of the loss before the direction gets it.
    2. ``decay_rate(lr, effective_lr)`` returns R, the fraction of the weights that a step subtracts. ``lr`` is η;
       ``effective_lr()``, called without arguments, is the direction's η_eff: call it only if R needs it.

    A mode in ``DECAYS`` also has a ``suffix``, with which it enters the catalogue; None keeps it out.

    Examples
    --------
    Independent decay, whose R does not depend on the learning rate:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Independent:
    ...     weight_decay: float
    ...
    ...     def added_gradient(self, theta):
    ...         return 0
    ...
    ...     def decay_rate(self, lr, effective_lr):
    ...         return self.weight_decay
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> rule = UpdateRule(lr=0.5, direction=SGD(), decay=Independent(0.25))
    >>> rule(rule.start(8.0), 0.0).theta
    6.0
    """

    def added_gradient(self, theta) -> Any: ...

    def decay_rate(self, lr, effective_lr: Callable[[], Any]) -> Any: ...


@dataclass(frozen=True)
class NoDecay:
    """No decay: R = 0, and only the gradient moves the weights.

    Examples
    --------
    Nothing is added to the gradient, and R is 0:

    >>> from swd_dynamics.rules import HeavyBall, UpdateRule
    >>> rule = UpdateRule(0.25, HeavyBall(0.75), NoDecay())
    >>> parts = rule.parts(rule.start(1.0), gradient=0.0)
    >>> parts.step.gradient, parts.decay_rate
    (0.0, 0)
    """

    suffix: ClassVar = None

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, lr, effective_lr):
        return 0


@dataclass(frozen=True)
class L2:
    """L2 regularisation: λθ is added to the gradient, and goes through momentum and preconditioner with it.

    Examples
    --------
    λθ = ½ is added to a gradient of 0, and R is 0:

    >>> from swd_dynamics.rules import HeavyBall, UpdateRule
    >>> rule = UpdateRule(0.25, HeavyBall(0.75), L2(0.5))
    >>> parts = rule.parts(rule.start(1.0), gradient=0.0)
    >>> parts.step.gradient, parts.decay_rate
    (0.5, 0)
    """

    suffix: ClassVar = ""
    weight_decay: Any

    def __post_init__(self):
        check("weight_decay", self.weight_decay, "[0, inf)")

    def added_gradient(self, theta):
        return self.weight_decay * theta

    def decay_rate(self, lr, effective_lr):
        return 0


@dataclass(frozen=True)
class Decoupled:
    """Decoupled decay: R = λη, λ times the learning rate, whatever the direction.

    Examples
    --------
    R = λη = ½·¼, whatever the momentum:

    >>> from swd_dynamics.rules import HeavyBall, UpdateRule
    >>> rule = UpdateRule(0.25, HeavyBall(0.75), Decoupled(0.5))
    >>> parts = rule.parts(rule.start(1.0), gradient=0.0)
    >>> parts.step.gradient, parts.decay_rate
    (0.0, 0.125)
    """

    suffix: ClassVar = "W"
    weight_decay: Any

    def __post_init__(self):
        check("weight_decay", self.weight_decay, "[0, inf)")

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, lr, effective_lr):
        return self.weight_decay * lr


@dataclass(frozen=True)
class Stable:
    """Stable decay: R = λη_eff, λ times the effective learning rate of the direction.

    Examples
    --------
    R = λη_eff, which at momentum ¾ is four times λη = ½·¼:

    >>> from swd_dynamics.rules import HeavyBall, UpdateRule
    >>> rule = UpdateRule(0.25, HeavyBall(0.75), Stable(0.5))
    >>> parts = rule.parts(rule.start(1.0), gradient=0.0)
    >>> parts.step.gradient, parts.decay_rate
    (0.0, 0.5)
    """

    suffix: ClassVar = "S"
    weight_decay: Any

    def __post_init__(self):
        check("weight_decay", self.weight_decay, "[0, inf)")

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, lr, effective_lr):
        return self.weight_decay * effective_lr()


ABOUT = """Where weight decay enters a step: the four modes by name.

UpdateRule(0.1, SGD(), DECAYS["stable"](weight_decay=0.05)), or DECAYS.stable(weight_decay=0.05), sets the mode.
"""

DECAYS: Table[Any] = Table("decay", ABOUT, none=NoDecay, L2=L2, decoupled=Decoupled, stable=Stable)
