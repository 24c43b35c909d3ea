"""What a central flow predicts at each step of the optimizer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CentralSolution:
    """A central flow at the steps of the optimizer.

    Attributes
    ----------
    steps : array, shape (m,) — step counts k
    theta : array, shape (m, n) — the slow mean of the weights
    memory : tuple of array, shape (m, n) each — the slow mean of the memory
    sharpness : array, shape (m, p) — the largest generalised eigenvalues of the Hessian, in units of the limit then
    covariance : array, shape (m, k, k) — Σ of the oscillation in the directions ``critical``
    critical : array, shape (m, n, k) — the directions, scaled so that uᵀ diag(h_max) u = 1; 0 where there are fewer
    variance : array, shape (m,) — E‖δ‖², the trace of Σ
    norm : array, shape (m,) — √(E‖θ + δ‖²)
    loss : array, shape (m,) — the predicted mean loss L(θ) + ½⟨H, Σ⟩; NaN without a ``loss``
    lifting_decay : array, shape (m,)
        The R/η_eff from which on the sharpest direction would cease to oscillate, ⟨−g, ∇S⟩/⟨θ, ∇S⟩ in the metric of
        η_eff, without what g and θ have along directions that oscillate, where the slow mean is in balance. NaN where
        no direction is near the limit, or θ does not change S.

    Examples
    --------
    On f = ½(1 + y)x² − y/50 the curvature of x rises to the limit 4 of gradient descent at η = ½, and stays there:

    >>> from swd_dynamics.flows import CentralFlow
    >>> from swd_dynamics.rules import CATALOG
    >>> flow = CentralFlow(CATALOG["SGD"](lr=0.5), lambda t: np.array([(1 + t[1]) * t[0], t[0] ** 2 / 2 - 0.02]))
    >>> solution = flow.solve([0.0, 2.9], steps=40)
    >>> solution
    CentralSolution(40 steps, 2 weights, 31 steps at the edge)
    >>> float((1 + solution.theta[-1, 1]).round(6))
    4.0
    """

    steps: Array
    theta: Array
    memory: tuple[Array, ...]
    sharpness: Array
    covariance: Array
    critical: Array
    variance: Array
    norm: Array
    loss: Array
    lifting_decay: Array

    def __repr__(self) -> str:
        steps, n = len(self.steps) - 1, self.theta.shape[1]
        at_edge = int((self.variance > 0).sum())
        return f"CentralSolution({steps} steps, {n} weights, {at_edge} steps at the edge)"


def collected(rows: list[dict[str, Any]], n: int) -> CentralSolution:
    k = max(len(row["covariance"]) for row in rows)
    covariance, critical = np.zeros((len(rows), k, k)), np.zeros((len(rows), n, k))
    for i, row in enumerate(rows):
        own = len(row["covariance"])
        covariance[i, :own, :own], critical[i, :, :own] = row["covariance"], row["critical"]
    memory = zip(*(row["at"].memory for row in rows), strict=True)
    return CentralSolution(
        steps=np.arange(len(rows), dtype=float),
        theta=np.array([row["at"].theta for row in rows]),
        memory=tuple(np.array(entry) for entry in memory),
        covariance=covariance,
        critical=critical,
        **{
            name: np.array([row[name] for row in rows])
            for name in ("sharpness", "variance", "norm", "loss", "lifting_decay")
        },
    )
