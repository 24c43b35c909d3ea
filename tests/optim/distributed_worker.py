"""What test_distributed.py runs: short trainings of one small network, on one process or on one of two.

As a program it is one of the two: ``python distributed_worker.py RANK FOLDER`` runs every case and leaves the results
in FOLDER.
"""

import json
import sys
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from swd_dynamics.optim import SGDS, AdaiS, AdamS, second_moment

WORLD, STEPS, BATCH = 2, 8, 8
CLIP = 0.5  # less than the norm of any gradient here
SINGLE = {"foreach": False, "fused": False}
FOREACH, FUSED = {"foreach": True}, {"fused": True}
AMSGRAD = {"amsgrad": True, "betas": (0.9, 0.5)}  # a short memory, so that the maximum is not v itself
MOMENTUM = {"momentum": 0.9, "dampening": 0.5}
OPTIMIZERS = {
    "AdamS": (AdamS, SINGLE),
    "AdamS foreach": (AdamS, FOREACH),
    "AdamS fused": (AdamS, FUSED),
    "AMSGradS": (AdamS, AMSGRAD | SINGLE),
    "AMSGradS fused": (AdamS, AMSGRAD | FUSED),
    "SGDS": (SGDS, MOMENTUM | SINGLE),
    "SGDS foreach": (SGDS, MOMENTUM | FOREACH),
    "SGDS fused": (SGDS, MOMENTUM | FUSED),
    "AdaiS": (AdaiS, {"foreach": False}),
    "AdaiS foreach": (AdaiS, FOREACH),
}
MESHES = {"FSDP": (2,), "HSDP 1x2": (1, 2), "HSDP 2x1": (2, 1)}  # of two dimensions: replicated x sharded
EDITED = "edited in half precision"  # v is quartered in mid-run; each process sees the whole batch
RESUMED = {"from shards": {}, "from a whole": {"full_state_dict": True, "cpu_offload": True}}
MUTANTS = {
    "sums of this process": lambda partial, _: partial,
    "sums over all processes": lambda partial, _: [dist.all_reduce(sums) or sums for sums in partial],
}


class Case(NamedTuple):
    """One training: the optimizer, how the network is distributed (None: not at all), and what else happens."""

    optimizer: str
    layout: str | None
    what: str = "plain"


SOME = ["AdamS fused", "AMSGradS", "SGDS foreach", "AdaiS"]
WITH_MEAN = ["AdamS fused", "AMSGradS", "AdaiS"]
UNSHARDED = ["SGDS fused"]  # torch's kernel takes no DTensors
AGREEING = [
    *(Case(name, "DDP") for name in OPTIMIZERS),
    *(Case(name, "FSDP") for name in OPTIMIZERS if name not in UNSHARDED),
    *(Case(name, layout) for name in WITH_MEAN for layout in ("HSDP 1x2", "HSDP 2x1")),
    *(Case(name, layout, what) for name in SOME for layout in ("DDP", "FSDP") for what in ("skipping", "clipped")),
    *(Case(name, "DDP", "skipping") for name in UNSHARDED),
    *(Case(name, "FSDP", "without sums") for name in WITH_MEAN),
]
RESUMING = [Case(name, "FSDP", what) for name in SOME for what in RESUMED]
HALF = [Case(name, layout, EDITED) for name in ("SGDS foreach", "AdamS", "AdaiS") for layout in ("DDP", "FSDP")]
WRONG = [
    *(Case(name, layout, "sums of this process") for name in WITH_MEAN[:2] for layout in ("FSDP", "HSDP 1x2")),
    *(Case(name, "HSDP 2x1", "sums over all processes") for name in WITH_MEAN[:2]),
]


class Network(nn.Module):
    """Two layers and a shortcut; no size can be halved, and ``scale`` has fewer weights than there are processes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)
        self.shortcut, self.scale = nn.Linear(5, 3, bias=False), nn.Parameter(torch.empty(1))
        self.double()
        random = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=random)

    def forward(self, x, with_shortcut):
        y = self.second(self.first(x).tanh())
        return y + self.scale * self.shortcut(x) if with_shortcut else y


@cache
def mesh(layout):
    names = ("replicated", "sharded")[-len(MESHES[layout]) :]
    return dist.device_mesh.init_device_mesh("cpu", MESHES[layout], mesh_dim_names=names)


def distributed(network, layout, unused):
    """The network as torch distributes it; ``layout`` None leaves it on one process."""
    if layout == "DDP":
        return nn.parallel.DistributedDataParallel(network, find_unused_parameters=unused)
    if layout in MESHES:
        from torch.distributed.fsdp import fully_shard

        fully_shard(network, mesh=mesh(layout))
    return network


def start(case):
    """The network, and an optimizer with two groups of different λ and η."""
    network = Network().bfloat16() if case.what == EDITED else Network()
    model = distributed(network, case.layout, unused=case.what == "skipping")
    optimizer_class, arguments = OPTIMIZERS[case.optimizer]
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == which] for which in (True, False))
    groups = [{"params": matrices, "lr": 0.02, "weight_decay": 0.5}, {"params": vectors, "weight_decay": 0.1}]
    return model, optimizer_class(groups, lr=0.01, **arguments)


def half(batch, case):
    """What this process sees of a batch."""
    if case.what == EDITED:
        return batch.bfloat16()
    return batch.chunk(WORLD)[dist.get_rank()] if case.layout else batch


def whole(model):
    """All weights, in one list."""
    tensors = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).tolist()


def resumed(case, model, optimizer):
    """A second training that takes over from the first; also whether its weights stayed, and what state it found."""
    from torch.distributed.checkpoint import state_dict as checkpoint

    whole_state = RESUMED[case.what]
    options = checkpoint.StateDictOptions(**whole_state)
    saved = checkpoint.get_optimizer_state_dict(model, optimizer, options=options)
    new_model, new_optimizer = start(case)
    new_model.load_state_dict(model.state_dict())
    for group in new_optimizer.param_groups:
        group["lr"] = 1.0
    options = checkpoint.StateDictOptions(**whole_state, broadcast_from_rank0=bool(whole_state))
    checkpoint.set_optimizer_state_dict(new_model, new_optimizer, saved, options=options)
    seen = {"unmoved": whole(new_model) == whole(model), "saved": sorted(saved["state"]["scale"]) if saved else []}
    return new_model, new_optimizer, seen


def train(case):
    """Take the steps.

    Returns
    -------
    dict
        ``weights`` after the last step, ``decay_rate`` of every step and group, ``collectives`` of the last step.
    """
    (model, optimizer), rates, seen = start(case), [], {}
    for step in range(STEPS):
        if step == STEPS // 2 and case.what in RESUMED:
            model, optimizer, seen = resumed(case, model, optimizer)
        if step == STEPS // 2 and case.what == "without sums":  # as in a checkpoint of torch's Adam
            for state in optimizer.state.values():
                del state[second_moment.SUM]
        if step == STEPS // 2 and case.what == EDITED:
            for state in optimizer.state.values():
                state.get("exp_avg_sq", torch.zeros(1)).mul_(0.25)
        random = torch.Generator().manual_seed(step)
        x, y = (torch.randn(BATCH, size, generator=random, dtype=torch.float64) for size in (5, 3))
        with_shortcut = case.what != "skipping" or step % 3 > 0  # at step 0 it has never had a gradient
        optimizer.zero_grad()
        (model(half(x, case), with_shortcut) - half(y, case)).square().mean().backward()
        if case.what == "clipped":
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        if case.layout and step == STEPS - 1:
            seen["collectives"] = step_counted(optimizer)
        else:
            optimizer.step()
        rates.append([group["decay_rate"] for group in optimizer.param_groups])
    return {"weights": whole(model), "decay_rate": rates, **seen}


def step_counted(optimizer):
    """Take a step, and count its collectives."""
    from torch.distributed.tensor.debug import CommDebugMode

    with CommDebugMode() as counter:
        optimizer.step()
    return counter.get_total_counts()


def main(rank, folder):
    torch.set_num_threads(1)
    store = (folder / "store").as_uri()
    dist.init_process_group("gloo", store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    right, results = second_moment.sum_over_shards, []
    for case in AGREEING + RESUMING + HALF + WRONG:
        second_moment.sum_over_shards = MUTANTS.get(case.what, right)
        try:
            results.append([case, train(case)])
        except Exception as error:
            error.add_note(f"in {case}")
            raise
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
