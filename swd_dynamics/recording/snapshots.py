"""Snapshots: all parameters after some of the steps, which a run folder keeps."""

import json
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as short

import numpy as np

from swd_dynamics.errors import InputError
from swd_dynamics.recording.format import MAX_JSON, SNAPSHOTS, check_folder, on_disk
from swd_dynamics.tables import Table

_SNAPSHOT = re.compile(r"step-(\d{10,18})\.safetensors", re.ASCII)
_SNAPSHOT_TYPES = Table(
    "type of array",
    **{f"F{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    **{f"{sign}{bits}": f"<{sign.lower()}{bits // 8}" for sign in "IU" for bits in (8, 16, 32, 64)},
    BOOL="?",
)


def snapshots(path: str | os.PathLike) -> dict[int, Path]:
    """The file of every snapshot in a run folder, by the number of steps taken before it.

    Raises
    ------
    InputError
        If the folder cannot be read.

    Examples
    --------
    A snapshot after every second step:

    >>> import tempfile, torch
    >>> from swd_dynamics.probe import record
    >>> weight = torch.nn.Parameter(torch.tensor([8.0]))
    >>> sgd = torch.optim.SGD([weight], lr=0.5)
    >>> loss = lambda k: weight.square().sum() / 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = record(sgd, loss, 5, path=folder, trajectory=False, snapshots=2)
    ...     {step: file.name for step, file in snapshots(folder).items()}
    {2: 'step-0000000002.safetensors', 4: 'step-0000000004.safetensors'}
    """
    folder = Path(path) / SNAPSHOTS
    if not os.path.lexists(folder):
        return {}
    check_folder(folder)
    with on_disk("list the snapshots in", folder):
        plain = [file for file in folder.iterdir() if file.is_file() and not file.is_symlink()]
    matches = filter(None, (_SNAPSHOT.fullmatch(file.name) for file in plain))
    found = sorted((int(match[1]), match.string) for match in matches)
    return {step: folder / name for step, name in found if name == snapshot_name(step)}


def snapshot_name(step: int) -> str:
    """The name of the file of a step's snapshot."""
    return f"step-{step:010d}.safetensors"


def load_snapshot(path: str | os.PathLike, step: int) -> dict[str, np.ndarray]:
    """All parameters after a step, name → array. A part of an array is in memory once it is used.

    Raises
    ------
    InputError
        If the step has no snapshot, or the snapshot is damaged.

    Examples
    --------
    Gradient descent on f = ½θ² at η = ½ halves θ, so that 8 is 2 after two steps:

    >>> import tempfile, torch
    >>> from swd_dynamics.probe import record
    >>> weight = torch.nn.Parameter(torch.tensor([8.0]))
    >>> sgd = torch.optim.SGD([weight], lr=0.5)
    >>> loss = lambda k: weight.square().sum() / 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = record(sgd, loss, 3, path=folder, trajectory=False, snapshots=2)
    ...     load_snapshot(folder, step=2)
    {'parameter_0': array([2.], dtype=float32)}
    """
    known = snapshots(path)
    if step not in known:
        listed = short(sorted(known))
        raise InputError(f"{path} has no snapshot of step {short(step)}, but of steps {listed}")
    file = known[step]
    try:
        return dict(_mapped(file))
    except Exception as error:  # a damaged file fails in many ways, deep inside safetensors
        raise InputError(f"{file} is damaged: {error}") from None


def _mapped(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import safe_open

    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if length > MAX_JSON:
            raise InputError(f"its head has {length} bytes, more than {MAX_JSON}")
        with safe_open(file, framework="np"):  # checks that the arrays fill the file exactly
            head = json.loads(handle.read(length))
        memory = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    for name, entry in head.items():
        if name != "__metadata__":
            dtype = np.dtype(_SNAPSHOT_TYPES[entry["dtype"]])
            count = int(np.prod(entry["shape"], dtype=np.int64))
            flat = np.frombuffer(memory, dtype, count, 8 + length + entry["data_offsets"][0])
            yield name, flat.reshape(entry["shape"])
