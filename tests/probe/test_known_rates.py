"""R and η_eff of torch's other adaptive optimizers, as far as the table of known optimizers has them."""

import math

import numpy as np
import pytest
import torch

from swd_dynamics.probe import Probe
from swd_dynamics.tensors.known import known


def vector(*values):
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


def after_steps(optimizer, weight, factors=(1.0,)):
    """The recorded last step, after gradients that are these multiples of the weights."""
    with Probe(optimizer) as probe:
        for factor in factors:
            weight.grad = factor * weight.detach()
            optimizer.step()
    return probe.dataset().isel(step=-1)


# η/η_eff of weights of 1 and 2, whose gradients are 2 and 4, and then 3 and 6, up to the change of the weights.
ETA_BY_ETA_EFF = {
    "RMSprop": (torch.optim.RMSprop, {"alpha": 0.5, "momentum": 0.75}, 0.25 * math.sqrt(2.5 * (0.25 * 4 + 0.5 * 9))),
    "centred RMSprop": (
        torch.optim.RMSprop,
        {"alpha": 0.5, "centered": True},
        math.sqrt(2.5 * (0.25 * 4 + 0.5 * 9 - (0.25 * 2 + 0.5 * 3) ** 2)),
    ),
    "Adagrad": (torch.optim.Adagrad, {}, math.sqrt(2.5 * (4 + 9))),
    "NAdam": (torch.optim.NAdam, {"betas": (0.9, 0.5)}, math.sqrt(2.5 * (0.25 * 4 + 0.5 * 9) / 0.75)),
}


@pytest.mark.parametrize(("kind", "arguments", "expected"), ETA_BY_ETA_EFF.values(), ids=ETA_BY_ETA_EFF)
def test_effective_lr_of_other_optimizers(kind, arguments, expected):
    """Assert that η_eff of torch's adaptive optimizers is η·gain/√v̄, with the v of each worked out by hand."""
    weight, lr = vector(1.0, 2.0), 1e-9
    run = after_steps(kind([weight], lr=lr, **arguments), weight, (2.0, 3.0))
    assert lr / run.effective_lr.item() == pytest.approx(expected, rel=1e-7)
    assert run.decay_rate.item() == 0


@pytest.mark.parametrize("kind", [torch.optim.Adadelta, torch.optim.Adamax, torch.optim.RAdam])
def test_an_effective_lr_that_is_not_known(kind):
    """Assert that where η_eff depends on more than v it is NaN with a reason, and R without decay is 0."""
    weight = vector(1.0, 2.0)
    run = after_steps(kind([weight], lr=0.1), weight)
    assert math.isnan(run.effective_lr.item()) and run.decay_rate.item() == 0
    assert f"the effective learning rate of torch.optim.{kind.__name__.lower()}" in run.attrs["decay_unknown_because"]


def test_an_adagrad_whose_lr_decays():
    """Assert that η_eff of Adagrad is unknown if it depends on the number of the step."""
    weight = vector(1.0)
    run = after_steps(torch.optim.Adagrad([weight], lr=0.1, lr_decay=0.5), weight)
    assert math.isnan(run.effective_lr.item())


@pytest.mark.parametrize("kind", [torch.optim.NAdam, torch.optim.RAdam])
@pytest.mark.parametrize("decoupled", [True, False])
def test_decay_of_nadam_and_radam(kind, decoupled):
    """Assert that R is ηλ if the weight decay is decoupled, and unknown if it is L2."""
    weight = vector(1.0)
    run = after_steps(kind([weight], lr=0.5, weight_decay=0.25, decoupled_weight_decay=decoupled), weight)
    np.testing.assert_equal(run.decay_rate.item(), 0.125 if decoupled else math.nan)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize("name", ["RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam"])
def test_gradients_that_no_step_writes(name, maximize, foreach):
    """Assert that the table is right to say that these optimizers leave the gradients as they are."""
    weight = vector(1.0, 2.0)
    optimizer = getattr(torch.optim, name)([weight], lr=0.5, weight_decay=0.25, maximize=maximize, foreach=foreach)
    for _ in range(2):
        weight.grad = torch.tensor([3.0, -4.0], dtype=weight.dtype)
        optimizer.step()
        assert weight.grad.tolist() == [3.0, -4.0]
    assert known(optimizer).writes_gradients(optimizer.param_groups[0]) is False
