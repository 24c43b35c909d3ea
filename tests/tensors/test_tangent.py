"""The tangent response compared with a black box: torch's own optimizer, run from θ and from θ + δ."""

import copy
import math

import numpy as np
import pytest
import torch

from swd_dynamics.probe import Probe
from swd_dynamics.tensors.tangent import sgd_response, unit_change

# Error of R from two SGD runs one unit apart. SGD is linear in θ, so that only round-off is left;
# 5e-13 was seen where δ crosses 0.
LINEAR = 1e-11
# Half the distance of two Adam runs. Truncation grows with its square, round-off with its inverse.
DIFFERENCE = 1e-5
CENTRAL = 3e-10  # error of that central difference: a few times 1e-16/1e-5; 1e-11 was seen
SETTLED = 1e-12  # error after a few thousand steps, when the smaller root has died out
ENVELOPE = 5e-3  # what the phase of the oscillation may add to ln|δ| divided by 3000 steps

STEPS = 40
SGD = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.8, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "maximize": {"momentum": 0.9, "maximize": True},
}
ADAM = {
    "plain": {},
    "amsgrad": {"amsgrad": True},
    "large eps": {"eps": 1e-2},
    "maximize": {"maximize": True},
    "short memory": {"betas": (0.5, 0.7), "amsgrad": True},
}


def stream(seed=0, n=6):
    """A start, and a fixed stream of gradients whose scale changes, so that AMSGrad's maximum
    matters.
    """
    generator = torch.Generator().manual_seed(seed)
    scale = 1 + torch.sin(torch.arange(STEPS, dtype=torch.float64) / 4)[:, None]
    noise = torch.randn((STEPS, n), generator=generator, dtype=torch.float64)
    return torch.randn(n, generator=generator, dtype=torch.float64), scale * (0.5 + noise)


def trajectory(kind, arguments, theta, gradients, moved=0.0, memory=None):
    """Weights after each step of a real run from ``theta + moved``, (steps + 1, n); lr drops
    midway.
    """
    weight = torch.nn.Parameter(theta + moved)
    optimizer = kind([weight], **arguments)
    if memory is not None:
        optimizer.state[weight] = copy.deepcopy(memory)
    rows = [weight.detach().clone()]
    for k, gradient in enumerate(gradients):
        optimizer.param_groups[0]["lr"] = arguments["lr"] * (0.3 if k >= STEPS // 2 else 1)
        weight.grad = gradient.clone()
        optimizer.step()
        rows.append(weight.detach().clone())
    return torch.stack(rows).numpy()


def recorded(kind, arguments, theta, gradients, memory=None):
    """The decay rate of each weight that the probe records in the same run."""
    weight = torch.nn.Parameter(theta.clone())
    optimizer = kind([weight], **arguments)
    if memory is not None:
        optimizer.state[weight] = copy.deepcopy(memory)
    with Probe(optimizer, trajectory=True) as probe:
        for k, gradient in enumerate(gradients):
            optimizer.param_groups[0]["lr"] = arguments["lr"] * (0.3 if k >= STEPS // 2 else 1)
            weight.grad = gradient.clone()
            optimizer.step()
    return probe.dataset().decay_rate_weight.values


def measured(kind, arguments, theta, gradients, difference, memory=None):
    """1 − δ′/δ between two real runs, which start ``difference`` to either side of θ."""
    runs = (trajectory(kind, arguments, theta, gradients, side * difference, memory) for side in (1, -1))
    change = np.subtract(*runs)
    return 1 - change[1:] / change[:-1]


@pytest.mark.parametrize("name", SGD)
def test_sgd_responds_as_the_black_box(name):
    """Assert that the recorded R of SGD with L2 is the response of a real run to a perturbation."""
    arguments = {"lr": 0.1, "weight_decay": 0.2, **SGD[name]}
    black_box = measured(torch.optim.SGD, arguments, *stream(), difference=0.5)
    np.testing.assert_allclose(recorded(torch.optim.SGD, arguments, *stream()), black_box, rtol=0, atol=LINEAR)


@pytest.mark.parametrize("name", ADAM)
@pytest.mark.slow
def test_adam_responds_as_the_black_box(name):
    """Assert that the recorded R of Adam with L2 is a real run's response, for every step and
    weight.
    """
    arguments = {"lr": 0.01, "weight_decay": 0.3, **ADAM[name]}
    black_box = measured(torch.optim.Adam, arguments, *stream(), difference=DIFFERENCE)
    ours = recorded(torch.optim.Adam, arguments, *stream())
    np.testing.assert_allclose(ours, black_box, rtol=0, atol=CENTRAL)
    assert np.ptp(ours[-1]) > CENTRAL  # one number for each weight


@pytest.mark.parametrize(("kind", "extra"), [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adam, {})])
def test_control_without_decay_responds_by_nothing(kind, extra):
    """Assert that negative control: without weight decay both find R = 0."""
    arguments = {"lr": 0.01, "weight_decay": 0.0, **extra}
    black_box = measured(kind, arguments, *stream(), difference=DIFFERENCE)
    np.testing.assert_allclose(black_box, 0, rtol=0, atol=CENTRAL)
    assert (recorded(kind, arguments, *stream()) == 0).all()


@pytest.mark.parametrize(
    ("kind", "extra"), [(torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}), (torch.optim.Adam, {})]
)
@pytest.mark.slow
def test_response_of_a_run_already_under_way(kind, extra):
    """Assert that a probe attached during a run records the response to a perturbation at that
    step.
    """
    arguments = {"lr": 0.01, "weight_decay": 0.3, **extra}
    theta, gradients = stream()
    weight = torch.nn.Parameter(theta.clone())
    optimizer = kind([weight], **arguments)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    run = (kind, arguments, weight.detach(), gradients)
    black_box = measured(*run, difference=DIFFERENCE, memory=optimizer.state[weight])
    np.testing.assert_allclose(recorded(*run, memory=optimizer.state[weight]), black_box, rtol=0, atol=CENTRAL)


@pytest.mark.slow
def test_sgd_momentum_settles_at_the_larger_root():
    """Assert that R goes from ηλ to 1 − the larger root of z² − (1 + β − ηλ)z + β."""
    lr, decay, beta = 0.01, 0.1, 0.9
    group = {"lr": lr, "weight_decay": decay, "momentum": beta, "dampening": 0.0, "nesterov": False}
    trace = 1 + beta - lr * decay
    root = (trace + math.sqrt(trace**2 - 4 * beta)) / 2
    rates = rates_of(group, 3000)
    assert rates[0] == lr * decay
    assert rates[-1] == pytest.approx(1 - root, abs=SETTLED)
    assert f"{rates[-1]:.2e}" == "1.11e-02"


@pytest.mark.slow
def test_oscillating_response_stays_finite():
    """Assert that R stays finite, however long, where the response oscillates.

    Beyond ηλ = (1 − √β)² the perturbation oscillates in an envelope √β.
    """
    rates = rates_of({"lr": 1.0, "weight_decay": 0.7, "momentum": 0.5, "dampening": 0.0, "nesterov": False}, 3000)
    assert np.isfinite(rates).all()
    assert (rates > 1).any()
    assert np.log(np.abs(1 - rates)).mean() == pytest.approx(math.log(0.5) / 2, abs=ENVELOPE)


def test_response_through_exact_zero_stays_finite():
    """Assert that R stays finite when a perturbation becomes exactly 0 and returns through m."""
    rates = rates_of({"lr": 1.0, "weight_decay": 1.0, "momentum": 0.5, "dampening": 0.0, "nesterov": False}, 50)
    assert rates[0] == 1
    assert np.isfinite(rates).all()


def test_weight_at_rest_with_no_second_moment():
    """Assert that R is ηλ/ε, which is what m alone gives, where v̂ = 0."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    adam = torch.optim.Adam([weight], lr=0.5, weight_decay=0.25, eps=0.5)
    with Probe(adam, trajectory=True) as probe:
        weight.grad = torch.zeros(1, dtype=torch.float64)
        adam.step()
    assert probe.dataset().decay_rate.item() == 0.25


def test_decay_switched_off_lives_on_in_the_momentum():
    """Assert that R is not 0 at once after λ = 0, because the momentum still contains λθ."""
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    sgd = torch.optim.SGD([weight], lr=0.25, momentum=0.5, weight_decay=1.0)
    with Probe(sgd, trajectory=True) as probe:
        for decay in (1.0, 0.0):
            sgd.param_groups[0]["weight_decay"] = decay
            weight.grad = torch.zeros(1, dtype=torch.float64)
            sgd.step()
    np.testing.assert_allclose(probe.dataset().decay_rate, [0.25, 0.125 / 0.75], rtol=LINEAR)


def rates_of(group, steps):
    """R of SGD with L2, from its response alone."""
    change, rates = unit_change(torch.ones(())), []
    for k in range(steps):
        rate, change = sgd_response(change, group, first=k == 0)
        rates.append(float(rate))
    return np.array(rates)
