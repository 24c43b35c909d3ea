"""ASGD: torch's own steps, with η in float32 and in float64."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch

from swd_dynamics.rules import CATALOG
from swd_dynamics.verification import verify

ARGUMENTS = {"lr": 0.01, "weight_decay": 0.05}
CASES = [{}, {"lambd": 0.1, "alpha": 1.5}]


@pytest.fixture
def in_float64() -> Iterator[None]:
    """float64 as torch's default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("own", CASES, ids=str)
@pytest.mark.slow
def test_takes_torchs_steps(own):
    """Assert that torch's ASGD takes the rule's steps to float64 round-off, with ηₖ rounded to float32."""
    factory = partial(torch.optim.ASGD, foreach=False, t0=10, **own, **ARGUMENTS)
    verdict = verify(factory, CATALOG["ASGD"](**own, **ARGUMENTS), steps=60)
    assert verdict.status == "confirmed", str(verdict)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("foreach", [True, False], ids=["foreach", "single"])
@pytest.mark.parametrize("own", CASES, ids=str)
@pytest.mark.slow
def test_takes_torchs_steps_without_rounding(own, foreach):
    """Assert that where torch's default type is float64, both kernels take the steps of the rule without rounding."""
    factory = partial(torch.optim.ASGD, foreach=foreach, t0=10, **own, **ARGUMENTS)
    verdict = verify(factory, CATALOG["ASGD"](coarse=False, **own, **ARGUMENTS), steps=60)
    assert verdict.status == "confirmed", str(verdict)


@pytest.mark.slow
def test_the_rounding_is_seen():
    """Assert that the rule without rounding is refuted where torch rounds."""
    factory = partial(torch.optim.ASGD, foreach=False, **ARGUMENTS)
    assert verify(factory, CATALOG["ASGD"](coarse=False, **ARGUMENTS), steps=20).status == "refuted"
