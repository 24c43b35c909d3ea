"""Parameters whose weights lie on several processes, as torch's ``fully_shard`` leaves them (DTensor)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

WRITER = 0  # the rank that writes the run folder


def is_sharded(tensor: Any) -> bool:
    """Whether a tensor is a DTensor, even if all of it is here."""
    return hasattr(tensor, "to_local")


def local(tensor: Any) -> Tensor:
    """The part of a tensor that this process holds: all of it, unless it is a DTensor; detached."""
    detached = tensor.detach()
    return detached.to_local() if is_sharded(detached) else detached


def part(tensor: Tensor | None, parameter: Tensor) -> Tensor | None:
    """Of a tensor that belongs to a parameter, what belongs to the weights here; None if it is laid out otherwise."""
    if not is_sharded(parameter) or tensor is None:
        return tensor
    return local(tensor) if getattr(tensor, "placements", None) == parameter.placements else None  # pyright: ignore


def holders(parameter: Any) -> frozenset[int]:
    """The ranks whose parts of a parameter add up to all of it, each weight once: of replicas the first.

    Examples
    --------
    >>> holders(torch.ones(3))
    frozenset({0})
    """
    if not is_sharded(parameter):
        return frozenset({WRITER})
    first = tuple(0 if placement.is_replicate() else slice(None) for placement in parameter.placements)
    return frozenset(parameter.device_mesh.mesh[first].flatten().tolist())


def shares(parameters: Sequence[Tensor], rank: int) -> np.ndarray:
    """Whether the sums over a rank's part of each parameter count, shape (parameters,)."""
    return np.array([rank in holders(parameter) for parameter in parameters], bool)


def world() -> tuple[int, int]:
    """This process's rank and the number of processes that train together: 0 and 1 without ``torch.distributed``."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
