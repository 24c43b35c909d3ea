"""Parameters whose weights lie on several processes, as torch's ``fully_shard`` leaves them (DTensor)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def local(tensor: Any) -> Tensor:
    """The part of a tensor that this process holds: all of it, unless it is a DTensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def sum_over_shards(partial: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Sums over this process's part of each parameter made sums over the whole of it.

    Parameters
    ----------
    partial : Tensor, shape (parameters,)
    parameters : sequence of Tensor
        Those that are sharded alike share one ``all_reduce``; plain tensors take none. Every process must come here
        with the same parameters.

    Returns
    -------
    Tensor, shape (parameters,)
        The same on every process.
    """
    alike: dict[Any, list[int]] = {}
    for i, parameter in enumerate(parameters):
        if hasattr(parameter, "to_local"):
            alike.setdefault((parameter.device_mesh, parameter.placements), []).append(i)  # pyright: ignore
    if not alike:
        return partial
    from torch.distributed.tensor import DTensor, Partial, Replicate

    sums = list(partial.unbind())
    for (mesh, placements), where in alike.items():
        held = [Replicate() if placement.is_replicate() else Partial() for placement in placements]
        here = torch.stack([sums[i] for i in where])
        whole = DTensor.from_local(here, mesh, held, run_check=False).full_tensor()
        for i, value in zip(where, whole.unbind(), strict=True):
            sums[i] = value
    return torch.stack(sums)
