"""For all tests: one thread for torch, whose tasks here are so small that a second one waits more than it works."""

import pytest
import torch
from small_network import Network


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def network():
    """Makes the same network every time it is called."""
    return Network
