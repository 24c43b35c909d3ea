"""What the theory says, and whether it holds: studies, reproduce, derive."""

from pathlib import Path
from textwrap import fill

from swd_dynamics.cli.app import Device, RuleName, WeightDecay, app, chosen_device
from swd_dynamics.errors import InputError
from swd_dynamics.tables import Table

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
        "noise": "stationary_covariance",
        "noise-floor": "noise_floor",
        "equilibrium": "equilibrium",
    },
)


@app.command
def studies() -> None:
    """List the studies, each with what it found.

    For example:

        swd-dynamics studies
    """
    from swd_dynamics.studies.headlines import HEADLINES
    from swd_dynamics.verdict import WIDTH

    wide = max(map(len, HEADLINES)) + 2
    for name, found in HEADLINES.items():
        print(fill(f"{name:{wide}}{found}", WIDTH, subsequent_indent=" " * wide))


@app.command
def reproduce(*names: str, quick: bool = False, device: Device = "auto", out: Path | None = None) -> int:
    """Run studies, print their verdicts, and write their figures.

    A verdict says whether a measurement confirms a claim of the theory. The exit code is 1 if a
    verdict's status differs from that in the committed ledger. Example:

        swd-dynamics reproduce stability --quick

    Parameters
    ----------
    names
        Names of the studies to run; studies lists them. Without a name all studies are run.
    quick
        Run the short form: fewer and shorter runs, the same claims.
    device
        Where training runs: cpu, cuda, or auto, which is cuda if there is a GPU.
    out
        Folder for the figures, the verdicts (verdicts.json) and a page that shows them. By default
        it is figures, or figures/quick with --quick.
    """
    import torch

    from swd_dynamics.studies import Setting
    from swd_dynamics.studies.reproduce import PAGE
    from swd_dynamics.studies.reproduce import reproduce as run
    from swd_dynamics.verdict import Ledger

    torch.set_num_threads(1)  # the tasks are small: a second thread waits more than it works
    setting = Setting(quick=quick, device=chosen_device(device), progress=True)

    def announce(study, verdicts) -> None:
        print(f"\n{study.name}: {study.claim}\n{Ledger(verdicts)}", flush=True)

    folder = out or Path("figures/quick" if quick else "figures")
    result = run(names, setting=setting, out=folder, announce=announce)
    ledger = Ledger(v for found in result.verdicts.values() for v in found)
    print(f"\n{len(ledger)} verdicts on {setting.device}: {ledger.counts}. The figures are shown in {folder / PAGE}")
    for change in result.changed:
        print(f"differs from the committed ledger: {change}")
    return 1 if result.changed else 0


@app.command
def derive(
    name: RuleName,
    what: str = "modified-equation",
    *,
    lr: float | None = None,
    weight_decay: WeightDecay = None,
    momentum: float | None = None,
    dampening: float | None = None,
    nesterov: bool = False,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    latex: bool = False,
    steps: bool = False,
) -> None:
    """Derive a result from an optimizer's rule, step by step.

    Arguments that are given become numbers in the result, and the others stay symbols: for
    example λ without --weight-decay. SGD, SGDW and SGDS have momentum unless --momentum is 0.

    For example:

        swd-dynamics derive SGDS --what stability-limit --lr 0.1 --weight-decay 0.5

    Parameters
    ----------
    name
        An optimizer of the catalogue, for example AdamS.
    what
        What is derived, with or without the word --what: equations, modified-equation, fixed-point,
        linear-map, eigenvalues, stability-limit, long-run-decay-rate, noise, noise-floor or
        equilibrium.
    lr
        Learning rate η.
    weight_decay
        Weight decay λ; 0 for a rule without it.
    momentum
        Momentum β of SGD, SGDW and SGDS; 0 for a rule without it.
    dampening
        Dampening τ of the momentum of SGD, SGDW and SGDS; 0 if it is not given.
    nesterov
        Use Nesterov's momentum, in SGD, SGDW and SGDS.
    betas
        The two decay rates β₁ and β₂ of the moments, in the Adam family; β₀ and β₂ of Adai.
    eps
        The number ε of the Adam family and of Adai.
    latex
        Print the result as LaTeX, without the steps.
    steps
        With --latex, print the steps too, as a part of a document. The text always has the steps.
    """
    from swd_dynamics import symbolic
    from swd_dynamics.rules import CATALOG

    entry, derivation = CATALOG[name], getattr(symbolic, DERIVATIONS[what.replace("_", "-")])
    given = {
        "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "dampening": dampening,
        "nesterov": nesterov or None, "betas": betas, "eps": eps,
    }  # fmt: skip
    given = {option: value for option, value in given.items() if value is not None}
    if unknown := [option for option in given if option not in entry.__signature__.parameters]:
        options = ", ".join(f"--{option.replace('_', '-')}" for option in unknown)
        raise InputError(f"{name} has no {options}; it has {', '.join(entry.__signature__.parameters)}")
    placeholders = {"momentum": 0.9} if "momentum" in entry.__signature__.parameters else {}
    rule = entry(**{"weight_decay": 0.1, **placeholders, **given})
    result = derivation(symbolic.with_symbols(rule, tuple(given)))
    print(result.latex(steps=steps) if latex else result)
