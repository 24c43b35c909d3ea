"""What torch's fused kernels ask of memory: they go through it as it lies, on the CPU without a check."""

import torch
from torch import Tensor

from swd_dynamics.optim.parts import Part


def why_not_fused(parameter: Tensor) -> str:
    """Why a fused kernel would be wrong for a parameter; empty where it is right.

    Examples
    --------
    >>> why_not_fused(torch.ones(4)[::2])
    'its memory has gaps or is used twice'
    """
    if parameter.device.type == "cpu" and not _is_dense(parameter):
        return "its memory has gaps or is used twice"
    return ""


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor fills a piece of memory, each place once, in whatever order of its dimensions."""
    if tensor.numel() == 0:
        return True
    sizes = zip(tensor.stride(), tensor.shape, strict=True)
    expected = 1
    for stride, size in sorted(pair for pair in sizes if pair[1] > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def in_same_order(part: Part, names: tuple[str, ...]) -> Part:
    """A part whose gradients and state lie in memory as the parameters do; what does not is copied.

    Without it torch's fused kernels on the CPU would add the gradient of one weight to another.
    """
    if not part.group["fused"] or part.parameters[0].device.type != "cpu":
        return part
    for parameter, state in zip(part.parameters, part.states, strict=True):
        for name in names:
            if state.get(name) is not None:
                state[name] = _as(parameter, state[name])
    gradients = [_as(parameter, gradient) for parameter, gradient in zip(part.parameters, part.gradients, strict=True)]
    return part._replace(gradients=gradients)


def _as(parameter: Tensor, tensor: Tensor) -> Tensor:
    if (parameter.is_contiguous() and tensor.is_contiguous()) or tensor.stride() == parameter.stride():
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
