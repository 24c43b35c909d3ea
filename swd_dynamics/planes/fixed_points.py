"""Where a planar field is at rest, and what its linearisation says about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import root

from swd_dynamics.planes.nullclines import DIP, Nullcline, bracketed

Array = NDArray[np.float64]

REST = 1e-7  # of the usual speed: a slower point is at rest (where the field touches zero, it cannot be found better)
ON_LINE = 1e-9  # of the usual speed: at the vertices of one nullcline the other component is zero too
SAME = 0.01  # of a cell of the grid: two searches that end so close together found the same point
CHORD = 1e-16  # of the distance between two vertices: how exactly a first guess is sought on their chord
STEP = 1e-9  # cells of the grid: where the field is steep, a zero that Newton's next step would move by less is found
STENCIL = float(np.finfo(float).eps) ** (1 / 3)
ACCURACY = {"derived": 1e-10, "differences": 1e-7}  # of a Jacobian, relative to its largest entry


@dataclass(frozen=True)
class FixedPoint:
    """A point at rest.

    Attributes
    ----------
    point : array, shape (2,)
    eigenvalues : array of complex, shape (2,) — μ of the field's Jacobian, per unit of time; NaN where it has none
    kind : str — what the flow does around it, by its linearisation (see :func:`kind`)
    multipliers : array of complex or None — z of the optimizer's step: a deviation is multiplied by z; None if unknown
    jacobian : array, shape (2, 2)
    whole : bool — on a slice, whether the whole field rests here and not only its part in the slice

    Examples
    --------
    On f = ½(θ₁² + 5θ₂²) the flow settles at 0. The steps at η = ½ do not, for 1 − 5η = −1½.

    >>> from swd_dynamics.planes import phase_plane
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> (point,) = phase_plane(UpdateRule(0.5, SGD()), lambda theta: np.array([1.0, 5.0]) * theta).fixed_points
    >>> point.kind, point.place(), point.steps_settle
    ('stable node', '(0, 0)', False)
    >>> point.described()
    'eigenvalues μ = −5, −1; steps leave, |z| = 1.5'
    """

    point: Array
    eigenvalues: NDArray[np.complex128]
    kind: str
    multipliers: NDArray[np.complex128] | None
    jacobian: Array
    whole: bool = True

    @property
    def steps_settle(self) -> bool | None:
        """Whether the optimizer's steps, and not only the flow, come back to it: every |z| < 1. None if unknown."""
        return None if self.multipliers is None else bool(np.abs(self.multipliers).max() < 1)

    def place(self, digits: int = 3) -> str:
        """Where it lies, as text; what is round-off is 0."""
        return "(" + ", ".join(_number(round(float(x), 9) + 0.0, digits) for x in self.point) + ")"

    def described(self) -> str:
        """The eigenvalues, and whether the optimizer's steps come back to it where that is known, as text.

        Examples
        --------
        >>> FixedPoint(np.zeros(2), np.array([-1.0, 2.0]), "saddle", None, np.diag([-1.0, 2.0])).described()
        'eigenvalues μ = −1, 2'
        """
        if np.isnan(self.eigenvalues).any():
            return "a kink: no eigenvalues"
        text = "eigenvalues μ = " + _pair(self.eigenvalues)
        if self.multipliers is None:
            return text
        largest = _number(float(np.abs(self.multipliers).max()), 3)
        return f"{text}; steps {'settle' if self.steps_settle else 'leave'}, |z| = {largest}"


def _number(x: float, digits: int) -> str:
    return f"{x:.{digits}g}".replace("-", "−")


def _pair(numbers: NDArray[np.complex128]) -> str:
    """Two real numbers, or a complex pair; a part below round-off of the whole is left away."""
    first, small = numbers[0], 1e-9 * np.abs(numbers).max()
    if np.abs(numbers.imag).max() <= small:
        return ", ".join(_number(float(x), 3) for x in numbers.real)
    return f"{'' if abs(first.real) <= small else _number(first.real, 3) + ' '}± {_number(abs(first.imag), 3)}i"


@dataclass(frozen=True)
class FixedLine:
    """A curve of points at rest; none of them is isolated.

    Attributes
    ----------
    points : array, shape (m, 2)
    rates : array, shape (m,) — the eigenvalue across the curve, per unit of time; the one along it is 0

    Examples
    --------
    f = ½(θ₁ + θ₂ − 1)² has a line of minima, towards which the flow decays as e⁻²ᵗ:

    >>> from swd_dynamics.planes import phase_plane
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> (line,) = phase_plane(UpdateRule(0.5, SGD()), lambda theta: np.full(2, theta.sum() - 1)).fixed_lines
    >>> line.kind, bool(np.allclose(line.points.sum(axis=1), 1)), bool(np.allclose(line.rates, -2))
    ('attracting', True, True)
    """

    points: Array
    rates: Array

    @property
    def kind(self) -> str:
        """``"attracting"``, ``"repelling"``, or ``"neither"`` if that changes along it or no rate decides."""
        return "attracting" if (self.rates < 0).all() else "repelling" if (self.rates > 0).all() else "neither"


def kind(eigenvalues: NDArray[np.complex128], accuracy: float = 0.0, usual: float = 0.0) -> str:
    """The name of a fixed point by its two eigenvalues.

    A *node* has real eigenvalues of one sign, a *focus* a complex pair, both ``"stable …"`` or ``"unstable …"``; a
    *saddle* has real ones of either sign. At a *centre* the pair is imaginary, and *degenerate* means an eigenvalue
    of 0: for these two the linearisation decides nothing about a nonlinear field. *no linearisation*: a kink.

    Parameters
    ----------
    eigenvalues : array of complex, shape (2,)
    accuracy : float
        Relative; a part that is smaller counts as zero. Two equal eigenvalues are only known to its root.
    usual : float
        What an eigenvalue usually is; where both are smaller, ``accuracy`` is relative to this.

    Examples
    --------
    >>> kind(np.array([-1.0, 2.0])), kind(np.array([-1 + 3j, -1 - 3j])), kind(np.array([-1.0, -1.0]))
    ('saddle', 'stable focus', 'stable node')
    """
    if not np.isfinite(eigenvalues).all():
        return "no linearisation"
    size, real = np.abs(eigenvalues), np.real(eigenvalues)
    if size.min() <= accuracy * max(size.max(), usual):
        return "degenerate"
    turns = np.abs(np.imag(eigenvalues)).max() > np.sqrt(accuracy) * size.max()
    if turns and np.abs(real).max() <= accuracy * size.max():
        return "centre"
    if real.min() * real.max() < 0:
        return "saddle"
    return f"{'stable' if real.max() < 0 else 'unstable'} {'focus' if turns else 'node'}"


def differences(function: Callable[[Array], Array], at: Array, along: Array) -> Array:
    """The derivative of a function along a direction by central differences; NaN at a kink.

    It is right to about 1e-10 of the function's own size. At a kink the two one-sided derivatives differ as much on a
    sixteen times larger stencil; where the function is smooth, sixteen times as much.
    """
    step = STENCIL * max(1.0, float(np.abs(at).max())) / max(float(np.linalg.norm(along)), 1e-300)
    centre = function(at)
    slopes = [(function(at + s * along) - centre) / s for h in (step, 16 * step) for s in (h, -h)]
    near, far = np.abs(slopes[0] - slopes[1]), np.abs(slopes[2] - slopes[3])
    kink = (near > 0.5 * far) & (near > 1e-6 * np.maximum(np.abs(slopes[0]), np.abs(slopes[1])).max())
    return np.where(kink, np.nan, (slopes[0] + slopes[1]) / 2)


@dataclass(frozen=True)
class Search:
    """What a search for fixed points needs to know of a plane.

    field : callable (point) → array, shape (2,)
    jacobian : callable (point) → array, shape (2, 2)
    multipliers : callable (point) → array of complex or None
    accuracy : float — of the Jacobian
    speed : float — the usual length of the field
    cell : array, shape (2,) — of the grid
    window : array, shape (2, 2) — its lower and its upper corner
    """

    field: Callable[[Array], Array]
    jacobian: Callable[[Array], Array]
    multipliers: Callable[[Array], NDArray[np.complex128] | None]
    accuracy: float
    speed: float
    cell: Array
    window: Array

    def lines(self, nullclines: tuple[Nullcline, Nullcline]) -> tuple[FixedLine, ...]:
        """The stretches of a nullcline on which the other component is zero too."""
        of = 1 if nullclines[0].flat.any() else 0
        found = [points for line in nullclines[of].lines for points in self._still(line, 1 - of)]
        return tuple(FixedLine(points, np.array([np.trace(self.jacobian(p)) for p in points])) for points in found)

    def points(self, nullclines: tuple[Nullcline, Nullcline], lines: tuple[FixedLine, ...]) -> tuple[FixedPoint, ...]:
        """The isolated zeros: from where one component changes sign along the other's nullcline, or nearly vanishes."""
        found: list[FixedPoint] = []
        for of in (0, 1):
            for line in nullclines[of].lines:
                for guess in self._guesses(line, 1 - of):
                    at = self._refined(guess)
                    if at is not None and not any(self._close(at, other.point, SAME) for other in found):
                        found.append(self._described(at))
        isolated = [point for point in found if not (point.kind == "degenerate" and self._on(point.point, lines))]
        return tuple(sorted(isolated, key=lambda point: tuple(point.point)))

    def _values(self, line: Array, component: int) -> Array:
        return np.array([self.field(point)[component] for point in line])

    def _still(self, line: Array, other: int) -> Iterator[Array]:
        still = np.abs(self._values(line, other)) <= ON_LINE * self.speed
        edges = np.flatnonzero(np.diff(np.concatenate([[0], still.astype(int), [0]])))
        for first, last in edges.reshape(-1, 2):
            if last - first > 2:
                yield line[first:last]

    def _guesses(self, line: Array, other: int) -> Iterator[Array]:
        values = self._values(line, other)
        size = np.abs(values)
        for i in np.flatnonzero(values[:-1] * values[1:] <= 0):
            yield self._between(line[i], line[i + 1], other)
        before, here, after = size[:-2], size[1:-1], size[2:]
        for i in np.flatnonzero((here <= before) & (here <= after) & (here <= DIP * np.maximum(before, after))) + 1:
            yield line[i]

    def _between(self, first: Array, second: Array, component: int) -> Array:
        """Where a component vanishes on the chord between two vertices; its middle if it is not defined all along."""
        try:
            share = bracketed(lambda s: float(self.field(first + s * (second - first))[component]), 0.0, 1.0, CHORD)
            return first + share * (second - first)
        except ValueError:
            return (first + second) / 2

    def _refined(self, guess: Array) -> Array | None:
        """The zero found from a guess, by Powell's hybrid of Newton's method; None if there is none."""
        if not np.isfinite(self.field(guess)).all():
            return None
        solved = root(self.field, guess, jac=self.jacobian, tol=1e-15).x
        best = min((guess, solved), key=lambda at: np.nan_to_num(np.linalg.norm(self.field(at)), nan=np.inf))
        inside = (best >= self.window[0] - SAME * self.cell).all() and (best <= self.window[1] + SAME * self.cell).all()
        return best if inside and self._rests(best) else None

    def _rests(self, at: Array) -> bool:
        """Whether the field is as good as zero, or, where it is steep, a zero as good as here."""
        field, jacobian = self.field(at), self.jacobian(at)
        if np.linalg.norm(field) <= REST * self.speed:
            return True
        if not np.isfinite(jacobian).all() or np.linalg.det(jacobian) == 0:
            return False
        return bool((np.abs(np.linalg.solve(jacobian, field)) <= STEP * self.cell).all())

    def _close(self, one: Array, other: Array, cells: float) -> bool:
        return bool((np.abs(one - other) <= cells * self.cell).all())

    def _on(self, point: Array, lines: tuple[FixedLine, ...]) -> bool:
        return any(self._close(point, at, 1) for line in lines for at in line.points)

    def _described(self, at: Array) -> FixedPoint:
        jacobian = self.jacobian(at)
        known = np.isfinite(jacobian).all()
        eigenvalues = np.linalg.eigvals(jacobian).astype(complex) if known else np.full(2, np.nan + 0j)
        multipliers = self.multipliers(at)
        usual = self.speed / float((self.window[1] - self.window[0]).max())
        return FixedPoint(
            at, np.sort_complex(eigenvalues), kind(eigenvalues, self.accuracy, usual), multipliers, jacobian
        )
