"""The study of weights without gradient: half-lives and thresholds of closed forms, and dead weights that are dead."""

import numpy as np
import pytest

from swd_dynamics.rules import CATALOG
from swd_dynamics.studies.dead_weights import (
    ARGUMENTS,
    BURSTS,
    HIDDEN,
    DeadWeights,
    HalfLives,
    _as_by_rule,
    _equal,
    _returned,
    alone,
    burst_decay,
    draw,
    network,
    trained_path,
    unheard,
)
from swd_dynamics.studies.half_lives import (
    half_life,
    largest_root,
    long_run_half_life,
    with_gradients,
    without_gradient,
)
from swd_dynamics.studies.methods import Method


def test_half_lives_of_straight_and_exponential_paths():
    """Assert |θ|/(2η) for a weight that moves by η, also past 0, and ln 2/−ln(1 − R) where the path is too short."""
    straight = np.abs(1 - 0.25 * np.arange(9.0))[:, None] * [[4.0, -4.0]]
    found, reached = half_life(straight)
    assert found.tolist() == [2.0, 2.0] and reached.all()
    slow = 5.0 * 0.999 ** np.arange(101.0)[:, None]
    found, reached = half_life(slow)
    assert found == pytest.approx([np.log(0.5) / np.log(0.999)]) and not reached.any()


def test_half_life_of_l2_with_momentum():
    """Assert R = 1 − z with the larger root z of z² − (1 + β − ηλ)z + β: 1.11e-2 at η = .01, λ = .1, β = .9."""
    z = np.roots([1, -(1.9 - 1e-3), 0.9]).max()
    rule = CATALOG["SGD"](lr=0.01, momentum=0.9, weight_decay=0.1)
    assert long_run_half_life(rule) == pytest.approx(np.log(2) / -np.log(z))
    assert 1 - z == pytest.approx(1.11e-2, rel=5e-3)


def test_adam_divides_the_strength_away():
    """Assert that ε = 0 makes the path of Adam with L2 independent of λ, and that its first step is η."""
    paths = [without_gradient(CATALOG["Adam"](lr=0.01, eps=0.0, weight_decay=d), np.ones(1), 60) for d in (0.5, 2e-9)]
    np.testing.assert_allclose(*paths, rtol=1e-9)
    assert paths[0][1, 0] == pytest.approx(0.99)


def test_stable_decay_hears_of_the_other_weights():
    """Assert θ ← (1 − ηλ/√v̄)θ for the weight without gradient, with v̄ = ½ where the other weight has g = 1."""
    rule = CATALOG["AdamS"](lr=0.01, weight_decay=0.5)
    path = with_gradients(rule, np.ones(2), np.tile([0.0, 1.0], (3, 1)))
    np.testing.assert_allclose(path[:, 0], (1 - 0.005 / np.sqrt(0.5)) ** np.arange(4))


@pytest.mark.slow
def test_roots_and_threshold_where_the_second_moment_has_faded():
    """Assert |z| = 1 at λ = 2ε(1 + β₁)/(η(1 − β₁)), where p(−1) = 0 for p = z² − (1 + β₁ − (1 − β₁)ηλ/ε)z + β₁."""
    assert burst_decay() == pytest.approx(2 * 1e-8 * 1.9 / (1e-3 * 0.1), rel=1e-6)
    root = np.abs(np.roots([1, -(1.9 - 0.1 * 1e-3 * 5e-4 / 1e-8), 0.9])).max()
    assert largest_root(CATALOG["Adam"](**BURSTS, weight_decay=5e-4)) == pytest.approx(root)


def test_what_returns():
    """Assert that a weight that grows by ten orders of magnitude returns, and one that only shrinks does not."""
    shrinking = 10.0 ** -np.arange(50.0)
    assert _returned(np.array([shrinking, np.append(shrinking[:-1], 1e-3)])).tolist() == [False, True]


@pytest.mark.slow
def test_weights_alone_move_as_published():
    """Assert that the first step of torch's Adam without gradient is η/(1 + ε/(λθ))."""
    path = alone(np.array([1e-1, 1e-7]))[:2]
    np.testing.assert_allclose(path[0] - path[1], [1e-3, 1e-3 / 2], rtol=1e-5)


def test_dead_weights_have_no_gradient():
    """Assert that exactly the gradients of the weights of empty pixels are 0 at every step."""
    path, gradients = trained_path(Method("SGD", {"lr": 0.1, "weight_decay": 0.1}), network(), 3)
    silent = np.flatnonzero((gradients == 0).all(axis=0))
    np.testing.assert_array_equal(silent, np.sort(unheard()))
    assert len(unheard()) % HIDDEN == 0 and len(path) == 4


def lives(seen):
    decays = np.array([1e-10, 1e-5, 1e-2, 1.0])
    predicted, start = np.array([[7e4], [69.5], [69.0], [69.0]]), np.array([0.12])
    return HalfLives(decays, start, predicted, seen, np.ones_like(seen, bool), np.zeros(4, bool))


def test_wrong_half_lives_are_refuted():
    """Assert that half-lives 1e-5 off the rule are refuted, and so is one that depends on λ by a tenth."""
    right = lives(np.array([[7e4], [69.5], [69.0], [69.0]]))
    assert all(verdict.passed for verdict in _as_by_rule({"Adam": right}))
    assert not next(_as_by_rule({"Adam": right._replace(seen=right.seen * (1 + 1e-5))})).passed
    assert next(_equal(right)).passed
    assert not next(_equal(right._replace(seen=right.seen * np.array([[1.0], [1.1], [1.0], [1.0]])))).passed


@pytest.mark.slow
def test_the_key_tells_filled_and_open_points_apart():
    """Assert that half-lives that were not reached are open points, and that the key has a filled and an open one."""
    decays, one = np.array([1e-6, 1e-2, 1.0]), np.ones((3, 1))
    reached = np.array([[False], [True], [True]])
    lives = {name: HalfLives(decays, one[0], one, one, reached, reached.ravel()) for name in ARGUMENTS}
    figure = draw(DeadWeights(lives, {0.1: np.ones(9)}))
    points = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "")]
    is_open = {tuple(line.get_xdata()): line.get_markerfacecolor() == "white" for line in points}
    assert is_open == {(1e-6,): True, (1e-2, 1.0): False}
    keys = [line for line in figure.legends[0].get_lines() if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() == "white" for line in keys] == [False, True]
