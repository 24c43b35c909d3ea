"""Starts a program as two processes that train together, as torchrun would, and reads what each of them saw."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import swd_dynamics

WORLD = 2
# Seconds. Two processes need about half a minute; one that waits for the other would wait forever.
DEADLINE = 180


def seen_by_each(program, folder):
    """Run ``python PROGRAM RANK FOLDER`` for both ranks; the JSON that each leaves in FOLDER/RANK.json."""
    paths = [str(Path(swd_dynamics.__file__).parents[1]), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    workers = []
    try:
        for rank in range(WORLD):
            command = [sys.executable, "-W", "error", program, str(rank), str(folder)]
            with open(folder / f"{rank}.log", "w") as log:
                workers.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        deadline = time.monotonic() + DEADLINE
        while (codes := [worker.poll() for worker in workers]) != [0] * WORLD:
            if any(codes) or time.monotonic() > deadline:
                time.sleep(1)  # for the other one's last words
                logs = [(folder / f"{rank}.log").read_text()[-4000:] for rank in range(WORLD)]
                pytest.fail(f"exit codes {codes}, None for one stopped after {DEADLINE} s\n" + "\n".join(logs))
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]
