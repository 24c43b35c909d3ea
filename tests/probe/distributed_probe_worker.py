"""The trainings that test_distributed.py records: of a small network, on one process or on two.

As a program it is one of the two processes: ``python distributed_probe_worker.py RANK FOLDER`` runs
every case, and leaves the run folders and what the process saw in FOLDER. The processes meet in
torch's TCPStore, as under torchrun.
"""

import json
import sys
import time
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.distributed as dist
from optim.distributed_worker import BATCH, WORLD, Network, distributed
from torch.distributed.tensor.debug import CommDebugMode

from swd_dynamics.errors import InputError
from swd_dynamics.optim import AdamS
from swd_dynamics.probe import Probe, buffer, gather
from swd_dynamics.tensors import sharding

STEPS, HALF = 12, 6
OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {"momentum": 0.9}),
    "AdamW": (torch.optim.AdamW, {}),
    "AdamS": (AdamS, {}),
    "Adam": (torch.optim.Adam, {}),
}
LAYOUTS = ("DDP", "FSDP", "HSDP 1x2", "HSDP 2x1", "partly")


class Case(NamedTuple):
    """One training: its optimizer, how the network is distributed (None: not at all), and what
    happens.
    """

    optimizer: str
    layout: str | None
    what: str = "plain"


AGREEING = [Case(name, layout) for name in ("SGD", "AdamW", "AdamS") for layout in LAYOUTS]
GATHERED = [Case("AdamW", layout, "gathered") for layout in ("FSDP", "HSDP 2x1")]
BARE = [Case("AdamW", layout, "bare") for layout in ("DDP", "FSDP", "partly")]
ALONE = [Case("AdamW", layout, "on rank 0 only") for layout in ("DDP", "FSDP", "partly")]
BROKEN = [
    *(Case("AdamW", layout, f"fails on rank {rank}") for layout in ("DDP", "FSDP") for rank in range(WORLD)),
    Case("AdamW", "FSDP", "raises on rank 1"),
    Case("AdamW", "FSDP", "store breaks"),
]
LATE = Case("AdamS", "FSDP", "rank 1 attaches late")
RESUMED = Case("AdamW", "FSDP", "resumed")
UNFOLLOWED = Case("Adam", "FSDP")
ON_ITS_OWN = Case("SGD", "DDP", "on its own")
IN_MEMORY = Case("AdamW", "FSDP", "in memory")
COUNTED = [Case("AdamS", layout, "counted") for layout in ("DDP", "FSDP", "HSDP 1x2")]
MUTANTS = {
    "replicas twice": lambda parameter: frozenset(parameter.device_mesh.mesh.flatten().tolist()),
    "only the shard here": lambda parameter: frozenset({0}),
}
WRONG = [Case("SGD", "HSDP 2x1", "replicas twice"), Case("SGD", "FSDP", "only the shard here")]
CASES = [
    *AGREEING,
    *GATHERED,
    *BARE,
    *ALONE,
    *BROKEN,
    LATE,
    RESUMED,
    UNFOLLOWED,
    ON_ITS_OWN,
    IN_MEMORY,
    *COUNTED,
    *WRONG,
]


class OutOfLuckError(Exception):
    """An error of the training, not of the probe."""


def start(case):
    """The network, and an optimizer with two groups of different λ and η."""
    torch.manual_seed(0)
    network = Network()
    if case.layout == "partly":
        from torch.distributed.fsdp import fully_shard

        fully_shard(network.first)  # the other parameters are plain tensors, equal on both
    model = network if case.layout == "partly" else distributed(network, case.layout, unused=True)
    optimizer_class, arguments = OPTIMIZERS[case.optimizer]
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == which] for which in (True, False))
    groups = [{"params": matrices, "lr": 0.02, "weight_decay": 0.5}, {"params": vectors, "weight_decay": 0.1}]
    return model, optimizer_class(groups, lr=0.01, **arguments)


def gradients(case, model, step):
    """Make the gradients of a step; returns the loss.

    A part of the network has gradients in two of three steps only.
    """
    random = torch.Generator().manual_seed(step)
    batch = [torch.randn(BATCH, size, generator=random, dtype=torch.float64) for size in (5, 3)]
    x, y = (whole.chunk(WORLD)[dist.get_rank()] if case.layout else whole for whole in batch)
    loss = (model(x, step % 3 > 0) - y).square().mean()
    loss.backward()
    for parameter in model.parameters() if case.layout == "partly" else ():
        if parameter.grad is not None and not hasattr(parameter, "full_tensor"):
            dist.all_reduce(parameter.grad)
            parameter.grad /= WORLD
    return loss


def whole(tensors):
    """All values in one list; zeros for a tensor that is None."""
    full = [tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for tensor in tensors]
    return torch.cat([tensor.detach().flatten() for tensor in full]).tolist()


def state(model, optimizer, key):
    states = [(parameter, optimizer.state.get(parameter, {})) for parameter in model.parameters()]
    return whole([torch.zeros_like(parameter) if key not in kept else kept[key] for parameter, kept in states])


def gathered(model, optimizer, seen):
    """Keep all weights and states after a step."""
    seen.setdefault("theta", []).append(whole(model.parameters()))
    for key in ("exp_avg", "exp_avg_sq"):
        seen.setdefault(key, []).append(state(model, optimizer, key))
    counts = [float(optimizer.state.get(p, {}).get("step", 0)) for p in model.parameters() for _ in range(p.numel())]
    seen.setdefault("step", []).append(counts)


def fails(*_, **__):
    raise OSError("no such luck")


def disturb(case, step, probe, stack):
    """What happens to a probe during a run."""
    if step != HALF or probe is None or case.layout is None:
        return
    rank = dist.get_rank()
    if case.what == f"fails on rank {rank}":
        probe._begin_step = fails
    if case.what == "store breaks":
        probe._sink._exchange._store = SimpleNamespace(check=fails, set=fails, add=fails)
    if case.what == f"raises on rank {rank}":
        with suppress(OutOfLuckError), stack.pop_all():
            raise OutOfLuckError()


def has_probe(case, step, rank):
    """Whether a probe is attached before a step."""
    return {
        "bare": False,
        "on rank 0 only": step == 0 and rank == 0,
        "rank 1 attaches late": step == (HALF if rank else 0),
        "resumed": step in (0, HALF),
    }.get(case.what, step == 0)


def probe_of(case, path, optimizer, model):
    """The probe: one for all processes, or one for each."""
    if case.what == "on its own":
        return Probe(optimizer, path / str(dist.get_rank()), model=model, quantities="dynamics", distributed=False)
    if case.what == "in memory":
        return Probe(optimizer, model=model, quantities="dynamics")
    return Probe(optimizer, path, model=model, quantities="dynamics", resume=case.what == "resumed")


def train(case, path):
    """Take the recorded steps; returns what was seen besides the recording."""
    (model, optimizer), rank, seen, probe = start(case), dist.get_rank() if case.layout else 0, {}, None
    if case.what == "gathered":
        seen["gradient"] = []
        gathered(model, optimizer, seen)
    with ExitStack() as stack:
        for step in range(STEPS):
            if has_probe(case, step, rank):
                stack.close()
                probe = stack.enter_context(probe_of(case, path, optimizer, model))
            disturb(case, step, probe, stack)
            if case.what == "counted" and step == HALF:
                stack.close()
            optimizer.zero_grad()
            loss = gradients(case, model, step)
            if case.what == "gathered":
                grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
                seen["gradient"].append(whole(grads))
            with CommDebugMode() if case.what == "counted" else ExitStack() as counter:
                if probe is not None:
                    probe.observe(loss=loss)
                optimizer.step()
            if case.what == "counted":
                seen.setdefault("collectives", []).append(counter.get_total_counts())
            if case.what == "gathered":
                gathered(model, optimizer, seen)
    if case.what == "in memory" and rank == 0:
        seen["dataset"] = {name: values.values.tolist() for name, values in probe.dataset().items()}
    failure = None if probe is None else probe.failure
    return {"weights": whole(model.parameters()), "failure": failure, **seen}


def refusals(folder):
    """The messages for requests that cannot be met."""
    _, optimizer = start(Case("AdamW", "FSDP"))
    path, said = folder / "refused", []
    for arguments in ({"distributed": False}, {"snapshots": 2}, {"trajectory": True}):
        try:
            Probe(optimizer, path, **arguments)
        except InputError as error:
            said.append(str(error))
    try:
        Probe(optimizer, path).dataset()
    except InputError as error:
        said.append(str(error))
    return said


def connect(rank, folder):
    """Both processes meet in a TCPStore whose port the system chooses."""
    note, timeout = folder / "port", timedelta(seconds=60)
    if rank:
        while not note.exists():
            time.sleep(0.01)
        store = dist.TCPStore("127.0.0.1", int(note.read_text()), WORLD, False, timeout)
    else:
        store = dist.TCPStore("127.0.0.1", 0, WORLD, True, timeout, wait_for_workers=False)
        (folder / "making").write_text(str(store.port))
        (folder / "making").rename(note)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=timeout)


def watched_writes(folder):
    """Every file or folder under ``folder`` that this process opens, makes, renames or removes from
    now on.
    """
    touched = set()

    def hook(event, arguments):
        if event in ("open", "os.mkdir", "os.rename", "os.remove") and str(arguments[0]).startswith(str(folder)):
            touched.add(str(arguments[0]))

    sys.addaudithook(hook)
    return touched


def main(rank, folder):
    torch.set_num_threads(1)
    connect(rank, folder)
    touched, results, right = watched_writes(folder / "runs"), [], sharding.holders
    for number, case in enumerate(CASES):
        # One process brings each row to the host when it is measured, the other all at the end.
        buffer.SECONDS = 0.0 if (number + rank) % 2 or case in BROKEN else 2.0
        polls = []
        gather.time = SimpleNamespace(monotonic=time.monotonic, sleep=lambda s, to=polls: to.append(time.sleep(s)))
        sharding.holders = MUTANTS.get(case.what, right)
        try:
            results.append([case, {**train(case, folder / "runs" / str(number)), "polls": len(polls)}])
        except Exception as error:
            error.add_note(f"in {case}")
            raise
    of_own = f"{folder / 'runs' / str(CASES.index(ON_ITS_OWN))}"
    found = {
        "cases": results,
        "touched": sorted(path for path in touched if not path.startswith(of_own)),
        "refusals": refusals(folder),
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
