"""What made a recording: optimizer, arguments, seed, data, device, versions."""

import importlib.metadata
import json
import operator
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.tensors.groups import arguments, steps_before
from swd_dynamics.tensors.weights import Layout

NOT_GIVEN, NONE = "not given", "none"
# Seconds that git may take to look for changed files. In a repository that is too large for them
# the commit is noted as "none"; twice as many delay the start of such a run by five seconds.
GIT_SECONDS = 5
# Number of letters of a model's summary. Half as many cut off models of some hundred layers; twice
# as many double run.json, which may have 4 MiB.
MOST_LETTERS = 20_000


def made_by(
    optimizer: torch.optim.Optimizer,
    layout: Layout,
    model: torch.nn.Module | None,
    seed: int | None,
    data: Any,
) -> dict[str, Any]:
    """What made a recording.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Its arguments are read now. A schedule may change them later; the recorded ``lr`` shows
        that.
    layout : Layout
    model : torch.nn.Module, optional
    seed : int, optional
    data : optional
        What was trained on: a sentence, or anything that JSON can express.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> sgd = torch.optim.SGD([weight], lr=0.5)
    >>> facts = made_by(sgd, Layout((weight,), (0,), ("w",)), None, seed=7, data="digits")
    >>> facts["optimizer"], facts["seed"], facts["optimizer_arguments"][0]["lr"]
    ('SGD', 7, 0.5)
    """
    parameters = layout.parameters
    return {
        "optimizer": type(optimizer).__qualname__,
        "optimizer_module": type(optimizer).__module__,
        "optimizer_arguments": [arguments(group) for group in optimizer.param_groups],
        "steps_before": steps_before(optimizer),
        "seed": _as_seed(seed),
        "data": _as_text(data),
        **devices(layout),
        "dtype": _joined(str(parameter.dtype).removeprefix("torch.") for parameter in parameters),
        **versions(),
        "git_commit": git_commit(),
        "model": NOT_GIVEN if model is None else type(model).__qualname__,
        "model_summary": NOT_GIVEN if model is None else str(model)[:MOST_LETTERS],
        "weights": layout.weights,
        "parameter_names": list(layout.names),
        "parameter_shapes": [list(parameter.shape) for parameter in parameters],
        "parameter_groups": list(layout.groups),
    }


def devices(layout: Layout) -> dict[str, str]:
    """Type and name of every device that holds a parameter."""
    used = {str(parameter.device): parameter.device for parameter in layout.parameters}
    return {
        "device": _joined(device.type for device in used.values()),
        "device_name": _joined(device_name(device) for device in used.values()),
    }


def device_name(device: torch.device) -> str:
    """The name of the card, or of the processor if the platform knows it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine() or "unknown"


def git_commit() -> str:
    """The commit of the working directory, with ``-dirty`` if files have changed since."""
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    command = ["git", "-c", "core.fsmonitor=false", *describe]
    try:
        found = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or no commit
        return NONE
    return found.stdout.strip()


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that computed."""
    try:
        own = importlib.metadata.version("swd-dynamics")
    except importlib.metadata.PackageNotFoundError:
        own = "not installed"
    return {
        "python_version": platform.python_version(),
        "torch_version": str(torch.__version__),
        "numpy_version": np.__version__,
        "swd_dynamics_version": own,
    }


def _as_seed(seed: int | None) -> int | str:
    try:
        return NOT_GIVEN if seed is None else operator.index(seed)
    except TypeError:
        raise InputError(f"seed = {seed!r} is not allowed: it must be a whole number") from None


def _as_text(data: Any) -> str:
    if data is None:
        return NOT_GIVEN
    return data if isinstance(data, str) else json.dumps(data, default=repr)


def _joined(words) -> str:
    return ", ".join(dict.fromkeys(words))
