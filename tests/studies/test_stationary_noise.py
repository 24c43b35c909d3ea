"""The study of stationary noise: the laws of its instruments, and that it sees a wrong law."""

import numpy as np
import pytest
import torch

from swd_dynamics.bench.scatter import scatter_in_noise
from swd_dynamics.rules import CATALOG, Nesterov
from swd_dynamics.studies import stationary_noise
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.noisy_runs import Quartic, Regression, diabetes
from swd_dynamics.studies.stationary_noise import Scatter, laws_of_adam, plain_variance
from swd_dynamics.studies.study import Setting
from swd_dynamics.symbolic.numeric_noise import moments_in_noise, numeric_covariance

CURVATURE = np.array([0.5, 1.0, 4.0])


@pytest.mark.slow
def test_gradient_descent_in_noise():
    """Assert Var θ = η/(h(2 − ηh)) and 1 − ρ₁ = ηh of torch's gradient descent, within four standard errors."""
    seen, errors = scatter_in_noise(lambda p: torch.optim.SGD(p, lr=0.25), CURVATURE, copies=500, steps=600)
    known = np.array([0.25 / (CURVATURE * (2 - 0.25 * CURVATURE)), 0.25 * CURVATURE])
    assert (np.abs(seen - known) <= 4 * errors).all()
    assert (errors < 0.03 * known).all()


@pytest.mark.slow
def test_the_standard_errors_are_those_of_repeated_runs():
    """Assert that the spread over 40 seeds is the standard error that one run states, within a third."""

    def make(parameters):
        return torch.optim.SGD(parameters, lr=0.25)

    runs = [scatter_in_noise(make, CURVATURE[1:2], copies=60, steps=150, seed=seed) for seed in range(40)]
    seen, stated = (np.array(part)[..., 0] for part in zip(*runs, strict=True))
    assert seen.std(axis=0, ddof=1) == pytest.approx(stated.mean(axis=0), rel=1 / 3)


@pytest.mark.slow
def test_the_second_moment_counts_the_scatter():
    """Assert v = 1 + h²·Var θ where Var θ = η/(h(2√v − ηh)), which is Adam's law for β₁ = 0, and both laws with it."""
    rule = CATALOG["Adam"](lr=0.1, betas=(0.0, 0.99), eps=0.0)
    h = np.array([1.0, 30.0])
    v = moments_in_noise(rule, h)
    variance = 0.1 / (h * (2 * np.sqrt(v) - 0.1 * h))
    assert v == pytest.approx(1 + h**2 * variance, rel=1e-12)
    derived, frozen = laws_of_adam(rule, h)
    assert derived[0] == pytest.approx(variance)
    assert frozen[0] == pytest.approx(0.1 / 1.9) and np.isnan(frozen[1])  # 30 is beyond 2/η = 20


@pytest.mark.slow
def test_the_second_moment_counts_what_l2_adds():
    """Assert v = 1 + (h + λ)²·Var θ where Var θ is η/((h + λ)(2√v − η(h + λ))), Adam's law with L2 for β₁ = 0."""
    (v,) = moments_in_noise(CATALOG["Adam"](lr=0.1, betas=(0.0, 0.99), eps=0.0, weight_decay=0.5), [4.0])
    assert v == pytest.approx(1 + 4.5 * 0.1 / (2 * np.sqrt(v) - 0.45), rel=1e-12)


@pytest.mark.slow
def test_the_plain_sde_knows_no_limit():
    """Assert that the dotted line is η_effσ²/(2(h + λ))."""
    found = Scatter("SGDS", "stable", 1.0, CURVATURE, 36.1, *(np.ones((2, 3)) for _ in range(3)), np.ones(3))
    assert plain_variance(found) == pytest.approx(1 / (2 * (CURVATURE + 0.1)))


def test_a_wrong_law_is_refuted():
    """Assert that a variance five standard errors off is refuted, a second moment 6 % off, and a floor 6 % off."""
    one, errors = np.ones((2, 3)), np.full((2, 3), 0.01)
    right = Scatter("AdamS", "stable", 0.1, CURVATURE, 10.0, one, one, errors, np.ones(3))
    assert all(verdict.passed for verdict in stationary_noise._of_sgd(right))
    variance, correlation = stationary_noise._of_sgd(right._replace(measured=one + [[0.05], [0.0]] * one))
    assert (variance.passed, correlation.passed) == (False, True)
    assert stationary_noise._of_adam(right).passed
    assert not stationary_noise._of_adam(right._replace(measured=1.06 * one)).passed
    law = Regression("SGDS", CURVATURE, np.ones(3), np.ones(3), np.ones(3))
    assert all(verdict.passed for verdict in stationary_noise._of_regression(law))
    floor, directions = stationary_noise._of_regression(law._replace(measured=np.array([1.0, 1.0, 1.1])))
    assert (floor.passed, directions.passed) == (False, True)


def test_the_limits_of_three_standard_errors():
    """Assert that the verdict on θ⁴ adds the errors of both ensembles as squares."""
    near = Quartic(runs=(1.0, 0.03), paths=(1.14, 0.04), quadratic=2.0)
    assert stationary_noise._of_quartic(near, *near.paths, "paths").passed
    assert not stationary_noise._of_quartic(near, 1.16, 0.04, "paths").passed


@pytest.mark.slow
def test_the_covariance_of_the_regression():
    """Assert that noise with one variance gives each direction of the Hessian the law of one weight."""
    found = diabetes(Method("SGDW", stationary_noise.REGRESSION), Setting(quick=True))
    assert found.curvature.sum() == pytest.approx(10)  # the trace of a correlation matrix
    law = numeric_covariance(CATALOG["SGDW"](**stationary_noise.REGRESSION))
    ratio = found.alike / law(found.curvature, 1.0)[0]
    assert ratio == pytest.approx(np.full(10, ratio[0]), rel=1e-8)


def test_every_mode_is_measured():
    """Assert that SGD and Adam are measured with each decay, and Nesterov's momentum with decoupled decay."""
    assert [(m.name, m.mode) for m in stationary_noise.noisy_methods()] == [
        *(("SGD", "L2"), ("SGDW", "decoupled"), ("SGDS", "stable"), ("SGDW", "decoupled")),
    ]
    assert isinstance(stationary_noise.noisy_methods()[-1].rule().direction, Nesterov)


@pytest.mark.slow
def test_both_panels_have_the_limit_at_one():
    """Assert that both panels share a logarithmic axis with the limit at 1, and that every kind of mark has a key."""
    one = np.ones((2, 3))
    sgd, adam = (
        [
            Scatter(name, mode, 1.0, CURVATURE, 36.1, one, one, one, one[0])
            for name, mode in zip(names, ("L2", "decoupled", "stable", "decoupled"), strict=False)
        ]
        for names in (("SGD", "SGDW", "SGDS", "SGDW, Nesterov"), ("Adam", "AdamW", "AdamS"))
    )
    left, right = stationary_noise.draw((sgd, adam)).axes
    assert left.get_xlim() == right.get_xlim() and left.get_xscale() == right.get_xscale() == "log"
    for axes in (left, right):
        assert any(list(line.get_xdata()) == [1, 1] for line in axes.lines)
        keys = {line.get_marker() for line in axes.get_legend().get_lines()}
        assert {line.get_marker() for line in axes.lines} <= keys
