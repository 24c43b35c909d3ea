"""The order of all weights: which parameter tensor and which parameter group each belongs to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swd_dynamics.checks import shown
from swd_dynamics.errors import InputError
from swd_dynamics.tensors.sharding import is_sharded

# Classes that wrap an optimizer and call its step with nothing before or after it that moves a
# weight. An entry that does move weights would hide these moves from a recording.
WRAPPERS = frozenset(
    [
        "accelerate.optimizer.AcceleratedOptimizer",
        "lightning.pytorch.core.optimizer.LightningOptimizer",
        "lightning.fabric.wrappers._FabricOptimizer",
        "pytorch_lightning.core.optimizer.LightningOptimizer",
        "lightning_fabric.wrappers._FabricOptimizer",
    ]
)


@dataclass(frozen=True)
class Layout:
    """All weights as one vector: the parameters of group 0 in their order, then group 1, and so on.

    parameters : tuple of Tensor — the optimizer's own tensors, not copies
    groups : tuple of int — the group of each parameter
    names : tuple of str — from the model, or ``parameter_0``, …
    group_count : int — the number of groups; by default no group after the last parameter's
    shapes : tuple of Size — the shape of each parameter when the layout was made

    Examples
    --------
    >>> pair = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.zeros(1))]
    >>> layout_of(torch.optim.SGD(pair, lr=0.5)).flat(pair)
    array([1., 1., 0.], dtype=float32)
    """

    parameters: tuple[Tensor, ...]
    groups: tuple[int, ...]
    names: tuple[str, ...]
    group_count: int = 0
    shapes: tuple[torch.Size, ...] = field(init=False)

    def __post_init__(self):
        count = max([self.group_count, *(group + 1 for group in self.groups)])
        object.__setattr__(self, "group_count", count)
        object.__setattr__(self, "shapes", tuple(each.shape for each in self.parameters))

    @property
    def is_sharded(self) -> bool:
        """Whether the weights of some parameters may be on several processes."""
        return any(map(is_sharded, self.parameters))

    @property
    def sizes(self) -> list[int]:
        """The number of weights of each parameter."""
        return [math.prod(shape) for shape in self.shapes]

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
        """Coordinates of a Dataset: the parameter and the group of each weight and parameter."""
        of_weight = np.repeat(np.arange(len(self.sizes)), self.sizes)
        groups = np.asarray(self.groups)
        return {
            "weight": np.arange(self.weights),
            "weight_parameter": ("weight", of_weight),
            "weight_group": ("weight", groups[of_weight]),
            **self.parameter_coordinates(),
        }

    def parameter_coordinates(self) -> dict:
        """The coordinates whose size does not grow with the number of weights."""
        return {
            "parameter": np.arange(len(self.groups)),
            "parameter_group": ("parameter", np.asarray(self.groups)),
            "group": np.arange(self.group_count),
        }

    def check_unchanged(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse an optimizer whose parameters or groups have changed since the layout was made."""
        groups = optimizer.param_groups
        parameters = [p for group in groups for p in group["params"]]
        is_same = [*map(id, parameters)] == [*map(id, self.parameters)]
        if not is_same or len(groups) != self.group_count:
            what = "parameters" if not is_same else "parameter groups"
        elif any(p.shape != shape for p, shape in zip(parameters, self.shapes, strict=True)):
            what = "parameters' shapes"
        else:
            return
        seen = f"the optimizer's {what} have changed since the probe was attached"
        raise InputError(f"{seen}: attach a new probe with a folder of its own")


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer whose steps are recorded: the one given, or the one in a known wrapper.

    The wrappers of ``WRAPPERS`` only pass a step on. Any other optimizer that holds an optimizer,
    such as Lookahead, takes steps of its own, which are recorded.

    Raises
    ------
    InputError
        If there is no such optimizer.
    """
    while _is_wrapper(optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        name = shown(optimizer) if isinstance(optimizer, str | type) else type(optimizer).__name__
        inner = isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer)
        advice = (
            f": give the optimizer inside the {name}"
            if inner
            else ": give one, as torch.optim.AdamW(model.parameters())"
        )
        raise InputError(f"a probe attaches to a torch.optim.Optimizer, not to {name}{advice}")
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        seen = f"{type(optimizer).__name__} has no hooks, because it does not call Optimizer.__init__"
        raise InputError(f"{seen}: give the optimizer inside it, or let it call Optimizer.__init__")
    return optimizer


def _is_wrapper(optimizer: Any) -> bool:
    # Lightning and Fabric make a class of their own for each wrapped optimizer.
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(optimizer).__mro__}
    return not kinds.isdisjoint(WRAPPERS) and hasattr(optimizer, "optimizer")


def layout_of(
    optimizer: torch.optim.Optimizer,
    model: torch.nn.Module | None = None,
    *,
    sharded: bool = False,
) -> Layout:
    """The layout of an optimizer's weights, with the parameters' names if a model is given.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    model : torch.nn.Module, optional
    sharded : bool
        Whether parameters may be sharded over processes by torch's ``fully_shard``.

    Raises
    ------
    InputError
        If a parameter is complex, sharded over processes, or not initialised yet, or the model has
        none of the parameters.
    """
    parameters = tuple(p for group in optimizer.param_groups for p in group["params"])
    groups = tuple(i for i, group in enumerate(optimizer.param_groups) for _ in group["params"])
    for i, parameter in enumerate(parameters):
        _check_recordable(f"parameter {i}", parameter, sharded)
    return Layout(parameters, groups, _names(parameters, model), len(optimizer.param_groups))


def _check_recordable(name: str, parameter: Tensor, sharded: bool) -> None:
    kinds = {
        "complex": parameter.is_complex(),
        "sharded over processes": is_sharded(parameter) and not sharded,
        "flattened by FullyShardedDataParallel (use fully_shard)": _is_flattened(parameter),
        "not initialised yet": isinstance(parameter, torch.nn.parameter.UninitializedParameter),
    }
    for kind, applies in kinds.items():
        if applies:
            raise InputError(f"{name} is {kind}: a probe records real tensors that are not split")


def _is_flattened(parameter: Tensor) -> bool:
    """Whether the older FullyShardedDataParallel keeps the parameter.

    It is then a plain tensor, and torch does not say which part of the parameter the tensor is.
    """
    return hasattr(parameter, "_fsdp_flattened") or hasattr(parameter, "_is_flat_param")


def _names(parameters: Sequence[Tensor], model: torch.nn.Module | None) -> tuple[str, ...]:
    named = [] if model is None else model.named_parameters()
    known = {id(parameter): name for name, parameter in named}
    if model is not None and not any(id(parameter) in known for parameter in parameters):
        raise InputError(
            f"the model {type(model).__name__} has none of the optimizer's parameters: give the"
            " model that the optimizer trains"
        )
    names = tuple(known.get(id(p), f"parameter_{i}") for i, p in enumerate(parameters))
    twice = ", ".join(sorted({name for name in names if names.count(name) > 1}))
    if twice:
        raise InputError(f"two parameters are called {twice}: rename those of the model")
    return names


def _readable(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return tensor.double()
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
