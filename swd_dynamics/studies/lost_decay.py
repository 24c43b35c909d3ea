"""Study: the decay rate below which rounding takes the decay away, in bfloat16 and float16, by kernel."""

from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from swd_dynamics.optim import AdamS
from swd_dynamics.plots import COLOURS, MUTED, house_style, measured, theory
from swd_dynamics.studies.judging import judge_relative
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "Decoupled decay that is rounded apart from the step is lost where R is below half a unit in the last place of a"
    " weight: always below 2⁻⁹ in bfloat16 and 2⁻¹² in float16. torch's fused kernels, which round a weight once in"
    " each step, keep it where the steps are larger than that unit, and lose it too where the steps are smaller."
)
SOURCE = "derived here from the rounding of θ·(1 − R); the loss of small updates in bfloat16: arXiv 2010.06192"
CAPTION = (
    "Left: R that one step of AdamW takes from bfloat16 weights, a mean over all 128 mantissas, without gradient"
    " (lines: predicted from the rounding of numbers; points: torch). At R = 2⁻⁹, the grey vertical line, the largest"
    " mantissas would lose half a unit in the last place, and all others less. torch has three kernels, single-tensor,"
    " foreach and fused. In this one step the points of single-tensor and of fused coincide, because without an update"
    " both round each weight once. The foreach kernel (on the CPU) first rounds the factor 1 − R to bfloat16, so that"
    " each weight loses a whole number of units in its last place. Right: 4000 weights that start at 0, in pure noise,"
    " with η = 0.01, λ = 0.1 and β = (0.9, 0.95), so that R = 0.001, below 2⁻⁹. Without decay the root mean square"
    " (rms) of the weights grows as η√k. With decay it ends at √(η/2λ). All points have λ = 0.1: in bfloat16"
    " the foreach kernel, torch's choice on a GPU, leaves every weight exactly as a run with λ = 0 does, and so does"
    " the single-tensor kernel (not drawn), which in training rounds the decay and the update one after the other. At"
    " first all points lie above their lines, because Adam's bias correction gives the first gradients more weight."
    " (Later those of foreach grow a little more slowly than η√k, because small steps are lost too.) The fused kernel"
    " subtracts the decay and the update before it rounds, and these updates are large enough to carry the decay"
    " along.\n\n"
    "Keep the weights in float32 and compute in bfloat16, which is safe. The fused kernel is not: where no step reaches"
    " half a unit in the last place, it loses the decay as well (weights of 1.3 with η = 0.001; tested, but not drawn)."
    " With torch's default β₂ = 0.999 the second moment is distorted by bfloat16 besides, which is not shown. Also"
    " tested, but not drawn: float16, and AdamS, whose decay is lost in the same way. The verdict on training with the"
    " single-tensor kernel was added after a shorter run had ended like that."
)

TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
DIGITS = {"bfloat16": 8, "float16": 11}  # of a number in binary, with the leading 1
KERNELS: dict[str, dict[str, Any]] = {
    "single-tensor": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
RATES = np.geomspace(0.5, 8.0, 33)  # R, in units of the R below which no weight changes
LR, DECAY, BETAS = 1e-2, 0.1, (0.9, 0.95)
WEIGHTS = 4000
# Steps of AdamW are at most about 3η: less than half of 2⁻⁷, a unit in the last place of 1.3 in bfloat16.
SMALL_LR, LARGE, SMALL_STEPS = 1e-3, 1.3, np.array([300])
EXACT = 1e-12  # of means over 128 to 1024 exact numbers


class TakenRates(NamedTuple):
    """R that one step takes, a mean over all mantissas: by the rounding of numbers, and by torch. Shapes (rates,)."""

    predicted: NDArray
    measured: NDArray


class LowPrecision(NamedTuple):
    """The R taken by type and kernel, and the rms of weights in noise after each of some steps."""

    taken: dict[tuple[str, str], TakenRates]
    steps: NDArray
    rms: dict[str, NDArray]


def measure(setting: Setting) -> Findings:
    """One step without gradient for every mantissa and R; then training in noise."""
    taken, verdicts = {}, []
    for name in TYPES:
        for kernel in KERNELS:
            taken[name, kernel] = found = one_step(name, kernel, setting.device)
            off = float(np.abs(found.measured - found.predicted).max())
            claim = (
                f"With the {kernel} kernel, one step of AdamW in {name} takes the R that rounding leaves, for every R"
            )
            numbers = {"predicted": 0.0, "measured": off, "allowed": EXACT}
            verdicts.append(judge(f"{name}, {kernel}: R", claim, **numbers, why="means of exact numbers"))
            verdicts.append(_threshold(name, kernel, found))
    shown, rms, noisy = in_noise(setting)
    return Findings([*verdicts, *noisy], LowPrecision(taken, shown, rms))


# One step


def mantissas(name: str) -> NDArray:
    """All numbers of a type from 1 to 2, without 2."""
    return 1 + np.arange(2 ** (DIGITS[name] - 1)) / 2.0 ** (DIGITS[name] - 1)


def to_digits(values: NDArray, name: str) -> NDArray:
    """Positive numbers rounded to the digits of a type, to nearest and ties to even.

    Examples
    --------
    >>> to_digits(np.array([1 - 0.4 * 2**-8, 1 - 0.6 * 2**-8]), "bfloat16").tolist()
    [1.0, 0.99609375]
    """
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.rint(np.ldexp(fraction, DIGITS[name])), exponent - DIGITS[name])


def rates_of(name: str) -> NDArray:
    """The R that are tried with a type."""
    return RATES * 2.0 ** -(DIGITS[name] + 1)


def one_step(name: str, kernel: str, device: str) -> TakenRates:
    """R taken by each step of AdamW from all mantissas, where no gradient moves them."""
    numbers, predicted, seen = mantissas(name), [], []
    for rate in rates_of(name):
        # torch's foreach kernels on the CPU take a factor in the type of the weights.
        factor = to_digits(np.array(1 - rate), name) if (kernel, device) == ("foreach", "cpu") else 1 - rate
        product = (np.float32(numbers) * np.float32(factor)).astype(float)  # torch computes in float32
        predicted.append(np.mean(1 - to_digits(product, name) / numbers))
        weights = torch.nn.Parameter(torch.tensor(numbers, dtype=TYPES[name], device=device))
        weights.grad = torch.zeros_like(weights)
        torch.optim.AdamW([weights], lr=1.0, eps=1e-3, weight_decay=float(rate), **KERNELS[kernel]).step()
        seen.append(np.mean(1 - weights.detach().double().cpu().numpy() / numbers))
    return TakenRates(np.array(predicted), np.array(seen))


def _threshold(name: str, kernel: str, found: TakenRates) -> Verdict:
    """The largest R of those tried that changes no weight."""
    least = 2.0 ** -(DIGITS[name] + 1)
    lost = rates_of(name)[found.measured == 0].max()
    claim = f"With the {kernel} kernel, one step of AdamW in {name} loses the decay up to R = 2^−{DIGITS[name] + 1}"
    why = "one step of the grid of R, which is 2^(1/8)"
    return judge_relative(f"{name}, {kernel}: threshold", claim, least, float(lost), 2 ** (1 / 8) - 1, why)


# Training in noise


def in_noise(setting: Setting) -> tuple[NDArray, dict[str, NDArray], list[Verdict]]:
    """AdamW and AdamS in pure noise: the rms of the weights, and what their last weights have in common."""
    steps = 2000 if setting.quick else 6000
    shown = np.unique(np.geomspace(40, steps, 32).astype(int))
    half: dict[str, Any] = {"dtype": torch.bfloat16}
    runs: dict[str, dict[str, Any]] = {
        "float32": {"foreach": True},
        "bfloat16, fused": half | {"fused": True},
        "bfloat16, foreach": half | {"foreach": True},
        "bfloat16, foreach, λ = 0": half | {"foreach": True, "weight_decay": 0.0},
        "bfloat16, single-tensor": half | {"foreach": False},
        "bfloat16, single-tensor, λ = 0": half | {"foreach": False, "weight_decay": 0.0},
        "AdamS": half | {"foreach": True, "kind": AdamS},
        "AdamS, λ = 0": half | {"foreach": True, "kind": AdamS, "weight_decay": 0.0},
    }
    rms, last = {}, {}
    for name in setting.track(runs, "lost-decay in noise"):
        rms[name], last[name] = _trained(shown, setting.device, **runs[name])
    ends = {name: values[-1] for name, values in rms.items()}
    law, why = float(with_decay(shown[-1:])[0]), "sampling of 4000 weights (1 %), and in bfloat16 steps that are lost"
    names = {
        "bfloat16, foreach": "AdamW (foreach)",
        "bfloat16, single-tensor": "AdamW (single-tensor)",
        "AdamS": "AdamS (foreach)",
    }
    same = {name: int((last[name] != last[f"{name}, λ = 0"]).sum()) for name in names}
    claim = "{} in bfloat16 with λ = 0.1 ends with the weights of λ = 0, bit by bit"
    lost = judge_relative("", "In bfloat16 the foreach kernel decays", law, ends["bfloat16, foreach"], 0.05, why)
    small: dict[str, Any] = {"fused": True, "lr": SMALL_LR, "start": LARGE}
    ends_of = [_trained(SMALL_STEPS, setting.device, **half, **small, weight_decay=decay)[1] for decay in (DECAY, 0.0)]
    kept = int((ends_of[0] != ends_of[1]).sum())
    claim_fused = f"Where η = {SMALL_LR} is small beside weights of {LARGE}, fused=True ends with the weights of λ = 0"
    return (
        shown,
        rms,
        [
            judge("fused, small steps", claim_fused, predicted=0, measured=kept, allowed=0, why="a count of weights"),
            judge_relative(
                "float32: rms", "In float32 AdamW's weights follow the law", law, ends["float32"], 0.05, why
            ),
            judge_relative(
                "fused: rms",
                "In bfloat16 with fused=True AdamW's weights follow the law",
                law,
                ends["bfloat16, fused"],
                0.05,
                why,
            ),
            *(
                judge(f"{name}: lost", claim.format(names[name]), predicted=0, measured=count, allowed=0, why="a count")
                for name, count in same.items()
            ),
            must_be_refuted("control: foreach decays", lost),
        ],
    )


def _trained(
    shown: NDArray,
    device: str,
    dtype: torch.dtype = torch.float32,
    kind: type = torch.optim.AdamW,
    start: float = 0.0,
    **arguments,
) -> tuple[NDArray, torch.Tensor]:
    """The rms of weights in noise after each of some steps, and the weights after the last of them."""
    noise = torch.Generator().manual_seed(0)
    weights = torch.nn.Parameter(torch.full((WEIGHTS,), start, dtype=dtype, device=device))
    optimizer = kind([weights], betas=BETAS, **{"lr": LR, "weight_decay": DECAY, **arguments})
    rms, wanted = [], set(shown.tolist())
    for k in range(1, shown[-1] + 1):
        weights.grad = torch.randn(WEIGHTS, generator=noise).to(weights)
        optimizer.step()
        if k in wanted:
            rms.append(weights.detach().double().square().mean().sqrt().item())
    return np.array(rms), weights.detach().cpu()


def with_decay(k: NDArray) -> NDArray:
    """The rms of AdamW's weights in noise after k steps from 0: steps of size η, with memory 1/R."""
    return np.sqrt(LR / (2 * DECAY) * (1 - np.exp(-2 * LR * DECAY * k)))


# The figure


def draw(found: LowPrecision) -> Figure:
    """R taken by a step against R, and the rms of weights in noise."""
    with house_style():
        figure = Figure(figsize=(9.4, 4.6))
        left, right = figure.subplots(1, 2)
        _draw_taken(left, found)
        _draw_rms(right, found)
        figure.suptitle(
            "In bfloat16 decay alone changes no weight where R < 2⁻⁹ = 0.002. So in training torch's foreach and\n"
            "single-tensor kernels lose it. Its fused kernel, which rounds once, keeps it where updates are large",
            x=0.01,
            ha="left",
        )
    return figure


def _draw_taken(axes: Axes, found: LowPrecision) -> None:
    rates, colour = rates_of("bfloat16"), COLOURS["decoupled"]
    axes.plot(rates, rates, ":", color=MUTED, label="without rounding")
    looks: dict[str, dict[str, Any]] = {
        "fused": {
            "marker": "^",
            "linestyle": "-",
            "label": "fused, single-tensor: rounded\nonce, since there is no update",
        },
        "foreach": {"marker": "v", "linestyle": "--", "label": "foreach: 1 − R is rounded, too"}
        | {"markerfacecolor": "white"},
    }
    for kernel, look in looks.items():
        taken = found.taken["bfloat16", kernel]
        axes.plot(rates, taken.predicted, look["linestyle"], color=colour)
        points: dict[str, Any] = {**look, "linestyle": "none", "markersize": 5}
        axes.plot(rates, taken.measured, color=colour, **points)
    axes.axvline(2.0**-9, color=MUTED, linewidth=1)
    axes.set(title="one step of AdamW, no gradient (lines: predicted)", xlabel="decay rate R = ηλ")
    axes.set(ylabel="fraction of the weights that is subtracted")
    axes.set_xscale("log", base=2)
    axes.legend(loc="upper left", frameon=True, framealpha=1, edgecolor="none")


def _draw_rms(axes: Axes, found: LowPrecision) -> None:
    k = np.geomspace(found.steps[0], found.steps[-1], 200)
    axes.plot(k, LR * np.sqrt(k), **theory("none", label="theory without decay, η√k"))
    axes.plot(k, with_decay(k), **theory("decoupled", label="theory with decay"))
    hollow = {"markerfacecolor": "white"}
    points: dict[str, dict[str, Any]] = {
        "float32": hollow | {"marker": "o", "label": "float32, λ = 0.1", "markersize": 10},
        "bfloat16, fused": {"label": "bfloat16, fused, λ = 0.1", "markersize": 5},
        "bfloat16, foreach": hollow
        | {"marker": "v", "label": "bfloat16, foreach, λ = 0.1\n(single-tensor loses decay, too)", "markersize": 5},
    }
    for name, look in points.items():
        axes.plot(found.steps[::2], found.rms[name][::2], **measured("decoupled") | look)
    axes.set(
        title="gradients that are pure noise, R = 0.001", xlabel="step k", ylabel="root mean square of the weights"
    )
    axes.set(xscale="log", yscale="log", yticks=(0.1, 0.3), yticklabels=("0.1", "0.3"))
    axes.minorticks_off()
    axes.legend(loc="upper left")


STUDY = Study("lost-decay", CLAIM, SOURCE, measure, draw, CAPTION)
