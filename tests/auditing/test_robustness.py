"""What an atlas measures besides the kind: the words for it, and what becomes of optimizers that fail."""

import json
from functools import partial

import pytest
import torch

from swd_dynamics.auditing.robustness import bfloat16_in_words, robustness, spike_in_words

ARGUMENTS = {"lr": 0.01, "weight_decay": 0.1}


class NoHalf(torch.optim.SGD):
    """Refuses bfloat16."""

    def step(self):
        if any(p.dtype == torch.bfloat16 for p in self.param_groups[0]["params"]):
            raise RuntimeError("not implemented for bfloat16")
        super().step()


@pytest.mark.slow
def test_an_optimizer_that_fails_in_bfloat16_is_told():
    """Assert that the reason is kept where an optimizer refuses bfloat16, and that its spike is measured."""
    found = robustness(partial(NoHalf, **ARGUMENTS), 1e-3)
    assert bfloat16_in_words(found["bfloat16"]) == "fails" and "not implemented" in found["bfloat16"]["failed"]
    assert spike_in_words(found["spike"]) == "1000×, 1 step"
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("rate", [None, 0.0])
def test_without_decay_nothing_is_said_of_bfloat16(rate):
    """Assert that nothing is said of bfloat16 where R is unknown or 0."""
    found = robustness(partial(torch.optim.SGD, lr=0.01), rate)
    assert found["bfloat16"] == {"weak": None, "strong": None} and bfloat16_in_words(found["bfloat16"]) == "–"


@pytest.mark.parametrize(("lr", "kept"), [(1e-2, "kept"), (1e-5, "lost")])
@pytest.mark.slow
def test_the_update_carries_the_decay(lr, kept):
    """Assert that Adam's L2 decay is lost as well where its updates are below half a digit of a bfloat16 weight."""
    factory = partial(torch.optim.Adam, lr=lr, weight_decay=0.1)
    assert bfloat16_in_words(robustness(factory, lr * 0.1)["bfloat16"]) == kept
