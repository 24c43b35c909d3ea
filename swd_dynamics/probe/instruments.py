"""What a probe measures with: sums and rates together, one row for each step."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch

from swd_dynamics.probe.buffer import Buffer
from swd_dynamics.probe.landscape import CRITICAL, EIGENVALUES, OF_LANDSCAPE, SLOPES, Landscape, Surveyor
from swd_dynamics.probe.measure import (
    BY_WEIGHT,
    COSTLESS,
    OF_GROUP,
    OF_PARAMETER,
    OF_STEP,
    Measurement,
    columns_for,
)
from swd_dynamics.probe.rates import Rates
from swd_dynamics.probe.trajectory import MOST_VECTORS, flat_rates, vector_dtype
from swd_dynamics.probe.warned import NO_RATES, PUBLISH, warn
from swd_dynamics.tensors.known import known
from swd_dynamics.tensors.rounding import can_fuse, lost_decay
from swd_dynamics.tensors.sums import Column, Entry
from swd_dynamics.tensors.weights import Layout

# Attributes of a recording: why a decay rate or a cosine is NaN, and which state of the optimizer is
# left out.
UNKNOWN_DECAY, STATE_LEFT_OUT = "decay_unknown_because", "state_not_recorded"
OF_RATES = ("effective_lr", "decay", "decay_ratio", "decay_decay", "rate_rate")  # sums that need R or η_eff
UNKNOWN_COSINE = "cos_gradient_momentum_unknown_because"


class Instruments:
    """Measures the steps that are recorded, and follows R through the steps between them.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    layout : Layout
    needs : iterable of str
        The names of the sums that are recorded, out of :data:`~swd_dynamics.probe.quantities.SUMS`.
    trajectory : bool
        Whether every weight and gradient is recorded; R is then followed weight by weight.
    landscape : Landscape, optional
        For sums that describe the loss around the weights.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layout: Layout,
        needs: Iterable[str],
        trajectory: bool,
        landscape: Landscape | None = None,
    ):
        self.optimizer, self.layout = optimizer, layout
        needs = set(needs)
        surveyed = needs & set(OF_LANDSCAPE)
        self._surveyor = None
        if landscape is not None and surveyed:
            self._surveyor = Surveyor(landscape, optimizer, layout, surveyed)
        self.eigenvalues = 0 if landscape is None else landscape.k  # the number of them in a row
        self.columns = columns_for(needs, known(optimizer), trajectory)
        by_weight = trajectory or "rate_rate" in needs
        if by_weight:
            self.columns |= {"theta_theta", *BY_WEIGHT}
        self.rates = Rates(optimizer, layout, by_weight=by_weight and not layout.is_sharded)
        entry = self.rates.known
        self.measurement = Measurement(optimizer, layout, self.columns, entry, trajectory)
        self._is_recorded = False
        # Whether a user who reads the recorded quantities would miss R or η_eff, and has not been told why.
        self._must_tell = bool(needs & set(OF_RATES))
        self._is_decay_told = False  # whether it is known, and told if need be, that decay is lost to rounding
        self._decay_rates: dict[int, float] = {}  # R of each group in the step before, while that is not known

    @property
    def needs_start(self) -> bool:
        """Whether the distance from θ₀ is measured and θ₀ is not known yet."""
        return "distance_distance" in self.columns and self.measurement.start is None

    @property
    def notes(self) -> dict[str, set[str]]:
        """What is noted about the recorded steps: why values are unknown, which state is left out."""
        return {
            UNKNOWN_DECAY: self.rates.reasons,
            UNKNOWN_COSINE: self.measurement.used.reasons,
            STATE_LEFT_OUT: self.measurement.left_out,
        }

    def take_up(self, last: Callable[[str], np.ndarray | None]) -> None:
        """Continue after the last recorded row.

        Parameters
        ----------
        last : callable (name) → array or None
            Returns what that row has of a variable; None if there is no such row or variable.
        """
        memory = last("decay_memory")
        self.rates.take_up([] if memory is None else memory.tolist())
        if self.measurement.trajectory:
            self.measurement.take_up(last("theta"))

    def before(self, recorded: bool, step: int) -> None:
        """Measure the weights from which a step starts; ``step`` is its number."""
        self._is_recorded = recorded
        self.rates.before()
        self.measurement.before(recorded, self.rates.needs_theta)
        if self._surveyor is not None:
            self._surveyor.before(step if recorded else None)

    def at_gradient(self) -> None:
        """Measure the gradients that the step will use."""
        self.measurement.at_gradient()

    def after(self) -> dict[str, Column]:
        """The columns of the step just taken, except its loss."""
        theta = self.measurement.theta if self.rates.needs_theta else None
        rates = self.rates.after(self.measurement.took, theta)
        if self._must_tell and self.rates.reasons:
            self._tell(rates)
        if not self._is_decay_told:
            self._watch_decay()
        row = self.measurement.after()
        if self._surveyor is not None:
            row |= self._surveyor.after(rates["rate"], self.measurement.took)
        if self.measurement.trajectory:
            vector = flat_rates(self.rates.of_weights, self.layout)
            self.measurement.vectors["decay_rate_weight"] = vector
        columns = self.columns if self._is_recorded else COSTLESS
        return row | {name: entries for name, entries in rates.items() if name in columns}

    def _tell(self, rates: dict[str, list[Entry]]) -> None:
        """Warn once which rates a recording lacks, why, and what to do."""
        columns = {"decay_rate": rates["rate"], "effective_lr": rates["effective_lr"]}
        names = [name for name, entries in columns.items() if any(map(_is_nan, entries))]
        if not names:
            return
        self._must_tell = False
        told = {"names": " and ".join(names), "are": "are" if len(names) > 1 else "is"}
        said = NO_RATES.format(**told, reason=min(self.rates.reasons), attribute=UNKNOWN_DECAY)
        warn(said + PUBLISH * (self.rates.known.is_decoupled is None))

    def _watch_decay(self) -> None:
        """Warn once if θ ← (1 − R)θ, rounded to the type of the weights, leaves every weight as it is.

        That is judged once η no longer rises: a warm-up begins with an R that is too small. A fused kernel rounds decay
        and step together, as one change, and does not lose the decay.
        """
        decoupled = self.rates.known.is_decoupled
        for i, group in enumerate(self.optimizer.param_groups):
            if decoupled is None or not group["params"] or group.get("fused"):
                continue
            if not group["weight_decay"] or not decoupled(group):
                continue
            if isinstance(group["lr"], torch.Tensor) and group["lr"].device.type != "cpu":
                continue  # the host does not wait for an accelerator
            decay_rate = float(group["lr"]) * float(group["weight_decay"])
            before, self._decay_rates[i] = self._decay_rates.get(i, 0.0), decay_rate
            if decay_rate > before:
                continue
            dtype = max((p.dtype for p in group["params"]), key=lambda each: torch.finfo(each).eps)
            self._is_decay_told = True
            if told := lost_decay(before, dtype, fusable=can_fuse(group)):
                warn(told)
                return

    def buffer(self) -> Buffer:
        """An empty buffer for the rows."""
        counts = {
            OF_PARAMETER: len(self.layout.parameters),
            OF_GROUP: self.layout.group_count,
            OF_STEP: 1,
            (*SLOPES, CRITICAL): 1,
            (EIGENVALUES,): self.eigenvalues,
        }
        widths = {}
        for names, count in counts.items():
            widths |= {name: count for name in names if name in self.columns}
        devices = [parameter.device for parameter in self.layout.parameters]
        device = next((each for each in devices if each.type != "cpu"), torch.device("cpu"))
        itemsize = vector_dtype(self.layout).itemsize
        vectors = MOST_VECTORS * self.layout.weights * itemsize
        return Buffer(widths, device, vectors if self.measurement.trajectory else 0)


def _is_nan(entry: Entry) -> bool:
    """Whether a number that is on the host is NaN."""
    return isinstance(entry, float) and math.isnan(entry)
