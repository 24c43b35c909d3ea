"""Study: every rule of the catalogue takes the steps of the optimizer with its name, to round-off."""

import json
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import cast

import numpy as np
import xarray
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from swd_dynamics.crosscheck import replay
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.plots import house_style
from swd_dynamics.probe import record
from swd_dynamics.rules import CATALOG, Stable
from swd_dynamics.studies.methods import Method, names_of
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.tasks import Task, quadratic, tanh_network
from swd_dynamics.verdict import Verdict, judge_at_least, must_be_refuted

CLAIM = "Each optimizer of the catalogue steps as its rule says, to round-off, and as no other rule does."
SOURCE = "the definitions of arXiv 2011.11152 (SGDS, AdamS, AdaiS), 2006.15815 (Adai), 1711.05101 (AdamW), torch.optim"

# A wrong rule must miss a run by this many units of round-off: it is a different method, not a different rounding.
LOUD = 1e6
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
    """Departures in units of round-off: rows are recorded runs, columns are rules."""

    runs: list[str]
    rules: list[str]
    departure: np.ndarray


def measure(setting: Setting) -> Findings:
    """Record every real optimizer on both tasks, and replay every recording as every rule."""
    steps = 300 if setting.quick else 5000
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
    return Findings([*verdicts, _quietest(pairings)], pairings)


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
            claim=f"{other}{' with λ/(1−β)' if changed else ''} is {name}: it replays its run",
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
            claim=f"Without momentum {name} is torch's SGD: it replays its run",
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
    """The negative control: a stable decay that is off by a millionth."""
    right = METHODS["AdamS"].rule()
    wrong = replace(right, decay=Stable(cast(Stable, right.decay).weight_decay * (1 + 1e-6)))
    verdict = replace(replay(wrong, recording, causes=False), claim="AdamS takes off a millionth more than λη_eff")
    return must_be_refuted(f"control: λ off by 1e-6 on {task.name}", verdict)


def _quietest(pairings: Pairings) -> Verdict:
    same = {pair for pair, changed in TWINS.items() if not changed}
    wrong = [
        (pairings.departure[i, j], run_name, name)
        for i, run_name in enumerate(pairings.runs)
        for j, name in enumerate(pairings.rules)
        if run_name.split(",")[0] != name and (run_name.split(",")[0], name) not in same
    ]
    quietest, run_name, name = min(wrong)
    return judge_at_least(
        "wrong pairings are loud",
        f"Each of {len(wrong)} wrong pairings departs by at least {LOUD:g} times round-off",
        least=LOUD,
        measured=quietest,
        why=f"a different method, not a different rounding; the quietest is {name} for a run of {run_name}",
    )


def draw(pairings: Pairings) -> Figure:
    """The distance of every run from every rule: only the right rule replays a run."""
    with house_style():
        figure = Figure(figsize=(8.2, 6.4))
        axes = figure.subplots()
        shown = np.minimum(pairings.departure, 1e16)
        image = axes.imshow(shown, norm=LogNorm(1e-1, 1e16), cmap="cividis", aspect="auto")
        for i, j in np.argwhere(pairings.departure <= 1):
            axes.text(j, i, "=", ha="center", va="center", color="white", fontweight="bold", fontsize=13)
        axes.set_xticks(range(len(pairings.rules)), pairings.rules, rotation=40, ha="right")
        axes.set_yticks(range(len(pairings.runs)), pairings.runs)
        axes.set(xlabel="replayed as this rule", ylabel="recorded run", title="= to round-off")
        axes.grid(visible=False)
        axes.axhline(len(pairings.runs) / 2 - 0.5, color="white", linewidth=2)
        figure.colorbar(image, label="largest departure, in units of 8·eps·√k")
        figure.suptitle("Only the right rule replays a run; AdaiW and AdaiS are one method", x=0.01, ha="left")
    return figure


STUDY = Study("update-rules", CLAIM, SOURCE, measure, draw)
