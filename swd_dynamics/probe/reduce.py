"""From measured columns to recorded values: the sums of quantities.SUMS at every level."""

from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np

from swd_dynamics.probe.quantities import EXTREMES, Quantity
from swd_dynamics.tensors.known import Known
from swd_dynamics.tensors.weights import Layout

MEANS = ("lr", "effective_lr")
OF_ALL = ("loss", "v_bar", "slope_theta", "slope_descent", "critical_step")


class Block:
    """A block of measured rows.

    Each sum of :data:`~swd_dynamics.probe.quantities.SUMS` is a property of the same name, of shape
    (rows, parameters). The sums in ``OF_ALL`` have the shape (rows,).

    Parameters
    ----------
    columns : mapping of str to array, shape (rows, width)
        The columns of :class:`~swd_dynamics.probe.measure.Measurement`; NaN where nothing was
        measured.
    layout : Layout
    known : Known
        What is known about the optimizer.
    """

    def __init__(self, columns: Mapping[str, np.ndarray], layout: Layout, known: Known):
        self.columns = columns
        self.is_preconditioned = known.divides
        # Whether η_eff is the column effective_lr divided by √v̄.
        self.divides = known.divides and known.gain is not None
        self.groups = np.asarray(layout.groups)
        self.sizes = np.asarray(layout.sizes, float)
        self.count = len(columns["loss"])

    def variables(self, quantities: Iterable[Quantity]) -> dict[str, np.ndarray]:
        """The values of some quantities, by the names of their variables."""
        with np.errstate(all="ignore"):  # a value that cannot be computed is NaN
            return {
                quantity.variable(level): self._value(quantity, level)
                for quantity in quantities
                for level in quantity.levels
            }

    def _value(self, quantity: Quantity, level: str) -> np.ndarray:
        arguments = [self.at(need, level) for need in quantity.needs]
        groups = self.columns["lr"].shape[1]
        sizes = {"step": (), "group": (groups,), "parameter": self.sizes.shape}
        sizes["eigenvalue"] = np.shape(self.columns.get("eigenvalues", 0.0))[1:]
        values = np.asarray(quantity.value(*arguments), float)
        return np.broadcast_to(values, (self.count, *sizes[level]))

    def at(self, need: str, level: str) -> np.ndarray:
        """A sum at a level: shape (rows,), (rows, groups) or (rows, parameters)."""
        value = getattr(self, need)
        if need == "eigenvalues":
            return self.eigenvalues if level == "eigenvalue" else self.eigenvalues[:, 0]
        if need in OF_ALL:
            return value if level == "step" else value[:, None]
        if need in MEANS and level == "group":
            return getattr(self, f"group_{need}")
        if need in MEANS and level == "step":
            return (value * self.sizes).sum(1) / self.sizes.sum()
        return self._reduced(need, value, level)

    def _reduced(self, need: str, value: np.ndarray, level: str) -> np.ndarray:
        """A sum, or an extreme, over the parameters of each group or over all parameters."""
        if level == "parameter":
            return value
        reduction = EXTREMES.get(need, np.sum)
        if level == "step":
            return reduction(value, axis=1)
        groups = range(self.columns["lr"].shape[1])
        return np.stack([reduction(value[:, self.groups == g], axis=1) for g in groups], 1)

    def _idle(self, name: str) -> np.ndarray:
        """A column in which a parameter without a gradient counts as 0."""
        value = self.columns[name]
        # Whether another process should have reported the value, but did not.
        unknown = np.asarray(self.columns.get("unknown", False))
        is_idle = np.isnan(value) & (self.columns["had_gradient"] == 0) & ~unknown
        return np.where(is_idle, 0.0, value)

    @cached_property
    def weights(self) -> np.ndarray:
        return np.broadcast_to(self.sizes, (self.count, len(self.sizes)))

    @cached_property
    def skipped(self) -> np.ndarray:
        """Whether a gradient scaler found an infinity, so that the step was skipped; (rows, 1)."""
        return np.nan_to_num(self.columns["skipped"]) != 0

    @cached_property
    def taking(self) -> np.ndarray:
        return self.columns["had_gradient"] * self.sizes * ~self.skipped

    @cached_property
    def theta_theta(self) -> np.ndarray:
        return self.columns["theta_theta"]

    @cached_property
    def gradient_gradient(self) -> np.ndarray:
        scale = np.where(np.isnan(self.columns["scale"]), 1.0, self.columns["scale"])
        return np.where(self.skipped, 0.0, self._idle("gradient_gradient") / scale / scale)

    @cached_property
    def update_update(self) -> np.ndarray:
        return self.columns["update_update"]

    @cached_property
    def theta_update(self) -> np.ndarray:
        return -self.columns["update_along"]

    @cached_property
    def moved(self) -> np.ndarray:
        return self.columns["moved"]

    @cached_property
    def momentum_momentum(self) -> np.ndarray:
        return self._idle("momentum_momentum")

    @cached_property
    def gradient_momentum(self) -> np.ndarray:
        """Σg·m.

        A scaler's factor is in the gradients during the step, and may or may not be in them after
        it. So, with a scaler, the sum is computed from the cosine of m with the gradients after the
        step.
        """
        product, after = self._idle("gradient_momentum"), self.columns["gradient_after"]
        unscaled = product * np.sqrt(self.gradient_gradient / after)
        found = np.where(np.isnan(self.columns["scale"]), product, unscaled)
        return np.where(self.skipped, 0.0, found)

    @cached_property
    def v(self) -> np.ndarray:
        return np.where(np.isnan(self.columns["v"]) & (self.v_weights == 0), 0.0, self.columns["v"])

    @cached_property
    def v_weights(self) -> np.ndarray:
        has_none = np.isnan(self.columns["state_step"]) & np.isnan(self.columns["v"])
        return np.where(has_none, 0.0, self.sizes)

    @cached_property
    def v_hat(self) -> np.ndarray:
        correction = 1 - self.columns["beta2"][:, self.groups] ** self.columns["state_step"]
        return np.where(self.v_weights == 0, 0.0, self.v / correction)

    @cached_property
    def v_bar(self) -> np.ndarray:
        return self.v_hat.sum(1) / self.v_weights.sum(1)

    @cached_property
    def distance_distance(self) -> np.ndarray:
        return self.columns["distance_distance"]

    @cached_property
    def moved_alone(self) -> np.ndarray:
        """Whether a parameter moved without a gradient; false where Δθ was not measured."""
        moved = self.columns.get("moved", np.zeros(()))
        return (self.columns["had_gradient"] == 0) & ~self.skipped & (moved > 0)

    @cached_property
    def rate(self) -> np.ndarray:
        """R of each parameter, the mean over its weights; 0 if it did not take the step."""
        rate = np.where(self.taking == 0, 0.0, self.columns["rate"])
        return np.where(self.moved_alone, np.nan, rate)

    @cached_property
    def decay(self) -> np.ndarray:
        return self.rate * self.taking

    @cached_property
    def decay_ratio(self) -> np.ndarray:
        return np.where(self.taking == 0, 0.0, self.rate / self.effective_lr * self.taking)

    @cached_property
    def rate_rate(self) -> np.ndarray:
        return self._of_each_weight("rate_rate", self.rate**2) * self.taking

    @cached_property
    def decay_decay(self) -> np.ndarray:
        return self._of_each_weight("decay_decay", self.rate**2 * self.theta_theta)

    @cached_property
    def rate_min(self) -> np.ndarray:
        """∞ where a parameter did not take the step, so that it is never the smallest."""
        return np.where(self.taking == 0, np.inf, self._of_each_weight("rate_min", self.rate))

    @cached_property
    def rate_max(self) -> np.ndarray:
        return np.where(self.taking == 0, -np.inf, self._of_each_weight("rate_max", self.rate))

    def _of_each_weight(self, name: str, alike: np.ndarray) -> np.ndarray:
        """A column where R differs from weight to weight; else the value where all are alike."""
        column = self.columns.get(name, np.full(alike.shape, np.nan))
        return np.where(self.taking == 0, 0.0, np.where(np.isnan(column), alike, column))

    @cached_property
    def group_lr(self) -> np.ndarray:
        return self.columns["lr"]

    @cached_property
    def lr(self) -> np.ndarray:
        return self.group_lr[:, self.groups]

    @cached_property
    def group_effective_lr(self) -> np.ndarray:
        """η_eff of each group."""
        read = self.columns["effective_lr"]
        return read / np.sqrt(self.v_bar)[:, None] if self.divides else read

    @cached_property
    def effective_lr(self) -> np.ndarray:
        return self.group_effective_lr[:, self.groups]

    @cached_property
    def eigenvalues(self) -> np.ndarray:
        """Shape (rows, k), the largest first."""
        return self.columns["eigenvalues"]

    @cached_property
    def slope_theta(self) -> np.ndarray:
        return self.columns["slope_theta"][:, 0]

    @cached_property
    def slope_descent(self) -> np.ndarray:
        """⟨−√v̄·D⁻¹g, ∇S⟩: the flow −η·D⁻¹g is η_eff times this, because η_eff = η/√v̄."""
        measured = self.columns["slope_descent"][:, 0]
        return measured * np.sqrt(self.v_bar) if self.is_preconditioned else measured

    @cached_property
    def critical_step(self) -> np.ndarray:
        return self.columns["critical_step"][:, 0]

    @cached_property
    def loss(self) -> np.ndarray:
        return self.columns["loss"][:, 0]
