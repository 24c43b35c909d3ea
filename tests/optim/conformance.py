"""How far the optimizers of ``swd_dynamics.optim`` are from what they should be: the rows of a table.

``PYTHONPATH=tests python -m optim.conformance`` measures them and writes ``figures/optim-conformance.md``.
"""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from optim.by_design import DIFFERENT
from optimizer_runs import OPTIMIZERS, largest_difference, take_steps, weights
from tolerances import round_off

import swd_dynamics
from swd_dynamics import optim
from swd_dynamics.rules import CATALOG

TABLE = Path(__file__).parents[2] / "figures" / "optim-conformance.md"
REFERENCE = Path(swd_dynamics.__file__).parent / "studies" / "reference" / "authors_open_loop.npz"

# Agreement with the authors' code: 200 float64 steps of weights of order 1 round to well below this, and an ε of 1e-8
# in the wrong place is well above it.
AUTHORS = 1e-12
# One step in low precision rounds each of its few operations to half a unit in the last place of numbers of the size of
# θ, of ηg and of the terms between.
ULPS = 4

KERNELS = {"single": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
CASES = ["sgds_heavy_ball", "sgds_dampened", "sgds_nesterov", "adams", "adams_amsgrad", "adais"]
TORCHS = {
    "SGDS plain": torch.optim.SGD,
    "SGDS": partial(torch.optim.SGD, momentum=0.9),
    "SGDS Nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "AdamS": torch.optim.AdamW,
    "AdamS AMSGrad": partial(torch.optim.AdamW, amsgrad=True, betas=(0.9, 0.5)),
}
RULES = {
    "SGDW": partial(CATALOG["SGDW"], momentum=0.9, dampening=0.3),
    "SGDS plain": partial(CATALOG["SGDS"]),
    "SGDS": partial(CATALOG["SGDS"], momentum=0.9),
    "SGDS Nesterov": partial(CATALOG["SGDS"], momentum=0.9, nesterov=True),
    "SGDS dampened": partial(CATALOG["SGDS"], momentum=0.9, dampening=0.3),
    "AdamS": CATALOG["AdamS"],
    "AdamS AMSGrad": partial(CATALOG["AMSGradS"], betas=(0.9, 0.5)),
    "AdaiS": CATALOG["AdaiS"],
}
RUNS = {
    "SGDS dampened": partial(OPTIMIZERS["SGDS"], dampening=0.3),
    "SGDW": partial(optim.SGDW, lr=0.1, weight_decay=0.1, momentum=0.9, dampening=0.3),
    **OPTIMIZERS,
}


class Row(NamedTuple):
    """One comparison: what is compared with what, how far apart it may be, and what measures it."""

    optimizer: str
    kernel: str
    witness: str
    allowed: float
    unit: str
    measure: Callable[[], float]

    @property
    def name(self) -> tuple[str, ...]:
        return self.optimizer, self.kernel, self.witness, f"{self.allowed:.1g}{self.unit}"


def rows() -> list[Row]:
    """All comparisons; AdaiS has no fused kernel, and half precision on the CPU no sound fused SGD."""
    compared = []
    for kernel in KERNELS:
        for case in CASES:
            if (case, kernel) != ("adais", "fused"):
                witness = f"the authors' file, {case}: 200 steps, in one group and in two"
                name = json_of(case)["optimizer"]
                compared.append(Row(name, kernel, witness, AUTHORS, "", partial(from_authors, case, kernel)))
        for name in RULES:
            if (name, kernel) != ("AdaiS", "fused"):
                witness = "its rule in numpy: two groups of their own η and λ, StepLR, 60 steps"
                allowed = round_off(60, [2.0, 2.0])
                compared.append(Row(name, kernel, witness, allowed, "", partial(from_rule, name, kernel)))
        for name in TORCHS:
            witness = "torch's own, λ = 0: 50 steps"
            compared.append(Row(name, kernel, witness, 0.0, "", partial(from_torch, name, kernel)))
        for dtype in (torch.float32, torch.bfloat16):
            for name in OPTIMIZERS:
                unsound = dtype == torch.bfloat16 and name.startswith("SGDS")
                if kernel != "fused" or not (unsound or name == "AdaiS"):
                    witness = f"its float64 step, one step in {str(dtype).removeprefix('torch.')}"
                    compared.append(Row(name, kernel, witness, ULPS, " ulp", partial(in_ulps, name, kernel, dtype)))
    return sorted(compared, key=lambda row: (row.optimizer, list(KERNELS).index(row.kernel)))


def json_of(case: str) -> dict:
    with np.load(REFERENCE, allow_pickle=False) as data:
        return json.loads(str(data["meta"]))[case]


def flat(tensors) -> np.ndarray:
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).numpy()


def set_gradients(tensors, gradient) -> None:
    sizes = [tensor.numel() for tensor in tensors]
    for tensor, piece in zip(tensors, torch.as_tensor(gradient).split(sizes), strict=True):
        tensor.grad = piece.clone().reshape(tensor.shape)


def from_authors(case: str, kernel: str) -> float:
    """The largest difference of a weight at any step, with all tensors in one group and with the first apart."""
    with np.load(REFERENCE, allow_pickle=False) as data:
        theta, gradients, sizes = data["theta0"], data["gradients"], data["sizes"]
        expected = data[f"trajectory/{case}"]
    meta, apart = json_of(case), 0.0
    for groups in (1, 2):
        pieces = np.split(theta, np.cumsum(sizes)[:-1])
        tensors = [torch.tensor(piece, requires_grad=True) for piece in pieces]
        split = tensors if groups == 1 else [{"params": tensors[:1]}, {"params": tensors[1:]}]
        optimizer = getattr(optim, meta["optimizer"])(split, **meta["kwargs"], **KERNELS[kernel])
        for gradient, reached in zip(gradients, expected[1:], strict=True):
            set_gradients(tensors, gradient)
            optimizer.step()
            apart = max(apart, float(np.abs(flat(tensors) - reached).max()))
    return apart


def from_rule(name: str, kernel: str) -> float:
    """The largest difference of a weight at any step; to the rule both groups are one vector."""
    tensors, steps = weights((4, 3), 5), 60
    in_first = np.arange(17) < 12
    lr, decay = np.where(in_first, 0.1, 0.03), np.where(in_first, 0.1, 0.4)
    groups = [{"params": tensors[:1]}, {"params": tensors[1:], "lr": 0.03, "weight_decay": 0.4}]
    optimizer = RUNS[name](groups, **KERNELS[kernel])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.5)
    rule = RULES[name](lr=lambda k: lr * 0.5 ** (k // 20), weight_decay=decay)
    state, apart = rule.start(flat(tensors)), 0.0
    for step in range(steps):
        gradient = np.random.default_rng(step).normal(size=17)
        set_gradients(tensors, gradient)
        optimizer.step()
        schedule.step()
        state = rule(state, gradient)
        apart = max(apart, float(np.abs(flat(tensors) - state.theta).max()))
    return apart


def from_torch(name: str, kernel: str) -> float:
    """The largest difference of a weight from torch's own optimizer with the same kernel."""
    mine, theirs = weights((4, 3), 5), weights((4, 3), 5)
    take_steps(OPTIMIZERS[name](mine, weight_decay=0.0, **KERNELS[kernel]), mine, 50)
    take_steps(TORCHS[name](theirs, lr=0.1, weight_decay=0.0, **KERNELS[kernel]), theirs, 50)
    return largest_difference(mine, theirs)


def in_ulps(name: str, kernel: str, dtype: torch.dtype) -> float:
    """How far one step is from the float64 step from the same state, in units in the last place of what it adds up."""
    (exact,) = weights(1000)
    low = exact.detach().to(dtype).requires_grad_()
    optimizer, other = (OPTIMIZERS[name]([theta], **KERNELS[kernel]) for theta in (exact, low))
    take_steps(other, [low], 5)
    take_steps(optimizer, [exact], 1)  # for its layout; what it holds is replaced
    optimizer.load_state_dict(copy.deepcopy(other.state_dict()))
    start = low.detach().double()
    with torch.no_grad():
        exact.copy_(start)
    gradient = torch.randn(1000, generator=torch.Generator().manual_seed(7)).to(dtype)
    exact.grad, low.grad = gradient.double(), gradient
    optimizer.step()
    other.step()
    size = start.abs() + optimizer.defaults["lr"] * (1 + gradient.double().abs())
    return float(((low.double() - exact).detach().abs() / size).max()) / torch.finfo(dtype).eps


def written() -> str:
    """The table in Markdown."""
    lines = [
        "# How far SGDW, SGDS, AdamS and AdaiS are from what they should be",
        "",
        "`tests/optim/conformance.py` measured these differences and wrote this file.",
        "`tests/optim/test_conformance.py` measures them again.",
        f"torch {torch.__version__.partition('+')[0]}, CPU. A difference is the largest one of any weight at any step;",
        "the weights are of order 1. In low precision the unit is a unit in the last place of the largest number that",
        "the step adds up.",
        "",
        "| optimizer | kernel | compared with | largest difference | allowed |",
        "|---|---|---|---|---|",
    ]
    for row in rows():
        optimizer, kernel, witness, allowed = row.name
        lines.append(f"| {optimizer} | {kernel} | {witness} | {row.measure():.1g}{row.unit} | {allowed} |")
    lines += [
        "",
        "## What is different from torch by design",
        "",
        "`tests/optim/test_as_torch.py` states torch's generic tests of optimizers for SGDS, AdamS and AdaiS, with",
        "torch's own arguments. They hold, except for these, which `tests/optim/by_design.py` tries out.",
        "",
        "| what | torch | here | why |",
        "|---|---|---|---|",
        *(f"| {each.what} | {' | '.join(each.measured())} | {each.why} |" for each in DIFFERENT),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(written(), encoding="utf-8")
    print(f"wrote {TABLE}")
