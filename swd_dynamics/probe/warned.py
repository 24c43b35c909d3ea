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

LOST_DECAY = (
    "the weight decay is lost to rounding: R = {decay_rate:.2g} is less than {least:.2g}, so that (1 − R)·θ, rounded to"
    " {dtype}, is θ for every weight. "
)
LOST_IN_HALF = (
    "Keep the weights in float32 and compute in {dtype} (torch.autocast), or take fused=True, which rounds the decay"
    " together with the step"
)
LOST_IN_SINGLE = "With so small an ηλ a run decays only in float64: take a larger λ, or none"


def warn(message: str) -> None:
    """Warn, but do not raise where warnings are errors."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        print(message, file=sys.stderr)
