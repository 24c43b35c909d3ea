"""The command line. Each command imports what it needs when it is run, so that help comes at once."""

from swd_dynamics.cli import claims, optimizers, recordings, sweeps
from swd_dynamics.cli.app import app

__all__ = ["app", "claims", "optimizers", "recordings", "sweeps"]
