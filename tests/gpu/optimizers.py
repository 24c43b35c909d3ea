"""AdamS, SGDS and AdaiS beside torch's AdamW and SGD, with the kernels foreach and fused. Writes optimizers.json.

For each size, dtype, optimizer and kernel: the time of a step, its ratio to torch's own optimizer with the same kernel,
the memory traffic that this makes beside a device-to-device copy, and the most memory that a step takes beyond what
stays. For the smallest size also: how many kernels a step launches, whether it waits for the device, and whether a CUDA
graph can hold it.
"""

import json
from collections import Counter
from functools import partial

import torch
from benchmarks.test_optimizers import PASSES, transformer
from gpu.arguments import parsed
from gpu.clock import is_cuda, milliseconds, synchronize

from swd_dynamics.optim import SGDS, AdaiS, AdamS

WIDTHS = {"6M": 224, "50M": 640, "1B": 2880}  # of a transformer with ten layers
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SGD, ADAM = {"lr": 1e-6, "momentum": 0.9}, {"lr": 1e-6, "weight_decay": 0.1}
MAKERS = {
    "SGD": (torch.optim.SGD, SGD, ("foreach", "fused")),
    "SGDS": (SGDS, SGD | {"weight_decay": 0.1}, ("foreach", "fused")),
    "AdamW": (torch.optim.AdamW, ADAM, ("foreach", "fused")),
    "AdamS": (AdamS, ADAM, ("foreach", "fused")),
    "AdaiS": (AdaiS, ADAM, ("foreach",)),
}
REFERENCE = {"SGD": "SGD", "SGDS": "SGD", "AdamW": "AdamW", "AdamS": "AdamW", "AdaiS": "AdamW"}


def makers():
    """Name, kernel, and what makes the optimizer of some parameters."""
    for name, (optimizer, arguments, kernels) in MAKERS.items():
        for kernel in kernels:
            yield name, kernel, partial(optimizer, **arguments, **{kernel: True})


def parameters(width, device, dtype):
    """The tensors of a transformer, with random gradients."""
    with torch.device(device):
        tensors = transformer(width)
    for tensor in tensors:
        tensor.data = tensor.data.to(dtype)
        tensor.grad = torch.randn_like(tensor)
    return tensors


def copy_speed(weights, device, dtype, rounds):
    """Bytes read and written by a device-to-device copy, in GB/s."""
    source, target = torch.randn(weights, device=device, dtype=dtype), torch.empty(weights, device=device, dtype=dtype)
    taken = milliseconds(lambda: target.copy_(source), device, rounds)
    return 2 * weights * source.element_size() / taken / 1e6


def measured(tensors, name, make, device, rounds):
    """The time of a step, the traffic that it makes, and the most memory that it takes meanwhile."""
    optimizer = make(tensors)
    taken = milliseconds(optimizer.step, device, rounds)
    weights, size = sum(tensor.numel() for tensor in tensors), tensors[0].element_size()
    found = {"ms": taken, "GB/s": PASSES[name] * size * weights / taken / 1e6}
    if is_cuda(device):
        synchronize(device)
        stays = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        optimizer.step()
        synchronize(device)
        found["extra_copies"] = (torch.cuda.max_memory_allocated(device) - stays) / (size * weights)
    return found


def launches(tensors, make):
    """Kernels that a step launches, and copies between host and device."""
    from torch.profiler import ProfilerActivity, profile

    optimizer = make(tensors)
    for _ in range(3):
        optimizer.step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        optimizer.step()
        torch.cuda.synchronize()
    names = [event.name for event in profiler.events() if event.device_type.name == "CUDA"]
    copies = [name for name in names if name.startswith("Mem")]
    often = {name[:80]: count for name, count in Counter(names).most_common(3)}
    return {"kernels": len(names) - len(copies), "copies": len(copies), "most_often": often}


def waits(tensors, make):
    """What makes a step wait for the device; "nothing" if it does not wait."""
    optimizer = make(tensors)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            optimizer.step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "nothing"


def captured(tensors, make, adam):
    """The time in ms of a step that a CUDA graph replays, or torch's reason why no graph can hold it."""
    optimizer = make(tensors, **({"capturable": True} if adam else {}))
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        for _ in range(3):
            optimizer.step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            optimizer.step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return milliseconds(graph.replay, "cuda", 20)


def row(tensors, name, kernel, work):
    """One optimizer on some tensors; what went wrong stands under ``error``."""
    found = {"optimizer": name, "kernel": kernel}
    try:
        found |= work(tensors)
    except (RuntimeError, ValueError) as error:  # a kernel that this device does not have, or too little memory
        found["error"] = str(error).splitlines()[0]
    return found | {"finite": all(bool(tensor.isfinite().all()) for tensor in tensors)}


def closely(width, device):
    """What a step launches and waits for, and whether a graph can hold it, of each optimizer in float32."""
    for name, kernel, make in makers():
        adam = name.startswith("Ada")

        def work(tensors, make=make, adam=adam):
            found = launches(tensors, make) | {"waits_for": waits(tensors, make)}
            return found | {"graph_ms": captured(tensors, make, adam)}

        yield row(parameters(width, device, torch.float32), name, kernel, work)


def table(size, width, dtype, device, rounds):
    """All optimizers on one size and dtype, with the speed of a copy before and after them."""
    weights = sum(tensor.numel() for tensor in parameters(width, device, DTYPES[dtype]))
    copies, rows = [copy_speed(weights, device, DTYPES[dtype], rounds)], []
    for name, kernel, make in makers():
        tensors = parameters(width, device, DTYPES[dtype])
        found = row(tensors, name, kernel, partial(measured, name=name, make=make, device=device, rounds=rounds))
        own = next((r.get("ms") for r in rows if (r["optimizer"], r["kernel"]) == (REFERENCE[name], kernel)), None)
        if "ms" in found:
            found["ratio"] = found["ms"] / (own or found["ms"])
        rows.append(found)
        print(size, dtype, json.dumps(found), flush=True)
        del tensors
        if is_cuda(device):
            torch.cuda.empty_cache()
    copies.append(copy_speed(weights, device, DTYPES[dtype], rounds))
    return {"size": size, "weights": weights, "dtype": dtype, "copy_GB/s": copies, "rounds": rounds, "rows": rows}


if __name__ == "__main__":
    given = parsed(__doc__)
    widths, rounds = ({"tiny": 16}, 2) if given.miniature else (WIDTHS, 20)
    found = {"device": given.device, "tables": [], "closely": []}

    def write():
        (given.out / "optimizers.json").write_text(json.dumps(found, indent=1) + "\n")

    for size, width in widths.items():
        for dtype in DTYPES:
            found["tables"].append(table(size, width, dtype, given.device, rounds))
            write()
    # At the end, because a failed capture of a graph can leave CUDA unusable.
    for seen in closely(next(iter(widths.values())), given.device) if is_cuda(given.device) else ():
        found["closely"].append(seen)
        print(json.dumps(seen), flush=True)
        write()
