"""Warnings that never end a training."""

import sys
import warnings
from traceback import walk_stack

from swd_dynamics.errors import is_the_users

UNSEEN = (
    "the weights have changed, but the probe saw no step of this {kind}: attach it to the optimizer"
    " whose step() is called"
)
UNATTACHED = (
    "the probe is not attached, so it records nothing: write `with Probe(optimizer) as probe:` around"
    " the training, or call probe.attach() before it"
)
NO_STEP = (
    "{observed} losses were observed, but the optimizer took no step: call its step(), or attach the probe to the"
    " optimizer whose step() is called"
)
NO_GRADIENT = (
    "no weight had a gradient in any step: give the optimizer the parameters of the model that computes the loss"
)
SEVERAL = (
    "several losses are observed between two steps, and only the last is kept: observe once for each step, with the"
    " mean of the losses"
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
        warnings.warn(message, RuntimeWarning, stacklevel=_level_of_the_user())
    except RuntimeWarning:
        print(message, file=sys.stderr)


def _level_of_the_user() -> int:
    """How many calls above :func:`warn` the user's own line is; that of the line that warns if there is none."""
    frames = walk_stack(sys._getframe(1))
    found = (level for level, (frame, _) in enumerate(frames, 1) if is_the_users(frame.f_code.co_filename))
    return next(found, 2)


def warn_at_end(kind: str, steps: int, are_moved: bool, observed: int, lacks_gradients: bool | None) -> None:
    """Warn of a recording that ends without steps or without gradients.

    Of one loss without a step nothing is said: it may be infinite, and then ``record`` takes no step.
    """
    if steps and lacks_gradients:
        warn(NO_GRADIENT)
    elif not steps and are_moved:
        warn(UNSEEN.format(kind=kind))
    elif not steps and observed > 1:
        warn(NO_STEP.format(observed=observed))
