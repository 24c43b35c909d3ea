"""What an audit says of weight decay in short types, on torch's own kernels."""

import math
from functools import partial

import pytest
import torch

from swd_dynamics.auditing import audit
from swd_dynamics.auditing.precision import InType, in_type
from swd_dynamics.bench.interventions import bench_for
from swd_dynamics.errors import InputError
from swd_dynamics.optim import SGDW

# Steps of .01 are more than half a unit in the last place of weights from .1 to .3, so that rounding can keep the mean.
WEAK = {"lr": 1e-2, "weight_decay": 0.1}  # R = 1e-3, less than 2⁻⁹; a smaller R takes more steps to be measured
WEAKER = {"lr": 1e-2, "weight_decay": 1e-2}  # R = 1e-4, less than 2⁻¹² too
STRONG = {"lr": 1e-2, "weight_decay": 1.0}  # R = .01
SINGLE, FOREACH, FUSED = {"foreach": False}, {"foreach": True}, {"fused": True}
EPS = {"float16": 1e-3}  # torch's 1e-8 is 0 in float16, and a small g² as well


def adamw(dtype, numbers, kernel):
    """What is left of AdamW's decay, without the audit in full precision."""
    factory = partial(torch.optim.AdamW, eps=EPS.get(dtype, 1e-8), **numbers, **kernel)
    return in_type(bench_for(factory), dtype, numbers["lr"] * numbers["weight_decay"])


@pytest.mark.parametrize(
    ("dtype", "weight_decay", "least"),
    [("bfloat16", 0.19, 2**-9), ("float16", 0.024, 2**-12)],
    ids=["bfloat16", "float16"],
)
@pytest.mark.parametrize("kernel", [SINGLE, FOREACH], ids=["single", "foreach"])
@pytest.mark.slow
def test_weak_decay_is_lost_exactly(dtype, weight_decay, least, kernel):
    """Assert that an R 2 % below ``least`` makes no difference to any bit, where torch rounds θ(1 − R) on its own."""
    found = adamw(dtype, {"lr": 1e-2, "weight_decay": weight_decay}, kernel)
    assert (found.verdict, found.decay, found.scatter) == ("lost", 0.0, 0.0)
    assert found.least == least and 0.97 < found.decay_rate / least < 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.slow
def test_fused_kernels_keep_weak_decay(dtype):
    """Assert that torch's fused kernel, which rounds decay and step as one, keeps R = 1e-4 to the scatter."""
    found = adamw(dtype, WEAKER, FUSED)
    assert found.verdict == "kept"
    assert abs(found.decay - 1) < 4 * found.scatter + 1e-3  # in float32 two runs with decay differ by 2e-4 in R·steps


@pytest.mark.parametrize("kernel", [SINGLE, FOREACH], ids=["single", "foreach"])
@pytest.mark.slow
def test_float32_keeps_weak_decay(kernel):
    """Assert that the other kernels keep R = 1e-3 in float32, whose half unit is 2⁻²⁵."""
    assert adamw("float32", WEAK, kernel).decay == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_strong_decay_is_kept_or_rounded_to_units():
    """Assert that R = .01 is kept in bfloat16, and that foreach on a CPU takes 3 units of 2⁻⁸, as 1 − R is rounded."""
    assert adamw("bfloat16", STRONG, SINGLE).verdict == "kept"
    assert adamw("bfloat16", STRONG, FUSED).decay == pytest.approx(1, abs=0.02)
    found = adamw("bfloat16", STRONG, FOREACH)
    units = (1 - (1 - 3 * 2**-8) ** found.steps) / (1 - 0.99**found.steps)  # 1.154: what a factor of 253/256 takes
    rounding = 0.08  # (θ·253/256) is rounded again, to one side where the mantissas say so
    assert found.decay == pytest.approx(units, abs=rounding)


@pytest.mark.slow
def test_l2_of_sgd_is_kept():
    """Assert that λθ, which joins the gradient, is kept in bfloat16 where R = 1e-3 < 2⁻⁹, and rates and kind stay."""
    arguments = {"lr": 1e-2, "weight_decay": 1e-2, "momentum": 0.9}
    plain, found = audit(torch.optim.SGD, **arguments), audit(torch.optim.SGD, dtype=torch.bfloat16, **arguments)
    assert found.rows["settled"] == plain.rows["settled"] and found.reasons[:-1] == plain.reasons
    assert plain.in_type is None
    assert found.kind == "L2" and found.in_type is not None
    assert found.in_type.verdict == "kept"
    assert found.in_type.decay_rate < found.in_type.least
    assert found.to_dict()["in_type"]["verdict"] == "kept"


@pytest.mark.slow
def test_decay_is_lost_with_the_steps():
    """Assert that a fused kernel does not keep the decay where its steps are less than half a unit themselves."""
    found = adamw("bfloat16", {"lr": 1e-3, "weight_decay": 0.1}, FUSED)
    assert found.verdict == "partly"
    assert found.moved < 0.5 and abs(found.moved - found.decay) < 0.1
    assert "steps are lost too" in found.words


@pytest.mark.slow
def test_the_audit_says_what_is_lost_and_what_to_do():
    """Assert that the last reason names the cause and three remedies, and that the kind is still known."""
    arguments = {"foreach": False, **WEAK}
    found = audit(torch.optim.AdamW, dtype="bfloat16", **arguments)
    assert found.kind == "decoupled" and found.rows["settled"][0] == pytest.approx(1e-3, rel=1e-6)
    for said in ("rounded away", "half a unit in the last place", "fused=True", "float32", "larger λ"):
        assert said in found.reasons[-1]
        assert said in str(found).replace("\n    ", " ")


LARGER, KEEP = ("larger η", "larger λ"), "Keep the weights in float32"
ADVICE = {
    "decay lost": (torch.optim.AdamW, {**WEAK, **FOREACH}, [KEEP, "larger λ", "fused=True"]),
    "SGDW has no fused kernel with decay": (SGDW, WEAKER, [KEEP, "larger λ"]),
    "steps lost": (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.1, **FOREACH}, [KEEP, "larger η"]),
    "steps lost, fused": (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.1, **FUSED}, [KEEP, "larger η"]),
    "steps lost, L2": (torch.optim.Adam, {"lr": 1e-3, "weight_decay": 1e-2}, [KEEP, "larger η"]),
    "L2": (torch.optim.SGD, {"lr": 1e-3, "weight_decay": 1e-2}, [KEEP, "larger λ"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ADVICE)
def test_the_advice_follows_from_the_cause(case):
    """Assert that fused=True is advised only where the optimizer has it, unset, with decay; a larger η for lost steps.

    In bfloat16 with R = 1e-3 or less all of these lose some decay, and only what is listed keeps it.
    """
    factory, arguments, said = ADVICE[case]
    joins = factory in (torch.optim.Adam, torch.optim.SGD)
    rate = arguments["lr"] * arguments["weight_decay"]
    found = in_type(bench_for(partial(factory, **arguments)), "bfloat16", rate, joins_gradient=joins)
    assert found.is_lost
    assert [each for each in (KEEP, *LARGER, "fused=True") if each in found.words] == said
    assert ("so that R exceeds" in found.words) == ("larger λ" in said and not joins)


@pytest.mark.slow
def test_what_cannot_be_measured_is_said():
    """Assert that no decay, and weights that are not finite, are reported, and another type is refused."""
    assert "no decay" in audit(torch.optim.SGD, dtype="float16", lr=0.1).reasons[-1]
    failed = in_type(bench_for(partial(torch.optim.AdamW, **WEAK)), "float16", 1e-3)  # √v = 0 for a small gradient
    assert failed.verdict == "unknown" and "not finite in float16" in failed.words
    with pytest.raises(InputError, match="int8"):
        audit(torch.optim.SGD, dtype="int8", lr=0.1)


@pytest.mark.parametrize(
    ("decay", "scatter", "verdict"),
    [(0.1, 0, "lost"), (0.5, 0, "partly"), (0.9, 0, "kept"), (1.3, 0, "stronger"), (0.9, 0.2, "unknown")],
)
def test_a_share_has_a_verdict(decay, scatter, verdict):
    """Assert that a share is put in one word, and in none where it scatters."""
    found = InType("bfloat16", 1e-3, 2**-9, decay, scatter, moved=1.0, steps=10)
    assert found.verdict == verdict
    assert found.is_lost == (verdict in ("lost", "partly"))
    assert math.isfinite(found.to_dict()["decay"])
