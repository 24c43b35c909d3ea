"""The gradients an optimizer is driven with, and the recording of what it did."""

import json

import numpy as np
import pytest
import torch

from swd_dynamics.bench.scenarios import SCENARIOS, run_scenario
from swd_dynamics.bench.streams import varied_gradients

STEPS = 60
SHAPES = [(4, 3), (5,), ()]
# One step of gradient descent is two roundings, of numbers of the size of θ or of ηg.
ROUND_OFF = 4 * np.finfo(float).eps


def test_the_stream_has_everything():
    """Assert that gradients change their size and their sign, have zeros, and are the same from the same seed."""
    stream = varied_gradients(SHAPES, STEPS, seed=3)
    sizes = np.linalg.norm(stream, axis=1)
    assert stream.shape == (STEPS, 18) and stream.dtype == np.float64
    assert sizes.max() / sizes.min() > 1e3
    assert (np.sign(stream[1:]) * np.sign(stream[:-1]) < 0).any(axis=0).sum() > 9
    assert (stream[0] != 0).all() and (stream == 0).any(axis=0).all()
    assert (sizes > 0).all()
    assert (stream[STEPS // 3 : STEPS // 3 + 10, 12:17] == 0).all()
    assert np.array_equal(stream, varied_gradients(SHAPES, STEPS, seed=3))
    assert not np.array_equal(stream, varied_gradients(SHAPES, STEPS, seed=4))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_gradient_descent_goes_where_it_must(scenario):
    """Assert that θ′ = θ − ηg, with the η and λ of each group and step that the recording says."""
    recording = run_scenario(lambda p: torch.optim.SGD(p, lr=0.25, weight_decay=0.5), scenario, STEPS)
    theta, gradient = recording["theta"].values, recording["gradient"].values
    lr, decay = 0.25 * recording["lr_factor"].values, 0.5 * recording["weight_decay_factor"].values
    expected = theta[:-1] - lr * (gradient + decay * theta[:-1])
    size = np.maximum(np.abs(theta[:-1]), lr * np.abs(gradient))
    assert (np.abs(theta[1:] - expected) <= ROUND_OFF * size).all()
    assert recording.sizes["group"] == len(scenario.shapes)


def test_the_second_scenario_differs_between_groups_and_steps():
    """Assert that both groups have their own η and λ, and that η changes at every step."""
    recording = run_scenario(torch.optim.AdamW, SCENARIOS[1], STEPS)
    group, factors = recording["weight_group"].values, recording["lr_factor"].values
    assert (factors[:, group == 1] == 2 * factors[:, group == 0][:, :1]).all()
    assert (np.diff(factors, axis=0) != 0).all()
    assert set(recording["weight_decay_factor"].values[group == 1]) == {0.5}


class Watching(torch.optim.SGD):
    """Notes which tensors bring the gradients."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)
        self.kept = []

    def step(self, closure=None):
        self.kept.append([p.grad for group in self.param_groups for p in group["params"]])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_gradients_come_in_new_tensors_or_in_the_same(scenario):
    """Assert that one scenario brings fresh gradients, as backward after zero_grad does, the other writes into them."""
    made = []

    def factory(params):
        made.append(Watching(params))
        return made[-1]

    run_scenario(factory, scenario, 3)
    first, *_, last = made[-1].kept
    assert all((a is b) == scenario.same_tensors for a, b in zip(first, last, strict=True))


class WithoutLr(torch.optim.Optimizer):
    """An optimizer whose groups hold nothing but parameters."""

    def __init__(self, params):
        super().__init__(params, {})

    def step(self, closure=None):
        pass


def test_what_an_optimizer_has_no_place_for_is_left_out():
    """Assert that without lr and weight_decay in its groups an optimizer is driven with factors of 1."""
    recording = run_scenario(WithoutLr, SCENARIOS[1], 5)
    assert recording.sizes["group"] == 2
    assert (recording["lr_factor"] == 1).all() and (recording["weight_decay_factor"] == 1).all()


def test_the_recording_says_what_the_optimizer_was_made_with():
    """Assert that the arguments of all groups are those before the first step, and that step counts are not listed."""
    attrs = run_scenario(lambda p: torch.optim.AdamW(p, lr=0.25, betas=(0.5, 0.75)), SCENARIOS[1], 5).attrs
    first, second = json.loads(attrs["optimizer_arguments"])
    assert (first["lr"], first["betas"], first["amsgrad"]) == (0.25, [0.5, 0.75], False)
    assert (second["lr"], second["weight_decay"]) == (0.5, first["weight_decay"] / 2)
    assert json.loads(attrs["in_lower_precision"]) == {}


class Rounding(torch.optim.SGD):
    """Keeps something of each of several types."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] |= {"half": p.detach().bfloat16(), "code": p.detach().to(torch.int8), "mask": p > 0}
                self.state[p] |= {"full": p.detach().clone(), "sum": p.detach().float().sum()}


def test_state_with_fewer_digits_is_listed():
    """Assert that state of the weights' shape is listed with its type, and masks, sums and float64 are not."""
    attrs = run_scenario(lambda p: Rounding(p, lr=torch.tensor(0.1)), SCENARIOS[0], 2).attrs
    lower = json.loads(attrs["in_lower_precision"])
    assert lower == {"lr": "float32", "state 'half'": "bfloat16", "state 'code'": "int8"}


def test_a_learning_rate_in_a_tensor_follows_the_schedule():
    """Assert that a learning rate in a tensor takes the same steps as a number, and that no run changes the tensor."""
    lr = torch.tensor(0.25, dtype=torch.float64)
    recording = run_scenario(lambda p: torch.optim.SGD(p, lr=lr), SCENARIOS[1], STEPS)
    plain = run_scenario(lambda p: torch.optim.SGD(p, lr=0.25), SCENARIOS[1], STEPS)
    assert np.array_equal(recording["theta"], plain["theta"])
    assert lr == 0.25
