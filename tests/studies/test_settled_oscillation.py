"""The study of settled oscillations: its orbits, its starts and its fits, compared with closed forms."""

import numpy as np
import pytest
import torch

from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.settled_orbits import OrbitFinder, at_orbit, fitted_root, leading_root, sizes
from swd_dynamics.studies.settled_oscillation import ROOT, Curve, Kind, Nudged, _on_curves, measured_end
from swd_dynamics.symbolic import BurstRoots, numeric_oscillation
from swd_dynamics.tasks import Task

KAPPA, RATIO, LIMIT = 0.2, 0.05, 4.0


class Two(torch.nn.Module):
    """Two weights x and y."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([0.1, 2.0], dtype=torch.float64))


def loss(model):
    """½(1 + y)x² + ½κ(y − 4)²: S = 1 + y is at the limit 4 where y = 3, and x² is 2(κ − 3·R/η_eff) there."""
    x, y = model.weights
    return (1 + y) * x**2 / 2 + KAPPA * (y - 4) ** 2 / 2


@pytest.fixture(scope="module")
def task():
    """Two weights whose settled oscillation has a closed form."""
    return Task("two weights", Two(), lambda model, _: loss(model), loss, {})


@pytest.fixture(scope="module")
def orbit(task):
    """The settled oscillation of these two weights."""
    return OrbitFinder(task).first(RATIO, LIMIT)


@pytest.mark.slow
def test_orbit_in_closed_form(orbit):
    """Assert that the orbit has y = 3 and σ² = 2(κ − 3·R/η_eff) = 0.1, and that the loss around it is as by pencil."""
    assert orbit.mean == pytest.approx([0.0, 3.0], abs=1e-9)
    assert orbit.variance == pytest.approx(0.1)
    # S has the slope 1 along y and the curvature 2/(S − κ) along x, because the critical direction turns
    turning = 0.5 * orbit.variance * 2 / (LIMIT - KAPPA)
    assert orbit.averaged.curvatures == pytest.approx([KAPPA, LIMIT + turning], abs=1e-6)
    assert orbit.plain.curvatures == pytest.approx([KAPPA, LIMIT])
    assert np.abs(orbit.averaged.slopes) == pytest.approx([1.0, 0.0], abs=1e-6)
    assert orbit.fourth == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_orbit_with_weaker_decay(task, orbit):
    """Assert that the orbit beside the first one has the σ² of its own R/η_eff."""
    assert OrbitFinder(task).beside(orbit, ratio=0.04, limit=LIMIT).variance == pytest.approx(2 * (KAPPA - 3 * 0.04))


# By pencil: η of the limit 4 where R/η_eff is 1/20, with h_max = 2(1+β)/η − λ or (1+β)(2 − R)/η and R = ηλ/(1−β).
RATES = {
    "L2": ("SGD", {"momentum": 0.5}, 3 / 4.05),
    "stable": ("SGDS", {"momentum": 0.5}, 3 / (4 + 1.5 * 0.1)),
    "Nesterov, L2": ("SGD", {"momentum": 0.5, "nesterov": True}, 3 / (2 * 4.05)),
}


@pytest.mark.parametrize(("name", "more", "lr"), RATES.values(), ids=RATES)
@pytest.mark.slow
def test_runs_that_start_on_the_orbit_stay_there(task, orbit, name, more, lr):
    """Assert that η is that of the limit, and that a torch run from the orbit, memory included, keeps its size."""
    method = at_orbit(orbit, name, RATIO, **more)
    assert method.arguments["lr"] == pytest.approx(lr)
    assert sizes(task, orbit, method, 0.0, 12) == pytest.approx(np.ones(11), abs=1e-7)


@pytest.mark.slow
def test_root_of_gradient_descent_in_closed_form(task, orbit):
    """Assert that ln μ is fitted and derived where (μ − 1)(μ − 1 + η(κ + λ)) + η²σ² = 0, for gradient descent."""
    method = at_orbit(orbit, "SGD", RATIO, momentum=0.0)
    lr, damped = method.arguments["lr"], method.arguments["lr"] * (KAPPA + RATIO)
    mu = max(np.roots([1.0, damped - 2, 1 - damped + lr**2 * orbit.variance]), key=lambda root: root.imag)
    derived = orbit.roots(numeric_oscillation(method.rule())).leading
    assert derived == pytest.approx(complex(np.log(mu)), rel=1e-6)
    # the size turns by η·2σ²/(S − κ) = 1e-2 of itself in addition, which the equation leaves out
    assert fitted_root(task, orbit, method, 60) == pytest.approx(complex(np.log(mu)), rel=0.02)


def test_root_of_a_signal_with_two_pairs():
    """Assert that the stronger of two pairs is found: exp(.01k)cos(.2k) beside .3·exp(−.1k)cos(.9k)."""
    k = np.arange(80)
    signal = np.exp(0.01 * k) * np.cos(0.2 * k) + 0.3 * np.exp(-0.1 * k) * np.cos(0.9 * k)
    assert leading_root(signal) == pytest.approx(0.01 + 0.2j, abs=1e-8)


@pytest.mark.slow
def test_end_of_settling(task, orbit):
    """Assert that the derived growth is 0 where settling ends, and that torch runs cease to settle within 0.001."""
    kind = Kind("SGD", False, (0.3, 0.5))
    end = kind.end(orbit)
    assert kind.growth(orbit, end) == pytest.approx(0.0, abs=1e-5)
    assert measured_end(task, orbit, kind, end) == pytest.approx(end, abs=1e-3)


def test_runs_on_the_wrong_side_are_counted():
    """Assert that a run that keeps its nudge and one that loses it count, if the derived growth says the opposite."""
    kept, lost = np.full(300, 1.2), np.ones(300)
    assert Nudged({0.1: lost, 0.9: kept}, {0.1: -0.1, 0.9: 0.1}, {}).wrong == 0
    assert Nudged({0.1: kept, 0.9: lost}, {0.1: -0.1, 0.9: 0.1}, {}).wrong == 2


def test_the_method_has_its_arguments(orbit):
    """Assert that the method is named as it is, with λ = R/η_eff."""
    assert isinstance(at_orbit(orbit, "SGD", RATIO, momentum=0.3), Method)
    assert at_orbit(orbit, "SGD", RATIO, momentum=0.3).arguments["weight_decay"] == RATIO


def test_the_momentum_with_the_largest_error_is_named():
    """Assert that the reason names the momentum of the largest error, and that at β = 0 all take the same steps."""
    for wrong, said in ((0, "at β = 0, where all these optimizers take the same steps"), (2, "at β = 0.5)")):
        roots = [BurstRoots(np.array([each]), np.ones(1)) for each in (-0.1 + 0.3j, -0.05 + 0.3j, 0.1 + 0.3j)]
        fitted = np.array([each.leading for each in roots])
        fitted[wrong] *= 1 + ROOT / 2
        root, _ = _on_curves(
            {"one": Curve([], np.array([0.0, 0.25, 0.5]), [], roots, fitted, np.empty((2, 0)), 0.4, 0.4)}
        )
        assert said in root.why and root.measured == pytest.approx(ROOT / 2)
