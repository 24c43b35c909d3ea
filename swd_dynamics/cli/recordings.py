"""Commands for real runs: record, replay, show, plot, export."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from swd_dynamics.cli.app import As, Device, WeightDecay, Whole, app, chosen_device, refuse_existing
from swd_dynamics.errors import InputError
from swd_dynamics.tables import in_any_case

if TYPE_CHECKING:
    import xarray

# Number of weights up to which torch uses one thread. A second thread would wait more than compute;
# with half as many, tasks between the two numbers take longer.
FEW_WEIGHTS = 10**5


@app.command
def record(
    *,
    optimizer: str,
    task: str,
    steps: Whole,
    out: Path,
    lr: float = 0.01,
    weight_decay: WeightDecay = None,
    momentum: float | None = None,
    dampening: float | None = None,
    nesterov: bool | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    schedule: str = "constant",
    warmup: Whole = 0,
    step_size: Whole | None = None,
    gamma: float | None = None,
    lr_min: float | None = None,
    quantities: str = "default",
    every: Whole = 1,
    landscape_every: Whole | None = None,
    snapshots: Whole | None = None,
    trajectory: bool = False,
    overwrite: bool = False,
    seed: Whole = 0,
    device: Device = "auto",
) -> int:
    """Train a task with a real optimizer and record every step into a run folder.

    Optimizer arguments that are not given have the optimizer's own defaults. Ctrl-C ends the run,
    and the recorded steps are kept. Example:

        swd-dynamics record --optimizer AdamW --task network --steps 500 --out run

    Parameters
    ----------
    optimizer
        Optimizer that trains: SGD, SGDW, SGDS, SGDIndependent, SGDC, SGDCautious, Adam, AdamW,
        AdamS, AdamIndependent, AdamC, AdamCautious, AdamPreconditioned, AMSGrad, AMSGradW,
        AMSGradS, AdaiS, RMSprop, Adagrad, Adadelta, Adamax, NAdam, NAdamW, RAdam, RAdamW,
        AdafactorW, Rprop, ASGD or MuonW.
    task
        What is trained: quadratic, logistic, network, network-minibatch, transformer, convolution
        or mnist1d.
    steps
        Number of steps.
    out
        Folder for the recording, which must not exist yet.
    overwrite
        If the folder holds an earlier recording, delete that first.
    lr
        Learning rate η.
    weight_decay
        Weight decay λ.
    momentum
        Momentum β of the SGD family.
    dampening
        Dampening τ of the momentum, for SGD.
    nesterov
        Use Nesterov's momentum, in the SGD family.
    betas
        The two decay rates β₁ and β₂ of the moments, in the Adam family.
    eps
        The number ε that is added to √v̂, in the Adam family.
    schedule
        Schedule of the learning rate: constant, step (see --step-size and --gamma) or cosine (see
        --lr-min).
    warmup
        Warm-up: number of steps in which the learning rate rises linearly from a third of its
        scheduled value.
    step_size
        For --schedule step: number of steps after which the learning rate is multiplied by --gamma.
    gamma
        For --schedule step: the factor by which the learning rate is multiplied.
    lr_min
        For --schedule cosine: the learning rate at the end of the run.
    quantities
        Set of recorded quantities: minimal, default, dynamics or landscape; or names, separated by
        commas, for example loss,critical_sharpness. landscape has the sharpness of the loss on all
        data, how decay and gradient change it, and the critical sharpness.
    landscape_every
        Measure the sharpness and the other quantities of landscape only in every n-th step, for
        example --quantities loss,sharpness --landscape-every 100; without it, in every recorded step.
    every
        Record only every n-th step.
    snapshots
        Keep all weights after every n-th step.
    trajectory
        Record every weight and every gradient, which replay needs; for small tasks.
    seed
        Seed of the initial weights and of the batches.
    device
        Where to train: cpu, cuda, or auto, which is cuda if there is a GPU.
    """
    import torch

    from swd_dynamics.checks import whole_number
    from swd_dynamics.optim import OPTIMIZERS
    from swd_dynamics.probe import Landscape
    from swd_dynamics.probe import record as run
    from swd_dynamics.probe.landscape import needs_landscape
    from swd_dynamics.probe.quantities import SETS
    from swd_dynamics.probe.quantities import chosen as chosen_quantities
    from swd_dynamics.recording.removal import replaced
    from swd_dynamics.tasks import TASKS

    steps = whole_number("steps", steps, 1, sys.maxsize)
    optimizer, task = in_any_case(optimizer, OPTIMIZERS), in_any_case(task, TASKS)
    make = OPTIMIZERS[optimizer]
    chosen = TASKS[task](seed=seed, device=chosen_device(device))
    if len(chosen.theta) <= FEW_WEIGHTS:
        torch.set_num_threads(1)
    given = {
        "weight_decay": weight_decay, "momentum": momentum, "dampening": dampening,
        "nesterov": nesterov, "betas": betas, "eps": eps,
    }  # fmt: skip
    arguments: dict[str, Any] = {"lr": lr, **_said(given)}
    try:
        made = make(chosen.model.parameters(), **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{optimizer} cannot be made with {arguments}: {error}") from None
    measured = chosen_quantities(quantities.split(",") if quantities not in SETS else quantities)
    if landscape_every is not None and not needs_landscape(measured):
        raise InputError("--landscape-every has no use without a quantity of landscape: add --quantities landscape")
    often = 1 if landscape_every is None else whole_number("landscape-every", landscape_every, 1)
    around = Landscape(lambda: chosen.full_loss(chosen.model), often)
    shape = _said({"step_size": step_size, "gamma": gamma, "lr_min": lr_min})
    planned = _schedule(schedule, lr, steps, warmup, shape)
    refuse_existing([out], overwrite)
    scheduler = torch.optim.lr_scheduler.LambdaLR(made, lambda k: planned(k) / lr)
    with replaced(out) if out.exists() else nullcontext():
        recording = run(
            made, chosen.loss, steps, path=out, progress=True, scheduler=scheduler,
            model=chosen.model, seed=seed, data=chosen.description,
            quantities=measured, every=every, snapshots=snapshots, trajectory=trajectory,
            landscape=around if needs_landscape(measured) else None,
        )  # fmt: skip
    print(_outcome(f"{optimizer} on {task}", recording, out))
    failed = str(recording.attrs["status"]).startswith("failed")
    return 130 if recording.attrs["interrupted"] else int(failed)


def _said(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments that were given."""
    return {name: value for name, value in given.items() if value is not None}


def _schedule(
    name: str,
    lr: float,
    steps: int,
    warmup: int,
    arguments: dict[str, Any],
) -> Callable[[int], float]:
    from swd_dynamics.checks import whole_number
    from swd_dynamics.rules.schedule import SCHEDULES, Warmup

    lasting = {"steps": steps} if name == "cosine" else {}
    try:
        planned = SCHEDULES[name](lr, **lasting, **arguments)
    except TypeError as error:
        raise InputError(f"--schedule {name} cannot be made with {arguments}: {error}") from None
    return Warmup(planned, warmup) if whole_number("warmup", warmup) else planned


def _outcome(what: str, recording: "xarray.Dataset", out: Path) -> str:
    """How a run ended, in a sentence or two."""
    from swd_dynamics.recording.summary import course_of_loss

    rows, facts = recording.sizes["step"], recording.attrs
    said = [f"{rows} recorded steps of {what}, in {out}"]
    said.append(course_of_loss(recording["step"].values, recording["loss"].values))
    if facts["interrupted"]:
        said.append("the run was interrupted")
    if facts["diverged_at_step"] >= 0:
        said.append(f"the run diverged at step {facts['diverged_at_step']}")
    if str(facts["status"]).startswith("failed"):
        said.append(f"the run is not completely recorded: {facts['status']}")
    return "\n".join(filter(None, said))


@app.command
def replay(run: Path, *, as_: Annotated[str, As]) -> int:
    """Compare a recorded run with a rule of the catalogue, step by step.

    Where they differ, the cause is named if it is known, and the exit code is 1. Example:

        swd-dynamics replay run --as AdamW

    Parameters
    ----------
    run
        A run folder that record --trajectory has written.
    as_
        Name of the rule, for example AdamW. Its numbers are read from the recording.
    """
    import numpy as np

    from swd_dynamics.crosscheck import recorded_rule
    from swd_dynamics.crosscheck import replay as compare
    from swd_dynamics.rules import CATALOG

    CATALOG[as_]  # refuses a wrong name before anything is read
    recording = _recording(run)
    verdict = compare(as_, recording, name=f"{run} as {as_}")  # first: it says what the recording lacks
    rule = recorded_rule(as_, recording)
    print(f"{verdict}\n    the rule, with the recording's numbers: {rule}")
    if not np.any(rule.weight_decay):
        print("    its weight decay is 0, so that L2, decoupled and stable decay are the same rule")
    return 0 if verdict.passed else 1


@app.command
def show(run: Path) -> None:
    """Print what made a recording, and the course of every quantity.

    For example:

        swd-dynamics show run

    Parameters
    ----------
    run
        A run folder. The run may still be in progress.
    """
    from swd_dynamics.recording.lock import status_now
    from swd_dynamics.recording.summary import summary

    recording = _recording(run)
    print(summary(recording.assign_attrs(status=status_now(run, recording.attrs["status"]))))


@app.command
def plot(
    run: Path,
    *,
    quantity: list[str] | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Draw recorded quantities over the steps.

    For example:

        swd-dynamics plot run --quantity loss --quantity decay_rate

    Parameters
    ----------
    run
        A run folder. The run may still be in progress.
    quantity
        Name of a quantity, for example decay_rate; give it several times for several panels. show
        lists the names. By default the loss and R/η_eff are drawn.
    out
        Path of the figure without its ending; it is written as PNG and SVG. By default the figure
        is written next to the run folder, and its name begins with the folder's name.
    overwrite
        Write even if there are files of these names.
    """
    from swd_dynamics.plots import recording, write_figure
    from swd_dynamics.plots.style import figure_paths

    opened = _recording(run)
    named = quantity or []
    figure = recording(opened, *named)
    _refuse_unknown(opened, named)
    name = "-".join([run.resolve().name, *named])
    stem = run.resolve().with_name(name) if out is None else out
    refuse_existing(figure_paths(stem), overwrite)
    print(f"Wrote {', '.join(map(str, write_figure(figure, stem)))}")


@app.command
def explain(
    run: Path,
    *,
    as_: Annotated[str | None, As] = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Compare a recorded run with the laws of its optimizer: norm and rotation of every parameter, and a figure.

    For example:

        swd-dynamics explain run --overwrite

    Parameters
    ----------
    run
        A run folder. The run may still be in progress.
    as_
        Name of the rule, for example AdamW. By default the rule of the recorded optimizer is taken.
    out
        Path of the figure without its ending; it is written as PNG and SVG. By default the figure is
        written next to the run folder, and its name is that of the folder with -explained.
    overwrite
        Write even if there are files of these names.
    """
    from swd_dynamics.crosscheck import explain as compare_with_laws
    from swd_dynamics.plots import explained, write_figure
    from swd_dynamics.plots.style import figure_paths

    stem = run.resolve().with_name(f"{run.resolve().name}-explained") if out is None else out
    refuse_existing(figure_paths(stem), overwrite)
    found = compare_with_laws(_recording(run), as_)
    print(found)
    print(f"Wrote {', '.join(map(str, write_figure(explained(found), stem)))}")


def _refuse_unknown(recording: "xarray.Dataset", quantities: list[str]) -> None:
    """Refuse to draw a quantity that has no value in any step, and say why."""
    from swd_dynamics.recording.summary import fact_in_words

    for name in quantities:
        if not recording[name].notnull().any():
            reasons = recording.attrs.get(f"{name.partition('_')[0]}_unknown_because")
            why = fact_in_words(reasons) if reasons else "the optimizer does not have it"
            raise InputError(f"{name} has no value in any step: {why}")


@app.command
def export(run: Path, *, to: Path, overwrite: bool = False) -> None:
    """Write a recording as one file: netCDF (.nc), or a table (.csv) with a line for each step.

    For example:

        swd-dynamics export run --to run.csv

    Parameters
    ----------
    run
        A run folder.
    to
        Path of the file. Its ending, .nc or .csv, decides the format.
    overwrite
        Write even if there is a file of this name.
    """
    from swd_dynamics.recording import export as write

    refuse_existing([to], overwrite)
    _recording(run)
    print(f"Wrote {write(run, to)}")


def _recording(run: Path) -> "xarray.Dataset":
    """The recording in a folder, which must not hold a sweep."""
    from swd_dynamics.recording import open_recording

    opened = open_recording(run)
    if "sweep" in opened.attrs:
        raise InputError(
            f"{run} holds a sweep ({opened.sizes['step']} runs are done), not a recording. The command sweep, or"
            " swd_dynamics.sweep, with the same arguments shows the results and trains what is missing"
        )
    return opened
