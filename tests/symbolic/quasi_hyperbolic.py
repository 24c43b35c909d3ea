"""Quasi-hyperbolic momentum with fields of its own names, beta and nu. Source: Ma & Yarats 2019, arXiv 1810.06801."""

from dataclasses import dataclass
from typing import Any, NamedTuple


class Buffer(NamedTuple):
    m: Any


@dataclass(frozen=True)
class QuasiHyperbolic:
    """The fraction ν of the move is an average of gradients, and the rest is the gradient itself."""

    beta: Any
    nu: Any

    def rest(self, theta):
        return Buffer(0 * theta)

    def remember(self, memory, step):
        return Buffer(self.beta * memory.m + (1 - self.beta) * step.gradient)

    def move(self, memory, step):
        return (1 - self.nu) * step.gradient + self.nu * memory.m

    def effective_lr(self, memory, step):
        return step.lr
