"""The input of a step: the parameters that take it, and the gradient scaler's scale and its refusal."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


def readable(value: Any) -> Any:
    """A number if the tensor is on the CPU and the step is not compiled; else the tensor itself.

    Examples
    --------
    >>> readable(torch.tensor(0.5))
    0.5
    """
    if isinstance(value, Tensor) and value.device.type == "cpu" and not torch.compiler.is_compiling():
        return value.item()
    return value


class Part(NamedTuple):
    """The parameters of one group and one device that have a gradient and take the step; all real and dense.

    group : dict — the parameter group
    parameters, gradients : list of Tensor — may be DTensors
    states : list of dict — the optimizer's state of each
    """

    group: dict[str, Any]
    parameters: list[Tensor]
    gradients: list[Tensor]
    states: list[dict[str, Any]]

    @property
    def on_host(self) -> bool:
        """Whether numbers may be read: on the CPU nothing waits for them. A compiled step must stay in tensors."""
        return self.parameters[0].device.type == "cpu" and not torch.compiler.is_compiling()

    @property
    def in_half_precision(self) -> bool:
        """Whether any parameter is in half precision."""
        return any(parameter.element_size() < 4 for parameter in self.parameters)

    def state(self, name: str) -> list[Any]:
        """One piece of state of each parameter."""
        return [state[name] for state in self.states]

    def subset(self, where: list[int]) -> "Part":
        """Some of the parameters."""
        gradients = [self.gradients[i] for i in where] if self.gradients else []
        return Part(self.group, [self.parameters[i] for i in where], gradients, [self.states[i] for i in where])


class Scaling(NamedTuple):
    """The scale of the gradients, and whether one of them is not finite: ``torch.amp.GradScaler`` tells a fused step.

    scale : Tensor, shape (), or None — the gradients are this many times too large
    found_inf : Tensor, shape () or (1,), or None — not 0 if the step must not be taken
    """

    scale: Tensor | None = None
    found_inf: Tensor | None = None

    @classmethod
    def of(cls, optimizer: Any) -> "Scaling":
        """The scaler's numbers, which it puts into the optimizer's attributes while a step runs."""
        return cls(getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None))

    @property
    def on_host(self) -> bool:
        """Whether ``found_inf`` can be read without waiting for a device."""
        return self.found_inf is not None and self.found_inf.device.type == "cpu"

    def unscaled(self, value: Tensor, power: int) -> Tensor:
        """A gradient (power 1), or a sum of its squares (power 2), as it would be without the scaler."""
        return value if self.scale is None else value / self.scale.to(value.device, value.dtype) ** power

    def unless_refused(self, value: Any, otherwise: Any) -> Any:
        """``value``, a number or a tensor, if the step is taken; else ``otherwise``."""
        if self.found_inf is None:
            return value
        zero = torch.zeros((), dtype=torch.float64, device=self.found_inf.device)
        return torch.where(self.found_inf.reshape(()) > 0, zero + otherwise, zero + value)
