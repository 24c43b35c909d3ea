"""The helpers of the study of stability charts: runs with a frozen second moment, and the derived peak."""

import numpy as np
import pytest
import sympy
import torch

from swd_dynamics.rules import CATALOG
from swd_dynamics.studies.frozen_runs import FAMILIES, Cells, arguments_of, converges, entries, real_optimizer
from swd_dynamics.studies.stability_chart import derived_peak, values_of
from swd_dynamics.symbolic import NotDerivable, linear_map, numeric_stability


@pytest.mark.slow
def test_the_peak_in_symbols():
    """Assert that the derived peak is β = (√h − √λ)/(√h + √λ) and η = 4/(√h + √λ)², by algebra."""
    h, decay = sympy.symbols("h λ", positive=True)
    best, largest = derived_peak(h, decay)
    roots = sympy.sqrt(h), sympy.sqrt(decay)
    assert sympy.simplify(best - (roots[0] - roots[1]) / (roots[0] + roots[1])) == 0
    assert sympy.simplify(largest - 4 / (roots[0] + roots[1]) ** 2) == 0


@pytest.mark.slow
def test_the_peak_is_the_largest_limit():
    """Assert that no other momentum has a larger limit, by the formula 2(1 − β²)/(h(1 − β) + λ(1 + β))."""
    best, largest = map(float, derived_peak(1, sympy.Rational(1, 25)))
    beta = np.linspace(0, 0.999, 5000)
    limits = 2 * (1 - beta**2) / ((1 - beta) + (1 + beta) / 25)
    assert limits.max() <= largest * (1 + 1e-12)
    assert beta[limits.argmax()] == pytest.approx(best, abs=1e-3)


@pytest.mark.slow
def test_without_momentum_is_better_beyond_the_second_crossing():
    """Assert that at β = (h − λ)/(h + λ) the limit of SGDS is that without momentum, and lower beyond."""
    beta = (1 - 0.01) / (1 + 0.01)
    numbers = numeric_stability(CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.01))
    lr = 2 / 1.01  # where ηh = 2 − ηλ
    assert float(numbers.limit(lr=lr, momentum=beta)) == pytest.approx(1)
    assert numbers.limit(lr=lr, momentum=1 - 0.9 * (1 - beta)) < 1


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "AdamW"])
def test_runs_with_a_frozen_second_moment(name):
    """Assert that runs converge where the modulus of the eigenvalues by hand is below 1, and diverge elsewhere."""
    lr, decay, v, h = 0.3, 0.2, 0.25, np.array([[1.0, 4.0, 16.0, 64.0, 256.0]])
    gain, into = {"SGD": (1.0, 1.0), "RMSprop": (1.0, 1 / v**0.5), "AdamW": (0.1, 1 / v**0.5)}[name]
    rate, total = (lr * decay, h) if name == "AdamW" else (0.0, h + decay)
    sizes = []
    for each in total[0]:
        matrix = [[1 - rate - lr * gain * into * each, -0.9 * lr * into], [gain * each, 0.9]]
        if name == "RMSprop":  # the momentum is a sum of moves, which are divided by √v already
            matrix = [[1 - lr * into * each, -0.9 * lr], [into * each, 0.9]]
        sizes.append(np.abs(np.linalg.eigvals(matrix)).max())
    found = converges(name, Cells(np.array([[lr]]), np.array([[decay]]), h, np.full_like(h, v)), third=60)
    assert found[0].tolist() == [size < 1 for size in sizes]
    assert found.any() and not found.all()


def test_a_rule_and_its_optimizer_agree(monkeypatch):
    """Assert that the rule itself converges where torch's RAdamW does, which stands for optimizers that torch lacks."""
    h, v = np.geomspace(1, 1000, 12)[None, :], np.full((1, 12), 0.25)
    cells = Cells(np.array([[0.1]]), np.array([[0.5]]), h, v)
    by_torch = converges("RAdamW", cells, third=60)
    monkeypatch.setattr("swd_dynamics.studies.frozen_runs.real_optimizer", lambda name: None)
    assert (converges("RAdamW", cells, third=60) == by_torch).all()
    assert by_torch.any() and not by_torch.all()


@pytest.mark.slow
def test_every_entry_with_a_linear_map_is_tried():
    """Assert that the families of the study have all entries of the catalogue whose linear map can be derived."""

    def is_linear(name):
        try:
            linear_map(CATALOG[name](lr=0.1, weight_decay=0.1))
        except NotDerivable:
            return False
        return True

    assert {name for family in FAMILIES for name in entries(family)} == {name for name in CATALOG if is_linear(name)}


def test_decays_that_need_the_largest_learning_rate():
    """Assert that η/η_max is η for SGDC, whose η_max is 1 here, and that SGDW has no such number."""
    lrs, decays, v = np.array([[0.5]]), np.array([[0.1]]), np.array([[1.0]])
    for name, has in (("SGDC", True), ("SGDW", False)):
        numbers = numeric_stability(CATALOG[name](lr=0.1, weight_decay=0.1, **arguments_of(name)))
        assert ("kappa" in values_of(numbers, lrs, decays, v)) == has


def test_decoupled_decay_beside_torchs_optimizers():
    """Assert that RMSpropW is torch's RMSprop with decoupled decay, and that AdaBelief has no real optimizer."""
    make = real_optimizer("RMSpropW")
    assert make is not None and real_optimizer("AdaBelief") is None
    optimizer = make([torch.ones(1, requires_grad=True)], lr=1.0)
    assert isinstance(optimizer.inner, torch.optim.RMSprop)  # pyright: ignore[reportAttributeAccessIssue]
