"""The benchmarks of a GPU as Markdown. Writes benchmarks.md beside machine.json, optimizers.json and probe.json."""

import json
import sys
from pathlib import Path

OBSERVERS = ("bare again", "minimal", "default", "dynamics", "naive .item()")
FORMATS = {"ms": ".2f", "ratio": ".2f", "GB/s": ".0f", "extra_copies": ".1f"}
RECORDING = """
Every step is recorded into a run folder. A number is the median of the times of a few steps, divided by those of the
bare loop in the same round, plus the share of bringing the rows to the disk every {:g} s. The transformer has the sizes
of GPT-2 small: 12 sequences of 1024 tokens in a batch, bfloat16 autocast, AdamW with its fused kernel. The
convolutional network has batches of 1024 images.
"""
STEPS = """
Times by CUDA events, median of 20 steps. × torch's: the time divided by that of SGD (for SGDS) or AdamW (for AdamS and
AdaiS) with the same kernel. GB/s: what a step must read and write, divided by its time.
"""


def rows(head, lines):
    """A table of Markdown."""
    return ["| " + " | ".join(map(str, line)) + " |" for line in (head, ["---"] * len(head), *lines)]


def optimizers(found):
    """A table for each size and dtype, and one of what a step launches."""
    for table in found["tables"]:
        copy = sum(table["copy_GB/s"]) / len(table["copy_GB/s"])
        size = f"{table['weights'] / 1e6:.0f} M weights in 124 tensors, {table['dtype']}"
        yield f"\n{size}; a copy moves {copy:.0f} GB/s:\n"
        lines = []
        for row in table["rows"]:
            numbers = (format(row[key], form) for key, form in FORMATS.items())
            lines.append((row["optimizer"], row["kernel"], *numbers))
        yield from rows(("optimizer", "kernel", "ms", "× torch's", "GB/s", "copies of θ more while it runs"), lines)
    yield "\nOne step in float32, 6 M weights. A graph replays it in the time in the last column:\n"
    keys = ("optimizer", "kernel", "kernels", "copies", "waits_for")
    lines = [(*(row[key] for key in keys), f"{row['graph_ms']:.2f}") for row in found["closely"]]
    yield from rows(("optimizer", "kernel", "kernels", "copies", "waits for", "graph, ms"), lines)


def probe(found):
    """The cost of each set of quantities, as a ratio to the bare loop."""
    lines = []
    for run in found["runs"]:
        ratios = (f"{run[name]['ratio']:.3f}" for name in OBSERVERS)
        lines.append((run["model"], f"{run['weights'] / 1e6:.1f} M", run["mode"], f"{run['ms']:.1f}", *ratios))
    yield from rows(("model", "weights", "mode", "bare step, ms", *OBSERVERS), lines)


def page(folder):
    """The whole page."""
    names = ("machine", "optimizers", "probe")
    machine, steps, cost = (json.loads((folder / f"{name}.json").read_text()) for name in names)
    yield "# Benchmarks on a GPU"
    yield f"\n{machine['name']}, torch {machine['torch']}, Python {machine['python']}, {machine['date']}."
    yield "Made by `.ci/gpu` and `tests/gpu/tables.py`; what is changed by hand is lost."
    yield "\n## What recording costs" + f"\n{RECORDING}".format(cost["seconds_between_flushes"])
    yield from probe(cost)
    yield f"\n## What a step with stable decay costs\n{STEPS}"[:-1]
    yield from optimizers(steps)


if __name__ == "__main__":
    (folder,) = map(Path, sys.argv[1:])
    (folder / "benchmarks.md").write_text("\n".join(page(folder)) + "\n")
