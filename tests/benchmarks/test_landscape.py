"""What the quantities of the landscape cost: a measured training step beside a bare one, in turns, on a transformer.

Every number is the median over rounds of the ratio to the bare step in the same round, less the 1 that is the step
itself. The landscape is the loss of one batch of the same size, so that a cost on all the data is larger by the number
of batches. Searches start from the eigenvectors of the step before, as in a recording.
"""

import torch
from benchmarks.turns import ratio, times_in_turns

from swd_dynamics.probe import Landscape, Probe
from swd_dynamics.tasks import character_transformer

BATCH, STEPS, ROUNDS = 16, 1, 3
MEASURED = {  # the quantity, and k
    "critical_sharpness": ("critical_sharpness", 1),
    "sharpness, k = 1": ("sharpness", 1),
    "sharpness, k = 3": ("sharpness", 3),
    "lifting_decay, k = 1": ("lifting_decay", 1),
}


def trainer(measured=None):
    """A function that trains a transformer of 30 000 weights for a few steps, and its probe."""
    task, probe = character_transformer(width=32, layers=2, batch_size=BATCH), None
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    if measured:
        name, k = measured
        landscape = Landscape(lambda: task.loss(0), k=k)
        probe = Probe(optimizer, quantities=[name], landscape=landscape).attach()

    def train():
        for k in range(STEPS):
            optimizer.zero_grad()
            task.loss(k).backward()
            optimizer.step()

    return train, probe


def test_cost_of_the_landscape(benchmark, capsys):
    """Assert that every quantity is measured, the critical sharpness at the least cost; print costs in steps."""
    made = {"bare": trainer()} | {name: trainer(measured) for name, measured in MEASURED.items()}
    functions = {name: train for name, (train, _) in made.items()}
    taken = benchmark.pedantic(times_in_turns, args=(functions, ROUNDS), rounds=1)
    costs = {name: ratio(seconds, taken["bare"]) - 1 for name, seconds in taken.items() if name != "bare"}
    with capsys.disabled():
        print(f"\none thread, batches of {BATCH}; a bare step takes {1e3 * min(taken['bare']) / STEPS:.0f} ms")
        print(*(f"{name:32} {cost:6.1f} training steps" for name, cost in costs.items()), sep="\n")
    for name, (_, probe) in made.items():
        if probe is not None:
            recorded = probe.dataset()[MEASURED[name][0]]
            probe.detach()
            assert recorded.notnull().all(), name
    assert min(costs, key=costs.__getitem__) == "critical_sharpness"
