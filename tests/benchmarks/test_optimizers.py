"""What a step with stable decay costs: SGDS, AdamS and AdaiS compared with torch's SGD and AdamW, in turns."""

import statistics
from functools import partial

import pytest
import torch
from benchmarks.turns import ratio, times_in_turns

from swd_dynamics.optim import SGDS, AdaiS, AdamS

ROUNDS = 30
# Numbers read or written for each weight by one pass of each method: θ, g and the state, and what it changes of them.
PASSES = {"copy": 2, "SGD": 5, "SGDS": 7, "AdamW": 7, "AdamS": 8, "AdamS AMSGrad": 12, "AdaiS": 12}


class PerTensorAdamS(torch.optim.Optimizer):
    """AdamS as one writes it down first: a loop over tensors, v̄ from a pass over every v, brought to the host."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        (group,) = self.param_groups
        beta1, beta2 = group["betas"]
        total, count = 0.0, 0
        for p in group["params"]:
            state = self.state[p]
            if not state:
                state.update(k=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
            state["k"] += 1
            state["m"].mul_(beta1).add_(p.grad, alpha=1 - beta1)
            state["v"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            total += state["v"].sum().item() / (1 - beta2 ** state["k"])
            count += p.numel()
        rate = group["lr"] * group["weight_decay"] / (total / count) ** 0.5
        for p in group["params"]:
            state = self.state[p]
            denominator = (state["v"] / (1 - beta2 ** state["k"])).sqrt_().add_(group["eps"])
            p.mul_(1 - rate).addcdiv_(state["m"], denominator, value=-group["lr"] / (1 - beta1 ** state["k"]))


def transformer(width):
    """The 124 weight tensors of a transformer of ten layers."""
    layer = torch.nn.TransformerEncoderLayer(width, 4, 4 * width)
    layers = torch.nn.TransformerEncoder(layer, 10, enable_nested_tensor=False)
    ends = torch.nn.Embedding(96, width), torch.nn.LayerNorm(width), torch.nn.Linear(width, 96, bias=False)
    return [parameter for part in (layers, *ends) for parameter in part.parameters()]


def contestants(tensors):
    """The step of each optimizer, all of them on the same weights and gradients."""
    kernels = {"single": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    momentum = {"lr": 1e-6, "momentum": 0.9}
    makers = {}
    for name, kernel in kernels.items():
        makers["SGD", name] = partial(torch.optim.SGD, **momentum, **kernel)
        makers["SGDS", name] = partial(SGDS, weight_decay=0.1, **momentum, **kernel)
        makers["AdamW", name] = partial(torch.optim.AdamW, lr=1e-6, **kernel)
        makers["AdamS", name] = partial(AdamS, lr=1e-6, **kernel)
    makers["AdamS AMSGrad", "fused"] = partial(AdamS, lr=1e-6, amsgrad=True, fused=True)
    makers["AdaiS", "single"] = partial(AdaiS, lr=1e-6, weight_decay=0.1)
    makers["AdamS", "a loop"] = partial(PerTensorAdamS, lr=1e-6)
    try:
        from pytorch_optimizer import AdamS as PeerAdamS
    except ImportError:
        pass
    else:
        makers["AdamS", "pytorch_optimizer"] = partial(PeerAdamS, lr=1e-6)
    return {name: make(tensors).step for name, make in makers.items()}


def table(weights, taken):
    """Median time, its ratio to torch's own fused step in the same round, and the memory traffic that makes."""
    yield f"{weights / 1e6:.1f} M weights in 124 tensors, float32, {torch.get_num_threads()} threads, {ROUNDS} rounds"
    yield f"{'':14} {'kernel':18} {'ms':>8} {'ratio':>7} {'GB/s':>6}"
    for (name, kernel), seconds in taken.items():
        own = {"SGD": "SGD", "SGDS": "SGD", "copy": "copy"}.get(name, "AdamW")
        reference = taken[own, "fused" if own != "copy" else ""]
        times = ratio(seconds, reference)
        median = statistics.median(seconds)
        yield f"{name:14} {kernel:18} {median * 1e3:8.2f} {times:7.2f} {PASSES[name] * 4 * weights / median / 1e9:6.1f}"


@pytest.mark.parametrize("width", [224, 640], ids=["6M", "50M"])
def test_one_step(benchmark, capsys, width):
    """Assert that every optimizer takes its steps, and print what they cost beside torch's fused ones and a copy."""
    torch.set_num_threads(2)
    tensors = transformer(width)
    weights = sum(tensor.numel() for tensor in tensors)
    for tensor in tensors:
        tensor.grad = torch.randn_like(tensor)
    source, target = torch.randn(weights), torch.empty(weights)
    steps = {("copy", ""): lambda: target.copy_(source)} | contestants(tensors)
    taken = benchmark.pedantic(times_in_turns, args=(steps, ROUNDS), rounds=1)
    with capsys.disabled():
        print("", *table(weights, taken), sep="\n")
    torch.set_num_threads(1)
    assert all(tensor.isfinite().all() for tensor in tensors)
