"""A direction that needs the shapes of tensors, over weights that are one vector."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from swd_dynamics.arithmetic import Tensors
from swd_dynamics.errors import InputError
from swd_dynamics.rules.direction import effective_lr_by_weight
from swd_dynamics.rules.update import UpdateRule

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Shaped:
    """A direction of tensors as a direction of the vector of all their weights, tensor after tensor.

    direction : Direction
    shapes : tuple of tuple of int — the shape of each tensor

    Examples
    --------
    A direction that divides each tensor by its own norm:

    >>> from swd_dynamics.arithmetic import each, norm
    >>> from swd_dynamics.rules import SGD
    >>> class Normed(SGD):
    ...     def move(self, memory, step):
    ...         return each(lambda g: g / norm(g), step.gradient)
    >>> rule = UpdateRule(1.0, Shaped(Normed(), ((2,), (1, 1))))
    >>> rule(rule.start(np.zeros(3)), np.array([3.0, 4.0, 5.0])).theta.tolist()
    [-0.6, -0.8, -1.0]
    """

    direction: Any
    shapes: tuple[Shape, ...]

    def rest(self, theta):
        return self._flat_memory(self.direction.rest(self._split(theta)))

    def remember(self, memory, step):
        return self._flat_memory(self.direction.remember(self._split_memory(memory), self._step(step)))

    def move(self, memory, step):
        return self._flat(self.direction.move(self._split_memory(memory), self._step(step)))

    def effective_lr(self, memory, step):
        return self._flat(self.direction.effective_lr(self._split_memory(memory), self._step(step)))

    def effective_lr_by_weight(self, memory, step):
        return self._flat(effective_lr_by_weight(self.direction, self._split_memory(memory), self._step(step)))

    def _step(self, step):
        return type(step)(*map(self._split, step))

    def _split_memory(self, memory):
        return type(memory)(*map(self._split, memory))

    def _flat_memory(self, memory):
        return type(memory)(*map(self._flat, memory))

    def _split(self, value):
        """The tensors of a vector of all weights; a number as it is."""
        if np.ndim(value) == 0:
            return value
        sizes = [prod(shape) for shape in self.shapes]
        if np.shape(value) != (sum(sizes),):
            raise InputError(f"a vector of all weights has {sum(sizes)} entries here, not shape {np.shape(value)}")
        ends = np.cumsum(sizes)[:-1]
        pieces = np.split(np.asarray(value), ends)
        return Tensors(piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True))

    def _flat(self, value):
        """The vector of all weights of tensors, of which a tensor may be one number for all its weights."""
        if not isinstance(value, Tensors):
            return value
        pairs = zip(value, self.shapes, strict=True)
        return np.concatenate([np.broadcast_to(tensor, shape).ravel() for tensor, shape in pairs])


def is_by_tensor(rule: UpdateRule) -> bool:
    """Whether a step of the rule depends on the shapes of the tensors.

    Examples
    --------
    >>> from swd_dynamics.rules import Adam, Muon
    >>> is_by_tensor(UpdateRule(0.1, Muon())), is_by_tensor(UpdateRule(0.1, Adam()))
    (True, False)
    """
    return getattr(rule.direction, "by_tensor", False)


def shaped(rule: UpdateRule, shapes: tuple[Shape, ...]) -> UpdateRule:
    """The rule over the vector of all weights; a rule whose direction does not look at shapes as it is.

    Examples
    --------
    >>> from swd_dynamics.rules import HeavyBall, Muon
    >>> shaped(UpdateRule(0.1, HeavyBall(0.9)), ((2, 2),)).direction
    HeavyBall(momentum=0.9, dampening=0.0)
    >>> shaped(UpdateRule(0.1, Muon()), ((2, 2),)).direction.shapes
    ((2, 2),)
    """
    return replace(rule, direction=Shaped(rule.direction, shapes)) if is_by_tensor(rule) else rule
