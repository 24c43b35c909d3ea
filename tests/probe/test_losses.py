"""The loss of a step, observed or returned by the step's closure, and the gradient in a closure."""

import contextlib
import math

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.probe import Probe, record


@pytest.fixture(params=["memory", "disk"])
def path(request, tmp_path):
    """Where the recording is kept; None is memory."""
    return None if request.param == "memory" else tmp_path / "run"


class Fails(torch.optim.SGD):
    """Gradient descent whose step raises at its end when a test wants it to."""

    fails = False

    def step(self, closure=None):
        super().step(closure)
        if self.fails:
            raise ValueError("once")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("every", [1, 2])
def test_a_loss_belongs_to_its_step(network, path, when, every):
    """Assert that a loss observed before or after its step is in its row, and a missing one NaN."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    with Probe(optimizer, path, every=every) as probe:
        for k in range(6):
            optimizer.zero_grad()
            loss = net.loss()
            loss.backward()
            if when == "before" and k != 3:
                probe.observe(loss=loss)
            optimizer.step()
            if when == "after" and k != 3:
                probe.observe(loss=loss.item())
            losses.append(loss.item())
    losses[3] = math.nan
    np.testing.assert_array_equal(probe.dataset().loss, losses[every - 1 :: every])


def test_a_loss_must_be_one_number(network):
    """Assert that a loss that is not one number is refused, and the message names its shape."""
    probe = Probe(torch.optim.SGD(network().parameters()))
    with pytest.raises(InputError, match=r"one number, not a tensor of shape \(2,\)"):
        probe.observe(loss=torch.ones(2))


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_gives_gradient_and_loss(network, by_name):
    """Assert that with a closure the gradient and the loss are those at θ before the step."""
    net, closed = network(), network()
    plain = record(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), net.loss, 5)
    optimizer = torch.optim.SGD(closed.parameters(), lr=0.1, momentum=0.9)

    def closure():
        optimizer.zero_grad()
        loss = closed.loss()
        loss.backward()
        return loss

    with Probe(optimizer, trajectory=True) as probe:
        for _ in range(5):
            _ = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    run = probe.dataset()
    for name in plain:
        np.testing.assert_array_equal(run[name], plain[name])


def test_the_first_call_of_a_closure_counts(path):
    """Assert that the first gradient and loss are recorded if a closure is called many times."""
    weight = torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    lbfgs = torch.optim.LBFGS([weight])

    def closure():
        lbfgs.zero_grad()
        loss = weight.square().sum() / 2
        loss.backward()
        return loss

    with Probe(lbfgs, path, trajectory=True) as probe:
        lbfgs.step(closure)
    run = probe.dataset()
    assert run.gradient.item() == run.gradient_norm.item() == 3
    assert run.loss.item() == 4.5


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.LBFGS])
def test_a_loss_observed_in_a_closure(path, make):
    """Assert that a loss observed in a closure belongs to its step, and the first of several counts."""
    weight = torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    optimizer = make([weight], lr=0.5)
    probe = Probe(optimizer, path)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum() / 2
        loss.backward()
        probe.observe(loss=loss)
        return loss

    with probe:
        for _ in range(3):
            optimizer.step(closure)
    losses = probe.dataset().loss.values
    assert losses[0] == 4.5
    assert (np.diff(losses) <= 0).all() and len(losses) == 3
    if make is torch.optim.SGD:
        np.testing.assert_array_equal(losses, [4.5, 4.5 / 4, 4.5 / 16])


def test_a_loss_after_a_step_that_raised(network, path):
    """Assert that after a step that raised, the next loss is recorded with its own step."""
    net = network()
    optimizer = Fails(net.parameters(), lr=0.1)
    with Probe(optimizer, path) as probe:
        for k in range(4):
            optimizer.fails = k == 1
            optimizer.zero_grad()
            net.loss().backward()
            probe.observe(loss=float(k))
            with contextlib.suppress(ValueError):
                optimizer.step()
    assert probe.dataset().loss.values[-2:].tolist() == [2, 3]


def test_a_closures_loss_before_its_step_raised(path):
    """Assert that the loss that a closure gave before its step raised is not in the next row."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = Fails([weight], lr=0.0)

    def closure():
        weight.grad = torch.ones_like(weight)
        return torch.tensor(100.0 if optimizer.fails else 1.0)

    with Probe(optimizer, path) as probe:
        for optimizer.fails in (True, False):
            with contextlib.suppress(ValueError):
                optimizer.step(closure)
    assert probe.dataset().loss.values.tolist() == [1]


def test_a_second_loss_has_no_row(network, path):
    """Assert that the loss of a step that a scaler did not call does not change the row before."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Probe(optimizer, path) as probe:
        for k in range(4):
            net.loss().backward()
            if k != 2:
                optimizer.step()
            probe.observe(loss=float(k))
    np.testing.assert_array_equal(probe.dataset().loss, [0, 1, 3])
