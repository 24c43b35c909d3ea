"""Of any torch optimizer, named as MODULE:CLASS: does it do what its paper says, and what is its weight decay?"""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from swd_dynamics.cli.app import app
from swd_dynamics.errors import InputError


@app.command
def verify(
    optimizer: str,
    *,
    as_: Annotated[str, Parameter(name="--as")],
    args: str | None = None,
    allow: list[str] | None = None,
    steps: int = 200,
    seed: int = 0,
) -> int:
    """Put an optimizer through its paces: does it step as its rule says? Exits with 1 if it departs.

    Parameters
    ----------
    optimizer
        MODULE:CLASS, as torch.optim:AdamW, of torch's kind; also a module in the current directory. Importing it runs
        its code, as python -m does.
    as_
        The rule, as AdamW; its numbers are those of --args, else the optimizer's own defaults.
    args
        Arguments, as lr=1e-2,betas=(.9,.99); the values are literals, nothing is evaluated.
    allow
        A known difference that is no fault here, as eps-on-mean-root; several times for several.
    steps
        How many steps of each scenario, 2 to 100000.
    seed
        Of the weights and the gradients.
    """
    import torch

    from swd_dynamics.bench.drive import default_arguments
    from swd_dynamics.bench.named import literal_arguments, named_class
    from swd_dynamics.crosscheck import named_rule
    from swd_dynamics.rules import CATALOG
    from swd_dynamics.verification import verify as hold

    CATALOG[as_]  # a wrong name is said before a module is imported
    arguments, chosen = literal_arguments(args), named_class(optimizer)

    def factory(params):
        return chosen(params, **arguments)

    torch.set_num_threads(1)  # the tensors are small
    rule = named_rule(as_, default_arguments(factory) | arguments)
    verdict = hold(factory, rule, steps=steps, seed=seed, allow=allow or ())
    print(f"{verdict}\n    the rule: {rule}")
    return {"confirmed": 0, "refuted": 1, "inconclusive": 2}[verdict.status]


@app.command
def audit(optimizer: str, *, args: str = "") -> None:
    """Measure what kind of weight decay an optimizer has: none, L2, decoupled, stable or other.

    Importing the module runs its code.

    Parameters
    ----------
    optimizer
        MODULE:CLASS, as torch.optim:AdamW.
    args
        Its arguments as literals: lr=1e-2,weight_decay=0.1,betas=(0.9,0.99).
    """
    from functools import partial

    from swd_dynamics.auditing import audit as examine
    from swd_dynamics.bench.interventions import one_thread
    from swd_dynamics.bench.named import literal_arguments, named_class

    one_thread()
    print(examine(partial(named_class(optimizer), **literal_arguments(args))))


@app.command
def atlas(
    *, package: str = "torch.optim", jobs: int = 2, limit: float = 20.0, out: Path = Path("figures/atlas")
) -> int:
    """Audit every optimizer of a package: a table on the screen, and as figure, CSV and JSON.

    Importing the package runs its code. An interrupt (Ctrl-C) writes what was done so far, and exits with 130. Where
    nothing was audited nothing is written.

    Parameters
    ----------
    package
        A module that names its optimizers: torch.optim, pytorch_optimizer, …; also one in the current directory.
    jobs
        Optimizers at a time, 1 or more.
    limit
        Seconds that one may take, more than 0.
    out
        Folder for the files.
    """
    from swd_dynamics.auditing.atlas import atlas as survey
    from swd_dynamics.plots import write_figure
    from swd_dynamics.plots.atlas import draw_atlas

    _check_folder(out)
    found = survey(package, jobs=jobs, limit=limit, progress=True)
    if not found.audited:
        print(f"{found}\nNothing was audited, so that nothing is written")
        return 130 if found.interrupted else 0
    figure = draw_atlas(found.entries, found.title, found.nominal)
    written = [*found.write(out), *write_figure(figure, out / found.stem)]
    print(f"{found}\nWrote {', '.join(map(str, written))}")
    return 130 if found.interrupted else 0


def _check_folder(out: Path) -> None:
    """Say before the work, not after it, that files cannot be written there. The folder is not made yet."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "is no folder" if not there.is_dir() else "cannot be written to"
        raise InputError(f"out = {out} is not allowed: {there} {reason}; give a folder for the files")
