"""The real optimizers by the names of the rules' catalogue: each takes torch's arguments."""

from collections.abc import Callable
from typing import Any

import torch

from swd_dynamics.optim.adais import AdaiS
from swd_dynamics.optim.adams import AdamS
from swd_dynamics.optim.sgds import SGDS
from swd_dynamics.optim.sgdw import SGDW
from swd_dynamics.optim.with_decay import WithDecay
from swd_dynamics.tables import Table, listed, preset

IN_NEWER_TORCH = {"MuonW": getattr(torch.optim, "Muon", None)}  # torch has Muon since version 2.9

ABOUT = """The real optimizers by name: each is called with parameters and torch's arguments.

OPTIMIZERS["AdamS"](model.parameters(), lr=1e-3), or OPTIMIZERS.AdamS(model.parameters(), lr=1e-3)
"""


def _advice(name: str) -> str:
    return (
        f"there is no optimizer {name} by name; there are {listed(name, OPTIMIZERS)}. In Python,"
        " swd_dynamics.record(optimizer, loss, steps) takes any torch optimizer"
    )


def _with_decay(kind: Callable[..., torch.optim.Optimizer], decay: str) -> Callable[..., torch.optim.Optimizer]:
    """An optimizer of torch's with another decay, by torch's arguments; lr_max is lr unless it is given."""
    needs = decay in ("independent", "corrected")

    def make(params: Any, lr: float = 1e-3, *, weight_decay: float = 0.0, lr_max: float | None = None, **arguments):
        largest = lr if needs and lr_max is None else lr_max
        return WithDecay(kind(params, lr=lr, weight_decay=0.0, **arguments), decay, weight_decay, largest)

    make.__doc__ = WithDecay.__doc__
    return make


OPTIMIZERS: Table[Callable[..., torch.optim.Optimizer]] = Table(
    "real optimizer",
    ABOUT,
    _advice,
    SGD=torch.optim.SGD,
    SGDW=SGDW,
    SGDS=SGDS,
    SGDIndependent=_with_decay(torch.optim.SGD, "independent"),
    SGDC=_with_decay(torch.optim.SGD, "corrected"),
    SGDCautious=_with_decay(torch.optim.SGD, "cautious"),
    Adam=torch.optim.Adam,
    AdamW=torch.optim.AdamW,
    AdamS=AdamS,
    AdamIndependent=_with_decay(torch.optim.Adam, "independent"),
    AdamC=_with_decay(torch.optim.Adam, "corrected"),
    AdamCautious=_with_decay(torch.optim.Adam, "cautious"),
    AdamPreconditioned=_with_decay(torch.optim.Adam, "preconditioned"),
    AMSGrad=preset(torch.optim.Adam, amsgrad=True),
    AMSGradW=preset(torch.optim.AdamW, amsgrad=True),
    AMSGradS=preset(AdamS, amsgrad=True),
    AdaiS=AdaiS,
    RMSprop=torch.optim.RMSprop,
    Adagrad=torch.optim.Adagrad,
    Adadelta=torch.optim.Adadelta,
    Adamax=torch.optim.Adamax,
    NAdam=torch.optim.NAdam,
    NAdamW=preset(torch.optim.NAdam, decoupled_weight_decay=True),
    RAdam=torch.optim.RAdam,
    RAdamW=preset(torch.optim.RAdam, decoupled_weight_decay=True),
    AdafactorW=torch.optim.Adafactor,
    Rprop=torch.optim.Rprop,
    ASGD=torch.optim.ASGD,
    **{name: kind for name, kind in IN_NEWER_TORCH.items() if kind},
)
