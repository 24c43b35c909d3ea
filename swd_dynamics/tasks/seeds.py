"""Random numbers that are a function of the seed and the step, the same on every device."""

import numpy as np
import torch

from swd_dynamics.checks import whole_number


def generator(seed: int, *step: int) -> torch.Generator:
    """A random generator on the CPU that depends on (seed, step) and on nothing else; without a step, on the seed.

    Seed and step go through numpy's SeedSequence, because torch's CPU generator looks at the low 32 bits of its seed
    only, and neighbouring seeds should not share batches.

    Raises
    ------
    InputError
        If the seed or a step is not a whole number ≥ 0.

    Examples
    --------
    >>> torch.equal(torch.rand(3, generator=generator(0, 7)), torch.rand(3, generator=generator(0, 7)))
    True
    """
    entropy = whole_number("seed", seed)
    spawn_key = tuple(whole_number("step", number) for number in step)
    (state,) = np.random.SeedSequence(entropy, spawn_key=spawn_key).generate_state(1)
    return torch.Generator().manual_seed(int(state))
