"""Runs under a schedule of the learning rate at the edge of stability: the methods, schedules and starts they share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from swd_dynamics.flows import CentralFlow
from swd_dynamics.rules import State
from swd_dynamics.studies.central_flow import NESTEROV, RATIO, SETTLED
from swd_dynamics.studies.methods import Method
from swd_dynamics.tasks import Task

BEFORE = 100  # steps of Adam at the first learning rate; after half of them it is not yet at the edge
SGD = {
    "SGD": Method("SGD", NESTEROV | {"weight_decay": 0.0}),
    "SGDS": Method("SGDS", NESTEROV | {"weight_decay": RATIO}),
}
PLAIN = {"lr": 5e-4, "betas": (0.0, 0.95), "eps": 1e-8}
ADAM = {
    "Adam": Method("AdamW", PLAIN | {"weight_decay": 0.0}),
    "AdamW": Method("AdamW", PLAIN | {"weight_decay": 0.2}),
    "AdamS": Method("AdamS", PLAIN | {"weight_decay": 4e-3}),
}


class Piece(NamedTuple):
    """Steps with a factor that multiplies η; it changes linearly from the first to the last."""

    steps: int
    first: float
    last: float


def factors(pieces: list[Piece]) -> np.ndarray:
    """What multiplies η in each step.

    Examples
    --------
    >>> factors([Piece(2, 1.0, 1.0), Piece(2, 1.0, 0.0)])
    array([1. , 1. , 1. , 0.5])
    """
    return np.concatenate(
        [piece.first + (piece.last - piece.first) * np.arange(piece.steps) / piece.steps for piece in pieces]
    )


class Start(NamedTuple):
    """The slow mean of the weights and of the memory at the edge, and a state of the rule there."""

    theta: np.ndarray
    memory: tuple[np.ndarray, ...]
    state: State


def start(task: Task, gradient: Callable, method: Method) -> Start:
    """A point at the edge of stability, with a settled oscillation."""
    flow = flow_of(gradient, method)
    before = flow.solve(task.theta, SETTLED)
    memory = tuple(entry[-1] for entry in before.memory)
    return Start(before.theta[-1], memory, flow.oscillating(before, SETTLED))


def flow_of(gradient: Callable, method: Method, lr: Any = None) -> CentralFlow:
    """The central flow of a method, at a learning rate or under a schedule that takes the place of its own."""
    return CentralFlow(method.rule(lr=method.arguments["lr"] if lr is None else lr), gradient, directions=2)
