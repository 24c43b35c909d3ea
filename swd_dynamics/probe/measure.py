"""What is measured of one step: sums over each parameter's weights, before and after the optimizer changes them."""

from collections.abc import Iterable

import torch
from torch import Tensor

from swd_dynamics.probe.rates import Rates
from swd_dynamics.probe.trajectory import flat, used_gradient
from swd_dynamics.tensors.sharding import local, part
from swd_dynamics.tensors.sums import Entry, changes, copied, distances, moments, squares, totals
from swd_dynamics.tensors.weights import Layout

MOMENTUM = ("exp_avg", "momentum_buffer")
SECOND_MOMENT_SUM = "exp_avg_sq_sum"  # where an optimizer keeps Σv itself, no pass over v is needed

OF_PARAMETER = (
    "theta_theta", "gradient_gradient", "update_update", "update_along", "moved", "momentum_momentum",
    "gradient_momentum", "gradient_after", "v", "state_step", "distance_distance", "had_gradient", "rate", "rate_rate",
    "decay_decay", "memory",
)  # fmt: skip
OF_GROUP = ("lr", "effective_lr", "beta2")
OF_STEP = ("loss", "scale", "skipped")
NOT_SUMMED = (
    "state_step",
    "had_gradient",
    "rate",
    "rate_rate",
    "decay_decay",
    "memory",
)  # known everywhere, or of no shard
SUMMED = frozenset(OF_PARAMETER) - set(NOT_SUMMED)  # over the weights here
COSTLESS = ("had_gradient", "rate", *OF_GROUP, *OF_STEP)

CHANGE = ("update_update", "update_along", "moved")
SECOND_MOMENT = ("v", "state_step")
# What each sum of quantities.SUMS is made of, beside what costs nothing.
SOURCES: dict[str, tuple[str, ...]] = {
    "theta_theta": ("theta_theta",),
    "gradient_gradient": ("gradient_gradient",),
    "update_update": CHANGE,
    "theta_update": CHANGE,
    "moved": CHANGE,
    "momentum_momentum": ("momentum_momentum",),
    "gradient_momentum": ("gradient_gradient", "gradient_momentum", "gradient_after"),
    "v": SECOND_MOMENT,
    "v_weights": SECOND_MOMENT,
    "v_hat": SECOND_MOMENT,
    "v_bar": SECOND_MOMENT,
    "distance_distance": ("distance_distance",),
    "rate_rate": ("rate_rate", "decay_decay"),
    "decay_decay": ("theta_theta", "rate_rate", "decay_decay"),
}
OF_EFFECTIVE_LR = ("effective_lr", "decay_ratio")


def columns_for(needs: Iterable[str], family: str | None) -> frozenset[str]:
    """The columns that some sums are made of; η_eff of torch's Adam is made of v, L2 of torch's SGD has a memory."""
    found = {column for need in needs for column in SOURCES.get(need, ())}
    of_adam = SECOND_MOMENT if family == "Adam" and set(needs) & set(OF_EFFECTIVE_LR) else ()
    return frozenset([*found, *of_adam, *COSTLESS, *(("memory",) if family == "SGD" else ())])


class Measurement:
    """Measures the steps of an optimizer.

    In memory are a copy of the parameters if ``columns`` ask for what a step changed, and one more for the distance
    from the start; nothing else that grows with the number of weights, but for a trajectory.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layout: Layout,
        columns: frozenset[str],
        rates: Rates,
        trajectory: bool = False,
    ):
        self.optimizer, self.layout, self.columns, self.rates = optimizer, layout, columns, rates
        self.trajectory = trajectory
        self.vectors: dict[str, Tensor] = {}  # of the last step, if there is a trajectory
        self.start: list[Tensor] | None = None  # θ₀, if the distance from it is asked for
        self.held: list[Tensor] | None = None
        self.row: dict[str, list[Entry]] = {}

    @property
    def copies(self) -> bool:
        """Whether θ is copied before each step."""
        return "update_update" in self.columns or self.rates.needs_theta

    @property
    def summed(self) -> frozenset[str]:
        """The columns that are sums over the weights here, where parameters are sharded: not a Σv that is known."""
        whole = any(SECOND_MOMENT_SUM in state for state in self.optimizer.state.values())
        return SUMMED - {"v"} if whole else SUMMED

    def before(self) -> None:
        """Measure θ."""
        self.row = {}
        self.rates.before()
        theta = [local(parameter) for parameter in self.layout.parameters]
        if self.copies:
            self.held = self.held or [torch.empty_like(parameter) for parameter in theta]
            self.row["theta_theta"] = copied(theta, self.held)
        elif "theta_theta" in self.columns:
            self.row["theta_theta"] = squares(theta)

    def at_gradient(self) -> None:
        """Measure the gradients that the step will use."""
        gradients = self._gradients()
        scale, found_inf = (getattr(self.optimizer, name, None) for name in ("grad_scale", "found_inf"))
        self.row["scale"], self.row["skipped"] = [_entry(scale)], [_entry(found_inf)]
        self.row["had_gradient"] = [float(parameter.grad is not None) for parameter in self.layout.parameters]
        if self.trajectory:
            self.vectors["gradient"] = used_gradient(flat(gradients, self.layout), scale, found_inf)
        if "gradient_gradient" in self.columns:
            self.row["gradient_gradient"] = squares(gradients)
        groups = self.optimizer.param_groups
        self.row["lr"] = [_entry(group.get("lr")) for group in groups]
        self.row["beta2"] = [_second_beta(group) for group in groups]

    def after(self) -> dict[str, list[Entry]]:
        """All columns of the step just taken but its loss."""
        self.row |= self._rates()
        theta = [local(parameter) for parameter in self.layout.parameters]
        if "update_update" in self.columns and self.held is not None:
            self.row |= zip(CHANGE, changes(self.held, theta), strict=True)
        self.row |= self._momenta()
        if "v" in self.columns:
            self.row["v"], self.row["state_step"] = self._second_moments()
        if self.start is not None:
            self.row["distance_distance"] = distances(self.start, theta)
        if self.trajectory:
            self.vectors["theta"] = flat(theta, self.layout)
        return {name: entries for name, entries in self.row.items() if name in self.columns}

    def _rates(self) -> dict[str, list[Entry]]:
        skipped = self.row["skipped"][0]
        void = not isinstance(skipped, Tensor) and bool(skipped)  # on an accelerator it is found out later
        return self.rates.after([bool(had) and not void for had in self.row["had_gradient"]], self._theta_before())

    def _theta_before(self) -> list[Tensor] | None:
        return self.held if self.rates.needs_theta else None

    def _momenta(self) -> dict[str, list[Entry]]:
        if not self.columns & {"momentum_momentum", "gradient_momentum"}:
            return {}
        momenta, gradients = [self._momentum(parameter) for parameter in self.layout.parameters], self._gradients()
        squared, along = moments(momenta, gradients)
        row = {"momentum_momentum": squared, "gradient_momentum": along}
        if self.row["scale"][0] is not None:  # the step may have unscaled the gradients in place
            row["gradient_after"] = squares(gradients)
        return row

    def _gradients(self) -> list[Tensor | None]:
        found = (part(parameter.grad, parameter) for parameter in self.layout.parameters)
        return [gradient if gradient is None or not gradient.is_sparse else gradient.to_dense() for gradient in found]

    def _momentum(self, parameter: Tensor) -> Tensor | None:
        state = self.optimizer.state.get(parameter, {})
        found = next((state[key] for key in MOMENTUM if isinstance(state.get(key), Tensor)), None)
        return part(found, parameter) if found is not None and found.shape == parameter.shape else None

    def _second_moments(self) -> tuple[list[Entry], list[Entry]]:
        """Σv and the number of steps of each parameter; None where it has no v."""
        states = [self.optimizer.state.get(parameter, {}) for parameter in self.layout.parameters]
        summed = [state.get(SECOND_MOMENT_SUM) for state in states]
        held = [
            None if known is not None else part(_second_moment(state), parameter)
            for known, state, parameter in zip(summed, states, self.layout.parameters, strict=True)
        ]
        sums = [_entry(known) if known is not None else new for known, new in zip(summed, totals(held), strict=True)]
        return sums, [_entry(state.get("step")) for state in states]


def _second_moment(state: dict) -> Tensor | None:
    return state.get("max_exp_avg_sq", state.get("exp_avg_sq"))


def _second_beta(group: dict) -> Entry:
    betas = group.get("betas")
    return _entry(betas[1]) if isinstance(betas, tuple | list) and len(betas) > 1 else None


def _entry(value: object) -> Entry:
    """A number of the optimizer as it can be kept: read, unless it is on an accelerator."""
    if value is None:
        return None
    if isinstance(value, Tensor) and value.device.type != "cpu":
        return value.detach().reshape(())
    return float(value)  # pyright: ignore[reportArgumentType]
