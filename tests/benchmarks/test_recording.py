"""What recording in memory costs: the same training loop bare, with scalars, and with every weight."""

import pytest
import torch

from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.probe import Probe
from swd_dynamics.tasks import tanh_network


@pytest.mark.parametrize("recording", ["bare", "scalars", "trajectory"])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "AdamS"])
def test_a_hundred_steps(benchmark, name, recording):
    """Assert that a hundred steps on the digits are recorded, and time them."""
    torch.set_num_threads(1)
    task = tanh_network((32,), batch_size=50)

    def train():
        fresh = task.fresh()
        optimizer = OPTIMIZERS[name](fresh.model.parameters(), lr=0.01, weight_decay=0.1)
        probe = None if recording == "bare" else Probe(optimizer, trajectory=recording == "trajectory").attach()
        for k in range(100):
            optimizer.zero_grad()
            fresh.loss(k).backward()
            optimizer.step()
        return probe.steps if probe else 100

    assert benchmark(train) == 100
