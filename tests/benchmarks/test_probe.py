"""What the probe costs: the same training loop bare and recorded, in turns, so that a noisy machine is fair.

Run with ``python -m pytest tests/benchmarks/test_probe.py --benchmark-only``; the tables are printed. Every number is
the median over rounds of the ratio to the bare loop in the same round; "bare again" says how far to trust it.
"""

import pydoc_data.topics
import statistics
import time

import pytest
import torch
from torch import nn

from swd_dynamics.probe import Probe

BATCH = 64


class NaiveHook:
    """The recorder one writes down first: clones, and a number brought to the host for each parameter and quantity."""

    def __init__(self, optimizer):
        self.rows, self.handles = [], []
        self.handles.append(optimizer.register_step_pre_hook(self.before))
        self.handles.append(optimizer.register_step_post_hook(self.after))

    @torch.no_grad()
    def before(self, optimizer, args, kwargs):
        self.held = [p.clone() for group in optimizer.param_groups for p in group["params"]]

    @torch.no_grad()
    def after(self, optimizer, args, kwargs):
        row = []
        for old, p in zip(self.held, (p for group in optimizer.param_groups for p in group["params"]), strict=True):
            update, state = p - old, optimizer.state[p]
            numbers = old.norm(), p.grad.norm(), update.norm(), nn.functional.cosine_similarity(old, update, 0).mean()
            m, v = state["exp_avg"], state["exp_avg_sq"]
            numbers += m.norm(), (p.grad * m).sum(), v.mean(), (update != 0).float().mean()
            row.append([number.item() for number in numbers])
        self.rows.append(row)


class Attention(nn.Module):
    """A block of a transformer: causal attention and a two-layer network, each on a normalised input."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        parts = self.mix(self.norms[0](x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.feed(self.norms[1](x))


def convolutional():
    """1.2 M parameters on images of 28 × 28: two convolutions and two linear layers."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    x, y = torch.randn(BATCH, 1, 28, 28), torch.randint(10, (BATCH,))
    return model, lambda: nn.functional.cross_entropy(model(x), y)


def transformer(width=128, layers=5, length=64):
    """1 M parameters on the characters of Python's own documentation."""
    text = "\n".join(pydoc_data.topics.topics.values())
    letters = {letter: i for i, letter in enumerate(sorted(set(text)))}
    codes = torch.tensor([letters[letter] for letter in text])
    ends = nn.Embedding(len(letters), width), nn.Linear(width, len(letters))
    model = nn.Sequential(ends[0], *(Attention(width) for _ in range(layers)), nn.LayerNorm(width), ends[1])

    def loss():
        starts = torch.randint(len(codes) - length - 1, (BATCH, 1)) + torch.arange(length + 1)
        x, y = codes[starts][:, :-1], codes[starts][:, 1:]
        return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())

    return model, loss


def tiny():
    """64-32-10 on digits of 8 × 8."""
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    x, y = torch.randn(BATCH, 64), torch.randint(10, (BATCH,))
    return model, lambda: nn.functional.cross_entropy(model(x), y)


def wide(weights):
    """A linear layer of so many weights: its step is little but the optimizer's."""
    model = nn.Linear(1000, weights // 1000, bias=False)
    x = torch.randn(1, 1000)
    return model, lambda: model(x).square().mean()


def trainer(make, steps, observer):
    """A function that trains for a few steps more, under an observer."""
    torch.manual_seed(0)
    model, loss = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    watching = observer(optimizer, model)

    def train():
        for _ in range(steps):
            optimizer.zero_grad()
            value = loss()
            if isinstance(watching, object) and hasattr(watching, "observe"):
                watching.observe(loss=value)
            value.backward()
            optimizer.step()

    return train, watching


def observers(folder):
    """Bare, every set of the probe, and a naive hook."""
    made = {name: lambda optimizer, model: None for name in ("bare", "bare again")}
    made |= {"naive .item()": lambda optimizer, model: NaiveHook(optimizer)}
    for name in ("minimal", "default", "dynamics"):
        made[name] = lambda optimizer, model, name=name: Probe(
            optimizer, folder / name, model=model, quantities=name
        ).attach()
    made["default, every 10"] = lambda optimizer, model: Probe(
        optimizer, folder / "tenth", model=model, every=10
    ).attach()
    return made


def times_in_turns(trainers, rounds):
    """Seconds of each, one of each in every round: lists of the same length."""
    taken = {name: [] for name in trainers}
    for train in trainers.values():
        train()
    for _ in range(rounds):
        for name, train in trainers.items():
            start = time.perf_counter()
            train()
            taken[name].append(time.perf_counter() - start)
    return taken


def ratios(taken):
    """The median ratio of each to bare, and the ratio of the whole times."""
    bare = taken["bare"]
    for name, seconds in taken.items():
        yield name, statistics.median(a / b for a, b in zip(seconds, bare, strict=True)), sum(seconds) / sum(bare)


SIZES = {"tiny": (tiny, 100, 40, 1), "conv": (convolutional, 4, 40, 2), "transformer": (transformer, 1, 25, 2)}


@pytest.mark.parametrize("name", SIZES)
def test_overhead(benchmark, capsys, tmp_path, name):
    """Assert that the steps are recorded, and print what that costs beside the bare loop and a naive hook."""
    make, steps, rounds, threads = SIZES[name]
    torch.set_num_threads(threads)
    made = {key: trainer(make, steps, observer) for key, observer in observers(tmp_path).items()}
    trainers = {key: train for key, (train, _) in made.items()}
    taken = benchmark.pedantic(times_in_turns, args=(trainers, rounds), rounds=1)
    probe = made["default"][1]
    assert probe.dataset().sizes["step"] == (rounds + 1) * steps
    for _, watching in made.values():
        if hasattr(watching, "detach"):
            watching.detach()
    torch.set_num_threads(1)
    with capsys.disabled():
        print(f"\n{name}: {probe.layout.weights} weights, {threads} threads, batch {BATCH}, {rounds} rounds of {steps}")
        print(f"a bare step {statistics.median(taken['bare']) / steps * 1e3:.2f} ms")
        print(*(f"{key:18} median {middle:5.2f}  whole {whole:5.2f}" for key, middle, whole in ratios(taken)), sep="\n")


@pytest.mark.parametrize("weights", [10**5, 10**6, 10**7])
def test_cost_for_each_parameter(benchmark, capsys, tmp_path, weights):
    """Assert that the steps are recorded, and print the cost of one weight's recording in one step."""
    torch.set_num_threads(2)
    steps = max(1, 10**6 // weights)
    made = {key: trainer(lambda: wide(weights), steps, observers(tmp_path)[key]) for key in ("bare", "default")}
    taken = benchmark.pedantic(times_in_turns, args=({key: train for key, (train, _) in made.items()}, 25), rounds=1)
    made["default"][1].detach()
    torch.set_num_threads(1)
    extra = statistics.median(a - b for a, b in zip(taken["default"], taken["bare"], strict=True)) / steps
    with capsys.disabled():
        print(f"\n{weights:9} weights: {extra / weights * 1e9:6.2f} ns more for each weight and step")
    assert made["default"][1].failure is None
