"""What a probe records: a table of quantities, each a formula in sums over the weights.

Sums over two sets of weights add up to the sum over both sets. So one formula gives a quantity for
each parameter tensor, for each parameter group and for all weights. A quantity of your own is one
more entry:

>>> import numpy as np
>>> mine = Quantity(
...     name="relative_update",
...     long_name="‖Δθ‖/‖θ‖",
...     needs=("update_update", "theta_theta"),
...     value=lambda moved, before: np.sqrt(moved / before),
... )
>>> sorted(mine.variables())
['relative_update', 'relative_update_group', 'relative_update_parameter']

and ``Probe(optimizer, "run", quantities=["loss", mine])`` records it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from swd_dynamics.errors import InputError
from swd_dynamics.tables import Table

SUMS = Table(
    "sum",
    weights="number of weights n",
    theta_theta="Σθ² before the step",
    gradient_gradient="Σg², 0 where there was no gradient",
    update_update="Σ(Δθ)²",
    theta_update="Σθ·Δθ",
    moved="number of weights with Δθ ≠ 0",
    momentum_momentum="Σm² after the step",
    gradient_momentum="Σg·m, m after the step",
    v="Σv after the step; with AMSGrad, Σ of the largest v so far",
    v_hat="Σv/(1 − β₂ᵏ)",
    v_weights="number of weights that have a v",
    distance_distance="Σ(θ − θ₀)² after the step",
    taking="number of weights that took the step: with a gradient, in a step that was not skipped",
    decay="ΣR over the weights that took the step",
    rate_rate="ΣR² over the weights that took the step",
    rate_min="smallest R of a weight that took the step",
    rate_max="largest R of a weight that took the step",
    decay_decay="Σ(Rθ)²: the squared norm of what weight decay subtracts from θ",
    decay_ratio="ΣR/η_eff over the weights that took the step",
    lr="η, mean over the weights",
    effective_lr="η_eff, mean over the weights",
    v_bar="v̄, the mean of v/(1 − β₂ᵏ) over all weights of all groups",
    loss="the loss that was observed",
    eigenvalues="the k largest eigenvalues of D^(−½)·∇²L·D^(−½) before the step; D = 1 for SGD",
    slope_theta="⟨θ, ∇S⟩ before the step, with each θ times R/R̄ if R differs, without the directions that oscillate",
    slope_descent="⟨−√v̄·D⁻¹g, ∇S⟩ before the step, without them; ⟨−g, ∇S⟩ for SGD",
    critical_step="s, the smallest multiple of Δθ after which the loss is not lower",
)
EXTREMES = {  # the entries of SUMS that are not sums
    "rate_min": partial(np.min, initial=np.inf),
    "rate_max": partial(np.max, initial=-np.inf),
}
LEVELS = {
    "step": "",
    "group": "_group",
    "parameter": "_parameter",
    "eigenvalue": "_eigenvalue",
}
USUAL = ("step", "group", "parameter")


@dataclass(frozen=True)
class Quantity:
    """A formula in sums over the weights.

    Parameters
    ----------
    name : str
        Name of the variable. The values of each group and each parameter have the suffixes
        ``_group`` and ``_parameter``.
    long_name : str
        The quantity in words.
    needs : tuple of str
        The sums that the formula needs, out of :data:`SUMS`.
    value : callable
        Takes these sums in this order, as arrays of float64 of shape (rows,), (rows, groups) or
        (rows, parameters). A division by 0 gives NaN or infinity, without a warning.
    levels : tuple of str
        Out of ``"step"`` (all weights), ``"group"`` and ``"parameter"``; of eigenvalues out of
        ``"step"`` (the largest one) and ``"eigenvalue"``.

    Raises
    ------
    InputError
        If a sum or a level is not in the table.
    """

    name: str
    long_name: str
    needs: tuple[str, ...]
    value: Callable[..., np.ndarray]
    levels: tuple[str, ...] = USUAL

    def __post_init__(self):
        for need in self.needs:
            SUMS[need]
        if not self.levels or not set(self.levels) <= set(LEVELS):
            known = ", ".join(LEVELS)
            raise InputError(f"levels = {self.levels!r} is not allowed: give some of {known}")

    def variables(self) -> dict[str, tuple[tuple[str, ...], str, str]]:
        """The variables of the quantity, name → (dims, dtype, long_name)."""
        found = {}
        for level in self.levels:
            dims = ("step",) if level == "step" else ("step", level)
            found[self.variable(level)] = (dims, "float64", self.long_name)
        return found

    def variable(self, level: str) -> str:
        """The name of the variable at a level. Without a value for all weights it has no suffix."""
        return self.name + LEVELS[level] if "step" in self.levels else self.name


def _cosine(product: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    cosine = np.clip(product / np.sqrt(left) / np.sqrt(right), -1, 1)
    # A sum of squares that overflowed says nothing about an angle, and a quotient by it is 0.
    return np.where(np.isinf(left) | np.isinf(right), np.nan, cosine)


def _angle(
    theta_theta: np.ndarray,
    theta_update: np.ndarray,
    update_update: np.ndarray,
) -> np.ndarray:
    """The angle between θ and θ + Δθ, from its tangent: exact even where its cosine rounds to 1."""
    # |Δθ|²|θ|² sin² of the angle between θ and Δθ; negative only by rounding.
    across = update_update * theta_theta - theta_update**2
    return np.arctan2(np.sqrt(np.where(across < 0, 0.0, across)), theta_theta + theta_update)


def _rms(total: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.sqrt(total / weights)


def _fraction(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(whole), np.nan, np.sqrt(part / whole))


def _mean(total: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return total / weights


def _mean_ratio(total: np.ndarray, taking: np.ndarray) -> np.ndarray:
    """The mean over the weights that took the step; 0 if none did."""
    return np.where(taking == 0, 0.0, total / taking)


def _mean_rate(
    total: np.ndarray,
    taking: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray:
    """The mean of R over the weights that took the step; 0 if none did.

    It lies between the smallest and the largest R, so that it is exact where all weights have the
    same R.
    """
    return np.where(taking == 0, 0.0, np.clip(total / taking, low, high))


def _extreme(extreme: np.ndarray, taking: np.ndarray, followed: np.ndarray) -> np.ndarray:
    """An extreme over the weights that took the step; 0 if none did.

    The formula needs ΣR², which is not used here, so that R is followed weight by weight.
    """
    return np.where(taking == 0, 0.0, extreme)


def _deviation(squares: np.ndarray, total: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(squares / weights - (total / weights) ** 2, 0))


def _itself(value: np.ndarray) -> np.ndarray:
    return value


_ALL = (
    Quantity(
        "loss",
        "training loss before the step, without a decay term",
        ("loss",),
        _itself,
        ("step",),
    ),
    Quantity("lr", "learning rate η", ("lr",), _itself, ("group",)),
    Quantity(
        "effective_lr",
        "effective learning rate η_eff, how far a unit of gradient moves a weight",
        ("effective_lr",),
        _itself,
        ("group",),
    ),
    Quantity("theta_norm", "‖θ‖ before the step", ("theta_theta",), np.sqrt),
    Quantity("gradient_norm", "‖g‖", ("gradient_gradient",), np.sqrt),
    Quantity("update_norm", "‖Δθ‖", ("update_update",), np.sqrt),
    Quantity("momentum_norm", "‖m‖ after the step", ("momentum_momentum",), np.sqrt),
    Quantity("theta_rms", "root mean square of θ", ("theta_theta", "weights"), _rms),
    Quantity("gradient_rms", "root mean square of g", ("gradient_gradient", "weights"), _rms),
    Quantity("update_rms", "root mean square of Δθ", ("update_update", "weights"), _rms),
    Quantity(
        "cos_theta_update",
        "cos(θ, Δθ)",
        ("theta_update", "theta_theta", "update_update"),
        _cosine,
    ),
    Quantity(
        "cos_gradient_momentum",
        "cos(g, m), m after the step",
        ("gradient_momentum", "gradient_gradient", "momentum_momentum"),
        _cosine,
    ),
    Quantity(
        "rotation",
        "angle between θ before and after the step, in radians",
        ("theta_theta", "theta_update", "update_update"),
        _angle,
    ),
    Quantity("v_mean", "mean of the second moment v after the step", ("v", "v_weights"), _mean),
    Quantity("v_bar", "v̄, mean of v/(1 − β₂ᵏ) over all weights", ("v_bar",), _itself, ("step",)),
    Quantity(
        "decay_rate",
        "decay rate R, mean over the weights that took the step",
        ("decay", "taking", "rate_min", "rate_max"),
        _mean_rate,
    ),
    Quantity(
        "decay_ratio",
        "R/η_eff, mean over the weights that took the step",
        ("decay_ratio", "taking"),
        _mean_ratio,
    ),
    Quantity(
        "decay_fraction",
        "R‖θ‖/‖Δθ‖, the fraction of Δθ that is decay",
        ("decay_decay", "update_update"),
        _fraction,
    ),
    Quantity(
        "update_sparsity",
        "fraction of the weights that did not move",
        ("moved", "weights"),
        lambda m, n: 1 - m / n,
    ),
    Quantity(
        "distance",
        "‖θ − θ₀‖, distance from the start after the step",
        ("distance_distance",),
        np.sqrt,
    ),
    Quantity(
        "decay_rate_std",
        "standard deviation of R over the weights that took the step",
        ("rate_rate", "decay", "taking"),
        _deviation,
    ),
    Quantity(
        "decay_rate_min",
        "smallest decay rate R of a weight",
        ("rate_min", "taking", "rate_rate"),
        _extreme,
    ),
    Quantity(
        "decay_rate_max",
        "largest decay rate R of a weight",
        ("rate_max", "taking", "rate_rate"),
        _extreme,
    ),
)
# They need a loss to look at: a Landscape.
_OF_LANDSCAPE = (
    Quantity(
        "sharpness",
        "sharpness S before the step, the largest eigenvalue of the Hessian, preconditioned by √v̂ + ε"
        " if the optimizer divides its steps by that",
        ("eigenvalues",),
        _itself,
        ("step",),
    ),
    Quantity(
        "hessian_eigenvalues",
        "the largest eigenvalues of the (preconditioned) Hessian before the step",
        ("eigenvalues",),
        _itself,
        ("eigenvalue",),
    ),
    Quantity(
        "sharpness_along_theta",
        "⟨θ, ∇S⟩: −R times this is what decay adds to the change of the sharpness in a step",
        ("slope_theta",),
        _itself,
        ("step",),
    ),
    Quantity(
        "sharpness_along_descent",
        "⟨−g, ∇S⟩, with −√v̄·g/(√v̂ + ε) for −g if the optimizer divides by √v̂ + ε: η_eff times this"
        " is what the gradient adds to the change of the sharpness in a step",
        ("slope_descent",),
        _itself,
        ("step",),
    ),
    Quantity(
        "lifting_decay",
        "the R/η_eff at which the sharpness does not change: it falls where decay_ratio is larger, if ⟨θ, ∇S⟩ > 0",
        ("slope_descent", "slope_theta"),
        lambda descent, theta: descent / theta,
        ("step",),
    ),
    Quantity(
        "critical_step",
        "smallest multiple of the step Δθ after which the loss is not lower than before",
        ("critical_step",),
        _itself,
        ("step",),
    ),
    Quantity(
        "critical_sharpness",
        "2/(η × critical_step), the curvature along Δθ: the sharpness only at the edge and without momentum",
        ("critical_step", "lr"),
        lambda multiple, lr: 2 / (multiple * lr),
        ("step",),
    ),
)
QUANTITIES = Table("quantity", **{quantity.name: quantity for quantity in _ALL + _OF_LANDSCAPE})

MINIMAL = (
    "loss", "lr", "effective_lr", "theta_norm", "gradient_norm", "decay_rate", "decay_ratio",
)  # fmt: skip
# These take more memory or time than the others.
DYNAMICS = ("distance", "decay_rate_std", "decay_rate_min", "decay_rate_max")
DEFAULT = tuple(quantity.name for quantity in _ALL if quantity.name not in DYNAMICS)
SETS = Table(
    "set of quantities",
    minimal=MINIMAL,
    default=DEFAULT,
    dynamics=(*DEFAULT, *DYNAMICS),
    landscape=(*DEFAULT, *(quantity.name for quantity in _OF_LANDSCAPE)),
)


def chosen(quantities: str | Iterable[str | Quantity]) -> tuple[Quantity, ...]:
    """The quantities of a set, or of a list of names and quantities.

    Raises
    ------
    UnknownName
        If a name is not in the table.
    InputError
        If two quantities have the same name, or there is no quantity.

    Examples
    --------
    >>> [quantity.name for quantity in chosen(["loss", "theta_norm"])]
    ['loss', 'theta_norm']
    """
    listed = SETS[quantities] if isinstance(quantities, str) else quantities
    found = tuple(entry if isinstance(entry, Quantity) else QUANTITIES[entry] for entry in listed)
    names = [name for quantity in found for name in quantity.variables()]
    if not found or len(set(names)) < len(names):
        raise InputError(f"quantities = {listed!r} is not allowed: give one or more, each once")
    return found
