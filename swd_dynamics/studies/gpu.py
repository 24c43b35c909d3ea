"""Study: the rules reproduce what a GPU did, up to the rounding of its arithmetic."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from xarray import Dataset

from swd_dynamics.crosscheck import recorded_rule, replay
from swd_dynamics.crosscheck.near_rules import NEAR_RULES, AlteredRule
from swd_dynamics.crosscheck.stepping import allowed_departure, departures
from swd_dynamics.plots import LABELS, MUTED, house_style, measured
from swd_dynamics.rules import L2, NoDecay
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.reference_runs import ReferenceRun, committed_runs, read, reference_runs
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.verdict import Verdict, judge, must_be_refuted
from swd_dynamics.verification.single_steps import BFLOAT16, single_steps

CLAIM = (
    "The rules reproduce what a GPU did in float64, float32 and bfloat16, up to the rounding of its arithmetic."
    " In each of these arithmetics an error of 1 % in λ is more than rounding can explain."
)
SOURCE = "the definitions of arXiv 2011.11152 (SGDS, AdamS, AdaiS), 1711.05101 (AdamW), torch.optim; IEEE 754 rounding"

CAPTION = (
    "Left: each row is an arithmetic. A coloured point is one recorded run on the GPU, compared with its own rule,"
    " and a grey mark is such a run compared with a wrong rule. To the right of the grey line rounding cannot explain"
    " the error. The number after “from” is the smallest error with λ off by 1 %. Right: for AdamW and AdamS on the"
    " network, the smallest error of λ that puts a run to the right of the grey line on the left. The largest of"
    " these eight is bold. foreach and fused are torch's two kernels: foreach rounds to bfloat16 after each operation"
    " of a step, fused rounds only the numbers that it stores. ε in the root means that ε is added to v̂ under the"
    " square root, and not to √v̂. In bfloat16 every step is compared from the recorded weights and state, because"
    " the rounding of whole runs would hide an error. There the right rules come to 0.9999 of the limit without being"
    " adjusted: the limit of a number that is rounded once is half a unit in its last place, and of tens of thousands"
    " of roundings in a run the largest is nearly that. With the fused kernel AdamW rounds a weight only once, so"
    " that the right rule comes close to the limit, and even a small error in λ is beyond it. foreach rounds a weight"
    " twice, and AdamS rounds R, too. Then the limit is the sum of several roundings, which are hardly ever all at"
    " their largest, and only a larger error in λ is beyond it. The error of 1 % is tested in 44 of the 48 runs: in"
    " bfloat16 on the network only, because the quadratic has too few weights. The study shows that the rules are"
    " right about the arithmetic of this card and of these kernels only."
)

OFF = 0.01  # an error of λ by one hundredth must be seen in every arithmetic
GROWTH = 0.05  # in each step: the difference would be two million times as large after 300 steps
LAMBDA_OFF = "λ off by 1 %"
WRONG: dict[str, Callable[[AlteredRule], AlteredRule | None]] = {
    LAMBDA_OFF: lambda rule: off(rule, OFF),
    "ε in the root": NEAR_RULES["eps-inside"].change,
    "decay after the step": lambda rule: NEAR_RULES["decay-after"].change(rule) if is_decoupled(rule) else None,
}
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7}
REPEATABLE = ("float64", "float32")  # the dtypes in which this machine's CPU repeats the runs
SHOWN = ("AdamW", "AdamS")
REPEATED = ("SGD", *SHOWN)  # the runs that the short form repeats on the CPU


def is_decoupled(rule: AlteredRule) -> bool:
    """Whether the decay is a line of its own in the step: with L2 it is a part of the gradient."""
    return not isinstance(rule.rule.decay, L2 | NoDecay)


class Seen(NamedTuple):
    """A run of the GPU and the rule that it claims to follow."""

    run: ReferenceRun
    recording: Dataset
    rule: AlteredRule

    @property
    def arithmetic(self) -> str:
        """The dtype, and in bfloat16 the kernel."""
        return f"{self.run.dtype} {self.run.kernel}" if self.run.dtype == "bfloat16" else self.run.dtype


@dataclass(frozen=True)
class Found:
    """What the figure shows.

    Attributes
    ----------
    right : dict of (arithmetic, name, task) to float — the largest error of the rule, times what rounding can explain
    wrong : dict of (arithmetic, wrong) to array — the same of a wrong rule, for each run whose rule has that line
    errors : dict of (arithmetic, name) to float — the smallest relative error of λ that rounding cannot explain
    card : str — the GPU
    """

    right: dict[tuple[str, str, str], float]
    wrong: dict[tuple[str, str], NDArray]
    errors: dict[tuple[str, str], float]
    card: str


def measure(setting: Setting) -> Findings:
    """Replay every committed recording, with right and wrong rules, and repeat some of the runs on the CPU."""
    path = committed_runs()
    if path is None:
        return Findings([_nothing()], None)
    seen = [_seen(run, read(path, run.key)) for run in reference_runs()]
    verdicts = [_replayed(each) for each in setting.track(seen, "gpu: replays")]
    right = {(e.arithmetic, e.run.name, e.run.task): v.measured for e, v in zip(seen, verdicts, strict=True)}
    shown = [each for each in seen if each.run.task == "network" and each.run.name in SHOWN]
    errors = {(e.arithmetic, e.run.name): smallest_error(e) for e in setting.track(shown, "gpu: errors of λ")}
    verdicts += [_smallest_error(*pair, error) for pair, error in errors.items()]
    wrong: dict[tuple[str, str], NDArray] = {}
    for arithmetic in dict.fromkeys(each.arithmetic for each in seen):
        alike = [each for each in seen if each.arithmetic == arithmetic]
        for name in WRONG:
            # The quadratic has too few weights for bfloat16: hardly any of their roundings is near its limit.
            coarse = name == LAMBDA_OFF and alike[0].run.dtype == "bfloat16"
            found = _errors_of_wrong([e for e in alike if not coarse or e.run.task == "network"], name)
            wrong[arithmetic, name] = np.array(list(found.values()))
            verdicts.append(_control(arithmetic, name, found))
    repeated = [each for each in seen if each.run.task == "network" and each.run.dtype in REPEATABLE]
    if setting.quick:
        repeated = [each for each in repeated if each.run.name in REPEATED]
    apart = {(e.run.dtype, e.run.name): difference(e) for e in setting.track(repeated, "gpu: the same on the CPU")}
    for dtype in REPEATABLE:
        verdicts += _on_the_cpu(dtype, {name: each for (of, name), each in apart.items() if of == dtype})
    return Findings(verdicts, Found(right, wrong, errors, seen[0].recording.attrs["device_name"]))


def _nothing() -> Verdict:
    why = "no recording made on a GPU is committed: .ci/gpu makes the recordings on a machine that has one"
    return Verdict("recordings", CLAIM, "some recordings", "none", "any more", why, "inconclusive")


def _seen(run: ReferenceRun, recording: Dataset) -> Seen:
    labels = np.zeros(recording.sizes["weight"], int)  # all weights are in one group; no near rule here needs tensors
    return Seen(run, recording, AlteredRule(recorded_rule(run.name, recording), labels, labels))


def worst(seen: Seen, rule: AlteredRule) -> float:
    """The largest error of a rule on a run, times what rounding in the run's arithmetic can explain."""
    if seen.run.dtype == "bfloat16":
        found = single_steps(rule, seen.recording, BFLOAT16[seen.run.name, seen.run.kernel])
        return float(max(found.weights.max(), found.state.max()))
    theta, gradient = (np.asarray(seen.recording[name], float) for name in ("theta", "gradient"))
    departure = np.array(list(departures(rule, theta, gradient)))
    return float((departure / allowed_departure(len(gradient), EPS[seen.run.dtype])).max())


def off(rule: AlteredRule, error: float) -> AlteredRule:
    """The rule with a λ that is too large by a relative error."""
    decay: Any = rule.rule.decay
    return rule.with_decay(replace(decay, weight_decay=decay.weight_decay * (1 + error)))


def _replayed(seen: Seen) -> Verdict:
    if seen.run.dtype != "bfloat16":
        return replay(seen.rule.rule, seen.recording, name=seen.run.key)
    return judge(
        seen.run.key,
        f"Each of {seen.recording.sizes['step']} recorded steps of {seen.run.name} is the step of {seen.rule.rule.name}"
        " from the recorded weights and state",
        predicted=0.0,
        measured=worst(seen, seen.rule),
        allowed=1.0,
        why=f"times what rounding in the {seen.run.kernel} kernel can explain; the weight or number of the optimizer"
        " state with the largest error",
    )


def smallest_error(seen: Seen) -> float:
    """The smallest relative error of λ, to a tenth of itself, that rounding cannot explain."""
    low, high = EPS["float64"], 1.0
    while high / low > 1.1:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if worst(seen, off(seen.rule, middle)) > 1 else (middle, high)
    return high


def _smallest_error(arithmetic: str, name: str, error: float) -> Verdict:
    return judge(
        f"smallest error of λ: {name}, {arithmetic}",
        f"Rounding cannot explain an error of 1 % in λ in the run of {name} on the network",
        predicted=0.0,
        measured=error,
        allowed=OFF,
        why="the number is the smallest error of λ that rounding cannot explain; 1 % must be found",
    )


def _errors_of_wrong(alike: Iterable[Seen], wrong: str) -> dict[str, float]:
    """The error of a wrong rule on each run whose rule has the line that is wrong, by the run's key."""
    changed = [(seen, WRONG[wrong](seen.rule)) for seen in alike]
    return {seen.run.key: worst(seen, rule) for seen, rule in changed if rule is not None}


def _control(arithmetic: str, wrong: str, found: dict[str, float]) -> Verdict:
    """The run on which the error of a wrong rule is smallest."""
    quietest = min(found, key=lambda key: found[key])
    false = judge(
        wrong,
        f"With {wrong} the rules reproduce at least one of {len(found)} runs",
        predicted=0.0,
        measured=found[quietest],
        allowed=1.0,
        why=f"the run with the smallest error, {quietest}",
    )
    return must_be_refuted(f"control: {wrong}, {arithmetic}", false)


def difference(seen: Seen) -> NDArray:
    """The difference of the same run on the CPU and on the GPU after each step, relative to ‖θ‖."""
    theta = np.asarray(seen.recording["theta"], float)
    here = np.asarray(seen.run.recorded("cpu", seen.recording.sizes["step"])["theta"], float)
    return (np.linalg.norm(here - theta, axis=1) / np.linalg.norm(theta, axis=1))[1:]


def first_step(apart: NDArray) -> int:
    """The number of the first step after which two runs differ; one more than there are steps if none."""
    return int(np.argmax(apart > 0)) + 1 if apart.any() else len(apart) + 1


def growth_of_distance(apart: NDArray) -> float:
    """The relative growth of the difference per step, from the first to the last, as a mean; 0 without any."""
    first = first_step(apart)
    steps = len(apart) - first
    return float((apart[-1] / apart[first - 1]) ** (1 / steps) - 1) if steps > 0 else 0.0


def _on_the_cpu(dtype: str, apart: dict[str, NDArray]) -> list[Verdict]:
    """Two verdicts on the runs of one dtype that were repeated on the CPU."""
    away = {name: (each / allowed_departure(len(each), EPS[dtype])).max() for name, each in apart.items()}
    farthest, fastest = (
        max(away, key=lambda name: away[name]),
        max(apart, key=lambda name: growth_of_distance(apart[name])),
    )
    first = min(map(first_step, apart.values()))
    near = judge(
        f"CPU beside GPU, {dtype}",
        f"Each of {len(apart)} runs on the network, repeated on a CPU, equals that on the GPU up to rounding",
        predicted=0.0,
        measured=away[farthest],
        allowed=1.0,
        why=f"times what rounding can explain if nothing amplifies it, 8·eps·√k; the largest is that of {farthest}",
        first_departure=first,
    )
    grows = judge(
        f"CPU beside GPU, growth, {dtype}",
        f"Once CPU and GPU differ, the difference grows by less than {100 * GROWTH:g} % in a step",
        predicted=0.0,
        measured=growth_of_distance(apart[fastest]),
        allowed=GROWTH,
        why=f"chosen after a pilot run, because the difference grows faster in a chaotic run; the fastest is {fastest}",
    )
    return [near, grows]


# The figure

ROWS = ("float64", "float32", "bfloat16 foreach", "bfloat16 fused")  # from above
TOP = -1.3  # of the vertical axis, so that the legends are above the first row
CROSSES = {LAMBDA_OFF: "|", "ε in the root": "x", "decay after the step": "+"}
NAMES = ("float64", "float32", "bfloat16,\nforeach", "bfloat16,\nfused")


def draw(found: Found | None) -> Figure:
    """The errors of right and wrong rules; the smallest error of λ that rounding cannot explain."""
    with house_style():
        figure = Figure(figsize=(10, 4.9))
        if found is None:
            figure.suptitle("No recording made on a GPU is committed", x=0.01, ha="left")
            return figure
        left, right = figure.subplots(1, 2, width_ratios=(5, 4))
        _draw_rules(left, found)
        _draw_errors(right, found.errors)
        figure.suptitle(
            f"The rules reproduce {len(found.right)} runs of a GPU ({found.card}) up to rounding:\n"
            f"for {' and '.join(SHOWN)} on a network, an error of {100 * max(found.errors.values()):.2g} % in λ is more"
            " than rounding can explain",
            x=0.01,
            ha="left",
        )
    return figure


def _draw_rules(axes: Axes, found: Found) -> None:
    for (arithmetic, name, _), error in found.right.items():
        style: dict[str, Any] = measured(Method(name, {}).mode, markersize=5, alpha=0.7, label=None)
        axes.plot(error, ROWS.index(arithmetic), **style)
    for (arithmetic, wrong), values in found.wrong.items():
        height = ROWS.index(arithmetic) + 0.18 * (list(CROSSES).index(wrong) + 1)
        axes.plot(values, np.full(len(values), height), linestyle="none", marker=CROSSES[wrong], color="#555555")
        if wrong == LAMBDA_OFF:  # near the limit in bfloat16, where points cannot show on which side they are
            said = f"  from {_beyond_one(min(values))}"
            axes.text(max(values), height, said, fontsize=8, va="center", color="#555555")
    axes.axvline(1, color=MUTED, linewidth=1)
    modes = [Line2D([], [], **measured(mode, label=LABELS[mode])) for mode in ("L2", "decoupled", "stable")]
    crosses = [Line2D([], [], linestyle="none", marker=m, color="#555555", label=w) for w, m in CROSSES.items()]
    style = {"fontsize": 8, "title_fontsize": 8, "alignment": "left", "loc": "upper left"}
    axes.add_artist(axes.legend(handles=modes, title="right rules", bbox_to_anchor=(0.28, 1), **style))
    axes.legend(handles=crosses, title="wrong rules (controls)", bbox_to_anchor=(0.6, 1), **style)
    axes.set(xscale="log", xlim=(1e-3, 1e14), ylim=(3.8, TOP), yticks=range(len(ROWS)), yticklabels=NAMES)
    axes.set(ylabel="arithmetic of the run", xlabel="largest error, times what rounding can explain (limit: 1)")
    axes.minorticks_off()


def _beyond_one(value: float) -> str:
    """A number with two digits, or with as many more as show that it is not 1."""
    return next(text for digits in range(2, 16) if (text := f"{value:.{digits}g}") != "1")


def _draw_errors(axes: Axes, errors: dict[tuple[str, str], float]) -> None:
    worst_of_all = max(errors.values())
    for (arithmetic, name), error in errors.items():
        height = ROWS.index(arithmetic) + (0.12 if name == "AdamS" else -0.12)
        axes.plot(100 * error, height, **measured(Method(name, {}).mode, markersize=6, label=None))
        weight = "bold" if error == worst_of_all else "normal"
        said = f"{100 * error:.2g} %"
        axes.text(100 * error / 2.5, height, said, fontsize=9, va="center", ha="right", fontweight=weight)
    axes.axvline(100 * OFF, color=MUTED, linewidth=1)
    axes.text(100 * OFF, TOP + 0.3, "1 % ", ha="right", fontsize=9, color="#555555")
    handles = [Line2D([], [], **measured(Method(name, {}).mode, label=name)) for name in SHOWN]
    axes.legend(handles=handles, fontsize=8, loc="upper left")
    axes.set(xscale="log", xlim=(1e-15, 10), ylim=(3.8, TOP), yticks=range(len(ROWS)), yticklabels=NAMES)
    axes.set(xlabel="smallest error of λ that rounding\ncannot explain, in % of λ")
    axes.minorticks_off()


STUDY = Study("gpu", CLAIM, SOURCE, measure, draw, CAPTION)
