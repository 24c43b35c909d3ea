"""Replay of torch's adaptive optimizers, and of a library's AdaBelief: two groups, a schedule, every kernel."""

from dataclasses import fields
from itertools import accumulate

import numpy as np
import pytest
import torch
from pytorch_optimizer import AdaBelief
from tolerances import round_off

from swd_dynamics.rules import CATALOG

STEPS = 60
LR, DECAYS, SIZES = (0.02, 0.005), (0.1, 0.4), (4, 3)
KERNELS = {"single": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
BETAS = {"betas": (0.8, 0.9)}
# Each with torch's class, whether the decay is decoupled, and the arguments to try.
CASES = {
    "RMSprop": [
        {},
        {"alpha": 0.9, "eps": 1e-2},
        {"momentum": 0.8},
        {"centered": True},
        {"centered": True, "momentum": 0.9, "alpha": 0.8},
    ],
    "Adagrad": [{}, {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-2}],
    "Adadelta": [{}, {"rho": 0.5, "eps": 1e-2}],
    "Adamax": [{}, {**BETAS, "eps": 1e-2}],
    "NAdam": [{}, {**BETAS, "momentum_decay": 0.1}, {"momentum_decay": 0.0, "eps": 1e-2}],
    "NAdamW": [{}, {**BETAS, "momentum_decay": 0.1}],
    "RAdam": [{}, {**BETAS, "eps": 1e-2}, {"betas": (0.9, 0.7)}],
    "RAdamW": [{}, BETAS],
    "AdaBelief": [{}, {**BETAS, "eps": 1e-4}],
    "AdaBeliefW": [{}, {**BETAS, "eps": 1e-6}],
}
RUNS = [
    (name, kernel, arguments)
    for name, cases in CASES.items()
    for kernel in KERNELS
    for arguments in cases
    if kernel != "fused" or name == "Adagrad"  # the only fused kernel of these
]


def made(name, groups, arguments):
    """The real optimizer of that name."""
    if name.startswith("AdaBelief"):
        return AdaBelief(groups, weight_decouple=name.endswith("W"), **arguments)
    extra = {"decoupled_weight_decay": True} if name.endswith("W") else {}
    return getattr(torch.optim, name.removesuffix("W"))(groups, **extra, **arguments)


def schedule(k):
    """A factor of η in the step that follows k steps."""
    return 1 / (1 + 0.1 * k)


def run(name, arguments):
    """The weights before the first and after every step, and the gradients."""
    generator = np.random.default_rng(3)
    start = generator.normal(size=sum(SIZES))
    gradients = generator.normal(size=(STEPS, sum(SIZES))) * np.geomspace(1e-2, 10, sum(SIZES))
    weights = [torch.nn.Parameter(part.clone()) for part in torch.from_numpy(start).split(SIZES)]
    groups = [
        {"params": [weight], "lr": lr, "weight_decay": decay}
        for weight, lr, decay in zip(weights, LR, DECAYS, strict=True)
    ]
    optimizer = made(name, groups, arguments)
    thetas = [start]
    for k, gradient in enumerate(gradients):
        for group, lr in zip(optimizer.param_groups, LR, strict=True):
            group["lr"] = lr * schedule(k)
        for weight, part in zip(weights, torch.from_numpy(gradient.copy()).split(SIZES), strict=True):
            weight.grad = part.clone()
        optimizer.step()
        thetas.append(torch.cat([weight.detach() for weight in weights]).numpy())
    return np.array(thetas), gradients


@pytest.fixture
def double():
    """float64 as torch's default dtype, in which NAdam keeps the product of its momenta."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def ran_free(name, arguments, thetas, gradients):
    """The rule's own weights before the first and after every step."""
    lr, decay = np.repeat(LR, SIZES), np.repeat(DECAYS, SIZES)
    rule = CATALOG[name](lr=lambda k: lr * schedule(k), weight_decay=decay, **arguments)
    return np.array([state.theta for state in accumulate(gradients, rule, initial=rule.start(thetas[0]))])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("name", "kernel", "arguments"), RUNS, ids=str)
def test_replays_groups_on_a_schedule(name, kernel, arguments):
    """Assert that an entry takes every step of its optimizer, with two groups, a schedule of η, and each kernel."""
    thetas, gradients = run(name, {**arguments, **KERNELS[kernel]})
    own = ran_free(name, arguments, thetas, gradients)
    assert np.linalg.norm(own - thetas, axis=1).max() <= round_off(STEPS, thetas[0])


def wrong_numbers():
    """For each entry, its numbers with one of them smaller by a thousandth."""
    for name, cases in CASES.items():
        direction = CATALOG[name](**cases[1]).direction
        numbers = {field.name: getattr(direction, field.name) for field in fields(direction)}
        for changed, number in numbers.items():
            if isinstance(number, tuple):
                for i in range(len(number)):
                    less = tuple(0.999 * each if j == i else each for j, each in enumerate(number))
                    yield pytest.param(name, numbers | {changed: less}, id=f"{name}, {changed}[{i}]")
            elif number:
                yield pytest.param(name, numbers | {changed: 0.999 * number}, id=f"{name}, {changed}")


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("name", "numbers"), list(wrong_numbers()))
def test_a_wrong_number_is_seen(name, numbers):
    """Assert that with any number of a direction a thousandth off, the same replay fails: the test can tell."""
    thetas, gradients = run(name, CASES[name][1])
    own = ran_free(name, numbers, thetas, gradients)
    assert np.linalg.norm(own - thetas, axis=1).max() > round_off(STEPS, thetas[0])


def test_the_product_of_nadam_is_float32():
    """Assert that with float32 as the default dtype torch's NAdam differs from its rule by the rounding of Π alone."""
    thetas, gradients = run("NAdam", {})
    apart = np.linalg.norm(ran_free("NAdam", {}, thetas, gradients) - thetas, axis=1).max()
    assert round_off(STEPS, thetas[0]) < apart < np.finfo(np.float32).eps
