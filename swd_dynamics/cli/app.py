"""The program, and what its commands share."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter, Token

from swd_dynamics.errors import InputError
from swd_dynamics.tables import in_any_case

app = App(
    name="swd-dynamics",
    help="Derive, simulate and check the dynamics of weight decay against real optimizers.",
    version_flags=["--version"],
    default_parameter=Parameter(negative=()),
)

Device = Literal["auto", "cpu", "cuda"]


def whole(_, tokens: Sequence[Token]) -> int:
    """A whole number as it was typed. cyclopts would round 2.9 to 3 without a word."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise InputError(f"{tokens[0].value} is not a whole number") from None


def rule_name(_, tokens: Sequence[Token]) -> str:
    """The name of a rule, whatever its capitals: no two rules have names that differ only in these."""
    from swd_dynamics.rules import CATALOG

    return in_any_case(tokens[0].value, CATALOG)


# --wd as well: without it, the nearest option of derive is --what
WeightDecay = Annotated[float | None, Parameter(alias="--wd")]
Whole = Annotated[int, Parameter(converter=whole)]
RuleName = Annotated[str, Parameter(converter=rule_name)]
As = Parameter(name="--as", converter=rule_name)


def chosen_device(device: Device) -> str:
    """Where to train; refused if it is not there."""
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("--device cuda: torch finds no CUDA device on this machine; give cpu or auto")
    return "cuda" if available and device != "cpu" else "cpu"


def refuse_existing(files: Iterable[Path], overwrite: bool) -> None:
    """Refuse files that are there already, unless they may be overwritten."""
    there = [str(file) for file in files if os.path.lexists(file)]
    if there and not overwrite:
        what = f"{' and '.join(there)} {'exists' if len(there) == 1 else 'exist'} already"
        raise InputError(f"{what}, and nothing is overwritten: give another name, or add --overwrite")
