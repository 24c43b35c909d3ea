"""What really happened: record, replay, show, plot, export."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from swd_dynamics.cli.app import Device, app, chosen_device
from swd_dynamics.errors import InputError

if TYPE_CHECKING:
    import xarray

FEW_WEIGHTS = 10**5  # up to here a second thread waits more than it works


@app.command
def record(
    *,
    optimizer: str,
    task: str,
    steps: int,
    out: Path,
    lr: float = 0.01,
    weight_decay: float | None = None,
    momentum: float | None = None,
    dampening: float | None = None,
    nesterov: bool | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    schedule: str = "constant",
    warmup: int = 0,
    step_size: int | None = None,
    gamma: float | None = None,
    lr_min: float | None = None,
    quantities: str = "default",
    every: int = 1,
    snapshots: int | None = None,
    trajectory: bool = False,
    seed: int = 0,
    device: Device = "auto",
) -> int:
    """Train a task with a real optimizer and record it, step by step, into a run folder.

    Arguments that are not given are the optimizer's own defaults. Ctrl-C ends the run; what was recorded stays.

    Parameters
    ----------
    optimizer
        SGD, SGDW, SGDS, Adam, AdamW, AdamS, AMSGrad, AMSGradW, AMSGradS or AdaiS.
    task
        quadratic, logistic, network, network-minibatch, transformer or convolution.
    steps
        How many steps.
    out
        Folder for the recording; it must not exist.
    schedule
        Of the learning rate: constant, step (with --step-size and --gamma), or cosine (over all steps, to --lr-min).
    warmup
        Steps in which the learning rate first rises from a third of the schedule's.
    quantities
        A set: minimal, default or dynamics.
    every
        Record every n-th step.
    snapshots
        Keep all weights after every n-th step.
    trajectory
        Record every weight and every gradient, which replay needs; for small tasks.
    seed
        Of the start and of the batches.
    """
    import torch

    from swd_dynamics.optim import OPTIMIZERS
    from swd_dynamics.probe import record as run
    from swd_dynamics.tasks import TASKS

    make = OPTIMIZERS[optimizer]
    chosen = TASKS[task](seed=seed, device=chosen_device(device))
    if len(chosen.theta) <= FEW_WEIGHTS:
        torch.set_num_threads(1)
    given = {"weight_decay": weight_decay, "momentum": momentum, "dampening": dampening, "nesterov": nesterov,
             "betas": betas, "eps": eps}  # fmt: skip
    arguments: dict[str, Any] = {"lr": lr, **_said(given)}
    try:
        made = make(chosen.model.parameters(), **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{optimizer} cannot be made with {arguments}: {error}") from None
    planned = _schedule(schedule, lr, steps, warmup, _said({"step_size": step_size, "gamma": gamma, "lr_min": lr_min}))
    if out.exists():
        raise InputError(f"{out} exists already; give a folder that does not, so that nothing is overwritten")
    recording = run(
        made, chosen.loss, steps, path=out, progress=True, model=chosen.model, seed=seed, data=chosen.description,
        scheduler=torch.optim.lr_scheduler.LambdaLR(made, lambda k: planned(k) / lr),
        quantities=quantities, every=every, snapshots=snapshots, trajectory=trajectory,
    )  # fmt: skip
    print(_outcome(f"{optimizer} on {task}", recording, out))
    failed = str(recording.attrs["status"]).startswith("failed")
    return 130 if recording.attrs["interrupted"] else int(failed)


def _said(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments that were given."""
    return {name: value for name, value in given.items() if value is not None}


def _schedule(name: str, lr: float, steps: int, warmup: int, arguments: dict[str, Any]) -> Callable[[int], float]:
    from swd_dynamics.rules.schedule import SCHEDULES, Warmup

    lasting = {"steps": steps} if name == "cosine" else {}
    try:
        planned = SCHEDULES[name](lr, **lasting, **arguments)
    except TypeError as error:
        raise InputError(f"--schedule {name} cannot be made with {arguments}: {error}") from None
    return Warmup(planned, warmup) if warmup else planned


def _outcome(what: str, recording: "xarray.Dataset", out: Path) -> str:
    """How a run went, in a sentence or two."""
    rows, losses, facts = recording.sizes["step"], recording["loss"].values, recording.attrs
    course = f": loss {losses[0]:.6g} to {losses[-1]:.6g}" if rows else ""
    ends = ["interrupted"] if facts["interrupted"] else []
    ends += [f"diverged at step {facts['diverged_at_step']}"] if facts["diverged_at_step"] >= 0 else []
    ends += [f"is not all recorded: {facts['status']}"] if str(facts["status"]).startswith("failed") else []
    return f"{rows} recorded steps of {what}{course}, in {out}" + "".join(f"\nthe run {end}" for end in ends)


@app.command
def replay(run: Path, *, as_: Annotated[str, Parameter(name="--as")]) -> int:
    """Hold a recorded run against a rule of the catalogue, step by step; exits with 1 if they part.

    Parameters
    ----------
    run
        A folder that record --trajectory wrote.
    as_
        The rule, as AdamW; its numbers are taken from the recording.
    """
    import numpy as np

    from swd_dynamics.crosscheck import recorded_rule
    from swd_dynamics.crosscheck import replay as hold
    from swd_dynamics.recording import open_recording
    from swd_dynamics.rules import CATALOG

    CATALOG[as_]  # a wrong name is said before anything is read
    recording = open_recording(run)
    rule = recorded_rule(as_, recording)
    verdict = hold(rule, recording, name=f"{run} as {as_}")
    print(f"{verdict}\n    the rule, with the recording's numbers: {rule}")
    if not np.any(rule.weight_decay):
        print("    its weight decay is 0: L2, decoupled and stable decay are one rule here")
    return 0 if verdict.passed else 1


@app.command
def show(run: Path) -> None:
    """Say what a recording holds: what made it, and the course of every quantity.

    Parameters
    ----------
    run
        A run folder; the run may still be going on.
    """
    from swd_dynamics.recording import open_recording
    from swd_dynamics.recording.summary import summary

    print(summary(open_recording(run)))


@app.command
def plot(run: Path, *, quantity: list[str], out: Path | None = None) -> None:
    """Draw recorded quantities over the steps.

    Parameters
    ----------
    run
        A run folder; the run may still be going on.
    quantity
        As decay_rate; several times for several panels. show lists them.
    out
        The figure without its ending, written as PNG and SVG: the run's own name beside it, if not given.
    """
    from swd_dynamics.plots import recording, write_figure
    from swd_dynamics.recording import open_recording

    figure = recording(open_recording(run), *quantity)
    name = f"{run.resolve().name}-{'-'.join(quantity)}"
    written = write_figure(figure, out or run.resolve().with_name(name))
    print(f"Wrote {', '.join(map(str, written))}")


@app.command
def export(run: Path, *, to: Path) -> None:
    """Write a recording as one file: netCDF (.nc), or a table (.csv) with one line for each recorded step.

    Parameters
    ----------
    run
        A run folder.
    to
        The file; its ending says which.
    """
    from swd_dynamics.recording import export as write

    print(f"Wrote {write(run, to)}")
