"""The real optimizer behind each name that has one, with torch's arguments."""

from functools import partial

import torch

from swd_dynamics.optim.adais import AdaiS
from swd_dynamics.optim.adams import AdamS
from swd_dynamics.optim.sgds import SGDS
from swd_dynamics.tables import Table

OPTIMIZERS = Table(
    "real optimizer",
    SGD=torch.optim.SGD,
    SGDS=SGDS,
    Adam=torch.optim.Adam,
    AdamW=torch.optim.AdamW,
    AdamS=AdamS,
    AMSGrad=partial(torch.optim.Adam, amsgrad=True),
    AMSGradW=partial(torch.optim.AdamW, amsgrad=True),
    AMSGradS=partial(AdamS, amsgrad=True),
    AdaiS=AdaiS,
)
