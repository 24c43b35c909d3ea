"""Arguments that give no phase plane are refused, with the reason."""

from dataclasses import dataclass

import numpy as np
import pytest

from swd_dynamics.errors import InputError
from swd_dynamics.flows import Flow
from swd_dynamics.planes import phase_plane
from swd_dynamics.rules import CATALOG, SGD, Cosine, HeavyBall, UpdateRule


@dataclass(frozen=True)
class TwoMemories:
    """A direction that remembers two numbers for each weight."""

    def rest(self, theta):
        return (0 * theta, 0 * theta)

    def remember(self, memory, step):
        return memory

    def move(self, memory, step):
        return step.gradient

    def effective_lr(self, memory, step):
        return step.lr


RULE = UpdateRule(0.1, SGD())
MOMENTUM = CATALOG["SGD"](lr=0.1, momentum=0.9)


def gradient(theta):
    return np.array([3.0, 1.0]) * theta


def one_weight(theta):
    return 3.0 * theta


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: phase_plane(RULE, gradient, start=(1, 2, 3), steps=1), "3 numbers, and a point of the plane has 2"),
        (lambda: phase_plane(RULE, gradient, start=(1, np.nan), steps=1), "finite"),
        (lambda: phase_plane(RULE, gradient, start="here", steps=1), "not made of numbers"),
        (lambda: phase_plane(RULE, gradient, start=(1, 2)), "neither steps nor t is given"),
        (lambda: phase_plane(RULE, gradient, start=(1, 2), steps=3, t=1.0), "both steps and t are given"),
        (lambda: phase_plane(lambda x, y: (x, y), start=(1, 1)), "t is not given"),
        (lambda: phase_plane(RULE, gradient, x=(2, -2)), "the first number must be the smaller"),
        (lambda: phase_plane(RULE, gradient, y=(0, np.inf)), "both finite"),
        (lambda: phase_plane(RULE, gradient, y=3), "is not a range"),
        (lambda: phase_plane(RULE, gradient, nodes=3), "nodes = 3"),
        (lambda: phase_plane(RULE), "needs the gradient"),
        (lambda: phase_plane(RULE, 5), "gradient = 5 is not a function"),
        (lambda: phase_plane(RULE, lambda: 0), "gradient.theta. failed"),
        (lambda: phase_plane(RULE, lambda theta: np.zeros(5)), "give origin and directions"),
        (lambda: phase_plane(Flow(RULE, gradient), gradient), "a Flow has its own"),
        (lambda: phase_plane(5), "is not a field"),
        (lambda: phase_plane(lambda x: x), "function .* failed"),
        (lambda: phase_plane(lambda x, y: x), "it must give two numbers"),
        (lambda: phase_plane(lambda x, y: (np.nan, y)), "defined nowhere"),
        (lambda: phase_plane(lambda x, y: (x, y), start=(1, 1), steps=3), "has no steps"),
        (lambda: phase_plane(lambda x, y: (x, y), start=(1, 1), t=-3), "t = -3"),
        (lambda: phase_plane(lambda x, y: (x, y), start=(1, 1), t=3, iterates_of={"a": RULE}), "has none"),
        (
            lambda: phase_plane(RULE, gradient, start=(1, 1), steps=3, iterates_of={"a": SGD()}),
            "iterates_of.'a'. = SGD",
        ),
        (lambda: phase_plane(RULE, gradient, origin=np.zeros(3)), "belong together"),
        (lambda: phase_plane(RULE, gradient, directions="leading"), "belong together"),
        (lambda: phase_plane(RULE, gradient, origin=[1.0], directions="leading"), "at least two weights"),
        (lambda: phase_plane(RULE, gradient, origin=np.zeros(2), directions="steepest"), "'leading'"),
        (lambda: phase_plane(RULE, gradient, origin=np.zeros(2), directions=[(1, 2, 3)] * 2), "2 finite numbers"),
        (lambda: phase_plane(RULE, gradient, origin=np.zeros(2), directions=[(1, 2), (1,)]), "same length"),
        (lambda: phase_plane(RULE, gradient, origin=np.zeros(2), directions=[(1, 2), (2, 4)]), "parallel"),
        (
            lambda: phase_plane(Flow(RULE, one_weight, order="state"), origin=np.zeros(2), directions=[(1, 0), (0, 1)]),
            "remembers 0 numbers",
        ),
        (lambda: phase_plane(Flow(UpdateRule(0.1, TwoMemories()), one_weight, order="state")), "remembers 2 numbers"),
        (
            lambda: phase_plane(Flow(UpdateRule(Cosine(0.1, 9), HeavyBall(0.9)), one_weight, order="state")),
            "under a schedule",
        ),
        (
            lambda: phase_plane(Flow(MOMENTUM, one_weight, order="state"), origin=np.zeros(2), directions=np.eye(2)),
            "a slice is one of weights",
        ),
    ],
)
def test_bad_input(make, said):
    """Assert that arguments that give no phase plane are refused with the reason."""
    with pytest.raises(InputError, match=said):
        make()
