"""What the probe costs on a GPU: the same training loop bare and recorded, in turns. Writes probe.json.

A convolutional network of 1.2 M weights, and a transformer as large as GPT-2 small (124 M) under bfloat16 autocast,
each eager and compiled. Every step is recorded. A naive hook that brings each number to the host stands beside it.
"""

import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
from benchmarks.test_probe import NaiveHook
from benchmarks.turns import ratio
from gpu.arguments import parsed
from gpu.clock import synchronize
from torch import nn

from swd_dynamics.probe import Probe, buffer
from swd_dynamics.tasks import convolutional_network
from swd_dynamics.tasks.seeds import generator
from swd_dynamics.tasks.text import Decoder

SETS = ("minimal", "default", "dynamics")


def convolutional(device, miniature):
    """The model and the loss of a batch of images."""
    torch.manual_seed(0)
    count = 8 if miniature else 1024
    model = convolutional_network(device=device).model
    images, labels = torch.randn(count, 1, 28, 28, device=device), torch.randint(10, (count,), device=device)
    return model, lambda forward: nn.functional.cross_entropy(forward(images), labels)


def transformer(device, miniature):
    """The model and the loss of a batch of text, under bfloat16 autocast."""
    torch.manual_seed(0)
    tokens, width, layers, heads, length, count = (
        (100, 64, 1, 2, 16, 2) if miniature else (50257, 768, 12, 12, 1024, 12)
    )
    model = Decoder(tokens, width, layers, heads, length, generator(0)).to(device, torch.float32)
    model.head.weight = model.token.weight
    text = torch.randint(tokens, (count, length + 1), device=device)

    def loss(forward):
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            logits = forward(text[:, :-1])
            return nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())

    return model, loss


MODELS = {"convolutional network": (convolutional, 20, 6), "transformer": (transformer, 4, 6)}


def observer(name, optimizer, model, folder):
    """What watches a training loop: nothing, a naive hook, or a probe with one of its sets."""
    if name in SETS:
        return Probe(optimizer, folder / name, model=model, quantities=name).attach()
    return NaiveHook(optimizer) if name == "naive .item()" else None


class Loop:
    """A training loop under an observer; several loops may train the same weights, with an optimizer each."""

    def __init__(self, name, model, loss, forward, device, folder):
        fused = torch.device(device).type == "cuda"
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=fused)
        self.watching = observer(name, self.optimizer, model, folder)
        self.loss, self.forward, self.device = loss, forward, device

    def train(self, steps):
        """Take some steps, and wait for the device."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            value = self.loss(self.forward)
            if isinstance(self.watching, Probe):
                self.watching.observe(loss=value)
            value.backward()
            self.optimizer.step()
        synchronize(self.device)

    def flush(self):
        """Bring the rows to the disk."""
        if isinstance(self.watching, Probe):
            self.watching.flush()

    def close(self):
        """End the recording, which must not have failed."""
        if isinstance(self.watching, Probe):
            self.watching.detach()
            assert self.watching.failure is None, self.watching.failure


def seconds(work, *arguments):
    """How long some work takes."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def kernels(loop):
    """How many kernels a step launches, and how long they take in ms; nothing without a GPU."""
    if torch.device(loop.device).type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        loop.train(1)
    found = [event for event in profiler.events() if event.device_type.name == "CUDA"]
    return {"kernels": len(found), "kernel_ms": sum(event.device_time for event in found) / 1e3}


def measured(name, device, mode, miniature):
    """One model: what each observer costs, as a ratio to the bare loop of the same round.

    A probe brings its rows to the disk when they have waited for ``buffer.SECONDS``. That time is measured apart, and
    its share of so many seconds is added to the ratio.
    """
    make, steps, rounds = MODELS[name]
    steps, rounds, warm_ups = (1, 1, 0) if miniature else (steps, rounds, 2)
    model, loss = make(device, miniature)
    forward = torch.compile(model) if mode == "compiled" else model
    names = ("bare", "bare again", *SETS, "naive .item()")
    taken, flushes = {name: [] for name in names}, {name: [] for name in names}
    waits, buffer.SECONDS = buffer.SECONDS, math.inf
    with tempfile.TemporaryDirectory() as folder:
        loops = {name: Loop(name, model, loss, forward, device, Path(folder)) for name in names}
        for k in range(warm_ups + rounds):
            for key, loop in loops.items():
                spent, flushed = seconds(loop.train, steps), seconds(loop.flush)
                if k >= warm_ups:
                    taken[key].append(spent)
                    flushes[key].append(flushed)
        launched = {key: kernels(loop) for key, loop in loops.items()}
        for loop in loops.values():
            loop.close()
    buffer.SECONDS = waits
    weights = sum(parameter.numel() for parameter in model.parameters())
    found = {"model": name, "mode": mode, "weights": weights, "rounds": rounds, "steps": steps}
    found["ms"] = 1e3 * statistics.median(taken["bare"]) / steps
    for key in names:
        flush = statistics.median(flushes[key])
        steps_alone = ratio(taken[key], taken["bare"])
        found[key] = {"ratio": steps_alone + flush / waits, "steps_alone": steps_alone, "flush_ms": 1e3 * flush}
        found[key] |= launched[key]
    return found


if __name__ == "__main__":
    given = parsed(__doc__)
    torch.set_float32_matmul_precision("high")
    found = []
    for mode in ("eager", "compiled"):
        for name in MODELS:
            if given.miniature and mode == "compiled":
                continue
            found.append(measured(name, given.device, mode, given.miniature))
            print(json.dumps(found[-1]), flush=True)
            written = {"device": given.device, "seconds_between_flushes": buffer.SECONDS, "runs": found}
            (given.out / "probe.json").write_text(json.dumps(written, indent=1) + "\n")
