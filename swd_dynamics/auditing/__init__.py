"""What kind of weight decay an optimizer has, measured as a black box. Nothing here uses the theory."""

from swd_dynamics.auditing.audit import Audit, audit

__all__ = ["Audit", "audit"]
