"""Torch optimizers with stable weight decay for real training: SGDS, AdamS and AdaiS; and SGDW, to compare with.

They are written from the paper's formulas and share no code with :mod:`swd_dynamics.rules`. So each
of the two can be tested against the other.
"""

from swd_dynamics.optim.adais import AdaiS
from swd_dynamics.optim.adams import AdamS
from swd_dynamics.optim.counterparts import OPTIMIZERS
from swd_dynamics.optim.sgds import SGDS
from swd_dynamics.optim.sgdw import SGDW

__all__ = ["OPTIMIZERS", "SGDS", "SGDW", "AdaiS", "AdamS"]
