"""What keeping rows on disk costs: blocks of a thousand rows and of a few, and opening what was kept.

Run with ``python -m pytest tests/benchmarks --benchmark-only``.
"""

import itertools

import numpy as np
import pytest

from swd_dynamics.recording.reader import open_recording
from swd_dynamics.recording.writer import RunFolder

VARIABLES = {
    **{f"scalar_{i}": (("step",), "float64", "a number") for i in range(20)},
    **{f"vector_{i}": (("step", "parameter"), "float64", "a number of each parameter") for i in range(3)},
}
PARAMETERS = 50


@pytest.fixture
def run(tmp_path):
    with RunFolder.create(tmp_path / "run", VARIABLES, {}, {"parameter": PARAMETERS}) as run:
        yield run


def blocks(rows):
    """Blocks of so many rows, one after the other."""
    generator = np.random.default_rng(3)
    numbers = {
        name: generator.random((rows, PARAMETERS) if "parameter" in dims else rows)
        for name, (dims, _, _) in VARIABLES.items()
    }
    return ({"step": np.arange(first, first + rows), **numbers} for first in itertools.count(0, rows))


@pytest.mark.parametrize("rows", [10, 100, 1000])
def test_append(benchmark, run, rows):
    """Assert that twenty blocks are acknowledged, and time one: 23 variables, three of them for each parameter."""
    source = blocks(rows)
    benchmark.pedantic(run.append, setup=lambda: ((next(source),), {}), rounds=20)
    assert run.committed == 20 * rows


def test_open(benchmark, run):
    """Assert that a run of twenty thousand rows is opened, and time it; no values are read."""
    run.append(next(blocks(20_000)))
    assert benchmark(lambda: open_recording(run.folder).sizes["step"]) == 20_000


def test_read(benchmark, run):
    """Assert that a variable of twenty thousand rows is read, and time it."""
    run.append(next(blocks(20_000)))
    recording = open_recording(run.folder)
    assert benchmark(lambda: recording.scalar_3.values).shape == (20_000,)
