"""A normalised layer while the learning rate falls: ‖g‖/‖θ‖ by the derived law, and in real runs.

The covariance of (θ, memory) follows Σ ← AΣAᵀ + σ²bbᵀ, with the rule's linear map A and the response b to noise. For a
layer of C weights ‖θ‖² = C·Σ₁₁, and σ = Γ/(√C‖θ‖), where Γ is the norm of the gradient at ‖θ‖ = 1.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import sympy
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from swd_dynamics.rules.schedule import Cosine
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.training import train
from swd_dynamics.symbolic import equilibrium, lettered, notation
from swd_dynamics.symbolic.linear import find_linear_map
from swd_dynamics.symbolic.noise import expected, positive, without_means
from swd_dynamics.symbolic.trace import trace, without_bias
from swd_dynamics.tasks.digits import CLASSES, IMAGES, digits

WEIGHTS, GAMMA = 512, 3.0  # of a layer of noise: C, and the norm of the gradient at ‖θ‖ = 1
UNITS, BATCH, INKED = 8, 8, 0.1  # of the network on digits; the share of images in which a pixel is inked
BINS = 40  # parts of a run, over which squares are averaged
# The share of a run that is not judged: the network learns most of what it learns in it, with gradients that have a
# mean. In the short form it has 250 steps.
FORGET = 0.25
FROM = int(FORGET * BINS)


class RatioCourse(NamedTuple):
    """‖g‖/‖θ‖ along a run, as root mean squares over its parts. Shapes (BINS,).

    seen : measured
    law : with ‖θ‖ integrated through the schedule
    rest, power : with ‖θ‖ at the equilibrium of the current η, and the power of η in this; only in noise
    """

    seen: NDArray
    law: NDArray
    rest: NDArray = np.empty(0)
    power: float = np.nan

    @property
    def rise(self) -> float:
        """The last value measured, divided by the first one that is judged."""
        return float(self.seen[-1] / self.seen[FROM])

    @property
    def foreseen(self) -> float:
        """The rise by the integrated law."""
        return float(self.law[-1] / self.law[FROM])


# The theory


def balance(method: Method, gradient: float, size: int) -> Callable[[float], float]:
    """‖g‖/‖θ‖ = Γ/‖θ‖² at the equilibrium that is derived from the rule, as a function of a constant η.

    Examples
    --------
    Gradient descent has √(2λ/η), exactly √((2 − ηλ)λ/η):

    >>> descent = balance(Method("SGDW", {"momentum": 0.0, "weight_decay": 0.4}), gradient=1.0, size=8)
    >>> round(descent(0.5), 12), round((1.8 * 0.4 / 0.5) ** 0.5, 12)
    (1.2, 1.2)
    """
    norm = equilibrium(method.rule(lr=notation.lr), shape=size, gradient=gradient).results["‖θ‖"]
    ratio = (gradient / norm**2).xreplace(_largest(method, norm.free_symbols))
    return lambda lr: float(ratio.subs(notation.lr, lr))


def _largest(method: Method, symbols: Iterable[Any]) -> dict[Any, Any]:
    """η/η_max for its symbol κ, which the theory of corrected decay has in the place of η_max."""
    return {s: notation.lr / method.arguments["lr_max"] for s in symbols if s.name == notation.OF_LARGEST}


def exponent_of_lr(at_rest: Callable[[float], float]) -> float:
    """The power of η with which a function of η changes where η is small, to two digits.

    Examples
    --------
    >>> exponent_of_lr(lambda lr: lr**-0.5 * (1 + lr))
    -0.5
    """
    return round(float(np.log2(at_rest(1e-5) / at_rest(5e-6))), 2)


def moment_map(method: Method) -> Callable[[float, float, float], tuple[NDArray, float]]:
    """A function (η, σ, v) → A|b and v′, of the rule's linear map at zero curvature with noise of variance σ².

    v is the mean of the squares in the preconditioner, NaN for a rule without one, and v′ its expectation after the
    step. The map has the v that is given.

    Examples
    --------
    Gradient descent has θ′ = (1 − ηλ)θ − ηξ:

    >>> step = moment_map(Method("SGDW", {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.5}))
    >>> step(0.5, 1.0, float("nan"))[0].tolist()
    [[0.75, -0.5]]
    """
    letters, values = lettered(method.rule())
    found, traced, v = find_linear_map(letters), trace(letters).map(without_bias), sympy.Dummy("v", positive=True)
    squares = {s: e for s, e in zip(traced.memory, traced.remembered, strict=True) if s not in found.state}
    known: dict[Any, Any] = {symbol: value for symbol, value in values.items() if symbol != notation.lr}
    known |= _largest(method, known)
    known |= {each: v for s in squares for each in (s, positive(s))}
    roots = {letter: without_means(value) for letter, value in found.roots.items()}
    both = found.at_zero_curvature().row_join(found.response).xreplace(roots).xreplace(known)
    after = [expected(without_means(e), found.state[1:], None).xreplace(known) for e in squares.values()]
    evaluate = sympy.lambdify((notation.lr, notation.noise, v), [both.tolist(), after], "numpy")

    def step(lr: float, sigma: float, square: float) -> tuple[NDArray, float]:
        matrix, new = evaluate(lr, sigma, square)
        return np.array(matrix, dtype=float), float(new[0]) if new else square

    return step


def integrated_norms(method: Method, gammas: NDArray, size: int, norm: float, lrs: NDArray | None = None) -> NDArray:
    """‖θ‖ before each step of a run along a cosine, from Γ of each step: Σ ← AΣAᵀ + σ²bbᵀ with A and b of that step.

    Parameters
    ----------
    method : Method
    gammas : array, shape (steps,) — ‖g‖·‖θ‖ of each step
    size : int — C, the number of weights
    norm : float — ‖θ‖ at the start
    lrs : array, shape (steps,), optional — η of each step, instead of the cosine

    Examples
    --------
    Gradient descent with a constant η: N = ‖θ‖² becomes (1 − ηλ)²N + η²Γ²/N.

    >>> descent = Method("SGDW", {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.5})
    >>> found = integrated_norms(descent, np.full(2, 3.0), 8, norm=2.0, lrs=np.full(2, 0.5))
    >>> round(float(found[1] ** 2), 12), 0.75**2 * 4 + 0.5**2 * 9 / 4
    (2.8125, 2.8125)
    """
    step, steps = moment_map(method), len(gammas)
    lrs = lrs if lrs is not None else np.array([Cosine(method.arguments["lr"], steps)(k) for k in range(steps)])
    covariance, square, norms = None, (gammas[0] / norm) ** 2 / size, []
    for lr, gamma in zip(lrs, gammas, strict=True):
        norms.append(norm)
        sigma = gamma / (np.sqrt(size) * norm)
        square = step(lr, sigma, square)[1]
        both = step(lr, sigma, square)[0]
        a, b = both[:, :-1], both[:, -1]
        if covariance is None:
            covariance = np.zeros_like(a)
            covariance[0, 0] = norm**2 / size
        covariance = a @ covariance @ a.T + sigma**2 * np.outer(b, b)
        norm = float(np.sqrt(size * covariance[0, 0]))
    return np.array(norms)


# The runs


def noise_course(method: Method, layers: int, steps: int) -> RatioCourse:
    """Layers that a torch optimizer trains on noise: the loss of a step is Γ·⟨ξ, θ⟩/(√C·‖θ‖) with new Gaussian ξ."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(layers, WEIGHTS, generator=generator, dtype=torch.float64)
    at_rest, lr = balance(method, GAMMA, WEIGHTS), Cosine(method.arguments["lr"], BINS)
    begin = (GAMMA / at_rest(lr(0))) ** 0.5
    theta = (begin * theta / theta.norm(dim=-1, keepdim=True)).requires_grad_()

    def loss(_) -> Tensor:
        noise = torch.randn(theta.shape, generator=generator, dtype=torch.float64)
        return GAMMA / WEIGHTS**0.5 * ((noise * theta).sum(-1) / theta.norm(dim=-1)).sum()

    norms, gradients = _trained(method, [theta], loss, steps, layers)
    rest = np.array([at_rest(lr(i + 0.5)) for i in range(BINS)])
    course = _course(method, norms, gradients, np.full(steps, GAMMA), WEIGHTS)
    return course._replace(rest=rest, power=exponent_of_lr(at_rest))


def digits_course(
    method: Method, steps: int, seed: int, is_normalised: bool, trains_readout: bool = False
) -> RatioCourse:
    """The first layer of a tanh network that learns digits in minibatches, and the law with the layer's own Γ.

    A normalised layer has √UNITS·θ/‖θ‖ in the place of θ. Pixels that are almost never inked are left out.
    """
    images, labels = digits(IMAGES)
    inked = (images > images.min(axis=0)).mean(axis=0) > INKED
    pixels, classes = torch.tensor(images[:, inked]), torch.tensor(labels)
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(UNITS, pixels.shape[1], generator=generator, dtype=torch.float64)
    theta = (UNITS**0.5 * theta / theta.norm()).requires_grad_()
    readout = torch.randn(CLASSES, UNITS, generator=generator, dtype=torch.float64) / 2
    weights = [theta, readout.requires_grad_()] if trains_readout else [theta]

    def loss(_) -> Tensor:
        chosen = torch.randint(len(pixels), (BATCH,), generator=generator)
        layer = UNITS**0.5 * theta / theta.norm() if is_normalised else theta
        return functional.cross_entropy(torch.tanh(pixels[chosen] @ layer.T) @ readout.T, classes[chosen])

    norms, gradients = _trained(method, weights, loss, steps)
    return _course(method, norms, gradients, (norms * gradients)[:, 0], theta.numel())


def _trained(
    method: Method, weights: list[Tensor], loss: Callable, steps: int, layers: int = 1
) -> tuple[NDArray, NDArray]:
    """‖θ‖ and ‖g‖ of the layers in the first tensor at each step, along the cosine. Shapes (steps, layers)."""
    optimizer = method.optimizer(weights)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    theta = weights[0]
    norms, gradients, before = [], [], theta.detach().clone()
    for _ in train(optimizer, loss, steps, scheduler):
        norms.append(before.view(layers, -1).norm(dim=-1).tolist())
        gradients.append(torch.as_tensor(theta.grad).view(layers, -1).norm(dim=-1).tolist())
        before.copy_(theta.detach())
    return np.array(norms), np.array(gradients)


def _course(method: Method, norms: NDArray, gradients: NDArray, gammas: NDArray, size: int) -> RatioCourse:
    """The ratio, from ‖θ‖ and ‖g‖ of each step, shapes (steps, layers), and by the law from Γ of each step."""
    by_law = gammas / integrated_norms(method, gammas, size, float(norms[0].mean())) ** 2
    seen, law = (
        [np.sqrt(np.mean(part**2)) for part in np.array_split(ratio, BINS)] for ratio in (gradients / norms, by_law)
    )
    return RatioCourse(np.array(seen), np.array(law))
