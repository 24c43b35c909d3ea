"""The directions, one file for each family."""

from swd_dynamics.rules.directions.adai import Adai
from swd_dynamics.rules.directions.adam import Adam, AMSGrad
from swd_dynamics.rules.directions.sgd import SGD, HeavyBall, Nesterov, sgd_family

__all__ = ["SGD", "AMSGrad", "Adai", "Adam", "HeavyBall", "Nesterov", "sgd_family"]
