"""The directions, one file for each family."""

from swd_dynamics.rules.directions.adabelief import AdaBelief
from swd_dynamics.rules.directions.adadelta import Adadelta
from swd_dynamics.rules.directions.adagrad import Adagrad
from swd_dynamics.rules.directions.adai import Adai
from swd_dynamics.rules.directions.adam import Adam, AMSGrad
from swd_dynamics.rules.directions.adamax import Adamax
from swd_dynamics.rules.directions.nadam import NAdam
from swd_dynamics.rules.directions.radam import RAdam
from swd_dynamics.rules.directions.rmsprop import RMSprop
from swd_dynamics.rules.directions.sgd import SGD, HeavyBall, Nesterov, sgd_family

__all__ = [
    "SGD",
    "AMSGrad",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adai",
    "Adam",
    "Adamax",
    "HeavyBall",
    "NAdam",
    "Nesterov",
    "RAdam",
    "RMSprop",
    "sgd_family",
]
