"""Random numbers that are a function of the seed and the step, the same on every device."""

from operator import index

import numpy as np
import torch

from swd_dynamics.errors import InputError


def generator(seed: int, *step: int) -> torch.Generator:
    """A random generator on the CPU that depends on (seed, step) and on nothing else; without a step, on the seed.

    Seed and step go through numpy's SeedSequence, because torch's CPU generator looks at the low 32 bits of its seed
    only, and neighbouring seeds should not share batches.

    Raises
    ------
    InputError
        If one of them is not a whole number ≥ 0.

    Examples
    --------
    >>> torch.equal(torch.rand(3, generator=generator(0, 7)), torch.rand(3, generator=generator(0, 7)))
    True
    """
    whole("seed", seed, 0)
    for number in step:
        whole("step", number, 0)
    (state,) = np.random.SeedSequence(index(seed), spawn_key=step).generate_state(1)
    return torch.Generator().manual_seed(int(state))


def whole(name: str, value, low: int, high: int | None = None) -> None:
    """Refuse what is not a whole number from ``low`` to ``high``.

    Raises
    ------
    InputError
        With name, value and range.

    Examples
    --------
    >>> whole("samples", 0, 1, 1797)
    Traceback (most recent call last):
    swd_dynamics.errors.InputError: samples = 0 is not allowed: it must be a whole number from 1 to 1797
    """
    allowed = f"a whole number ≥ {low}" if high is None else f"a whole number from {low} to {high}"
    try:
        number = index(value)
    except TypeError:
        raise InputError(f"{name} = {value!r} is not allowed: it must be {allowed}") from None
    if number < low or (high is not None and number > high):
        raise InputError(f"{name} = {number} is not allowed: it must be {allowed}")
