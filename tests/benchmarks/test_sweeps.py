"""Cells of a sweep for each second: the engines compared with a loop over real optimizers in this process."""

import json
import time
from functools import partial
from statistics import median

import numpy as np
import pytest
import torch

from swd_dynamics.sweeping import sweep
from swd_dynamics.sweeping.plan import planned
from swd_dynamics.sweeping.training import train_cell
from swd_dynamics.tasks import tanh_network

GRID = {"lr": np.geomspace(1e-3, 0.3, 16), "weight_decay": np.geomspace(1e-5, 1e-2, 16)}
TASK = partial(tanh_network, hidden=(16,), batch_size=50)
STEPS = 100
ROUNDS = 3
SERIAL_CELLS = 16  # of the loop, whose cells all take equally long
FASTER = 3  # the promise: cells of vmap by cells of the loop. 6 was seen for SGD, and 11 for AdamS
ROUND_OFF = 1e-9  # of 100 steps; 1e-13 was seen


def serial(optimizer, steps):
    """Seconds for a cell in a loop."""
    plan = planned(TASK, [optimizer], GRID, steps=steps)
    begun = time.perf_counter()
    for cell in plan.cells[:: len(plan.cells) // SERIAL_CELLS]:
        train_cell(plan, cell)
    return (time.perf_counter() - begun) / SERIAL_CELLS


def swept(optimizer, steps, engine, grid=GRID, **more):
    """Seconds for a cell, and the result."""
    begun = time.perf_counter()
    found = sweep(TASK, [optimizer], grid, steps=steps, engine=engine, **more)
    assert found.done == found.train_loss.size and json.loads(found.failed) == {}
    return (time.perf_counter() - begun) / found.done, found


@pytest.mark.parametrize("optimizer", ["SGD", "AdamS"])
def test_vmap_is_faster_than_a_loop(benchmark, capsys, optimizer):
    """Assert that on a grid of 16 × 16 vmap trains at least three times as many cells in a second as a loop."""
    torch.set_num_threads(1)

    def rounds():
        serial(optimizer, 2), swept(optimizer, 2, "vmap")  # warm up
        return [(serial(optimizer, STEPS), swept(optimizer, STEPS, "vmap")[0]) for _ in range(ROUNDS)]

    taken = benchmark.pedantic(rounds, rounds=1)
    ratios = [loop / together for loop, together in taken]
    with capsys.disabled():
        loop, together = (median(seconds) for seconds in zip(*taken, strict=True))
        print(f"\n{optimizer}, 256 cells of {STEPS} steps, in cells for each second")
        print(f"{'a loop':28} {1 / loop:7.1f}\n{'vmap':28} {1 / together:7.1f} {median(ratios):6.2f} × the loop")
    assert median(ratios) >= FASTER


def test_workers(benchmark, capsys):
    """Assert that processes and Dask give what vmap gives, and print their times with one worker and with two.

    The overhead is the time for a cell of one step, without the start of the workers; a loop needs it too, for making
    the task and evaluating the losses.
    """
    distributed = pytest.importorskip("distributed")
    torch.set_num_threads(1)
    few = {name: values[::4] for name, values in GRID.items()}  # 16 cells
    expected = swept("AdamS", STEPS, "vmap", few)[1]

    def measured():
        """For each engine and number of workers: the start, and seconds for a cell of one step and of all steps."""
        yield "a loop", 0.0, serial("AdamS", 1), serial("AdamS", STEPS)
        for jobs in (1, 2):
            # A sweep starts processes of its own, so that the start is what a sweep of one cell takes.
            start = swept("AdamS", 1, "processes", {"lr": [0.1]}, jobs=jobs)[0]
            times = [swept("AdamS", steps, "processes", few, jobs=jobs) for steps in (1, STEPS)]
            check(times[-1][1])
            yield f"processes, {jobs}", start, *(seconds - start / 16 for seconds, _ in times)
        for jobs in (1, 2):
            begun = time.perf_counter()
            with distributed.LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None) as cluster:
                on_it = partial(swept, "AdamS", engine="dask", scheduler=cluster.scheduler_address)
                on_it(1, grid=few)
                start = time.perf_counter() - begun
                times = [on_it(steps, grid=few) for steps in (1, STEPS)]
            check(times[-1][1])
            yield f"dask, {jobs}", start, *(seconds for seconds, _ in times)

    def check(found):
        np.testing.assert_allclose(found.train_loss, expected.train_loss, rtol=ROUND_OFF)

    rows = benchmark.pedantic(lambda: list(measured()), rounds=1)
    loop = rows[0][-1]
    with capsys.disabled():
        print(f"\n{'AdamS, 16 cells, workers':28} {'start, s':>9} {'1 step, ms':>11} {STEPS:4} steps, ms  × the loop")
        for name, start, one, many in rows:
            print(f"{name:28} {start:9.1f} {1e3 * one:11.1f} {1e3 * many:14.1f} {loop / many:11.2f}")
