"""A gradient scaler does not change a recording, and a step that it skips is visible."""

import math

import numpy as np
import pytest
import torch

from swd_dynamics.probe import Probe

# Relative difference in float64 after a few steps of a small network: with a scaler the gradients
# are multiplied and divided by a power of 2, and torch's fused and plain kernels round differently.
SAME_ARITHMETIC = 1e-12


def train(net, optimizer, factors, scaled=True):
    """Steps with the loss times each factor; an infinite factor makes the scaler skip the step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
    for factor in factors:
        optimizer.zero_grad()
        scaler.scale(net.loss() * factor).backward()
        scaler.step(optimizer)
        scaler.update()


def both(network, make, folder, **options):
    """Two steps without a scaler; and with a scaler two steps with a skipped step between them."""
    runs = []
    for scaled, factors in {False: (1.0, 1.0), True: (1.0, math.inf, 1.0)}.items():
        net = network()
        optimizer = make(net.parameters(), lr=0.1, weight_decay=0.1, fused=True)
        with Probe(optimizer, folder and folder / str(scaled), **options) as probe:
            train(net, optimizer, factors, scaled)
        runs.append(probe.dataset())
    return runs


def sgd(parameters, **arguments):
    return torch.optim.SGD(parameters, momentum=0.9, **arguments)


@pytest.mark.slow
def test_quantities(network, tmp_path):
    """Assert that a scaler does not change quantities, and a skipped step has Δθ = 0 and R = 0."""
    plain, scaled = both(network, sgd, tmp_path)
    for name in ("update_norm", "decay_rate", "gradient_norm"):
        assert scaled[name][1] == 0, name
    compared = ["gradient_norm", "momentum_norm", "decay_rate", "cos_gradient_momentum", "rotation"]
    for name in compared:
        found, expected = scaled[name][[0, 2]], plain[name]
        np.testing.assert_allclose(found, expected, rtol=SAME_ARITHMETIC, err_msg=name)


@pytest.mark.parametrize("make", [sgd, torch.optim.Adam])
@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.slow
def test_trajectories(network, tmp_path, make, where):
    """Assert that a scaler does not change gradients, state and R of each weight."""
    folder = None if where == "memory" else tmp_path
    plain, scaled = both(network, make, folder, trajectory=True, quantities="dynamics")
    np.testing.assert_array_equal(scaled.had_gradient.values[:, 0], [True, False, True])
    assert scaled.update_norm[1] == 0
    assert (scaled.gradient[1] == 0).all()
    states = [name for name in plain if name.startswith("state_") and name != "state_step"]
    for name in ("gradient", "decay_rate", "decay_rate_weight", *states):
        found, expected = scaled[name].values[[0, 2]], plain[name].values
        np.testing.assert_allclose(found, expected, rtol=SAME_ARITHMETIC, err_msg=name)


def test_a_gradient_without_its_factor(network, tmp_path):
    """Assert that the first scaled gradient is recorded bit for bit, without the scaler's factor."""
    net, other = network(), network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=True)
    with Probe(optimizer, tmp_path, trajectory=True) as probe:
        train(net, optimizer, (1.0, math.inf))
    other.loss().backward()
    gradient = torch.cat([parameter.grad.reshape(-1) for parameter in other.parameters()])
    np.testing.assert_array_equal(probe.dataset().gradient[0], gradient)
    assert (probe.dataset().gradient[1] == 0).all()


def test_a_step_that_the_scaler_does_not_call(network, tmp_path):
    """Assert that a step that a scaler does not call is not a row."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), foreach=True)
    with Probe(optimizer, tmp_path) as probe:
        train(net, optimizer, (1.0, math.inf, 1.0))
    np.testing.assert_array_equal(probe.dataset().step, [1, 2])
