"""The directions, one file for each family."""

from swd_dynamics.rules.directions.adabelief import AdaBelief
from swd_dynamics.rules.directions.adadelta import Adadelta
from swd_dynamics.rules.directions.adafactor import Adafactor
from swd_dynamics.rules.directions.adagrad import Adagrad
from swd_dynamics.rules.directions.adai import Adai
from swd_dynamics.rules.directions.adam import Adam, AMSGrad
from swd_dynamics.rules.directions.adamax import Adamax
from swd_dynamics.rules.directions.asgd import ASGD
from swd_dynamics.rules.directions.lion import Lion
from swd_dynamics.rules.directions.muon import Muon
from swd_dynamics.rules.directions.nadam import NAdam
from swd_dynamics.rules.directions.radam import RAdam
from swd_dynamics.rules.directions.rmsprop import RMSprop
from swd_dynamics.rules.directions.rprop import Rprop
from swd_dynamics.rules.directions.schedule_free import ScheduleFreeAdam, ScheduleFreeSGD
from swd_dynamics.rules.directions.sgd import SGD, HeavyBall, Nesterov, sgd_family
from swd_dynamics.rules.directions.signum import Signum

__all__ = [
    "ASGD",
    "SGD",
    "AMSGrad",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adai",
    "Adam",
    "Adamax",
    "HeavyBall",
    "Lion",
    "Muon",
    "NAdam",
    "Nesterov",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdam",
    "ScheduleFreeSGD",
    "Signum",
    "sgd_family",
]
