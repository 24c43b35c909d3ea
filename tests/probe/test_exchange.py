"""The store through which processes exchange rows, and the writer that waits for them; one process
plays both.
"""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.probe import exchange, gather
from swd_dynamics.probe.exchange import Exchange, packed, unpacked
from swd_dynamics.probe.gather import Collector
from swd_dynamics.tensors import sharding

if not torch.distributed.is_available():
    pytest.skip("torch is built without distributed", allow_module_level=True)

from torch.distributed import HashStore, PrefixStore

WRITER, OTHER = 0, 1


@pytest.fixture
def store(monkeypatch):
    """The store, with the keys of all recordings."""
    shared = HashStore()
    monkeypatch.setattr(exchange, "_store", lambda prefix: PrefixStore(prefix, shared))
    return shared


@pytest.fixture
def attached(store, monkeypatch):
    """Attaches a process to a path, as if this were that process."""
    counts = {WRITER: Counter(), OTHER: Counter()}

    def attach(rank, path="run"):
        monkeypatch.setattr(exchange, "_ATTACHED", counts[rank])
        monkeypatch.setattr(exchange, "world", lambda: (rank, 2))
        return Exchange(path)

    return attach


def rows(*steps, loss=0.5, width=1):
    return np.array(steps), {"loss": np.full((len(steps), 1), loss), "theta_theta": np.ones((len(steps), width))}


@pytest.mark.parametrize("width", [1, 5000, 100_000])
@pytest.mark.slow
def test_rows_arrive_as_they_were(width):
    """Assert that rows come back bit for bit, also NaN and −0, in entries that a store accepts."""
    steps, values = np.arange(5, 45, 2), np.random.default_rng(0).normal(size=(20, width))
    values[0, 0], values[1, 0] = math.nan, -0.0
    entries = list(packed(steps, {"theta_theta": values, "loss": values[:, :1]}))
    assert all(len(entry) <= exchange.MOST_BYTES + 1000 for entry in entries)  # with a line of JSON
    blocks = [unpacked(entry) for entry in entries]
    np.testing.assert_array_equal(np.concatenate([steps for steps, _ in blocks]), steps)
    for name, expected in {"theta_theta": values, "loss": values[:, :1]}.items():
        assert np.concatenate([columns[name] for _, columns in blocks]).tobytes() == expected.tobytes()


def test_a_row_too_large_for_the_store_is_refused():
    """Assert that a row that would break the store's connection is refused."""
    with pytest.raises(InputError, match="too large to exchange"):
        list(packed(*rows(1, width=exchange.MOST_BYTES // 8)))


def test_entries_are_taken_in_order_and_leave_the_store(store, attached):
    """Assert that each entry is taken once and in order, and the end comes after the last entry."""
    other, writer = attached(OTHER), attached(WRITER)
    assert writer.take(OTHER) is None and not writer.is_here(OTHER) and writer.ended(OTHER) is None
    other.announce()
    other.post(*rows(1, 2))
    other.post(*rows(3))
    other.end("finished")
    assert writer.announced() == 1 and writer.is_here(OTHER) and writer.ended(OTHER) is None
    assert [writer.take(OTHER)[0].tolist() for _ in range(2)] == [[1, 2], [3]]
    assert writer.take(OTHER) is None and writer.ended(OTHER) == "finished"
    writer.clear(OTHER)
    assert store.num_keys() == 1  # the number of announced processes


def test_nothing_piles_up_in_the_store(store, attached):
    """Assert that a process stops recording if the writer takes no rows, or has ended its
    recording.
    """
    other = attached(OTHER)
    for step in range(exchange.MOST_UNREAD):
        other.post(*rows(step))
    with pytest.raises(InputError, match="takes no rows"):
        other.post(*rows(1000))
    assert store.num_keys() == exchange.MOST_UNREAD
    attached(WRITER).end("finished")
    with pytest.raises(InputError, match="has ended its recording"):
        other.post(*rows(1001))


def test_attachments_do_not_mix(attached):
    """Assert that entries of an earlier attachment, or of another path, are not taken."""
    attached(OTHER).post(*rows(1))
    attached(OTHER, "elsewhere").post(*rows(2))
    attached(OTHER).post(*rows(3))
    assert attached(WRITER).take(OTHER)[0].tolist() == [1]
    assert attached(WRITER).take(OTHER)[0].tolist() == [3]
    assert attached(WRITER).take(OTHER) is None


def test_a_group_without_a_store_is_refused():
    """Assert that without a process group's store a common recording is refused, with advice."""
    with pytest.raises(InputError, match="distributed=False"):
        Exchange("run")


@pytest.fixture
def collecting(attached, monkeypatch):
    """A writer that collects, and the rows that it has written; ``holders`` hold the only
    parameter.
    """

    def make(holders=(WRITER, OTHER)):
        written, notes = [], {}
        monkeypatch.setattr(sharding, "holders", frozenset)
        monkeypatch.setattr(gather, "world", lambda: (WRITER, 2))
        layout = SimpleNamespace(parameters=[holders], is_sharded=OTHER in holders)
        writer = SimpleNamespace(
            layout=layout,
            path="run",
            open=lambda *_: 0,
            write=lambda steps, columns, reasons: written.append((steps, columns)),
            note=lambda **facts: notes.update(facts),
            close=lambda status: notes.update(status=status),
        )
        attached(WRITER)
        exchange._ATTACHED.clear()
        one = Collector(writer, writer.layout, "run", lambda: frozenset({"theta_theta"}))
        one.open(False, None, None)
        return one, written, notes

    return make


@pytest.fixture
def clock(monkeypatch):
    """A clock that advances only in sleep."""
    seen = SimpleNamespace(now=0.0)
    seen.monotonic = lambda: seen.now
    seen.sleep = lambda seconds: setattr(seen, "now", seen.now + seconds)
    monkeypatch.setattr(gather, "time", seen)
    return seen


def test_rows_wait_for_the_other_shard(collecting, attached):
    """Assert that rows are added up and written in order once the other process has reported them."""
    one, written, _ = collecting()
    one.write(*rows(1, 2), set())
    other = attached(OTHER)
    other.announce()
    other.post(*rows(1))
    one.write(*rows(3), set())
    assert not written
    other.post(*rows(2, 3, 4))
    one.write(*rows(4), set())
    assert [steps.tolist() for steps, _ in written] == [[1, 2], [3], [4]]
    assert all((columns["theta_theta"] == 2).all() and not columns["unknown"].any() for _, columns in written)


def test_what_waits_is_bounded(collecting, clock):
    """Assert that the oldest rows are written as unknown if a shard's process never comes."""
    one, written, notes = collecting()
    for step in range(gather.MOST_HELD + 3):
        one.write(*rows(step), set())
    assert len(written) == 3
    one.close("finished")
    assert len(written) == gather.MOST_HELD + 3 and clock.now == 0
    assert all(columns["unknown"].all() and np.isnan(columns["theta_theta"]).all() for _, columns in written)
    assert notes["incomplete_because"] == ["process 1: no probe was attached with this path"]


@pytest.mark.parametrize(("status", "seconds"), [("finished", gather.SECONDS), ("interrupted", 0), ("failed: x", 0)])
def test_the_end_waits_for_a_process_that_is_there_but_not_for_ever(collecting, attached, clock, status, seconds):
    """Assert that only a normal end waits for an announced process, and for a bounded time."""
    one, written, notes = collecting()
    attached(OTHER).announce()
    one.write(*rows(1), set())
    one.close(status)
    assert abs(clock.now - seconds) <= 2 * gather.POLL
    assert len(written) == 1 and written[0][1]["unknown"].all() and notes["status"] == status
    assert "not reported in time" in notes["incomplete_because"][0]


def test_ctrl_c_ends_the_waiting_with_all_rows(collecting, attached, clock):
    """Assert that Ctrl-C during the wait at the end leaves every row on disk, and the status."""
    one, written, notes = collecting()
    attached(OTHER).announce()
    one.write(*rows(1), set())

    def pressed(_):
        raise KeyboardInterrupt

    clock.sleep = pressed
    with pytest.raises(KeyboardInterrupt):
        one.close("finished")
    assert len(written) == 1 and notes["status"] == "interrupted"


@pytest.mark.parametrize(
    ("own", "others", "mean"),
    [(1.0, 3.0, 2.0), (1.0, math.nan, 1.0), (math.nan, 3.0, 3.0), (math.nan, math.nan, math.nan)],
)
def test_mean_loss(collecting, attached, own, others, mean):
    """Assert that the loss is the mean over the processes that observe a loss."""
    one, written, _ = collecting(holders=(WRITER,))
    other = attached(OTHER)
    other.announce()
    other.post(*rows(1, 2, loss=others))
    one.write(*rows(1, 2, loss=own), set())
    np.testing.assert_array_equal(written[0][1]["loss"], [[mean], [mean]])


def test_a_loss_that_diverges_is_not_left_out(collecting, attached):
    """Assert that the mean loss is NaN if the loss of a process that observes losses is NaN."""
    one, written, _ = collecting(holders=(WRITER,))
    other = attached(OTHER)
    other.announce()
    other.post(*rows(1))
    other.post(*rows(2, loss=math.nan))
    one.write(*rows(1), set())
    one.write(*rows(2), set())
    assert [columns["loss"].item() for _, columns in written] == pytest.approx([0.5, math.nan], nan_ok=True)


def test_other_quantities_elsewhere_make_a_sum_unknown(collecting, attached):
    """Assert that a sum is unknown if the other process does not record its part of it."""
    one, written, notes = collecting()
    (steps, columns), other = rows(1), attached(OTHER)
    other.announce()
    other.post(steps, {"loss": columns["loss"]})
    one.write(steps, columns, set())
    assert np.isnan(written[0][1]["theta_theta"]).all()
    assert notes["incomplete_because"] == ["process 1: other quantities are recorded there"]
