"""The central flow: the slow motion of an optimizer that oscillates at its edge of stability."""

from __future__ import annotations  # signatures in help() then say ArrayLike and not all that it stands for

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.checks import whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.flows.chebyshev import chebyshev_step
from swd_dynamics.flows.complementarity import solve_complementarity
from swd_dynamics.flows.curvature import Derivatives, Sharpest
from swd_dynamics.flows.flow import LATE, Flow
from swd_dynamics.flows.ode import FlowDiverged
from swd_dynamics.rules.decay import NoDecay
from swd_dynamics.rules.update import State, UpdateRule
from swd_dynamics.symbolic import NumericEdge, numeric_edge

Array = NDArray[np.float64]
MOST = 6  # directions that oscillate at once; the complementarity problem of k of them has k(k + 1)/2 unknowns
SWEEPS = 200  # Rayleigh–Ritz sweeps before the first step; later ones follow with a sweep each
# Share of the limit: a direction whose curvature is nearer to the limit takes part in the complementarity problem.
NEAR = 0.1
# The share of an excess over the limit that a step may take back. The run needs about 1/(its growth rate) steps for it.
RELAXED = 0.1
SLIGHT = 1e-3  # the variance of a second direction, relative to the first, below which one direction oscillates


@dataclass(frozen=True)
class CentralSolution:
    """A central flow at the steps of the optimizer.

    Attributes
    ----------
    steps : array, shape (m,) — step counts k
    theta : array, shape (m, n) — the slow mean of the weights
    memory : tuple of array, shape (m, n) each — the slow mean of the memory
    sharpness : array, shape (m, p) — the largest generalised eigenvalues of the Hessian, in units of the limit
    covariance : array, shape (m, k, k) — Σ of the oscillation in the directions ``critical``
    critical : array, shape (m, n, k) — the directions, scaled so that uᵀ diag(h_max) u = 1; 0 where there are fewer
    variance : array, shape (m,) — E‖δ‖², the trace of Σ
    norm : array, shape (m,) — √(E‖θ + δ‖²)
    loss : array, shape (m,) — the predicted mean loss L(θ) + ½⟨H, Σ⟩; NaN without a ``loss``
    lifting_decay : array, shape (m,)
        The R/η_eff from which on the sharpest direction would cease to oscillate, ⟨−g, ∇S⟩/⟨θ, ∇S⟩ in the metric of
        η_eff, without what g and θ have along directions that oscillate, where the slow mean is in balance. NaN where
        no direction is near the limit.

    Examples
    --------
    On f = ½(1 + y)x² − y/50 the curvature of x rises to the limit 4 of gradient descent at η = ½, and stays there:

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


@dataclass(frozen=True)
class CentralFlow:
    """The slow motion of an optimizer at its edge of stability, with the covariance Σ of the oscillation beside it.

    The iterates are a slow mean θ and an oscillation δ with Σ = E[δδᵀ]. The mean follows the rule's own step, taken
    with the gradient ∇L + ½∇⟨H, Σ⟩, and its second moment also with the variance of the gradient. Σ is such that the
    Hessian stays at or below diag(h_max), the limit that is derived from the rule::

        diag(h_max) − H ⪰ 0   ⟂   Σ ⪰ 0

    Every step is a filtered step of the rule, x ← y₁ − (y₃ − 3y₂ + 3y₁ − x)/8 with y₁, y₂, y₃ three steps from x: for
    what changes slowly this is a step, and what turns over in each step is left out of it.

    Parameters
    ----------
    rule : UpdateRule
        With numbers or arrays for hyperparameters.
    gradient : callable (θ) → ∇L, shape (n,)
    hvp : callable (θ, vector) → H·vector, optional
        By default a difference of gradients.
    third : callable (θ, u, w) → ∇(uᵀHw), optional
        By default a difference of Hessian-vector products, or the second difference of gradients.
    loss : callable (θ) → number, optional
        For ``loss`` of the solution.
    directions : int
        The number p of eigenvectors that are followed; more than oscillate at once, at most 6 of which may.
    oscillates : bool
        False sets Σ = 0: the same slow motion without the oscillation, as a control.
    limit_of_decay : bool
        False leaves the decay out of the limit, as a control.

    Raises
    ------
    InputError
        If an argument is not of these kinds.
    NotDerivable
        If the rule has no edge of stability.

    Notes
    -----
    Assumes full batches, a loss with three derivatives, and late steps, at which bias corrections are 1. The onset of
    the oscillation, in which it grows from nothing, is not modelled. With momentum the oscillation
    may swing in bursts and not settle, the sooner the larger β and the decay are: then Σ is its mean over many bursts,
    and the weights of a run are less near to θ. In bursts not the mean of the curvature is at the limit, but the mean
    growth ln|z| of the oscillation is 0, where z is the eigenvalue at the curvature of each step. With β = .9 the mean
    curvature then is 2 to 8 % below the limit. As θ fixes H, Adam's v makes up for that: the v of such a run is 7 %
    above that of the flow.
    Source: Cohen, Damian, Talwalkar, Kolter & Lee 2024, 2410.24206, there without weight decay and momentum.

    Examples
    --------
    On f = ½(1 + y)x² − y/50 the oscillation of x holds y back with ½σ², and σ² = 2/50 keeps the curvature 1 + y at its
    limit. Decoupled decay of 1/500 holds y = 3 back too, which leaves σ² = 2(1/50 − 3/500):

    >>> from swd_dynamics.rules import CATALOG
    >>> def gradient(theta):
    ...     x, y = theta
    ...     return np.array([(1 + y) * x, x**2 / 2 - 0.02])
    >>> rules = CATALOG["SGD"](lr=0.5), CATALOG["SGDW"](lr=0.5, weight_decay=0.002)
    >>> [round(float(CentralFlow(rule, gradient).solve([0.0, 2.9], steps=40).variance[-1]), 4) for rule in rules]
    [0.04, 0.028]
    """

    rule: UpdateRule
    gradient: Callable[[Array], Any]
    hvp: Callable[[Array, Array], Any] | None = None
    third: Callable[[Array, Array, Array], Any] | None = None
    loss: Callable[[Array], Any] | None = None
    directions: int = 3
    oscillates: bool = True
    limit_of_decay: bool = True

    def __post_init__(self):
        _ = self._derivatives  # refuses what is not a function
        whole_number("directions", self.directions, least=1)

    @cached_property
    def _derivatives(self) -> Derivatives:
        return Derivatives(self.gradient, self.hvp, self.third)

    @cached_property
    def edge(self) -> NumericEdge:
        """The step in the mean over the oscillation, and the limit, as functions that are derived from the rule."""
        return numeric_edge(self.rule)

    @cached_property
    def limit(self) -> NumericEdge:
        """Where the limit is from."""
        return self.edge if self.limit_of_decay else numeric_edge(replace(self.rule, decay=NoDecay()))

    def solve(self, theta0: ArrayLike, steps: int, *, memory: tuple | None = None) -> CentralSolution:
        """Follow the flow from θ₀ for a number of steps.

        Parameters
        ----------
        theta0 : array, shape (n,)
        steps : int
        memory : tuple of array, optional
            The memory before the first step; by default that of :meth:`Flow.starting_memory`. The run that the flow
            is compared with has its bias corrections gone.

        Raises
        ------
        FlowDiverged
            If the flow is not finite.
        """
        theta = np.atleast_1d(np.asarray(theta0, dtype=float))
        start = Flow(self.rule, self.gradient).starting_memory(theta) if memory is None else memory
        at = _Point(theta, tuple(np.asarray(entry, dtype=float) for entry in start))
        vectors = np.random.default_rng(0).standard_normal((len(theta), min(self.directions, len(theta))))
        kept = self._derivatives.sharpest(theta, self.limit.limit(theta, at.memory), vectors, SWEEPS)
        rows = []
        for k in range(whole_number("steps", steps, least=1) + 1):
            gradient, critical = self._derivatives.gradient(at.theta), self._critical(at, kept)
            covariance = self._covariance(at, gradient, critical)
            rows.append(self._row(at, gradient, kept, critical, covariance))
            at = self._step(at, gradient, critical, covariance) if self.oscillates else self._plain_step(at, kept)
            limit = self.limit.limit(at.theta, at.memory)
            if not np.isfinite(np.concatenate([at.theta, *at.memory, limit])).all():
                raise FlowDiverged(f"the central flow is not finite from step {k + 1} of {steps} on", k + 1)
            kept = self._derivatives.sharpest(at.theta, limit, kept.vectors, sweeps=1)
        return _collected(rows, len(theta))

    def oscillating(self, solution: CentralSolution, k: int) -> State:
        """The rule's state at step k of a solution with the predicted oscillation, where one direction oscillates.

        A run from this state is at θ + δ, and after the next step near θ − δ.

        Raises
        ------
        InputError
            If no direction oscillates there, or more than one does.

        Examples
        --------
        Where σ² = .04, the weight x turns over between .2 and −.2, up to its sign:

        >>> from swd_dynamics.rules import CATALOG
        >>> flow = CentralFlow(CATALOG["SGD"](lr=0.5), lambda t: np.array([(1 + t[1]) * t[0], t[0] ** 2 / 2 - 0.02]))
        >>> state = flow.oscillating(flow.solve([0.0, 2.9], steps=40), 40)
        >>> after = flow.rule(state, flow.gradient(state.theta))
        >>> round(abs(float(state.theta[0])), 4), round(abs(float(after.theta[0] + state.theta[0])), 4)
        (0.2, 0.0)
        """
        sizes, turned = np.linalg.eigh(solution.covariance[k])
        if not len(sizes) or sizes[-1] <= 0 or (len(sizes) > 1 and sizes[-2] > SLIGHT * sizes[-1]):
            raise InputError(
                f"at step {k} {'no direction' if solution.variance[k] == 0 else 'more than one'} oscillates"
            )
        delta = np.sqrt(sizes[-1]) * (solution.critical[k] @ turned[:, -1])
        memory = tuple(entry[k] for entry in solution.memory)
        turning = self.edge.oscillation(solution.theta[k], memory)
        held = [entry + delta * each for entry, each in zip(memory, turning, strict=True)]
        kind: Any = type(self.rule.direction.rest(0.0))
        return State(solution.theta[k] + delta, kind(*held) if hasattr(kind, "_fields") else kind(held), LATE)

    def _critical(self, at: _Point, kept: Sharpest) -> _Critical:
        k = min(int((kept.values > 1 - NEAR).sum()), MOST)
        u = kept.vectors[:, :k]
        slopes = np.zeros((k, k, len(at.theta)))
        for i in range(k):
            for j in range(i, k):
                slopes[i, j] = slopes[j, i] = self._derivatives.slope_of_curvature(at.theta, u[:, i], u[:, j])
        return _Critical(kept.values[:k], u, kept.products[:, :k], slopes, kept.limit)

    def _covariance(self, at: _Point, gradient: Array, critical: _Critical) -> Array:
        """Σ that keeps the Hessian at or below its limit in the next step."""
        k = len(critical.values)
        if k == 0 or not self.oscillates:
            return np.zeros((k, k))
        edge, u, slopes = self.edge, critical.vectors, critical.slopes
        memory = edge.remember(at.theta, gradient, at.memory, 0.0)
        velocity = critical.without(edge.update(at.theta, gradient, memory) - at.theta)
        raised = self.limit.limit(at.theta, memory) - critical.limit
        rate = u.T @ (raised[:, None] * u) - slopes @ velocity
        response = edge.response(at.theta, memory)
        whole = critical.products + np.reshape(edge.added_curvature * np.ones(len(at.theta)), (-1, 1)) * u

        def slope(s: Array) -> Array:
            force = np.einsum("ij,ijn->n", s, slopes) / 2
            held = slopes @ critical.without(response * force)
            variance = np.einsum("ni,ij,nj->n", whole, s, whole)
            more = edge.remember(at.theta, gradient, at.memory, variance)
            change = tuple(a - b for a, b in zip(more, memory, strict=True))
            turn = self.limit.limit_turn(at.theta, memory, change)
            return held + u.T @ (turn[:, None] * u)

        gap = 1 - critical.values
        return solve_complementarity(np.diag(np.where(gap < 0, RELAXED * gap, gap)) + rate, slope)

    def _step(self, at: _Point, gradient: Array, critical: _Critical, covariance: Array) -> _Point:
        force = np.einsum("ij,ijn->n", covariance, critical.slopes) / 2
        added = np.reshape(self.edge.added_curvature * np.ones(len(at.theta)), (-1, 1))
        whole = critical.products + added * critical.vectors
        variance = np.einsum("ni,ij,nj->n", whole, covariance, whole)
        points = [at]
        for _ in range(3):
            theta, memory = points[-1].theta, points[-1].memory
            mean = (gradient if theta is at.theta else self._derivatives.gradient(theta)) + force
            memory = self.edge.remember(theta, mean, memory, variance)
            points.append(_Point(self.edge.update(theta, mean, memory), memory))
        theta = _filtered(*(point.theta for point in points))
        return _Point(theta, tuple(_filtered(*each) for each in zip(*(point.memory for point in points), strict=True)))

    def _plain_step(self, at: _Point, kept: Sharpest) -> _Point:
        """A step of dx/dk = rule(x) − x without oscillation, in as many stages as the sharpness needs."""

        def change(z: Array) -> Array:
            now = at.apart(z)
            gradient = self._derivatives.gradient(now.theta)
            memory = self.edge.remember(now.theta, gradient, now.memory, 0.0)
            return _Point(self.edge.update(now.theta, gradient, memory), memory).joined() - z

        # Above the limit the eigenvalues of the step are real and below 1, so that none is below its trace. In
        # the trace the curvature has the factor ``response``, and each entry of the memory adds at most 1.
        raised = kept.values[0] * float((kept.limit * self.edge.response(at.theta, at.memory)).max())
        return at.apart(chebyshev_step(change, at.joined(), raised + 1 + len(at.memory)))

    def _row(
        self, at: _Point, gradient: Array, kept: Sharpest, critical: _Critical, covariance: Array
    ) -> dict[str, Any]:
        u = critical.vectors
        variance = float(np.einsum("ni,ij,nj->", u, covariance, u))
        loss = np.nan
        if self.loss is not None:
            loss = float(self.loss(at.theta)) + float((u.T @ critical.products * covariance).sum()) / 2
        return {
            "at": at,
            "sharpness": kept.values,
            "covariance": covariance,
            "critical": u,
            "variance": variance,
            "norm": float(np.sqrt(at.theta @ at.theta + variance)),
            "loss": loss,
            "lifting_decay": self._lifting_decay(at, gradient, critical),
        }

    def _lifting_decay(self, at: _Point, gradient: Array, critical: _Critical) -> float:
        if not len(critical.values):
            return np.nan
        metric, slope = self.edge.effective_lr(at.theta, at.memory), critical.slopes[0, 0]
        pull, shrink = (critical.without(metric * each) for each in (-gradient, at.theta))
        return float(slope @ pull) / float(slope @ shrink)


@dataclass(frozen=True)
class _Point:
    theta: Array
    memory: tuple[Array, ...]

    def joined(self) -> Array:
        return np.concatenate([self.theta, *self.memory])

    def apart(self, joined: Array) -> _Point:
        theta, *memory = np.split(joined, 1 + len(self.memory))
        return _Point(theta, tuple(memory))


@dataclass(frozen=True)
class _Critical:
    """The directions near the limit, and ∇(uᵢᵀHuⱼ), shape (k, k, n)."""

    values: Array
    vectors: Array
    products: Array
    slopes: Array
    limit: Array

    def without(self, vector: Array) -> Array:
        """A vector without its part in the directions that oscillate, where the slow mean is in balance."""
        return vector - self.vectors @ (self.vectors.T @ (self.limit * vector))


def _filtered(x: Array, first: Array, second: Array, third: Array) -> Array:
    """A step for what changes slowly, and half-way between two states for what each step turns over."""
    return first - (third - 3 * second + 3 * first - x) / 8


def _collected(rows: list[dict[str, Any]], n: int) -> CentralSolution:
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
