"""Values that are refused: the message gives the value and what is allowed."""

import inspect
import math
import re

import numpy as np
import pytest
import torch
from aggregated_momentum import AggregatedMomentum

from swd_dynamics.errors import InputError
from swd_dynamics.rules import (
    CATALOG,
    DECAYS,
    L2,
    SGD,
    Adai,
    Adam,
    AMSGrad,
    Constant,
    Cosine,
    Decoupled,
    EqualMemory,
    HeavyBall,
    Linear,
    Nesterov,
    Stable,
    StepDecay,
    UpdateRule,
    Warmup,
)
from swd_dynamics.tables import NEAREST, UnknownName


class NoMemory:
    """A direction that forgot two of the four methods."""

    def move(self, memory, step):
        return step.gradient

    def effective_lr(self, memory, step):
        return step.lr


OUTSIDE = [
    (lambda: CATALOG["SGD"](momentum=1.0), "momentum = 1.0", "[0, 1)"),
    (lambda: CATALOG["SGD"](momentum=-0.1), "momentum = -0.1", "[0, 1)"),
    (lambda: CATALOG["SGD"](momentum=0.9, dampening=1.0), "dampening = 1.0", "[0, 1)"),
    (lambda: CATALOG["SGD"](dampening=-1.0), "dampening = -1.0", "[0, 1)"),
    (lambda: HeavyBall(math.nan), "momentum = nan", "(0, 1)"),
    (lambda: HeavyBall(np.array([0.9, 1.5])), "momentum = 1.5", "(0, 1)"),
    (lambda: Nesterov(1.0), "momentum = 1.0", "(0, 1)"),
    (lambda: Adam((0.9, 1.0)), "betas[1] = 1.0", "[0, 1)"),
    (lambda: AMSGrad((-0.1, 0.9)), "betas[0] = -0.1", "[0, 1)"),
    (lambda: Adai((0.0, 0.9)), "betas[0] = 0.0", "(0, inf)"),
    (lambda: Adam(eps=-1e-8), "eps = -1e-08", "[0, inf)"),
    (lambda: Adam(eps=math.nan), "eps = nan", "[0, inf)"),
    (lambda: Adai(eps=0.0), "eps = 0.0", "(0, 1)"),
    (lambda: UpdateRule(0.0, SGD()), "lr = 0.0", "(0, inf)"),
    (lambda: UpdateRule(-0.1, SGD()), "lr = -0.1", "(0, inf)"),
    (lambda: UpdateRule(math.nan, SGD()), "lr = nan", "(0, inf)"),
    (lambda: UpdateRule(math.inf, SGD()), "lr = inf", "(0, inf)"),
    (lambda: UpdateRule(np.array([0.1, 0.0]), SGD()), "lr = 0.0", "(0, inf)"),
    (lambda: UpdateRule(torch.tensor([0.1, -2.0]), SGD()), "lr = -2.0", "(0, inf)"),
    (lambda: L2(-0.1), "weight_decay = -0.1", "[0, inf)"),
    (lambda: Decoupled(math.nan), "weight_decay = nan", "[0, inf)"),
    (lambda: Stable(np.array([0.1, -1.0])), "weight_decay = -1.0", "[0, inf)"),
    (lambda: CATALOG["AdamS"](weight_decay=-1.0), "weight_decay = -1.0", "[0, inf)"),
    (lambda: Constant(0.0), "lr = 0.0", "(0, inf)"),
    (lambda: StepDecay(0.1, step_size=0), "step_size = 0", "[1, inf)"),
    (lambda: StepDecay(0.1, 10, gamma=0.0), "gamma = 0.0", "(0, inf)"),
    (lambda: Cosine(0.1, steps=0), "steps = 0", "[1, inf)"),
    (lambda: Cosine(0.1, 10, lr_min=-1.0), "lr_min = -1.0", "[0, inf)"),
    (lambda: Linear(0.1, steps=0), "steps = 0", "[1, inf)"),
    (lambda: EqualMemory(0.1, weight_decay=-1.0), "weight_decay = -1.0", "[0, inf)"),
    (lambda: Warmup(Constant(0.1), 10, start_factor=1.5), "start_factor = 1.5", "(0, 1]"),
]


@pytest.mark.parametrize(("make", "seen", "allowed"), OUTSIDE, ids=[seen for _, seen, _ in OUTSIDE])
def test_a_value_out_of_range(make, seen, allowed):
    """Assert that the message says the name, the value seen and the interval it must lie in."""
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == f"{seen} is not allowed: it must lie in {allowed}"


@pytest.mark.parametrize("value", ["0.1", None, "fast", 1j, Cosine, [0.1, "x"]], ids=repr)
def test_no_number(value):
    """Assert that what is no number is refused as such, a string that looks like one and a class included."""
    with pytest.raises(InputError, match=re.escape(f"lr = {value!r} is not a number: it must lie in (0, inf)")):
        UpdateRule(value, SGD())


@pytest.mark.parametrize("name", ["lr", "weight_decay", "momentum"])
@pytest.mark.parametrize("values", [[0.1, 0.2], (0.1, 0.2)], ids=["list", "tuple"])
@pytest.mark.parametrize("entry", ["SGDS", "SGDIndependent"])
def test_a_list_is_no_number(entry, name, values):
    """Assert that a list is refused by its name, while an array, which has a number for each weight, is taken."""
    with pytest.raises(InputError, match=re.escape(f"{name} = {values!r} is a {type(values).__name__}")):
        CATALOG[entry](**{"lr": 0.1, name: values})
    rule = CATALOG[entry](**{"lr": 0.1, name: np.array(values)})
    assert rule(rule.start(np.ones(2)), np.ones(2)).theta.shape == (2,)


@pytest.mark.parametrize("betas", [0.9, (0.9,), (0.9, 0.99, 0.999), None, "ab"], ids=repr)
@pytest.mark.parametrize("direction", [Adam, AMSGrad, Adai])
def test_betas_are_a_pair(direction, betas):
    """Assert that betas that are not two numbers are refused, with the value seen."""
    with pytest.raises(InputError, match=r"betas") as caught:
        direction(betas)
    assert repr(betas) in str(caught.value) or "is not a number" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("adamw", "AdamW"),
        ("Adms", "AdamS"),
        ("sgd", "SGD"),
        ("AMSgradS", "AMSGradS"),
        ("SGDindependnt", "SGDIndependent"),
    ],
)
def test_an_unknown_optimizer(name, nearest):
    """Assert that an unknown name is answered with known names, the nearest first, and how many more there are."""
    with pytest.raises(UnknownName) as caught:
        CATALOG[name]
    message = str(caught.value)
    assert message.startswith(f"unknown optimizer {name!r}; known: {nearest}, ")
    assert message.endswith(f"and {len(CATALOG) - NEAREST} more")


@pytest.mark.parametrize("name", ["MyAdamW", "OurLion"])
def test_an_optimizer_of_ones_own(name):
    """Assert that a name with more around one of the catalogue is answered with how its rule is written."""
    with pytest.raises(UnknownName, match=r"write its rule.*Direction") as caught:
        CATALOG[name]
    assert name in str(caught.value)


def test_an_unknown_decay():
    """Assert that the decays' table answers in the same way, and that the error is both a ValueError and a KeyError."""
    with pytest.raises(UnknownName, match="unknown decay 'decoupeld'; known: decoupled, ") as caught:
        DECAYS["decoupeld"]
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, KeyError)


def test_an_unknown_argument():
    """Assert that an argument the optimizer does not take is named, with those it takes, as tools are told, too."""
    said = "no argument momentum, nesterov here; there are lr, weight_decay, betas, eps"
    with pytest.raises(InputError, match=said):
        CATALOG["Adam"](momentum=0.9, betas=(0.9, 0.99), nesterov=True)
    assert list(inspect.signature(CATALOG["Adam"]).parameters) == ["lr", "weight_decay", "betas", "eps"]


@pytest.mark.parametrize("arguments", [{}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_as_torch_has_it(arguments):
    """Assert that Nesterov without momentum or with dampening is refused, as torch refuses it."""
    with pytest.raises(InputError, match="nesterov needs momentum > 0 and dampening = 0"):
        CATALOG["SGDS"](nesterov=True, **arguments)
    with pytest.raises(ValueError, match="Nesterov"):
        torch.optim.SGD([torch.zeros(1)], lr=0.1, nesterov=True, **arguments)


@pytest.mark.parametrize("direction", [SGD, Adam, AggregatedMomentum])
def test_a_class_in_the_place_of_a_direction(direction):
    """Assert that a class is refused where an object is needed, with another message than for missing methods."""
    with pytest.raises(InputError, match="cannot be a direction: it is a class, not an object: call it"):
        UpdateRule(0.1, direction)


def test_a_class_in_the_place_of_a_decay():
    """Assert that the same holds for a decay."""
    with pytest.raises(InputError, match="cannot be a decay: it is a class, not an object: call it"):
        UpdateRule(0.1, SGD(), Stable)


def test_methods_that_are_missing():
    """Assert that the methods a direction or a decay lacks are named, and all that it must have."""
    with pytest.raises(InputError, match="lacks rest, remember; a direction has the methods rest, remember, move, eff"):
        UpdateRule(0.1, NoMemory())
    with pytest.raises(InputError, match="lacks added_gradient, decay_rate; a decay has the methods"):
        UpdateRule(0.1, SGD(), 0.1)
    with pytest.raises(InputError, match="lacks rest, remember, move, effective_lr"):
        UpdateRule(0.1, "SGD")


def test_momentum_for_every_weight():
    """Assert that groups that differ in momentum are one rule of the catalogue too."""
    rule = CATALOG["SGDS"](lr=0.5, momentum=np.array([0.5, 0.75]), weight_decay=0.125)
    assert rule.parts(rule.start(np.ones(2)), np.ones(2)).decay_rate.tolist() == [0.125, 0.25]
