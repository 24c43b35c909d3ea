"""Muon, momentum whose matrices are made nearly orthogonal."""

from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

import numpy as np

from swd_dynamics.arithmetic import clip, each, is_symbolic, matmul, norm, rounded, transpose
from swd_dynamics.checks import check_argument
from swd_dynamics.errors import InputError
from swd_dynamics.rules.directions.sgd import Momentum

# What a move of a matrix with so many rows and columns is multiplied by, by torch's names.
ADJUSTMENTS = {
    "original": lambda rows, columns: sqrt(max(1, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * sqrt(max(rows, columns)),
}


@dataclass(frozen=True)
class Muon:
    """Orthogonalised momentum of matrices: m ← βm + (1−β)g, u = βm + (1−β)g, move s·O(u), η_eff = η·‖s·O(u)‖/‖u‖.

    u is m where ``nesterov`` is false. O(u) begins with X = u/‖u‖ and repeats X ← aX + (bA + cA²)X, A = XXᵀ,
    ``ns_steps`` times, which takes the singular values of u to about 1. s is √max(1, rows/columns) where
    ``adjust_lr_fn`` is "original" or None, and .2·√max(rows, columns) where it is "match_rms_adamw". ‖·‖ is the
    Frobenius norm. Each matrix has an η_eff of its own: the length of a step per length of u. Where stable decay holds
    a matrix at rest, ‖W‖ is then ‖g‖/λ, as it is in gradient descent with L2. Decoupled decay, which is torch's own,
    is R = ηλ without s.

    O rounds to bfloat16 after each operation, as torch does. Where a matrix has at most 6 rows and columns, every entry
    is then torch's. In larger matrices the order of a sum sometimes decides how the sum is rounded, and an entry of O
    may differ from torch's by .02: that happens in one of 20 matrices with 16 rows and columns, and in most with 64.
    replay and verify then find a departure of that size. ``coarse=False`` computes O without rounding, which is another
    map: a move differs from torch's by up to 15 % of its length.

    Raises
    ------
    InputError
        If a tensor is not a matrix. Muon has no derivation, because O looks at all weights of a matrix at once.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, 2502.16982;
    torch.optim.Muon.

    Examples
    --------
    With a = 1 and b = c = 0 a matrix is only divided by its norm, ‖u‖ = ½·√(3² + 4²), and s = √(4/2):

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(1.0, Muon(0.5, nesterov=False, ns_coefficients=(1.0, 0.0, 0.0), coarse=False))
    >>> gradient = np.array([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    >>> (rule.parts(rule.start(0 * gradient), gradient).move / np.sqrt(2)).round(12).tolist()
    [[0.6, 0.0], [0.0, 0.8], [0.0, 0.0], [0.0, 0.0]]
    """

    by_tensor: ClassVar = True

    momentum: Any = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    eps: float = 1e-7
    ns_steps: int = 5
    adjust_lr_fn: str | None = None
    coarse: bool = True

    def __post_init__(self):
        check_argument("momentum", self.momentum, "[0, 1)")
        check_argument("eps", self.eps, "[0, inf)")
        check_argument("ns_steps", self.ns_steps, "[0, 100)")
        if not isinstance(self.ns_coefficients, tuple | list) or len(self.ns_coefficients) != 3:
            raise InputError(f"ns_coefficients = {self.ns_coefficients!r} is not allowed: give three numbers a, b, c")
        if self.adjust_lr_fn is not None and self.adjust_lr_fn not in ADJUSTMENTS:
            allowed = " or ".join(map(repr, ADJUSTMENTS))
            raise InputError(f"adjust_lr_fn = {self.adjust_lr_fn!r} is not allowed: it must be {allowed}")

    def rest(self, theta):
        return Momentum(0 * theta)

    def remember(self, memory, step):
        return Momentum(self.momentum * memory.m + (1 - self.momentum) * step.gradient)

    def move(self, memory, step):
        return each(self._orthogonalised, self._ahead(memory, step))

    def effective_lr(self, memory, step):
        return step.lr * each(norm, self.move(memory, step)) / each(norm, self._ahead(memory, step))

    def _ahead(self, memory, step):
        """u, the momentum, of which Nesterov's looks one gradient ahead."""
        return self.momentum * memory.m + (1 - self.momentum) * step.gradient if self.nesterov else memory.m

    def _orthogonalised(self, u):
        """s·O(u) of one matrix."""
        if is_symbolic(u) or np.ndim(u) != 2:
            if is_symbolic(u):
                raise InputError("Muon orthogonalises matrices, in which a weight moves by all weights of its matrix")
            seen = tuple(np.shape(u))
            raise InputError(f"Muon orthogonalises matrices, not shape {seen}: give arrays of 2 dimensions")
        rows, columns = np.shape(u)
        is_tall = rows > columns
        x = self._newton_schulz(self._rounded(transpose(u) if is_tall else u))
        return ADJUSTMENTS[self.adjust_lr_fn or "original"](rows, columns) * (transpose(x) if is_tall else x)

    def _newton_schulz(self, x):
        a, b, c = self.ns_coefficients
        x = self._rounded(x / self._rounded(clip(self._rounded(norm(x)), self.eps, np.inf)))
        for _ in range(self.ns_steps):
            gram = self._rounded(matmul(x, transpose(x)))
            polynomial = self._rounded(b * gram + c * matmul(gram, gram))
            x = self._rounded(a * x + matmul(polynomial, x))
        return x

    def _rounded(self, x):
        return rounded(x, "bfloat16") if self.coarse else x
