"""Rows for a run folder whose values say where they belong, and what a folder holds."""

import numpy as np

from swd_dynamics.recording import open_recording

VARIABLES = {
    "loss": (("step",), "float64", "training loss"),
    "rate": (("step", "parameter"), "float32", "decay rate"),
    "count": (("step",), "int64", "weights that moved"),
    "moved": (("step", "parameter"), "bool", "whether the parameter moved"),
}
MADE_BY = {"optimizer": "AdamS", "parameter_names": ["first", "last", "norm"], "parameter_shapes": [[2, 2], [2], [1]]}
SIZES = {"parameter": 3}


def block(first, count):
    """Rows whose values say where they belong."""
    steps = np.arange(first, first + count)
    rates = (steps[:, None] + np.array([0.25, 0.5, 0.75])).astype(np.float32)
    return {"step": steps, "loss": steps / 7, "rate": rates, "count": steps * 10**12, "moved": rates % 2 < 1}


def assert_holds(path, expected):
    recording = open_recording(path)
    for name, values in expected.items():
        found = recording[name].values
        assert found.dtype == values.dtype, name
        np.testing.assert_array_equal(found, values, err_msg=name)


def contents(path):
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
