"""Random optimizers on random losses, at learning rates that suit each, as a benchmark of the order test."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from swd_dynamics.rules import CATALOG, UpdateRule

FAMILIES = ("SGD", "Nesterov", "Adam", "AMSGrad", "Adai")


@dataclass(frozen=True)
class RandomProblem:
    """A rule, the loss ½(θ − c)ᵀA(θ − c) + ¼q·Σ(θ − c)⁴, a start, a time and five halvings of a learning rate.

    The largest learning rate is a random fraction of the time on which the rule's memory turns the flow, at which the
    modified equation ceases to make sense; the time covered is a random fraction of the loss's own time.
    """

    rule: UpdateRule
    hessian: np.ndarray
    quartic: float
    centre: np.ndarray
    start: np.ndarray
    t: float
    lrs: list[float]

    def gradient(self, theta):
        apart = theta - self.centre
        return self.hessian @ apart + self.quartic * apart**3

    def hvp(self, theta, vector):
        return self.hessian @ vector + 3 * self.quartic * (theta - self.centre) ** 2 * vector


def random_problem(seed: int) -> RandomProblem:
    """The problem of a seed; the seeds run through the families and the decays."""
    generator = np.random.default_rng(seed)
    family, suffix = FAMILIES[seed % len(FAMILIES)], ("", "W", "S")[seed // len(FAMILIES) % 3]
    n = int(generator.integers(1, 5))
    adaptive = family in ("Adam", "AMSGrad", "Adai")
    turned = np.linalg.qr(generator.normal(size=(n, n)))[0]
    mixed = turned @ np.diag(np.exp(generator.uniform(-1, 0, size=n))) @ turned.T
    diagonal = np.diag(np.diag(mixed))
    # An adaptive rule's flow has a kink where the gradient with what L2 adds to it passes through 0. With weak coupling
    # and a centre at 0 it does not, and a maximum of its square does not rise.
    scale = np.exp(generator.uniform(-2, 2))
    hessian = scale * (diagonal + (0.1 if adaptive else 1.0) * (mixed - diagonal))
    centre = generator.normal(size=n) * (not adaptive)
    apart = generator.uniform(0.8, 1.2, size=n) * generator.choice([-1, 1], size=n)
    quartic = scale * generator.uniform(0, 0.3)
    rule, memory = _random_rule(generator, family, suffix)
    curvature = float(np.linalg.eigvalsh(hessian)[-1] + 3 * quartic * np.abs(apart).max() ** 2)
    gradient = hessian @ apart + quartic * apart**3
    speed = {"SGD": 1 / (1 - memory), "Nesterov": 1 / (1 - memory)}.get(family, 1.0)
    if family in ("Adam", "AMSGrad"):
        speed = 1 / float(np.abs(gradient).min())
    t = generator.uniform(0.1, 0.5) / (curvature * speed)
    largest = min(generator.uniform(0.02, 0.4) * (1 - memory) / (curvature * speed), t / 8)
    return RandomProblem(rule, hessian, quartic, centre, centre + apart, t, [largest / 2**i for i in range(5)])


def _random_rule(generator, family: str, suffix: str) -> tuple[UpdateRule, float]:
    """A rule and the largest of its βs, which is the share of its memory that a step keeps."""
    given: dict[str, Any] = {"weight_decay": float(np.exp(generator.uniform(-4, -1)))}
    if family in ("SGD", "Nesterov"):
        momentum = float(generator.uniform(0.2, 0.95))
        return CATALOG[f"SGD{suffix}"](momentum=momentum, nesterov=family == "Nesterov", **given), momentum
    if family == "Adai":
        betas = (float(generator.uniform(0.2, 0.5)), float(generator.uniform(0.5, 0.95)))
        return CATALOG[f"Adai{suffix}"](betas=betas, **given), max(betas[1], 1 - betas[0] / 4)
    betas = (float(generator.uniform(0.3, 0.9)), float(generator.uniform(0.5, 0.95)))
    return CATALOG[f"{family}{suffix}"](betas=betas, **given), max(betas)
