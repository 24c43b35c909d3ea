"""Study: where noise and decay balance, the norm and the rotation of weights follow from the rule of the optimizer."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from swd_dynamics.plots import MUTED, house_style, measured, theory
from swd_dynamics.rules import CATALOG
from swd_dynamics.studies.judging import farthest, judge_relative
from swd_dynamics.studies.methods import Method, family
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.training import train
from swd_dynamics.symbolic import equilibrium
from swd_dynamics.symbolic.correlation import correlations
from swd_dynamics.symbolic.orthogonal import momentum_weights
from swd_dynamics.tasks.digits import IMAGES, digits
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "Weights of a normalised layer grow by noise and shrink by decay until both balance. Their norm and their rotation"
    " then follow from the optimizer's step. Where the norm of the gradient is Γ/‖θ‖, ‖θ‖ grows as Γ^½ with SGD, about"
    " as Γ^⅓ with Adam and AdamS, and not at all with AdamW. Muon's weights are shorter than its momentum suggests. A"
    " normalised layer that learns digits follows the same laws within a tenth."
)
SOURCE = (
    "the Lyapunov equation of the derived linear map; Wan et al. 2021 (2006.08419) for SGD and Kosson et al. 2023"
    " (2305.17212) for AdamW, to leading order in the decay"
)
CAPTION = (
    "Left: each point is the root mean square norm of torch runs whose loss does not depend on ‖θ‖, with fresh Gaussian"
    " noise in each step. All decays of SGD have the same λ; AdamW has another λ than Adam and AdamS, with which its"
    " weights have about the same norm. Right: the norm of a matrix under torch.optim.Muon with Nesterov's momentum."
    " The dotted line is the law of orthogonal moves that keep all of the correlation of the momentum. Moves lose a"
    " part of it, and after five Newton–Schulz steps they are shorter than orthogonal matrices. Also tested, but not"
    " drawn: the length of a step compared with ‖θ‖, and a normalised layer of a network that learns digits in"
    " minibatches, without the pixels that are almost never inked, whose gradients are far from Gaussian noise."
)

WEIGHTS, SIDE = 512, 32  # of a layer, and rows and columns of a matrix
TRAINED = ("SGDW", "AdamW", "AdamS")  # on digits
UNITS, BATCH, INKED = 32, 16, 0.1  # of the network on digits; the share of images in which a pixel is inked
STRENGTHS = (0.3, 30.0)  # Γ: with twice the largest, AdamS would need twice as many steps to come to its equilibrium
SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
ADAM: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99)}
ADAM_DECAY = {"L2": 0.08, "decoupled": 1.0, "stable": 0.08}
MUON: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.2}
MOMENTA = (0.0, 0.5, 0.75, 0.9, 0.95)
# How much longer than at equilibrium the weights are at the start, and the share of a run in which that is forgotten
# and nothing is measured. In the slowest of the short runs, AdamS at the largest Γ, 1 % of the norm is left then.
LONGER, FORGET = 1.1, 0.3
# The relative errors allowed. Where gradients are perpendicular to the weights, a norm hardly fluctuates: the mean over
# a run is off by .1 %. Adam's v fluctuates by 10 % at β₂ = .99, which changes a mean in second order, by up to 1 %. The
# norm of a matrix under Muon fluctuates by 2 %, and its mean over the short run is off by .5 %.
ALLOWED = {"SGD": 0.005, "Adam": 0.02, "Muon": 0.02, "digits": 0.1}
SLOPE = 0.01  # allowed for a power of Γ: two errors of 2 % over a factor of 100 in Γ add up to .0087


class Norms(NamedTuple):
    """The norm ‖θ‖ and the relative length of a step, derived and measured, of one method at several Γ or β."""

    name: str
    mode: str
    x: np.ndarray
    derived: np.ndarray
    measured: np.ndarray


def normalised_methods() -> list[Method]:
    """The methods of the left panel."""
    adams = [Method(m.name, ADAM | {"weight_decay": ADAM_DECAY[m.mode]}) for m in family("Adam", weight_decay=1.0)]
    return [*family("SGD", **SGD), *adams]


def measure(setting: Setting) -> Findings:
    """Run normalised layers of noise with every method, and matrices with Muon."""
    strengths = np.geomspace(*STRENGTHS, 3 if setting.quick else 5)
    found = [
        norms(method, strengths, setting) for method in setting.track(normalised_methods(), "equilibrium of layers")
    ]
    muon = muon_norms(setting)
    verdicts = [verdict for each in found for verdict in _of_method(each)]
    steps, named = 1500 if setting.quick else 6000, {method.name: method for method in normalised_methods()}
    networks = [learning_layer(named[name], steps) for name in setting.track(TRAINED, "equilibrium on digits")]
    verdicts += [_of_muon(muon), *map(_on_digits, networks), _steps_on_digits(networks)]
    verdicts += _controls({each.name: each for each in found}, muon)
    return Findings(verdicts, (found, muon))


def norms(method: Method, strengths: np.ndarray, setting: Setting) -> Norms:
    """The equilibrium of a method, derived and measured, for each Γ; shape (2, Γ) each: norm, relative step."""
    results = [equilibrium(method.rule(), shape=WEIGHTS, gradient=float(s)).results for s in strengths]
    derived = np.array([[float(each[name]) for each in results] for name in ("‖θ‖", "‖Δθ‖/‖θ‖")])
    layers, steps = (4, 1000) if setting.quick else (16, 5000)
    pairs = enumerate(zip(strengths, derived[0], strict=True))
    runs = [layer(method.optimizer, (layers, WEIGHTS), *pair, steps, seed) for seed, pair in pairs]
    return Norms(method.name, method.mode, strengths, derived, np.array(runs).T)


def layer(make: Any, shape: tuple[int, int], strength: float, norm: float, steps: int, seed: int) -> tuple[float, ...]:
    """‖θ‖ and ‖Δθ‖/‖θ‖ of several layers that a torch optimizer trains on noise, as root mean squares.

    The loss of a step is Γ·⟨ξ, θ⟩/(√C·‖θ‖) with new Gaussian ξ. It does not depend on ‖θ‖. The layers are the rows of
    one tensor, and begin longer than the equilibrium that is derived for them.
    """
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(shape, generator=generator)
    theta = (LONGER * norm * theta / theta.norm(dim=-1, keepdim=True)).requires_grad_()
    count, total = shape[-1], torch.zeros(2)

    def loss(_) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        return strength / count**0.5 * ((noise * theta).sum(-1) / theta.norm(dim=-1)).sum()

    before, forgotten = theta.detach().clone(), int(FORGET * steps)
    for step in train(make([theta]), loss, steps):
        now = theta.detach()
        if step >= forgotten:
            squares = now.square().sum(-1)
            total += torch.stack([squares.mean(), ((now - before).square().sum(-1) / squares).mean()])
        before.copy_(now)
    return tuple((total / (steps - forgotten)).sqrt().tolist())


def muon_norms(setting: Setting) -> Norms:
    """The equilibrium of a matrix under torch's Muon for each β, and third the law with c(ρ) = ρ and ‖u‖² = rank."""
    shape, derived, runs = (SIDE, SIDE), [], []
    for beta in setting.track(MOMENTA, "equilibrium of matrices"):
        rule = CATALOG["MuonW"](momentum=beta, **MUON)
        results = equilibrium(rule, shape=shape).results
        derived.append([float(results["‖θ‖"]), float(results["‖Δθ‖/‖θ‖"]), kept_correlation(rule)])
        runs.append(matrix(beta, derived[-1][0], 1200 if setting.quick else 6000))
    return Norms("Muon", "decoupled", np.array(MOMENTA), np.array(derived).T, np.array(runs).T)


def learning_layer(method: Method, steps: int) -> Norms:
    """‖θ‖ and ‖Δθ‖/‖θ‖ of the normalised first layer of a network on digits, and what is derived with its own Γ.

    The layer has UNITS·θ/‖θ‖ in the place of θ, so that the loss does not depend on ‖θ‖. Γ is the root mean square of
    ‖g‖·‖θ‖ in the half of the run that is measured. Pixels that are almost never inked are left out.
    """
    images, labels = digits(IMAGES)
    inked = (images > images.min(axis=0)).mean(axis=0) > INKED
    pixels, classes = torch.tensor(images[:, inked], dtype=torch.float32), torch.tensor(labels)
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(UNITS, pixels.shape[1], generator=generator)
    theta = (2 * theta / theta.norm()).requires_grad_()
    last = torch.randn(10, UNITS, generator=generator) / 2

    def loss(_) -> Tensor:
        chosen = torch.randint(len(pixels), (BATCH,), generator=generator)
        hidden = torch.tanh(pixels[chosen] @ (UNITS**0.5 * theta / theta.norm()).T)
        return torch.nn.functional.cross_entropy(hidden @ last.T, classes[chosen])

    total, before = np.zeros(3), theta.detach().clone()
    for step in train(method.optimizer([theta]), loss, steps):
        now = theta.detach()
        if 2 * step >= steps:
            square = before.square().sum().item()
            gradient = torch.as_tensor(theta.grad).square().sum().item()
            total += square, (now - before).square().sum().item() / square, gradient * square
        before.copy_(now)
    *found, gamma = np.sqrt(total / (steps // 2))
    results = equilibrium(method.rule(), shape=tuple(theta.shape), gradient=float(gamma)).results
    derived = [float(results[name]) for name in ("‖θ‖", "‖Δθ‖/‖θ‖")]
    return Norms(method.name, method.mode, np.array([gamma]), np.array(derived), np.array(found))


def kept_correlation(rule: Any) -> float:
    """‖W‖ if moves were orthogonal, with the squared norm SIDE, and as correlated as the momentum is."""
    a = 1 - MUON["lr"] * MUON["weight_decay"]
    kept = correlations(momentum_weights(rule.direction))[1:]
    spread = 1 + 2 * float(a ** np.arange(1, len(kept) + 1) @ kept)
    return MUON["lr"] * float(np.sqrt(SIDE * spread / (1 - a * a)))


def matrix(beta: float, norm: float, steps: int) -> tuple[float, ...]:
    """‖W‖ and ‖ΔW‖/‖W‖ of a matrix under torch's Muon, whose move does not depend on the size of the noise."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(SIDE, SIDE, generator=generator)
    weights = (LONGER * norm * weights / weights.norm()).requires_grad_()
    optimizer = torch.optim.Muon([weights], momentum=beta, **MUON)
    total, before, forgotten = np.zeros(2), weights.detach().clone(), int(FORGET * steps)
    for step in train(optimizer, lambda _: (torch.randn(SIDE, SIDE, generator=generator) * weights).sum(), steps):
        now = weights.detach()
        if step >= forgotten:
            square = now.square().sum().item()
            total += square, (now - before).square().sum().item() / square
        before.copy_(now)
    return tuple(np.sqrt(total / (steps - forgotten)))


def _of_method(found: Norms) -> Iterator[Verdict]:
    name = f"{found.name} with L2" if found.mode == "L2" else found.name
    kind, ratios = found.name[: 4 if found.name.startswith("Adam") else 3], found.measured / found.derived
    claim = f"The norm of normalised weights under {name} is the derived one at every Γ"
    yield _worst(found.name, claim, ratios[0], kind)
    claim = f"The length of a step of {name}, relative to the weights, is the derived one"
    yield _worst(f"{found.name}, step", claim, ratios[1], kind)
    ends = (np.log(each[0, -1] / each[0, 0]) for each in (found.derived, found.measured))
    power, seen = (round(float(each / np.log(found.x[-1] / found.x[0])), 4) for each in ends)
    yield judge(
        f"{found.name}, power of Γ",
        f"Under {name} the norm grows as Γ to the power {abs(power):.2f}",
        predicted=power,
        measured=seen,
        allowed=SLOPE,
        why=f"the slope from Γ = {found.x[0]:g} to {found.x[-1]:g}; two norms that are off by 2 % change it by .0087",
    )


WHY = {
    "SGD": "sampling in the short form takes .1 %, and the start .1 %",
    "Adam": "v fluctuates by 10 %, which changes a mean by up to 1 %, and the start by up to .2 %",
    "Muon": "the mean of the short run is off by .5 %, and c(ρ) by .4 %",
    "digits": "gradients of minibatches have a mean and are not Gaussian, and Γ is a mean over the run",
}


def _worst(name: str, claim: str, ratios: np.ndarray, kind: str) -> Verdict:
    why = f"the number is measured/derived where it is farthest from 1; {WHY[kind]}"
    return judge_relative(name, claim, 1.0, farthest(ratios, 1.0), ALLOWED[kind], why)


def _of_muon(found: Norms) -> Verdict:
    claim = "The norm of a matrix under torch's Muon is the derived one at every β"
    return _worst("Muon", claim, found.measured[0] / found.derived[0], "Muon")


def _on_digits(found: Norms) -> Verdict:
    claim = f"Within a tenth, a normalised layer that {found.name} trains on digits has the norm derived from its own Γ"
    return _worst(f"digits, {found.name}", claim, found.measured[:1] / found.derived[:1], "digits")


def _steps_on_digits(found: list[Norms]) -> Verdict:
    claim = f"So has the length of a step under {', '.join(each.name for each in found)}, relative to the weights"
    return _worst("digits, step", claim, np.array([each.measured[1] / each.derived[1] for each in found]), "digits")


def _controls(found: dict[str, Norms], muon: Norms) -> Iterator[Verdict]:
    """The negative controls: laws with a wrong assumption, and of another optimizer."""
    beta, lr, decay = ADAM["betas"][0], ADAM["lr"], ADAM_DECAY["decoupled"]
    apart = np.sqrt(lr * WEIGHTS * (1 - beta) / (1 + beta) / (2 * decay))
    wrong = {
        "moves perpendicular to θ": (
            "AdamW's moves are perpendicular to the weights, so that ‖θ‖² is the sum of their squares",
            found["AdamW"].measured[0] / apart,
            "Adam",
        ),
        "c(ρ) = ρ": (
            "Muon's moves are orthogonal matrices, and as correlated as the momentum is",
            muon.measured[0] / muon.derived[2],
            "Muon",
        ),
        "SGDW as SGDS": (
            "The norm under SGDW is that derived for SGDS with the same λ",
            found["SGDW"].measured[0] / found["SGDS"].derived[0],
            "SGD",
        ),
    }
    for name, (claim, ratios, kind) in wrong.items():
        yield must_be_refuted(f"control: {name}", _worst(name, claim, ratios, kind))


def draw(data: tuple[list[Norms], Norms]) -> Figure:
    """The norm against Γ for six methods, and against β under Muon."""
    found, muon = data
    with house_style():
        figure = Figure(figsize=(7.4, 4.0))
        layers, matrices = figure.subplots(1, 2)
        _draw_layers(layers, {each.name: each for each in found})
        _draw_matrices(matrices, muon)
        figure.suptitle(
            "In noise, decay and optimizer set how long weights become:\n"
            "under SGD the norm grows with the gradient, under AdamW it does not",
            x=0.01,
            ha="left",
        )
    return figure


def _draw_layers(axes, found: dict[str, Norms]) -> None:
    """Lines and points, SGD with hollow and Adam with filled points; each pair of lines with its power of Γ."""
    for name, each in found.items():
        is_adam = name.startswith("Adam")
        axes.plot(each.x, each.derived[0], **theory(each.mode, label=None, linestyle="--" if is_adam else "-"))
        inside = {} if is_adam else {"markerfacecolor": "white"}
        axes.plot(each.x, each.measured[0], **measured(each.mode, label=name, markersize=5) | inside)
    for name, power, point, offset in (
        ("SGDW", "1/2", 1, (-12, 4)),
        ("AdamS", "1/3", -1, (2, -20)),
        ("AdamW", "0", -1, (2, 7)),
    ):
        each = found[name]
        at = (each.x[point], each.derived[0, point])
        axes.annotate(rf"$\propto\Gamma^{{{power}}}$", at, offset, textcoords="offset points", color=MUTED, ha="right")
    axes.set(xscale="log", yscale="log", xlabel="Γ, norm of the gradient at ‖θ‖ = 1", ylabel="norm of the weights, ‖θ‖")
    axes.set_title(f"a layer of {WEIGHTS} weights (lines: derived)")
    axes.legend(ncols=2, columnspacing=0.8, handletextpad=0.1, fontsize=8.5)


def _draw_matrices(axes, muon: Norms) -> None:
    """The norm under Muon over the length of the memory, and the law that is refuted."""
    memory = 1 / (1 - muon.x)
    axes.plot(memory, muon.derived[2], color=MUTED, linestyle=":", label="moves orthogonal, c(ρ) = ρ")
    axes.plot(memory, muon.derived[0], **theory(muon.mode, label="derived, c(ρ) measured"))
    axes.plot(memory, muon.measured[0], **measured(muon.mode, label="torch.optim.Muon"))
    over = muon.derived[2, -1] / muon.measured[0, -1] - 1
    axes.annotate(
        f"{100 * over:.0f} % too long",
        (memory[-1], muon.derived[2, -1]),
        (2, 5),
        textcoords="offset points",
        ha="right",
        color=MUTED,
    )
    axes.set(xscale="log", xlabel="memory of the momentum, 1/(1 − β) steps", ylabel="norm of the matrix, ‖W‖")
    axes.set_xticks(memory, [f"{each:.0f}" for each in memory])
    axes.minorticks_off()
    axes.set_ylim(0, 1.12 * muon.derived[2, -1])
    axes.set_title(f"a {SIDE} × {SIDE} matrix under Muon")
    axes.legend(loc="lower right", fontsize=8.5)


STUDY = Study("equilibrium", CLAIM, SOURCE, measure, draw, CAPTION)
