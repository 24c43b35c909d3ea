"""Sweeps by rules at once for optimizers of torch that have a rule: the real optimizer's numbers, or a reason."""

import numpy as np
import pytest

from swd_dynamics.sweeping.batched import train_batched, why_not_batched
from swd_dynamics.sweeping.plan import planned
from swd_dynamics.sweeping.training import train_cell

BATCHED = ["RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "NAdamW", "RAdam", "RAdamW", "ASGD", "Rprop"]
# Five steps of a stable run: relative. torch keeps the product of NAdam's momenta in float32.
ROUND_OFF, FLOAT32 = 1e-13, 1e-8
MEASURED = ("test_error", "train_loss", "weight_norm", "gradient_norm")


@pytest.mark.filterwarnings("ignore:decay_rate and effective_lr of the recording are NaN")
@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.slow
def test_rules_at_once_are_the_real_optimizers(name):
    """Assert that a block of cells, trained by its rule, ends where the real optimizer of each cell ends."""
    grid = {"lr": [1e-3, 1e-2]} | ({} if name == "Rprop" else {"weight_decay": [0.0, 0.05]})
    plan = planned("network", [name], grid, steps=5, evaluations=1)
    assert why_not_batched(plan) == ""
    (block,) = train_batched(plan, plan.cells)
    alone = [train_cell(plan, cell) for cell in plan.cells]
    for measured in MEASURED:
        expected = np.concatenate([np.ravel(each.values[measured]) for each in alone])
        allowed = FLOAT32 if name.startswith("NAdam") else ROUND_OFF
        assert np.allclose(block.values[measured], expected, rtol=allowed, atol=0), measured


def test_a_rule_of_shapes_is_not_batched():
    """Assert that a rule whose step depends on the shapes of the tensors is refused with that reason."""
    assert "AdafactorW" in why_not_batched(planned("network", ["AdafactorW"], {"lr": [0.1]}, steps=1))


@pytest.mark.parametrize("name", ["SGDIndependent", "AdamC", "AdamCautious", "AdamPreconditioned"])
@pytest.mark.slow
def test_other_decays_under_a_schedule(name):
    """Assert that the largest learning rate is that of each cell, and that R is the mean over the weights."""
    more = {"eps": 1e-2} if name == "AdamPreconditioned" else {}
    plan = planned("network", [(name, more)], {"lr": [1e-3, 1e-2], "weight_decay": [0.05]}, steps=5, schedule="cosine")
    (block,) = train_batched(plan, plan.cells)
    alone = [train_cell(plan, cell) for cell in plan.cells]
    for measured in (*MEASURED, "decay_rate", "effective_lr"):
        expected = np.concatenate([np.ravel(each.values[measured]) for each in alone])
        assert np.allclose(block.values[measured], expected, rtol=1e-11, atol=0), measured
