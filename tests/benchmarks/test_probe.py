"""What the probe costs: the same training loop bare and recorded, in turns.

Every number is the median over rounds of the ratio to the bare loop in the same round; "bare again" says how far to
trust it. The probe is also compared with a naive hook and, where it is installed, with Cockpit's economy set.
"""

import statistics
import subprocess
import sys
import warnings

import pytest
import torch
from benchmarks.turns import WARM_UPS, ratio, times_in_turns
from torch import nn

from swd_dynamics.probe import Probe
from swd_dynamics.tasks import character_transformer, convolutional_network, tanh_network

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


def tiny():
    """64-32-10 on digits of 8 × 8."""
    return tanh_network(hidden=(32,), dtype=torch.float32).model, torch.randn(BATCH, 64)


def convolutional():
    """1.2 M parameters on images of 28 × 28."""
    return convolutional_network().model, torch.randn(BATCH, 1, 28, 28)


def transformer():
    """1 M parameters on the characters of Python's own documentation."""
    task = character_transformer(batch_size=BATCH)
    return task.model, lambda: task.loss(0)


def wide(weights):
    """A linear layer of so many weights: its step is little but the optimizer's."""
    model, x = nn.Linear(1000, weights // 1000, bias=False), torch.randn(1, 1000)
    return model, lambda: model(x).square().mean()


def trained(make):
    """A model, its optimizer, and its loss on a batch, or the batch."""
    torch.manual_seed(0)
    model, batch = make()
    labels = torch.randint(10, (BATCH,))
    loss = batch if callable(batch) else lambda: nn.functional.cross_entropy(model(batch), labels)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-4), loss, (batch, labels)


def trainer(make, steps, observer):
    """A function that trains for a few steps more, under an observer."""
    model, optimizer, loss, _ = trained(make)
    watching = observer(optimizer, model)

    def train():
        for _ in range(steps):
            optimizer.zero_grad()
            value = loss()
            if hasattr(watching, "observe"):
                watching.observe(loss=value)
            value.backward()
            optimizer.step()

    return train, watching


def cockpit_trainer(make, steps):
    """The same under Cockpit's economy set, which takes its samples in the backward pass and in its own context."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backpack, cockpit = pytest.importorskip("backpack"), pytest.importorskip("cockpit")
        from cockpit.utils.configuration import configuration
    model, optimizer, _, (batch, labels) = trained(make)
    model, mean = backpack.extend(model), backpack.extend(nn.CrossEntropyLoss())
    each, watching = (
        nn.CrossEntropyLoss(reduction="none"),
        cockpit.Cockpit(model.parameters(), configuration("economy")),
    )
    taken = iter(range(10**9))

    def train():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for k in (next(taken) for _ in range(steps)):
                optimizer.zero_grad()
                outputs = model(batch)
                loss, losses = mean(outputs, labels), each(outputs, labels)
                info = {"batch_size": BATCH, "individual_losses": losses, "loss": loss, "optimizer": optimizer}
                with watching(k, info=info):
                    loss.backward(create_graph=watching.create_graph(k))
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


def table(capsys, title, taken, steps):
    """Print what each costs: the median ratio to the bare loop in the same round, and the ratio of the whole times."""
    bare = taken["bare"]
    with capsys.disabled():
        print(f"\n{title}; a bare step takes {statistics.median(bare) / steps * 1e3:.2f} ms")
        for name, seconds in taken.items():
            print(f"{name:18} median {ratio(seconds, bare):6.2f}  whole {sum(seconds) / sum(bare):6.2f}")


SIZES = {"tiny": (tiny, 100, 40, 1), "conv": (convolutional, 4, 40, 2), "transformer": (transformer, 1, 25, 2)}


@pytest.mark.parametrize("name", SIZES)
def test_overhead(benchmark, capsys, tmp_path, name):
    """Assert that the steps are recorded, and print what that costs beside the bare loop and a naive hook."""
    make, steps, rounds, threads = SIZES[name]
    torch.set_num_threads(threads)
    made = {key: trainer(make, steps, observer) for key, observer in observers(tmp_path).items()}
    taken = benchmark.pedantic(
        times_in_turns, args=({key: train for key, (train, _) in made.items()}, rounds), rounds=1
    )
    probe = made["default"][1]
    assert probe.dataset().sizes["step"] == (rounds + WARM_UPS) * steps
    for _, watching in made.values():
        if hasattr(watching, "detach"):
            watching.detach()
    torch.set_num_threads(1)
    table(capsys, f"{name}: {probe.layout.weights} weights, {threads} threads, batch {BATCH}", taken, steps)


@pytest.mark.parametrize("name", ["tiny", "conv"])  # it knows no attention
def test_overhead_of_cockpit(benchmark, capsys, name):
    """Assert that Cockpit's economy set records, and print what that costs."""
    make, steps, rounds, threads = SIZES[name]
    steps, rounds = max(1, steps // 10), rounds // 4
    torch.set_num_threads(threads)
    cockpit, watching = cockpit_trainer(make, steps)
    bare, _ = trainer(make, steps, lambda optimizer, model: None)
    taken = benchmark.pedantic(times_in_turns, args=({"bare": bare, "Cockpit economy": cockpit}, rounds), rounds=1)
    torch.set_num_threads(1)
    assert watching.quantities
    table(capsys, f"{name}, {threads} threads, batch {BATCH}", taken, steps)


@pytest.mark.parametrize("weights", [10**5, 10**6, 10**7, 10**8])
def test_cost_for_each_parameter(benchmark, capsys, tmp_path, weights):
    """Assert that the steps are recorded, and print the cost of one weight's recording in one step."""
    torch.set_num_threads(2)
    steps, rounds = max(1, 10**6 // weights), 25 if weights < 10**8 else 7
    made = {key: trainer(lambda: wide(weights), steps, observers(tmp_path)[key]) for key in ("bare", "default")}
    taken = benchmark.pedantic(
        times_in_turns, args=({key: train for key, (train, _) in made.items()}, rounds), rounds=1
    )
    made["default"][1].detach()
    torch.set_num_threads(1)
    extra = statistics.median(a - b for a, b in zip(taken["default"], taken["bare"], strict=True)) / steps
    with capsys.disabled():
        print(f"\n{weights:9} weights: {extra / weights * 1e9:6.2f} ns more for each weight and step")
    assert made["default"][1].failure is None


# Prints the most memory that a process held while it trained, in bytes.
TRAINING = """
import re, sys, tempfile, torch
from swd_dynamics.probe import Probe
torch.set_num_threads(2)
model = torch.nn.Linear(5000, 5000, bias=False)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=False)
probe = Probe(optimizer, tempfile.mkdtemp(), quantities=sys.argv[1]).attach() if sys.argv[1] != "bare" else None
x = torch.randn(1, 5000)
for _ in range(3):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
if probe:
    probe.detach()
status = open("/proc/self/status").read()  # its VmHWM, unlike ru_maxrss, does not know the process that started it
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]) * 1024)
"""


def test_peak_memory(benchmark, capsys):
    """Assert that the default set holds at most a copy of 25 M parameters more than bare training, "minimal" none."""

    def most(name):
        return int(subprocess.run([sys.executable, "-c", TRAINING, name], check=True, capture_output=True).stdout)

    peaks = benchmark.pedantic(lambda: {n: most(n) for n in ("bare", "minimal", "default", "dynamics")}, rounds=1)
    copies = {name: (peak - peaks["bare"]) / (4 * 25e6) for name, peak in peaks.items()}
    with capsys.disabled():
        print("\npeak memory beyond bare training, in copies of 25 M parameters:")
        print(*(f"{name:10} {extra:5.2f}" for name, extra in copies.items()), sep="\n")
    libraries = 0.3  # what only the probe imports (xarray, zarr, numcodecs): 30 MB
    for name, allowed in {"minimal": 0, "default": 1, "dynamics": 2}.items():
        assert copies[name] < allowed + libraries
