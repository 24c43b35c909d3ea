"""A direction that breaks the contract: what is said about it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest

from swd_dynamics.rules import CATALOG, UpdateRule
from swd_dynamics.symbolic import NotDerivable, long_run_decay_rate, modified_equation


class Buffer(NamedTuple):
    m: Any


@dataclass(frozen=True)
class Momentum:
    """A direction that keeps the contract, to be broken in one place."""

    beta: Any

    def rest(self, theta):
        return Buffer(0 * theta)

    def remember(self, memory, step):
        return Buffer(self.beta * memory.m + step.gradient)

    def move(self, memory, step):
        return memory.m

    def effective_lr(self, memory, step):
        return step.lr / (1 - self.beta)


BREACHES = {
    "depends on the step number": {"move": lambda self, memory, step: memory.m / (1 - self.beta**step.k)},
    r"Broken.move cannot be read as a formula .*sqrt": {"move": lambda self, memory, step: np.sqrt(memory.m)},
    "no if on values": {"move": lambda self, memory, step: memory.m if step.k < 5 else step.gradient},
    "Broken.move reads grad, .* gradient": {"move": lambda self, memory, step: step.grad},
    "Broken.move reads v, .* has m": {"move": lambda self, memory, step: memory.v},
    "Broken.rest gave 0: a direction's memory is a NamedTuple": {"rest": lambda self, theta: 0},
    "Broken.remember gave None": {"remember": lambda self, memory, step: None},
}


@pytest.mark.parametrize("said", BREACHES)
def test_a_breach_is_named(said):
    """Assert that what sympy cannot read is named by method, with what a direction may use."""
    for name, method in BREACHES[said].items():
        method.__name__ = name
    broken = type("Broken", (Momentum,), dict(BREACHES[said]))
    with pytest.raises(NotDerivable, match=said):
        modified_equation(UpdateRule(0.1, broken(0.9)))


def test_an_oscillating_decay_says_so():
    """Assert that a complex long-run decay of L2 behind momentum is explained, and its small-decay limit shown."""
    derivation = long_run_decay_rate(CATALOG["SGD"](lr=0.1, momentum=0.9, weight_decay=0.1))
    assert derivation.value.is_real is False
    assert any("oscillates" in assumption for assumption in derivation.assumptions)
    assert any("first order in the decay" in step.done for step in derivation.steps)
