"""How a loss is evaluated for a measurement, so that nothing of it is left in the training."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook

Buffers = dict[str, tuple[Tensor, Tensor]]  # by name: the tensor, and a copy of its values


@contextmanager
def plain_arithmetic(device: str) -> Iterator[None]:
    """No autocast, no inference mode and no compiled code, whatever is on around.

    Autocast would round the vectors to a narrow dtype, inference mode makes no graph, and a compiled
    model has no second derivative. It is evaluated by the code from which it was compiled.
    """
    # Nothing is compiled before this module is imported, which takes a second or two.
    compiles = "torch._dynamo" in sys.modules
    with (
        torch.inference_mode(False),
        torch.autocast("cpu", enabled=False),
        torch.autocast(device, enabled=False),
        torch.compiler.set_stance("force_eager") if compiles else nullcontext(),
    ):
        yield


@contextmanager
def differentiable_twice(device: str) -> Iterator[None]:
    """Plain arithmetic in which attention is computed by matrix products, and has all derivatives.

    The fused kernels of ``scaled_dot_product_attention`` have a first derivative only. A model that
    chooses its kernel itself, by ``sdpa_kernel`` around its attention, is not changed.
    """
    with plain_arithmetic(device), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def unchanged_buffers() -> Iterator[None]:
    """Put the buffers of all modules that are called back at the end, bit for bit.

    Batch norm in training mode, for example, changes its running statistics in each forward pass.

    Examples
    --------
    >>> norm = torch.nn.BatchNorm1d(1, momentum=1.0)
    >>> with unchanged_buffers():
    ...     _ = norm(torch.tensor([[2.0], [4.0]]))
    >>> norm.running_mean, norm.num_batches_tracked
    (tensor([0.]), tensor(0))
    """
    kept: dict[int, tuple[torch.nn.Module, Buffers]] = {}

    def keep(module: torch.nn.Module, _) -> None:
        if id(module) not in kept:
            there = {name: buffer for name, buffer in module._buffers.items() if buffer is not None}
            kept[id(module)] = module, {name: (b, b.detach().clone()) for name, b in there.items()}

    hook = register_module_forward_pre_hook(keep)
    try:
        with warnings.catch_warnings():
            # A compiled module would call the hook twice, which does not matter here.
            warnings.filterwarnings("ignore", message="Using `torch.compile.*global hooks")
            yield
    finally:
        hook.remove()
        for module, buffers in kept.values():
            _put_back(module, buffers)


@torch.no_grad()
def _put_back(module: torch.nn.Module, buffers: Buffers) -> None:
    for name, (buffer, before) in buffers.items():
        module._buffers[name] = buffer
        if not torch.equal(buffer, before):  # batch norm does not count its changes of a tensor
            buffer.copy_(before)
