"""Adafactor, whose second moment of a matrix is the product of a column and a row, and whose step follows rms(θ)."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from swd_dynamics.arithmetic import clip, each, mean, sqrt
from swd_dynamics.checks import check_argument
from swd_dynamics.errors import InputError


class Factors(NamedTuple):
    r: Any
    c: Any


@dataclass(frozen=True)
class Adafactor:
    """Adafactor: v ← (1−κ)v + κg² with κ = k^γ, u = g/√v, move s·u, η_eff = ηs/√⟨v⟩.

    s = max(ε₂, rms(θ))·min(1, 1/(η√k))/max(1, rms(u)/d): a step is relative to the weights, and η is at most 1/√k. All
    of this is computed for each tensor by itself; ⟨⟩ and rms are over the weights of a tensor. Of a tensor with two
    dimensions or more only the running means r of the rows of g² and c of its columns are kept, and v = r·c/⟨r⟩, with
    the mean over a column of r. γ is ``beta2_decay``. ``eps`` is (ε₁, ε₂): √v and ⟨r⟩ are at least ε₁. None stands for
    2.2e-16, the eps of float64; torch takes the eps of the weights' own type, 1.2e-7 in float32. Adafactor has no
    derivation, because κ depends on the number of the step.

    Source: Shazeer & Stern 2018, 1804.04235; torch.optim.Adafactor.

    Examples
    --------
    In the first step u = g/|g|, and rms(θ) = 5:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Adafactor())
    >>> rule(rule.start(np.array([1.0, 7.0])), np.array([3.0, -4.0])).theta.tolist()
    [-0.25, 8.25]
    """

    by_tensor: ClassVar = True

    beta2_decay: float = -0.8
    eps: tuple[float | None, float] = (None, 1e-3)
    d: float = 1.0

    def __post_init__(self):
        check_argument("beta2_decay", self.beta2_decay, "(-inf, 0]")
        check_argument("d", self.d, "[1, inf)")
        if not isinstance(self.eps, tuple | list) or len(self.eps) != 2:
            raise InputError(f"eps = {self.eps!r} is not allowed: it must be a pair, for example (None, 0.001)")
        for i, eps in enumerate(self.eps):
            if i or eps is not None:
                check_argument(f"eps[{i}]", eps, "[0, inf)")

    def rest(self, theta):
        return Factors(0 * theta, 0 * theta)

    def remember(self, memory, step):
        kept, squares = 1 - step.k**self.beta2_decay, step.gradient * step.gradient
        r, c = each(_row_means, squares), each(_column_means, squares)
        return Factors(kept * memory.r + (1 - kept) * r, kept * memory.c + (1 - kept) * c)

    def move(self, memory, step):
        u = step.gradient / sqrt(each(self._second_moment, memory.r, memory.c))
        return self._scale(u, step) * u

    def effective_lr(self, memory, step):
        v = each(self._second_moment, memory.r, memory.c)
        return step.lr * self._scale(step.gradient / sqrt(v), step) / sqrt(each(_mean, v))

    def _scale(self, u, step):
        """s/max(1, rms(u)/d), one number for each tensor, or for each weight where the weights differ in η."""
        relative = clip(sqrt(each(_mean, step.theta * step.theta)), self.eps[1], np.inf)
        smaller_lr = clip(step.lr * step.k**0.5, 1.0, np.inf)
        return relative / (smaller_lr * clip(sqrt(each(_mean, u * u)) / self.d, 1.0, np.inf))

    def _second_moment(self, r, c):
        """v of one tensor, at least ε₁²; of a vector r and c are v."""
        eps = np.finfo(float).eps if self.eps[0] is None else self.eps[0]
        v = r * c / clip(_column_means(r), eps, np.inf) if np.ndim(r) > 1 else r
        return clip(v, eps * eps, np.inf)


def _mean(x):
    """The mean of one tensor; NaN without a warning if the tensor has no weights."""
    return np.nan if 0 in np.shape(x) else mean(x)


def _row_means(x):
    """The mean of each row, for every weight of the row; a vector as it is."""
    return x.mean(-1)[..., None] + 0 * x if np.ndim(x) > 1 else x


def _column_means(x):
    """The mean of each column, for every weight of the column; a vector as it is."""
    return x.mean(-2)[..., None, :] + 0 * x if np.ndim(x) > 1 else x
