"""Torch optimizers with stable weight decay for real training: SGDS, AdamS and AdaiS; and others to compare with.

SGDW has decoupled decay, which torch's SGD does not have; WithDecay gives any torch optimizer another decay.

They are written from the paper's formulas and share no code with :mod:`swd_dynamics.rules`. So each
of the two can be tested against the other.
"""

from swd_dynamics.optim.adais import AdaiS
from swd_dynamics.optim.adams import AdamS
from swd_dynamics.optim.counterparts import OPTIMIZERS
from swd_dynamics.optim.sgds import SGDS
from swd_dynamics.optim.sgdw import SGDW
from swd_dynamics.optim.with_decay import WithDecay

__all__ = ["OPTIMIZERS", "SGDS", "SGDW", "AdaiS", "AdamS", "WithDecay"]


def __getattr__(name: str):
    """The other real optimizers by their names in OPTIMIZERS: torch's own, and torch's with another decay."""
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
