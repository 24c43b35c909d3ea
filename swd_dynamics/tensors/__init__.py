"""Knowledge of torch: the order of all weights, shards, sums, curvature, known optimizers."""

from swd_dynamics.tensors.curvature import Curvature
from swd_dynamics.tensors.preconditioner import preconditioner_of
from swd_dynamics.tensors.slopes import slope_of_curvature

__all__ = ["Curvature", "preconditioner_of", "slope_of_curvature"]
