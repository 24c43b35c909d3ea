"""One step of any optimizer, written once. Given numbers it takes the step; given sympy symbols it is the formula."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from swd_dynamics.arithmetic import is_symbolic
from swd_dynamics.checks import check
from swd_dynamics.errors import InputError
from swd_dynamics.rules.decay import DECAYS, Decay, NoDecay
from swd_dynamics.rules.direction import Direction


class State(NamedTuple):
    """Where an optimizer stands after ``step`` steps.

    theta : float, array or tensor, shape (n,) — all weights as one vector
    memory : NamedTuple — what the direction remembers
    step : int — steps taken

    Examples
    --------
    Momentum begins at 0:

    >>> from swd_dynamics.rules import HeavyBall
    >>> UpdateRule(0.1, HeavyBall(0.5)).start(1.0)
    State(theta=1.0, memory=Momentum(m=0.0), step=0)
    """

    theta: Any
    memory: Any
    step: Any


class Parts(NamedTuple):
    """A step taken apart: G, m′, R, the direction's step, and the state it leads to."""

    gradient: Any
    memory: Any
    decay_rate: Any
    direction: Any
    state: State


@dataclass(frozen=True)
class UpdateRule:
    """An optimizer as a map: a learning rate, a direction, and the place where weight decay enters.

    With k = ``state.step`` + 1::

        G  = g + decay.added_gradient(θ)
        m′ = direction.remember(m, G, k)
        R  = decay.decay_rate(η, η_eff)
        θ′ = (1 − R)·θ − η·direction.step(m′, G, k)

    Parameters
    ----------
    lr : number, array of shape (n,), schedule or sympy symbol
        η > 0. A schedule is a function of the number of steps already taken (0 on the first step, as in torch).
        An array gives every weight its own, so that parameter groups are one rule over the flattened vector.
    direction : Direction
        How gradients become a step: any object with the four methods of
        :class:`~swd_dynamics.rules.direction.Direction`.
    decay : Decay
        One of the four modes of :data:`~swd_dynamics.rules.decay.DECAYS`; its ``weight_decay`` may be an array too.

    Raises
    ------
    InputError
        If ``lr`` is not positive and finite, or the direction or the decay lacks a method.

    Examples
    --------
    Plain gradient descent with decoupled decay on f = ½θ², from θ = 1: θ′ = (1 − ηλ)θ − ηθ.

    >>> from swd_dynamics.rules import SGD, Decoupled
    >>> rule = UpdateRule(lr=0.25, direction=SGD(), decay=Decoupled(0.5))
    >>> rule(rule.start(1.0), 1.0).theta
    0.625
    """

    lr: Any
    direction: Direction
    decay: Decay = NoDecay()

    def __post_init__(self):
        if not self.has_schedule:
            check("lr", self.lr, "(0, inf)")
        _check_methods("direction", self.direction, ("rest", "remember", "step", "effective_lr"))
        _check_methods("decay", self.decay, ("added_gradient", "decay_rate"))

    @property
    def name(self) -> str:
        """Direction and decay in words, as "Adam with stable decay"."""
        kind: Any = type(self.decay)
        modes: dict[Any, str] = {decay: mode for mode, decay in DECAYS.items()}
        return f"{type(self.direction).__name__} with {modes.get(kind, kind.__name__)} decay"

    @property
    def weight_decay(self) -> Any:
        """λ, the strength of the weight decay: 0 for a decay that has none."""
        return getattr(self.decay, "weight_decay", 0.0)

    @property
    def has_schedule(self) -> bool:
        """Whether the learning rate is a function of the step."""
        return callable(self.lr) and not isinstance(self.lr, type) and not is_symbolic(self.lr)

    def lr_at(self, step):
        """η for the step that follows ``step`` steps."""
        return self.lr(step) if self.has_schedule else self.lr

    def start(self, theta) -> State:
        """The state before the first step: the weights given, the memory at rest."""
        return State(theta, self.direction.rest(theta), 0)

    def __call__(self, state: State, gradient) -> State:
        """The state one step later.

        Parameters
        ----------
        state : State
        gradient : like ``state.theta``
            Gradient of the training loss at θ, without any decay.
        """
        return self.parts(state, gradient).state

    def parts(self, state: State, gradient) -> Parts:
        """The same step, taken apart."""
        theta, step = state.theta, state.step + 1
        lr = self.lr_at(state.step)
        total = gradient + self.decay.added_gradient(theta)
        memory = self.direction.remember(state.memory, total, step)
        rate = self.decay.decay_rate(lr, lambda: self.direction.effective_lr(lr, memory, step))
        direction = self.direction.step(memory, total, step)
        return Parts(total, memory, rate, direction, State((1 - rate) * theta - lr * direction, memory, step))


def _check_methods(role: str, candidate, methods: tuple[str, ...]) -> None:
    missing = [method for method in methods if not callable(getattr(candidate, method, None))]
    if isinstance(candidate, type) or missing:
        problem = "is a class, not an object: call it" if isinstance(candidate, type) else f"lacks {', '.join(missing)}"
        raise InputError(
            f"{candidate!r} cannot be a {role}: it {problem}; a {role} has the methods {', '.join(methods)}"
        )
