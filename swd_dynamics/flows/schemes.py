"""The schemes by which paths of a stochastic differential equation are followed."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Drift = Callable[[Array], Array]

# The two schemes are written here because no library that is kept up takes a vectorised numpy function and has a weak
# scheme of second order: torchsde and diffrax need torch and jax, sdeint integrates one path at a time with strong
# schemes, sdepack is for scalar equations, and scipy has none.


def euler_maruyama(at: Array, dt: float, kick: Array, drift: Drift) -> Array:
    """A step of Euler and Maruyama, x + F(x)·dt + kick: weak order 1.

    Parameters
    ----------
    at : array, shape (paths, m)
    dt : float
    kick : array, shape (paths, m) — B(x)·ΔW, with the diffusion at the start of the step
    drift : callable x → F(x)

    Examples
    --------
    >>> euler_maruyama(np.array([[1.0]]), 0.5, np.array([[0.25]]), lambda x: -x).tolist()
    [[0.75]]
    """
    return at + drift(at) * dt + kick


def heun(at: Array, dt: float, kick: Array, drift: Drift) -> Array:
    """Heun's step, x + ½(F(x) + F(x̂))·dt + kick with x̂ = x + F(x)·dt + kick: weak order 2 where B is constant.

    Where B depends on θ only through η·H(θ), as here, the diffusion at the start of the step adds an error of η²·dt.
    Parameters as for :func:`euler_maruyama`. Source: Kloeden & Platen 1992, "Numerical Solution of Stochastic
    Differential Equations", sec. 15.1, for additive noise; Milstein & Tretyakov 1997, SIAM J. Numer. Anal. 34, 2142,
    for small noise.

    Examples
    --------
    >>> heun(np.array([[1.0]]), 0.5, np.array([[0.25]]), lambda x: -x).tolist()
    [[0.8125]]
    """
    slope = drift(at)
    return at + (slope + drift(at + slope * dt + kick)) * (dt / 2) + kick


SCHEMES = {"heun": heun, "euler-maruyama": euler_maruyama}
