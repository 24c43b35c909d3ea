"""The curvature along a run of Adam whose oscillation bursts, and the mean at which it neither grows nor fades.

The oscillation δ of one direction with the curvature μ, in units of the limit, has z² − (1 + β − 2(1+β)μ)z + β = 0. Its
larger root is −1 at μ = 1. Above, ln|z| rises steeply, and where the roots are complex, from a little below on, it is
½·ln β. So where μ fluctuates, the mean of ln|z| is 0 at a mean of μ that is not 1.

The limit takes v as constant in an oscillation. But v turns over too where the mean gradient g of a weight is not 0,
which raises the limit of this weight: see :mod:`swd_dynamics.symbolic.full_limit`.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq

from swd_dynamics.flows import CentralFlow
from swd_dynamics.flows.curvature import Derivatives
from swd_dynamics.rules import CATALOG, State
from swd_dynamics.studies.edge_runs import mean_state, slow_mean, still
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.modified_equation import real_run
from swd_dynamics.symbolic import numeric_full_limit, numeric_stability
from swd_dynamics.tasks import Task

FIRST = 80  # sweeps for the first eigenvalue; each later one begins with the eigenvectors of the one before
EVERY = 2  # steps from one eigenvalue to the next; with 1 the means of pilot runs were the same up to .002
BEFORE = 500  # steps of a bursting run before the comparison
FIRST_SIZES = (1.0, 0.5, 1.5, 2.0, 2.5)  # sizes of the first oscillation; 1 is the size that it has after BEFORE steps
LEAST = 0.2  # the least quotient of the two limits of a weight: near 0 the weight has no limit if v turns over


def log_growth(curvature: np.ndarray, beta: float) -> np.ndarray:
    """ln|z| of the oscillation in each step, by the derived linear map, for curvatures in units of the limit.

    While v is constant, Adam's oscillation is that of heavy ball, whose η sets the unit of the curvature only.

    Examples
    --------
    Without momentum z is 1 − 2μ; with it, complex roots have the size √β:

    >>> np.exp(log_growth(np.array([1.0, 2.0]), 0.0)).round(9).tolist()
    [1.0, 3.0]
    >>> float(np.exp(2 * log_growth(np.array([0.9]), 0.81))[0].round(6))
    0.81
    """
    heavy_ball = numeric_stability(CATALOG["SGD"](lr=1.0, momentum=0.5))
    limit = heavy_ball.limit(momentum=beta)
    return np.log(heavy_ball.growth(limit * np.asarray(curvature, dtype=float), momentum=beta))


def balanced_mean(curvature: np.ndarray, beta: float) -> float:
    """The mean at which a curvature that fluctuates in this form lets the oscillation neither grow nor fade.

    Examples
    --------
    Without momentum, (2c(1 + x) − 1)(2c(1 − x) − 1) = 1 has the solution c = 1/(1 − x²):

    >>> round(balanced_mean(np.array([0.5, 1.5]), 0.0), 6), round(balanced_mean(np.array([2.0, 2.0]), 0.9), 6)
    (1.333333, 1.0)
    """
    form = np.asarray(curvature, dtype=float) / np.mean(curvature)
    found: Any = brentq(lambda mean: float(log_growth(mean * form, beta).mean()), 0.5, 2.0)
    return float(found)


def curvatures(flow: CentralFlow, theta: np.ndarray, state: State) -> np.ndarray:
    """The largest eigenvalue of the Hessian along a run of Adam, in units of the limit with v's own oscillation.

    Parameters
    ----------
    flow : CentralFlow — whose rule and gradient are those of the run
    theta : array, shape (steps + 1, n) — the iterates of the run
    state : State — of the rule at the first of them
    """
    entries = _along(flow.rule, flow.gradient, theta, state)
    slow = [(each[:-2] + 2 * each[1:-1] + each[2:]) / 4 for each in entries]
    limit_of, turned = flow.edge.limit, numeric_full_limit(flow.rule)
    around, loss, found = None, Derivatives(flow.gradient), []
    for k in range(0, len(theta) - 3, EVERY):
        mean, gradient, *memory = (each[k] for each in slow)
        own = np.maximum(limit_of(mean, tuple(memory)) * turned(gradient, tuple(memory)), LEAST)
        limit = limit_of(theta[k + 1], tuple(entry[k + 1] for entry in entries[2:])) / own
        start = np.random.default_rng(0).standard_normal((len(mean), 2)) if around is None else around.vectors
        around = loss.sharpest(mean, limit, start, FIRST if around is None else 1)
        found.append(around.values[0])
    return np.array(found)


def _along(rule: Any, gradient: Callable, theta: np.ndarray, state: State) -> list[np.ndarray]:
    """θ, G and the entries of the memory at each step of a run, the memory after the step."""
    rows = []
    for now in theta[:-1]:
        found = gradient(now)
        state = rule(state._replace(theta=now), found)
        rows.append((now, found + rule.decay.added_gradient(now), *state.memory))
    return [np.array(each) for each in zip(*rows, strict=True)]


class Bursts(NamedTuple):
    """Bursting torch runs that differ in the size of their first oscillation, and the flows beside them.

    distance, without, apart : array
        From the runs' slow means to the central flow, to that with Σ = 0, and from one another; root mean squares.
    curvature : array — along the first run, in units of the limit
    """

    distance: np.ndarray
    without: np.ndarray
    apart: np.ndarray
    curvature: np.ndarray

    def off(self, distance: np.ndarray) -> float:
        """One of the distances to a flow, in units of that of the runs from one another."""
        ends = (each[len(each) // 2 :] for each in (distance, self.apart))
        above, below = (float(np.sqrt((end**2).mean())) for end in ends)
        return above / below


def burst(task: Task, gradient: Callable, method: Method, steps: int, directions: int) -> Bursts:
    """Bursting torch runs that differ in the size of their first oscillation, and the flows with Σ and with 0."""
    flow, lr = CentralFlow(method.rule(), gradient, directions=directions), method.arguments["lr"]
    theta, memory, state = mean_state(flow, task.theta, BEFORE)
    states = [state._replace(theta=theta + size * (state.theta - theta)) for size in FIRST_SIZES]
    runs = [real_run(task, method, lr, each, steps + 1) for each in states]
    means = [slow_mean(each)[0] for each in runs]
    found, plain = (each.solve(theta, steps, memory=memory).theta[1:] for each in (flow, still(flow)))
    near, far = (_apart([(mean, each) for mean in means]) for each in (found, plain))
    curvature = curvatures(flow, runs[0], state)
    return Bursts(near, far, _apart(list(combinations(means, 2))), curvature)


def _apart(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The root mean square, over pairs of paths, of their distance after each step."""
    return np.sqrt(np.mean([((one - other) ** 2).sum(axis=1) for one, other in pairs], axis=0))
