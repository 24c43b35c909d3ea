"""A trajectory in a run folder: every weight and every gradient of every step, for small models."""

import json
import os
from collections.abc import Sequence

import numpy as np
import torch
import xarray
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.probe.rows import SCALARS, TRAJECTORY
from swd_dynamics.recording.reader import open_recording
from swd_dynamics.recording.snapshots import load_snapshot
from swd_dynamics.tensors.weights import Layout

NAMES = {"theta": "weights θ after the step", "gradient": TRAJECTORY["gradient"][1]}
CHANGED = 1e-5  # relative: ‖θ‖ before a step, by two sums in float32, is ‖θ‖ after the last one


def vectors(layout: Layout) -> dict[str, tuple[int, torch.dtype]]:
    """The length and the type of each vector of a row; half precision is widened, which loses nothing."""
    small = all(parameter.dtype in (torch.float32, torch.float16, torch.bfloat16) for parameter in layout.parameters)
    return dict.fromkeys(NAMES, (layout.weights, torch.float32 if small else torch.float64))


def variables(layout: Layout) -> dict[str, tuple[tuple[str, str], str, str]]:
    """The variables of a trajectory, as a run folder declares them."""
    types = {name: str(dtype).removeprefix("torch.") for name, (_, dtype) in vectors(layout).items()}
    declared = {name: (("step", "weight"), types[name], meaning) for name, meaning in NAMES.items()}
    return {**declared, "had_gradient": (("step", "parameter"), "bool", SCALARS["had_gradient"][1])}


def flat(tensors: Sequence[Tensor | None], layout: Layout) -> Tensor:
    """One tensor for each parameter as one vector, on their device: a copy, 0 where there is none."""
    pairs = zip(tensors, layout.parameters, strict=True)
    pieces = [torch.zeros_like(parameter) if tensor is None else tensor for tensor, parameter in pairs]
    return torch.cat([piece.detach().reshape(-1) for piece in pieces])


def used_gradient(gradient: Tensor, scale: Tensor | None, found_inf: Tensor | None) -> Tensor:
    """The gradient that a step uses: without a gradient scaler's factor, and 0 if the scaler has voided the step."""
    gradient = gradient if scale is None else gradient / scale
    return gradient if found_inf is None else torch.where(found_inf != 0, 0.0, gradient)


def load_trajectory(path: str | os.PathLike) -> xarray.Dataset:
    """A run that was recorded with ``trajectory=True``, all of it in memory.

    Parameters
    ----------
    path : str or path
        Its run folder, of version 2.

    Returns
    -------
    xarray.Dataset
        As of :func:`swd_dynamics.open_recording`, with ``theta`` (iterate, weight), the start included, and the group
        of each weight: what :func:`swd_dynamics.replay` needs.

    Raises
    ------
    InputError
        If the run has no trajectory, or not of every step, or is damaged.
    """
    recording = open_recording(path)
    missing = [name for name in NAMES if name not in recording]
    if missing:
        raise InputError(
            f"the run in {path} lacks {' and '.join(missing)}: record it with trajectory=True (--trajectory)"
        )
    try:
        first, names, groups = (json.loads(str(recording.attrs[key])) for key in _FACTS)
        kept = load_snapshot(path, first)
        pieces = [kept[name].reshape(-1) for name in names]
        of_weight = np.repeat(np.arange(len(names)), [len(piece) for piece in pieces])
        iterates = np.arange(first, first + 1 + recording.sizes["step"])
        theta = np.vstack(
            [np.concatenate(pieces), recording["theta"]], dtype=recording["theta"].dtype, casting="unsafe"
        )
        whole = (
            recording.drop_vars("theta")
            .load()
            .assign_coords(
                iterate=iterates,
                weight_parameter=("weight", of_weight),
                weight_group=("weight", np.asarray(groups)[of_weight]),
            )
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"the run in {path} is damaged: {error!r}") from None
    if not np.array_equal(whole["step"], iterates[1:]):
        raise InputError(f"the run in {path} lacks some of the steps after step {first}: its trajectory is in pieces")
    whole = whole.assign(theta=(("iterate", "weight"), theta, {"long_name": TRAJECTORY["theta"][1]}))
    return whole.assign_attrs(theta_changed_before_steps=json.dumps(_changed_before(whole)))


def _changed_before(run: xarray.Dataset) -> list[int]:
    """The steps before which something else than the optimizer changed ‖θ‖, if that is recorded."""
    if "theta_norm" not in run:
        return []
    with np.errstate(all="ignore"):  # of a run that diverged
        norms = np.linalg.norm(run["theta"].values[:-1].astype(float), axis=1)
        apart = np.abs(run["theta_norm"].values - norms) > CHANGED * norms
    return run["step"].values[apart].tolist()


_FACTS = ("steps_before", "parameter_names", "parameter_groups")
