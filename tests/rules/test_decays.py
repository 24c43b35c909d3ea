"""The decay modes beyond L2, decoupled and stable: their R, against formulas written out by hand and against theory."""

import numpy as np
import pytest
from tolerances import ROUND_OFF

from swd_dynamics.errors import InputError
from swd_dynamics.rules import (
    CATALOG,
    DECAYS,
    SGD,
    Adam,
    Cautious,
    Corrected,
    Cosine,
    HeavyBall,
    Independent,
    Preconditioned,
    UpdateRule,
)
from swd_dynamics.rules.decay import mode_of

LR, DECAY = 0.1, 0.3
RANDOM = np.random.default_rng(0)
GRADIENTS = RANDOM.standard_normal((20, 6))
START = RANDOM.standard_normal(6)


def run(rule, gradients=GRADIENTS, start=START):
    """The parts of every step."""
    state, parts = rule.start(start), []
    for gradient in gradients:
        parts.append(rule.parts(state, gradient))
        state = parts[-1].state
    return parts


def test_corrected_decay_by_hand():
    """Assert that with a schedule R of corrected decay is λη²/η_max at every step."""
    schedule = Cosine(LR, steps=20)
    parts = run(UpdateRule(schedule, HeavyBall(0.9), Corrected(DECAY, lr_max=LR)))
    etas = np.array([schedule(k) for k in range(20)])
    np.testing.assert_allclose([each.decay_rate for each in parts], DECAY * etas**2 / LR, rtol=ROUND_OFF)


def test_independent_decay_by_hand():
    """Assert that R of independent decay is λη/η_max, and λ itself without η_max."""
    schedule = Cosine(LR, steps=20)
    etas = np.array([schedule(k) for k in range(20)])
    follows, fixed = (run(UpdateRule(schedule, HeavyBall(0.9), Independent(DECAY, lr_max=x))) for x in (LR, None))
    np.testing.assert_allclose([each.decay_rate for each in follows], DECAY * etas / LR, rtol=ROUND_OFF)
    assert {each.decay_rate for each in fixed} == {DECAY}


def test_cautious_decay_by_hand():
    """Assert that cautious decay shrinks a weight by ηλ only in steps that do not move it away from 0."""
    theta, m = START.copy(), np.zeros(6)
    for gradient, parts in zip(GRADIENTS, run(UpdateRule(LR, HeavyBall(0.9), Cautious(DECAY))), strict=True):
        m = 0.9 * m + gradient
        away = np.sign(theta - LR * m - theta) == np.sign(theta)
        theta = theta - LR * m - np.where(away, 0.0, LR * DECAY) * theta
        np.testing.assert_allclose(parts.state.theta, theta, rtol=0, atol=ROUND_OFF)


def test_preconditioned_decay_takes_the_step_that_adds_it_behind_the_preconditioner():
    """Assert that without momentum the step of Adam with preconditioned decay is η(g + λθ)/(√v̂ + ε)."""
    theta, v = START.copy(), np.zeros(6)
    rule = UpdateRule(LR, Adam((0.0, 0.9), eps=1e-3), Preconditioned(DECAY))
    for k, (gradient, parts) in enumerate(zip(GRADIENTS, run(rule), strict=True), 1):
        v = 0.9 * v + 0.1 * gradient**2
        theta = theta - LR * (gradient + DECAY * theta) / (np.sqrt(v / (1 - 0.9**k)) + 1e-3)
        np.testing.assert_allclose(parts.state.theta, theta, rtol=0, atol=ROUND_OFF)


@pytest.mark.parametrize("name", ["NAdam", "RAdam", "AdaBelief", "RMSprop", "Adagrad", "Adadelta", "Adamax"])
def test_one_weight_has_the_effective_lr_of_all_weights(name):
    """Assert that for a single weight η_eff by weight is η_eff, up to ε, in every direction that has one."""
    direction = CATALOG[name](lr=LR).direction
    assert hasattr(direction, "effective_lr_by_weight")
    for parts in run(UpdateRule(LR, direction), GRADIENTS[:, :1] + 3.0, START[:1]):
        by_weight = direction.effective_lr_by_weight(parts.memory, parts.step)
        np.testing.assert_allclose(by_weight, direction.effective_lr(parts.memory, parts.step), rtol=1e-4)  # ε = 1e-6


@pytest.mark.slow
def test_cautious_decay_holds_noisy_weights_less():
    """Assert that in pure noise without momentum a weight is as large as the balance of its variance says.

    Decay acts in half of the steps, those that point towards 0. With R = ηλ and Gaussian weights and noise, the change
    of E[θ²] in a step is η²s² + (2/π)·R·ησs − (R − ½R²)σ², and 0 at equilibrium. So σ is √2 times that of decoupled
    decay as R → 0, and 3 % more than that at R = .01.
    """
    lr, decay_rate, weights = 0.01, 0.01, 20_000
    noise, rule = np.random.default_rng(1), UpdateRule(lr, SGD(), Cautious(decay_rate / lr))
    state, squares = rule.start(np.zeros(weights)), []
    for k in range(1500):
        state = rule(state, noise.standard_normal(weights))
        squares += [np.mean(state.theta**2)] if k >= 500 else []  # five times 1/R steps have washed out the start
    a, b, c = decay_rate - decay_rate**2 / 2, -2 / np.pi * decay_rate * lr, -(lr**2)
    sigma = (-b + np.sqrt(b * b - 4 * a * c)) / (2 * a)
    assert np.sqrt(np.mean(squares)) == pytest.approx(sigma, rel=0.005)  # 20,000 weights over 10 times 1/R: .2 %
    assert sigma / np.sqrt(lr**2 / (2 * decay_rate - decay_rate**2)) == pytest.approx(1.46, abs=0.01)


def test_catalogue_takes_the_largest_lr():
    """Assert that lr_max is lr unless it is given, and that a schedule needs it."""
    assert CATALOG.AdamC(lr=LR, weight_decay=DECAY).decay == Corrected(DECAY, lr_max=LR)
    assert CATALOG.AdamC(lr=LR, weight_decay=DECAY, lr_max=0.5).decay == Corrected(DECAY, lr_max=0.5)
    with pytest.raises(InputError, match="give lr_max"):
        CATALOG.AdamC(lr=Cosine(LR, steps=10))


def test_modes_have_their_names():
    """Assert that every decay of the table is found by its object, and no other decay is."""
    given = {"none": (), "corrected": (DECAY, LR)}
    for mode, kind in DECAYS.items():
        assert mode_of(kind(*given.get(mode, (DECAY,)))) == mode
    assert mode_of(object()) is None


@pytest.mark.parametrize("make", [lambda: Corrected(0.1, lr_max=0.0), lambda: Independent(0.1, lr_max=-1.0)])
def test_bad_largest_lr(make):
    """Assert that a largest learning rate that is not positive is refused."""
    with pytest.raises(InputError, match="lr_max"):
        make()
