"""What a step works on: the parameters that take it, and what a gradient scaler says of their gradients."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """The parameters of one group, on one device, that take the step: with gradient, all of them real and dense.

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
        """Whether numbers may be read: on the CPU that holds nobody up. A compiled step must stay in tensors."""
        return self.parameters[0].device.type == "cpu" and not torch.compiler.is_compiling()

    def state(self, name: str) -> list[Any]:
        """One piece of state of each parameter."""
        return [state[name] for state in self.states]

    def subset(self, where: list[int]) -> "Part":
        """Some of the parameters."""
        parameters, gradients = ([tensors[i] for i in where] for tensors in (self.parameters, self.gradients))
        return Part(self.group, parameters, gradients, [self.states[i] for i in where])


class Scaling(NamedTuple):
    """What ``torch.amp.GradScaler`` leaves to a fused step: scaled gradients, and whether one of them is not finite.

    scale : Tensor, shape (), or None — the gradients are this many times too large
    found_inf : Tensor, shape () or (1,), or None — not 0 if the step must not be taken
    """

    scale: Tensor | None = None
    found_inf: Tensor | None = None

    @classmethod
    def of(cls, optimizer: Any) -> "Scaling":
        """What the scaler put into the optimizer's attributes, as it does for the length of a step."""
        return cls(getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None))

    @property
    def on_host(self) -> bool:
        """Whether asking ``found_inf`` holds nobody up."""
        return self.found_inf is not None and self.found_inf.device.type == "cpu"

    def unscaled(self, value: Tensor, power: int) -> Tensor:
        """A gradient (power 1), or a sum of its squares (power 2), as it would be without the scaler."""
        return value if self.scale is None else value / self.scale.to(value.device, value.dtype) ** power

    def unless_refused(self, value: Any, otherwise: Any) -> Any:
        """``value``, a number or a tensor, in a step that is taken; ``otherwise`` in one that is not."""
        if self.found_inf is None:
            return value
        zero = torch.zeros((), dtype=torch.float64, device=self.found_inf.device)
        return torch.where(self.found_inf.reshape(()) > 0, zero + otherwise, zero + value)
