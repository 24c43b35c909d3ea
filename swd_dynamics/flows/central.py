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
from swd_dynamics.flows.central_solution import CentralSolution, collected
from swd_dynamics.flows.chebyshev import chebyshev_step
from swd_dynamics.flows.complementarity import solve_complementarity
from swd_dynamics.flows.curvature import Derivatives, Sharpest
from swd_dynamics.flows.flow import LATE, Flow
from swd_dynamics.flows.moving_edge import EdgeAt, moving_edge
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
# Of the limit: a larger curvature at the start is refused, because the flow takes an excess back too slowly. Runs at
# their edge overshoot by some tenths.
TOO_SHARP = 2.0
# Relative change of a curvature where θ changes by its own size. Below it nothing but the error of differences is left,
# some 1e-8, and no oscillation holds the curvature at its limit.
FLAT = 1e-6
SLIGHT = 1e-3  # the variance of a second direction, relative to the first, below which one direction oscillates
BALANCED = (
    "If the rule has a memory, give memory= as a run has it: its slow mean after some hundred steps of the rule. By"
    " default each entry is what the gradient at the start implies, as v = g², which is small where the gradient is"
)


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
        With numbers or arrays for hyperparameters, and a number, an array or a schedule for its learning rate.
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
    Under a schedule the limit moves with η, and Σ keeps the Hessian at the limit of the next step. Where the limit
    rises faster than the curvature, as after a drop of η, the flow leaves the edge. A change of η by more than a tenth
    from one step to the next is a jump: Σ feels it after the step, and not ahead of it.

    Assumes full batches, a loss with three derivatives, and late steps, at which bias corrections are 1. The onset of
    the oscillation, in which it grows from nothing, and its fading after the flow has left the edge are not modelled.
    With momentum the oscillation may swing in bursts and not settle, the sooner the larger β and the decay are: then Σ
    is its mean over many bursts, and the weights of a run are less near to θ. In bursts not the mean of the curvature
    is at the limit, but the mean growth ln|z| of the oscillation is 0, where z is the eigenvalue at the curvature of
    each step. With β = .9 the mean curvature then is 2 to 8 % below the limit. As θ fixes H, Adam's v makes up for
    that: the v of such a run is 7 % above that of the flow.
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
        """The step in the mean over the oscillation, and the limit, as functions that are derived from the rule.

        Raises
        ------
        InputError
            If the rule has a schedule.
        """
        return numeric_edge(self.rule)

    @cached_property
    def limit(self) -> NumericEdge:
        """Where the limit is from."""
        return self.edge if self.limit_of_decay else numeric_edge(replace(self.rule, decay=NoDecay()))

    @property
    def late_rule(self) -> UpdateRule:
        """The rule for a run from :meth:`oscillating`, whose bias corrections are gone: its schedule begins there.

        Examples
        --------
        >>> from swd_dynamics.rules import CATALOG, Linear
        >>> late = CentralFlow(CATALOG["SGD"](lr=Linear(0.5, steps=10)), lambda theta: theta).late_rule
        >>> late.lr_at(LATE + 5)
        0.25
        """
        lr = self.rule.lr
        return replace(self.rule, lr=lambda k: lr(k - LATE)) if self.rule.has_schedule else self.rule

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
        InputError
            If the sharpness at the start is more than twice its limit.
        FlowDiverged
            If the flow is not finite, or a curvature rises above its limit that does not change with the weights.
        """
        theta = np.atleast_1d(np.asarray(theta0, dtype=float))
        steps = whole_number("steps", steps, least=1)
        start = Flow(self.rule, self.gradient).starting_memory(theta) if memory is None else memory
        at = _Point(theta, tuple(np.asarray(entry, dtype=float) for entry in start))
        edges = self._edges(steps)
        vectors = np.random.default_rng(0).standard_normal((len(theta), min(self.directions, len(theta))))
        limit = edges[0].limit.limit(theta, at.memory)
        if not (limit > 0).all():
            raise InputError(f"the limit is {limit.min():g} for some weights at the start. {BALANCED}")
        kept = self._derivatives.sharpest(theta, limit, vectors, SWEEPS)
        self._check_start(kept)
        rows = []
        for k, edge in enumerate(edges):
            gradient = self._derivatives.gradient(at.theta)
            critical = self._critical(at, gradient, kept)
            covariance = self._covariance(edge, at, gradient, critical)
            if not np.isfinite(covariance).all():
                raise FlowDiverged(
                    f"from step {k} of {steps} on a curvature is above its limit that does not change with the weights,"
                    " as that of a parabola: no oscillation holds it back, and a run diverges",
                    k,
                )
            rows.append(self._row(edge, at, gradient, kept, critical, covariance))
            if self.oscillates:
                at = self._step(edge.now, at, gradient, critical, covariance)
            else:
                at = self._plain_step(edge.now, at, kept)
            limit = edges[min(k + 1, steps)].limit.limit(at.theta, at.memory)
            if not np.isfinite(np.concatenate([at.theta, *at.memory, limit])).all():
                raise FlowDiverged(f"the central flow is not finite from step {k + 1} of {steps} on", k + 1)
            kept = self._derivatives.sharpest(at.theta, limit, kept.vectors, sweeps=1)
        return collected(rows, len(theta))

    def _edges(self, steps: int) -> list[EdgeAt]:
        if self.rule.has_schedule:
            return moving_edge(self.rule, steps, limit_of_decay=self.limit_of_decay)
        return [EdgeAt(self.edge, self.limit, self.limit)] * (steps + 1)

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
        edge = numeric_edge(replace(self.rule, lr=self.rule.lr_at(k))) if self.rule.has_schedule else self.edge
        turning = edge.oscillation(solution.theta[k], memory)
        held = [entry + delta * each for entry, each in zip(memory, turning, strict=True)]
        kind: Any = type(self.rule.direction.rest(0.0))
        late = k if self.rule.has_schedule else 0
        return State(solution.theta[k] + delta, kind(*held) if hasattr(kind, "_fields") else kind(held), LATE + late)

    def _check_start(self, kept: Sharpest) -> None:
        if self.oscillates and kept.values[0] > TOO_SHARP:
            raise InputError(
                f"the sharpness at the start is {kept.values[0]:.3g} times its limit, but the flow begins below the"
                f" limit or near to it. {BALANCED}"
            )

    def _critical(self, at: _Point, gradient: Array, kept: Sharpest) -> _Critical:
        k = min(int((kept.values > 1 - NEAR).sum()), MOST)
        u = kept.vectors[:, :k]
        slopes = np.zeros((k, k, len(at.theta)))
        needed = k if self.oscillates else min(k, 1)  # without oscillation only ``lifting_decay`` takes a slope
        for i in range(needed):
            for j in range(i, needed):
                found = self._derivatives.slope_of_curvature(at.theta, u[:, i], u[:, j], gradient)
                slopes[i, j] = slopes[j, i] = found
        return _Critical(kept.values[:k], u, kept.products[:, :k], slopes, kept.limit)

    def _covariance(self, edges: EdgeAt, at: _Point, gradient: Array, critical: _Critical) -> Array:
        """Σ that keeps the Hessian at or below its limit in the next step."""
        k = len(critical.values)
        if k == 0 or not self.oscillates:
            return np.zeros((k, k))
        edge, ahead, u, slopes = edges.now, edges.ahead, critical.vectors, critical.slopes
        memory = edge.remember(at.theta, gradient, at.memory, 0.0)
        velocity = critical.without(edge.update(at.theta, gradient, memory) - at.theta)
        raised = ahead.limit(at.theta, memory) - critical.limit
        rate = u.T @ (raised[:, None] * u) - slopes @ velocity
        response = edge.response(at.theta, memory)
        whole = critical.products + np.reshape(edge.added_curvature * np.ones(len(at.theta)), (-1, 1)) * u

        def slope(s: Array) -> Array:
            force = np.einsum("ij,ijn->n", s, slopes) / 2
            held = slopes @ critical.without(response * force)
            variance = np.einsum("ni,ij,nj->n", whole, s, whole)
            more = edge.remember(at.theta, gradient, at.memory, variance)
            change = tuple(a - b for a, b in zip(more, memory, strict=True))
            turn = ahead.limit_turn(at.theta, memory, change)
            return held + u.T @ (turn[:, None] * u)

        gap = 1 - critical.values
        constant = np.diag(np.where(gap < 0, RELAXED * gap, gap)) + rate
        held = [float(slope(np.diag(unit))[i, i]) for i, unit in enumerate(np.eye(k)) if constant[i, i] < 0]
        flat = (FLAT / max(1.0, float(np.abs(at.theta).max()))) ** 2 * float(response.max()) / 2
        return np.full((k, k), np.inf) if min(held, default=np.inf) <= flat else solve_complementarity(constant, slope)

    def _step(self, edge: NumericEdge, at: _Point, gradient: Array, critical: _Critical, covariance: Array) -> _Point:
        force = np.einsum("ij,ijn->n", covariance, critical.slopes) / 2
        added = np.reshape(edge.added_curvature * np.ones(len(at.theta)), (-1, 1))
        whole = critical.products + added * critical.vectors
        variance = np.einsum("ni,ij,nj->n", whole, covariance, whole)
        points = [at]
        for _ in range(3):
            theta, memory = points[-1].theta, points[-1].memory
            mean = (gradient if theta is at.theta else self._derivatives.gradient(theta)) + force
            memory = edge.remember(theta, mean, memory, variance)
            points.append(_Point(edge.update(theta, mean, memory), memory))
        theta = _filtered(*(point.theta for point in points))
        entries = zip(*(point.memory for point in points), strict=True)
        return _Point(theta, tuple(_not_negative(_filtered(*each), each) for each in entries))

    def _plain_step(self, edge: NumericEdge, at: _Point, kept: Sharpest) -> _Point:
        """A step of dx/dk = rule(x) − x without oscillation, in as many stages as the sharpness needs."""

        def change(z: Array) -> Array:
            now = at.apart(z)
            gradient = self._derivatives.gradient(now.theta)
            memory = edge.remember(now.theta, gradient, now.memory, 0.0)
            return _Point(edge.update(now.theta, gradient, memory), memory).joined() - z

        # Above the limit the eigenvalues of the step are real and below 1, so that none is below its trace. In
        # the trace the curvature has the factor ``response``, and each entry of the memory adds at most 1.
        raised = kept.values[0] * float((kept.limit * edge.response(at.theta, at.memory)).max())
        return at.apart(chebyshev_step(change, at.joined(), raised + 1 + len(at.memory)))

    def _row(
        self, edges: EdgeAt, at: _Point, gradient: Array, kept: Sharpest, critical: _Critical, covariance: Array
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
            "lifting_decay": _lifting_decay(edges, at, gradient, critical),
        }


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


def _not_negative(filtered: Array, points: tuple[Array, ...]) -> Array:
    """A filtered entry, or the least of its points where none of them is negative, as a second moment, but it is."""
    least = np.min(points, axis=0)
    return np.where((filtered < 0) & (least >= 0), least, filtered)


def _lifting_decay(edges: EdgeAt, at: _Point, gradient: Array, critical: _Critical) -> float:
    if not len(critical.values):
        return np.nan
    metric, slope, u = edges.now.effective_lr(at.theta, at.memory), critical.slopes[0, 0], critical.vectors[:, 0]
    pull, shrink = (critical.without(metric * each) for each in (-gradient, at.theta))
    risen = edges.ahead.limit(at.theta, at.memory) - critical.limit
    moved = float(slope @ shrink)
    return (float(slope @ pull) - float(u @ (risen * u))) / moved if moved else np.nan
