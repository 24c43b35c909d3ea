"""Where weight decay enters a step. The four modes stand under one another, because side by side they are the content.

===========  =====================  ==============================  =====================================
mode         added to the gradient  fraction of θ taken off         Source
===========  =====================  ==============================  =====================================
none         0                      0
L2           λθ                     0                               the gradient of ½λ‖θ‖²
decoupled    0                      λη                              Loshchilov & Hutter 2019, 1711.05101
stable       0                      λη_eff                          Xie, Sato & Sugiyama 2020, 2011.11152
===========  =====================  ==============================  =====================================
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from swd_dynamics.checks import check
from swd_dynamics.tables import Table


class Decay(Protocol):
    """A decay mode: what it adds to the gradient, and the fraction R of the weights a step takes off.

    ``effective_lr`` is called without arguments, and only by a mode that needs the direction's η_eff.

    Examples
    --------
    Independent decay, which takes the same fraction R off whatever the learning rate is:

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
    """No decay: the weights feel the gradient alone.

    Examples
    --------
    Nothing joins the gradient, and nothing is taken off:

    >>> from swd_dynamics.rules import HeavyBall, UpdateRule
    >>> rule = UpdateRule(0.25, HeavyBall(0.75), NoDecay())
    >>> parts = rule.parts(rule.start(1.0), gradient=0.0)
    >>> parts.step.gradient, parts.decay_rate
    (0.0, 0)
    """

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, lr, effective_lr):
        return 0


@dataclass(frozen=True)
class L2:
    """L2 regularisation: λθ joins the gradient, and goes through momentum and preconditioner with it.

    Examples
    --------
    λθ = ½ joins a gradient of 0; nothing is taken off directly:

    >>> from swd_dynamics.rules import HeavyBall, UpdateRule
    >>> rule = UpdateRule(0.25, HeavyBall(0.75), L2(0.5))
    >>> parts = rule.parts(rule.start(1.0), gradient=0.0)
    >>> parts.step.gradient, parts.decay_rate
    (0.5, 0)
    """

    weight_decay: Any

    def __post_init__(self):
        check("weight_decay", self.weight_decay, "[0, inf)")

    def added_gradient(self, theta):
        return self.weight_decay * theta

    def decay_rate(self, lr, effective_lr):
        return 0


@dataclass(frozen=True)
class Decoupled:
    """Decoupled decay: λ times the learning rate comes off, whatever the direction does with it.

    Examples
    --------
    R = λη = ½·¼, whatever the momentum:

    >>> from swd_dynamics.rules import HeavyBall, UpdateRule
    >>> rule = UpdateRule(0.25, HeavyBall(0.75), Decoupled(0.5))
    >>> parts = rule.parts(rule.start(1.0), gradient=0.0)
    >>> parts.step.gradient, parts.decay_rate
    (0.0, 0.125)
    """

    weight_decay: Any

    def __post_init__(self):
        check("weight_decay", self.weight_decay, "[0, inf)")

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, lr, effective_lr):
        return self.weight_decay * lr


@dataclass(frozen=True)
class Stable:
    """Stable decay: λ times the direction's own effective learning rate comes off.

    Examples
    --------
    R = λη_eff, at momentum ¾ four times λη = ½·¼:

    >>> from swd_dynamics.rules import HeavyBall, UpdateRule
    >>> rule = UpdateRule(0.25, HeavyBall(0.75), Stable(0.5))
    >>> parts = rule.parts(rule.start(1.0), gradient=0.0)
    >>> parts.step.gradient, parts.decay_rate
    (0.0, 0.5)
    """

    weight_decay: Any

    def __post_init__(self):
        check("weight_decay", self.weight_decay, "[0, inf)")

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, lr, effective_lr):
        return self.weight_decay * effective_lr()


DECAYS = Table("decay", none=NoDecay, L2=L2, decoupled=Decoupled, stable=Stable)
