"""Replay against torch's own optimizers and the authors' trajectories: the same gradients, from the same weights."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tolerances import round_off

import swd_dynamics
from swd_dynamics.rules import CATALOG

STEPS = 50
REFERENCE = Path(swd_dynamics.__file__).parent / "studies" / "reference" / "authors_open_loop.npz"
TORCH = {
    "SGD": [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.4},
        {"momentum": 0.9, "nesterov": True},
        {"dampening": 0.5},
    ],
    "Adam": [{}, {"betas": (0.8, 0.95), "eps": 1e-2}, {"betas": (0.0, 0.0)}],
    "AdamW": [{}, {"betas": (0.8, 0.95), "eps": 1e-2}],
    "AMSGrad": [{}, {"betas": (0.8, 0.9)}],
    "AMSGradW": [{}],
}
CLASSES = {"SGD": "SGD", "Adam": "Adam", "AdamW": "AdamW", "AMSGrad": "Adam", "AMSGradW": "AdamW"}


def replayed(rule, thetas, gradients):
    """The largest distance of a step to the recorded next θ; each starts from the recorded θ, the memory runs on."""
    state, worst = rule.start(thetas[0]), 0.0
    for (theta, following), gradient in zip(pairwise(thetas), gradients, strict=True):
        state = rule(state._replace(theta=theta), gradient)
        worst = max(worst, np.linalg.norm(state.theta - following))
    return worst


def stream():
    generator = np.random.default_rng(5)
    return generator.normal(size=6), generator.normal(size=(STEPS, 6)) * np.geomspace(1e-2, 10, 6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("name", "arguments"), [(name, case) for name, cases in TORCH.items() for case in cases], ids=str
)
def test_replays_torch(name, arguments, weight_decay):
    """Assert that an entry takes the steps of the torch class it is named after."""
    theta, gradients = stream()
    weight = torch.nn.Parameter(torch.from_numpy(theta.copy()))
    extra = {"amsgrad": True} if name.startswith("AMSGrad") else {}
    optimizer = getattr(torch.optim, CLASSES[name])([weight], lr=0.03, weight_decay=weight_decay, **arguments, **extra)
    thetas = [theta]
    for gradient in gradients:
        weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        thetas.append(weight.detach().numpy().copy())
    rule = CATALOG[name](lr=0.03, weight_decay=weight_decay, **arguments)
    assert replayed(rule, thetas, gradients) <= round_off(STEPS, theta)


def authors(case):
    """The rule, the weights and the gradients of one of the authors' trajectories."""
    with np.load(REFERENCE, allow_pickle=False) as data:
        meta = json.loads(str(data["meta"]))[case]
        arguments = meta["kwargs"]
        name = meta["optimizer"].replace("Adam", "AMSGrad") if arguments.pop("amsgrad", False) else meta["optimizer"]
        return CATALOG[name](**arguments), data[f"trajectory/{case}"], data["gradients"]


CASES = ["sgds_heavy_ball", "sgds_dampened", "sgds_nesterov", "adams", "adams_amsgrad", "adai", "adais"]


@pytest.mark.parametrize("case", CASES)
def test_replays_the_authors(case):
    """Assert that 200 steps of the authors' own optimizers are those of the rule, to round-off."""
    rule, thetas, gradients = authors(case)
    assert replayed(rule, thetas, gradients) <= round_off(len(gradients), thetas[0])


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_decay_is_seen(case):
    """Assert that with a decay one per cent off, the same replay fails: the test can tell."""
    rule, thetas, gradients = authors(case)
    wrong = type(rule)(rule.lr, rule.direction, type(rule.decay)(1.01 * rule.decay.weight_decay))
    assert replayed(wrong, thetas, gradients) > round_off(len(gradients), thetas[0])


@pytest.mark.parametrize(
    ("name", "arguments", "second", "hundredth"),
    [
        (
            "AdamS",
            {},
            (0.979946019392986, -1.97988759048464, 0.479977563999566),
            (0.223308697380118, -1.09414834975667, -0.00391627328353006),
        ),
        (
            "SGDS",
            {"momentum": 0.9},
            (0.969121, -1.823922, 0.497552),
            (-0.00268720306243615, 0.00449918530936056, 0.164941965787327),
        ),
    ],
)
def test_three_weights_on_a_quadratic(name, arguments, second, hundredth):
    """Assert that the weights on ½θᵀdiag(1, 3, .1)θ are those computed independently, printed to 15 digits."""
    rule = CATALOG[name](lr=0.01, weight_decay=0.01, **arguments)
    state = rule.start(np.array([1.0, -2.0, 0.5]))
    for k in range(1, 101):
        state = rule(state, np.array([1.0, 3.0, 0.1]) * state.theta)
        if k in (2, 100):
            expected = np.array(second if k == 2 else hundredth)
            assert np.linalg.norm(state.theta - expected) <= round_off(100, state.theta)
