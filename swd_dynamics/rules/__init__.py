"""What an optimizer does, written once: ``UpdateRule(lr, direction, decay)``."""

from swd_dynamics.rules.catalog import CATALOG
from swd_dynamics.rules.decay import DECAYS, L2, Decay, Decoupled, NoDecay, Stable
from swd_dynamics.rules.direction import Direction, Step
from swd_dynamics.rules.directions import (
    SGD,
    AdaBelief,
    Adadelta,
    Adagrad,
    Adai,
    Adam,
    Adamax,
    AMSGrad,
    HeavyBall,
    NAdam,
    Nesterov,
    RAdam,
    RMSprop,
)
from swd_dynamics.rules.gate import as_rule
from swd_dynamics.rules.schedule import Constant, Cosine, StepDecay, Warmup
from swd_dynamics.rules.update import State, UpdateRule

__all__ = [
    "CATALOG",
    "DECAYS",
    "L2",
    "SGD",
    "AMSGrad",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adai",
    "Adam",
    "Adamax",
    "Constant",
    "Cosine",
    "Decay",
    "Decoupled",
    "Direction",
    "HeavyBall",
    "NAdam",
    "Nesterov",
    "NoDecay",
    "RAdam",
    "RMSprop",
    "Stable",
    "State",
    "Step",
    "StepDecay",
    "UpdateRule",
    "Warmup",
    "as_rule",
]
