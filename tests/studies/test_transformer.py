"""The study of the decay rate along a transformer's training: its witness is right, and its tests can fail."""

import numpy as np
import pytest
import torch

from swd_dynamics.studies import transformer

# A step in float64 is right to 1e-16 of a weight; R, of 1e-3 of it, loses three digits, and some rounding is left over.
SEEN = 1e-11
# Adam's recursion in two orders of evaluation, in float64, over ten steps.
ROUND_OFF = 1e-14


@pytest.fixture
def watched():
    """Ten steps of torch's AdamW in float64 on two tensors with gradients of our own, and their witness."""
    random = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (5,))
    weights = [torch.nn.Parameter(torch.randn(s, generator=random, dtype=torch.float64)) for s in shapes]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, betas=transformer.BETAS, weight_decay=0.1)
    witness, moments = transformer.Witness(optimizer, every=5), []
    for k in range(1, 11):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=random, dtype=torch.float64)
        optimizer.step()
        v = torch.cat([optimizer.state[weight]["exp_avg_sq"].flatten() for weight in weights])
        moments.append(v.mean().item() / (1 - transformer.BETAS[1] ** k))
    return witness, np.array(moments)


def test_the_witness_sees_the_decay_of_adamw(watched):
    """Assert that R seen in float64 weights is ηλ, of each tensor at each n-th step."""
    seen = np.array(watched[0].seen)
    assert seen.shape == (2, 2, 2)
    np.testing.assert_allclose(seen[:, :, 0], 1e-2 * 0.1, rtol=SEEN)


def test_the_witness_has_adams_second_moment(watched):
    """Assert that v̄ from the squares of the gradients is the mean of what torch's Adam keeps."""
    witness, moments = watched
    ours = transformer.second_moment(np.array(witness.squares) / 17)
    np.testing.assert_allclose(ours, moments, rtol=ROUND_OFF)
