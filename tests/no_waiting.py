"""Work on a CUDA device that must not wait for the device."""

import warnings
from contextlib import contextmanager

import torch


@contextmanager
def never_waits(device="cuda"):
    """An operation that waits for the device raises an error here; does nothing for other devices."""
    if torch.device(device).type != "cuda":
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that this mode does not see every operation that waits
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
