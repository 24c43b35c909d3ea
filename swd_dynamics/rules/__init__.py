"""What an optimizer does, written once: ``UpdateRule(lr, direction, decay)``."""

from swd_dynamics.rules.catalog import CATALOG
from swd_dynamics.rules.decay import DECAYS, L2, Decay, Decoupled, NoDecay, Stable
from swd_dynamics.rules.direction import Direction, Step
from swd_dynamics.rules.directions import (
    ASGD,
    SGD,
    Adafactor,
    Adai,
    Adam,
    AMSGrad,
    HeavyBall,
    Lion,
    Muon,
    Nesterov,
    Rprop,
    ScheduleFreeAdam,
    ScheduleFreeSGD,
    Signum,
)
from swd_dynamics.rules.gate import as_rule
from swd_dynamics.rules.schedule import Constant, Cosine, StepDecay, Warmup
from swd_dynamics.rules.update import State, UpdateRule

__all__ = [
    "ASGD",
    "CATALOG",
    "DECAYS",
    "L2",
    "SGD",
    "AMSGrad",
    "Adafactor",
    "Adai",
    "Adam",
    "Constant",
    "Cosine",
    "Decay",
    "Decoupled",
    "Direction",
    "HeavyBall",
    "Lion",
    "Muon",
    "Nesterov",
    "NoDecay",
    "Rprop",
    "ScheduleFreeAdam",
    "ScheduleFreeSGD",
    "Signum",
    "Stable",
    "State",
    "Step",
    "StepDecay",
    "UpdateRule",
    "Warmup",
    "as_rule",
]
