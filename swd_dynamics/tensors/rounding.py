"""What rounding to the type of the weights does to weight decay, and what to do about it."""

import math
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
LOST_IN_HALF = (
    "Keep the weights in float32 and compute in {dtype} (torch.autocast), or take fused=True, which rounds the decay"
    " together with the step and keeps it where steps are larger than the spacing of the weights' numbers, or a larger"
    " λ, so that R exceeds {most:.2g}"
)
LOST_IN_SINGLE = "With so small an ηλ a run decays only in float64: take a larger λ, or none"


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


def lost_decay(decay_rate: float, dtype: torch.dtype) -> str:
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
    return LOST_DECAY.format(decay_rate=decay_rate, least=least, dtype=name_of(dtype)) + what_to_do(dtype)


def what_to_do(dtype: torch.dtype) -> str:
    """What keeps a weight decay that rounding to a type takes away, in a sentence without its full stop."""
    advice = LOST_IN_SINGLE if dtype.itemsize > 2 else LOST_IN_HALF
    return advice.format(dtype=name_of(dtype), most=2 * least_decay_rate(dtype))
