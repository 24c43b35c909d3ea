"""What follows from a rule, by algebra."""

from swd_dynamics.symbolic.derivable import derivability_table, derivable
from swd_dynamics.symbolic.derivation import Derivation, DerivationStep, NotDerivable
from swd_dynamics.symbolic.diffusion import stochastic_equation
from swd_dynamics.symbolic.edge import edge
from swd_dynamics.symbolic.equilibria import fixed_point
from swd_dynamics.symbolic.full_limit import full_limit, numeric_full_limit
from swd_dynamics.symbolic.letters import lettered, with_symbols
from swd_dynamics.symbolic.linear import eigenvalues, linear_map
from swd_dynamics.symbolic.memory import equal_memory, gradient_weights
from swd_dynamics.symbolic.modified import ModifiedEquation, modified_equation
from swd_dynamics.symbolic.noise import noise_floor, stationary_covariance
from swd_dynamics.symbolic.numeric import (
    NumericEquation,
    numeric_equation,
    numeric_equations,
    numeric_linear_map,
    numeric_steps,
)
from swd_dynamics.symbolic.numeric_diffusion import NumericDiffusion, numeric_diffusion
from swd_dynamics.symbolic.numeric_edge import NumericEdge, numeric_edge, numeric_edges
from swd_dynamics.symbolic.numeric_oscillation import BurstRoots, NumericOscillation, numeric_oscillation
from swd_dynamics.symbolic.numeric_stability import NumericStability, numeric_stability
from swd_dynamics.symbolic.oscillation import settled_oscillation
from swd_dynamics.symbolic.rotation import equilibrium
from swd_dynamics.symbolic.stability import long_run_decay_rate, stability_limit
from swd_dynamics.symbolic.trace import equations

__all__ = [
    "BurstRoots",
    "Derivation",
    "DerivationStep",
    "ModifiedEquation",
    "NotDerivable",
    "NumericDiffusion",
    "NumericEdge",
    "NumericEquation",
    "NumericOscillation",
    "NumericStability",
    "derivability_table",
    "derivable",
    "edge",
    "eigenvalues",
    "equal_memory",
    "equations",
    "equilibrium",
    "fixed_point",
    "full_limit",
    "gradient_weights",
    "lettered",
    "linear_map",
    "long_run_decay_rate",
    "modified_equation",
    "noise_floor",
    "numeric_diffusion",
    "numeric_edge",
    "numeric_edges",
    "numeric_equation",
    "numeric_equations",
    "numeric_full_limit",
    "numeric_linear_map",
    "numeric_oscillation",
    "numeric_stability",
    "numeric_steps",
    "settled_oscillation",
    "stability_limit",
    "stationary_covariance",
    "stochastic_equation",
    "with_symbols",
]
