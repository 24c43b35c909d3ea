"""How well theory and record agree."""

from swd_dynamics.crosscheck.convergence import convergence_order, rule_iterates
from swd_dynamics.crosscheck.equivalence import EquivalentDecay, equivalent_weight_decay
from swd_dynamics.crosscheck.explain import Explained, explain
from swd_dynamics.crosscheck.recorded_rule import named_rule, recorded_rule
from swd_dynamics.crosscheck.replay import replay

__all__ = [
    "EquivalentDecay",
    "Explained",
    "convergence_order",
    "equivalent_weight_decay",
    "explain",
    "named_rule",
    "recorded_rule",
    "replay",
    "rule_iterates",
]
