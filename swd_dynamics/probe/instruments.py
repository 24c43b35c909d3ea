"""What a streaming probe measures with: everything that is on the side of the optimizer, nothing of the disk."""

from collections.abc import Iterable

import torch

from swd_dynamics.probe.buffer import Ring
from swd_dynamics.probe.measure import COSTLESS, OF_GROUP, OF_PARAMETER, OF_STEP, Measurement, columns_for
from swd_dynamics.probe.rates import Rates
from swd_dynamics.probe.trajectory import vectors
from swd_dynamics.tensors.weights import Layout


class Instruments:
    """The measurement of a recorded step, and the cheaper one of a step between, where R is only followed.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    layout : Layout
    needs : iterable of str
        The sums, of :data:`~swd_dynamics.probe.quantities.SUMS`, that are recorded.
    trajectory : bool
        Whether every weight and gradient is.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, layout: Layout, needs: Iterable[str], trajectory: bool):
        needs = set(needs)
        self.optimizer, self.layout, self.trajectory = optimizer, layout, trajectory
        self.rates = Rates(optimizer, layout, each_weight="rate_rate" in needs and not layout.is_sharded)
        self.columns = columns_for(needs, self.rates.family)
        self.recorded = Measurement(optimizer, layout, self.columns, self.rates, trajectory)
        self.between = Measurement(optimizer, layout, frozenset(COSTLESS), self.rates)

    @property
    def needs_start(self) -> bool:
        """Whether θ₀ is asked for and not known yet."""
        return "distance_distance" in self.columns and self.recorded.start is None

    def ring(self) -> Ring:
        """A ring for the rows."""
        counts = {OF_PARAMETER: len(self.layout.parameters), OF_GROUP: len(self.optimizer.param_groups), OF_STEP: 1}
        widths = {name: count for kind, count in counts.items() for name in kind if name in self.columns}
        devices = [parameter.device for parameter in self.layout.parameters]
        device = next((device for device in devices if device.type != "cpu"), torch.device("cpu"))
        return Ring(widths, device, vectors(self.layout) if self.trajectory else {})
