"""The real optimizers by the names of the rules' catalogue: each takes torch's arguments."""

from collections.abc import Callable
from functools import partial

import torch

from swd_dynamics.optim.adais import AdaiS
from swd_dynamics.optim.adams import AdamS
from swd_dynamics.optim.sgds import SGDS
from swd_dynamics.optim.sgdw import SGDW
from swd_dynamics.tables import Table

OPTIMIZERS: Table[Callable[..., torch.optim.Optimizer]] = Table(
    "real optimizer",
    SGD=torch.optim.SGD,
    SGDW=SGDW,
    SGDS=SGDS,
    Adam=torch.optim.Adam,
    AdamW=torch.optim.AdamW,
    AdamS=AdamS,
    AMSGrad=partial(torch.optim.Adam, amsgrad=True),
    AMSGradW=partial(torch.optim.AdamW, amsgrad=True),
    AMSGradS=partial(AdamS, amsgrad=True),
    AdaiS=AdaiS,
)
