"""Commands about any torch optimizer: does it do what its paper says, and what kind of weight decay does it have?"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

from swd_dynamics.cli.app import As, Whole, app
from swd_dynamics.errors import InputError


@app.command
def verify(
    optimizer: str,
    *,
    as_: Annotated[str, As],
    args: str | None = None,
    allow: list[str] | None = None,
    steps: Whole = 200,
    seed: Whole = 0,
    dtype: str | None = None,
) -> int:
    """Compare every step of an optimizer with a rule, and name the cause of a difference.

    The exit code is 1 if a step is wrong, and 2 if the optimizer cannot be tested. Importing the
    module runs its code, as python -m does. Example:

        swd-dynamics verify torch.optim:AdamW --as AdamW --args lr=1e-2,weight_decay=.1

    Parameters
    ----------
    optimizer
        Module and class of the optimizer, for example torch.optim:AdamW. The module may be in the
        current directory.
    as_
        Name of the rule, for example AdamW. Its numbers are those of --args, and otherwise the
        optimizer's own defaults.
    args
        Arguments of the optimizer, for example lr=1e-2,betas=(.9,.99). The values must be literals.
    allow
        Name of a known difference that does not count as a mistake, for example eps-on-mean-root.
        Repeat the option to allow several.
    steps
        Number of steps of each scenario, from 2 to 100000.
    seed
        Seed of the weights and the gradients.
    dtype
        Type of the weights and gradients, for example bfloat16; or float64, float32, float16. In types
        with fewer digits than float64, steps are compared with what rounding allows, and the decay
        over many steps as well.
    """
    from swd_dynamics.bench.drive import one_thread
    from swd_dynamics.bench.named import literal_arguments, named_class
    from swd_dynamics.bench.scenarios import default_arguments
    from swd_dynamics.crosscheck import named_rule
    from swd_dynamics.rules import CATALOG
    from swd_dynamics.verification import verify as compare

    CATALOG[as_]  # a wrong name is reported before a module is imported
    arguments = literal_arguments(args)
    factory = partial(named_class(optimizer), **arguments)
    one_thread()
    rule = named_rule(as_, default_arguments(factory) | arguments)
    verdict = compare(factory, rule, steps=steps, seed=seed, allow=allow or (), dtype=dtype)
    print(f"{verdict}\n    the rule: {rule}")
    return {"confirmed": 0, "refuted": 1, "inconclusive": 2}[verdict.status]


@app.command
def audit(optimizer: str, *, args: str = "", dtype: str | None = None) -> None:
    """Measure what kind of weight decay an optimizer has, and how much of it.

    The kind is L2, decoupled, stable, independent, corrected, cautious, preconditioned, none, other,
    or "all the same" where there is neither momentum nor a preconditioner, so that the first three
    are the same. Importing the module runs its code, as python -m does. Example:

        swd-dynamics audit torch.optim:AdamW --args lr=1e-2,weight_decay=.01 --dtype bfloat16

    Parameters
    ----------
    optimizer
        Module and class of the optimizer, for example torch.optim:AdamW. The module may be in the
        current directory.
    args
        Arguments of the optimizer, for example lr=1e-2,weight_decay=.1,betas=(.9,.99). The values
        must be literals. Many optimizers have no decay unless weight_decay is given.
    dtype
        Type of the weights, float64, float32, bfloat16 or float16: the optimizer also runs in
        weights of this type, and the last reason says what rounding leaves of the decay.
    """
    from swd_dynamics.auditing import audit as examine
    from swd_dynamics.bench.drive import one_thread
    from swd_dynamics.bench.named import literal_arguments, named_class

    one_thread()
    print(examine(partial(named_class(optimizer), **literal_arguments(args)), dtype=dtype))


@app.command
def atlas(
    *, package: str = "torch.optim", jobs: Whole = 2, limit: float = 20.0, out: Path = Path("figures/atlas")
) -> int:
    """Audit every optimizer of a package, and write the results as a table and a figure.

    The table is printed, and written as CSV and JSON. Importing the package runs its code. After
    Ctrl-C the optimizers audited so far are written, and the exit code is 130. If no optimizer was
    audited, nothing is written. Example:

        swd-dynamics atlas --package torch.optim --out atlas

    Parameters
    ----------
    package
        Module that contains the optimizers, for example torch.optim or pytorch_optimizer. It may be
        in the current directory.
    jobs
        Number of optimizers that are audited at the same time, 1 or more.
    limit
        Number of seconds that one optimizer may take, more than 0.
    out
        Folder for the files. It is made if it does not exist.
    """
    from swd_dynamics.auditing.atlas import atlas as survey
    from swd_dynamics.plots import write_figure
    from swd_dynamics.plots.atlas import draw_atlas
    from swd_dynamics.studies.atlas_page import check_atlas_page, write_atlas_page

    _check_folder(out)
    check_atlas_page(out)
    found = survey(package, jobs=jobs, limit=limit, progress=True)
    if not found.audited:
        print(f"{found}\nNothing was audited, so nothing is written")
        return 130 if found.interrupted else 0
    figure = draw_atlas(found.entries, found.claim)
    written = [*found.write(out), *write_figure(figure, out / found.stem), write_atlas_page(out)]
    print(f"{found}\nWrote {', '.join(map(str, written))}")
    return 130 if found.interrupted else 0


def _check_folder(out: Path) -> None:
    """Refuse a folder that cannot be written to, before the work and not after it. The folder is not made yet."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "is not a folder" if not there.is_dir() else "cannot be written to"
        raise InputError(f"out = {out} is not allowed: {there} {reason}; give a folder for the files")
