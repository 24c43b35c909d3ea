"""Schedules against torch's, and a rule that follows one."""

import math

import numpy as np
import pytest
import torch
from tolerances import ROUND_OFF, round_off
from torch.optim.lr_scheduler import ChainedScheduler, ConstantLR, CosineAnnealingLR, LambdaLR, LinearLR, StepLR

from swd_dynamics.rules import (
    CATALOG,
    SGD,
    Constant,
    Cosine,
    Decoupled,
    EqualMemory,
    Linear,
    StepDecay,
    UpdateRule,
    Warmup,
)

STEPS = 40
LR = 0.3


def constant(optimizer):
    return ConstantLR(optimizer, factor=1.0)


def step(optimizer):
    return StepLR(optimizer, step_size=7, gamma=0.5)


def cosine(optimizer):
    return CosineAnnealingLR(optimizer, T_max=STEPS, eta_min=0.01)


def linear(optimizer):
    return LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=STEPS)


def inverse_time(optimizer):
    return LambdaLR(optimizer, lambda k: 1 / (1 + 0.2 * LR * k))


def warm_step(optimizer):
    return ChainedScheduler([LinearLR(optimizer, start_factor=0.1, total_iters=10), step(optimizer)])


def warm_cosine(optimizer):
    warmup = LinearLR(optimizer, start_factor=0.25, total_iters=8)
    return ChainedScheduler([warmup, CosineAnnealingLR(optimizer, T_max=STEPS)])


PAIRS = [
    pytest.param(Constant(LR), constant, id="constant"),
    pytest.param(StepDecay(LR, step_size=7, gamma=0.5), step, id="step"),
    pytest.param(Cosine(LR, steps=STEPS, lr_min=0.01), cosine, id="cosine"),
    pytest.param(Linear(LR, steps=STEPS, lr_min=0.1 * LR), linear, id="linear"),
    pytest.param(EqualMemory(LR, weight_decay=0.2), inverse_time, id="equal memory"),
    pytest.param(Warmup(StepDecay(LR, 7, 0.5), steps=10, start_factor=0.1), warm_step, id="warm-up, step"),
    pytest.param(Warmup(Cosine(LR, STEPS), steps=8, start_factor=0.25), warm_cosine, id="warm-up, cosine"),
]


def torch_rates(scheduler):
    """torch's learning rate of every step, with the weights after it."""
    weight = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=LR)
    schedule = scheduler(optimizer)
    for k in range(STEPS):
        yield optimizer.param_groups[0]["lr"], weight.item()
        weight.grad = torch.full_like(weight, math.cos(k))
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(("schedule", "scheduler"), PAIRS)
def test_rates_are_torchs(schedule, scheduler):
    """Assert that a schedule gives torch's learning rate at every step; torch multiplies its rates up, step by step."""
    rates = [lr for lr, _ in torch_rates(scheduler)]
    assert np.allclose(rates, [schedule(k) for k in range(STEPS)], rtol=0, atol=LR * ROUND_OFF * math.sqrt(STEPS))


@pytest.mark.parametrize(("schedule", "scheduler"), PAIRS)
def test_a_rule_follows_its_schedule(schedule, scheduler):
    """Assert that the first step is taken at schedule(0), as in torch, and every later one in its turn."""
    rule = UpdateRule(schedule, SGD())
    state = rule.start(1.0)
    for k, (_, weight) in enumerate(torch_rates(scheduler)):
        assert abs(state.theta - weight) <= round_off(STEPS, [1.0])
        state = rule(state, math.cos(k))


def test_decay_follows_the_schedule():
    """Assert that decoupled decay takes λ times the rate of the moment off."""
    rule = UpdateRule(StepDecay(0.5, step_size=1, gamma=0.5), SGD(), Decoupled(0.25))
    state = rule.start(1.0)
    rates = []
    for _ in range(3):
        rates.append(rule.parts(state, 0.0).decay_rate)
        state = rule(state, 0.0)
    assert rates == [0.125, 0.0625, 0.03125]


def test_schedules_after_their_end():
    """Assert that cosine and line stay at their least, the warm-up at its full value, and that k may be a fraction."""
    assert Linear(1.0, steps=10, lr_min=0.5)(25) == Linear(1.0, steps=10, lr_min=0.5)(10) == 0.5
    assert Cosine(1.0, steps=10, lr_min=0.5)(25) == Cosine(1.0, steps=10, lr_min=0.5)(10) == 0.5
    assert Warmup(Constant(0.5), steps=4)(4) == Warmup(Constant(0.5), steps=4)(400) == 0.5
    assert Warmup(Constant(0.5), steps=4, start_factor=0.5)(0.5) == 0.5 * (0.5 + 0.5 / 8)


def test_any_function_is_a_schedule():
    """Assert that a plain function of the step can be a learning rate, in a catalogue entry too."""
    rule = CATALOG["SGD"](lr=lambda k: 2.0**-k)
    state = rule.start(1.0)
    for _ in range(3):
        state = rule(state, 1.0)
    assert state.theta == 1 - 1 - 1 / 2 - 1 / 4
    assert rule.has_schedule and not CATALOG["SGD"](lr=0.1).has_schedule
