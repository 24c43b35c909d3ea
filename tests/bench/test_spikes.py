"""The answer to a spike of the gradients, compared with the recursions of the optimizers in numpy."""

from functools import partial

import numpy as np
import pytest
import torch

from swd_dynamics.bench.interventions import bench_for
from swd_dynamics.bench.spikes import SPIKE_PACE, spike_response
from swd_dynamics.bench.streams import DROP, steady_gradients

LR = 0.01
SPIKED, END = SPIKE_PACE * DROP // 2, SPIKE_PACE * DROP
SAME = 1e-6  # relative: differences of weights of order 1, with a round-off of 1e-16, that are 1e-6 or more


def adam(gradients, beta1=0.9, beta2=0.999):
    m = v = np.zeros(gradients.shape[1])
    for k, g in enumerate(gradients, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        yield m / (1 - beta1**k) / (np.sqrt(v / (1 - beta2**k)) + 1e-8)


def heavy_ball(gradients):
    m = np.zeros(gradients.shape[1])
    for g in gradients:
        m = 0.9 * m + g
        yield m


def expected(recursion):
    """The ratio of step sizes from the spike on."""
    gradients = steady_gradients(32, SPIKE_PACE)[1][:END]
    hit = gradients.copy()
    hit[SPIKED] *= 1000
    plain, hit = (np.array(list(recursion(each))) for each in (gradients, hit))
    usual = np.sqrt(np.mean(plain[SPIKED - 100 : SPIKED] ** 2, axis=0))
    sizes = [np.sqrt(np.mean((steps / usual) ** 2, axis=1)) for steps in (hit, plain)]
    return (sizes[0] / sizes[1])[SPIKED:]


@pytest.mark.parametrize(
    ("kind", "recursion"),
    [
        (partial(torch.optim.Adam, lr=LR), adam),
        (partial(torch.optim.AdamW, lr=LR, weight_decay=0.5), adam),  # decay is switched off
        (partial(torch.optim.Adam, lr=LR, betas=(0.9, 0.95)), partial(adam, beta2=0.95)),
        (partial(torch.optim.SGD, lr=LR, momentum=0.9), heavy_ball),
    ],
    ids=["Adam", "AdamW", "Adam, 0.95", "momentum"],
)
@pytest.mark.slow
def test_the_answer_is_that_of_the_recursion(kind, recursion):
    """Assert that the largest and the smallest step, and the steps until they are usual, are those of the recursion."""
    found, ratio = spike_response(bench_for(kind)), expected(recursion)
    assert (found.peak, found.lowest) == pytest.approx((ratio.max(), ratio.min()), rel=SAME)
    outside = np.flatnonzero((ratio > 2) | (ratio < 0.5))
    assert found.recovery == (outside[-1] + 1 if outside[-1] + 1 < len(ratio) else None)
    assert found.followed == END - SPIKED


@pytest.mark.slow
def test_momentum_forgets_and_adam_does_not():
    """Assert that momentum .9 forgets a spike after about ln 250/ln(1/.9) = 52 steps, and v of Adam does not."""
    momentum, adaptive = (
        spike_response(bench_for(partial(kind, lr=LR, **more)))
        for kind, more in ((torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adam, {}))
    )
    assert momentum.recovery == pytest.approx(52, abs=8)
    assert adaptive.recovery is None and adaptive.lowest < 0.1


@pytest.mark.slow
def test_a_run_that_overflows_is_unknown():
    """Assert that no numbers are stated where the spike ends in weights that are not finite."""

    class Explodes(torch.optim.SGD):
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad = torch.where(p.grad.abs() > 100, torch.inf, p.grad)
            super().step()

    found = spike_response(bench_for(partial(Explodes, lr=LR)))
    assert np.isnan(found.peak) and found.recovery is None


@pytest.mark.slow
def test_steps_in_which_nothing_moves_do_not_count():
    """Assert that an optimizer that rests in every other step has an answer."""

    class Rests(torch.optim.SGD):
        count = 0

        def step(self):
            self.count += 1
            if self.count % 2:
                super().step()

    found = spike_response(bench_for(partial(Rests, lr=LR)))  # the spike is in step 241, which is odd
    assert (found.peak, found.recovery) == (pytest.approx(1000, rel=SAME), 1)
