"""Parameters whose weights lie on several processes, as torch's ``fully_shard`` leaves them (DTensor)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def local(tensor: Any) -> Tensor:
    """The part of a tensor that this process holds: all of it, unless it is a DTensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def sum_over_shards(partial: list[Tensor], parameters: list[Sequence[Tensor]]) -> list[Tensor]:
    """Sums over this process's part of each parameter made sums over the whole of it, the same on every process.

    Parameters
    ----------
    partial : list of Tensor, each of shape (parameters,)
    parameters : list of sequences of Tensor
        Those of each entry of ``partial``. All that are sharded alike share one ``all_reduce``, plain tensors take
        none. Every process must come here with the same parameters.
    """
    alike: dict[Any, list[tuple[int, int]]] = {}
    for i, sequence in enumerate(parameters):
        for j, parameter in enumerate(sequence):
            if hasattr(parameter, "to_local"):
                alike.setdefault((parameter.device_mesh, parameter.placements), []).append((i, j))  # pyright: ignore
    if not alike:
        return partial
    from torch.distributed.tensor import DTensor, Partial, Replicate

    sums = [list(vector.unbind()) for vector in partial]
    for (mesh, placements), where in alike.items():
        held = [Replicate() if placement.is_replicate() else Partial() for placement in placements]
        here = torch.stack([sums[i][j] for i, j in where])
        whole = DTensor.from_local(here, mesh, held, run_check=False).full_tensor()
        for (i, j), value in zip(where, whole.unbind(), strict=True):
            sums[i][j] = value
    return [torch.stack(vector) for vector in sums]
