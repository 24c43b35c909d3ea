"""A probe tells that a decay is lost to rounding."""

import warnings

import pytest
import torch

from swd_dynamics.probe import Probe

LEAST = {torch.bfloat16: 2**-9, torch.float16: 2**-12, torch.float32: 2**-25}  # R below which no weight changes


def shrunk(dtype, decay_rate, **arguments):
    """Whether any weight shrinks in a step of AdamW without gradient, and what the probe warned of."""
    weights = torch.nn.Parameter(torch.linspace(1, 2, 200).to(dtype))
    before = weights.detach().clone()
    optimizer = torch.optim.AdamW([weights], lr=1.0, eps=1e-3, weight_decay=decay_rate, **arguments)
    weights.grad = torch.zeros_like(weights)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with Probe(optimizer, quantities=("theta_norm",)):
            optimizer.step()
            optimizer.step()
    return bool((weights < before).any()), [str(each.message) for each in told]


@pytest.mark.parametrize(("dtype", "least"), LEAST.items(), ids=str)
def test_a_lost_decay_is_told_once(dtype, least):
    """Assert that the probe warns exactly where no weight of any mantissa shrinks, once, and says what to do."""
    moved, told = shrunk(dtype, 0.99 * least)
    assert not moved
    assert len(told) == 1 and "lost to rounding" in told[0]
    assert ("fused=True" in told[0]) == (dtype != torch.float32)
    moved, told = shrunk(dtype, 1.2 * least)
    assert moved and not told


def test_no_decay_and_fused_kernels_are_not_told():
    """Assert that neither λ = 0 nor a fused kernel is warned of."""
    assert shrunk(torch.bfloat16, 0.0)[1] == []
    assert shrunk(torch.bfloat16, 1e-4, fused=True)[1] == []


def test_a_schedule_that_only_begins_or_ends_small_is_not_told():
    """Assert that neither a warm-up from 0 nor a cosine to 0 is warned of, if R is large enough between them."""
    weights = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([weights], lr=1.0, weight_decay=1e-4)
    factors = [1e-12, 1e-6, 1.0, 1.0, 1e-6, 1e-12]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: factors[min(k, 5)])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with Probe(optimizer, quantities=("theta_norm",)):
            for _ in factors:
                weights.grad = torch.ones(4)
                optimizer.step()
                schedule.step()
    assert told == []
