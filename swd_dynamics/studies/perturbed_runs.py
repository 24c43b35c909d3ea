"""Torch runs that differ in one gradient, under several schedules and decays, and the weights derived for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import sympy
import torch
from numpy.typing import NDArray

from swd_dynamics.rules import Constant, Cosine, Linear, UpdateRule
from swd_dynamics.studies.methods import Method, family
from swd_dynamics.studies.training import begin_late
from swd_dynamics.symbolic import NotDerivable, equal_memory, gradient_weights, notation

LR = 0.1  # η, the largest learning rate
BETA, HELD, STILL = 0.9, 0.25, 1 - 2.0**-40  # of momentum; Adam's v; and the β₂ that keeps v there, to 1e-9 in a run
# ΣR of a run with constant η: ληT with decoupled decay. With momentum three of them are tried.
TOTALS, FEW = (0.1, 0.5, 2.0, 3.5, 5.0, 10.0, 20.0, 50.0), (0.5, 5.0, 50.0)
MODES = ("L2", "decoupled", "stable", "independent", "corrected")
SCHEDULES: dict[str, Callable[[int], Any]] = {
    "constant": lambda steps: Constant(LR),
    "linear": lambda steps: Linear(LR, steps),
    "cosine": lambda steps: Cosine(LR, steps),
}
EQUAL = "equal memory"
DIRECTIONS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "SGD": ("SGD", ("decoupled", "corrected"), {}),  # without momentum L2 and stable decay are decoupled decay
    "heavy ball": ("SGD", MODES, {"momentum": BETA}),
    "Adam": ("Adam", MODES, {"betas": (BETA, STILL), "eps": 0.0}),
}


class GradientWeights(NamedTuple):
    """How much gradients count in the final weights: by rule and by torch, for each ΣR (rows) and some steps."""

    direction: str
    mode: str
    schedule: str
    steps: int
    probed: NDArray
    derived: NDArray
    measured: NDArray

    def row(self, total: float) -> int:
        """The row of a ληT."""
        return TOTALS.index(total)

    @property
    def error(self) -> float:
        """The largest difference, relative to the largest weight of the run."""
        scale = np.abs(self.derived).max(axis=1, keepdims=True)
        return float(np.abs((self.measured - self.derived) / scale).max())


@dataclass(frozen=True)
class Case:
    """A method with a schedule and a number of steps, with several λ."""

    direction: str
    mode: str
    schedule: str
    steps: int

    @property
    def totals(self) -> tuple[float, ...]:
        """The ΣR that are tried."""
        return TOTALS if self.direction == "SGD" else FEW

    def method(self, total: float) -> Method:
        """The method whose R is about ΣR/T where η is constant."""
        name, _, arguments = DIRECTIONS[self.direction]
        decay = total / self.steps / (1 if self.mode == "independent" else LR)
        if self.mode in ("L2", "stable"):  # R = λη_eff
            decay *= {"SGD": 1.0, "heavy ball": 1 - BETA, "Adam": HELD**0.5}[self.direction]
        (found,) = family(name, (self.mode,), **arguments, weight_decay=decay)
        return found

    def rule(self, total: float) -> UpdateRule:
        """The rule with its schedule."""
        method = self.method(total)
        if self.schedule in SCHEDULES:
            return rule_under(method, SCHEDULES[self.schedule](self.steps))
        return rule_under(method, equal_schedule(method))

    def memory(self, probed: NDArray) -> GradientWeights:
        """The weights of some gradients, derived and measured."""
        rules = {total: self.rule(total) for total in self.totals}
        frozen = {"v": HELD} if self.direction == "Adam" else {}
        derived = [gradient_weights(rule, self.steps, **frozen)[probed] for rule in rules.values()]
        found = [self.method(total) for total in self.totals]
        seen = perturbed(found, [rule.lr_at for rule in rules.values()], self.steps, probed)
        return GradientWeights(self.direction, self.mode, self.schedule, self.steps, probed, np.array(derived), seen)


def rule_under(method: Method, schedule: Callable[[int], float]) -> UpdateRule:
    """The rule of a method with a schedule whose largest learning rate is LR."""
    largest = {"lr_max": LR} if method.mode in ("independent", "corrected") else {}
    return method.rule(lr=schedule, **largest)


def equal_schedule(method: Method) -> Callable[[int], float]:
    """The schedule that is derived from a rule, with which every update counts the same."""
    largest = {"lr_max": LR} if method.mode in ("independent", "corrected") else {}
    derived = equal_memory(method.rule(lr=LR, **largest))
    held = notation.PerWeight("v", positive=True)
    formula = derived.value.subs({notation.mean(held): HELD, held: HELD})
    if "η_k" in derived.results:
        return sympy.lambdify(notation.k, formula, "math")
    raise NotDerivable("the schedule of equal memory has no closed form")


def perturbed(methods: list[Method], schedules: list[Callable[[int], float]], steps: int, probed: NDArray) -> NDArray:
    """How far torch's final weights move for a 1 that is added to one gradient; shape (methods, probed).

    All methods are one optimizer with different λ. A parameter group has a run in each weight: all get the same
    gradients, but weight i gets 1 more at step probed[i]. The last weight gets no more and is what the others are
    compared with.
    """
    runs = [torch.zeros(len(probed) + 1, dtype=torch.float64, requires_grad=True) for _ in methods]
    plain = Method(methods[0].name, methods[0].arguments | {"weight_decay": 0.0})
    optimizer = plain.optimizer([{"params": [run]} for run in runs], lr=LR)
    for group, method in zip(optimizer.param_groups, methods, strict=True):
        group["weight_decay"] = method.arguments["weight_decay"]
    if "betas" in plain.arguments:
        count = sum(run.numel() for run in runs)
        begin_late(getattr(optimizer, "inner", optimizer), {"m": np.zeros(count), "v": np.full(count, HELD)})
    noise = np.random.default_rng(0).standard_normal(steps)
    at = {int(step): i for i, step in enumerate(probed)}
    for k in range(steps):
        gradient = torch.full((len(probed) + 1,), noise[k], dtype=torch.float64)
        if k in at:
            gradient[at[k]] += 1
        for run, group, schedule in zip(runs, optimizer.param_groups, schedules, strict=True):
            run.grad, group["lr"] = gradient.clone(), float(schedule(k))
        optimizer.step()
    return np.array([(run[-1] - run[:-1]).detach().numpy() for run in runs])
