"""The study of the end of training: its laws are those of closed forms and brute force; wrong laws fail."""

import numpy as np
import pytest

from swd_dynamics.rules.schedule import Cosine
from swd_dynamics.studies.end_of_training import ADAM, IN_NOISE, SGD, _follows, _rises, _rises_not
from swd_dynamics.studies.gradient_ratio import (
    BINS,
    FROM,
    WEIGHTS,
    RatioCourse,
    balance,
    exponent_of_lr,
    integrated_norms,
    moment_map,
)
from swd_dynamics.studies.methods import Method


@pytest.mark.parametrize(
    ("name", "exponent"), [("SGDW", -1 / 2), ("SGDS", -1 / 2), ("AdamW", -1), ("AdamS", -2 / 3), ("AdamC", 0)]
)
@pytest.mark.slow
def test_powers_of_the_learning_rate(name, exponent):
    """Assert that ‖g‖/‖θ‖ goes as η to the powers that follow from ‖θ‖⁴ ∝ η, ‖θ‖² ∝ η, ‖θ‖³ ∝ η and ‖θ‖ constant."""
    assert exponent_of_lr(balance(Method(name, IN_NOISE[name]), 3.0, WEIGHTS)) == pytest.approx(exponent, abs=0.005)


@pytest.mark.slow
def test_momentum_weakens_the_ratio_of_sgd():
    """Assert ‖g‖/‖θ‖ = (1 − β)√(2λ/η) for heavy ball with decoupled decay, to leading order in ηλ."""
    method = Method("SGDW", SGD | {"weight_decay": 1e-4})
    assert balance(method, 3.0, 100)(0.1) == pytest.approx(0.1 * np.sqrt(2e-4 / 0.1), rel=1e-3)


@pytest.mark.slow
def test_the_ratio_of_adamw_depends_on_the_gradient():
    """Assert ‖g‖/‖θ‖ = 2λΓ/(ηC) for AdamW, to leading order in ηλ: Γ/‖θ‖² with ‖θ‖² = ηC/(2λ)."""
    method = Method("AdamW", ADAM | {"weight_decay": 1e-3})
    assert balance(method, 3.0, 100)(0.01) == pytest.approx(2 * 1e-3 * 3.0 / (0.01 * 100), rel=1e-2)


def test_corrected_decay_follows_the_learning_rate():
    """Assert that R of AdamC is λη²/η_max: a quarter of it is left where η has fallen to a half."""
    step = moment_map(Method("AdamC", ADAM | {"weight_decay": 2.0, "lr_max": 0.01}))
    rates = [1 - step(lr, 1.0, 1.0)[0][0, 0] for lr in (0.01, 0.005)]
    assert rates == pytest.approx([0.02, 0.005])


@pytest.mark.parametrize(("name", "rate"), [("AdamW", 0.5), ("AdamS", 0.5 / 2.0)])
def test_the_map_has_the_second_moment_given(name, rate):
    """Assert that R is ηλ or ηλ/√v, that the gradient's share is −η(1−β₁)/√v, and that v follows σ²."""
    step = moment_map(Method(name, {"lr": 0.1, "betas": (0.9, 0.75), "eps": 0.0, "weight_decay": 0.5}))
    matrix, v = step(1.0, 3.0, 4.0)
    np.testing.assert_allclose(matrix, [[1 - rate, -0.9 / 2, -0.1 / 2], [0.0, 0.9, 0.1]])
    assert v == pytest.approx(0.75 * 4 + 0.25 * 9)


def test_norms_along_a_cosine_by_brute_force():
    """Assert that the integrated norm is that of two thousand weights moved by the formula of SGDW with noise."""
    method, size, steps = Method("SGDW", SGD | {"weight_decay": 0.5}), 2000, 200
    generator, beta, decay, gamma = np.random.default_rng(0), 0.9, 0.5, 3.0
    theta, m, norms = generator.normal(size=size), np.zeros(size), []
    theta *= 2.0 / np.linalg.norm(theta)
    for k in range(steps):
        norm = np.linalg.norm(theta)
        norms.append(norm)
        noise = generator.normal(size=size)
        noise -= theta * (noise @ theta) / norm**2
        lr = Cosine(0.1, steps)(k)
        m = beta * m + gamma / norm * noise / np.linalg.norm(noise)
        theta = (1 - lr * decay) * theta - lr * m
    found = integrated_norms(method, np.full(steps, gamma), size, 2.0)
    np.testing.assert_allclose(found, norms, rtol=0.03)  # 1/√2000 = 2 % for a correlation of directions
    assert np.ptp(norms) > 0.5  # the norm does move


def course(off, rise=2.0):
    law = np.linspace(1.0, rise, BINS)
    law[FROM:] *= rise / law[-1]
    law[FROM] = 1.0
    return RatioCourse(law * off, law)


@pytest.mark.parametrize(("off", "status"), [(1.0, "confirmed"), (1.03, "confirmed"), (1.06, "refuted")])
def test_a_course_that_is_off_is_refuted(off, status):
    """Assert that a course 6 % off the law of Adam is refuted, and one within 3 % is not."""
    assert _follows("AdamW", "claim", course(off), "Adam").status == status


def test_the_worst_seed_decides():
    """Assert that one seed without a rise refutes the rise, and one seed with a rise refutes that there is none."""
    flat, steep = course(1.0, rise=1.1), course(1.0, rise=2.0)
    assert _rises("a", "claim", [steep, steep]).passed and not _rises("a", "claim", [steep, flat]).passed
    assert _rises_not("a", "claim", [flat, flat]).passed and not _rises_not("a", "claim", [flat, steep]).passed
