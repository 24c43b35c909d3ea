"""What is measured in one step: sums over each parameter's weights, before and after the step."""

from collections.abc import Iterable, Sequence
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from swd_dynamics.probe.gradients import UsedGradients
from swd_dynamics.probe.trajectory import CHANGED, changed_outside, flat, states, used_gradient
from swd_dynamics.tensors.known import Known
from swd_dynamics.tensors.sharding import local, part
from swd_dynamics.tensors.sums import (
    Column,
    Entry,
    changes,
    copied,
    distances,
    moments,
    squares,
    totals,
)
from swd_dynamics.tensors.weights import Layout

SECOND_MOMENT_SUM = "exp_avg_sq_sum"  # key of the state where an optimizer keeps Σv itself

OF_PARAMETER = (
    "theta_theta", "gradient_gradient", "update_update", "update_along", "moved",
    "momentum_momentum", "gradient_momentum", "gradient_after", "v", "state_step",
    "distance_distance", "had_gradient", "rate", "rate_rate", "rate_min", "rate_max",
    "decay_decay", "memory",
)  # fmt: skip
OF_GROUP = ("lr", "effective_lr", "beta2")
OF_STEP = ("loss", "scale", "skipped", CHANGED[0])
# The columns of a parameter that are not sums over this process's weights. Every process that holds
# a part of the parameter knows them, or they are not recorded where parameters are sharded.
NOT_SUMMED = (
    "state_step", "had_gradient", "rate", "rate_rate", "rate_min", "rate_max", "decay_decay",
    "memory",
)  # fmt: skip
SUMMED = frozenset(OF_PARAMETER) - set(NOT_SUMMED)
COSTLESS = frozenset(["had_gradient", "rate", *OF_GROUP, *OF_STEP]) - {CHANGED[0]}

CHANGE = ("update_update", "update_along", "moved")
MOMENTA = frozenset(["momentum_momentum", "gradient_momentum"])
SECOND_MOMENT = ("v", "state_step")
BY_WEIGHT = ("rate_rate", "rate_min", "rate_max", "decay_decay")
# The columns from which each sum of quantities.SUMS is made, besides COSTLESS.
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
    "eigenvalues": ("eigenvalues",),
    "slope_theta": ("slope_theta",),
    "slope_descent": ("slope_descent", *SECOND_MOMENT),  # √v̄ is a factor of it
    "critical_step": ("critical_step",),
    "rate_rate": ("rate_rate", "decay_decay"),
    "decay_decay": ("theta_theta", "rate_rate", "decay_decay"),
}
OF_EFFECTIVE_LR = ("effective_lr", "decay_ratio")


def columns_for(needs: Iterable[str], known: Known, trajectory: bool) -> frozenset[str]:
    """The columns from which some sums are made, with those that the optimizer's class needs.

    If the optimizer divides by √v̂, η_eff is made from v. If L2 is followed by one number for each
    parameter, that number is kept.
    """
    needs = set(needs)
    found = {column for need in needs for column in SOURCES.get(need, ())} | COSTLESS
    if known.divides and known.gain is not None and needs & set(OF_EFFECTIVE_LR):
        found |= set(SECOND_MOMENT)
    if known.keeps_memory:
        found |= {"memory"}
    return frozenset(found | ({"state_step", CHANGED[0]} if trajectory else set()))


class Measurement:
    """Measures the steps of an optimizer.

    It keeps a copy of the parameters if ``columns`` need the change of a step, and another copy if
    they need the distance from the start. Without a trajectory no other memory grows with the
    number of weights.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    layout : Layout
    columns : frozenset of str
        The columns of a recorded step.
    known : Known
        What is known about the optimizer.
    trajectory : bool
        Whether ``vectors`` are kept of every recorded step.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layout: Layout,
        columns: frozenset[str],
        known: Known,
        trajectory: bool,
    ):
        self.optimizer, self.layout, self.known = optimizer, layout, known
        self.columns, self.trajectory = columns, trajectory
        self.vectors: dict[str, Tensor] = {}  # a trajectory's vectors of the last recorded step
        self.left_out: set[str] = set()  # keys of the state that a trajectory leaves out
        self.start: list[Tensor] | None = None  # θ₀, if the distance from θ₀ is recorded
        self.theta: list[Tensor] | None = None  # a copy of θ before the step
        self.used = UsedGradients(known.writes_gradients(g) for g in optimizer.param_groups)
        self.lacks_gradients: bool | None = None  # whether no parameter had one in any step that was looked at
        self._now: frozenset[str] = frozenset()  # the columns of this step
        self._row: dict[str, Column] = {}

    @property
    def summed(self) -> frozenset[str]:
        """The columns that are sums over this process's weights, where parameters are sharded.

        A Σv that the optimizer itself keeps is the sum over all weights.
        """
        whole = any(SECOND_MOMENT_SUM in state for state in self.optimizer.state.values())
        return SUMMED - {"v"} if whole else SUMMED

    @property
    def took(self) -> list[bool]:
        """Whether each parameter takes the step: it has a gradient, and no scaler skips the step.

        On an accelerator it is not known yet whether a scaler skips the step.
        """
        skipped = self._row["skipped"][0]
        void = not isinstance(skipped, Tensor) and bool(skipped)
        return [bool(had) and not void for had in self._row["had_gradient"]]

    def take_up(self, theta: np.ndarray | None) -> None:
        """Continue after a step that left these weights; None stands for the present weights."""
        now = flat([local(parameter) for parameter in self.layout.parameters], self.layout)
        self.vectors = {"theta": now if theta is None else torch.tensor(theta).to(now)}

    def before(self, recorded: bool, keep_theta: bool) -> None:
        """Measure θ before a step, and copy θ if ``keep_theta`` or a column needs the copy."""
        self._row, self._now = {}, self.columns if recorded else COSTLESS
        theta = [local(parameter) for parameter in self.layout.parameters]
        if keep_theta or "update_update" in self._now:
            self.theta = _copies_for(theta, self.theta)
            self._row["theta_theta"] = copied(theta, self.theta)
        elif "theta_theta" in self._now:
            self._row["theta_theta"] = squares(theta)
        if CHANGED[0] in self._now:
            before = flat(theta, self.layout)
            last = self.vectors["theta"].to(before.device)
            self._row[CHANGED[0]] = [changed_outside(before, last)]

    def at_gradient(self) -> None:
        """Measure the gradients that the step will use."""
        gradients = self._gradients()
        scale = getattr(self.optimizer, "grad_scale", None)
        found_inf = getattr(self.optimizer, "found_inf", None)
        self._row["scale"], self._row["skipped"] = [_entry(scale)], [_entry(found_inf)]
        self._row["had_gradient"] = [float(p.grad is not None) for p in self.layout.parameters]
        self.lacks_gradients = self.lacks_gradients is not False and not any(self._row["had_gradient"])
        if self.trajectory:
            gradient = flat(gradients, self.layout)
            self.vectors["gradient"] = used_gradient(gradient, scale, found_inf)
        if "gradient_gradient" in self._now:
            self._row["gradient_gradient"] = squares(gradients)
        if MOMENTA & self._now:
            self.used.keep(gradients if scale is None else [])
        groups = self.optimizer.param_groups
        self._row["lr"] = [_entry(group.get("lr")) for group in groups]
        self._row["beta2"] = [_entry(self.known.beta2(group)) for group in groups]

    def after(self) -> dict[str, Column]:
        """The columns of the step that was just taken, without its loss and its rates."""
        theta = [local(parameter) for parameter in self.layout.parameters]
        if "update_update" in self._now and self.theta is not None:
            found = changes(self.theta, theta, self._row["theta_theta"])
            self._row |= zip(CHANGE, found, strict=True)
        self._row |= self._momenta()
        if "v" in self._now:
            self._row["v"] = self._second_moments()
        if "state_step" in self._now:
            self._row["state_step"] = [_entry(state.get("step")) for state in self._states()]
        if self.start is not None and "distance_distance" in self._now:
            pairs = zip(self.start, theta, strict=True)
            self.start = [start.to(now.device) for start, now in pairs]  # the model may have moved
            self._row["distance_distance"] = distances(self.start, theta)
        if self.trajectory:
            found, left_out = states(self.optimizer, self.layout)
            gradient, after = self.vectors["gradient"], flat(theta, self.layout)
            self.vectors = {**found, "gradient": gradient, "theta": after}
            self.left_out |= left_out
        return {name: entries for name, entries in self._row.items() if name in self._now}

    def _momenta(self) -> dict[str, Column]:
        if not MOMENTA & self._now:
            return {}
        pairs = zip(self._states(), self.layout.parameters, strict=True)
        momenta = [_like(self.known.momentum(state), parameter) for state, parameter in pairs]
        if self._row["scale"][0] is None:
            known = self._row.get("gradient_gradient")  # of the same gradients
            squared, along = moments(momenta, self.used.taken(), known)
            return {"momentum_momentum": squared, "gradient_momentum": along}
        gradients = self._gradients()  # which the step may have unscaled in place
        squared, along = moments(momenta, gradients)
        after = squares(gradients)
        return {
            "momentum_momentum": squared, "gradient_momentum": along, "gradient_after": after
        }  # fmt: skip

    def _gradients(self) -> list[Tensor | None]:
        found = (part(parameter.grad, parameter) for parameter in self.layout.parameters)
        return [each if each is None or not each.is_sparse else each.to_dense() for each in found]

    def _second_moments(self) -> Column:
        """Σv of each parameter; None where it has no v."""
        states_ = self._states()
        summed = [state.get(SECOND_MOMENT_SUM) for state in states_]
        held = [
            None if known is not None else _like(self.known.second_moment(state), parameter)
            for known, state, parameter in zip(summed, states_, self.layout.parameters, strict=True)
        ]
        new = totals(held)
        if all(known is None for known in summed):
            return new
        return [_entry(known) if known is not None else other for known, other in zip(summed, new, strict=True)]

    def _states(self) -> list[dict]:
        return [self.optimizer.state.get(parameter, {}) for parameter in self.layout.parameters]


def _copies_for(theta: Sequence[Tensor], copies: Sequence[Tensor] | None) -> list[Tensor]:
    """Tensors for a copy of θ: those of the last copy, except where a parameter was cast or moved."""
    pairs = zip(theta, copies or [None] * len(theta), strict=True)
    return [copy if _is_for(copy, each) else _new_copy(each) for each, copy in pairs]


def _is_for(copy: Tensor | None, theta: Tensor) -> TypeGuard[Tensor]:
    if copy is None or copy.device != theta.device or copy.shape != theta.shape:
        return False
    return copy.dtype is _dtype_of_copy(theta)


def _new_copy(theta: Tensor) -> Tensor:
    return torch.empty_like(theta, dtype=_dtype_of_copy(theta))


def _dtype_of_copy(theta: Tensor) -> torch.dtype:
    """float32 for half precision on an accelerator, where the change of θ is computed in the copy."""
    is_wide = theta.device.type == "cpu" or theta.element_size() >= 4
    return theta.dtype if is_wide else torch.float32


def _like(moment: object, parameter: Tensor) -> Tensor | None:
    """A moment of the weights here, if its shape is that of the parameter; else None."""
    if not isinstance(moment, Tensor) or moment.shape != parameter.shape:
        return None
    return part(moment, parameter)


def _entry(value: object) -> Entry:
    """A number as a row keeps it: a tensor if it is on an accelerator, otherwise a float."""
    if value is None:
        return None
    if isinstance(value, Tensor) and value.device.type != "cpu":
        return value.detach().reshape(())
    return float(value)  # pyright: ignore[reportArgumentType]
