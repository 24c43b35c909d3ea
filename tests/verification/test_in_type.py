"""Optimizers that are compared with rules in short types: torch's own kernels are the witnesses."""

from functools import partial

import numpy as np
import pytest
import torch
from verification.faulty_optimizers import Adam

from swd_dynamics.bench.scenarios import MODERATE, run_scenario
from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG
from swd_dynamics.verdict import NOTHING
from swd_dynamics.verification import verify

STEPS = 60
ADAMW = torch.optim.AdamW
WEAK, STRONG = {"lr": 1e-2, "weight_decay": 2e-2}, {"lr": 1e-2, "weight_decay": 1.0}  # R = 2e-4 < 2⁻¹², and .01
SINGLE, FOREACH, FUSED = {"foreach": False}, {"foreach": True}, {"fused": True}
KERNELS = pytest.mark.parametrize("kernel", [SINGLE, FOREACH], ids=["single", "foreach"])


def verified(factory, rule, dtype, **arguments):
    return verify(partial(factory, **arguments), rule, steps=STEPS, dtype=dtype)


@pytest.mark.slow
@KERNELS
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_lost_decay_is_the_cause(kernel, dtype):
    """Assert that steps within rounding are refuted where R = 2e-4 is rounded away, with the cause and a remedy."""
    eps = {"eps": 1e-3} if dtype == "float16" else {}  # torch's 1e-8 is 0 in float16
    found = verified(ADAMW, "AdamW", dtype, **WEAK, **kernel, **eps)
    assert found.status == "refuted" and found.first_departure is None
    assert all(excess.max() <= 1 for excess in found.evidence["excess"].values())
    assert found.evidence["in_type"].decay == 0
    assert found.cause is not None and "rounded away" in found.cause and "fused=True" in found.cause


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("numbers", [WEAK, STRONG], ids=["R = 2e-4", "R = .01"])
@pytest.mark.slow
def test_fused_steps_are_confirmed(dtype, numbers):
    """Assert that torch's fused kernel takes the steps of AdamW in every type, and keeps the decay."""
    assert verified(ADAMW, "AdamW", dtype, **numbers, **FUSED).status == "confirmed"


@pytest.mark.slow
@KERNELS
def test_float32_is_confirmed(kernel):
    """Assert that in float32 no kernel loses R = 2e-4, and that an error of 1e-6 of a step would be seen."""
    found = verified(ADAMW, "AdamW", torch.float32, **WEAK, **kernel)
    assert found.status == "confirmed"
    # Without decay, which would be measured a second time.
    wrong = CATALOG["AdamW"](lr=1e-2 * (1 + 1e-5), weight_decay=0.0)
    assert verified(ADAMW, wrong, torch.float32, lr=1e-2, weight_decay=0.0, **kernel).status == "refuted"


@pytest.mark.slow
def test_strong_decay_is_confirmed_and_rounded_by_foreach():
    """Assert that R = .01 is kept in bfloat16, but that foreach on a CPU makes 1 − R a bfloat16, 253/256."""
    assert verified(ADAMW, "AdamW", "bfloat16", **STRONG, **SINGLE).status == "confirmed"
    found = verified(ADAMW, "AdamW", "bfloat16", **STRONG, **FOREACH).evidence["in_type"]
    assert found.verdict == "stronger"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize(
    ("factory", "rule", "arguments"),
    [
        (torch.optim.SGD, "SGD", {"momentum": 0.9}),
        (torch.optim.SGD, "SGD", {"momentum": 0.9, "nesterov": True}),
        (torch.optim.Adam, "Adam", {"eps": 1e-3}),
        (torch.optim.RMSprop, "RMSprop", {"eps": 1e-3}),
    ],
    ids=["momentum", "Nesterov", "Adam", "RMSprop"],
)
@pytest.mark.slow
def test_l2_is_kept(dtype, factory, rule, arguments):
    """Assert that λθ which joins the gradient is kept, and every step within rounding, with R = 1e-3 < 2⁻⁹."""
    found = verified(factory, rule, dtype, lr=1e-2, weight_decay=0.1, **arguments)
    assert found.status == "confirmed"
    assert found.evidence["in_type"].verdict == "kept"


def test_without_decay_only_the_steps_are_judged():
    """Assert that SGD without decay is confirmed, and that the decay is said to be untested."""
    found = verified(torch.optim.SGD, "SGD", "bfloat16", lr=1e-2)
    assert found.status == "confirmed" and "not tested" in found.why and found.evidence["in_type"] is None


@pytest.mark.parametrize(
    ("factory", "arguments", "rule", "cause"),
    [
        pytest.param(torch.optim.Adam, {}, "AdamW", "joins the gradient", marks=pytest.mark.slow),
        (ADAMW, {}, CATALOG["AdamW"](lr=1.2e-2, weight_decay=1.0), "the optimizer's lr is 0.01"),
        (ADAMW, {"betas": (0.9, 0.99)}, CATALOG["AdamW"](lr=1e-2, weight_decay=1.0), "the optimizer's betas"),
    ],
    ids=["L2", "lr", "beta"],
)
@pytest.mark.slow
def test_a_wrong_rule_is_refuted_with_its_cause(factory, arguments, rule, cause):
    """Assert that another decay, an η that is 20 % off, and another β₂ are found in bfloat16, and named."""
    found = verified(factory, rule, "bfloat16", **STRONG, **arguments)
    assert found.status == "refuted" and found.first_departure is not None
    assert found.cause is not None and cause in found.cause


@pytest.mark.slow
def test_what_cannot_be_judged_is_inconclusive():
    """Assert that an unknown memory, and weights that are not finite with torch's ε in float16, are no verdict."""
    found = verified(ADAMW, "LionW", "bfloat16", **STRONG)
    assert found.status == "inconclusive" and "memory" in (found.cause or "")
    found = verified(ADAMW, "AdamW", "float16", **STRONG, **SINGLE)
    assert found.status == "inconclusive" and "not finite" in (found.cause or "")
    with pytest.raises(InputError, match="dtype"):
        verified(ADAMW, "AdamW", "int8", **STRONG)


def test_a_state_with_names_of_its_own_is_inconclusive():
    """Assert that for an Adam whose state is m and v the names to take are said, and audit, and no number is given."""
    found = verify(partial(Adam, lr=1e-2), "AdamW", steps=5, dtype="bfloat16")
    assert found.status == "inconclusive" and found.allowed == NOTHING and found.cause is not None
    assert all(said in found.cause for said in ("exp_avg", "exp_avg_sq", "audit")) and "trajectory" not in found.cause
    assert "nan" not in str(found)


@pytest.mark.slow
def test_float64_is_the_default():
    """Assert that float64 gives the verdict of no dtype, number for number."""
    plain = verify(partial(ADAMW, **WEAK), "AdamW", steps=10)
    assert verify(partial(ADAMW, **WEAK), "AdamW", steps=10, dtype="float64").measured == plain.measured


def test_scenarios_record_the_state_in_short_types_only():
    """Assert that bfloat16 weights, gradients and states are recorded as they are, and no state in float64."""
    found = run_scenario(partial(ADAMW, **WEAK), MODERATE[0], 5, dtype=torch.bfloat16)
    assert found["state_exp_avg"].dims == ("step", "weight")
    for name in ("theta", "gradient", "state_exp_avg", "state_exp_avg_sq"):
        values = torch.tensor(found[name].values)
        assert torch.equal(values, values.bfloat16().double())
    first = found["state_exp_avg"].values[0]
    assert np.allclose(first, 0.1 * found["gradient"].values[0], rtol=2**-7)  # m₁ = (1 − β₁)g₁
    assert not [name for name in run_scenario(partial(ADAMW, **WEAK), MODERATE[0], 5) if "state" in str(name)]


@pytest.mark.slow
def test_a_fused_kernel_keeps_no_decay_where_the_steps_are_lost():
    """Assert that AdamW with the same R and a tenth of the η is refuted with fused=True, with a larger η as remedy."""
    found = verified(ADAMW, "AdamW", "bfloat16", lr=1e-3, weight_decay=0.1, **FUSED)
    assert found.status == "refuted" and found.cause is not None
    assert "steps are lost too" in found.cause and "larger η" in found.cause and "fused=True" not in found.cause
    assert found.why.startswith("Each step is within rounding")
    assert found.evidence["in_type"].words == found.cause and "rounded away" not in found.why
