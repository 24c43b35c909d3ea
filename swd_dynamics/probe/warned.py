"""Warnings that never end a training."""

import sys
import warnings

UNSEEN = (
    "the weights have changed, but the probe saw no step of this {kind}: attach it to the optimizer"
    " whose step() is called"
)
UNATTACHED = (
    "the probe is not attached, so it records nothing: write `with Probe(optimizer) as probe:` around"
    " the training, or call probe.attach() before it"
)
NO_RATES = "{names} of the recording {are} NaN, because {reason} (attribute {attribute})"
# What to do where an optimizer is not known.
PUBLISH = (
    ". To have numbers, write decay_rate and effective_lr into the optimizer's groups in each step, or measure them"
    " with swd_dynamics.audit"
)


def warn(message: str) -> None:
    """Warn, but do not raise where warnings are errors."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        print(message, file=sys.stderr)
