"""The SDE of an optimizer: the orders of its stationary covariance and of its schemes, and ensembles of paths."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from swd_dynamics.errors import InputError
from swd_dynamics.flows import SDE
from swd_dynamics.flows.schemes import euler_maruyama, heun
from swd_dynamics.rules import CATALOG, SGD, UpdateRule
from swd_dynamics.symbolic import stationary_covariance

SLOPE = 0.02  # of two learning rates a factor of 2 apart; the next order in η bends the line by less
LRS = (1e-4, 5e-5)
NESTEROV = {"momentum": 0.9, "nesterov": True}
RULES = {
    "heavy ball": ("SGD", {"momentum": 0.9}),
    **{name: (name, {"momentum": 0.9, "weight_decay": 0.3}) for name in ("SGD", "SGDW", "SGDS")},
    **{f"Nesterov {name}": (name, NESTEROV | {"weight_decay": 0.3}) for name in ("SGD", "SGDW", "SGDS")},
    **{name: (name, {"weight_decay": 0.3}) for name in ("Adam", "AdamW", "AdamS")},
}


def relative_error(name, arguments, lr, order, b1=1.0):
    """|Var θ of the SDE/Var θ of the steps − 1| at h = 1.5 and σ = .7, with B₁ multiplied by a number."""
    rule = CATALOG[name](lr=lr, **arguments)
    sde = SDE(rule, lambda theta: 1.5 * theta, 0.7, lambda theta, vector: 1.5 * vector, order)
    changed = replace(sde.numbers, stir=b1 * sde.numbers.stir, stir_lag=b1 * sde.numbers.stir_lag)
    found = replace(sde, equation=changed).stationary_covariance([0.0])[0, 0]
    of_steps = stationary_covariance(rule)(h=1.5, sigma=0.7)
    numbers = {"v": 0.49} if "v" in of_steps.results else {}
    return abs(found / float(of_steps(**numbers).value) - 1)


def slope(name, arguments, *how):
    coarse, fine = (relative_error(name, arguments, lr, *how) for lr in LRS)
    return np.log2(coarse / fine)


@pytest.mark.parametrize("case", RULES.values(), ids=RULES)
@pytest.mark.slow
def test_orders_of_the_stationary_covariance(case):
    """Assert that the variance of the plain SDE has order 1, and that of the modified SDE order 2, without sampling."""
    assert abs(slope(*case, 1) - 1) <= SLOPE
    assert abs(slope(*case, 2) - 2) <= SLOPE


@pytest.mark.parametrize("case", RULES.values(), ids=RULES)
@pytest.mark.slow
def test_the_modified_drift_alone_has_order_one(case):
    """Assert that with F₁ but without B₁, or with a B₁ that is a tenth too large, the order is 1 and not 2."""
    for wrong in (0.0, 1.1):
        assert abs(slope(*case, 2, wrong) - 1) <= 5 * SLOPE  # a small error of first order: the second bends the line


@pytest.mark.slow
def test_full_state_has_order_one_where_the_memory_is_slow():
    """Assert that the SDE of (θ, m) has order 1 in η where 1 − β = 4η, and m is a running mean."""

    def error(lr):
        slow = {"momentum": 1 - 4 * lr, "dampening": 1 - 4 * lr, "weight_decay": 0.3}
        return relative_error("SGDW", slow, lr, "state")

    assert abs(np.log2(error(LRS[0]) / error(LRS[1])) - 1) <= SLOPE


@pytest.mark.parametrize("dampened", [False, True])
@pytest.mark.slow
def test_full_state_is_off_by_the_effective_learning_rate(dampened):
    """Assert that without decay the SDE of (θ, m) is off by x/(1 + x) with x = η_eff·h, at β = .999 to β's distance."""
    lr, beta, h = 1e-4, 0.999, 1.5
    arguments = {"momentum": beta, "dampening": beta * dampened}
    x = lr * h * (1 - beta * dampened) / (1 - beta)
    assert relative_error("SGD", arguments, lr, "state") == pytest.approx(x / (1 + x), rel=2 * (1 - beta))


HESSIAN = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])
COVARIANCE = np.array([[1.0, 0.0, 0.4], [0.0, 0.25, 0.1], [0.4, 0.1, 0.6]])  # does not commute with the Hessian


def coupled(name, lr, order, **arguments):
    rule = CATALOG[name](lr=lr, weight_decay=0.3, **arguments)
    return SDE(rule, lambda theta: theta @ HESSIAN, COVARIANCE, lambda theta, vector: vector @ HESSIAN, order)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("SGDW", {"momentum": 0.9}), ("SGDS", NESTEROV), ("Adam", {}), ("AdamW", {}), ("AdamS", {})],
    ids=["SGDW", "SGDS with Nesterov", "Adam", "AdamW", "AdamS"],
)
@pytest.mark.slow
def test_orders_of_coupled_weights(name, arguments):
    """Assert the orders 1 and 2 of a whole covariance matrix, where noise and Hessian do not commute."""

    def error(lr, order):
        sde = coupled(name, lr, order, **arguments)
        of_steps = sde.covariance_of_steps(np.zeros(3))[:3, :3]
        return np.linalg.norm(sde.stationary_covariance(np.zeros(3)) - of_steps) / np.linalg.norm(of_steps)

    for order in (1, 2):
        assert abs(np.log2(error(LRS[0], order) / error(LRS[1], order)) - order) <= SLOPE


@pytest.mark.slow
def test_covariance_of_steps_is_that_of_the_rule():
    """Assert that the covariance of the steps is scipy's, for A and b of steps that the rule takes in floats."""
    sde = coupled("SGDS", 0.1, 1, momentum=0.9)

    def after(state, gradient):
        began = sde.rule.start(state[:3])._replace(step=1)
        began = began._replace(memory=type(began.memory)(state[3:]))
        ended = sde.rule(began, HESSIAN @ state[:3] + gradient)
        return np.concatenate([ended.theta, *ended.memory])

    a = np.array([after(unit, np.zeros(3)) for unit in np.eye(6)]).T
    b = np.array([after(np.zeros(6), unit) for unit in np.eye(3)]).T
    known = solve_discrete_lyapunov(a, b @ COVARIANCE @ b.T)
    assert sde.covariance_of_steps(np.zeros(3)) == pytest.approx(known, rel=1e-9, abs=1e-12)


def moments_after(scheme, rate, spread, time, steps):
    """The mean and the variance after a time from 1, of dx = −rate·x dt + √spread dW: a step is linear in x and ΔW."""
    dt = time / steps

    def step(x, kick):
        return float(scheme(np.array([[x]]), dt, np.array([[kick]]), lambda at: -rate * at)[0, 0])

    factor, passed = step(1.0, 0.0), step(0.0, 1.0)
    mean, variance = 1.0, 0.0
    for _ in range(steps):
        mean, variance = factor * mean, factor**2 * variance + passed**2 * spread * dt
    return np.array([mean, variance])


@pytest.mark.parametrize(("scheme", "order"), [(euler_maruyama, 1), (heun, 2)])
def test_weak_orders_on_the_ornstein_uhlenbeck_process(scheme, order):
    """Assert the weak orders of both moments against e⁻ᵏᵗ and D(1 − e⁻²ᵏᵗ)/(2k), without sampling."""
    exact = np.array([np.exp(-1.3), 0.7 * (1 - np.exp(-2.6)) / 2.6])
    coarse, fine = (np.abs(moments_after(scheme, 1.3, 0.7, 1.0, steps) - exact) for steps in (256, 512))
    assert np.abs(np.log2(coarse / fine) - order).max() <= SLOPE


@pytest.mark.parametrize(("scheme", "order"), [(euler_maruyama, 1), (heun, 2)])
def test_weak_orders_on_geometric_brownian_motion(scheme, order):
    """Assert that of dx = ax dt + cx dW the mean has the scheme's order, and the mean square order 1 with both.

    The schemes take B at the start of a step, so that neither has order 2 where B depends on x at leading order.
    """

    def moments(steps):
        dt = 1.0 / steps
        factor, passed = (
            float(scheme(np.array([[x]]), dt, np.array([[kick]]), lambda at: 0.4 * at)[0, 0])
            for x, kick in ((1.0, 0.0), (0.0, 1.0))
        )
        return np.array([factor**steps, (factor**2 + 0.09 * passed**2 * dt) ** steps])

    exact = np.exp([0.4, 2 * 0.4 + 0.09])
    coarse, fine = (np.abs(moments(steps) - exact) for steps in (256, 512))
    assert np.abs(np.log2(coarse / fine) - [order, 1]).max() <= SLOPE


def test_an_ensemble_has_the_moments_of_the_process():
    """Assert mean and variance of 4000 paths of order 2, within three and a half standard errors at every step."""
    rule = CATALOG["SGDS"](lr=0.05, momentum=0.5, weight_decay=0.4)
    sde = SDE(rule, lambda theta: 3 * theta, 0.8, lambda theta, vector: 3 * vector, 2)
    found = sde.solve([1.0], steps=40, paths=4000, substeps=8)
    rate = float(-sde.drift([[1.0]])[0, 0])
    level = float(sde.stationary_covariance([0.0])[0, 0])
    mean, variance = np.exp(-rate * found.time), level * (1 - np.exp(-2 * rate * found.time))
    assert (np.abs(found.mean[:, 0] - mean) <= 3.5 * np.sqrt(variance / 4000) + 1e-3 * mean).all()
    assert (np.abs(found.variance[:, 0] - variance) <= 3.5 * variance * np.sqrt(2 / 3999) + 1e-12).all()


@pytest.mark.slow
def test_full_state_is_an_ensemble_too():
    """Assert that order "state" gives θ and m, with the variances of its Lyapunov equation in the end."""
    sde = SDE(CATALOG["SGDW"](lr=0.05, momentum=0.8, weight_decay=0.4), lambda theta: 3 * theta, 0.8, order="state")
    found = sde.solve([0.0], steps=60, paths=4000, substeps=20)
    known = np.diag(sde.stationary_covariance([0.0]))
    ends = np.array([found.variance[-1, 0], found.memory[0][-1, :, 0].var(ddof=1)])
    assert np.abs(ends / known - 1).max() <= 3.5 * np.sqrt(2 / 3999) + 0.01  # and 1 % of the scheme


@pytest.mark.slow
def test_noise_of_coupled_weights():
    """Assert that paths have the covariance of the Lyapunov equation where noise is given as a matrix."""
    sde = coupled("SGD", 0.05, 1, momentum=0.5)
    found = np.cov(sde.solve(np.zeros(3), steps=200, paths=4000).theta[-1].T)
    known = sde.stationary_covariance(np.zeros(3))
    errors = np.sqrt((known**2 + np.outer(np.diag(known), np.diag(known))) / 3999)
    assert (np.abs(found - known) <= 3.5 * errors).all()


def test_divergence_is_a_result():
    """Assert that paths that leave the well of θ²/2 − θ⁴/4 are NaN from their step on, and that others go on."""
    sde = SDE(UpdateRule(0.1, SGD()), lambda theta: theta - theta**3, 0.5)
    found = sde.solve([0.9], steps=100, paths=200)
    lost = np.isfinite(found.diverged)
    assert 0 < lost.sum() < 200
    assert np.isnan(found.theta[-1, lost]).all() and np.isfinite(found.theta[-1, ~lost]).all()
    first = int(found.diverged.min())
    assert np.isfinite(found.mean[first - 1]).all() and np.isnan(found.mean[first:]).all()


@pytest.mark.parametrize(("lr", "momentum"), [(0.2, 0.8), (0.1, 0.9)])
@pytest.mark.parametrize("scheme", ["heun", "euler-maruyama"])
@pytest.mark.slow
def test_substeps_follow_a_stiff_drift(lr, momentum, scheme):
    """Assert that by default paths of order 2 have the variance of their own Lyapunov equation, to 2 % and sampling."""
    sde = SDE(CATALOG["SGDW"](lr=lr, momentum=momentum), lambda theta: theta, 1.0, lambda theta, vector: vector, 2)
    with pytest.warns(RuntimeWarning, match="order 2 needs"):
        known = float(sde.stationary_covariance([0.0])[0, 0])
    with pytest.warns(RuntimeWarning, match="order 2 needs"):
        found = sde.solve([0.0], steps=10, paths=4000, scheme=scheme)
    assert abs(found.variance[-1, 0] / known - 1) <= 0.02 + 3.5 * np.sqrt(2 / 3999)


@pytest.mark.slow
def test_a_coarse_scheme_is_said():
    """Assert a warning with a count where the drift's rate 27.5 is followed in steps of .05, and none with 32."""
    sde = SDE(CATALOG["SGDW"](lr=0.2, momentum=0.8), lambda theta: theta, 1.0, lambda theta, vector: vector, 2)
    with pytest.warns(RuntimeWarning) as said:
        sde.solve([0.0], steps=3, paths=3, substeps=4)
    assert "give substeps=22 or" in str(said[1].message)  # η·rate = 5.5, of which Heun's scheme takes ¼
    with pytest.warns(RuntimeWarning) as said:
        sde.solve([0.0], steps=3, paths=3, substeps=32)
    assert len(said) == 1 and "order 2" in str(said[0].message)


def test_divergence_of_the_scheme_is_said():
    """Assert that paths do not diverge without a warning in a well, which no path of the SDE leaves."""
    parts = lambda x: x + 0.3 * x**3, 1.0, lambda x, vector: (1 + 0.9 * x**2) * vector, 2
    with pytest.warns(RuntimeWarning) as said:
        SDE(CATALOG["SGDW"](lr=0.1, momentum=0.9), *parts).solve([0.0], steps=9, paths=200, substeps=8)
    assert "too coarse" in str(said[1].message)


def test_the_share_of_the_second_order():
    """Assert that the relative error of the second order's variance is b²/(4(1+b)), b = ηh(1+β)/(2(1−β)²), and is said.

    Order 1 has the error ηh/(2(1+β)) of the closed form Var θ ∝ 1/(2(1+β) − ηh).
    """
    for lr in (0.004, 0.01, 0.1):
        rule = CATALOG["SGDW"](lr=lr, momentum=0.9)
        plain, second = (SDE(rule, lambda x: x, 1.0, lambda x, vector: vector, order) for order in (1, 2))
        b = lr * 1.9 / (2 * 0.1**2)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = second.stationary_covariance([0.0])[0, 0]
        exact = plain.covariance_of_steps([0.0])[0, 0]
        assert found / exact - 1 == pytest.approx(b**2 / (4 * (1 + b)), rel=0.1)
        assert 1 - plain.stationary_covariance([0.0])[0, 0] / exact == pytest.approx(lr / 3.8, rel=1e-9)
        assert len(said) == (b > 0.5)


def test_an_unstable_covariance_is_infinite():
    """Assert that the steps have an infinite variance beyond the limit h = 2/η, and the SDE where h < 0."""
    above, saddle = (SDE(UpdateRule(0.5, SGD()), lambda theta, h=h: h * theta, 1.0) for h in (4.1, -1.0))
    assert np.isinf(above.covariance_of_steps([0.0])).all() and np.isfinite(above.stationary_covariance([0.0])).all()
    assert np.isinf(saddle.stationary_covariance([0.0])).all()


def test_seeds_are_explicit():
    """Assert that paths are the same for the same seed, and others for another seed."""
    sde = SDE(UpdateRule(0.1, SGD()), lambda theta: theta, 1.0)
    one, same, other = (sde.solve([1.0], 5, paths=3, seed=seed).theta for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SDE("SGD", lambda theta: theta, 1.0), "rule = 'SGD'"),
        (lambda: SDE(UpdateRule(0.1, SGD()), 3.0, 1.0), "is not a function"),
        (lambda: SDE(UpdateRule(0.1, SGD()), lambda theta: theta, 1.0, order=3), "order = 3"),
        (lambda: SDE(UpdateRule(0.1, SGD()), lambda theta: theta, 1.0, order=2), "needs hvp"),
        (lambda: SDE(UpdateRule(0.1, SGD()), lambda theta: theta, -1.0), "standard deviation"),
        (lambda: SDE(UpdateRule(0.1, SGD()), lambda theta: theta, [[1.0, 2.0], [0.0, 1.0]]), "symmetric"),
        (lambda: SDE(UpdateRule(0.1, SGD()), lambda theta: theta, 1.0).solve([1.0], 5, scheme="rk4"), "scheme"),
        (lambda: SDE(UpdateRule(0.1, SGD()), lambda theta: theta, [1.0, 2.0]).solve([1.0], 5), "one for each weight"),
        (lambda: SDE(UpdateRule(0.1, SGD()), lambda theta: theta[0], 1.0).solve([1.0], 5), "all paths at once"),
        (lambda: SDE(UpdateRule(0.1, SGD()), lambda theta: theta, 1.0).solve([1.0], 0), "steps = 0"),
    ],
)
def test_bad_input(make, said):
    """Assert that an SDE that cannot be solved is refused with the reason."""
    with pytest.raises(InputError, match=said):
        make()
