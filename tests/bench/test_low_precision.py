"""Weight decay in bfloat16, compared with the arithmetic of rounding, by hand and in torch's own kernels."""

from functools import partial

import numpy as np
import pytest
import torch

from swd_dynamics.bench.interventions import bench_for
from swd_dynamics.bench.low_precision import STRONG, WEAK, kept_in_bfloat16
from swd_dynamics.errors import InputError

LR, DECAY = 0.01, 0.1
ARGUMENTS = {"lr": LR, "weight_decay": DECAY}
# 448 weights, each off by up to √(200/6) half units of rounding of .4 % after 200 steps, for a shrinkage of 9 %
SCATTER = 0.03


def kept(factory, wanted=WEAK):
    return kept_in_bfloat16(bench_for(factory), LR * DECAY, wanted)


class Kahan(torch.optim.Optimizer):
    """Gradient descent with decoupled decay. The rounding error of each step is added to the next step."""

    def __init__(self, params, lr=LR, weight_decay=DECAY, compensated=True):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.compensated = compensated

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if not self.compensated:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(group["lr"] * p.grad)
                    continue
                error = self.state[p].setdefault("error", torch.zeros_like(p, dtype=torch.float32))
                exact = p.float() + error
                exact -= group["lr"] * (p.grad.float() + group["weight_decay"] * exact)
                p.copy_(exact)
                error.copy_(exact - p.float())


@pytest.mark.parametrize(
    ("factory", "share"),
    [
        (partial(torch.optim.AdamW, foreach=False, **ARGUMENTS), 0.0),  # θ(1 − R) is rounded on its own
        (partial(torch.optim.AdamW, foreach=True, **ARGUMENTS), 0.0),
        (partial(torch.optim.AdamW, fused=True, **ARGUMENTS), 1.0),  # the sum is rounded once
        (partial(torch.optim.SGD, **ARGUMENTS), 1.0),  # λθ joins the gradient, and the update is large
        (partial(Kahan, compensated=False), 0.0),
        (Kahan, 1.0),
    ],
    ids=["single", "foreach", "fused", "L2", "two roundings", "compensated"],
)
@pytest.mark.slow
def test_weak_decay_is_lost_where_it_is_rounded_on_its_own(factory, share):
    """Assert that R = 2⁻¹¹ is lost if θ(1 − R) is rounded, and kept if decay and update are rounded as one."""
    assert kept(factory) == pytest.approx(share, abs=SCATTER)


def test_strong_decay_is_kept():
    """Assert that R = 2⁻⁶ shrinks weights in bfloat16 as much as multiplying and rounding by hand."""
    theta = torch.linspace(0.1, 0.3, 448).bfloat16()
    by_hand = theta.clone()
    for _ in range(20):
        by_hand = by_hand * (1 - STRONG)
    share = (theta - by_hand).double().sum() / (theta.double() * (1 - (1 - STRONG) ** 20)).sum()
    measured = kept(partial(torch.optim.AdamW, foreach=False, **ARGUMENTS), STRONG)
    assert measured == pytest.approx(float(share), abs=SCATTER)


@pytest.mark.parametrize("rate", [0.0, np.nan, -1.0, 1e-12])
def test_without_a_decay_rate_nothing_is_said(rate):
    """Assert that the share is unknown where R is 0 or unknown, or so small that λ would have to be enormous."""
    bench = bench_for(partial(torch.optim.SGD, **ARGUMENTS))
    assert np.isnan(kept_in_bfloat16(bench, rate, WEAK))


@pytest.mark.slow
def test_weights_that_are_not_finite_are_told():
    """Assert that an optimizer whose bfloat16 weights overflow is said to fail."""

    class Overflows(torch.optim.SGD):
        def step(self):
            super().step()
            for p in self.param_groups[0]["params"]:
                if p.dtype == torch.bfloat16:
                    p.data.mul_(torch.inf)

    with pytest.raises(InputError, match="not finite in bfloat16"):
        kept(partial(Overflows, **ARGUMENTS))
