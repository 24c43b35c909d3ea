"""A user's own direction, the worked example: nothing in the package knows of it, and all of it works on it."""

from dataclasses import dataclass
from typing import Any, NamedTuple


class Buffers(NamedTuple):
    """One momentum buffer for each β."""

    m_1: Any
    m_2: Any


@dataclass(frozen=True)
class AggregatedMomentum:
    """Aggregated momentum with two buffers: mᵢ ← βᵢmᵢ + g, move ½(m₁ + m₂), η_eff = η·½(1/(1−β₁) + 1/(1−β₂)).

    Source: Lucas, Sun, Zemel & Grosse 2019, 1804.00325.

    Examples
    --------
    >>> from swd_dynamics.rules import Stable, UpdateRule
    >>> rule = UpdateRule(0.125, AggregatedMomentum(0.5, 0.75), Stable(0.0625))
    >>> rule.parts(rule.start(1.0), 1.0).decay_rate  # 1/16 · 1/8 · ½(2 + 4)
    0.0234375
    """

    beta_1: Any
    beta_2: Any

    def rest(self, theta):
        return Buffers(0 * theta, 0 * theta)

    def remember(self, memory, step):
        return Buffers(self.beta_1 * memory.m_1 + step.gradient, self.beta_2 * memory.m_2 + step.gradient)

    def move(self, memory, step):
        return (memory.m_1 + memory.m_2) / 2

    def effective_lr(self, memory, step):
        return step.lr * (1 / (1 - self.beta_1) + 1 / (1 - self.beta_2)) / 2
