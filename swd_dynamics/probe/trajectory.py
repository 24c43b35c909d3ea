"""A trajectory: every weight, gradient, R and optimizer state of every step, for small models."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.recording.format import MAX_ROW_VALUES, STATE
from swd_dynamics.tensors.sums import Entry
from swd_dynamics.tensors.weights import Layout

# Steps × weights of a trajectory in memory. Its five variables of float64 then take 2 GB; twice as
# many values take 4 GB.
MAX_TRAJECTORY_VALUES = 50_000_000

NAMES = {
    "theta": "weights θ after the step",
    "gradient": "gradient g of the loss at θ before the step, without decay; 0 where there is none",
    "decay_rate_weight": "decay rate R of each weight",
}
# Variables with one value for each parameter.
OF_PARAMETER = {
    "had_gradient": ("bool", "whether the step used a gradient of the parameter"),
    "state_step": ("float64", "the optimizer's own count of its steps on the parameter"),
}
CHANGED = (
    "changed_outside",
    "number of weights that something else than a step changed before this one",
)
# Number of vectors in a row, three of which are Adam's state with AMSGrad. It decides how many rows
# a buffer holds; if an optimizer has twice as many, the buffer takes twice its memory.
MOST_VECTORS = 6


def vector_dtype(layout: Layout) -> torch.dtype:
    """The dtype of recorded vectors. Half precision is widened, which loses nothing."""
    small = (torch.float32, torch.float16, torch.bfloat16)
    is_small = all(parameter.dtype in small for parameter in layout.parameters)
    return torch.float32 if is_small else torch.float64


def variables(layout: Layout) -> dict[str, tuple[tuple[str, ...], str, str]]:
    """The variables of a trajectory except the optimizer's state, as a recording declares them."""
    dtype = str(vector_dtype(layout)).removeprefix("torch.")
    declared: dict[str, tuple[tuple[str, ...], str, str]] = {
        name: (("step", "weight"), dtype, meaning) for name, meaning in NAMES.items()
    }
    for name, (kind, meaning) in OF_PARAMETER.items():
        declared[name] = (("step", "parameter"), kind, meaning)
    return {**declared, CHANGED[0]: (("step",), "float64", CHANGED[1])}


def state_variable(name: str, layout: Layout) -> tuple[tuple[str, ...], str, str]:
    """A piece of the optimizer's state, ``state_<key>``, as a recording declares it."""
    dtype = str(vector_dtype(layout)).removeprefix("torch.")
    meaning = f"the optimizer's state {name.removeprefix(STATE)!r} after the step"
    return ("step", "weight"), dtype, meaning


def check_room(layout: Layout, steps: int, most: int, on_disk: bool) -> None:
    """Refuse a trajectory of so many steps if it is too large for memory or a run folder."""
    weights = layout.weights
    norms_only = "trajectory=False records norms and rates only"
    if on_disk and weights > MAX_ROW_VALUES:
        limit = f"a row of a run folder has at most {MAX_ROW_VALUES} values; {norms_only}"
        raise InputError(f"a trajectory of {weights} weights is not allowed: {limit}")
    if not on_disk and steps * weights > most:
        raise InputError(
            f"a trajectory of {steps} steps × {weights} weights = {steps * weights} values"
            f" exceeds max_trajectory_values = {most}: {norms_only}"
        )


def flat(tensors: Sequence[Tensor | None], layout: Layout) -> Tensor:
    """One tensor for each parameter as one vector on their device: a copy, 0 in place of None."""
    dtype, pieces = vector_dtype(layout), []
    for tensor, parameter in zip(tensors, layout.parameters, strict=True):
        piece = torch.zeros_like(parameter) if tensor is None else tensor
        pieces.append(piece.detach().reshape(-1).to(dtype))
    return torch.cat(pieces)


def used_gradient(gradient: Tensor, scale: Tensor | None, found_inf: Tensor | None) -> Tensor:
    """The gradient that a step uses: without a scaler's factor, and 0 if the step is skipped."""
    gradient = gradient if scale is None else gradient / scale
    return gradient if found_inf is None else torch.where(found_inf != 0, 0.0, gradient)


def flat_rates(rates: Sequence[Entry], layout: Layout) -> Tensor:
    """R of each weight, from R of each parameter, which is a number or a tensor of its shape."""
    pairs = zip(rates, layout.parameters, strict=True)
    return flat([_filled(parameter, rate) for rate, parameter in pairs], layout)


def _filled(parameter: Tensor, rate: Entry) -> Tensor:
    full = torch.empty(parameter.shape, dtype=torch.float64, device=parameter.device)
    if isinstance(rate, Tensor):
        return full.copy_(rate.expand(parameter.shape))
    return full.fill_(math.nan if rate is None else rate)


def changed_outside(before: Tensor, last: Tensor) -> Entry:
    """The number of weights that differ from the weights after the last step."""
    differ = (before != last) & ~(before.isnan() & last.isnan())
    found = torch.count_nonzero(differ)
    return float(found) if found.device.type == "cpu" else found.double()


def states(optimizer: torch.optim.Optimizer, layout: Layout) -> tuple[dict[str, Tensor], set[str]]:
    """The optimizer's state as vectors ``state_<key>``, and the keys that are left out.

    A piece of the state has a vector if it has one real entry for each weight, in every parameter
    that has it, and if its key can name a variable. For parameters that do not have it, the vector
    is NaN.
    """
    of_parameters = [optimizer.state.get(parameter, {}) for parameter in layout.parameters]
    keys = {key for state in of_parameters for key, value in state.items() if value is not None}
    named = {key for key in keys - {"step"} if _is_name(key)}
    shaped = {key for key in named if _is_shaped(key, of_parameters, layout)}
    found = {}
    for key in sorted(shaped):
        pairs = zip(of_parameters, layout.parameters, strict=True)
        pieces = [_dense_or_nan(state.get(key), parameter) for state, parameter in pairs]
        found[f"{STATE}{key}"] = flat(pieces, layout)
    return found, {str(key) for key in keys - shaped - {"step"}}


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isascii() and f"{STATE}{key}".isidentifier()


def _is_shaped(key: str, of_parameters: Sequence[Mapping[str, Any]], layout: Layout) -> bool:
    for state, parameter in zip(of_parameters, layout.parameters, strict=True):
        value = state.get(key)
        if value is not None and not (_is_real(value) and value.shape == parameter.shape):
            return False
    return True


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_complex()


def _dense_or_nan(value: Tensor | None, parameter: Tensor) -> Tensor:
    if value is None:
        return torch.full(parameter.shape, torch.nan, device=parameter.device)
    return value.to_dense() if value.is_sparse else value
