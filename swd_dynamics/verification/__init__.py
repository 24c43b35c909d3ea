"""Is this optimizer that rule? Its steps are compared with the rule's, and where they differ the cause is named."""

from swd_dynamics.crosscheck.near_rules import NEAR_RULES
from swd_dynamics.verification.verify import verify

__all__ = ["NEAR_RULES", "verify"]
