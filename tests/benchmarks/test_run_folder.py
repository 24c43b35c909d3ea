"""What it costs to keep rows on disk: our run folder compared with zarr, SQLite and HDF5; and opening what was kept.

Every format gets the same 23 variables and acknowledges each block of rows so that a kill of the process loses none of
them. Only our run folder and zarr's own append leave a file that zarr, and so xarray, reads while the run goes on.
"""

import itertools
import sqlite3
from contextlib import closing

import h5py
import numpy as np
import pytest
import zarr
from benchmarks.turns import WARM_UPS, comparison, times_in_turns

from swd_dynamics.recording.format import CHUNK_ROWS
from swd_dynamics.recording.reader import open_recording
from swd_dynamics.recording.writer import RunFolder

VARIABLES = {
    **{f"scalar_{i}": (("step",), "float64", "a number") for i in range(20)},
    **{f"vector_{i}": (("step", "parameter"), "float64", "a number of each parameter") for i in range(3)},
}
PARAMETERS = 50
BLOCKS = 20


def blocks(rows):
    """Blocks of so many rows, one after the other."""
    generator = np.random.default_rng(3)
    numbers = {name: generator.random((rows, *row_shape(name))) for name in VARIABLES}
    return ({"step": np.arange(first, first + rows), **numbers} for first in itertools.count(0, rows))


def row_shape(name):
    return (PARAMETERS,) if name.startswith("vector") else ()


def dtype(name):
    return "int64" if name == "step" else "float64"


def run_folder(folder):
    """Ours: rows are written after the acknowledged ones, into the chunk files that zarr reads."""
    with RunFolder.create(folder, VARIABLES, {}, {"parameter": PARAMETERS}) as run:
        yield run.append


def zarr_append(folder):
    """zarr's own append, which writes a chunk that is not full again; then the number of rows that count."""
    group = zarr.create_group(folder)
    arrays = {
        name: group.create_array(
            name,
            shape=(0, *row_shape(name)),
            chunks=(CHUNK_ROWS, *row_shape(name)),
            dtype=dtype(name),
            compressors=None,
        )
        for name in ("step", *VARIABLES)
    }

    def append(block):
        for name, array in arrays.items():
            array.append(block[name])
        group.attrs["committed"] = array.shape[0]

    yield append


def sqlite_wal(folder):
    """A table with a write-ahead log, a row for each step; a vector is a BLOB."""
    with closing(sqlite3.connect(folder.with_suffix(".sqlite"))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a kill loses nothing, a power failure may
        connection.execute(f"CREATE TABLE run (step INTEGER PRIMARY KEY, {', '.join(VARIABLES)})")
        places = ", ".join("?" * (len(VARIABLES) + 1))

        def append(block):
            columns = [
                [row.tobytes() for row in values] if values.ndim > 1 else values.tolist() for values in block.values()
            ]
            with connection:
                connection.executemany(f"INSERT INTO run VALUES ({places})", zip(*columns, strict=True))

        yield append


def hdf5_swmr(folder):
    """HDF5 with one writer and many readers, flushed after each block."""
    with h5py.File(folder.with_suffix(".h5"), "w", libver="latest") as file:
        for name in ("step", *VARIABLES):
            shape = row_shape(name)
            file.create_dataset(name, (0, *shape), dtype(name), maxshape=(None, *shape), chunks=(CHUNK_ROWS, *shape))
        file.swmr_mode = True

        def append(block):
            for name, values in block.items():
                dataset = file[name]
                rows = len(dataset)
                dataset.resize(rows + len(values), axis=0)
                dataset[rows:] = values
            file.flush()

        yield append


FORMATS = {"run folder": run_folder, "zarr append": zarr_append, "SQLite": sqlite_wal, "HDF5 SWMR": hdf5_swmr}


@pytest.mark.parametrize("rows", [10, 100, 1000])
def test_append(benchmark, capsys, tmp_path, rows):
    """Assert that blocks are acknowledged by our run folder, and print what each format takes for one block."""
    writers = {name: make(tmp_path / name) for name, make in FORMATS.items()}
    appends = {name: _appending(next(writer), rows) for name, writer in writers.items()}
    taken = benchmark.pedantic(times_in_turns, args=(appends, BLOCKS), rounds=1)
    for writer in writers.values():
        writer.close()
    assert open_recording(tmp_path / "run folder").sizes["step"] == (BLOCKS + WARM_UPS) * rows
    with capsys.disabled():
        print(f"\nblocks of {rows} rows", *comparison(taken, "run folder"), sep="\n")


def _appending(append, rows):
    source = blocks(rows)
    return lambda: append(next(source))


@pytest.fixture
def run(tmp_path):
    """A run of twenty thousand rows."""
    with RunFolder.create(tmp_path / "run", VARIABLES, {}, {"parameter": PARAMETERS}) as run:
        run.append(next(blocks(20_000)))
        yield run


def test_open(benchmark, run):
    """Assert that a run of twenty thousand rows is opened, and time it; no values are read."""
    assert benchmark(lambda: open_recording(run.folder).sizes["step"]) == 20_000


def test_read(benchmark, run):
    """Assert that a variable of twenty thousand rows is read, and time it."""
    recording = open_recording(run.folder)
    assert benchmark(lambda: recording.scalar_3.values).shape == (20_000,)
