"""How long a user waits for a Python that imports, compared with one that imports torch.

Recordings and the command line do without torch.
"""

import subprocess
import sys

import numpy as np
import pytest
from benchmarks.turns import comparison, times_in_turns

from swd_dynamics.recording.writer import RunFolder

ROUNDS = 10


@pytest.fixture
def folder(tmp_path):
    """A run of a hundred steps on disk."""
    steps = np.arange(1, 101)
    with RunFolder.create(tmp_path / "run", {"loss": (("step",), "float64", "training loss")}, {}) as run:
        run.append({"step": steps, "loss": 1 / steps})
    return str(run.folder)


def test_starting(benchmark, capsys, folder):
    """Assert that every program ends well, and print how long each runs, from the start of Python to its end."""
    programs = {
        "import torch": ["-c", "import torch"],
        "python": ["-c", "pass"],
        "import swd_dynamics": ["-c", "import swd_dynamics"],
        "import swd_dynamics.recording": ["-c", "import swd_dynamics.recording"],
        "swd-dynamics show RUN": ["-m", "swd_dynamics", "show", folder],
    }

    def running(arguments):
        return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    functions = {name: running(arguments) for name, arguments in programs.items()}
    taken = benchmark.pedantic(times_in_turns, args=(functions, ROUNDS), rounds=1)
    with capsys.disabled():
        print("", *comparison(taken, "import torch"), sep="\n")
