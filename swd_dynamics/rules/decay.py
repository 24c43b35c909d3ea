"""Where weight decay enters a step: eight modes, side by side.

==============  ==============  =====================  ==============================  =================================
mode            suffix          added to the gradient  R, subtracted from θ            Source
==============  ==============  =====================  ==============================  =================================
none                            0                      0
L2                              λθ                     0                               the gradient of ½λ‖θ‖²
decoupled       W               0                      λη                              Loshchilov & Hutter 2019,
                                                                                       1711.05101
stable          S               0                      λη_eff                          Xie, Sato & Sugiyama 2020,
                                                                                       2011.11152
independent     Independent     0                      λη/η_max, or λ                  Wortsman et al. 2023, 2309.14322
corrected       C               0                      λη²/η_max                       Defazio 2025, 2506.02285
cautious        Cautious        0                      λη where θ·u ≥ 0, else 0        Chen et al. 2025, 2510.12402
preconditioned  Preconditioned  0                      λη_eff of each weight           Hwang 2024, 2405.12807
==============  ==============  =====================  ==============================  =================================

A step subtracts the fraction R of θ; u is the direction's move. The suffix ends an optimizer's name in the catalogue:
Adam, AdamW, AdamS, AdamC. The first four modes are in the catalogue for every direction, the others for SGD and Adam.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from swd_dynamics.arithmetic import heaviside
from swd_dynamics.checks import check_argument
from swd_dynamics.tables import Table


@dataclass(frozen=True)
class DecayStep:
    """What a decay mode sees of a step, once the direction has its new memory.

    Attributes
    ----------
    theta : θ, the weights before the step
    lr : η, the learning rate of this step
    k : the number of the step, from 1
    effective_lr : callable () → η_eff, one number for all weights, or one for each tensor
    effective_lr_by_weight : callable () → η_eff of each weight, like ``theta``
    move : callable () → u, like ``theta``; the step subtracts ηu besides Rθ

    What is a function is computed only if R needs it.

    Examples
    --------
    >>> seen = DecayStep(theta=8.0, lr=0.5, k=1, effective_lr=lambda: 2.0)
    >>> Stable(0.25).decay_rate(seen)
    0.5
    """

    theta: Any
    lr: Any
    k: Any
    effective_lr: Callable[[], Any]
    effective_lr_by_weight: Callable[[], Any] = lambda: None
    move: Callable[[], Any] = lambda: None


class Decay(Protocol):
    """The contract of a decay mode. Any object with these two methods is one.

    1. ``added_gradient(theta)`` returns what is added to the gradient of the loss before the direction gets it.
    2. ``decay_rate(step)`` returns R, the fraction of the weights that a step subtracts: one number, or one for each
       weight. ``step`` is a :class:`DecayStep`.
    3. Both use only ``+ - * /`` and the functions of :mod:`swd_dynamics.arithmetic`, as a direction does.

    A mode in ``DECAYS`` also has a ``suffix``, with which it enters the catalogue; None keeps it out. ``directions``
    are the names of the directions for which it is in the catalogue; without it, all of them.

    Examples
    --------
    A decay that acts on large weights only:

    >>> from dataclasses import dataclass
    >>> from swd_dynamics.arithmetic import absolute
    >>> @dataclass(frozen=True)
    ... class OfLargeWeights:
    ...     weight_decay: float
    ...
    ...     def added_gradient(self, theta):
    ...         return 0
    ...
    ...     def decay_rate(self, step):
    ...         return self.weight_decay * step.lr * heaviside(absolute(step.theta) - 1)
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> rule = UpdateRule(lr=0.5, direction=SGD(), decay=OfLargeWeights(0.5))
    >>> rule(rule.start(8.0), 0.0).theta, rule(rule.start(0.5), 0.0).theta
    (6.0, 0.5)
    """

    def added_gradient(self, theta) -> Any: ...

    def decay_rate(self, step: DecayStep) -> Any: ...


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

    def decay_rate(self, step):
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
        check_argument("weight_decay", self.weight_decay, "[0, inf)")

    def added_gradient(self, theta):
        return self.weight_decay * theta

    def decay_rate(self, step):
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
        check_argument("weight_decay", self.weight_decay, "[0, inf)")

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, step):
        return self.weight_decay * step.lr


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
        check_argument("weight_decay", self.weight_decay, "[0, inf)")

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, step):
        return self.weight_decay * step.effective_lr()


@dataclass(frozen=True)
class Independent:
    """Independent decay: R = λη/η_max, which follows the schedule and not the size of the learning rate.

    Parameters
    ----------
    weight_decay : λ ≥ 0, the R of a step at the largest learning rate
    lr_max : η_max > 0, the largest learning rate of the schedule; None for R = λ in every step

    Both forms are called independent or fully decoupled decay: R = λη/η_max in MosaicML's Composer and in 2309.14322,
    R = λ as ``fixed_decay`` in pytorch_optimizer.

    Examples
    --------
    After the learning rate has fallen from ½ to ¼, half of λ is left:

    >>> from swd_dynamics.rules import SGD, StepDecay, UpdateRule
    >>> rule = UpdateRule(StepDecay(0.5, step_size=1, gamma=0.5), SGD(), Independent(0.25, lr_max=0.5))
    >>> first = rule.parts(rule.start(1.0), gradient=0.0)
    >>> first.decay_rate, rule.parts(first.state, gradient=0.0).decay_rate
    (0.25, 0.125)
    """

    suffix: ClassVar = "Independent"
    directions: ClassVar = ("SGD", "Adam")
    weight_decay: Any
    lr_max: Any = None

    def __post_init__(self):
        check_argument("weight_decay", self.weight_decay, "[0, inf)")
        if self.lr_max is not None:
            check_argument("lr_max", self.lr_max, "(0, inf)")

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, step):
        return self.weight_decay if self.lr_max is None else self.weight_decay * step.lr / self.lr_max


@dataclass(frozen=True)
class Corrected:
    """Corrected decay: R = λη²/η_max, so that R/η falls with the learning rate.

    In a layer that is normalised, ‖g‖/‖θ‖ at equilibrium is √(2λ/η) with decoupled decay, which grows as a schedule
    ends. With R ∝ η² it is constant.

    Parameters
    ----------
    weight_decay : λ ≥ 0, as that of decoupled decay at the largest learning rate
    lr_max : η_max > 0, the largest learning rate of the schedule; 1 for R = λη², as in PaLM (2204.02311)

    Source: Defazio 2025, 2506.02285, where Adam with it is called AdamC.

    Examples
    --------
    After the learning rate has fallen from ½ to ¼, a fourth of R is left:

    >>> from swd_dynamics.rules import SGD, StepDecay, UpdateRule
    >>> rule = UpdateRule(StepDecay(0.5, step_size=1, gamma=0.5), SGD(), Corrected(0.5, lr_max=0.5))
    >>> first = rule.parts(rule.start(1.0), gradient=0.0)
    >>> first.decay_rate, rule.parts(first.state, gradient=0.0).decay_rate
    (0.25, 0.0625)
    """

    suffix: ClassVar = "C"
    directions: ClassVar = ("SGD", "Adam")
    weight_decay: Any
    lr_max: Any

    def __post_init__(self):
        check_argument("weight_decay", self.weight_decay, "[0, inf)")
        check_argument("lr_max", self.lr_max, "(0, inf)")

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, step):
        return self.weight_decay * step.lr * step.lr / self.lr_max


@dataclass(frozen=True)
class Cautious:
    """Cautious decay: R = λη for a weight that the step moves towards 0 or not at all, and 0 for any other weight.

    Such a weight has θ·u ≥ 0, where u is the direction's move. So decay never opposes a step, and the weights rest
    where the loss alone is at rest.

    Source: Chen et al. 2025, 2510.12402.

    Examples
    --------
    The gradient moves the first weight away from 0, and the second one towards 0:

    >>> import numpy as np
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> rule = UpdateRule(0.5, SGD(), Cautious(0.5))
    >>> parts = rule.parts(rule.start(np.array([8.0, 8.0])), np.array([-2.0, 2.0]))
    >>> parts.decay_rate.tolist(), parts.state.theta.tolist()
    ([0.0, 0.25], [9.0, 5.0])
    """

    suffix: ClassVar = "Cautious"
    directions: ClassVar = ("SGD", "Adam")
    weight_decay: Any

    def __post_init__(self):
        check_argument("weight_decay", self.weight_decay, "[0, inf)")

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, step):
        return self.weight_decay * step.lr * heaviside(step.theta * step.move())


@dataclass(frozen=True)
class Preconditioned:
    """Preconditioned decay: R = λη_eff with the effective learning rate of each weight, stable decay by weight.

    For Adam R = λη/(√v̂ + ε). The weights then rest where g = −λθ, as with L2 and gradient descent. For a direction
    with one η_eff for all weights it is stable decay.

    Source: Hwang 2024, 2405.12807 (FAdam).

    Examples
    --------
    A weight with gradients of half the size decays twice as much:

    >>> import numpy as np
    >>> from swd_dynamics.rules import Adam, UpdateRule
    >>> rule = UpdateRule(0.25, Adam(eps=0.0), Preconditioned(0.5))
    >>> rule.parts(rule.start(np.ones(2)), np.array([1.0, 0.5])).decay_rate.round(12).tolist()
    [0.125, 0.25]
    """

    suffix: ClassVar = "Preconditioned"
    directions: ClassVar = ("Adam",)
    weight_decay: Any

    def __post_init__(self):
        check_argument("weight_decay", self.weight_decay, "[0, inf)")

    def added_gradient(self, theta):
        return 0

    def decay_rate(self, step):
        return self.weight_decay * step.effective_lr_by_weight()


ABOUT = """Where weight decay enters a step: the modes by name.

UpdateRule(0.1, SGD(), DECAYS["stable"](weight_decay=0.05)), or DECAYS.stable(weight_decay=0.05), sets the mode.
"""

DECAYS: Table[Any] = Table(
    "decay",
    ABOUT,
    none=NoDecay,
    L2=L2,
    decoupled=Decoupled,
    stable=Stable,
    independent=Independent,
    corrected=Corrected,
    cautious=Cautious,
    preconditioned=Preconditioned,
)


def mode_of(decay: Any) -> str | None:
    """The name in DECAYS of a decay, or of its class; None for a decay that is not in the table.

    Examples
    --------
    >>> mode_of(Stable(0.5)), mode_of(L2), mode_of("L2")
    ('stable', 'L2', None)
    """
    kind = decay if isinstance(decay, type) else type(decay)
    return next((mode for mode, known in DECAYS.items() if known is kind), None)
