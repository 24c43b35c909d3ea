"""How far rounding alone may move a step, measured by shaking the last digits of a rule's numbers."""

from dataclasses import dataclass, fields, is_dataclass, replace
from math import nextafter
from typing import Any

import numpy as np

from swd_dynamics.crosscheck.replay import ROUND_OFFS, allowed_departure, own_steps, relative
from swd_dynamics.rules.direction import Direction
from swd_dynamics.verification.near_rules import AlteredRule

DOUBLE_EPS = float(np.finfo(float).eps)


def allowed_round_off(rule: AlteredRule, theta: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """How far two ways of computing a rule's steps in float64 may differ, relative to ‖θ‖.

    The limit is 8·eps·√k, as in a replay. Where a rule is ill-conditioned it is more, as 1 − βᵏ has few good digits if
    β is close to 1: eight times the change of a step whose betas, memory and gradient are off by one unit in the last
    place.

    Parameters
    ----------
    theta : array, shape (steps + 1, n)
    gradients : array, shape (steps, n)

    Returns
    -------
    array, shape (steps,)
    """
    shaken = rule.with_direction(Shaken(one_ulp_lower(rule.rule.direction), np.random.default_rng(0)))
    pairs = zip(own_steps(rule, theta, gradients), own_steps(shaken, theta, gradients), strict=True)
    lost = np.array([relative(one, other, theta, k) for k, (one, other) in enumerate(pairs)])
    return np.maximum(
        allowed_departure(len(gradients), DOUBLE_EPS), ROUND_OFFS * np.where(np.isfinite(lost), lost, 0.0)
    )


@dataclass(frozen=True)
class Shaken:
    """A direction whose gradient and memory are off by one unit in the last place, up or down.

    A running mean may be computed as m + (1 − β)(g − m), so the unit is that of the larger of m and g.
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

    def _off(self, value, before):
        unit = DOUBLE_EPS * np.maximum(np.abs(value), np.abs(before))
        moved = value + unit * self.random.choice([-1.0, 1.0], size=np.shape(unit))
        return np.where(value >= 0, np.abs(moved), moved)  # a square stays positive


def one_ulp_lower(direction: Any) -> Any:
    """The direction with its numbers between 0 and 1 lower by one unit in the last place.

    A direction that is not a dataclass is returned unchanged.

    Examples
    --------
    >>> from swd_dynamics.rules import HeavyBall
    >>> one_ulp_lower(HeavyBall(0.9)).momentum
    0.8999999999999999
    """

    def lower(value):
        if isinstance(value, tuple):
            return tuple(map(lower, value))
        return nextafter(value, 0.0) if isinstance(value, float) and 0 < value < 1 else value

    if not is_dataclass(direction) or isinstance(direction, type):
        return direction
    return replace(direction, **{field.name: lower(getattr(direction, field.name)) for field in fields(direction)})
