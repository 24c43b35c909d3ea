"""The pool of processes that can be killed."""

import math
import os
import sys
import time

import pytest

from swd_dynamics.bench.processes import in_processes


def test_every_piece_of_work_has_its_result():
    """Assert that all results come, also when there is more work than processes."""
    numbers = [float(n) for n in range(5)]
    outcomes = list(in_processes(math.sqrt, numbers, jobs=2, limit=60.0))
    assert {outcome.work: outcome.result for outcome in outcomes} == {n: math.sqrt(n) for n in numbers}
    assert not any(outcome.reason for outcome in outcomes)


@pytest.mark.parametrize(
    ("function", "work", "limit", "reason"),
    [
        (math.sqrt, -1.0, 60.0, "ValueError: "),
        (sys.exit, 3, 60.0, "SystemExit: 3"),
        (os._exit, 1, 60.0, "its process ended without an answer"),
        (time.sleep, 1000, 1.0, "took more than 1 s"),
    ],
    ids=["raises", "exits", "crashes", "hangs"],
)
def test_work_that_fails_has_a_reason(function, work, limit, reason):
    """Assert that work that raises, exits, crashes or hangs has no result but a reason."""
    (outcome,) = in_processes(function, [work], jobs=1, limit=limit)
    assert (outcome.work, outcome.result) == (work, None)
    assert outcome.reason.startswith(reason)


def test_seconds_are_those_of_the_processor():
    """Assert that work is timed by the processor: sleep takes no time, work takes its own, and a limit is the limit."""
    (slept,) = in_processes(time.sleep, [0.2], jobs=1)
    (worked,) = in_processes(sum, [range(3_000_000)], jobs=1)
    assert slept.seconds < 0.01 < worked.seconds
    (late,) = in_processes(time.sleep, [1000], jobs=1, limit=0.5)
    assert late.seconds == 0.5


def test_work_that_runs_is_killed_when_the_caller_stops():
    """Assert that a caller who stops after the first outcome does not wait for the work that still runs."""
    begun = time.monotonic()
    outcomes = in_processes(time.sleep, [0, 1000], jobs=2, limit=2000.0)
    assert next(outcomes).work == 0
    outcomes.close()
    assert time.monotonic() - begun < 60
