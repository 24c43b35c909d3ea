"""The stochastic differential equation of an optimizer whose gradients are noisy, with ensembles of its paths."""

from __future__ import annotations  # signatures in help() then say ArrayLike and not all that it stands for

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov

from swd_dynamics.checks import whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.flows.differences import differences
from swd_dynamics.flows.functions import array_function, as_array
from swd_dynamics.flows.ode import INFINITE
from swd_dynamics.flows.schemes import SCHEMES
from swd_dynamics.flows.stiffness import COARSE, MOST, FastestRate, jacobian_product, needed
from swd_dynamics.rules.gate import as_rule
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import NumericDiffusion, numeric_diffusion

Array = NDArray[np.float64]
LARGE = 1 / 2  # share of ηF₁ in F₀ from which a variance of order 2 is off by 4 %, b²/(4(1+b)); twice as much, 12 %


@dataclass(frozen=True)
class Ensemble:
    """Paths of an SDE at the steps of the optimizer that it models.

    Attributes
    ----------
    steps : array, shape (m,) — step counts k
    time : array, shape (m,) — t = ηk
    theta : array, shape (m, paths, n)
    memory : tuple of array, shape (m, paths, n) each — the entries of the memory, for order "state"; else empty
    diverged : array, shape (paths,) — the step from which on a path is NaN because it diverged; ∞ where it did not

    Examples
    --------
    Without noise all paths are the flow, here e⁻ᵗ:

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> found = SDE(UpdateRule(0.125, SGD()), lambda theta: theta, noise=0.0).solve([1.0], steps=8, paths=2)
    >>> found
    Ensemble(8 steps to t = 1, 2 paths of 1 weight, 0 diverged)
    >>> found.variance[-1].tolist(), round(float(found.mean[-1, 0] - np.exp(-1)), 3)
    ([0.0], 0.0)
    """

    steps: Array
    time: Array
    theta: Array
    memory: tuple[Array, ...]
    diverged: Array

    @property
    def mean(self) -> Array:
        """The mean over the paths, shape (m, n); NaN from the step on in which the first path diverges."""
        return self.theta.mean(axis=1)

    @property
    def variance(self) -> Array:
        """The variance over the paths, shape (m, n); NaN from the step on in which the first path diverges."""
        return self.theta.var(axis=1, ddof=1)

    def __repr__(self) -> str:
        _, paths, n = self.theta.shape
        many = f"{paths} path{'s' * (paths != 1)} of {n} weight{'s' * (n != 1)}"
        lost = int(np.isfinite(self.diverged).sum())
        return f"Ensemble({len(self.steps) - 1} steps to t = {self.time[-1]:g}, {many}, {lost} diverged)"


@dataclass(frozen=True)
class SDE:
    """The stochastic differential equation that models an optimizer with noisy gradients, with t = ηk.

    ======= ============================================================ ========================================
    order   the equation                                                 relative error of a stationary variance
    ======= ============================================================ ========================================
    1       dθ = F₀ dt + √η·B₀ dW                                        O(η), β fixed
    2       dθ = (F₀ + ηF₁) dt + √η·(B₀ + ηB₁) dW                        O(η²), β fixed
    "state" d(θ, m) = (A(θ, m) + b·g(θ) − (θ, m))/η dt + b/√η dW         O(η_eff·h), any β
    ======= ============================================================ ========================================

    Order 2 holds only while ηF₁ is small compared with F₀. Where b = ‖ηF₁‖/‖F₀‖, its stationary variance is off by
    b²/(4(1+b)) of itself, besides terms of order η². With momentum b is ηh(1+β)/(2(1−β)²) at
    the curvature h: the condition is ηh ≪ (1−β)². Order 1 is off by only ηh/(2(1+β)) there, so that order 2 has the
    better variance only below ηh = 2(1−β)⁴/(1+β)³, which is 3·10⁻⁵ at β = .9.

    Order "state" has the memory as a variable, so that the memory need not be short compared with the run. Without
    decay its variance of θ is too small by η_eff·h/(1 + η_eff·h) of itself as β → 1, with η_eff = η(1−τ)/(1−β), and
    by two thirds of that at β = .5. Where β is fixed, that is more than the error of order 1.

    W has the covariance of the noise in the gradient. F and B are derived from the rule's linear map, see
    :func:`~swd_dynamics.symbolic.diffusion.stochastic_equation`. A step without gradient is A, and b is what a unit of
    gradient adds to the state.

    Parameters
    ----------
    rule : UpdateRule
        With numbers or arrays for hyperparameters.
    gradient : callable (θ) → g, both of shape (paths, n)
        The gradient of the loss without noise, of all paths at once.
    noise : number; array, shape (n,); or array, shape (n, n)
        The standard deviation of the noise in the gradient of each weight, or the covariance matrix of the noise.
    hvp : callable (θ, vector) → H·vector, all of shape (paths, n), optional
        Hessian-vector product; order 2 needs it.
    order : 1, 2 or "state"
    frozen : mapping of str to number or array, optional
        Values of entries that the preconditioner is made of, as ``{"v": 2.0}``; by default those that follow from the
        noise, v = σ².
    equation : NumericDiffusion, optional
        The equation to integrate. By default it is derived from the rule.

    Raises
    ------
    InputError
        If an argument is not of these kinds, or order 2 lacks an ``hvp``.
    NotDerivable
        When it is solved, if the rule has no SDE.

    Warns
    -----
    RuntimeWarning
        Of order 2 with b > ½ at the start of the paths or at the minimum; there a variance is off by 4 % and more.

    Notes
    -----
    Assumes noise that is independent from step to step and does not depend on θ, late steps, at which bias corrections
    are 1, and for Adam a preconditioner that is constant. Source: Mandt, Hoffman & Blei 2017, 1704.04289; Li, Tai & E
    2019, 1811.01558; for Adam, Malladi, Lyu, Panigrahi & Arora 2022, 2205.10287.

    Examples
    --------
    Gradient descent on f = ½θ² with noise 1 has the variance η/(2 − η), here 1/3. Order 1 gives η/2, and order 2
    η(1 + η/2)/2, up to terms of the next order:

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> parts = UpdateRule(0.5, SGD()), lambda theta: theta, 1.0, lambda theta, vector: vector
    >>> [round(float(SDE(*parts, order).stationary_covariance([0.0])[0, 0]), 4) for order in (1, 2)]
    [0.25, 0.3125]
    >>> round(float(SDE(*parts).covariance_of_steps([0.0])[0, 0]), 4)
    0.3333
    """

    rule: UpdateRule
    gradient: Callable[[Array], Any]
    noise: ArrayLike
    hvp: Callable[[Array, Array], Any] | None = None
    order: Literal[1, 2, "state"] = 1
    frozen: Mapping[str, ArrayLike] | None = None
    equation: NumericDiffusion | None = None

    def __post_init__(self):
        as_rule(self.rule)
        object.__setattr__(self, "gradient", array_function("gradient(theta)", self.gradient))
        if self.hvp is not None:
            object.__setattr__(self, "hvp", array_function("hvp(theta, vector)", self.hvp))
        if self.order not in (1, 2, "state"):
            raise InputError(f"order = {self.order!r} is not allowed: it must be 1, 2 or 'state'")
        if self.order == 2 and self.hvp is None:
            raise InputError("order 2 needs hvp(theta, vector), the Hessian-vector product of the loss: give hvp")
        object.__setattr__(self, "noise", _checked_noise(self.noise))

    @cached_property
    def numbers(self) -> NumericDiffusion:
        """F and B in numbers: the ``equation`` given, or the equation derived from the rule."""
        noise: Any = self.noise
        deviation = np.sqrt(np.diag(noise)) if np.ndim(noise) == 2 else noise
        return self.equation or numeric_diffusion(self.rule, deviation, self.frozen)

    def drift(self, at: ArrayLike) -> Array:
        """F at θ, or at (θ, memory) for order "state": arrays of shape (paths, m)."""
        at, sde = as_array(at), self.numbers
        theta = at[:, : at.shape[1] // self._entries]
        gradient = self.gradient(theta)
        if self.order == "state":
            each = at.reshape(len(at), self._entries, -1)
            moved = np.einsum(
                "ijn,pjn->pin", np.broadcast_to(sde.matrix, (*sde.matrix.shape[:2], theta.shape[1])), each
            )
            return ((moved + sde.response * gradient[:, None, :]) - each).reshape(at.shape) / sde.lr
        first = -sde.pull * gradient - sde.decay * theta
        return first if self.order == 1 else first + sde.lr * self._corrected(theta, first, sde.turn, sde.lag)

    def diffusion(self, at: ArrayLike, noise: ArrayLike) -> Array:
        """√η·B at (θ, memory) times the noise of a gradient, shape (paths, n): array of the shape of ``at``."""
        at, noise, sde = as_array(at), as_array(noise), self.numbers
        if self.order == "state":
            return (sde.response * noise[:, None, :]).reshape(len(noise), -1) / np.sqrt(sde.lr)
        first = sde.pull * noise
        if self.order == 2:
            first = first + sde.lr * self._corrected(at, first, sde.stir, sde.stir_lag)
        return np.sqrt(sde.lr) * first

    def solve(
        self,
        theta0: ArrayLike,
        steps: int,
        *,
        paths: int = 1000,
        seed: int = 0,
        scheme: str = "heun",
        substeps: int | None = None,
    ) -> Ensemble:
        """Follow an ensemble of paths from θ₀ for a number of the optimizer's steps.

        Parameters
        ----------
        theta0 : array, shape (n,) or (paths, n)
            Where all paths, or each of them, start. For order "state" the memory starts at 0.
        steps : int
        paths, seed : int
        scheme : "heun" or "euler-maruyama"
        substeps : int, optional
            Steps of the scheme in each step of the optimizer. By default they follow the fastest rate of the drift
            along the paths, with four at least: then the scheme's error in a variance is less than 2 %. With your own
            the error is of the relative order (η·rate/substeps)², with Euler and Maruyama's η·rate/substeps.

        Returns
        -------
        Ensemble
            A path that diverges is NaN from there on.

        Warns
        -----
        RuntimeWarning
            If the scheme is too coarse for the drift, or order 2 is used where ηF₁ is not small compared with F₀.
        """
        if scheme not in SCHEMES:
            raise InputError(f"scheme = {scheme!r} is not allowed: it must be one of {', '.join(SCHEMES)}")
        steps = whole_number("steps", steps, least=1)
        given = None if substeps is None else whole_number("substeps", substeps, least=1)
        at = self._start(theta0, whole_number("paths", paths, least=1))
        n, lr, random = at.shape[1] // self._entries, self.numbers.lr, np.random.default_rng(seed)
        kept, diverged, coarse = [at], np.full(len(at), np.inf), [(0.0, 0.0)]
        fastest, shape = FastestRate(at.shape), (len(at), n)
        with np.errstate(all="ignore"):
            self._warn_if_second_is_large(at)
            fastest.settled(jacobian_product(self.drift, at))
            for k in range(1, steps + 1):
                stiffness = lr * float(fastest.followed(jacobian_product(self.drift, at)).max())
                count = given or needed(scheme, stiffness)
                coarse.append((stiffness / count, stiffness))
                at = self._stepped(at, SCHEMES[scheme], count, lambda: random.standard_normal(shape))
                lost: Any = ~(np.abs(at) < INFINITE).all(axis=1)
                at = np.where(lost[:, None], np.nan, at)
                diverged = np.where(lost & np.isinf(diverged), k, diverged)
                kept.append(at)
        share, stiffness = max(coarse)
        if share > COARSE:
            _warn_of_coarse(share, needed(scheme, round(stiffness, 3)))
        theta, *memory = np.split(np.array(kept), self._entries, axis=2)
        k = np.arange(steps + 1, dtype=float)
        return Ensemble(k, self.numbers.lr * k, theta, tuple(memory), diverged)

    def stationary_covariance(self, theta: ArrayLike) -> Array:
        """The stationary covariance Σ of the SDE, linearised at a minimum θ: JΣ + ΣJᵀ + ηBCBᵀ = 0.

        Without an ``hvp``, the Hessian is computed by central differences of the gradient.

        Parameters
        ----------
        theta : array, shape (n,)

        Returns
        -------
        array, shape (n, n)
            For order "state" shape (s·n, s·n), with the weights first. ∞ where the SDE is unstable.
        """
        linear, n = self._linear(theta), len(np.atleast_1d(as_array(theta)))
        linear._warn_if_second_is_large(np.zeros((1, n)))
        jacobian = linear.drift(np.eye(self._entries * n)).T
        stirred = linear.diffusion(np.zeros((n, self._entries * n)), np.eye(n)).T
        if not np.linalg.eigvals(jacobian).real.max() < 0:
            return np.full(jacobian.shape, np.inf)
        return solve_continuous_lyapunov(jacobian, -stirred @ self._noise_covariance(n) @ stirred.T)

    def covariance_of_steps(self, theta: ArrayLike) -> Array:
        """The covariance that the optimizer's steps keep at a minimum θ, which the SDE approximates: Σ = AΣAᵀ + bCbᵀ.

        Returns
        -------
        array, shape (s·n, s·n), for θ and s − 1 memory entries
            ∞ where the steps are unstable.
        """
        n, sde = len(np.atleast_1d(as_array(theta))), self.numbers
        state = replace(self, order="state", equation=sde)._linear(theta)
        matrix = np.eye(len(sde.response) * n) + sde.lr * state.drift(np.eye(len(sde.response) * n)).T
        added = np.sqrt(sde.lr) * state.diffusion(np.zeros((n, len(matrix))), np.eye(n)).T
        if not np.abs(np.linalg.eigvals(matrix)).max() < 1:
            return np.full(matrix.shape, np.inf)
        return solve_discrete_lyapunov(matrix, added @ self._noise_covariance(n) @ added.T)

    @property
    def _entries(self) -> int:
        """The number of entries of the state that the SDE is for."""
        return len(self.numbers.response) if self.order == "state" else 1

    def _stepped(self, at: Array, scheme: Callable, count: int, standard: Callable[[], Array]) -> Array:
        """The paths one step of the optimizer later, in ``count`` steps of the scheme."""
        dt = self.numbers.lr / count
        for _ in range(count):
            kick = self.diffusion(at, np.sqrt(dt) * self._correlated(standard()))
            at = scheme(at, dt, kick, self.drift)
        return at

    def _warn_if_second_is_large(self, at: Array) -> None:
        """Warn where ηF₁ is more than half of F₀, or ηB₁ of B₀, at some path."""
        if self.order != 2:
            return
        sde = self.numbers
        shares = [
            sde.lr * FastestRate(at.shape).settled(lambda v, pair=pair: self._corrected(at, v, *pair)).max()
            for pair in ((sde.turn, sde.lag), (sde.stir, sde.stir_lag))
        ]
        if max(shares) > LARGE:
            names = [f"η{name}₁ is {share:.2g} of {name}₀" for name, share in zip("FB", shares, strict=True)]
            said = "order 2 needs terms of second order that are small compared with those of first order, but"
            advice = "with momentum it needs ηh ≪ (1 − β)²: take order 1 or 'state', or a smaller learning rate"
            warnings.warn(f"{said} {' and '.join(names)}; {advice}", RuntimeWarning, stacklevel=3)

    def _corrected(self, theta: Array, first: Array, turn: Array, lag: Array) -> Array:
        assert self.hvp is not None  # __post_init__ refuses order 2 without an hvp
        return turn * self.hvp(theta, first) + lag * first

    def _linear(self, theta: ArrayLike) -> SDE:
        """The SDE of the quadratic with the Hessian at θ, about its minimum."""
        at = np.atleast_1d(as_array(theta))
        units = np.eye(len(at))
        if self.hvp is not None:
            hessian = self.hvp(np.broadcast_to(at, units.shape), units)
        else:
            hessian = np.array([differences(lambda x: self.gradient(x[None])[0], at, unit) for unit in units])
        # rows are H·unit, and H is symmetric
        return replace(self, gradient=lambda x: x @ hessian, hvp=lambda _, v: v @ hessian, equation=self.numbers)

    def _start(self, theta0: ArrayLike, paths: int) -> Array:
        theta = np.atleast_1d(as_array(theta0))
        theta = np.broadcast_to(theta, (paths, theta.shape[-1])).copy() if theta.ndim == 1 else theta
        sizes = {np.size(self.noise, -1)} if np.ndim(self.noise) else {1, theta.shape[-1]}
        if theta.ndim != 2 or not np.isfinite(theta).all() or theta.shape[1] not in sizes:
            raise InputError(f"theta0 has the shape {np.shape(theta0)}: give finite numbers, one for each weight")
        if self.gradient(theta).shape != theta.shape:
            said = f"gradient(theta) gave the shape {self.gradient(theta).shape} for paths of the shape {theta.shape}"
            raise InputError(f"{said}: it must take the gradients of all paths at once")
        if self.order != "state":
            return theta
        count = self._entries - 1
        return np.concatenate([theta, np.zeros((len(theta), count * theta.shape[1]))], axis=1)

    def _correlated(self, standard: Array) -> Array:
        noise: Any = self.noise
        return standard @ _root(noise).T if np.ndim(noise) == 2 else noise * standard

    def _noise_covariance(self, n: int) -> Array:
        noise: Any = self.noise
        return noise if np.ndim(noise) == 2 else np.diag(np.broadcast_to(noise, n) ** 2)


def _checked_noise(noise: Any) -> Array:
    try:
        array = as_array(noise)
    except (TypeError, ValueError):
        raise InputError(f"noise = {noise!r} is not made of numbers") from None
    is_matrix = array.ndim == 2
    fits = array.ndim < 2 or (is_matrix and array.shape[0] == array.shape[1] and np.allclose(array, array.T))
    if not fits or not np.isfinite(array).all() or (not is_matrix and (array < 0).any()):
        raise InputError(
            f"noise of shape {array.shape} is not allowed: give a standard deviation ≥ 0, one for each weight, or a"
            " symmetric covariance matrix"
        )
    return array


def _warn_of_coarse(share: float, wanted: int) -> None:
    enough = "an order whose drift is not so stiff, or a smaller learning rate"
    advice = f"give substeps={wanted} or more" if wanted < MOST else f"no {MOST} substeps are enough: take {enough}"
    said = f"the scheme is too coarse: a substep is {share:.2g} of the shortest time scale of the drift"
    warnings.warn(f"{said}, so that variances are wrong and paths may diverge; {advice}", RuntimeWarning, stacklevel=3)


def _root(covariance: Array) -> Array:
    """A matrix L with LLᵀ = covariance, which may have eigenvalues 0."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.clip(values, 0, None))
