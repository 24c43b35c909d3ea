"""The two streams of gradients: a varied stream that shows mistakes, and a steady stream that shows responses.

The varied stream has whatever a step may treat differently: large and small gradients, sign changes and zeros. The
steady stream has constant statistics, so that rates can be averaged over many steps.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.bench.drive import SEED, Shape, sizes_of

# The varied stream.
SIZES = (1.0, 30.0, 0.01, 3.0, 0.3, 100.0)  # of all gradients, in one stretch of steps after another
SMALLEST = 1e-5  # the smallest weight's gradients relative to the largest's: with 1 instead, ε would hardly show
LARGE_SIZES = (1.0, 0.1, 30.0, 1e3, 3e4, 1.0)  # so that gradients clipped at 1000, by value or by norm, are seen
NEGLIGIBLE = 1e-16  # of the smallest weight's gradients in that stream: √v̂ is below any ε there, and above it elsewhere
ZEROS = 0.1  # the fraction of gradients that are exactly 0, after the first step

# The steady stream, in steps: gradients fall to a tenth at DROP, and η to a half at HALVED.
DROP, HALVED, END = 240, 480, 640
FOLLOWED = 200  # steps for which an impulse is followed: a momentum of .98 has then passed on 98 % of the impulse
PARTS = 16  # an impulse meets 1 weight in 16, whose gradient is 0 in that step: the norm of all hardly changes
# Impulses begin 70 steps before DROP, HALVED and END. A momentum of .9 spreads their effect around the middle of the
# 120 steps over which rates are averaged. Other offsets would compare η_eff and R of different steps.
LEAD = 70
STEPS = END + FOLLOWED - LEAD
SCALES = (0.1, 10.0)  # of the gradients of single weights: spread evenly in the logarithm between the two


def varied_gradients(
    shapes: Iterable[Shape],
    steps: int,
    seed: int = 0,
    scale: float = 1.0,
    sizes_in_time: Sequence[float] = SIZES,
    smallest: float = SMALLEST,
) -> NDArray:
    """Large and small gradients, of constant and of changing sign, with zeros, and a tensor that is 0 for a while.

    Parameters
    ----------
    shapes : iterable of tuple
        Shapes of the tensors, at least two. The gradients of the second are 0 for some steps. The first step has no
        zeros.
    scale : float
        Multiplies all gradients.
    sizes_in_time : sequence of float
        The sizes of all gradients in one stretch of steps after another.
    smallest : float
        The smallest weight's gradients, relative to the largest's.

    Returns
    -------
    array, shape (steps, n), float64

    Examples
    --------
    >>> stream = varied_gradients([(2, 2), (3,)], steps=12)
    >>> stream.shape, bool((stream[0] != 0).all()), bool((stream[4:6, 4:] == 0).all())
    ((12, 7), True, True)
    """
    sizes = sizes_of(shapes)
    n, random = sum(sizes), np.random.default_rng(seed)
    stretch = np.arange(steps) // max(2, steps // len(sizes_in_time)) % len(sizes_in_time)
    drift, smallness = random.normal(size=n), random.permutation(np.geomspace(smallest, 1, n))
    noise = random.normal(size=(steps, n)) + drift
    stream = scale * np.array(sizes_in_time)[stretch][:, None] * smallness * noise
    stream[1:][random.random((steps - 1, n)) < ZEROS] = 0.0
    silent = slice(steps // 3, steps // 3 + min(10, max(1, steps // 6)))
    stream[silent, sizes[0] : sizes[0] + sizes[1]] = 0.0
    return stream


def steady_gradients(n: int, pace: int = 1) -> tuple[NDArray, NDArray]:
    """A start θ, shape (n,), with |θ| from .1 to .3; and gradients, shape (pace·STEPS, n), of mean 0.

    Where :func:`impulses` has an impulse the gradient is 0, so that an impulse does not change second moments to
    first order.

    Parameters
    ----------
    n : int
        The number of weights.
    pace : int
        Multiplies all numbers of steps, for an optimizer with a long memory.
    """
    random = np.random.default_rng(SEED + 2)
    theta = random.uniform(0.1, 0.3, n) * random.choice([-1.0, 1.0], n)
    gradients = random.standard_normal((pace * STEPS, n)) * gradient_scales(n)
    gradients[pace * DROP :] /= 10
    for k, impulse in impulses(n, pace).items():
        gradients[k, impulse != 0] = 0.0
    return theta, gradients


def gradient_scales(n: int) -> NDArray:
    """The scale of each weight's gradients in the steady stream, shape (n,)."""
    return np.random.default_rng(SEED).permutation(np.geomspace(*SCALES, n))


def impulses(n: int, pace: int = 1) -> dict[int, NDArray]:
    """For the PARTS steps that begin LEAD steps before DROP, HALVED and END: an impulse for each weight, shape (n,).

    Each step gives an impulse to another part of the weights, in proportion to their gradients' scales, and 0 to
    all others. ``pace`` multiplies the numbers of steps, except PARTS.
    """
    part, scales = np.arange(n) % PARTS, gradient_scales(n)
    falls = {DROP: 1.0, HALVED: 0.1, END: 0.1}
    starts = {pace * (end - LEAD): fall for end, fall in falls.items()}
    return {start + i: fall * scales * (part == i) for start, fall in starts.items() for i in range(PARTS)}
