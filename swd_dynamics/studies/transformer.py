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
    "Along the training of a transformer AdamW's decay is not stable: R/η_eff is λ√v̄ and moves with the scale of the "
    "gradients, although R/η is λ throughout; R/η_eff of AdamS stays at λ."
)
SOURCE = "that AdamW's decay is unstable, and AdamS's is not: arXiv 2011.11152 (Xie, Sato & Sugiyama 2020)"

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
MOVES = 1.5  # times: a change of R/η_eff that is as large as a change of λ by half


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
        _moves(adamw.ratio[after:]),
        must_be_refuted("control: AdamW constant", _constant("AdamW", adamw, adamw.ratio[after])),
        _constant("AdamS", adams, adams.weight_decay),
        _effective_lr(adams),
        must_be_refuted("control: AdamS at λη", _decoupled("AdamS", adams)),
        _in_the_weights("AdamW", adamw, "AdamW", adamw.rate),
        _in_the_weights("AdamS", adams, "AdamS", adams.rate),
        must_be_refuted("control: AdamW's R for AdamS", _in_the_weights("AdamS", adams, "AdamW", adamw.rate)),
    ]


def moved(ratio: NDArray) -> float:
    """The largest of the values, divided by the smallest."""
    return float(ratio.max() / ratio.min())


def _decoupled(name: str, seen: RecordedRun) -> Verdict:
    claim = f"The decay rate R of {name} is λη at every step, η as scheduled"
    rate = seen.weight_decay * seen.planned
    return judge_curve(f"{name}: R is λη", claim, rate, seen.rate, ROUND_OFF, "round-off")


def _constant(name: str, seen: RecordedRun, value: float) -> Verdict:
    claim = f"The ratio R/η_eff of {name}, as recorded, is {value:.3g} at every step"
    return judge_curve(f"{name}: R/η_eff is λ", claim, value, seen.ratio, ROUND_OFF, "round-off of float64")


def _follows(seen: RecordedRun) -> Verdict:
    claim = "The ratio R/η_eff of AdamW, as recorded, is λ√v̄ at every step, v̄ from the gradients in float64"
    why = "v is float32: each of 1/(1−β₂) steps rounds β₂, β₂v and the sum, the mean less than 30 times; √ halves it"
    ratio = seen.weight_decay * np.sqrt(seen.v_bar)
    return judge_curve("AdamW: R/η_eff is λ√v̄", claim, ratio, seen.ratio, STORED, why)


def _moves(ratio: NDArray) -> Verdict:
    return judge_at_least(
        "AdamW: R/η_eff moves",
        f"After the warm-up the largest R/η_eff of AdamW is {MOVES:g} times the smallest or more",
        least=MOVES,
        measured=moved(ratio),
        why="as if λ had been changed by half; chosen after a pilot run from another seed",
    )


def _effective_lr(seen: RecordedRun) -> Verdict:
    claim = "The η_eff of AdamS, as recorded, is η/√v̄ at every step, v̄ from the gradients in float64"
    why = f"‖g‖² is summed in float32, up to {seen.longest} terms, whose roundings add up as the root; √v̄ halves it"
    predicted, recorded = seen.planned / np.sqrt(seen.v_bar), seen.recorded.effective_lr.values[:, 0]
    return judge_curve("AdamS: η_eff is η/√v̄", claim, predicted, recorded, np.sqrt(seen.longest) * HALF_ULP, why)


def _in_the_weights(name: str, seen: RecordedRun, whose: str, rate: NDArray) -> Verdict:
    departure = np.abs(seen.by_weights - rate[seen.watched - 1, None]) / seen.rounding
    times, tensors = departure.shape
    return judge(
        f"{name}: R in the weights",
        f"Each tensor of {name}'s weights shrinks, beside Adam's own step, by the R recorded of {whose}",
        predicted=0.0,
        measured=departure.max(),
        allowed=1.0,
        why=f"in units of what float32 may round R by, 2⁻²⁴·(5/2 + 8‖s‖/‖θ‖) with the step s; "
        f"the farthest off of {times} steps and {tensors} tensors",
    )


# The figure

RATIO = r"R/η$_{\mathrm{eff}}$"
KEYS = {
    "AdamW": "AdamW, λ = {:.2g}: R = λη, ratio λ√v̄",
    "AdamS": "AdamS, λ′ = {:.2g}: R = λ′η/√v̄, ratio λ′",
}


def draw(runs: dict[str, RecordedRun]) -> Figure:
    """Left: the decay rate of both runs. Right: its ratio to the effective learning rate."""
    unit, after = runs["AdamS"].weight_decay, len(runs["AdamW"].ratio) // WARMING
    with house_style():
        figure = Figure(figsize=(10, 4.6))
        left, right = figure.subplots(1, 2)
        for name, seen in runs.items():
            by_rule = rate_by_rule(name, seen)
            _draw_run(left, name, by_rule, seen.watched, np.median(seen.by_weights, axis=1))
            recorded = seen.watched - (
                len(seen.ratio) // WATCHED // 2 if name == "AdamS" else 0
            )  # so that the points of both are side by side
            by_rule *= np.sqrt(seen.v_bar) / seen.planned
            _draw_run(right, name, by_rule / unit, recorded, seen.ratio[recorded - 1] / unit)
        _label(left, right, after)
        keys = [_key(name, seen.weight_decay) for name, seen in runs.items()]
        figure.legend(handles=keys, loc="outside lower center", ncols=2)
        figure.suptitle(_title(runs["AdamW"], after), fontsize=12)
    return figure


def _label(left: Axes, right: Axes, after: int) -> None:
    left.set(title="Decay: theory (lines) and as the weights show it (points)", ylabel="decay rate R of a step")
    right.set(title="Its ratio: theory (lines) and as recorded (points)", ylabel=f"{RATIO}, in units of λ′")
    for axes in (left, right):
        axes.set(yscale="log", xlabel="step k")
        axes.axvline(after, color=MUTED, linewidth=1, linestyle="--", zorder=1)
        axes.text(after, 0.02, " end of warm-up", transform=axes.get_xaxis_transform(), fontsize=9)
    right.set_yticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"])
    right.minorticks_off()


def _key(name: str, weight_decay: float) -> Line2D:
    style: dict[str, Any] = measured(METHODS[name].mode, linestyle="-", label=KEYS[name].format(weight_decay))
    return Line2D([], [], **style)


def _title(adamw: RecordedRun, after: int) -> str:
    moves = f"{RATIO} of AdamW moves by a factor of {moved(adamw.ratio[after:]):.2g}"
    return f"A transformer of {adamw.weights:,} weights: {moves}, of AdamS it stays at λ′"


def rate_by_rule(name: str, seen: RecordedRun) -> NDArray:
    """R by the definition: λη of AdamW, λη/√v̄ of AdamS; v̄ from the gradients. Shape (steps,)."""
    rate = seen.weight_decay * seen.planned
    return rate / np.sqrt(seen.v_bar) if name == "AdamS" else rate


def _draw_run(axes: Axes, name: str, by_rule: NDArray, steps: NDArray, seen: NDArray) -> None:
    axes.plot(np.arange(1, len(by_rule) + 1), by_rule, **theory(METHODS[name].mode))
    axes.plot(steps, seen, **measured(METHODS[name].mode, markersize=4))


STUDY = Study("transformer", CLAIM, SOURCE, measure, draw)
