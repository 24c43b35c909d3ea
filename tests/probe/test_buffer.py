"""The buffer of rows: what it keeps, how much it takes, and when it is written."""

import math

import numpy as np
import pytest
import torch

from swd_dynamics.probe import Probe, buffer
from swd_dynamics.recording import open_recording


@pytest.mark.slow
def test_rows_are_written_when_the_buffer_is_full_or_old(network, tmp_path, monkeypatch):
    """Assert that rows are written when the buffer is full, and when a row has waited long."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, tmp_path, quantities="minimal") as probe:
        net.train(optimizer, 3)
        assert open_recording(tmp_path).sizes["step"] == 0
        monkeypatch.setattr(buffer, "SECONDS", 0.0)
        net.train(optimizer, 1)
        assert open_recording(tmp_path).sizes["step"] == 3
        monkeypatch.setattr(buffer, "SECONDS", 1e9)
        net.train(optimizer, probe._buffer.rows + 1)
        assert open_recording(tmp_path).sizes["step"] == 3 + probe._buffer.rows
        assert probe.dataset().sizes["step"] == 5 + probe._buffer.rows
    steps = np.arange(1, 6 + probe._buffer.rows)
    np.testing.assert_array_equal(open_recording(tmp_path).step, steps)


def test_tensors_stay_where_they_are_until_the_buffer_is_taken():
    """Assert that tensors and numbers come back in their places, as they were when they were put."""
    rows = buffer.Buffer({"norm": 2, "loss": 1}, torch.device("cpu"))
    norm = torch.tensor(2.0)
    rows.put(4, {"norm": [norm, 3.0], "loss": [math.nan]})
    rows.amend("loss", torch.tensor([0.5]))
    norm.add_(1)
    rows.put(5, {"norm": [None, norm]})
    steps, columns = rows.take()
    np.testing.assert_array_equal(steps, [4, 5])
    np.testing.assert_array_equal(columns["norm"], [[2, 3], [math.nan, 3]])
    np.testing.assert_array_equal(columns["loss"], [[0.5], [math.nan]])
    assert rows.filled == 0
    rows.put(6, {"norm": [1.0, 1.0]})  # a row that held tensors before
    np.testing.assert_array_equal(rows.take()[1]["norm"], [[1, 1]])


def test_a_buffer_of_long_rows_is_short():
    """Assert that the rows in a buffer take a bounded memory, except for a single row."""
    for row_bytes in (80, 8 * 10**5, 8 * 10**6, 8 * 10**8):
        held = buffer.Buffer({}, torch.device("cpu"), row_bytes)
        assert held.rows == 1 or held.rows * row_bytes <= buffer.MOST_BYTES
