"""The sums that an accelerator computes, checked on the CPU, where torch's foreach functions are the same."""

import numpy as np
import pytest
import torch
import xarray
from small_network import Network

from swd_dynamics.optim import AdamS
from swd_dynamics.probe.probe import Probe
from swd_dynamics.tensors import device_sums, sums

SHAPES = [(300, 40), (7,), (0,), (), (5, 3, 2)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def tensors(dtype, seed):
    """Tensors of several shapes, one of them missing."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in SHAPES] + [None]


def exact(values):
    """The tensors' values in float64; None stays."""
    return [None if value is None else value.double().numpy() for value in values]


def some(given):
    """Whether there is a tensor in a list."""
    return any(value is not None for value in given)


def column(function, *many):
    """The function of each tuple of arrays, NaN where one of them is missing."""
    return np.array([np.nan if any(v is None for v in each) else function(*each) for each in zip(*many, strict=True)])


@pytest.fixture
def few_weights_together(monkeypatch):
    """Pairs of tensors go through memory in several parts."""
    monkeypatch.setattr(device_sums, "TOGETHER", 100)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_of_one_list(dtype):
    """Assert that Σa² and Σ|a| are numpy's, in float64 whatever the dtype."""
    given = tensors(dtype, 0)
    squares, totals = device_sums.column_of_squares(given), device_sums.column_of_norms(given, 1)
    np.testing.assert_allclose(squares, column(lambda a: (a**2).sum(), exact(given)), rtol=1e-13)
    np.testing.assert_allclose(totals, column(lambda a: abs(a).sum(), exact(given)), rtol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_of_pairs(dtype, few_weights_together):
    """Assert that Σab, Σm² and Σ(a − b)² are numpy's; where Σg² is known, m + g is rounded once to float32 or finer."""
    one, other = tensors(dtype, 0), tensors(dtype, 1)
    a, b = exact(one), exact(other)
    rounded = 1e-12 if dtype == torch.float64 else 2e-7
    scale = column(lambda x, y: (x**2).sum() + (y**2).sum(), a, b)
    products = column(lambda x, y: (x * y).sum(), a, b)
    known = device_sums.column_of_squares(other)
    for found, near in (
        (device_sums.column_of_products(one, other), 1e-12),
        (device_sums.columns_of_moments(one, other)[1], 1e-12),
        (device_sums.columns_of_moments(one, other, known)[1], rounded),
    ):
        assert np.nanmax(np.abs(found.numpy() - products) - near * scale) <= 0
        assert found[-1].isnan()
    np.testing.assert_allclose(
        device_sums.columns_of_moments(one, other)[0], column(lambda x: (x**2).sum(), a), rtol=1e-13
    )
    distances = column(lambda x, y: ((x - y) ** 2).sum(), a, b)
    np.testing.assert_allclose(device_sums.column_of_distances(one[:-1], other[:-1]), distances[:-1], rtol=3 * rounded)


def test_a_scaled_gradient_does_not_swallow_the_momentum():
    """Assert that Σg·m of gradients 2³⁰ times as large as m keeps its digits: a gradient scaler makes them so."""
    momentum, gradient = (torch.randn(10, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    gradient *= 2.0**30
    along = device_sums.columns_of_moments([momentum], [gradient])[1]
    np.testing.assert_allclose(along, [(momentum.double() * gradient.double()).sum()], rtol=1e-6)


def test_a_missing_partner_is_nan(few_weights_together):
    """Assert that a pair without one of its tensors is NaN, also if no pair is complete."""
    one = torch.ones(2)
    assert device_sums.column_of_products([one, None, one], [None, one, one]).isnan().tolist() == [True, True, False]
    assert device_sums.columns_of_moments([one], [None])[1].isnan().all()


def test_changes_by_few_digits():
    """Assert that a change of a millionth keeps its sums: the norms are accumulated in float64."""
    theta = torch.randn(10**5, generator=torch.Generator().manual_seed(0))
    after = theta * (1 - 1e-6 * torch.rand(10**5, generator=torch.Generator().manual_seed(1)))
    after[::2] = theta[::2]
    moved = after.double() - theta.double()
    squares, along, count = device_sums.columns_of_changes(
        [theta.clone()], [after], device_sums.column_of_squares([theta])
    )
    np.testing.assert_allclose(squares, (moved**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(along, -(theta.double() * moved).sum(), rtol=1e-7)
    assert count.item() == np.count_nonzero(moved)


@pytest.mark.parametrize("quantities", ["default", "dynamics"])
@pytest.mark.parametrize(
    "make",
    [
        lambda groups: torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1),
        lambda groups: torch.optim.AdamW(groups, weight_decay=0.1),
        lambda groups: AdamS(groups, weight_decay=0.1),
    ],
    ids=["SGD", "AdamW", "AdamS"],
)
@pytest.mark.slow
def test_both_ways_make_the_same_recording(monkeypatch, make, quantities):
    """Assert that a recording made with the sums of an accelerator is that of the CPU, to round-off."""
    runs = []
    for together in (False, True):
        monkeypatch.setattr(sums, "are_together", lambda given, together=together: together and some(given))
        net = Network()
        optimizer = make(net.groups(lr=0.03))
        with Probe(optimizer, model=net, quantities=quantities) as probe:
            net.train(optimizer, 10)
        runs.append(probe.dataset())
        assert probe.failure is None
    xarray.testing.assert_allclose(*runs, rtol=1e-9, atol=1e-12)
