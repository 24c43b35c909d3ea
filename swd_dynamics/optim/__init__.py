"""SGDS, AdamS and AdaiS for real training: torch optimizers with stable weight decay.

They are written from the paper's formulas and share no code with :mod:`swd_dynamics.rules`, so that each can bear
witness to the other.
"""

from swd_dynamics.optim.adais import AdaiS
from swd_dynamics.optim.adams import AdamS
from swd_dynamics.optim.counterparts import OPTIMIZERS
from swd_dynamics.optim.sgds import SGDS

__all__ = ["OPTIMIZERS", "SGDS", "AdaiS", "AdamS"]
