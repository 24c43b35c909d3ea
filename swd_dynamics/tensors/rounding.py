"""What rounding to the type of the weights does to weight decay, and what to do about it."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from swd_dynamics.errors import InputError

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
LOST_DECAY = (
    "the weight decay is lost to rounding: R = {decay_rate:.2g} is less than {least:.2g}, so that (1 − R)·θ, rounded to"
    " {dtype}, is θ for every weight. "
)
KEEP_IN_HALF = "Keep the weights in float32 and compute in {dtype} (torch.autocast)"
LARGER_STEPS = ", or take a larger η: the steps must survive rounding, too"
LARGER_RATE = ", or take a larger λ, so that R exceeds {most:.2g}"
JOINED = ", or take a larger λ, so that λθ changes the gradient that it joins"
FUSED = (
    ", or take fused=True, which rounds the decay together with the step: that helps only where steps are larger than"
    " the spacing of the weights' numbers"
)
LOST_IN_SINGLE = "With so small an ηλ a run decays only in float64: take a larger λ, or none"
STEPS_IN_SINGLE = "Keep the weights in float64"


def dtype_of(given: Any) -> torch.dtype:
    """The torch type with that name; a torch type unchanged.

    Raises
    ------
    InputError
        If it is none of DTYPES.

    Examples
    --------
    >>> dtype_of("bfloat16"), dtype_of(torch.float16)
    (torch.bfloat16, torch.float16)
    """
    for name, dtype in DTYPES.items():
        if given in (name, dtype):
            return dtype
    raise InputError(f"dtype = {given!r} is not allowed: give {', '.join(DTYPES)}, or torch's type of that name")


def name_of(dtype: torch.dtype) -> str:
    """The name of a torch type.

    Examples
    --------
    >>> name_of(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def format_of(dtype: torch.dtype) -> tuple[int, int]:
    """The binary digits of a type, and the exponent of its smallest normal number as frexp counts.

    Examples
    --------
    >>> format_of(torch.bfloat16), format_of(torch.float16)
    ((8, -125), (11, -13))
    """
    numbers = torch.finfo(dtype)
    return 2 - math.frexp(numbers.eps)[1], math.frexp(numbers.tiny)[1]


def least_decay_rate(dtype: torch.dtype) -> float:
    """The R below which (1 − R)·θ, rounded to a type, is θ for every weight: half a unit in the last place.

    That unit is taken just below a power of 2, where it is smallest relative to the number.

    Examples
    --------
    >>> least_decay_rate(torch.bfloat16) == 2**-9, least_decay_rate(torch.float16) == 2**-12
    (True, True)
    """
    return torch.finfo(dtype).eps / 4


def can_fuse(group: Mapping[str, Any]) -> bool:
    """Whether ``fused=True`` would round decay and step together: it is not set, and the fused kernel has the decay.

    Among torch's fused kernels only that of Adam has decoupled decay; that of SGD has L2.

    Examples
    --------
    >>> weight = [torch.nn.Parameter(torch.ones(1))]
    >>> optimizers = torch.optim.AdamW(weight), torch.optim.AdamW(weight, fused=True), torch.optim.Adam(weight)
    >>> [can_fuse(optimizer.param_groups[0]) for optimizer in optimizers]
    [True, False, False]
    """
    is_apart = group.get("decoupled_weight_decay", True)
    return "fused" in group and not group["fused"] and "betas" in group and is_apart


def lost_decay(decay_rate: float, dtype: torch.dtype, *, fusable: bool = False) -> str:
    """That a decay is lost which is rounded apart from the step, and what to do; nothing where R is large enough.

    Examples
    --------
    >>> lost_decay(1e-4, torch.bfloat16).split(",")[0]
    'the weight decay is lost to rounding: R = 0.0001 is less than 0.002'
    >>> lost_decay(0.01, torch.bfloat16)
    ''
    """
    least = least_decay_rate(dtype)
    if not 0 < decay_rate < least:
        return ""
    lost = LOST_DECAY.format(decay_rate=decay_rate, least=least, dtype=name_of(dtype))
    return lost + what_to_do(dtype, fusable=fusable)


def what_to_do(
    dtype: torch.dtype, *, steps_lost: bool = False, joins_gradient: bool = False, fusable: bool = False
) -> str:
    """What keeps a weight decay that rounding to a type takes away, in a sentence without its full stop.

    Parameters
    ----------
    dtype : torch.dtype
    steps_lost : bool
        Whether the steps are lost as well; then neither a larger λ nor a fused kernel is enough.
    joins_gradient : bool
        Whether the decay is L2, which is not rounded apart from the step.
    fusable : bool
        What :func:`can_fuse` says of the optimizer.

    Examples
    --------
    >>> what_to_do(torch.bfloat16)
    'Keep the weights in float32 and compute in bfloat16 (torch.autocast), or take a larger λ, so that R exceeds 0.0039'
    """
    is_single = dtype.itemsize > 2
    if is_single and not steps_lost:
        return LOST_IN_SINGLE
    advice = STEPS_IN_SINGLE if is_single else KEEP_IN_HALF
    if steps_lost:
        advice += LARGER_STEPS
    else:
        advice += JOINED if joins_gradient else LARGER_RATE + FUSED * fusable
    return advice.format(dtype=name_of(dtype), most=2 * least_decay_rate(dtype))
