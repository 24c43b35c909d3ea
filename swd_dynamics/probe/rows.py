"""The recorded rows and what they become: a table of every variable, and a store that keeps rows in memory.

The recorder hands over one row for each step, a plain dictionary, and asks for a Dataset; another store with the same
methods can keep the rows on disk.
"""

from typing import Any

import numpy as np
import xarray

from swd_dynamics.tensors.weights import Layout

SCALARS: dict[str, tuple[tuple[str, ...], str]] = {
    "theta_norm": (("step",), "‖θ‖ before the step"),
    "gradient_norm": (("step",), "‖g‖"),
    "update_norm": (("step",), "‖Δθ‖"),
    "loss": (("step",), "training loss before the step; no decay term is in it"),
    "lr": (("step", "group"), "learning rate η"),
    "effective_lr": (("step", "group"), "effective learning rate η_eff, how far a unit of gradient moves a weight"),
    "decay_rate": (("step",), "decay rate R, mean over the weights that took the step"),
    "decay_rate_min": (("step",), "smallest decay rate R of a weight"),
    "decay_rate_max": (("step",), "largest decay rate R of a weight"),
    "decay_rate_std": (("step",), "standard deviation of the decay rate R over the weights"),
    "decay_ratio": (("step",), "R/η_eff, mean over the weights that took the step"),
    "had_gradient": (("step", "parameter"), "whether the step used a gradient of the parameter"),
}
TRAJECTORY: dict[str, tuple[tuple[str, ...], str]] = {
    "theta": (("iterate", "weight"), "weights θ after as many steps"),
    "gradient": (
        ("step", "weight"),
        "gradient g of the loss at θ before the step, without decay; 0 where there was none",
    ),
    "decay_rate_weight": (("step", "weight"), "decay rate R of each weight"),
}
VARIABLES = SCALARS | TRAJECTORY

Row = dict[str, Any]


class MemoryRows:
    """Rows kept in lists.

    Parameters
    ----------
    layout : Layout
    trajectory : bool
        Whether the rows hold the variables of ``TRAJECTORY`` and the optimizer's state.
    """

    def __init__(self, layout: Layout, trajectory: bool):
        self.layout = layout
        self.trajectory = trajectory
        self.start: np.ndarray | None = None  # θ before the first row
        self.rows: list[Row] = []

    def append(self, row: Row) -> None:
        """Keep what one step gave: a number or an array for each variable."""
        self.rows.append(row)

    def amend_last(self, name: str, value: float) -> None:
        """Put right a number of the last row that was not known when the row was kept."""
        self.rows[-1][name] = value

    def last(self, name: str) -> np.ndarray:
        """What the last row has of a variable."""
        return self.rows[-1][name]

    def __len__(self) -> int:
        return len(self.rows)

    def dataset(self) -> xarray.Dataset:
        """All rows so far, with names, dimensions and descriptions."""
        fixed = VARIABLES if self.trajectory else SCALARS
        names = [*fixed, *sorted({name for row in self.rows for name in row} - set(VARIABLES))]
        return xarray.Dataset({name: self._variable(name) for name in names}, self._coordinates())

    def _coordinates(self) -> dict:
        steps = np.arange(len(self) + 1)
        if not self.trajectory:
            return {"step": steps[1:], **self.layout.parameter_coordinates()}
        return {"step": steps[1:], "iterate": steps, **self.layout.coordinates()}

    def _variable(self, name: str) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
        dims, meaning = VARIABLES.get(name) or state_variable(name)
        values = [row.get(name) for row in self.rows]
        if name == "theta":
            values.insert(0, self._start())
        return dims, self._stacked(values, dims[1:]), {"long_name": meaning}

    def _start(self) -> np.ndarray:
        return self.layout.flat(self.layout.parameters) if self.start is None else self.start

    def _stacked(self, values: list, dims: tuple[str, ...]) -> np.ndarray:
        lengths = {
            "weight": self.layout.weights,
            "parameter": len(self.layout.groups),
            "group": max(self.layout.groups) + 1,
        }
        shape = tuple(lengths[dim] for dim in dims)
        if not values:
            return np.empty((0, *shape))
        missing = np.full(shape, np.nan, dtype=next(np.asarray(value).dtype for value in values if value is not None))
        return np.stack([missing if value is None else np.asarray(value) for value in values])


def state_variable(name: str) -> tuple[tuple[str, str], str]:
    """Dimensions and meaning of a piece of the optimizer's state, ``state_<key>``."""
    key = name.removeprefix("state_")
    if key == "step":
        return ("step", "parameter"), "the optimizer's own count of its steps on the parameter"
    return ("step", "weight"), f"the optimizer's state {key!r} after the step"
