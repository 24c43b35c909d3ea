"""The program, and what its commands share."""

from typing import Literal

from cyclopts import App, Parameter

from swd_dynamics.errors import InputError

app = App(
    name="swd-dynamics",
    help="Derive, simulate and check the dynamics of weight decay against real optimizers.",
    version_flags=["--version"],
    default_parameter=Parameter(negative=()),
)

Device = Literal["auto", "cpu", "cuda"]


def chosen_device(device: Device) -> str:
    """Where to train; refused if it is not there."""
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("--device cuda: torch sees no CUDA device here; take cpu or auto")
    return "cuda" if available and device != "cpu" else "cpu"
