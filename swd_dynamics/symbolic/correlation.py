"""Directions that turn a momentum into something of a fixed size: its sign, or an orthogonal matrix.

In noise the momentum x is Gaussian, because it is a sum of many gradients. Let ρₖ be its correlation with itself k
steps later, and c(ρ) the correlation of two outputs of which the inputs have the correlation ρ. With a = 1 − R the
weights are the sum of aᵏ times the moves of k steps before, so that

    Var θ = η²·u²·(1 + 2·Σₖ aᵏ·c(ρₖ))/(1 − a²)

where u² is the mean square of an entry of a move. Of signs c(ρ) is known, and of orthogonal matrices it is measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import Symbol

from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.balance import Law, Motion
from swd_dynamics.symbolic.derivation import NotDerivable, stated
from swd_dynamics.symbolic.noise import ENDLESS
from swd_dynamics.symbolic.notation import Letter

Array = NDArray[np.float64]

# The response of a memory to a gradient is followed until it is this small. With 1e-8 the angle of Lion, for which the
# response is added up over 1/(1 − β₂) steps, would lose its sixth digit.
FORGOTTEN = 1e-16
LONGEST_MEMORY = 100_000  # steps, of which 37/(1 − β) are needed; ten times as many would take a minute

GAUSSIAN = "the momentum is Gaussian: it is a sum of many gradients, or the gradients are Gaussian"
STRAIGHT = "λθ in the gradient is so small, compared with the noise, that the direction answers to it linearly"


@dataclass(frozen=True)
class Output:
    """What a direction makes of a Gaussian momentum.

    Attributes
    ----------
    square : number or Expr — u², the mean square of an entry of the move
    correlation : callable ρ → c(ρ), arrays
    slope : float — c′(0)
    """

    square: Any
    correlation: Callable[[Array], Array]
    slope: float


class Filter(NamedTuple):
    """A linear memory, memory′ = feed·memory + column·G, and the momentum x = row·memory + direct·G before the step.

    Arrays of shape (entries, entries), (entries,), (entries,) and a number.
    """

    feed: Array
    column: Array
    row: Array
    direct: float


def responses(filtered: Filter) -> tuple[Array, Array]:
    """The memory j steps after a unit of gradient, shape (steps, entries), and the weights w of x, shape (steps + 1,).

    Examples
    --------
    >>> responses(Filter(np.array([[0.5]]), np.array([0.5]), np.array([1.0]), 0.0))[1][:4].tolist()
    [0.0, 0.5, 0.25, 0.125]
    """
    state, states = filtered.column, []
    while state.size and np.abs(state).max() > FORGOTTEN:
        states.append(state)
        if len(states) > LONGEST_MEMORY:
            raise NotDerivable(f"the memory of the rule is longer than {LONGEST_MEMORY} steps, and is not added up")
        state = filtered.feed @ state
    remembered = np.array(states).reshape(len(states), len(filtered.column))
    return remembered, np.concatenate([[filtered.direct], remembered @ filtered.row])


def correlations(weights: Array) -> Array:
    """ρₖ, the correlation of Σⱼ wⱼξₙ₋ⱼ with itself k steps later, for k from 0 on.

    Examples
    --------
    >>> correlations(0.5 ** np.arange(50))[:3].round(12).tolist()
    [1.0, 0.5, 0.25]
    """
    size = 2 * len(weights)
    spectrum = np.abs(np.fft.rfft(weights, size)) ** 2
    found = np.fft.irfft(spectrum, size)[: len(weights)]
    return found / found[0]


@dataclass(frozen=True)
class CorrelatedMotion:
    """The weights of a rule in noise: η, what comes out of the direction, the memory, R(σ) of the rule, and λ of L2."""

    lr: Any
    output: Output
    filtered: Filter
    weights: Array
    decay: Any
    pull: Any

    @property
    def slope(self) -> Any:
        """The mean change of a move for a unit that is added to x: √(c′(0)·u²) over the deviation of x (Price 1958)."""
        alone = np.sqrt(self.output.slope / (self.weights @ self.weights))
        return sympy.sqrt(self.output.square) * float(alone) / notation.noise

    def law(self, numbers: Mapping[Symbol, Any], steps, conditions) -> Law:
        rate = self.decay + self.lr * self.slope * self.pull * float(self.weights.sum())
        if rate == 0:
            raise NotDerivable(ENDLESS.format(h=0))
        passed = self.output.correlation(correlations(self.weights))[1:]
        spread = sympy.Float(1 + 2 * float(passed.sum()), 15)
        variance = self.lr**2 * self.output.square * Letter("S") / (1 - (1 - notation.decay_rate) ** 2)
        leading = Motion(self.lr**2 * self.output.square * spread / (2 * rate), rate / spread, rate)
        open_parts = [self.decay, self.lr * self.slope * self.pull, self.lr**2 * self.output.square]
        parts = sympy.Matrix(open_parts).xreplace(dict(numbers))
        is_known = not parts.free_symbols - {notation.noise}
        evaluate = sympy.lambdify(notation.noise, list(parts), "numpy")
        steps = (
            *steps,
            stated("The decay rate in noise", notation.decay_rate, rate),
            stated("The variance of θ, where S is 1 + 2·Σₖ(1 − R)ᵏcₖ", Letter("Var θ"), variance),
            stated("S where R is small", Letter("S"), spread),
        )
        return Law(
            exact=None,
            leading=leading,
            numbers=(lambda sigma: self._in_numbers(evaluate(sigma), passed)) if is_known else None,
            steps=steps,
            conditions=(GAUSSIAN, *conditions),
        )

    def _in_numbers(self, parts: Sequence[float], passed: Array) -> Motion | None:
        """Var θ, 1 − ρ₁ and R, where the moves have the correlations c₁, c₂, … and the mean square η²u².

        The parts are R of the rule, η·slope·λ of L2, and η²u².

        θ and the memory are a linear system, into which the moves of noise enter at θ. With the matrix A of the system
        and e = (1, 0, …), θ answers to a unit by eᵀAᵏe, and these answers overlap by eᵀAᵏPe, where P = APAᵀ + eeᵀ.
        """
        rate, pull, squares = map(float, parts)
        size = 1 + len(self.filtered.column)
        a = np.zeros((size, size))
        a[0, 0] = 1 - rate - pull * self.filtered.direct
        a[0, 1:] = -pull * self.filtered.row
        a[1:, 0], a[1:, 1:] = self.filtered.column, self.filtered.feed
        if not pull:  # the memory does not hear of θ
            a = a[:1, :1]
        roots, vectors = np.linalg.eig(a)
        largest = np.abs(roots).max()
        if not largest < 1 - 1e-12:
            return None
        unit = np.eye(len(a))[0]
        overlap = np.linalg.solve(np.eye(a.size) - np.kron(a, a), np.outer(unit, unit).ravel()).reshape(a.shape)
        shares = vectors[0] * np.linalg.solve(vectors, overlap[:, 0])  # eᵀAᵏPe = Σ shares·rootsᵏ
        before = np.power.outer(roots, np.arange(len(passed)))  # rootsᵏ⁻¹ for k = 1, 2, …
        variance = shares @ (1 + 2 * roots * (before @ passed))
        gap = shares @ ((1 - roots) - (1 - roots) ** 2 * (before @ passed))
        return Motion(squares * variance.real, (gap / variance).real, 1 - largest)
