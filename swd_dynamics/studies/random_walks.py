"""Layers in pure noise: real optimizers move weights whose gradients are random and perpendicular to them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swd_dynamics.optim import OPTIMIZERS, AdaiS, WithDecay
from swd_dynamics.rules import CATALOG, UpdateRule
from swd_dynamics.rules.decay import mode_of
from swd_dynamics.symbolic.correlation import correlations
from swd_dynamics.symbolic.orthogonal import momentum_weights

WEIGHTS, SIDE = 512, 32  # of a layer, and rows and columns of a matrix
# How much longer than at equilibrium the weights are at the start, and the share of a run in which that is forgotten
# and nothing is measured. In the slowest of the short runs, AdamS at the largest Γ, 1 % of the norm is left then.
LONGER, FORGET = 1.1, 0.3


class SignOptimizer(torch.optim.Optimizer):
    """Lion with decoupled decay: θ ← (1 − ηλ)θ − η·sign(β₁m + (1−β₁)g), then m ← β₂m + (1−β₂)g.

    With β₁ = β₂ it is Signum, the sign of the new m.

    Source: Chen et al. 2023, 2302.06675, Algorithm 2.

    Examples
    --------
    >>> theta = torch.ones(1, requires_grad=True)
    >>> optimizer = SignOptimizer([theta], lr=0.25, weight_decay=1.0)
    >>> (3 * theta).sum().backward()
    >>> optimizer.step()
    >>> theta.item()
    0.5
    """

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            (beta1, beta2), lr = group["betas"], group["lr"]
            for weight in group["params"]:
                m = self.state[weight].setdefault("exp_avg", torch.zeros_like(weight))
                move = torch.lerp(weight.grad, m, beta1).sign_()
                weight.mul_(1 - lr * group["weight_decay"]).sub_(move, alpha=lr)
                m.lerp_(weight.grad, 1 - beta2)


def _decoupled(kind: Callable[..., torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    return lambda params, weight_decay=0.0, **more: WithDecay(kind(params, **more), "decoupled", weight_decay)


def _signum(params, momentum=0.9, **more):
    return SignOptimizer(params, betas=(momentum, momentum), **more)


# Real optimizers of rules that OPTIMIZERS does not have. Where a rule has L2, λθ is added to the gradient by hand.
REAL: dict[str, Callable[..., torch.optim.Optimizer]] = {
    **OPTIMIZERS,
    "Adai": AdaiS,
    "RMSpropW": _decoupled(torch.optim.RMSprop),
    "AdadeltaW": _decoupled(torch.optim.Adadelta),
    "Signum": _signum,
    "SignumW": _signum,
    "Lion": SignOptimizer,
    "LionW": SignOptimizer,
}
BY_HAND = ("Adai", "Signum", "Lion")  # whose λθ joins the gradient by hand


@dataclass(frozen=True)
class Walker:
    """A rule of the catalogue, and a real optimizer that walks at random.

    name : str — as in CATALOG
    arguments : dict — of both, by torch's names

    Examples
    --------
    >>> walker = Walker("LionW", {"lr": 0.5, "weight_decay": 0.25})
    >>> walker.mode, walker.joined, walker.rule.lr
    ('decoupled', 0.0, 0.5)
    """

    name: str
    arguments: dict[str, Any]

    @property
    def mode(self) -> str:
        """The decay mode."""
        return mode_of(CATALOG[self.name].decay) or "unknown"

    @property
    def rule(self) -> UpdateRule:
        """The rule."""
        return CATALOG[self.name](**self.arguments)

    @property
    def joined(self) -> float:
        """λ that is added to the gradients by hand, as λθ."""
        return self.arguments["weight_decay"] if self.name in BY_HAND else 0.0

    def optimizer(self, parameters, **changed) -> torch.optim.Optimizer:
        """The real optimizer of some parameters, with some arguments changed."""
        own = {"weight_decay": 0.0} if self.name in BY_HAND else {}
        return REAL[self.name](parameters, **(self.arguments | own | changed))


def walkers_of(names: tuple[str, ...], weight_decay: float, **arguments: Any) -> list[Walker]:
    """One walker for each name, all with the same arguments.

    Examples
    --------
    >>> [walker.arguments for walker in walkers_of(("SGD", "SGDS"), 0.5, lr=0.25)]
    [{'lr': 0.25, 'weight_decay': 0.5}, {'lr': 0.25, 'weight_decay': 0.5}]
    """
    return [Walker(name, arguments | {"weight_decay": weight_decay}) for name in names]


# What walks in noise with Γ = 3. λ and η are such that R is about .001 and small departures last 250 to 1100 steps.
_HEAVY: dict[str, Any] = {"lr": 0.02, "momentum": 0.9}
_ADAM: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99)}
_LATE: dict[str, Any] = {"momentum_decay": 0.5}
WALKERS: dict[str, list[Walker]] = {
    "SGD": [
        *walkers_of(("SGDIndependent",), 1e-3, **_HEAVY),
        *walkers_of(("SGDW", "SGDC"), 0.05, **_HEAVY),
        *walkers_of(("SGD", "SGDS"), 0.005, **_HEAVY),
    ],
    "Adam": [
        *walkers_of(("NAdamW",), 1.0, **_ADAM, **_LATE),
        *walkers_of(("AdamW", "AdamC", "RAdamW"), 1.0, **_ADAM),
        *walkers_of(("Adam", "AdamS", "RAdam"), 0.15, **_ADAM),
        *walkers_of(("AdamPreconditioned",), 0.15, **_ADAM, eps=1e-3),  # with 1e-8 R of a gradient near 0 is above 2
        *walkers_of(("NAdam",), 0.15, **_ADAM, **_LATE),
        *walkers_of(("AdamIndependent",), 1e-3, **_ADAM),
        *walkers_of(("RMSprop",), 0.15, lr=1e-3, alpha=0.99),
        *walkers_of(("RMSpropW",), 1.0, lr=1e-3, alpha=0.99),
        *walkers_of(("Adadelta", "AdadeltaW"), 0.01, lr=0.1, rho=0.99, eps=0.1),
    ],
    "sign": [
        *walkers_of(("LionW", "SignumW"), 1.0, lr=1e-3),
        *walkers_of(("Lion",), 0.1, lr=2e-4),
        *walkers_of(("Signum",), 0.1, lr=5e-4),
    ],
    "Adai": walkers_of(("AdaiS", "Adai"), 0.05, lr=0.02),
}


def layer(
    make: Callable[..., torch.optim.Optimizer],
    shape: tuple[int, int],
    strength: float,
    norm: float,
    steps: int,
    seed: int,
    *,
    joined: float = 0.0,
    longer: float = LONGER,
    forget: float = FORGET,
) -> tuple[float, float]:
    """‖θ‖ and ‖Δθ‖/‖θ‖ of several layers that a real optimizer trains on noise, as root mean squares.

    The loss of a step is Γ·⟨ξ, θ⟩/(√C·‖θ‖) with new Gaussian ξ. It does not depend on ‖θ‖: the gradient is Γ/√C times
    the part of ξ that is perpendicular to θ, divided by ‖θ‖. The layers are the rows of one tensor, and begin longer
    than the equilibrium that is derived for them.

    Parameters
    ----------
    make : callable — the optimizer of a list of parameters
    shape : (layers, C)
    strength : float — Γ
    norm : float — ‖θ‖ that was derived
    joined : float — λ that is added to the gradients as λθ
    longer, forget : float — see LONGER and FORGET
    """
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(shape, generator=generator)
    theta = torch.nn.Parameter(longer * norm * theta / theta.norm(dim=-1, keepdim=True))

    def gradient() -> Tensor:
        unit = theta.detach() / theta.detach().norm(dim=-1, keepdim=True)
        noise = torch.randn(shape, generator=generator)
        noise -= (noise * unit).sum(-1, keepdim=True) * unit
        return strength / shape[-1] ** 0.5 * noise / theta.detach().norm(dim=-1, keepdim=True)

    return _walked(make([theta]), theta, gradient, steps, joined, forget)


def matrix(make: Callable[..., torch.optim.Optimizer], norm: float, steps: int) -> tuple[float, float]:
    """‖W‖ and ‖ΔW‖/‖W‖ of a square matrix under an optimizer whose move does not depend on the size of the noise."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(SIDE, SIDE, generator=generator)
    weights = torch.nn.Parameter(LONGER * norm * weights / weights.norm())
    return _walked(make([weights]), weights, lambda: torch.randn(SIDE, SIDE, generator=generator), steps)


def _walked(
    optimizer: torch.optim.Optimizer,
    theta: torch.nn.Parameter,
    gradient: Callable[[], Tensor],
    steps: int,
    joined: float = 0.0,
    forget: float = FORGET,
) -> tuple[float, float]:
    """Take the steps, and the root mean squares of the norm and of the relative length of a step.

    A square tensor is one matrix; the rows of another tensor are layers.
    """
    total, forgotten = torch.zeros(2, dtype=torch.float64), int(forget * steps)
    before = theta.detach().clone()
    over = (-2, -1) if theta.shape[0] == theta.shape[1] else -1
    for k in range(steps):
        theta.grad = gradient()
        if joined:
            theta.grad.add_(theta.detach(), alpha=joined)
        optimizer.step()
        now = theta.detach()
        if k >= forgotten:
            squares = now.square().sum(over)
            total += torch.stack([squares.mean(), ((now - before).square().sum(over) / squares).mean()])
        before.copy_(now)
    norm, step = (total / (steps - forgotten)).sqrt().tolist()
    return norm, step


def kept_correlation(rule: UpdateRule) -> float:
    """‖W‖ of a square matrix if Muon's moves were orthogonal, ‖u‖² = SIDE, and as correlated as the momentum is.

    Examples
    --------
    Without momentum moves are independent, ‖W‖² = η²·SIDE/(1 − a²) with a = 1 − ηλ = ½:

    >>> rule = CATALOG["MuonW"](lr=0.5, momentum=0.0, weight_decay=1.0)
    >>> round(kept_correlation(rule) ** 2, 9), round(0.25 * SIDE / 0.75, 9)
    (10.666666667, 10.666666667)
    """
    lr, a = float(rule.lr), 1 - float(rule.lr * rule.weight_decay)
    kept = correlations(momentum_weights(rule.direction))[1:]
    spread = 1 + 2 * float(a ** np.arange(1, len(kept) + 1) @ kept)
    return lr * float(np.sqrt(SIDE * spread / (1 - a * a)))


def fluctuation_factor(betas: tuple[float, float]) -> float:
    """By which factor Adam's moves in noise are shorter than with v = σ², to first order in 1 − β₂.

    Let v = σ²(1 + ε) and m be running means of Gaussian gradients with the weights a_j = (1−β₁)β₁ʲ and
    b_j = (1−β₂)β₂ʲ. Then E m²/v = E m²(1 − ε + ε²)/σ², with E ε² = 2Σb² and E m²ε = 2σ²Σa²b::

        E m²/v = (E m²/σ²)·(1 + 2(1−β₂)/(1+β₂) − 2(1−β₂)(1−β₁²)/(1−β₁²β₂))

    Examples
    --------
    With β₂ → 1 v does not fluctuate. With β₁ = 0, m = g is in v itself, E g²/v = 1 − (1−β₂) + …:

    >>> round(fluctuation_factor((0.9, 1 - 1e-12)), 9), round(fluctuation_factor((0.0, 0.999)) ** 2, 4)
    (1.0, 0.999)
    """
    beta1, beta2 = betas
    fluctuation = 2 * (1 - beta2) / (1 + beta2)
    shared = 2 * (1 - beta2) * (1 - beta1**2) / (1 - beta1**2 * beta2)
    return (1 + fluctuation - shared) ** 0.5
