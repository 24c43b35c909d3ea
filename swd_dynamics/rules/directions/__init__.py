"""The directions, one file for each family."""

from swd_dynamics.rules.directions.adafactor import Adafactor
from swd_dynamics.rules.directions.adai import Adai
from swd_dynamics.rules.directions.adam import Adam, AMSGrad
from swd_dynamics.rules.directions.asgd import ASGD
from swd_dynamics.rules.directions.lion import Lion
from swd_dynamics.rules.directions.muon import Muon
from swd_dynamics.rules.directions.rprop import Rprop
from swd_dynamics.rules.directions.schedule_free import ScheduleFreeAdam, ScheduleFreeSGD
from swd_dynamics.rules.directions.sgd import SGD, HeavyBall, Nesterov, sgd_family
from swd_dynamics.rules.directions.signum import Signum

__all__ = [
    "ASGD",
    "SGD",
    "AMSGrad",
    "Adafactor",
    "Adai",
    "Adam",
    "HeavyBall",
    "Lion",
    "Muon",
    "Nesterov",
    "Rprop",
    "ScheduleFreeAdam",
    "ScheduleFreeSGD",
    "Signum",
    "sgd_family",
]
