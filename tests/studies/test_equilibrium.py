"""The study of the equilibrium in noise: the laws of its instruments, and that it sees a wrong law."""

import numpy as np
import pytest
import torch

from swd_dynamics.rules import CATALOG
from swd_dynamics.studies import equilibrium
from swd_dynamics.studies.equilibrium import MUON, SIDE, WEIGHTS, Norms, kept_correlation, layer, normalised_methods


def test_layers_of_gradient_descent():
    """Assert ‖θ‖⁴ = η²Γ²/(2R − R²) and ‖Δθ‖² = 2R‖θ‖² for gradient descent with decoupled decay, R = ηλ."""
    norm = (0.1**2 * 9 / (2 * 0.01 - 0.01**2)) ** 0.25

    def make(parameters):
        return torch.optim.SGD(parameters, lr=0.1)

    class Decayed(torch.optim.SGD):
        def step(self, closure=None):
            with torch.no_grad():
                for weight in self.param_groups[0]["params"]:
                    weight.mul_(0.99)
            return super().step(closure)

    found = layer(lambda parameters: Decayed(parameters, lr=0.1), (4, WEIGHTS), 3.0, norm, 1000, seed=0)
    assert found == pytest.approx((norm, np.sqrt(2 * 0.01)), rel=0.005)
    assert layer(make, (4, WEIGHTS), 3.0, norm, 1000, seed=0)[0] > 1.2 * norm  # without decay the weights grow


def test_moves_as_correlated_as_the_momentum():
    """Assert the law that is refuted in closed form: S = 1 without momentum, and (1 + aβ)/(1 − aβ) with it."""
    a = 1 - MUON["lr"] * MUON["weight_decay"]
    one = MUON["lr"] * np.sqrt(SIDE / (1 - a * a))
    assert kept_correlation(CATALOG["MuonW"](momentum=0.0, **MUON)) == pytest.approx(one)
    plain = CATALOG["MuonW"](momentum=0.9, nesterov=False, **MUON)
    assert kept_correlation(plain) == pytest.approx(one * np.sqrt((1 + 0.9 * a) / (1 - 0.9 * a)))


def test_wrong_norms_are_refuted():
    """Assert that norms are refuted that are all 3 % off, and so is a power of Γ that is .02 off."""
    x, derived = np.array([1.0, 100.0]), np.array([[1.0, 10.0], [0.1, 0.1]])
    right = Norms("AdamS", "stable", x, derived, derived)
    assert all(verdict.passed for verdict in equilibrium._of_method(right))
    longer, step, power = equilibrium._of_method(right._replace(measured=1.03 * derived))
    assert (longer.passed, step.passed, power.passed) == (False, False, True)
    *_, power = equilibrium._of_method(right._replace(measured=derived * x**0.02))
    assert not power.passed


def test_every_mode_is_measured():
    """Assert that SGD and Adam are measured with each decay."""
    assert [(m.name, m.mode) for m in normalised_methods()] == [
        *(("SGD", "L2"), ("SGDW", "decoupled"), ("SGDS", "stable")),
        *(("Adam", "L2"), ("AdamW", "decoupled"), ("AdamS", "stable")),
    ]


def test_a_network_that_is_far_off_is_refuted():
    """Assert that a norm on digits that is 12 % off is refuted, and that the worst step of several methods counts."""
    x, derived = np.array([1.0]), np.array([2.0, 0.1])
    near, far = (
        Norms(name, "stable", x, derived, share * derived) for name, share in (("AdamS", 1.08), ("AdamW", 0.88))
    )
    assert equilibrium._on_digits(near).passed
    assert not equilibrium._on_digits(far).passed
    assert equilibrium._steps_on_digits([near]).passed
    assert not equilibrium._steps_on_digits([near, far, near]).passed
