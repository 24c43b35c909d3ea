"""Adafactor: torch's own steps in tensors of every shape, and matrices of rank one."""

from functools import partial

import numpy as np
import pytest
import torch
from tolerances import round_off

from swd_dynamics.crosscheck import replay
from swd_dynamics.errors import InputError
from swd_dynamics.probe import record
from swd_dynamics.rules import CATALOG, Adafactor, Stable, UpdateRule
from swd_dynamics.verification import verify

ARGUMENTS = {"lr": 0.01, "weight_decay": 0.05}
CASES = [{}, {"lr": 1.0}, {"beta2_decay": -0.5, "d": 2.0, "eps": (1e-3, 1.0)}]


@pytest.mark.parametrize("foreach", [True, False], ids=["foreach", "single"])
@pytest.mark.parametrize("own", CASES, ids=str)
@pytest.mark.slow
def test_takes_torchs_steps(own, foreach):
    """Assert that torch's Adafactor takes the rule's steps, in 0 to 4 dimensions, in groups and on a schedule."""
    arguments = {**ARGUMENTS, **own}
    verdict = verify(partial(torch.optim.Adafactor, foreach=foreach), CATALOG["AdafactorW"](**arguments), **arguments)
    assert verdict.status == "confirmed", str(verdict)


@pytest.mark.slow
def test_the_other_decay_is_named():
    """Assert that L2 for decoupled decay is refuted by name."""
    verdict = verify(torch.optim.Adafactor, CATALOG["Adafactor"](**ARGUMENTS), steps=8, **ARGUMENTS)
    assert verdict.cause == "weight decay is decoupled: R = ηλ; this is AdafactorW"


def test_replays_a_recorded_run():
    """Assert that a run of a matrix and a vector replays by name, None for ε₁ among the recorded numbers."""
    random = torch.Generator().manual_seed(0)
    matrix, vector = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in ((4, 3), (4,)))
    optimizer = torch.optim.Adafactor([matrix.requires_grad_(), vector.requires_grad_()], weight_decay=0.1)
    recording = record(optimizer, lambda k: (vector @ matrix - 1).square().sum(), steps=10, trajectory=True)
    assert replay("AdafactorW", recording).passed
    without = recording.assign_attrs({**recording.attrs, "parameter_shapes": "?"})
    with pytest.raises(InputError, match="does not say the shapes of its tensors"):
        replay("AdafactorW", without)


def test_a_second_moment_of_rank_one_is_kept_exactly():
    """Assert that where g² is the product of a column and a row, a matrix steps as the vector of its weights does."""
    theta, gradient = np.full((3, 2), 0.5), np.outer([1.0, -2.0, 4.0], [0.5, 3.0])
    rule = UpdateRule(0.1, Adafactor(), Stable(0.5))
    matrix, vector = rule.start(theta), rule.start(theta.ravel())
    for _ in range(3):
        matrix, vector = rule(matrix, gradient), rule(vector, gradient.ravel())
    assert np.linalg.norm(matrix.theta.ravel() - vector.theta) <= round_off(3, [1.0])


def test_the_same_in_numpy_and_in_torch():
    """Assert that the rule steps tensors of 1, 2 and 3 dimensions alike in numpy and in torch."""
    generator = np.random.default_rng(3)
    theta, gradient = ([generator.normal(size=shape) for shape in ((4,), (2, 5), (2, 3, 2))] for _ in range(2))
    rule = UpdateRule(0.1, Adafactor(), Stable(0.5))
    ours = rule(rule.start(theta), gradient).theta
    theirs = rule(rule.start(list(map(torch.from_numpy, theta))), list(map(torch.from_numpy, gradient))).theta
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one - other.numpy()).max() <= round_off(1, [1.0])


@pytest.mark.parametrize("eps", [1e-3, (1e-3,), (None, None), (-1.0, 1e-3)], ids=str)
def test_eps_is_a_pair(eps):
    """Assert that what is not a pair of numbers, of which only the first may be None, is refused."""
    with pytest.raises(InputError, match="eps"):
        Adafactor(eps=eps)
