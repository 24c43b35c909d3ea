"""How well theory and record agree: the only place where the two meet."""

from swd_dynamics.crosscheck.audit import Audit, audit
from swd_dynamics.crosscheck.convergence import convergence_order, rule_iterates
from swd_dynamics.crosscheck.equivalence import EquivalentDecay, equivalent_weight_decay
from swd_dynamics.crosscheck.named import literal_arguments, named_class, named_rule
from swd_dynamics.crosscheck.near_rules import NEAR_RULES
from swd_dynamics.crosscheck.recorded_rule import recorded_rule
from swd_dynamics.crosscheck.replay import replay
from swd_dynamics.crosscheck.verdict import Ledger, Verdict, judge, judge_at_least, must_be_refuted
from swd_dynamics.crosscheck.verify import verify

__all__ = [
    "NEAR_RULES",
    "Audit",
    "EquivalentDecay",
    "Ledger",
    "Verdict",
    "audit",
    "convergence_order",
    "equivalent_weight_decay",
    "judge",
    "judge_at_least",
    "literal_arguments",
    "must_be_refuted",
    "named_class",
    "named_rule",
    "recorded_rule",
    "replay",
    "rule_iterates",
    "verify",
]
