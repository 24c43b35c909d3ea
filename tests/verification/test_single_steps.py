"""Steps in bfloat16, judged one by one: torch's own fused kernel is the witness."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from swd_dynamics.crosscheck import recorded_rule
from swd_dynamics.crosscheck.near_rules import NEAR_RULES, AlteredRule
from swd_dynamics.errors import InputError
from swd_dynamics.probe import record
from swd_dynamics.tasks import tanh_network
from swd_dynamics.verification.single_steps import BFLOAT16, single_steps

FUSED = BFLOAT16["AdamW", "fused"]


@pytest.fixture(scope="module")
def recording():
    """A hundred steps of torch's AdamW in bfloat16, whose decay is large enough to be seen there."""
    task = tanh_network((4,), batch_size=50, dtype=torch.bfloat16)
    arguments = {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-2, "weight_decay": 5.0}
    return record(torch.optim.AdamW(task.model.parameters(), **arguments, fused=True), task.loss, 100)


@pytest.fixture(scope="module")
def rule(recording):
    """The rule of that run."""
    labels = np.zeros(recording.sizes["weight"], int)
    return AlteredRule(recorded_rule("AdamW", recording), labels, labels)


@pytest.mark.parametrize("value", [0.0, 1e-40, 2.0**-126, 0.99609375, 1.0, 3.0, 2.0**100])
def test_half_a_unit_is_half_of_torchs_step(value):
    """Assert that half a unit is half the distance to the next bfloat16 number, also at 0 and below normal numbers."""
    here = torch.tensor(value, dtype=torch.bfloat16)
    following = torch.nextafter(here, torch.tensor(torch.inf, dtype=torch.bfloat16))
    step = following.double() - here.double()
    assert FUSED.half_unit(np.array([here.double().item()])) == step.item() / 2


@pytest.mark.slow
def test_the_right_rule_is_within_one_rounding(recording, rule):
    """Assert that no weight and no state is farther from the rule than its one rounding, and that one comes close."""
    found = single_steps(rule, recording, FUSED)
    assert 0.99 < found.weights.max() <= 1
    assert 0.99 < found.state.max() <= 1


@pytest.mark.parametrize("wrong", ["λ + 1 %", "λ − 1 %", "eps-inside", "decay-after", "no-correction-of-v"])
@pytest.mark.slow
def test_a_wrong_rule_departs(recording, rule, wrong):
    """Assert that an error of λ by 1 %, a moved ε, a later decay, and a missing correction leave the roundings."""
    if wrong in NEAR_RULES:
        changed = NEAR_RULES[wrong].change(rule)
    else:
        factor = 1.01 if "+" in wrong else 0.99
        changed = rule.with_decay(replace(rule.rule.decay, weight_decay=5.0 * factor))
    assert single_steps(changed, recording, FUSED).weights.max() > 1.2


def test_a_wrong_memory_departs(recording, rule):
    """Assert that a running mean with another β₂ leaves the roundings of the state."""
    changed = rule.with_direction(replace(rule.rule.direction, betas=(0.9, 0.98)))
    assert single_steps(changed, recording, FUSED).state.max() > 2


def test_more_roundings_allow_more(recording, rule):
    """Assert that twice the roundings of the weights halve the departures, where nothing else is rounded."""
    once = single_steps(rule, recording, FUSED).weights.max()
    twice = single_steps(rule, recording, replace(FUSED, weights=2)).weights.max()
    assert twice == pytest.approx(once / 2, rel=0.01)


def test_a_recording_without_states_is_refused(recording, rule):
    """Assert that a recording without v, or with v of some steps only, is refused."""
    with pytest.raises(InputError, match="state_exp_avg_sq"):
        single_steps(rule, recording.drop_vars("state_exp_avg_sq"), FUSED)
    sparse = recording.state_exp_avg_sq[::10].rename(step="state_after")
    with pytest.raises(InputError, match="state_exp_avg_sq"):
        single_steps(rule, recording.drop_vars("state_exp_avg_sq").assign(state_exp_avg_sq=sparse), FUSED)
