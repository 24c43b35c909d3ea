"""One step of any optimizer, written once. Given numbers it takes the step; given sympy symbols it is the formula."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from swd_dynamics.arithmetic import Tensors, is_symbolic
from swd_dynamics.checks import check_argument, shown
from swd_dynamics.errors import InputError
from swd_dynamics.rules.decay import Decay, DecayStep, NoDecay, mode_of
from swd_dynamics.rules.direction import Direction, Step, effective_lr_by_weight

FEW = 4  # numbers of an array that a rule prints; with a hundred, a rule fills a screen


class State(NamedTuple):
    """An optimizer after ``step`` steps: its weights and its memory.

    Attributes
    ----------
    theta : float, array or tensor, shape (n,) — all weights as one vector; or Tensors, each with its own shape
    memory : NamedTuple — the memory of the direction
    step : int — number of steps taken

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
    """The parts of one step: the direction's input, m′, R, the direction's move, and the state after the step."""

    step: Step
    memory: Any
    decay_rate: Any
    move: Any
    state: State


@dataclass(frozen=True)
class UpdateRule:
    """An optimizer as a map: a learning rate, a direction, and the place where weight decay enters.

    With k = ``state.step`` + 1::

        G  = g + decay.added_gradient(θ)
        m′ = direction.remember(m, step)            with step = (θ, G, η, k)
        u  = direction.move(m′, step)
        R  = decay.decay_rate(seen)                 with seen = (θ, η, k, η_eff, u), a DecayStep
        θ′ = (1 − R)·θ − ηu

    Parameters
    ----------
    lr : number, array of shape (n,), schedule or sympy symbol
        η > 0. A schedule is a function of the number of steps already taken (0 on the first step, as in torch).
        An array has a number for every weight, so that parameter groups are one rule over the flattened vector.
    direction : Direction
        What turns gradients into a move: any object with the four methods of
        :class:`~swd_dynamics.rules.direction.Direction`.
    decay : Decay
        One of the modes of :data:`~swd_dynamics.rules.decay.DECAYS`; its ``weight_decay`` may be an array too.

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
            check_argument("lr", self.lr, "(0, inf)")
        _check_methods("direction", self.direction, ("rest", "remember", "move", "effective_lr"))
        _check_methods("decay", self.decay, ("added_gradient", "decay_rate"))

    def __repr__(self) -> str:
        with np.printoptions(override_repr=_distinct):  # an array has a number for each of perhaps a million weights
            return f"UpdateRule(lr={self.lr!r}, direction={self.direction!r}, decay={self.decay!r})"

    @property
    def name(self) -> str:
        """Direction and decay in words, as "Adam with stable decay"."""
        return f"{type(self.direction).__name__} with {mode_of(self.decay) or type(self.decay).__name__} decay"

    @property
    def weight_decay(self) -> Any:
        """λ, the strength of the weight decay: 0 for a decay that has none."""
        return getattr(self.decay, "weight_decay", 0.0)

    @property
    def has_schedule(self) -> bool:
        """Whether the learning rate is a function of the step."""
        return callable(self.lr) and not isinstance(self.lr, type) and not is_symbolic(self.lr)

    def lr_at(self, k):
        """η of the step that follows k steps."""
        return self.lr(k) if self.has_schedule else self.lr

    def start(self, theta) -> State:
        """The state before the first step, from the weights given; a list or tuple of arrays becomes Tensors."""
        theta = _weights(theta)
        return State(theta, self.direction.rest(theta), 0)

    def __call__(self, state: State, gradient) -> State:
        """The state one step later.

        Parameters
        ----------
        state : State
        gradient : like ``state.theta``, or a list or tuple of arrays where θ is several tensors
            Gradient of the training loss at θ, without any decay.
        """
        return self.parts(state, gradient).state

    def parts(self, state: State, gradient) -> Parts:
        """The same step, with all of its parts."""
        if not isinstance(state, State):
            raise InputError(f"state = {shown(state)} is not a State: begin with rule.start(theta)")
        theta, lr = _weights(state.theta), self.lr_at(state.step)
        gradient = _weights(gradient) if isinstance(theta, Tensors) else gradient
        step = Step(theta, gradient + self.decay.added_gradient(theta), lr, state.step + 1)
        memory = self.direction.remember(state.memory, step)
        move = self.direction.move(memory, step)
        seen = DecayStep(
            theta,
            lr,
            step.k,
            effective_lr=lambda: self.direction.effective_lr(memory, step),
            effective_lr_by_weight=lambda: effective_lr_by_weight(self.direction, memory, step),
            move=lambda: move,
        )
        decay_rate = self.decay.decay_rate(seen)
        after = State((1 - decay_rate) * theta - lr * move, memory, step.k)
        return Parts(step, memory, decay_rate, move, after)


def _distinct(values: np.ndarray) -> str:
    """The distinct numbers of an array in the order in which they first occur, and how many weights have each.

    Examples
    --------
    >>> _distinct(np.array([0.1, 0.1, 0.1, 0.0, 0.0]))
    '[0.1 for 3, 0.0 for 2 weights]'
    """
    if values.size <= FEW:
        return f"array({values.tolist()})"
    counts = Counter(np.ravel(values).tolist())
    if len(counts) > FEW:
        return f"[{len(counts)} different numbers for {values.size} weights]"
    return f"[{', '.join(f'{value} for {n}' for value, n in counts.items())} weights]"


def _weights(values):
    return Tensors(values) if isinstance(values, list | tuple) else values


def _check_methods(role: str, candidate, methods: tuple[str, ...]) -> None:
    missing = [method for method in methods if not callable(getattr(candidate, method, None))]
    if isinstance(candidate, type) or missing:
        problem = "is a class, not an object: call it" if isinstance(candidate, type) else f"lacks {', '.join(missing)}"
        raise InputError(
            f"{shown(candidate)} cannot be a {role}: it {problem}; a {role} has the methods {', '.join(methods)}"
        )
