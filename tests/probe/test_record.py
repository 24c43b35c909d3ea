"""Whole runs: how they end, and what made them."""

import json
import platform

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.probe import Probe, record


@pytest.fixture
def run(network):
    net = network()
    optimizer = torch.optim.Adam(net.groups(lr=0.03), lr=0.1, weight_decay=0.1)
    return record(optimizer, net.loss, 4, model=net, seed=3, data="random numbers, standardised")


def test_run_is_the_plain_loop(network, run):
    """Assert that record trains as a plain loop does, and records the loss of every step."""
    net = network()
    optimizer = torch.optim.Adam(net.groups(lr=0.03), lr=0.1, weight_decay=0.1)
    first = net.loss().item()
    np.testing.assert_array_equal(run.theta[-1], net.train(optimizer, 4))
    assert run.loss[0] == first
    assert run.attrs["diverged_at_step"] == -1
    assert run.attrs["interrupted"] == 0


def test_loss_is_given_the_number_of_steps_taken(network):
    """Assert that the loss function gets 0 in the first step, so that it can choose its minibatch."""
    net, seen = network(), []

    def loss(k):
        seen.append(k)
        return net.loss()

    record(torch.optim.SGD(net.parameters()), loss, 3, progress=True)
    assert seen == [0, 1, 2]


def test_divergence_of_the_weights_is_a_result():
    """Assert that a run stops at the step in which its weights overflow, and records that step."""
    weight = torch.nn.Parameter(torch.ones(1))
    run = record(torch.optim.SGD([weight], lr=1e38), lambda k: weight.sum(), 10)  # the largest float32 is 3.4e38
    assert run.attrs["diverged_at_step"] == 4
    assert run.sizes["step"] == 4
    np.testing.assert_array_equal(np.isfinite(run.theta[:, 0]), [True] * 4 + [False])


def test_divergence_of_the_loss_is_a_result():
    """Assert that a run stops when its loss is not finite, and names the step before."""
    weight = torch.nn.Parameter(torch.ones(1))
    run = record(torch.optim.SGD([weight], lr=10.0), lambda k: weight.square().sum() / (0.0 if k == 3 else 1.0), 10)
    assert run.attrs["diverged_at_step"] == 3
    assert run.sizes["step"] == 3
    assert np.isfinite(run.theta).all()


def test_interrupt_keeps_what_was_recorded(network):
    """Assert that Ctrl-C ends the run and keeps the steps so far."""
    net = network()

    def loss(k):
        if k == 2:
            raise KeyboardInterrupt
        return net.loss()

    run = record(torch.optim.SGD(net.parameters()), loss, 5)
    assert run.attrs["interrupted"] == 1
    assert run.sizes["step"] == 2


@pytest.mark.parametrize("steps", [0, -1, 2.5, "many"])
def test_number_of_steps_is_checked(network, steps):
    """Assert that a number of steps that is not a whole number from 1 is refused and shown."""
    net = network()
    with pytest.raises(InputError, match=f"steps = {steps!r}"):
        record(torch.optim.SGD(net.parameters()), net.loss, steps)


def test_loss_without_a_gradient_is_refused(network):
    """Assert that a loss that is a plain number is refused."""
    with pytest.raises(InputError, match="must be a tensor"):
        record(torch.optim.SGD(network().parameters()), lambda k: 1.0, 2)


def test_recording_knows_what_made_it(run):
    """Assert that the attributes say what made the recording, as text and numbers."""
    attributes = run.attrs
    assert (attributes["optimizer"], attributes["optimizer_module"]) == ("Adam", "torch.optim.adam")
    arguments = json.loads(attributes["optimizer_arguments"])
    assert [group["lr"] for group in arguments] == [0.03 if i else 0.1 for i in range(2)]
    assert arguments[0]["betas"] == [0.9, 0.999] and "params" not in arguments[0]
    assert (attributes["seed"], attributes["data"]) == (3, "random numbers, standardised")
    assert (attributes["device"], attributes["dtype"]) == ("cpu", "float64")
    assert attributes["device_name"]
    assert attributes["python_version"] == platform.python_version()
    assert attributes["torch_version"] == str(torch.__version__)
    assert attributes["numpy_version"] == np.__version__
    assert attributes["swd_dynamics_version"]
    assert all(type(value) in (int, str) for value in attributes.values())


@pytest.mark.parametrize(
    ("kind", "momentum", "count"), [("Adam", {}, 5), ("SGD", {}, 0), ("SGD", {"momentum": 0.9}, -1)]
)
def test_steps_before_the_recording(network, kind, momentum, count):
    """Assert that earlier steps are counted by the optimizer, or are −1 if it only has a state."""
    net = network()
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=0.01, **momentum)
    assert Probe(optimizer).dataset().attrs["steps_before"] == 0
    net.train(optimizer, 5)
    assert Probe(optimizer).dataset().attrs["steps_before"] == count
