"""A step of a stiff differential equation whose fast directions decay, in few stages."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DAMPING = 0.05  # with 0 there are rates inside the interval of stability that are not damped at all


def chebyshev_step(rate: Callable[[Array], Array], z: Array, fastest: float) -> Array:
    """A step of length 1 of dz/dk = rate(z), of first order, by s stages of the Runge–Kutta–Chebyshev method.

    On dz/dk = −μz it is z′ = T_s(w₀ − w₁μ)/T_s(w₀)·z with the Chebyshev polynomial T_s, w₀ = 1 + ε/s² and
    w₁ = T_s(w₀)/T_s′(w₀). This is stable for μ ≤ (2 − 4ε/3)s², so that s stages allow for s times as large a μ as
    s Euler steps.

    Parameters
    ----------
    rate : callable (z) → array, shape (n,)
    z : array, shape (n,)
    fastest : float — the largest μ; it determines s, which is at least 2

    Notes
    -----
    Assumes that the fast directions are real: rates with |Im μ| ≤ 1 are stable for μ up to 2, as those of momentum.
    Source: van der Houwen & Sommeijer 1980, Z. Angew. Math. Mech. 60, 479, with its damping.

    Examples
    --------
    Two stages are stable at μ = 7, where an Euler step would multiply z by −6:

    >>> step = chebyshev_step(lambda z: -7 * z, np.ones(1), fastest=7.0)
    >>> w0, w1 = 1 + DAMPING / 4, (1 + DAMPING + DAMPING**2 / 8) / (4 + DAMPING)  # T₂(w) = 2w² − 1
    >>> float(step[0] - (2 * (w0 - 7 * w1) ** 2 - 1) / (2 * w0**2 - 1)) < 1e-14
    True
    """
    stages = max(2, int(np.ceil(np.sqrt(fastest / (2 - 4 * DAMPING / 3)))))
    w0 = 1 + DAMPING / stages**2
    values, slope = [1.0, w0], [0.0, 1.0]
    for _ in range(stages - 1):
        values.append(2 * w0 * values[-1] - values[-2])
        slope.append(2 * values[-2] + 2 * w0 * slope[-1] - slope[-2])
    w1 = values[stages] / slope[stages]
    before, now = z, z + w1 / w0 * rate(z)
    for j in range(2, stages + 1):
        share, back = values[j - 1] / values[j], values[j - 2] / values[j]
        before, now = now, 2 * share * (w0 * now + w1 * rate(now)) - back * before
    return now
