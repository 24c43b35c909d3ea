"""Fixed points of a planar field: where they are, and what the linearisation says about each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import root

from swd_dynamics.planes.nullclines import DIP, Nullcline, bracketed

Array = NDArray[np.float64]
Pair = tuple[Nullcline, Nullcline]

# Of each component's usual size: a point where both are smaller is a fixed point. A field that only touches zero is
# quadratic there, and a search ends at about this speed: a tenth would miss such points, and ten times would accept
# near misses.
REST = 1e-7
# Of its usual size: a component that is smaller counts as zero at a vertex of the other component's nullcline. The
# vertices are exact to round-off, so that half serves too; at REST, slow stretches would count as lines.
ON_LINE = 1e-9
# Cells of the grid: two searches that end closer together found the same point. Where the field only touches zero,
# searches end up to half of this apart: halved, one point could be reported twice; doubled, nearby points would be one.
SAME_POINT = 0.01
CHORD = 1e-16  # of the distance between two vertices: tolerance of a first guess on their chord, below round-off
# Cells of the grid: where the field is steep, a point with a shorter Newton step is a zero. Such points are right to
# about this; below 1e-14 round-off would reject them.
NEWTON_STEP = 1e-9
SEEN = (
    1e-3  # of the window: about a pixel of a figure; a tenth is not seen, and ten times as much is not near the point
)
# Of the larger of two rates by differences over SEEN: a smaller rate decides nothing, because differences across a sign
# blur it. At half, a narrow valley could be called a saddle; doubled, fewer points are corrected.
DECIDED = 0.01


@dataclass(frozen=True)
class FixedPoint:
    """A point where the field is zero.

    Attributes
    ----------
    point : array, shape (2,)
    eigenvalues : array of complex, shape (2,) — μ of the field's Jacobian, per unit of time; NaN where it has none
    kind : str — what the flow does around it, by its linearisation (see :func:`kind`)
    multipliers : array of complex or None — z of the optimizer's step: a deviation is multiplied by z; None if unknown
    jacobian : array, shape (2, 2)
    whole : bool — on a slice, whether the whole field is zero here, and not only its projection onto the slice
    hidden : bool — whether the linearisation holds only much closer than the window shows, and contradicts the field at
        a thousandth of the window, which ``kind`` then follows

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

    So many digits of |z| are written that the side of 1 can be seen:

    >>> (point,) = phase_plane(UpdateRule(0.5, SGD()), lambda theta: np.array([1.0, 3.9999]) * theta).fixed_points
    >>> point.described()
    'eigenvalues μ = −4, −1; steps settle, |z| = 0.9999'
    """

    point: Array
    eigenvalues: NDArray[np.complex128]
    kind: str
    multipliers: NDArray[np.complex128] | None
    jacobian: Array
    whole: bool = True
    hidden: bool = False

    @property
    def steps_settle(self) -> bool | None:
        """Whether the optimizer's steps, and not only the flow, return to the point: every |z| < 1. None if unknown."""
        return None if self.multipliers is None else bool(np.abs(self.multipliers).max() < 1)

    def place(self, digits: int = 3) -> str:
        """The coordinates as text, rounded to nine decimals first, so that round-off reads as 0."""
        return "(" + ", ".join(_number(round(float(x), 9) + 0.0, digits) for x in self.point) + ")"

    def described(self) -> str:
        """The eigenvalues and, where they are known, whether the optimizer's steps return to the point, as text.

        Examples
        --------
        >>> FixedPoint(np.zeros(2), np.array([-1.0, 2.0]), "saddle", None, np.diag([-1.0, 2.0])).described()
        'eigenvalues μ = −1, 2'
        """
        if np.isnan(self.eigenvalues).any():
            return "a kink: no eigenvalues"
        text = "eigenvalues μ = " + _pair(self.eigenvalues) + "; these hold only very close to it" * self.hidden
        if self.multipliers is None:
            return text
        largest = _beside_one(float(np.abs(self.multipliers).max()))
        return f"{text}; steps {'settle' if self.steps_settle else 'leave'}, |z| = {largest}"


def _number(x: float, digits: int) -> str:
    return f"{x:.{digits}g}".replace("-", "−")


def _beside_one(x: float) -> str:
    """A number with three digits, or with as many more as show on which side of 1 it is."""
    return next((text for digits in range(3, 16) if (text := _number(x, digits)) != "1"), "1")


def _pair(numbers: NDArray[np.complex128]) -> str:
    """Two real numbers, or a complex pair. A real or imaginary part of the size of round-off is omitted."""
    first, small = numbers[0], 1e-9 * np.abs(numbers).max()
    if np.abs(numbers.imag).max() <= small:
        return ", ".join(_number(float(x), 3) for x in numbers.real)
    return f"{'' if abs(first.real) <= small else _number(first.real, 3) + ' '}± {_number(abs(first.imag), 3)}i"


@dataclass(frozen=True)
class FixedLine:
    """A curve of fixed points, none of which is isolated.

    Attributes
    ----------
    points : array, shape (m, 2)
    rates : array, shape (m,) — the eigenvalue across the curve, per unit of time; the eigenvalue along the curve is 0

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
        """``"attracting"``, ``"repelling"``, or ``"neither"`` if the sign of the rates changes or a rate is 0."""
        if (self.rates < 0).all():
            return "attracting"
        return "repelling" if (self.rates > 0).all() else "neither"


def kind(eigenvalues: NDArray[np.complex128], errors: ArrayLike = 0.0, accuracy: float = 0.0) -> str:
    """The name of a fixed point by its two eigenvalues.

    A *node* has real eigenvalues of one sign, a *focus* a complex pair, both ``"stable …"`` or ``"unstable …"``; a
    *saddle* has two real eigenvalues of opposite sign. At a *centre* the pair is imaginary, and *degenerate* means an
    eigenvalue of 0: in these two cases the linearisation decides nothing about a nonlinear field. At a kink there is
    *no linearisation*.

    Parameters
    ----------
    eigenvalues : array of complex, shape (2,)
    errors : number or array, shape (2,)
        Error of each eigenvalue: an eigenvalue or a real part that is smaller counts as zero.
    accuracy : float
        Relative error of the Jacobian: two equal eigenvalues are known only to the square root of it.

    Examples
    --------
    >>> kind(np.array([-1.0, 2.0])), kind(np.array([-1 + 3j, -1 - 3j])), kind(np.array([-1.0, -1.0]))
    ('saddle', 'stable focus', 'stable node')
    """
    if not np.isfinite(eigenvalues).all():
        return "no linearisation"
    size, real = np.abs(eigenvalues), np.real(eigenvalues)
    if (size <= errors).any():
        return "degenerate"
    turns = np.abs(np.imag(eigenvalues)).max() > np.sqrt(accuracy) * size.max()
    if turns and (np.abs(real) <= errors).all():
        return "centre"
    if real.min() * real.max() < 0:
        return "saddle"
    return f"{'stable' if real.max() < 0 else 'unstable'} {'focus' if turns else 'node'}"


def _stability(name: str) -> str:
    return name.split()[0]


@dataclass(frozen=True)
class Search:
    """The search for the fixed points of a plane, from the vertices of its nullclines.

    field : callable (point) → array, shape (2,)
    jacobian : callable (point) → array, shape (2, 2)
    multipliers : callable (point) → array of complex or None
    accuracy : float — relative error of the Jacobian
    usual : array, shape (2,) — the usual size of each component of the field
    cell : array, shape (2,) — the sides of a cell of the grid
    window : array, shape (2, 2) — the lower and the upper corner
    """

    field: Callable[[Array], Array]
    jacobian: Callable[[Array], Array]
    multipliers: Callable[[Array], NDArray[np.complex128] | None]
    accuracy: float
    usual: Array
    cell: Array
    window: Array

    def lines(self, nullclines: Pair) -> tuple[FixedLine, ...]:
        """The stretches of a nullcline on which the other component is zero too."""
        of, found = (1 if nullclines[0].flat.any() else 0), []
        for line in nullclines[of].lines:
            for points in self._stretches(line, 1 - of):
                rates = np.array([np.trace(self.jacobian(point)) for point in points])
                found.append(FixedLine(points, rates))
        return tuple(found)

    def points(
        self, nullclines: Pair, lines: tuple[FixedLine, ...], ends: Sequence[Array] = ()
    ) -> tuple[FixedPoint, ...]:
        """The isolated zeros.

        A search starts where one component changes sign, or nearly vanishes, along the nullcline of the other. It also
        starts at the ``ends`` of orbits: nullclines that lie within 1e-8 of each other do not show where they meet.
        """
        found: list[FixedPoint] = []
        on_lines = (guess for of in (0, 1) for line in nullclines[of].lines for guess in self._guesses(line, 1 - of))
        for guess in (*on_lines, *ends):
            at = self._refined(guess)
            if at is not None and not any(self._close(at, known.point, SAME_POINT) for known in found):
                found.append(self._described(at))
        isolated = [p for p in found if p.kind != "degenerate" or not self._on(p.point, lines)]
        return tuple(sorted(isolated, key=lambda point: tuple(point.point)))

    def _values(self, line: Array, component: int) -> Array:
        return np.array([self.field(point)[component] for point in line])

    def _stretches(self, line: Array, other: int) -> Iterator[Array]:
        """The stretches of at least three vertices at which the other component is zero."""
        zero = np.abs(self._values(line, other)) <= ON_LINE * self.usual[other]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], zero.astype(int), [0]])))
        for first, last in edges.reshape(-1, 2):
            if last - first > 2:
                yield line[first:last]

    def _guesses(self, line: Array, other: int) -> Iterator[Array]:
        """Points on a nullcline near which the other component changes sign or has a dip towards zero."""
        values = self._values(line, other)
        size = np.abs(values)
        for i in np.flatnonzero(values[:-1] * values[1:] <= 0):
            yield self._between(line[i], line[i + 1], other)
        before, here, after = size[:-2], size[1:-1], size[2:]
        lowest = (here <= before) & (here <= after)
        for i in np.flatnonzero(lowest & (here <= DIP * np.maximum(before, after))) + 1:
            yield line[i]

    def _between(self, first: Array, second: Array, component: int) -> Array:
        """The zero of a component on the chord between two vertices; the chord's middle if the field is undefined."""
        try:
            chord = second - first
            share = bracketed(lambda s: float(self.field(first + s * chord)[component]), 0.0, 1.0, CHORD)
            return first + share * chord
        except ValueError:
            return (first + second) / 2

    def _refined(self, guess: Array) -> Array | None:
        """The zero near a guess, by Powell's hybrid of Newton's method; None if the search ends elsewhere."""
        if not np.isfinite(self.field(guess)).all():
            return None
        scale = self.usual
        solved = root(
            lambda at: self.field(at) / scale, guess, jac=lambda at: self.jacobian(at) / scale[:, None], tol=1e-15
        ).x
        speeds = [np.linalg.norm(self.field(at) / scale) for at in (guess, solved)]
        best = solved if np.nan_to_num(speeds[1], nan=np.inf) < speeds[0] else guess
        margin = SAME_POINT * self.cell
        inside = (best >= self.window[0] - margin).all() and (best <= self.window[1] + margin).all()
        return best if inside and self._is_zero(best) else None

    def _is_zero(self, at: Array) -> bool:
        """Whether the field is slow here, or steep with a zero within a Newton step of a billionth of a cell."""
        field, jacobian = self.field(at), self.jacobian(at)
        if np.linalg.norm(field / self.usual) <= REST:
            return True
        if not np.isfinite(jacobian).all() or np.linalg.det(jacobian) == 0:
            return False
        return bool((np.abs(np.linalg.solve(jacobian, field)) <= NEWTON_STEP * self.cell).all())

    def _close(self, one: Array, other: Array, cells: float) -> bool:
        return bool((np.abs(one - other) <= cells * self.cell).all())

    def _on(self, point: Array, lines: tuple[FixedLine, ...]) -> bool:
        return any(self._close(point, at, 1) for line in lines for at in line.points)

    def _described(self, at: Array) -> FixedPoint:
        jacobian = self.jacobian(at)
        known = np.isfinite(jacobian).all()
        eigenvalues = np.linalg.eigvals(jacobian).astype(complex) if known else np.full(2, np.nan + 0j)
        multipliers = self.multipliers(at)
        name = kind(eigenvalues, self._errors(jacobian, eigenvalues) if known else 0.0, self.accuracy)
        seen = self._seen(at, float(np.abs(eigenvalues).max())) if known else ""
        hidden = bool(seen) and _stability(seen) != _stability(name)
        return FixedPoint(
            at, np.sort_complex(eigenvalues), seen if hidden else name, multipliers, jacobian, hidden=hidden
        )

    def _seen(self, at: Array, fastest: float) -> str:
        """The kind by differences over a thousandth of the window, if the linearisation cannot hold so far.

        Empty if it can hold, or if such differences do not decide the kind.
        """
        reach = SEEN * (self.window[1] - self.window[0])
        if fastest * reach.min() <= self.usual.max():
            return ""
        slopes = [(self.field(at + step) - self.field(at - step)) / (2 * step.sum()) for step in np.diag(reach)]
        if not np.isfinite(slopes).all():
            return ""
        rates = np.linalg.eigvals(np.array(slopes).T).astype(complex)
        seen = kind(rates, DECIDED * np.abs(rates).max())
        return seen if _stability(seen) in ("stable", "unstable", "saddle") else ""

    def _errors(self, jacobian: Array, eigenvalues: NDArray[np.complex128]) -> Array:
        """The error of each eigenvalue to first order, |l|ᵀE|r|/|lᵀr|, from the errors E of the Jacobian's entries.

        A row of the Jacobian is known relative to its own component of the field, and a column to its own coordinate:
        the error of an entry is ``accuracy`` times what the component usually changes by over the window, or times the
        largest change in its row. Where two eigenvalues are nearly equal, the formula has no meaning, and the whole
        error counts for both.
        """
        sides = self.window[1] - self.window[0]
        changes = np.maximum(np.abs(jacobian * sides).max(axis=1), self.usual)
        entries = self.accuracy * changes[:, None] / sides
        vectors = np.linalg.eig(jacobian)[1]
        largest = float(np.linalg.norm(entries))
        if abs(np.linalg.det(vectors)) <= np.sqrt(self.accuracy):
            return np.full(2, largest)
        errors = np.einsum("ki,ij,jk->k", np.abs(np.linalg.inv(vectors)), entries, np.abs(vectors))
        return np.minimum(errors, largest) if np.isfinite(errors).all() else np.full(2, largest)
