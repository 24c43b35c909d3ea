"""The command for many runs at once: sweep."""

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swd_dynamics.cli.app import Whole, app, refuse_existing
from swd_dynamics.errors import InputError
from swd_dynamics.tables import in_any_case

if TYPE_CHECKING:
    import xarray

DIGITS = 12  # of a value in a range of powers, so that 0.01 is 0.01; with 17 it would be 0.010000000000000002
REASONS = 3  # of failed cells that are printed for an optimizer; the others are in the results


@app.command
def sweep(
    task: str,
    *,
    optimizers: str,
    grid: list[str],
    steps: Whole,
    to: Path,
    seeds: Whole = 1,
    schedule: str = "constant",
    engine: str = "auto",
    jobs: Whole | None = None,
    scheduler: str | None = None,
    nc: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Train optimizers at every point of a grid of their arguments, from several seeds.

    Prints for each optimizer the point with the smallest test error. A run that diverges or fails
    is counted. Ctrl-C ends the sweep with exit code 130 and keeps the runs that are done; the same
    command trains the others. Example:

        swd-dynamics sweep network --optimizers SGD,SGDS --grid lr=1e-2:1:3 --steps 50 --to sweep

    Parameters
    ----------
    task
        What is trained: quadratic, logistic, network, network-minibatch, transformer, convolution
        or mnist1d.
    optimizers
        Names of optimizers, separated by commas: SGD, SGDW, SGDS, SGDIndependent, SGDC,
        SGDCautious, Adam, AdamW, AdamS, AdamIndependent, AdamC, AdamCautious, AdamPreconditioned,
        AMSGrad, AMSGradW, AMSGradS, AdaiS, RMSprop, Adagrad, Adadelta, Adamax, NAdam, NAdamW,
        RAdam, RAdamW, AdafactorW, Rprop, ASGD or MuonW.
    grid
        An argument of the optimizers and its values. The values are separated by commas, for
        example weight-decay=0,1e-4,1e-3, or they are low:high:count, so many values from low to
        high at equal ratios: lr=1e-3:1:4 is lr=0.001,0.01,0.1,1. Give it once for each argument.
    steps
        Number of steps of each run.
    to
        Folder for the results. If it holds the same sweep, only what is missing is trained.
    seeds
        Number of runs at each point, with the seeds 0, 1, and so on.
    schedule
        Schedule of the learning rate: constant, step (to a tenth after each third of the steps) or
        cosine (to 0).
    engine
        How the runs are trained: vmap (small networks, many at once), processes, dask (on a
        cluster), or auto, which is vmap where it can be used and is faster, and else processes.
    jobs
        Number of runs that are trained at the same time by processes or dask. By default it is the
        number of cores.
    scheduler
        Address of a Dask scheduler, for example tcp://host:8786, for dask. Without it a cluster is
        started on this machine.
    nc
        Path of a netCDF file (.nc) for the results, if they are wanted as one file too.
    overwrite
        Write the netCDF file even if there is a file of this name.
    """
    from swd_dynamics.optim import OPTIMIZERS
    from swd_dynamics.sweeping import sweep as train
    from swd_dynamics.tasks import TASKS

    if nc is not None:
        if nc.suffix != ".nc":
            raise InputError(f"--nc {nc}: the name of a netCDF file must end in .nc")
        refuse_existing([nc], overwrite)
    task, names = in_any_case(task, TASKS), [in_any_case(name, OPTIMIZERS) for name in optimizers.split(",")]
    found = train(
        task, names, _grid(grid), steps=steps, seeds=seeds, schedule=schedule, engine=engine,
        path=to, jobs=jobs, scheduler=scheduler, progress=True,
    )  # fmt: skip
    print("\n".join(_table(found)))
    print(f"Wrote {to}, {found.done} of {found.diverged_at.size} runs, trained by {found.engine}")
    if nc is not None:
        found.to_netcdf(nc, engine="h5netcdf")
        print(f"Wrote {nc}")
    if found.interrupted:
        print("The sweep was interrupted. The same command trains the runs that are missing")
    return 130 if found.interrupted else 0


def _grid(options: list[str]) -> dict[str, list]:
    """The grid of all --grid options."""
    found: dict[str, list] = {}
    for option in options:
        name, equals, values = option.partition("=")
        name = name.replace("-", "_")
        if not equals or not name.isidentifier() or not values or name in found:
            raise InputError(f"--grid {option}: give an argument and its values, each argument once, as lr=0.01,0.1")
        found[name] = _range(option, values.split(":")) if ":" in values else _literals(option, values)
    return found


def _range(option: str, ends: list[str]) -> list[float]:
    """The values that low:high:count stands for."""
    import numpy as np

    try:
        low, high, count = float(ends[0]), float(ends[1]), int(ends[2])
        is_range = len(ends) == 3 and 0 < low < high < np.inf and count >= 2
    except (ValueError, IndexError):
        is_range = False
    if not is_range:
        raise InputError(f"--grid {option}: a range is low:high:count with 0 < low < high and count ≥ 2, as 1e-3:1:4")
    return [float(f"{value:.{DIGITS}g}") for value in np.geomspace(low, high, count)]


def _literals(option: str, values: str) -> list:
    from swd_dynamics.bench.named import literal_arguments

    try:
        (found,) = literal_arguments(f"values=[{values}]").values()  # more than one after 1],other=[2
        return found
    except ValueError:
        raise InputError(f"--grid {option}: the values must be as 1e-2, True or (0.9,0.99), with commas") from None


def _table(found: "xarray.Dataset") -> list[str]:
    """A line for each optimizer, and the reasons of failed runs."""
    has_test = bool(found.test_error.notnull().any())
    measured = "test_error" if has_test else "train_loss"
    width = max(map(len, found.optimizer.values.tolist()))
    lines = [f"{'':{width}}  {measured.replace('_', ' '):>21}  diverged  failed  best point"]
    reasons = {int(cell): reason for cell, reason in json.loads(found.failed).items()}
    runs = found[measured][0].size
    for i, label in enumerate(found.optimizer.values.tolist()):
        own = [reason for cell, reason in reasons.items() if cell // runs == i]
        best, point = _best(found[measured][i])
        diverged = int(found.diverged_at[i].notnull().sum())
        lines.append(f"{label:{width}}  {best:>21}  {diverged:8}  {len(own):6}  {point}")
        lines += [f"    failed: {reason}" for reason in list(dict.fromkeys(own))[:REASONS]]
    return [*lines, *_same_numbers(found)]


def _same_numbers(found: "xarray.Dataset") -> Iterator[str]:
    """A sentence for each two optimizers whose runs ended alike to the last bit, in every cell."""
    ends = [found[name] for name in ("train_loss", "weight_norm", "gradient_norm")]
    without = not found["momentum"].values.any() if "momentum" in found.dims else True
    for one, other in combinations(found.optimizer.values.tolist(), 2):
        pairs = [(end.sel(optimizer=one), end.sel(optimizer=other)) for end in ends]
        if pairs[0][0].notnull().any() and all(mine.equals(its.assign_coords(mine.coords)) for mine, its in pairs):
            plain = without and {one, other} <= {"SGD", "SGDW", "SGDS"}
            why = ": without momentum they are one method" if plain else ""
            yield f"{one} and {other} gave the same numbers in every run{why}"


def _best(values: "xarray.DataArray") -> tuple[str, str]:
    """The smallest mean over the seeds, with its standard error, and its point."""
    # A point at which a run diverged is not the best.
    mean = values.mean("seed", skipna=False)
    if not mean.notnull().any():
        return "none", ""
    best = values.isel(mean.argmin(...))  # pyright: ignore[reportArgumentType]
    error = f" ± {float(best.std(ddof=1)) / best.size**0.5:.2g}" if best.size > 1 else ""
    point: dict[Any, Any] = {name: best[name].item() for name in mean.dims}
    return f"{float(best.mean()):.4g}{error}", ", ".join(f"{name} {_short(at)}" for name, at in point.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
