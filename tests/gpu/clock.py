"""Times work on a device: by CUDA events on a GPU, by the clock of the machine elsewhere."""

import statistics
import time

import torch


def is_cuda(device):
    """Whether the device is a GPU with CUDA events, graphs and a profiler."""
    return torch.device(device).type == "cuda"


def synchronize(device):
    """Wait until the device has done its work."""
    if is_cuda(device):
        torch.cuda.synchronize(device)


def milliseconds(work, device, rounds, warm_ups=3):
    """Median time of a call of ``work``, in ms, of several rounds after some that are not timed."""
    for _ in range(warm_ups):
        work()
    synchronize(device)
    if not is_cuda(device):
        taken = []
        for _ in range(rounds):
            start = time.perf_counter()
            work()
            taken.append(1e3 * (time.perf_counter() - start))
        return statistics.median(taken)
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(rounds)]
    for before, after in marks:
        before.record()
        work()
        after.record()
    synchronize(device)
    return statistics.median(before.elapsed_time(after) for before, after in marks)
