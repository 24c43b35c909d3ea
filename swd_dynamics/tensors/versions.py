"""Whether a tensor was written, which is known without reading it."""

from typing import Any

from torch import Tensor


def version(value: Any) -> int | None:
    """How often a tensor was written in place; None for anything that torch does not count.

    Examples
    --------
    >>> import torch
    >>> tensor = torch.zeros(2)
    >>> before = version(tensor)
    >>> _ = tensor.add_(1)
    >>> version(tensor) - before, version(2.0)
    (1, None)
    """
    is_counted = isinstance(value, Tensor) and not value.is_inference()
    return value._version if is_counted else None
