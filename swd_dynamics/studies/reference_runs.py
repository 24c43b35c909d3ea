"""The reference runs that were recorded on a GPU, and the file that keeps them.

Every optimizer of the catalogue that has a real counterpart runs on two tasks, in float64 and in float32; AdamW and
AdamS also run in bfloat16, with torch's kernels foreach and fused. The same runs can be recorded on any device.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray

from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.probe import record
from swd_dynamics.studies.methods import Method, names_of
from swd_dynamics.tables import Table
from swd_dynamics.tasks import Task, quadratic, tanh_network

STEPS = 300
# The file keeps the optimizer's state of every 50th step: of every step it would double the file. Of a bfloat16 run
# it keeps all of it, because there each step is judged from the state that was recorded before it.
STATE_EVERY = 50
SEED = 0

SGD_ARGUMENTS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.02}
ADAM_ARGUMENTS = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-3, "weight_decay": 0.05}
ADAI_ARGUMENTS = {"lr": 0.1, "betas": (0.1, 0.99), "eps": 1e-3, "weight_decay": 0.05}
ARGUMENTS = {"SGD": SGD_ARGUMENTS, "Adam": ADAM_ARGUMENTS, "AMSGrad": ADAM_ARGUMENTS, "Adai": ADAI_ARGUMENTS}
RECORDED = {name for family in ARGUMENTS for name in names_of(family)}
# √v̄ is ten and more times larger on the quadratic than on the network: so λ is, too, where R is λη/√v̄.
LARGER = {("quadratic", "AdamS"): 10.0, ("quadratic", "AMSGradS"): 10.0}
# bfloat16 has eight binary digits: a change of a weight by less than 2⁻⁹ of it is lost. So that a decay, and an error
# of one hundredth of it, can be seen there at all, R is about a tenth in these runs, and ε is as large as √v.
COARSE = {"AdamW": {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-2, "weight_decay": 5.0},
          "AdamS": {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-2, "weight_decay": 0.25}}  # fmt: skip

TASKS: Table[Callable[..., Task]] = Table(
    "task",
    quadratic=lambda **where: quadratic(
        (1.0, 3.0, 0.1, 10.0), start=(1.0, -2.0, 0.5, 1.0), noise=0.1, seed=SEED, **where
    ),
    network=lambda **where: tanh_network((1,), batch_size=50, seed=SEED, **where),
)
DTYPES: Table[torch.dtype] = Table("dtype", float64=torch.float64, float32=torch.float32, bfloat16=torch.bfloat16)


@dataclass(frozen=True)
class ReferenceRun:
    """One run: an optimizer of the catalogue on a task, in a dtype, with one of torch's kernels.

    Attributes
    ----------
    name : str — as in CATALOG and in OPTIMIZERS
    task : str — as in TASKS
    dtype : str — as in DTYPES
    kernel : str — "foreach" or "fused"

    Examples
    --------
    >>> run = ReferenceRun("AdamW", "network", "bfloat16", "fused")
    >>> run.key, run.method.arguments["weight_decay"]
    ('network/bfloat16/AdamW-fused', 5.0)
    """

    name: str
    task: str
    dtype: str
    kernel: str = "foreach"

    @property
    def key(self) -> str:
        """The run's name in the file."""
        return f"{self.task}/{self.dtype}/{self.name}{'-fused' if self.kernel == 'fused' else ''}"

    @property
    def method(self) -> Method:
        """The run's rule and optimizer, with their arguments."""
        (given,) = (ARGUMENTS[family] for family in ARGUMENTS if self.name in names_of(family))
        given = COARSE[self.name] if self.dtype == "bfloat16" else given
        weight_decay = given["weight_decay"] * LARGER.get((self.task, self.name), 1.0)
        return Method(self.name, given | {"weight_decay": weight_decay})

    def recorded(self, device: str, steps: int = STEPS) -> xarray.Dataset:
        """The run, recorded on a device: θ, g and state, and what made them."""
        task = TASKS[self.task](device=device, dtype=DTYPES[self.dtype])
        optimizer = self.method.optimizer(task.model.parameters(), **{self.kernel: True})
        recording = record(
            optimizer, task.loss, steps, quantities="minimal", seed=SEED, data=json.dumps(task.description)
        )
        return _kept(recording, self.dtype).assign_attrs(task=self.task, dtype=self.dtype, kernel=self.kernel)


def reference_runs() -> Iterator[ReferenceRun]:
    """All reference runs."""
    for task in TASKS:
        for dtype in ("float64", "float32"):
            yield from (ReferenceRun(name, task, dtype) for name in OPTIMIZERS if name in RECORDED)
        for kernel in ("foreach", "fused"):
            yield from (ReferenceRun(name, task, "bfloat16", kernel) for name in COARSE)


def _kept(recording: xarray.Dataset, dtype: str) -> xarray.Dataset:
    """What the file keeps of a recording."""
    states = [name for name in recording if str(name).startswith("state_") and name != "state_step"]
    kept = recording[["theta", "gradient", "loss", "lr", "decay_rate", *states]]
    if dtype != "bfloat16":
        sparse = {name: recording[name][STATE_EVERY - 1 :: STATE_EVERY].rename(step="state_after") for name in states}
        kept = kept.drop_vars(states).assign(sparse)
    return kept.drop_vars(["weight", "weight_parameter", "iterate", "step", "group"])  # they count from 0 or 1


def committed_runs() -> Path | None:
    """The committed file: beside this one if the package is installed, among the tests in a checkout; None if none."""
    installed = Path(__file__).with_name("reference") / "gpu_runs.nc"
    checkout = Path(__file__).parents[2] / "tests" / "reference" / "gpu" / "runs.nc"
    return next((path for path in (installed, checkout) if path.exists()), None)


def write(path: Path, recordings: dict[str, xarray.Dataset]) -> None:
    """Write recordings to one netCDF file, each in the group of its name.

    The values of one weight stand side by side, because they change slowly: so they compress best.
    """
    path.unlink(missing_ok=True)
    for key, recording in recordings.items():
        stored = recording.transpose("weight", ...)
        encoding: dict[Any, Any] = {
            name: {"zlib": True, "complevel": 9, "shuffle": True, "chunksizes": variable.shape}
            for name, variable in stored.data_vars.items()
            if variable.ndim == 2 and "weight" in variable.dims
        }
        stored.to_netcdf(path, mode="a", group=key, engine="h5netcdf", encoding=encoding)


def read(path: Path, key: str) -> xarray.Dataset:
    """One recording of the file, in memory."""
    with xarray.open_dataset(path, group=key, engine="h5netcdf") as stored:
        return stored.load().transpose("step", "iterate", "state_after", ..., missing_dims="ignore")
