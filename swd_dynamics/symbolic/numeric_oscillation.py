"""The stability of the settled oscillation in numbers: the growth and the frequency of its bursts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swd_dynamics.errors import InputError
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic.derivation import NotDerivable
from swd_dynamics.symbolic.letters import lettered
from swd_dynamics.symbolic.numeric import numeric_linear_map
from swd_dynamics.symbolic.oscillation import oscillation_parts

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
# Frequencies above this, in radians per step, are no slow modulation: the averages over the oscillation need many
# steps in a period. The eigenvalues of stiff weights near −1 have the frequency π.
FASTEST = np.pi / 2
# The share of ‖∇S‖² of the weights with the smallest slopes, which are left out: the roots change by as much at most.
UNFELT = 1e-7
# The number of curvatures below the limit at which the rule must be stable. An instability in between is missed if it
# is narrower than the limit divided by this number.
SAMPLED = 64
# |μ| of perturbations that are gone after a step. The memory of a momentum of 0 has such roots, at which h(μ) is 0/0.
FADED = 1e-9
# The share of the size of the oscillation in a root that belongs to the oscillation. Two coupled oscillators have ½
# each, and weights that drift by themselves, as along a flat direction, less than .01.
LEAST_SHARE = 0.05


@dataclass(frozen=True)
class BurstRoots:
    """How perturbations of a settled oscillation grow: as exp(s·k) with step k.

    Attributes
    ----------
    roots : array of complex, shape (p,) — s, per step, the fastest growing first
    shares : array, shape (p,) — to which part each root belongs to the size of the oscillation; the rest is slow drift

    Examples
    --------
    A root that has no part in the oscillation does not lead, although it grows faster:

    >>> found = BurstRoots(np.array([0.5, -0.1 + 0.25j, -0.1 - 0.25j]), np.array([0.0, 0.5, 0.5]))
    >>> found.leading, found.growth, found.frequency
    ((-0.1+0.25j), -0.1, 0.25)
    """

    roots: Complex
    shares: Array

    @property
    def leading(self) -> complex:
        """The root s of the fastest growing perturbation of the oscillation, with a frequency ≥ 0; NaN without one."""
        own = self.roots[(self.shares >= LEAST_SHARE) & (self.roots.imag >= 0)]
        return complex(own[0]) if len(own) else complex(np.nan, np.nan)

    @property
    def growth(self) -> float:
        """The growth rate of the bursts in each step: where it is negative, the oscillation settles."""
        return self.leading.real

    @property
    def frequency(self) -> float:
        """The frequency of the bursts, in radians per step."""
        return self.leading.imag


@dataclass(frozen=True, repr=False)
class NumericOscillation:
    """The stability of the settled oscillation under a rule whose hyperparameters are numbers.

    Attributes
    ----------
    matrix : array, shape (m, m) — the linear map of (θ, memory) at zero curvature
    response : array, shape (m,) — what a unit of curvature adds to the first column of the matrix
    limit : float — h_max

    Examples
    --------
    Gradient descent at η = ½ has the limit 2/η:

    >>> float(NumericOscillation(np.array([[1.0]]), np.array([-0.5]), limit=4.0).curvature(-1.0).real)
    4.0
    """

    matrix: Array
    response: Array
    limit: float

    def __repr__(self) -> str:
        return f"The settled oscillation at the curvature {self.limit:.6g}: the functions curvature and roots"

    @property
    def _polynomials(self) -> tuple[np.poly1d, np.poly1d]:
        """p and q of h(μ) = p(μ)/q(μ): the characteristic polynomial at the curvature h is p − hq."""
        flat, curved = (np.poly1d(np.poly(each)) for each in (self.matrix, self.matrix + self._gain))
        return flat, np.polysub(flat, curved)

    @property
    def _gain(self) -> Array:
        """What a unit of curvature adds to the matrix."""
        gain = np.zeros_like(self.matrix)
        gain[:, 0] = self.response
        return gain

    def curvature(self, multiplier: ArrayLike) -> Complex:
        """h(μ), the curvature at which the linear map has the eigenvalue μ, shaped like μ.

        Examples
        --------
        Gradient descent has h(μ) = (1 − μ)/η:

        >>> from swd_dynamics.rules import CATALOG
        >>> numeric_oscillation(CATALOG["SGD"](lr=0.5)).curvature([-1.0, 0.5]).real.tolist()
        [4.0, 1.0]
        """
        p, q = self._polynomials
        at = np.asarray(multiplier, dtype=complex)
        return np.asarray(p(at) / q(at), dtype=complex)

    def roots(
        self, curvatures: ArrayLike, slopes: ArrayLike, *, fourth_derivative: float, variance: float
    ) -> BurstRoots:
        """All roots of the equation of :func:`~swd_dynamics.symbolic.oscillation.settled_oscillation`.

        Parameters
        ----------
        curvatures : array, shape (n,)
            hⱼ, the eigenvalues of the Hessian of L̄ = L + ½σ²S, without what L2 adds.
        slopes : array, shape (n,)
            The slope of the sharpness S along each eigenvector.
        fourth_derivative : float
            L₄, the fourth derivative of the loss along the direction that oscillates.
        variance : float
            σ² of the oscillation.

        Raises
        ------
        InputError
            If curvatures and slopes are not of one shape (n,), a number is not finite, or the variance is not positive.

        Notes
        -----
        The roots are the eigenvalues of the linear map of the size of the oscillation and of n slow means, with the
        memory of each: a matrix of m(n + 1) rows. Left out are frequencies above π/2 radians per step, and the weights
        with the smallest slopes, whose squares together are 1e-7 of ‖∇S‖².
        """
        curvatures, slopes = (np.atleast_1d(np.asarray(each, dtype=float)) for each in (curvatures, slopes))
        if curvatures.shape != slopes.shape or curvatures.ndim != 1:
            raise InputError(f"curvatures and slopes have the shapes {curvatures.shape} and {slopes.shape}: give (n,)")
        if not 0 < variance < np.inf:
            raise InputError(
                f"variance = {variance} is not allowed: give a finite number > 0, since nothing else can settle"
            )
        given = {"curvatures": curvatures, "slopes": slopes, "fourth_derivative": fourth_derivative}
        for name, value in given.items():
            if not np.isfinite(value).all():
                raise InputError(f"{name} has a number that is not finite: was it measured in a run that diverged?")
        order = np.argsort(slopes**2)
        felt = order[np.cumsum(slopes[order] ** 2) > UNFELT * (slopes @ slopes)]
        joined = self._joined(curvatures[felt], slopes[felt], fourth_derivative, variance)
        found = np.linalg.eigvals(joined).astype(complex)
        found = found[(np.abs(found) > FADED) & (np.abs(np.angle(found)) <= FASTEST)]
        found = found[np.argsort(-np.abs(found))]
        return BurstRoots(np.log(found), self._shares(found, curvatures[felt], slopes[felt], variance))

    def _joined(self, curvatures: Array, slopes: Array, fourth: float, variance: float) -> Array:
        """The step of the relative change ρ of the size, turned over, and of each slow mean, memory included."""
        m, n = len(self.matrix), len(curvatures)
        step = np.zeros((n + 1, m, n + 1, m))
        gain = self._gain
        step[0, :, 0] = -self.matrix - (self.limit + fourth * variance / 3) * gain
        for j, (curvature, slope) in enumerate(zip(curvatures, slopes, strict=True), 1):
            step[j, :, j] = self.matrix + curvature * gain
            step[0, :, j] = -slope * gain
            step[j, :, 0] = variance * slope * gain
        return step.reshape(m * (n + 1), m * (n + 1))

    def _shares(self, found: Complex, curvatures: Array, slopes: Array, variance: float) -> Array:
        """|A′/F′| at each zero of F = A + B, where A is of the size alone and B of the slow means."""
        p, q = self._polynomials

        def slope(at: Complex) -> Complex:
            return np.asarray((p.deriv()(at) * q(at) - p(at) * q.deriv()(at)) / q(at) ** 2, dtype=complex)

        pushed = (slopes**2 / (curvatures - self.curvature(found)[:, None]) ** 2).sum(axis=1)
        of_size = -slope(-found)
        return np.abs(of_size / (of_size + variance * pushed * slope(found)))


def numeric_oscillation(rule: UpdateRule) -> NumericOscillation:
    """The stability of the settled oscillation of a rule whose hyperparameters are all numbers.

    Raises
    ------
    InputError
        If a hyperparameter is a symbol, or the rule has a schedule.
    NotDerivable
        As :func:`~swd_dynamics.symbolic.oscillation.settled_oscillation` does.

    Examples
    --------
    Gradient descent at η = ½ on ½(1 + y)x² − y/50, where S = 1 + y. With σ = 1/5 the roots are those of
    (μ − 1)² + η²σ² = 0, μ = 1 ± i/10, so that the oscillation grows by √1.01 in each step:

    >>> from swd_dynamics.rules import CATALOG
    >>> found = numeric_oscillation(CATALOG["SGD"](lr=0.5)).roots([0.0], [1.0], fourth_derivative=0.0, variance=0.04)
    >>> round(found.growth, 12) == round(float(np.log(1.01)) / 2, 12), round(float(np.tan(found.frequency)), 12)
    (True, 0.1)
    """
    if rule.has_schedule:
        raise InputError("the settled oscillation needs one learning rate, and a schedule has several: give a number")
    oscillation_parts(lettered(rule)[0])  # refuses a rule in which weights differ
    step = numeric_linear_map(rule)
    matrix, at_one = (np.asarray(step(np.array([[h]])), dtype=float) for h in (0.0, 1.0))
    response = (at_one - matrix)[:, 0]
    limit = float(NumericOscillation(matrix, response, np.nan).curvature(-1.0).real)
    found = NumericOscillation(matrix, response, limit)
    below = limit * (np.arange(SAMPLED) + 0.5) / SAMPLED
    if limit <= 0 or np.abs(np.linalg.eigvals(matrix + below[:, None, None] * found._gain)).max() > 1:
        raise NotDerivable("the rule is unstable below the curvature at which its step turns an oscillation over")
    return found
