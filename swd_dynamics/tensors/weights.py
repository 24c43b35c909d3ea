"""The order of the weights: which belongs to which parameter tensor and to which parameter group."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.tensors.sharding import is_sharded


@dataclass(frozen=True)
class Layout:
    """All weights as one vector: the parameters of group 0 in their order, then those of group 1, and so on.

    parameters : tuple of Tensor — the optimizer's own tensors, not copies
    groups : tuple of int — the group of each parameter
    names : tuple of str — from the model, or ``parameter_0``, …

    Examples
    --------
    >>> pair = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.zeros(1))]
    >>> layout_of(torch.optim.SGD(pair, lr=0.5)).flat(pair)
    array([1., 1., 0.], dtype=float32)
    """

    parameters: tuple[Tensor, ...]
    groups: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def is_sharded(self) -> bool:
        """Whether the weights of some parameters may lie on several processes."""
        return any(map(is_sharded, self.parameters))

    @property
    def sizes(self) -> list[int]:
        """The number of weights of each parameter."""
        return [parameter.numel() for parameter in self.parameters]

    @property
    def weights(self) -> int:
        """The number of weights of all parameters together, n."""
        return sum(self.sizes)

    def flat(self, tensors: Sequence[Tensor]) -> np.ndarray:
        """One tensor for each parameter, as one vector of shape (n,): a copy, exact.

        Half precision is widened to float32, which loses nothing.
        """
        return torch.cat([_readable(tensor).reshape(-1) for tensor in tensors]).numpy()

    def coordinates(self) -> dict:
        """Whose each weight and each parameter is, as coordinates of a Dataset."""
        of_weight = np.repeat(np.arange(len(self.sizes)), self.sizes)
        groups = np.asarray(self.groups)
        return {
            "weight": np.arange(self.weights),
            "weight_parameter": ("weight", of_weight),
            "weight_group": ("weight", groups[of_weight]),
            **self.parameter_coordinates(),
        }

    def parameter_coordinates(self) -> dict:
        """The part of the coordinates that does not grow with the number of weights."""
        return {
            "parameter": np.arange(len(self.groups)),
            "parameter_group": ("parameter", np.asarray(self.groups)),
            "group": np.arange(max(self.groups) + 1),
        }

    def attributes(self) -> dict[str, str]:
        """Names and shapes of the parameters, as JSON lists."""
        shapes = [list(parameter.shape) for parameter in self.parameters]
        return {"parameter_names": json.dumps(self.names), "parameter_shapes": json.dumps(shapes)}

    def check_unchanged(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse to go on when the optimizer has got or lost parameters since the probe was attached."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        same = len(parameters) == len(self.parameters)
        if not same or any(new is not old for new, old in zip(parameters, self.parameters, strict=True)):
            raise InputError("the optimizer's parameters have changed since the probe was attached: attach a new probe")


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer whose ``step`` is torch's, and calls the hooks: Accelerate, Fabric and Lightning wrap it.

    Raises
    ------
    InputError
        If there is none.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"a probe attaches to a torch.optim.Optimizer, not to {type(optimizer).__name__}")
    return optimizer


def layout_of(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module | None = None, *, sharded: bool = False
) -> Layout:
    """The layout of an optimizer's weights, with the parameters' names in the model if one is given.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    model : torch.nn.Module, optional
    sharded : bool
        Whether parameters may be sharded over processes as torch's ``fully_shard`` does it.

    Raises
    ------
    InputError
        If a parameter is complex, sharded over processes, or not yet initialised, or the model has none of them.
    """
    parameters = tuple(parameter for group in optimizer.param_groups for parameter in group["params"])
    groups = tuple(i for i, group in enumerate(optimizer.param_groups) for _ in group["params"])
    for i, parameter in enumerate(parameters):
        _check_recordable(f"parameter {i}", parameter, sharded)
    return Layout(parameters, groups, _names(parameters, model))


def _check_recordable(name: str, parameter: Tensor, sharded: bool) -> None:
    kinds = {
        "complex": parameter.is_complex(),
        "sharded over processes": is_sharded(parameter) and not sharded,
        "flattened by FullyShardedDataParallel (use fully_shard)": _is_flattened(parameter),
        "not initialised yet": isinstance(parameter, torch.nn.parameter.UninitializedParameter),
    }
    for kind, applies in kinds.items():
        if applies:
            raise InputError(f"{name} is {kind}: a probe records real tensors that are here as a whole")


def _is_flattened(parameter: Tensor) -> bool:
    """Whether torch's older class keeps the parameter: a plain tensor, of which it does not say what part it is."""
    return hasattr(parameter, "_fsdp_flattened") or hasattr(parameter, "_is_flat_param")


def _names(parameters: Sequence[Tensor], model: torch.nn.Module | None) -> tuple[str, ...]:
    known = {} if model is None else {id(parameter): name for name, parameter in model.named_parameters()}
    if model is not None and not any(id(parameter) in known for parameter in parameters):
        raise InputError(
            f"the model {type(model).__name__} has none of the optimizer's parameters: give the one it trains"
        )
    names = tuple(known.get(id(parameter), f"parameter_{i}") for i, parameter in enumerate(parameters))
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"two parameters are called {', '.join(sorted(twice))}: name those of the model otherwise")
    return names


def _readable(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return tensor.double()
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
