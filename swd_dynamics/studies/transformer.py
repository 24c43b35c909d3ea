"""Study: along the training of a transformer AdamW's decay is not stable, and AdamS's is."""

from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor
from xarray import Dataset

from swd_dynamics.crosscheck import equivalent_weight_decay
from swd_dynamics.plots import MUTED, house_style, measured, theory
from swd_dynamics.probe import record
from swd_dynamics.recording import open_recording
from swd_dynamics.rules.schedule import Cosine, Warmup
from swd_dynamics.studies.judging import judge_curve
from swd_dynamics.studies.methods import family
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.tasks import character_transformer
from swd_dynamics.verdict import Verdict, judge, judge_at_least, must_be_refuted

CLAIM = (
    "While a transformer trains, AdamW's decay is not stable: its decay rate per effective learning rate,"
    " R/η_eff = λ√v̄, changes with the size of the gradients, although R/η is λ. For AdamS R/η_eff is λ at every step."
)
SOURCE = "arXiv 2011.11152 (Xie, Sato & Sugiyama 2020) says that AdamW's decay is unstable and AdamS's is stable"
CAPTION = (
    "R/η_eff is divided by its constant value for AdamS, which is the λ′ of the legend. The two optimizers are two"
    " runs, each with its own v̄. A point is R measured in the weights, divided by the η_eff that is recorded: after"
    " Adam's own update is subtracted, it is the fraction by which the weights have become smaller, the median over"
    " all tensors. The factor 3.7 leaves out the warm-up, with which the ratio falls to a tenth. It depends on the"
    " model and on the length of the run: it is larger where the gradients shrink further. The study shows that the"
    " ratio changes, and by how much, in one run of a small character model. It does not show that the change does"
    " harm, or that AdamS reaches a lower loss."
)

LR, END = 2e-3, 0.1  # η rises to LR from this fraction of it, and falls back to this fraction
BETAS = (0.9, 0.95)
DECAY = 0.1  # AdamW's λ
METHODS = {
    method.name: method
    for method in family("Adam", lr=LR, betas=BETAS, eps=1e-8, weight_decay=DECAY)
    if method.mode in ("decoupled", "stable")
}
# The full and the quick form: steps, and the arguments that are not the task's defaults. 10⁶ and 3·10⁴ weights.
FULL: tuple[int, dict[str, Any]] = (400, {"batch_size": 32})
QUICK: tuple[int, dict[str, Any]] = (200, {"batch_size": 16, "width": 32, "layers": 2})
WARMING = 20  # the warm-up lasts a twentieth of the steps
WATCHED = 20  # R is measured in the weights this often in a run

HALF_ULP = 2.0**-24  # of float32: the largest relative change by one rounding
ROUND_OFF = 1e-12  # relative: R and η_eff are a few products of float64 numbers
STORED = HALF_ULP * (3 / (1 - BETAS[1]) + 30) / 2  # relative error of √v̄ in float32: see the verdict
CHANGES = 1.5  # times: a change of R/η_eff that is as large as a change of λ by half


class RecordedRun(NamedTuple):
    """A run: the probe's recording, and the measurements of other witnesses. Steps are those taken.

    weight_decay : float — λ
    weights, longest : int — how many weights there are, and in the largest tensor
    recorded : Dataset — read back from the run folder
    planned : array, shape (steps,) — η by the schedule
    v_bar : array, shape (steps,) — v̄ from the gradients
    watched : array, shape (times,) — the steps, from 1, at which R was measured in the weights
    by_weights, rounding : array, shape (times, tensors) — this R of each tensor, and its largest error in float32
    """

    weight_decay: float
    weights: int
    longest: int
    recorded: Dataset
    planned: NDArray
    v_bar: NDArray
    watched: NDArray
    by_weights: NDArray
    rounding: NDArray

    @property
    def rate(self) -> NDArray:
        """R as recorded, shape (steps,)."""
        return self.recorded.decay_rate.values

    @property
    def ratio(self) -> NDArray:
        """R/η_eff as recorded, shape (steps,)."""
        return self.recorded.decay_ratio.values


def measure(setting: Setting) -> Findings:
    """Train with AdamW, then from the same start and on the same batches with AdamS, with AdamW's λ translated."""
    adamw = recorded_run(setting, "AdamW", DECAY)
    adams = recorded_run(setting, "AdamS", translated_decay(setting, adamw.recorded))
    return Findings(judge_definitions(adamw, adams), {"AdamW": adamw, "AdamS": adams})


# The real runs


def schedule(steps: int) -> Warmup:
    """A linear warm-up, and a cosine over all steps."""
    return Warmup(Cosine(LR, steps, END * LR), steps // WARMING, END)


def recorded_run(setting: Setting, name: str, weight_decay: float) -> RecordedRun:
    """Train, recorded by the probe into a run folder, and watched by a witness that does not use the probe."""
    steps, arguments = QUICK if setting.quick else FULL
    task = character_transformer(**arguments, device=setting.device)
    sizes, plan = [weight.numel() for weight in task.model.parameters()], schedule(steps)
    optimizer = METHODS[name].optimizer(task.model.parameters(), weight_decay=weight_decay)
    witness = Witness(optimizer, steps // WATCHED)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: plan(k) / LR)
    with TemporaryDirectory() as folder:
        record(
            optimizer, task.loss, steps, path=folder, scheduler=falling, quantities="minimal", trajectory=False,
            model=task.model, data=task.description, progress=setting.progress,
        )  # fmt: skip
        recorded = open_recording(folder).load()
    planned = np.array([plan(k) for k in recorded.step.values - 1])
    v_bar = second_moment(np.array(witness.squares) / sum(sizes))
    rates, rounding = np.array(witness.seen).transpose(2, 0, 1)
    watched = witness.every * np.arange(1, len(rates) + 1)
    return RecordedRun(weight_decay, sum(sizes), max(sizes), recorded, planned, v_bar, watched, rates, rounding)


def translated_decay(setting: Setting, recording: Dataset) -> float:
    """AdamW's λ for AdamS, by the second moments of AdamW's run."""
    steps, _ = QUICK if setting.quick else FULL
    adamw, adams = (METHODS[name].rule(lr=schedule(steps)) for name in ("AdamW", "AdamS"))
    return equivalent_weight_decay(adamw, adams, recording).weight_decay


class Witness:
    """Measures the gradients of every step, and the weights before and after every n-th step, with float64 sums.

    squares : list of float — ‖g‖² of each step
    seen : list, shape (times, tensors, 2) — R of each tensor in its weights, and its largest error in float32
    """

    def __init__(self, optimizer: torch.optim.Optimizer, every: int):
        self.every = every
        self.squares: list[float] = []
        self.seen: list[list[tuple[float, float]]] = []
        self._before: list[Tensor] = []
        optimizer.register_step_pre_hook(self._begin)
        optimizer.register_step_post_hook(self._end)

    def _begin(self, optimizer: torch.optim.Optimizer, *_) -> None:
        weights = optimizer.param_groups[0]["params"]
        self.squares.append(sum(in_float64(weight.grad).square().sum().item() for weight in weights))
        if len(self.squares) % self.every == 0:
            self._before = [in_float64(weight) for weight in weights]

    def _end(self, optimizer: torch.optim.Optimizer, *_) -> None:
        group = optimizer.param_groups[0]
        if len(self.squares) % self.every == 0:
            pairs = zip(self._before, group["params"], strict=True)
            self.seen.append(
                [shrunk(old, in_float64(new), own_step(group, optimizer.state[new])) for old, new in pairs]
            )


def in_float64(tensor: Tensor) -> Tensor:
    """A copy in float64, on the same device; on the host if the device has no float64."""
    there = tensor.detach().cpu() if tensor.device.type == "mps" else tensor.detach()
    return there.to(torch.float64, copy=True)


def own_step(group: dict[str, Any], state: dict[str, Tensor]) -> Tensor:
    """Adam's own update of a tensor, without the decay: η·m̂/(√v̂ + ε), from its state after the step."""
    m, v = (
        in_float64(state[name]) / (1 - beta ** state["step"].item())
        for name, beta in zip(("exp_avg", "exp_avg_sq"), group["betas"], strict=True)
    )
    return group["lr"] * m / (v.sqrt() + group["eps"])


def shrunk(before: Tensor, after: Tensor, step: Tensor) -> tuple[float, float]:
    """R of a tensor in its weights, −⟨Δθ + s, θ⟩/⟨θ, θ⟩, and the largest error of R in float32.

    θ is rounded 2½ times by up to 2⁻²⁴: in 1 − R (half as much, because it is below 1), in its product with θ, and
    in the sum with the update s. The update is rounded eight times: in √v, √(1 − β₂ᵏ), their quotient, + ε,
    η/(1 − β₁ᵏ), · m, the division, and again in the sum.

    Examples
    --------
    >>> theta, step = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 5.0])
    >>> rate, rounding = shrunk(theta, 0.75 * theta - step, step)
    >>> rate, rounding / HALF_ULP
    (0.25, 10.5)
    """
    rate = -((after - before + step) * before).sum() / before.square().sum()
    return rate.item(), HALF_ULP * (2.5 + 8 * (step.norm() / before.norm()).item())


def second_moment(squares: NDArray) -> NDArray:
    """v̄ of every step, from the mean of g²: Adam's recursion is linear in g², so the mean obeys it, too.

    Examples
    --------
    >>> second_moment(np.array([4.0, 4.0])).round(12)
    array([4., 4.])
    """
    v, found = 0.0, []
    for k, square in enumerate(squares, start=1):
        v = BETAS[1] * v + (1 - BETAS[1]) * square
        found.append(v / (1 - BETAS[1] ** k))
    return np.array(found)


# The verdicts


def judge_definitions(adamw: RecordedRun, adams: RecordedRun) -> list[Verdict]:
    """The definitions compared with the recordings and the witnesses."""
    after = len(adamw.ratio) // WARMING  # the warm-up
    return [
        _decoupled("AdamW", adamw),
        _follows(adamw),
        _changes(adamw.ratio[after:]),
        must_be_refuted("control: AdamW constant", _constant("AdamW", adamw, adamw.ratio[after])),
        _constant("AdamS", adams, adams.weight_decay),
        _effective_lr(adams),
        must_be_refuted("control: AdamS at λη", _decoupled("AdamS", adams)),
        _in_the_weights("AdamW", adamw, "AdamW", adamw.rate),
        _in_the_weights("AdamS", adams, "AdamS", adams.rate),
        must_be_refuted("control: AdamW's R for AdamS", _in_the_weights("AdamS", adams, "AdamW", adamw.rate)),
    ]


def changed(ratio: NDArray) -> float:
    """The largest of the values, divided by the smallest."""
    return float(ratio.max() / ratio.min())


def _decoupled(name: str, seen: RecordedRun) -> Verdict:
    claim = f"The decay rate R of {name} is λη at every step, with η as scheduled"
    rate = seen.weight_decay * seen.planned
    return judge_curve(f"{name}: R is λη", claim, rate, seen.rate, ROUND_OFF, "rounding in float64")


def _constant(name: str, seen: RecordedRun, value: float) -> Verdict:
    claim = f"The recorded ratio R/η_eff of {name} is {value:.3g} at every step"
    return judge_curve(f"{name}: R/η_eff is λ", claim, value, seen.ratio, ROUND_OFF, "rounding in float64")


def _follows(seen: RecordedRun) -> Verdict:
    claim = "The recorded ratio R/η_eff of AdamW is λ√v̄ at every step, with v̄ from the gradients in float64"
    why = (
        "v is float32: each of 1/(1−β₂) steps rounds β₂, β₂v and the sum, and the mean adds less than 30 roundings; the"
        " root halves the error"
    )
    ratio = seen.weight_decay * np.sqrt(seen.v_bar)
    return judge_curve("AdamW: R/η_eff is λ√v̄", claim, ratio, seen.ratio, STORED, why)


def _changes(ratio: NDArray) -> Verdict:
    return judge_at_least(
        "AdamW: R/η_eff changes",
        f"After the warm-up the largest R/η_eff of AdamW is at least {CHANGES:g} times the smallest",
        least=CHANGES,
        measured=changed(ratio),
        why="the factor has the effect of changing λ by half; chosen after a pilot run from another seed",
    )


def _effective_lr(seen: RecordedRun) -> Verdict:
    claim = "The recorded η_eff of AdamS is η/√v̄ at every step, with v̄ from the gradients in float64"
    why = (
        f"‖g‖² is summed in float32 over up to {seen.longest} terms, whose roundings add up as the root of their"
        " number; the root of v̄ halves the error"
    )
    predicted, recorded = seen.planned / np.sqrt(seen.v_bar), seen.recorded.effective_lr.values[:, 0]
    return judge_curve("AdamS: η_eff is η/√v̄", claim, predicted, recorded, np.sqrt(seen.longest) * HALF_ULP, why)


def _in_the_weights(name: str, seen: RecordedRun, whose: str, rate: NDArray) -> Verdict:
    difference = np.abs(seen.by_weights - rate[seen.watched - 1, None]) / seen.rounding
    times, tensors = difference.shape
    return judge(
        f"{name}: R in the weights",
        f"After Adam's own update is subtracted, each tensor of {name} shrinks by the R recorded of {whose}",
        predicted=0.0,
        measured=difference.max(),
        allowed=1.0,
        why="times what rounding to float32 can explain, 2⁻²⁴·(5/2 + 8‖s‖/‖θ‖) with the update s; the largest of"
        f" {times} steps and {tensors} tensors",
    )


# The figure

RATIO = r"R/η$_{\mathrm{eff}}$"
KEYS = {"AdamW": "AdamW, λ = {:.2g}: R = λη", "AdamS": "AdamS, λ′ = {:.2g}: R = λ′η/√v̄"}


def draw(runs: dict[str, RecordedRun]) -> Figure:
    """The ratio of the decay rate to the effective learning rate in both runs, relative to that of AdamS."""
    adamw, unit = runs["AdamW"], runs["AdamS"].weight_decay
    after, last = len(adamw.ratio) // WARMING, len(adamw.ratio)
    with house_style():
        figure = Figure(figsize=(7.8, 4.6))
        axes = figure.subplots()
        axes.axvspan(0, after, color=MUTED, alpha=0.25, linewidth=0)
        axes.text(0.3 * after, 0.03, "warm-up", transform=axes.get_xaxis_transform(), rotation=90, fontsize=9)
        for name, seen in runs.items():
            _draw_run(axes, name, seen, unit)
        _mark_change(axes, adamw.ratio[after:] / unit, after)
        axes.set(yscale="log", xlabel="step k", ylabel=f"{RATIO}, relative to AdamS", xlim=(0, 1.02 * last))
        axes.set_yticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"])
        axes.minorticks_off()
        keys = [_key(name, seen.weight_decay) for name, seen in runs.items()]
        axes.legend(
            handles=keys,
            loc="upper right",
            title=f"{adamw.weights:,} weights. Lines: theory, points: R measured in the weights",
            alignment="left",
        )
        figure.suptitle(_title(adamw, after), x=0.01, ha="left")
    return figure


def _mark_change(axes: Axes, ratio: NDArray, after: int) -> None:
    """A bracket from the smallest to the largest ratio after the warm-up, with the factor between them."""
    low, high = int(np.argmin(ratio)), int(np.argmax(ratio))
    at, peak = after + 1 + low, float(ratio[high])
    axes.plot(np.sort([at, after + 1 + high]), [peak, peak], color="black", linewidth=0.8, linestyle=":")
    ends = {"arrowstyle": "<->", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (at, peak), xytext=(at, float(ratio[low])), arrowprops=ends)
    axes.text(at, 1.04 * peak, f"× {changed(ratio):.2g} after the warm-up", fontweight="bold", va="bottom")


def _key(name: str, weight_decay: float) -> Line2D:
    style: dict[str, Any] = measured(METHODS[name].mode, linestyle="-", label=KEYS[name].format(weight_decay))
    return Line2D([], [], **style)


def _title(adamw: RecordedRun, after: int) -> str:
    times = f"{changed(adamw.ratio[after:]):.2g}"
    return (
        "While a transformer trains, AdamW's decay per effective learning rate changes\n"
        f"by a factor of {times} after the warm-up, and AdamS keeps it constant"
    )


def rate_by_rule(name: str, seen: RecordedRun) -> NDArray:
    """R by the definition: λη of AdamW, λη/√v̄ of AdamS; v̄ from the gradients. Shape (steps,)."""
    rate = seen.weight_decay * seen.planned
    return rate / np.sqrt(seen.v_bar) if name == "AdamS" else rate


def _draw_run(axes: Axes, name: str, seen: RecordedRun, unit: float) -> None:
    """The ratio by the definitions as a line; points for R as the weights show it, divided by the recorded η_eff."""
    by_rule = rate_by_rule(name, seen) * np.sqrt(seen.v_bar) / seen.planned
    in_weights = np.median(seen.by_weights, axis=1) * (seen.ratio / seen.rate)[seen.watched - 1]
    axes.plot(np.arange(1, len(by_rule) + 1), by_rule / unit, **theory(METHODS[name].mode))
    axes.plot(seen.watched, in_weights / unit, **measured(METHODS[name].mode, markersize=4))


STUDY = Study("transformer", CLAIM, SOURCE, measure, draw, CAPTION)
