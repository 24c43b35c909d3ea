"""Tuning: the best point of a grid, the seeds that choose it, and the sharing of a sweep by foreign optimizers."""

from functools import partial

import numpy as np
import pytest
import torch
import xarray

from swd_dynamics.studies import tuning
from swd_dynamics.studies.tuning import Arena, Contestant, OnGrid, Tuned, contestants_of, percent, tuned
from swd_dynamics.tasks import tanh_network

LRS, DECAYS = (0.1, 0.2), (0.0, 1.0, 2.0)


def swept(error_of):
    """A stand-in for a sweep, whose test error is a function of η, λ and seed."""

    def sweep(task, given, grid, *, seeds, engine, **training):
        names, axes = list(given), [list(grid["lr"]), list(grid["weight_decay"]), list(seeds)]
        errors = np.vectorize(error_of)(*np.meshgrid(*axes, indexing="ij"))
        dims = ("optimizer", "lr", "weight_decay", "seed")
        coordinates = dict(zip(dims, [names, *axes], strict=True))
        return xarray.Dataset({"test_error": (dims, np.stack([errors] * len(names)))}, coordinates)

    return sweep


def test_the_tuning_seeds_choose(monkeypatch):
    """Assert that the point is the best one of the tuning seeds even where the reported seeds have a better one."""

    def error(lr, decay, seed):
        return abs(decay - (1.0 if seed >= 100 else 2.0)) / 10 + lr

    monkeypatch.setattr(tuning, "sweep", swept(error))
    found = tuned(Arena(lambda seed: None), [Contestant("a", "AdamS", LRS, DECAYS)], seeds=[0, 1, 2], steps=1)["a"]
    assert (found.contestant.lrs, found.contestant.decays) == ((0.1,), (1.0,))
    np.testing.assert_allclose(found.errors, 100 * (0.1 + 0.1), rtol=1e-12)
    assert found.grid.shape == (2, 3)
    assert found.at_edge  # of η, although not of λ


def test_an_arena_scales_the_grid(monkeypatch):
    """Assert that the factors of an arena multiply every η and every λ."""
    monkeypatch.setattr(tuning, "sweep", swept(lambda lr, decay, seed: abs(lr - 0.4) + abs(decay - 0.5)))
    found = tuned(Arena(lambda seed: None, 2.0, 0.5), [Contestant("a", "SGD", LRS, DECAYS)], seeds=[0], steps=1)["a"]
    assert (found.contestant.lrs, found.contestant.decays) == ((0.4,), (0.5,))
    np.testing.assert_allclose(found.errors, 0.0, atol=1e-12)


@pytest.mark.parametrize(("place", "expected"), [((1, 1), False), ((0, 1), True), ((1, 2), True), ((2, 2), True)])
def test_the_edge_of_a_grid(place, expected):
    """Assert that a best point counts as one of the edge where it is first or last on an axis."""
    grid = np.ones((3, 3))
    grid[place] = 0.5
    assert Tuned(Contestant("a", "SGD", (1.0,), (0.0,)), grid, np.zeros(1), xarray.Dataset()).at_edge == expected


def test_diverged_runs_are_guesses():
    """Assert that a run without an error counts as one that guesses among ten classes."""
    assert percent(xarray.Dataset({"test_error": ("seed", [np.nan, 0.1])})).values.tolist() == [90.0, 10.0]


def test_a_foreign_optimizer_is_made_from_its_place():
    """Assert that an optimizer on a grid has the η and the λ of its place."""
    make = OnGrid(torch.optim.RAdam, (0.1, 0.3), (0.0, 0.5))
    group = make([torch.ones(1, requires_grad=True)], lr=0, weight_decay=1).param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.5)


@pytest.mark.slow
def test_a_foreign_optimizer_is_trained_as_by_hand():
    """Assert that RAdam, tuned in processes, ends with the test error of torch's RAdam in a loop of our own."""
    make = partial(tanh_network, hidden=(4,), samples=50, batch_size=10)
    found = tuned(
        Arena(make), [Contestant("RAdam", torch.optim.RAdam, (1e-9, 0.05), (0.01,))], seeds=[3], tuning=[7], steps=20
    )["RAdam"]
    task = make(seed=3)
    optimizer = torch.optim.RAdam(task.model.parameters(), lr=0.05, weight_decay=0.01)
    for k in range(20):
        optimizer.zero_grad()
        task.loss(k).backward()
        optimizer.step()
    assert found.contestant.lrs == (0.05,)
    assert found.errors.tolist() == [100 * task.test_error(task.model).item()]


@pytest.mark.parametrize("direction", ["SGD", "Adam"])
def test_grids_have_one_size(direction):
    """Assert that the three decays of a direction are tuned on equally many points."""
    assert {(len(each.lrs), len(each.decays)) for each in contestants_of(direction)} == {(3, 3)}


def test_the_grids_of_sgdw_and_sgds_hold_the_same_decay_rates():
    """Assert that η·λ of SGDW is η·λ/(1 − β) of SGDS at every point, so that tuning favours neither."""
    _, decoupled, stable = contestants_of("SGD")
    np.testing.assert_allclose(decoupled.decays, np.array(stable.decays) / (1 - 0.9), rtol=1e-14)
    assert decoupled.lrs == stable.lrs
