"""torch's kernels behind the optimizers: single, foreach, fused, compiled, scaled, and on an accelerator unread."""

import copy
import pickle

import pytest
import torch
from no_waiting import never_waits
from optim.conformance import KERNELS
from optimizer_runs import OPTIMIZERS, ROUND_OFF, largest_difference, take_steps, weights
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from swd_dynamics.errors import InputError
from swd_dynamics.optim import SGDS, AdaiS, AdamS
from swd_dynamics.optim.decay import shrink

# In a compiled step torch's Adam corrects the bias in its step count's float32.
COMPILED = 1e-5

KERNELS_OF = [(name, kernel) for name in OPTIMIZERS for kernel in KERNELS if (name, kernel) != ("AdaiS", "fused")]
every_kernel = pytest.mark.parametrize(("name", "kernel"), KERNELS_OF)
WITH_FUSED = [name for name in OPTIMIZERS if name != "AdaiS"]


def make(name, kernel, tensors, **arguments):
    return OPTIMIZERS[name](tensors, **KERNELS[kernel], **arguments)


@every_kernel
@pytest.mark.parametrize("maximize", [False, True])
def test_every_kernel_takes_the_same_steps(name, kernel, maximize):
    """Assert that 50 float64 steps of single, foreach and fused kernels are the same, climbing or descending."""
    reference, tensors = weights((4, 3), 5, ()), weights((4, 3), 5, ())
    take_steps(OPTIMIZERS[name](reference, maximize=maximize), reference, 50)
    take_steps(make(name, kernel, tensors, maximize=maximize), tensors, 50)
    assert largest_difference(reference, tensors) < ROUND_OFF


def test_the_fused_sgd_that_leaves_weights_where_they_are_is_refused():
    """Assert that half precision on the CPU is refused where torch's fused SGD skips it, and nowhere else."""
    theta = torch.zeros(64, dtype=torch.bfloat16, requires_grad=True)
    theta.grad = torch.ones_like(theta)
    torch.optim.SGD([theta], lr=1.0, fused=True).step()
    if theta.detach().eq(-1).all():
        SGDS([theta], fused=True)
    else:
        with pytest.raises(InputError, match=r"fused=True is not allowed here: .* leaves torch\.bfloat16 weights"):
            SGDS([theta], fused=True)
    SGDS([theta], foreach=True)
    SGDS([theta.detach().float().requires_grad_()], fused=True)


def test_a_step_of_no_low_precision_kernel_loses_the_decay():
    """Assert that a decay below bfloat16's resolution of 1 still gets its share before the weight is rounded."""
    theta = torch.full((4,), 3.0, dtype=torch.bfloat16)
    shrink([theta], torch.tensor(2.0**-8, dtype=torch.float64))
    assert theta.tolist() == [torch.tensor(3 * (1 - 2.0**-8)).bfloat16().item()] * 4
    assert theta[0] < 3


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.3, 1.7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_tensor_shrinks_as_a_number_does(rate, dtype):
    """Assert that the decay by a tensor, as an accelerator takes it, is the decay by a number."""
    one, other = (torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=dtype) for _ in range(2))
    shrink([one], rate)
    shrink([other], torch.tensor(rate, dtype=torch.float64))
    assert torch.allclose(one, other, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("found_inf", [False, True])
@pytest.mark.parametrize("name", WITH_FUSED)
def test_fused_steps_take_scaled_gradients(name, found_inf):
    """Assert that a fused step under a gradient scaler is the step on the unscaled gradient, and a refused one none."""
    reference, tensors = weights(4, 3), weights(4, 3)
    plain, scaled = OPTIMIZERS[name](reference), make(name, "fused", tensors)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    for step in range(8):
        refused = found_inf and step in (0, 4)
        for mine, tensor in zip(reference, tensors, strict=True):
            gradient = torch.randn(mine.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            mine.grad = gradient
            loss = (tensor * gradient).sum() * (torch.inf if refused else 1)
            tensor.grad = torch.autograd.grad(scaler.scale(loss), tensor)[0]
        if not refused:
            plain.step()
        scaler.step(scaled)
        scaler.update()
        if refused:
            assert scaled.param_groups[0]["decay_rate"] == 0
    assert largest_difference(reference, tensors) < ROUND_OFF
    assert plain.param_groups[0]["decay_rate"] == pytest.approx(scaled.param_groups[0]["decay_rate"], rel=ROUND_OFF)


@pytest.mark.parametrize("kernel", ["single", "foreach"])
def test_a_scaler_unscales_for_the_other_kernels(kernel):
    """Assert that an unfused AdamS leaves scaling to the scaler, as torch's AdamW does."""
    reference, tensors = weights(4), weights(4)
    plain, scaled = make("AdamS", kernel, reference), make("AdamS", kernel, tensors)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    take_steps(plain, reference, 1)
    loss = (tensors[0] * reference[0].grad).sum()
    tensors[0].grad = torch.autograd.grad(scaler.scale(loss), tensors[0])[0]
    scaler.step(scaled)
    assert largest_difference(reference, tensors) < ROUND_OFF


# Steps whose counts lie on the device; the others read theirs from the host's memory, which a fake tensor has not.
ON_FAKE_CUDA = {
    "AdamS fused": lambda params: AdamS(params, lr=0.1, weight_decay=0.1, fused=True),
    "AdamS fused, scaled": lambda params: AdamS(params, lr=0.1, weight_decay=0.1, fused=True),
    "AdamS AMSGrad": lambda params: AdamS(params, lr=0.1, weight_decay=0.1, amsgrad=True, fused=True),
    "AdamS foreach": lambda params: AdamS(params, lr=0.1, weight_decay=0.1, capturable=True),
    "AdamS capped": lambda params: AdamS(params, lr=0.1, weight_decay=0.1, capturable=True, max_decay_rate=0.5),
    "AdaiS": lambda params: AdaiS(params, lr=0.1, weight_decay=0.1, capturable=True),
    "SGDS": lambda params: SGDS(params, lr=0.1, momentum=0.9, weight_decay=0.1),
    "SGDS foreach": lambda params: SGDS(params, lr=0.1, momentum=0.9, weight_decay=0.1, foreach=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ON_FAKE_CUDA)
@pytest.mark.slow
def test_no_step_on_an_accelerator_reads_a_value(name, dtype):
    """Assert that steps on a CUDA device bring nothing to the host: fake tensors have nothing to bring, and say so."""
    with FakeTensorMode():
        tensors = [torch.zeros(size, device="cuda", dtype=dtype, requires_grad=True) for size in ((4, 3), (5,))]
        optimizer = ON_FAKE_CUDA[name](tensors)
        for step in range(3):
            for tensor in tensors:
                tensor.grad = torch.zeros_like(tensor)
            tensors[0].grad = None if step == 2 else tensors[0].grad
            if name.endswith("scaled"):
                optimizer.grad_scale = optimizer.found_inf = torch.zeros((), device="cuda")
            optimizer.step()
        published = optimizer.param_groups[0]["decay_rate"]
        assert isinstance(published, float) or published.device.type == "cuda"
        with pytest.raises(DataDependentOutputException):
            tensors[0].detach().sum().item()


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_compiled_step(name):
    """Assert that a compiled step is the step, also taken over in mid-run, with a changed learning rate, and back."""
    reference, tensors = weights((4, 3), 5), weights((4, 3), 5)
    plain, compiled = OPTIMIZERS[name](reference), OPTIMIZERS[name](tensors)
    step = torch.compile(compiled.step, backend="eager")
    for k, taken in enumerate([compiled.step, step, step, step, compiled.step]):
        for mine, other in zip(reference, tensors, strict=True):
            mine.grad = torch.randn(mine.shape, generator=torch.Generator().manual_seed(k), dtype=mine.dtype)
            other.grad = mine.grad.clone()
        plain.step()
        taken()
        for optimizer in (plain, compiled):
            optimizer.param_groups[0]["lr"] = 0.1 / (k + 1)
    assert largest_difference(reference, tensors) < (COMPILED if name.startswith("AdamS") else ROUND_OFF)
    assert float(compiled.param_groups[0]["decay_rate"]) == pytest.approx(plain.param_groups[0]["decay_rate"])


@every_kernel
def test_pickles_and_copies_go_on_alike(name, kernel):
    """Assert that a pickled and a deep-copied optimizer go on bit for bit as the one they were made from."""
    tensors = weights((4, 3), 5)
    optimizer = make(name, kernel, tensors)
    take_steps(optimizer, tensors, 3)
    others = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    take_steps(optimizer, tensors, 3, first=3)
    for other in others:
        its = other.param_groups[0]["params"]
        take_steps(other, its, 3, first=3)
        assert largest_difference(tensors, its) == 0


@pytest.mark.parametrize("kernel", ["single", "foreach", "fused"])
def test_memory_is_adamws(kernel):
    """Assert that AdamS holds what AdamW holds and one number for each tensor, and allocates no more in a step."""
    allocated, held = {}, {}
    for optimizer_class in (torch.optim.AdamW, AdamS):
        (theta,) = weights((300, 300), dtype=torch.float32)
        optimizer = optimizer_class([theta], **KERNELS[kernel])
        take_steps(optimizer, [theta], 2)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            optimizer.step()
        sizes = [event.self_cpu_memory_usage for event in seen.events()]
        allocated[optimizer_class] = sum(size for size in sizes if size > 0)
        held[optimizer_class] = sum(
            value.numel() for value in optimizer.state[theta].values() if torch.is_tensor(value)
        )
    assert held[AdamS] == held[torch.optim.AdamW] + 1
    assert allocated[AdamS] - allocated[torch.optim.AdamW] < 1000  # bytes; θ has 360 000


def test_fused_and_foreach_exclude_each_other():
    """Assert that asking for both kernels is refused in words."""
    with pytest.raises(InputError, match="fused and foreach cannot both be True"):
        AdamS(weights(2), fused=True, foreach=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_kernel
def test_on_a_gpu_no_step_waits_for_the_device(name, kernel):
    """Assert that the steps on a CUDA device are those on the CPU, and that none of them synchronises."""
    here, there = weights((4, 3), 5), weights((4, 3), 5, device="cuda")
    optimizer = make(name, kernel, there)
    take_steps(OPTIMIZERS[name](here), here, 4)
    take_steps(optimizer, there, 3)
    for tensor in there:
        tensor.grad = torch.zeros_like(tensor)
    with never_waits():
        for tensor, other in zip(there, here, strict=True):
            tensor.grad.copy_(other.grad.to("cuda", non_blocking=True), non_blocking=True)
        optimizer.step()
    assert largest_difference(here, [tensor.cpu() for tensor in there]) < ROUND_OFF


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kernel", ["foreach", "fused"])
def test_a_cuda_graph_replays_the_step(kernel):
    """Assert that a captured step, replayed, follows the gradients and its own state, as an uncaptured one does."""
    here, there = weights((4, 3), 5), weights((4, 3), 5, device="cuda")
    plain, captured = make("AdamS", kernel, here), make("AdamS", kernel, there, capturable=True)
    take_steps(plain, here, 3)
    take_steps(captured, there, 3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    for step in range(3, 6):
        for tensor, other in zip(here, there, strict=True):
            tensor.grad = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            other.grad.copy_(tensor.grad)
        plain.step()
        graph.replay()
    allowed = ROUND_OFF if kernel == "fused" else COMPILED  # foreach corrects the bias as a compiled step does
    assert largest_difference(here, [tensor.cpu() for tensor in there]) < allowed
    assert float(captured.param_groups[0]["decay_rate"]) == pytest.approx(plain.param_groups[0]["decay_rate"])
