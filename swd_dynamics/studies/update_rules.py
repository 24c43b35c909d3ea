"""Study: the rules of SGD, Adam, AMSGrad and Adai take the steps of the optimizers with their names, up to rounding."""

import json
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import cast

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from swd_dynamics.crosscheck import replay
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.plots import LABELS, MUTED, house_style, measured
from swd_dynamics.probe import record
from swd_dynamics.rules import CATALOG, Stable
from swd_dynamics.studies.methods import Method, names_of
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.tasks import Task, quadratic, tanh_network
from swd_dynamics.verdict import Verdict, judge_at_least, must_be_refuted

CLAIM = (
    "Each optimizer takes the steps of its own rule, up to rounding. Every other of the 12 rules that are compared is"
    " wrong by at least a million times what rounding can explain, unless two names stand for the same method."
)
SOURCE = "the definitions of arXiv 2011.11152 (SGDS, AdamS, AdaiS), 2006.15815 (Adai), 1711.05101 (AdamW), torch.optim"
CAPTION = (
    "The claim's million is the limit that was fixed before the measurement, and the title has the smallest error that"
    " was measured. What rounding can explain is 8·eps·√k of ‖θ‖ after k steps. The errors that are drawn are those of"
    " the first 300 steps, which tell the rules apart; the verdicts on an optimizer's own rule are on all 5000 steps."
    " The arrow goes from the limit to the nearest wrong rule of all runs in the panel. The 12 rules are those of SGD,"
    " Adam, AMSGrad and Adai with L2, decoupled and stable decay. AdaiW and AdaiS are the same method, and so are SGDW"
    " with λ/(1−β) and SGDS. Other rules of the catalogue are not compared, and some of them are the same method as"
    " one of the 12: AdamC is AdamW where η is constant, as in these runs. (The claim said “every other rule in the"
    " catalogue” at first.) A rule that reproduces a run says nothing"
    " about whether its decay is good for training."
)

# Times what rounding can explain: a wrong rule must be off by more, since it is a different method.
FAR = 1e6
TITLES = {"quadratic": "runs on a quadratic", "network-minibatch": "runs of a network on digits"}
LARGEST = 1e16  # larger errors are drawn at this one
SGD_ARGUMENTS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.02}
ADAM_ARGUMENTS = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.05}
ADAI_ARGUMENTS = {"lr": 0.1, "betas": (0.1, 0.99), "eps": 1e-3, "weight_decay": 0.05}
ARGUMENTS = {"SGD": SGD_ARGUMENTS, "Adam": ADAM_ARGUMENTS, "AMSGrad": ADAM_ARGUMENTS, "Adai": ADAI_ARGUMENTS}
METHODS = {name: Method(name, given) for direction, given in ARGUMENTS.items() for name in names_of(direction)}

# Two names for one method: the second rule replays the runs of the first, with the arguments given.
TWINS = {
    ("SGDS", "SGDW"): {"weight_decay": SGD_ARGUMENTS["weight_decay"] / (1 - SGD_ARGUMENTS["momentum"])},
    ("AdaiS", "AdaiW"): {},
}
RECORDED = [name for name in METHODS if name in OPTIMIZERS and name not in {second for _, second in TWINS}]


@dataclass(frozen=True)
class Pairings:
    """The departures of rules from runs, times what rounding can explain: rows are runs, columns are rules."""

    runs: list[str]
    rules: list[str]
    departure: np.ndarray


def measure(setting: Setting) -> Findings:
    """Record every real optimizer on both tasks, and replay every recording as every rule."""
    steps = 150 if setting.quick else 5000
    tasks = [
        quadratic((1.0, 3.0, 0.1, 10.0), start=(1.0, -2.0, 0.5, 1.0), noise=0.1, device=setting.device),
        tanh_network((16,), batch_size=50, device=setting.device),
    ]
    verdicts: list[Verdict] = []
    pairings = Pairings([], list(METHODS), np.empty((0, len(METHODS))))
    for task in tasks:
        for name in setting.track(RECORDED, f"update-rules on {task.name}"):
            recording = run_of(task, METHODS[name], steps)
            verdicts.append(replay(METHODS[name].rule(), recording, name=f"{name} on {task.name}"))
            pairings = _with_row(pairings, f"{name}, {task.name}", recording.isel(step=slice(300), iterate=slice(301)))
            verdicts += _twins(name, task, recording)
            if name == "AdamS":
                verdicts.append(_control(task, recording))
    verdicts += _plain_sgd(tasks[1], steps) + _authors()
    return Findings([*verdicts, _far(pairings)], pairings)


def run_of(task: Task, of: Method, steps: int) -> xarray.Dataset:
    """A recorded run of the real optimizer, from the task's own start."""
    task = task.fresh()
    return record(of.optimizer(task.model.parameters()), task.loss, steps, seed=0, data=task.name)


def _with_row(pairings: Pairings, run_name: str, recording) -> Pairings:
    row = [replay(METHODS[name].rule(), recording, causes=False).measured for name in pairings.rules]
    departure = np.vstack([pairings.departure, np.maximum(row, 1e-3)])
    return replace(pairings, runs=[*pairings.runs, run_name], departure=departure)


def _twins(name: str, task: Task, recording) -> list[Verdict]:
    pairs = [(other, changed) for (run_name, other), changed in TWINS.items() if run_name == name]
    return [
        replace(
            replay(METHODS[other].rule(**changed), recording, name=f"{other} is {name} on {task.name}"),
            claim=f"{other}{' with λ/(1−β)' if changed else ''} is the same method as {name} and replays its run",
        )
        for other, changed in pairs
    ]


def _plain_sgd(task: Task, steps: int) -> list[Verdict]:
    """Without momentum L2, decoupled and stable decay are one method."""
    plain = {"lr": 0.05, "weight_decay": 0.02}
    recording = run_of(task, Method("SGD", plain), min(steps, 1000))
    return [
        replace(
            replay(Method(name, plain).rule(), recording, name=f"{name} without momentum is SGD"),
            claim=f"Without momentum {name} is the same method as torch's SGD and replays its run",
        )
        for name in ("SGDW", "SGDS")
    ]


def _authors() -> list[Verdict]:
    """The trajectories of the authors' own optimizers, replayed by the rules."""
    path = files("swd_dynamics.studies") / "reference" / "authors_open_loop.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    verdicts = []
    for case, made in json.loads(str(arrays["meta"])).items():
        given = {key: tuple(v) if isinstance(v, list) else v for key, v in made["kwargs"].items()}
        name = "AMSGradS" if given.pop("amsgrad", False) else made["optimizer"]
        trajectory = {
            "theta": (("iterate", "weight"), arrays[f"trajectory/{case}"]),
            "gradient": (("step", "weight"), arrays["gradients"]),
        }
        recording = xarray.Dataset(trajectory, attrs={"optimizer": f"{made['optimizer']} of the authors"})
        verdicts.append(replay(CATALOG[name](**given), recording, name=f"authors' {case}"))
    return verdicts


def _control(task: Task, recording) -> Verdict:
    """The negative control: a stable decay that is wrong by a millionth."""
    right = METHODS["AdamS"].rule()
    wrong = replace(right, decay=Stable(cast(Stable, right.decay).weight_decay * (1 + 1e-6)))
    verdict = replay(wrong, recording, causes=False)
    verdict = replace(verdict, claim="R of AdamS is larger than λη_eff by a millionth of itself")
    return must_be_refuted(f"control: λ off by 1e-6 on {task.name}", verdict)


def nearest_wrong(pairings: Pairings, i: int) -> tuple[float, str]:
    """The wrong rule with the smallest error on a run: the error, times what rounding can explain, and its name."""
    run_name = pairings.runs[i].split(",")[0]
    same = {name for (run, name), changed in TWINS.items() if run == run_name and not changed} | {run_name}
    return min(pair for pair in zip(pairings.departure[i], pairings.rules, strict=True) if pair[1] not in same)


def _far(pairings: Pairings) -> Verdict:
    nearest = [(*nearest_wrong(pairings, i), run_name) for i, run_name in enumerate(pairings.runs)]
    error, name, run_name = min(nearest)
    return judge_at_least(
        "wrong rules are far off",
        f"Each wrong rule of the {len(METHODS)} is wrong by at least {FAR:g} times what rounding can explain",
        least=FAR,
        measured=error,
        why=f"a million is no matter of rounding; the nearest of all wrong rules is {name}, for a run of {run_name}",
    )


# The figure


def draw(pairings: Pairings) -> Figure:
    """The errors of all rules on every run: a point for the right rule and grey marks for the others."""
    tasks = list(dict.fromkeys(name.split(", ")[1] for name in pairings.runs))
    smallest = min(nearest_wrong(pairings, i)[0] for i in range(len(pairings.runs)))
    with house_style():
        figure = Figure(figsize=(9.4, 4.6))
        panels = figure.subplots(1, len(tasks), sharex=True, sharey=True)
        for axes, task in zip(panels, tasks, strict=True):
            _draw_task(axes, pairings, task)
        panels[0].set_ylabel("recorded run")
        panels[0].invert_yaxis()
        figure.legend(handles=_keys(), loc="outside lower center", ncols=5)
        figure.suptitle(
            f"Of {len(pairings.rules)} rules only an optimizer's own reproduces its runs up to rounding:\n"
            f"every other of them is wrong by at least {_rounded(smallest)} times what rounding can explain",
            x=0.01,
            ha="left",
        )
    return figure


def _draw_task(axes: Axes, pairings: Pairings, task: str) -> None:
    """The runs on one task, and the gap between the limit and the nearest wrong rule of all of them."""
    rows = [i for i, name in enumerate(pairings.runs) if name.endswith(f", {task}")]
    names = [pairings.runs[i].split(",")[0] for i in rows]
    for height, (i, run_name) in enumerate(zip(rows, names, strict=True)):
        wrong = nearest_wrong(pairings, i)[0]
        errors = np.minimum(pairings.departure[i], LARGEST)
        others = errors[errors >= wrong]
        axes.plot(others, [height] * len(others), "|", color="#555555", markersize=9, alpha=0.8)
        axes.plot(errors[pairings.rules.index(run_name)], height, **measured(METHODS[run_name].mode, markersize=7))
    nearest = min(nearest_wrong(pairings, i)[0] for i in rows)
    axes.axvline(1, color=MUTED, linewidth=1)
    axes.annotate("", (1, 3.5), xytext=(nearest, 3.5), arrowprops={"arrowstyle": "<->", "shrinkA": 0, "shrinkB": 0})
    axes.text(nearest**0.5, 3.4, f"× {_rounded(nearest)}", ha="center", va="bottom", fontweight="bold")
    axes.set(
        xscale="log", title=TITLES.get(task, task), xlabel="largest error, times what rounding can explain (limit: 1)"
    )
    axes.set_yticks(range(len(names)), names)
    axes.minorticks_off()


def _rounded(value: float) -> str:
    """One digit and a power of ten, rounded down, as text for a figure."""
    power = int(np.floor(np.log10(value)))
    return rf"{int(value / 10.0**power)}·10$^{{{power}}}$"


def _keys() -> list[Line2D]:
    modes = ("L2", "decoupled", "stable")
    right = [Line2D([], [], **measured(mode, label=f"its own rule, {LABELS[mode]}")) for mode in modes]
    return [*right, Line2D([], [], color="#555555", marker="|", linestyle="none", label="the other rules")]


STUDY = Study("update-rules", CLAIM, SOURCE, measure, draw, CAPTION)
