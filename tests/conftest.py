"""For all tests: one thread for torch, whose tasks here are so small that a second one waits more than it works."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)
