"""Warnings that never end a training."""

import sys
import warnings

UNSEEN = (
    "the weights have changed, but the probe saw no step of this {kind}: attach it to the optimizer"
    " whose step() is called"
)


def warn(message: str) -> None:
    """Warn, but do not raise where warnings are errors."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        print(message, file=sys.stderr)
