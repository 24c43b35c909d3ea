"""The command line. Each command imports what it needs when it is run, so that help comes at once."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from swd_dynamics.errors import InputError, Table

app = App(
    name="swd-dynamics",
    help="Derive, simulate and check the dynamics of weight decay against real optimizers.",
    version_flags=["--version"],
    default_parameter=Parameter(negative=()),
)

Device = Literal["auto", "cpu", "cuda"]
DERIVATIONS = Table(
    "derivation",
    **{
        "equations": "equations",
        "modified-equation": "modified_equation",
        "fixed-point": "fixed_point",
        "linear-map": "linear_map",
        "eigenvalues": "eigenvalues",
        "stability-limit": "stability_limit",
        "long-run-decay-rate": "long_run_decay_rate",
    },
)


@app.command
def studies() -> None:
    """List the studies, each with its claim."""
    from swd_dynamics.studies import MODULES, load

    for name in MODULES:
        print(f"{name:20}{load(name).claim}")


@app.command
def reproduce(*names: str, quick: bool = False, device: Device = "auto", out: Path | None = None) -> int:
    """Run studies, print the ledger of their verdicts, write their figures.

    Exits with 1 if a verdict's status departs from the committed ledger.

    Parameters
    ----------
    names
        Studies to run; all of them if none is named.
    quick
        Shorter runs of the same claims.
    device
        Where training runs; auto takes a GPU where there is one.
    out
        Folder for figures and verdicts.json: figures, or figures/quick with --quick.
    """
    from swd_dynamics.crosscheck import ledger_text
    from swd_dynamics.studies import Setting
    from swd_dynamics.studies.reproduce import reproduce as run

    setting = Setting(quick=quick, device=_device(device), progress=True)

    def announce(study, verdicts) -> None:
        print(f"\n{study.name}: {study.claim}\n{ledger_text(verdicts)}", flush=True)

    result = run(names, setting=setting, out=out or Path("figures/quick" if quick else "figures"), announce=announce)
    verdicts = [v for found in result.verdicts.values() for v in found]
    counts = ", ".join(f"{sum(v.status == s for v in verdicts)} {s}" for s in ("confirmed", "refuted", "inconclusive"))
    print(f"\n{len(verdicts)} verdicts on {setting.device}: {counts}. Wrote {', '.join(map(str, result.written))}")
    for departure in result.departures:
        print(f"departs from the committed ledger: {departure}")
    return 1 if result.departures else 0


@app.command
def derive(
    name: str,
    *,
    what: str = "modified-equation",
    momentum: Annotated[bool, Parameter(negative="--no-momentum")] = True,
    nesterov: bool = False,
    dampening: bool = False,
    latex: bool = False,
) -> None:
    """Derive a result from an optimizer's rule, in letters, step by step.

    Parameters
    ----------
    name
        An optimizer of the catalogue, as AdamS.
    what
        equations, modified-equation, fixed-point, linear-map, eigenvalues, stability-limit or long-run-decay-rate.
    momentum
        For the SGD family: with momentum.
    nesterov
        For the SGD family: Nesterov's momentum.
    dampening
        For the SGD family: with dampening.
    latex
        Print the result as LaTeX, without the steps.
    """
    from swd_dynamics import symbolic
    from swd_dynamics.rules import CATALOG
    from swd_dynamics.rules.catalog import sgd_family

    entry, derivation = CATALOG[name], getattr(symbolic, DERIVATIONS[what])
    sgd = {"momentum": 0.9 * momentum, "nesterov": nesterov, "dampening": 0.5 * dampening}
    if entry.family is not sgd_family and (nesterov or dampening or not momentum):
        raise InputError(f"{name} has no momentum options; SGD, SGDW and SGDS have")
    rule = entry(weight_decay=0.1, **(sgd if entry.family is sgd_family else {}))
    result = derivation(symbolic.lettered(rule)[0])
    print(result.latex() if latex else result)


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
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Train a task with a real optimizer and record every step.

    Arguments that are not given are the optimizer's own defaults.

    Parameters
    ----------
    optimizer
        SGD, SGDS, Adam, AdamW, AdamS, AMSGrad, AMSGradW, AMSGradS or AdaiS.
    task
        quadratic, logistic, network or network-minibatch.
    steps
        How many steps.
    out
        Folder for the recording; it must not hold another one.
    seed
        Of the start and of the batches.
    """
    from swd_dynamics.optim import OPTIMIZERS
    from swd_dynamics.probe import record as run
    from swd_dynamics.probe import save
    from swd_dynamics.tasks import TASKS

    make = OPTIMIZERS[optimizer]
    chosen = TASKS[task](seed=seed, device=_device(device))
    given = {"weight_decay": weight_decay, "momentum": momentum, "dampening": dampening, "nesterov": nesterov,
             "betas": betas, "eps": eps}  # fmt: skip
    arguments: dict[str, Any] = {"lr": lr} | {key: value for key, value in given.items() if value is not None}
    try:
        made = make(chosen.model.parameters(), **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{optimizer} cannot be made with {arguments}: {error}") from None
    _make_folder(out)
    try:
        recording = run(made, chosen.loss, steps, model=chosen.model, seed=seed, data=chosen.name, progress=True)
    except InputError:
        out.rmdir()
        raise
    path = save(recording, out)
    losses = recording["loss"].values
    print(f"{len(losses)} steps of {optimizer} on {task}: loss {losses[0]:.6g} to {losses[-1]:.6g}. Wrote {path}")
    if recording.attrs["diverged_at_step"] >= 0:
        print(f"the run diverged at step {recording.attrs['diverged_at_step']}")


@app.command
def replay(run: Path, *, as_: Annotated[str, Parameter(name="--as")]) -> int:
    """Hold a recorded run against a rule of the catalogue, step by step; exits with 1 if they part.

    Parameters
    ----------
    run
        A folder that record wrote.
    as_
        The rule, as AdamW; its numbers are taken from the recording.
    """
    import numpy as np

    from swd_dynamics.crosscheck import recorded_rule
    from swd_dynamics.crosscheck import replay as hold
    from swd_dynamics.probe import load
    from swd_dynamics.rules import CATALOG

    CATALOG[as_]  # a wrong name is said before anything is read
    recording = load(run)
    rule = recorded_rule(as_, recording)
    verdict = hold(rule, recording, name=f"{run} as {as_}")
    print(f"{verdict}\n    the rule, with the recording's numbers: {rule}")
    if not np.any(getattr(rule.decay, "rate", 0.0)):
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
    from swd_dynamics.probe import open_recording
    from swd_dynamics.probe.summary import summary

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
    from swd_dynamics.plots import write_figure
    from swd_dynamics.plots.recording import draw_recording
    from swd_dynamics.probe import open_recording

    figure = draw_recording(open_recording(run), quantity)
    written = write_figure(figure, out or Path(f"{run}-{'-'.join(quantity)}"))
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
    from swd_dynamics.probe import export as write

    print(f"Wrote {write(run, to)}")


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise InputError(f"{out} exists already; give a folder that does not, so that nothing is overwritten") from None
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror}; give another folder with --out") from None


def _device(device: Device) -> str:
    import torch

    torch.set_num_threads(1)  # the tasks are small: a second thread waits more than it works
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("--device cuda: torch sees no CUDA device here; take cpu or auto")
    return "cuda" if available and device != "cpu" else "cpu"
