"""torch's own descriptions of optimizers under test, for SGDS, AdamS and AdaiS.

``torch.testing._internal.common_optimizers`` holds the arguments with which torch tests each of its optimizers, and
those that each must refuse. The tests themselves are not in torch's wheels: ``test_as_torch.py`` states them again.
"""

from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from swd_dynamics.optim import SGDS, AdaiS, AdamS

NAMES = ["SGDS", "AdamS", "AdaiS"]


@cache
def infos() -> dict[str, Any]:
    """torch's ``OptimizerInfo`` of each optimizer, by name. The import takes seconds, so that it is made here."""
    pytest.importorskip("expecttest", reason="torch's own tests need it")
    from torch.testing._internal import common_optimizers as torchs

    known = {info.name: info for info in torchs.optim_db}

    def described(of: type, like: str, inputs: Any, **other: Any) -> Any:
        flags = ("foreach", "fused", "maximize", "capturable")
        description = {"supported_impls": ("foreach", "fused"), "supports_fused_on": ("cpu", "cuda")} | other
        return torchs.OptimizerInfo(
            of,
            optim_inputs_func=inputs,
            optim_error_inputs_func=known[like].optim_error_inputs_func,
            scheduler_inputs=known[like].scheduler_inputs,
            not_og_supported_flags=flags,
            supports_complex=False,
            **description,
        )

    def adams(device, dtype=None):
        inputs = torchs.optim_inputs_func_adam(device, dtype)
        return [each for each in inputs if not isinstance(each.kwargs.get("betas", (0,))[0], torch.Tensor)]

    def adais(device, dtype=None):
        return [each for each in adams(device, dtype) if "amsgrad" not in each.kwargs]

    return {
        "SGDS": described(SGDS, "SGD", torchs.optim_inputs_func_sgd),
        "AdamS": described(AdamS, "AdamW", adams, has_capturable_arg=True),
        "AdaiS": described(AdaiS, "AdamW", adais, has_capturable_arg=True, supported_impls=("foreach",)),
    }


def configurations(name: str, kernels: bool = True) -> list[dict[str, Any]]:
    """All arguments with which torch tests an optimizer on the CPU: each alone, with foreach, and with fused."""
    info = infos()[name]
    from torch.testing._internal import common_optimizers as torchs

    inputs = torchs._get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float32, info)
    if not kernels:
        inputs = info.optim_inputs_func(device="cpu")
    return [deepcopy(each.kwargs) for each in inputs]


def layer(contiguous: bool = True) -> tuple[list[nn.Parameter], torch.Tensor]:
    """A weight and a bias, and an input for them."""
    torch.manual_seed(0)
    if contiguous:
        tensors = [torch.randn(10, 5), torch.randn(10)]
    else:
        tensors = [torch.randn(10, 5, 2)[..., 0], torch.randn(10, 2)[..., 0]]
    return [nn.Parameter(tensor) for tensor in tensors], torch.randn(5)


def small_model(dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Sequential:
    """Two layers, in which no size is another."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid())
    return model.to(device, dtype)


def evaluated(optimizer: Any, parameters: list[nn.Parameter], x: torch.Tensor) -> torch.Tensor:
    """The loss of a layer; its gradients are in the parameters afterwards."""
    optimizer.zero_grad()
    weight, bias = parameters
    loss = (weight.mv(x) + bias).pow(2).sum()
    loss.backward()
    return loss


def trained(optimizer: Any, parameters: list[nn.Parameter], x: torch.Tensor, steps: int) -> list[float]:
    """The losses before each of some steps, and after the last."""
    losses = []
    for _ in range(steps):
        losses.append(evaluated(optimizer, parameters, x).item())
        optimizer.step()
    return [*losses, evaluated(optimizer, parameters, x).item()]
