"""Between the streaming probe and its run folder: where a run begins or goes on, and what is written there."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.probe.provenance import NOT_GIVEN, git_commit, model_summary, provenance
from swd_dynamics.probe.quantities import Quantity
from swd_dynamics.probe.rates import MEMORY
from swd_dynamics.probe.reduce import Block
from swd_dynamics.probe.trajectory import variables
from swd_dynamics.recording.format import RUN
from swd_dynamics.recording.snapshots import load_snapshot, snapshots
from swd_dynamics.recording.writer import RunFolder
from swd_dynamics.tensors.groups import steps_before
from swd_dynamics.tensors.weights import Layout


class RunWriter:
    """Writes what was measured of a run; open from :meth:`open` to :meth:`close`.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    layout : Layout
    path : Path
    quantities : tuple of Quantity
    describe : callable
        Gives what made the run, when it begins.
    family : str, optional
        Of the optimizer: ``"SGD"``, whose L2 has a memory that is kept, or ``"Adam"``, whose v states η_eff.
    trajectory : bool
        Whether the columns of :mod:`~swd_dynamics.probe.trajectory` are written, too.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layout: Layout,
        path: Path,
        quantities: tuple[Quantity, ...],
        describe: Callable[[], Mapping[str, Any]],
        family: str | None,
        trajectory: bool,
    ):
        self.optimizer, self.layout, self.path = optimizer, layout, path
        self.quantities, self.describe, self.family = quantities, describe, family
        self.trajectory = variables(layout) if trajectory else {}
        self._run: RunFolder | None = None
        self._noted: set[str] = set()

    def open(self, resume: bool, given: int | None, seen: int | None) -> int:
        """Begin the run, or go on with it; returns how many steps were taken before.

        Parameters
        ----------
        resume : bool
            Whether to go on, if there is a run.
        given : int, optional
            The number of steps taken before, if the optimizer is not to be asked.
        seen : int, optional
            The number of the last step that the probe has seen itself.
        """
        recorded: dict = {name: v for quantity in self.quantities for name, v in quantity.variables().items()}
        recorded |= {"decay_memory": (("step", "parameter"), "float64", MEMORY)} if self.family == "SGD" else {}
        sizes = {"group": len(self.optimizer.param_groups), "parameter": len(self.layout.parameters)}
        sizes |= {"weight": self.layout.weights} if self.trajectory else {}
        if not (resume and (self.path / RUN).exists()):
            begun = max(steps_before(self.optimizer), 0) if given is None else given
            facts = {**self.describe(), "steps_before": begun}
            self._run = RunFolder.create(self.path, recorded | self.trajectory, facts, sizes)
            if self.trajectory:
                self.snapshot(begun)  # where it starts
            return begun
        run = RunFolder.resume(self.path, recorded | self.trajectory, self.describe(), sizes)
        try:
            taken = self._steps_taken(run.committed, given, seen)
            run.truncate(taken + 1)
        except BaseException:
            run.close("interrupted")
            raise
        self._run = run
        return taken

    def _steps_taken(self, recorded: int, given: int | None, seen: int | None) -> int:
        counted = steps_before(self.optimizer)
        if given is not None or counted > 0:
            return counted if given is None else given
        if recorded and seen is None:
            raise InputError(
                f"{type(self.optimizer).__name__} has taken no step or does not count them: give step=, the number of"
                f" steps taken before (and load the optimizer's state), to go on with the run in {self.path}"
            )
        return seen or 0

    def start(self, taken: int) -> list[Tensor] | None:
        """θ₀, a copy: the parameters as they are, kept as the snapshot of step 0; or that of the run that goes on.

        None if that is gone.
        """
        if taken and self._opened.committed and 0 not in snapshots(self.path):
            self.note(distance_unknown_because="the snapshot of step 0, where it began, is gone")
            return None
        if taken and 0 in snapshots(self.path):
            kept = load_snapshot(self.path, 0)
            pairs = zip(self.layout.names, self.layout.parameters, strict=True)
            return [torch.tensor(kept[name]).to(parameter) for name, parameter in pairs]
        self.snapshot(0)
        return [parameter.detach().clone() for parameter in self.layout.parameters]

    def memory(self, taken: int) -> Sequence[float]:
        """The column ``memory`` as it was after the last step; empty if that is not recorded."""
        if self.family != "SGD" or self._opened.last("step") != taken:
            return ()
        kept = self._opened.last("decay_memory")
        return () if kept is None else kept.tolist()

    def write(self, steps: np.ndarray, columns: Mapping[str, np.ndarray], reasons: set[str]) -> None:
        """Finish the quantities of some rows and append them; reasons for what is unknown are noted."""
        block = Block(columns, self.layout, self.family == "Adam")
        as_measured = {name: columns[name] for name in self.trajectory if name in columns}
        if self.trajectory:
            as_measured["had_gradient"] = (columns["had_gradient"] != 0) & ~block.skipped
        as_measured |= {"decay_memory": columns["memory"]} if self.family == "SGD" else {}
        self._opened.append({"step": steps, **block.variables(self.quantities), **as_measured})
        if reasons != self._noted:
            self._noted = set(reasons)
            self._opened.note(decay_unknown_because=sorted(reasons))

    def snapshot(self, step: int) -> None:
        """Keep the parameters as they are after a step."""
        pairs = zip(self.layout.names, self.layout.parameters, strict=True)
        self._opened.snapshot(step, {name: _as_array(parameter) for name, parameter in pairs})

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._opened.committed

    def note(self, **facts: Any) -> None:
        """Add facts about the run."""
        self._opened.note(**facts)

    def close(self, status: str) -> None:
        """Note how the run ended."""
        run, self._run = self._run, None
        if run is not None:
            run.close(status)

    @property
    def _opened(self) -> RunFolder:
        assert self._run is not None
        return self._run


def made_by(
    optimizer: torch.optim.Optimizer,
    layout: Layout,
    model: torch.nn.Module | None,
    seed: int | None,
    data: Any,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """What made a run, as run.json says it."""
    facts: dict[str, Any] = provenance(optimizer, layout, seed, data)
    return {
        **facts,
        "optimizer_arguments": json.loads(facts["optimizer_arguments"]),
        "git_commit": git_commit(),
        "model": NOT_GIVEN if model is None else type(model).__qualname__,
        "model_summary": model_summary(model),
        "weights": layout.weights,
        "parameter_names": list(layout.names),
        "parameter_shapes": [list(parameter.shape) for parameter in layout.parameters],
        "parameter_groups": list(layout.groups),
        **more,
    }


def _as_array(parameter: Tensor) -> np.ndarray:
    there = parameter.detach().cpu()
    return (there.float() if there.dtype == torch.bfloat16 else there).numpy()
