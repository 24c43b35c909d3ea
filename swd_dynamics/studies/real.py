"""The real optimizers that studies train with, by the names of the catalogue."""

from collections.abc import Callable

import torch

from swd_dynamics.optim import OPTIMIZERS, SGDS
from swd_dynamics.tables import Table


def sgdw(parameters, *, weight_decay: float, momentum: float, dampening: float = 0.0, **more) -> torch.optim.Optimizer:
    """SGD with decoupled decay, which torch has not.

    SGDW and SGDS are one method in two units: SGDS given λ(1−β)/(1−τ) takes off ηλ, as SGDW does.
    """
    rate = weight_decay * (1 - momentum) / (1 - dampening)
    return SGDS(parameters, weight_decay=rate, momentum=momentum, dampening=dampening, **more)


REAL: Table[Callable[..., torch.optim.Optimizer]] = Table("real optimizer", **OPTIMIZERS, SGDW=sgdw)
