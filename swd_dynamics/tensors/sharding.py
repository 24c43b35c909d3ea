"""Parameters whose weights are on several processes: the DTensors of torch's ``fully_shard``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

WRITER = 0  # the rank that writes the run folder


def is_sharded(tensor: Any) -> bool:
    """Whether a tensor is a DTensor, even if this process holds all of it."""
    return hasattr(tensor, "to_local")


def local(tensor: Any) -> Tensor:
    """The part of a tensor that this process holds, detached: all of it, unless it is a DTensor."""
    # Optimizers call this in every step, where a detach that changes nothing would cost time.
    detached = tensor.detach() if tensor.requires_grad else tensor
    return detached.to_local() if is_sharded(detached) else detached


def part(tensor: Tensor | None, parameter: Tensor) -> Tensor | None:
    """The part of a parameter's tensor that belongs to the weights here.

    None if the tensor is sharded in another way than the parameter.
    """
    if not is_sharded(parameter) or tensor is None:
        return tensor
    same = getattr(tensor, "placements", None) == parameter.placements  # pyright: ignore
    return local(tensor) if same else None


def holders(parameter: Any) -> frozenset[int]:
    """The ranks whose parts of a parameter add up to all of it, each weight once.

    Of several replicas the first counts.

    Examples
    --------
    >>> holders(torch.ones(3))
    frozenset({0})
    """
    if not is_sharded(parameter):
        return frozenset({WRITER})
    first = [0 if placement.is_replicate() else slice(None) for placement in parameter.placements]
    return frozenset(parameter.device_mesh.mesh[tuple(first)].flatten().tolist())


def shares(parameters: Sequence[Tensor], rank: int) -> np.ndarray:
    """Whether a rank's part of each parameter counts in the sums, shape (parameters,)."""
    return np.array([rank in holders(parameter) for parameter in parameters], bool)


def sum_over_shards(partial: list[Tensor], parameters: list[Sequence[Tensor]]) -> list[Tensor]:
    """Sums over all weights of each parameter, from each process's sums over its own part of them.

    Every process gets the same sums, and every process must call this with the same parameters.

    Parameters
    ----------
    partial : list of Tensor, each of shape (parameters,)
        This process's sums.
    parameters : list of sequences of Tensor
        The parameters of each entry of ``partial``. Parameters that are sharded in the same way
        share one ``all_reduce``; plain tensors need none.

    Examples
    --------
    >>> sum_over_shards([torch.tensor([1.0, 2.0])], [[torch.ones(1), torch.ones(2)]])
    [tensor([1., 2.])]
    """
    alike: dict[Any, list[tuple[int, int]]] = {}
    for i, sequence in enumerate(parameters):
        for j, parameter in enumerate(sequence):
            if is_sharded(parameter):
                layout = parameter.device_mesh, parameter.placements  # pyright: ignore
                alike.setdefault(layout, []).append((i, j))
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


def world() -> tuple[int, int]:
    """This process's rank, and the number of processes that train together: 0 and 1 for one."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
