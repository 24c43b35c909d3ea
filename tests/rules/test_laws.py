"""Laws that hold for every rule, on hyperparameters and gradients that hypothesis makes up."""

from itertools import accumulate

import numpy as np
import pytest
from aggregated_momentum import AggregatedMomentum
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import ROUND_OFF, round_off

from swd_dynamics.rules import (
    CATALOG,
    L2,
    SGD,
    Adai,
    Adam,
    AMSGrad,
    Decoupled,
    HeavyBall,
    Nesterov,
    NoDecay,
    Stable,
    Step,
    UpdateRule,
)

STEPS = 25
LINEAR = [SGD(), HeavyBall(0.9), HeavyBall(0.8, 0.3), Nesterov(0.9), AggregatedMomentum(0.5, 0.9)]
DIRECTIONS = [*LINEAR, Adam((0.9, 0.99)), AMSGrad((0.9, 0.99)), Adai((0.3, 0.9))]
law = settings(max_examples=25, deadline=None, derandomize=True)
every_direction = pytest.mark.parametrize("direction", DIRECTIONS, ids=repr)

seeds = st.integers(0, 2**32 - 1)
rates = st.floats(0, 1)
lrs = st.floats(1e-4, 0.1)
momenta = st.floats(0.01, 0.99)


def stream(seed, weights=4):
    generator = np.random.default_rng(seed)
    return generator.normal(size=weights), generator.normal(size=(STEPS, weights))


def path(rule, theta, gradients):
    return np.array([state.theta for state in accumulate(gradients, rule, initial=rule.start(theta))])


def last_parts(rule, theta, gradients):
    """The last step of a run, taken apart."""
    *_, state = accumulate(gradients[:-1], rule, initial=rule.start(theta))
    return rule.parts(state, gradients[-1])


def agree(one, other):
    """Whether two runs are one method: equal to round-off, step by step, relative to the largest θ on the way."""
    scale = np.linalg.norm(one, axis=1).max()
    return np.linalg.norm(one - other, axis=1).max() <= round_off(STEPS, [scale])


@every_direction
@pytest.mark.parametrize("decay", [Decoupled, Stable])
@law
@given(seed=seeds, lr=lrs, rate=rates, factor=st.floats(0, 100))
@pytest.mark.slow
def test_decay_rate_is_linear_in_its_rate(direction, decay, seed, lr, rate, factor):
    """Assert that R is c times as large with c times the weight decay."""
    theta, gradients = stream(seed)
    once = last_parts(UpdateRule(lr, direction, decay(rate)), theta, gradients).decay_rate
    often = last_parts(UpdateRule(lr, direction, decay(factor * rate)), theta, gradients).decay_rate
    assert often == pytest.approx(factor * once, rel=ROUND_OFF, abs=ROUND_OFF)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@every_direction
def test_l2_is_a_gradient(direction, rate):
    """Assert that L2 is the rule without decay on the loss plus ½λ‖θ‖²: λθ only joins the gradient."""
    theta, gradients = stream(3)
    decayed, plain = UpdateRule(0.05, direction, L2(rate)), UpdateRule(0.05, direction)
    one, other = decayed.start(theta), plain.start(theta)
    for gradient in gradients:
        one, other = decayed(one, gradient), plain(other, gradient + rate * other.theta)
    assert np.array_equal(one.theta, other.theta)


@every_direction
@law
@given(seed=seeds, lr=lrs)
@pytest.mark.slow
def test_no_decay_is_any_decay_of_zero(direction, seed, lr):
    """Assert that L2, decoupled and stable decay with λ = 0 are one rule, the one without decay, bit for bit."""
    theta, gradients = stream(seed)
    paths = [path(UpdateRule(lr, direction, decay), theta, gradients) for decay in (NoDecay(), L2(0.0), Decoupled(0.0))]
    paths.append(path(UpdateRule(lr, direction, Stable(0.0)), theta, gradients))
    assert all(np.array_equal(paths[0], other) for other in paths[1:])


@law
@given(seed=seeds, lr=lrs, rate=rates, momentum=momenta, dampening=st.floats(0, 0.9))
@pytest.mark.slow
def test_sgdw_is_sgds_in_another_unit(seed, lr, rate, momentum, dampening):
    """Assert that SGDW with λ is SGDS with λ(1−β)/(1−τ), and Nesterov's with λ(1−β)."""
    theta, gradients = stream(seed)
    for arguments, unit in [
        ({"dampening": dampening}, (1 - momentum) / (1 - dampening)),
        ({"nesterov": True}, 1 - momentum),
    ]:
        decoupled = CATALOG["SGDW"](lr, weight_decay=rate, momentum=momentum, **arguments)
        stable = CATALOG["SGDS"](lr, weight_decay=rate * unit, momentum=momentum, **arguments)
        assert agree(path(decoupled, theta, gradients), path(stable, theta, gradients))


@law
@given(seed=seeds, lr=lrs, rate=rates)
@pytest.mark.slow
def test_adaiw_is_adais(seed, lr, rate):
    """Assert that AdaiW and AdaiS are one method, bit for bit: Adai's effective learning rate is its learning rate."""
    theta, gradients = stream(seed)
    paths = [path(CATALOG[name](lr, weight_decay=rate), theta, gradients) for name in ("AdaiW", "AdaiS")]
    assert np.array_equal(*paths)


@law
@given(seed=seeds, lr=lrs, rate=rates)
@pytest.mark.slow
def test_sgd_without_momentum_has_one_decay(seed, lr, rate):
    """Assert that SGD, SGDW and SGDS are one method as long as there is no momentum."""
    theta, gradients = stream(seed)
    l2, decoupled, stable = (path(CATALOG[n](lr, weight_decay=rate), theta, gradients) for n in ("SGD", "SGDW", "SGDS"))
    assert agree(l2, decoupled)
    assert np.array_equal(decoupled, stable)


@pytest.mark.parametrize("family", [Adam, AMSGrad])
@law
@given(seed=seeds, lr=lrs, beta1=st.floats(0, 0.99), beta2=st.floats(0, 0.999), scale=st.floats(1e-3, 1e3))
@pytest.mark.slow
def test_adam_does_not_see_the_gradients_scale(family, seed, lr, beta1, beta2, scale):
    """Assert that c times the gradient leaves Adam's direction (ε = 0) as it is and divides its η_eff by c."""
    theta, gradients = stream(seed)
    rule = UpdateRule(lr, family((beta1, beta2), eps=0.0), Stable(1.0))
    once, scaled = last_parts(rule, theta, gradients), last_parts(rule, theta, scale * gradients)
    allowed = round_off(STEPS, once.move)
    assert np.linalg.norm(scaled.move - once.move) <= allowed
    assert scaled.decay_rate * scale == pytest.approx(once.decay_rate, rel=allowed)


@law
@given(
    direction=st.one_of(
        st.just(SGD()),
        st.builds(HeavyBall, momenta, st.floats(0, 0.9)),
        st.builds(Nesterov, momenta),
        st.builds(AggregatedMomentum, momenta, momenta),
    ),
    lr=lrs,
    seed=seeds,
    late=st.integers(1, 5),
)
@pytest.mark.slow
def test_effective_lr_is_how_far_an_impulse_reaches(direction, lr, seed, late):
    """Assert that η_eff is how far a unit of gradient moves a weight in the end, measured.

    The impulse hits one gradient of a stream, later than the first one, which torch's dampening lets through undamped;
    the effect is summed until the slowest memory, .99 a step, has let go of it.
    """
    rule = UpdateRule(lr, direction)
    noise = np.random.default_rng(seed).normal(size=4000)
    impulse = np.where(np.arange(noise.size) == late, 1.0, 0.0)
    ran = path(rule, 0.0, noise.tolist()), path(rule, 0.0, (noise + impulse).tolist())
    moved = ran[0][-1] - ran[1][-1]
    declared = direction.effective_lr(None, Step(None, None, lr, late + 1))
    steps_from = max(np.abs(ran).max(), declared)
    assert abs(moved - declared) <= round_off(noise.size, [steps_from])
