"""What the derivation of a flow assumes of the memory, checked along a solution."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.errors import InputError
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic.clips import numeric_clips

Array = NDArray[np.float64]
# Relative: a maximum that rises by less than this, or a value that is clipped by less, changes the flow by about as
# much. Below 1e-9 the solver's own error would be called a rise.
SLIGHT = 1e-6


class AssumptionFailed(InputError):
    """An assumption of the derivation does not hold along a flow; ``step`` is the first step at which it fails.

    Examples
    --------
    On f = −½θ² the gradient grows, and with it the largest g² that AMSGrad keeps:

    >>> from swd_dynamics.flows import Flow
    >>> from swd_dynamics.rules import AMSGrad, UpdateRule
    >>> Flow(UpdateRule(0.1, AMSGrad()), lambda theta: -theta).solve([1.0], steps=3)
    Traceback (most recent call last):
    swd_dynamics.flows.assumptions.AssumptionFailed: the flow assumes that a maximum is constant, but it rises ...
    """

    def __init__(self, message: str, step: float):
        super().__init__(message)
        self.step = step


def check_maxima(constants_at: Callable[[Array], tuple[Array, ...]], steps: Array, theta: Array) -> None:
    """Refuse a solution along which a maximum rises that the flow has held constant.

    Parameters
    ----------
    constants_at : callable (θ) → tuple of array
        What the maxima would be, had the run started at θ.
    steps, theta : array, shape (m,) and (m, n)
    """
    held = constants_at(theta[0])
    if not held:
        return
    for k, at in zip(steps, theta, strict=True):
        if any((new > (1 + SLIGHT) * old).any() for new, old in zip(constants_at(at), held, strict=True)):
            raise AssumptionFailed(
                f"the flow assumes that a maximum is constant, but it rises from step {k:g} on: take order 'state',"
                " which follows the maximum, or start where the gradients are largest",
                float(k),
            )


def check_clips(rule: UpdateRule, gradient: Callable[[Array], Array], steps: Array, theta: Array) -> None:
    """Refuse a solution along which a value is clipped: the clip changes F₁, but not F₀."""
    clips = numeric_clips(rule)
    if not clips(theta[0], gradient(theta[0])):  # for a rule without clips no other gradient is needed
        return
    for k, at in zip(steps, theta, strict=True):
        for value, low, high in clips(at, gradient(at)):
            slight = SLIGHT * np.maximum(np.abs(low), np.abs(high))
            if ((value < low - slight) | (value > high + slight)).any():
                raise AssumptionFailed(
                    f"order 2 assumes that no clip is active, but at step {k:g} a value outside [{low}, {high}] is"
                    " clipped: take order 'state', or order 1, which does not depend on the clip",
                    float(k),
                )
