"""How far rounding alone may move a step, measured by shaking the last digits of a rule's numbers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from math import nextafter
from typing import Any

import numpy as np

from swd_dynamics.crosscheck.near_rules import AlteredRule
from swd_dynamics.crosscheck.stepping import ROUND_OFFS, allowed_departure, own_steps, relative
from swd_dynamics.errors import InputError
from swd_dynamics.rules.direction import Direction, effective_lr_by_weight

DOUBLE_EPS = float(np.finfo(float).eps)


def allowed_round_off(
    rule: AlteredRule,
    theta: np.ndarray,
    gradients: np.ndarray,
    own: Sequence[np.ndarray],
    departure: np.ndarray,
) -> np.ndarray:
    """How far two ways of computing a rule's steps in float64 may differ, relative to ‖θ‖.

    The limit is 8·eps·√k, as in a replay. Where a rule is ill-conditioned it is more, as 1 − βᵏ has few good digits if
    β is close to 1: eight times the change of a step whose betas, memory and gradient are off by one unit in the last
    place. If that does not suffice, it is eight times the round-off of the rule itself, which is its difference to the
    same rule in extended precision (where the machine has extended precision).

    Parameters
    ----------
    theta : array, shape (steps + 1, n)
    gradients : array, shape (steps, n)
    own : sequence of array
        The rule's own steps with these gradients, in float64.
    departure : array, shape (steps,)
        How far they are from θ, relative to ‖θ‖.

    Returns
    -------
    array, shape (steps,)
    """
    shaken = rule.with_direction(Shaken(one_ulp_lower(rule.rule.direction), np.random.default_rng(0)))
    lost = _differences(own, own_steps(shaken, theta, gradients), theta)
    allowed = np.maximum(allowed_departure(len(gradients), DOUBLE_EPS), ROUND_OFFS * lost)
    if (departure <= allowed).all():
        return allowed
    return np.maximum(allowed, ROUND_OFFS * _differences(own, _extended_steps(rule, theta, gradients, own), theta))


def _differences(own: Sequence[np.ndarray], others: Iterable[np.ndarray], theta: np.ndarray) -> np.ndarray:
    """The difference of each pair of steps, relative to ‖θ‖; 0 where it is not finite."""
    pairs = zip(own, others, strict=True)
    found = np.array([relative(one, other, theta, k) for k, (one, other) in enumerate(pairs)])
    return np.where(np.isfinite(found), found, 0.0)


def _extended_steps(
    rule: AlteredRule, theta: np.ndarray, gradients: np.ndarray, own: Sequence[np.ndarray]
) -> Sequence[np.ndarray]:
    """The rule's steps in extended precision; its ``own`` in float64 if its direction computes with float64 alone."""
    try:
        extended = rule.with_direction(with_numbers(rule.rule.direction, np.longdouble))
        steps = own_steps(extended, theta.astype(np.longdouble), gradients.astype(np.longdouble))
        return [after.astype(float) for after in steps]
    except (InputError, TypeError, ValueError):  # as numpy's linear algebra raises
        return own


@dataclass(frozen=True)
class Shaken:
    """A direction whose gradient and memory are off by one unit in the last place, up or down.

    A running mean may be computed as m + (1 − β)(g − m), so the unit is that of the larger of m and g. A number that is
    exactly 0 stays 0, since in a sign a last digit would become a whole step.
    """

    direction: Direction
    random: np.random.Generator

    def rest(self, theta):
        return self.direction.rest(theta)

    def remember(self, memory, step):
        off = self._off(step.gradient, getattr(memory, "m", 0.0))
        new = self.direction.remember(memory, step._replace(gradient=off))
        return type(new)(*(self._off(after, before) for before, after in zip(memory, new, strict=True)))

    def move(self, memory, step):
        return self.direction.move(memory, step._replace(gradient=self._off(step.gradient, step.gradient)))

    def effective_lr(self, memory, step):
        return self.direction.effective_lr(memory, step)

    def effective_lr_by_weight(self, memory, step):
        return effective_lr_by_weight(self.direction, memory, step)

    def _off(self, value, before):
        unit = DOUBLE_EPS * np.maximum(np.abs(value), np.abs(before))
        moved = value + unit * self.random.choice([-1.0, 1.0], size=np.shape(unit))
        signed = np.where(value >= 0, np.abs(moved), moved)  # a square stays positive
        return np.where(value == 0, 0.0, signed)


def one_ulp_lower(direction: Any) -> Any:
    """The direction with its numbers between 0 and 1 lower by one unit in the last place.

    A direction that is not a dataclass is returned unchanged.

    Examples
    --------
    >>> from swd_dynamics.rules import HeavyBall
    >>> one_ulp_lower(HeavyBall(0.9)).momentum
    0.8999999999999999
    """

    return with_numbers(direction, lambda value: nextafter(value, 0.0) if 0 < value < 1 else value)


def with_numbers(direction: Any, change: Callable[[float], Any]) -> Any:
    """The direction with each of its floating-point numbers changed; an object that is not a dataclass unchanged."""

    def changed(value):
        if isinstance(value, tuple):
            return tuple(map(changed, value))
        if is_dataclass(value) and not isinstance(value, type):
            return with_numbers(value, change)
        return change(value) if isinstance(value, float) else value

    if not is_dataclass(direction) or isinstance(direction, type):
        return direction
    return replace(direction, **{field.name: changed(getattr(direction, field.name)) for field in fields(direction)})
