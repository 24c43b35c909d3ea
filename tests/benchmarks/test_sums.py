"""Sums over weights on the CPU: numpy's, in pieces that fit the processor's cache, compared with torch's reductions.

torch's reductions use all of its threads. Where another process keeps a core busy, each reduction waits for the thread
that shares that core. Changed weights are counted as whole numbers, which is compared with counting floats.
"""

import contextlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from benchmarks.turns import comparison, times_in_turns

from swd_dynamics.tensors.sums import changes, squares

WEIGHTS = 2**20
ROUNDS = 200


@contextlib.contextmanager
def busy(processes):
    """Other processes that do nothing but compute."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("others", [0, 1, 2])
def test_sum_of_squares(benchmark, capsys, others, threads):
    """Assert that both give the same sum, and print their times while other processes keep some cores busy."""
    tensor = torch.randn(WEIGHTS, generator=torch.Generator().manual_seed(0))
    functions = {"ours": lambda: squares([tensor])[0], "torch.dot": lambda: float(torch.dot(tensor, tensor))}
    torch.set_num_threads(threads)
    with busy(others):
        taken = benchmark.pedantic(times_in_turns, args=(functions, ROUNDS), rounds=1)
    torch.set_num_threads(1)
    with capsys.disabled():
        print(f"\n{WEIGHTS} float32 weights, torch with {threads} threads, {others} other processes computing")
        print(*comparison(taken, "ours"), sep="\n")
    assert functions["ours"]() == pytest.approx(functions["torch.dot"](), rel=1e-6)


def test_count_of_changes(benchmark, capsys):
    """Assert that both ways count the same weights that moved, and print their times."""
    before = torch.randn(WEIGHTS, generator=torch.Generator().manual_seed(0))
    after = before.clone()
    after[::2] += 1
    difference = (after - before).numpy()
    functions = {
        "as whole numbers": lambda: np.count_nonzero(difference.view("i4")),
        "as floats": lambda: np.count_nonzero(difference),
    }
    taken = benchmark.pedantic(times_in_turns, args=(functions, ROUNDS), rounds=1)
    with capsys.disabled():
        print(f"\n{WEIGHTS} weights, float32", *comparison(taken, "as whole numbers"), sep="\n")
    assert changes([before], [after], squares([before])).moved == [WEIGHTS / 2]
