"""Tasks: their derivatives against independent ones, their randomness a function of seed and step, their errors."""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.tables import UnknownName
from swd_dynamics.tasks import (
    TASKS,
    character_transformer,
    convolutional_network,
    logistic_regression,
    quadratic,
    tanh_network,
)
from swd_dynamics.tasks.classification import batch
from swd_dynamics.tasks.digits import digits

# Round-off of a float64 loss over a few hundred samples, differentiated twice along two different paths.
ROUND_OFF = 1e-12
# The same for float32.
ROUND_OFF_SINGLE = 1e-5
# Five standard errors: a test of a standard deviation from N samples is wrong once in a million seeds.
STANDARD_ERRORS = 5


TINY = {
    "quadratic": partial(quadratic, spectrum=(1, 3, 0.1), optimum=(1, 0, -1), start=(1, -2, 0.5)),
    "logistic": partial(logistic_regression, samples=20),
    "cross-entropy": partial(tanh_network, hidden=(3, 2), samples=20),
    "squared": partial(tanh_network, hidden=(2,), loss="squared", samples=20),
    "convolution": partial(
        convolutional_network, channels=(2, 1), hidden=2, samples=8, batch_size=5, dtype=torch.float64
    ),
    "transformer": partial(
        character_transformer, width=4, layers=1, heads=2, length=4, windows=8, batch_size=5, dtype=torch.float64
    ),
}
every_kind = pytest.mark.parametrize("make", TINY.values(), ids=TINY)
every_named = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "mnist1d" else name for name in TASKS]
)
SMALL = TINY | {name: TASKS[name] for name in ("quadratic", "logistic", "network", "network-minibatch")}


def with_weights(task, theta):
    """The full loss by torch.func-free means: the weights are taken out of the model and put in as slices of θ."""
    model = task.fresh().model
    sizes = [parameter.numel() for parameter in model.parameters()]
    owners = [(module, name) for module in model.modules() for name, _ in module.named_parameters(recurse=False)]
    shapes = [parameter.shape for parameter in model.parameters()]
    for module, name in owners:
        delattr(module, name)
    for (module, name), piece, shape in zip(owners, theta.split(sizes), shapes, strict=True):
        setattr(module, name, piece.view(shape))
    return task.full_loss(model)


def elsewhere(task):
    """A point and a vector that are not special to the task."""
    random = np.random.default_rng(0)
    return random.normal(size=task.theta.shape), random.normal(size=task.theta.shape)


@every_kind
def test_gradient_is_autograds(make):
    """Assert that the gradient at any θ is autograd's, float64 in θ's shape, and leaves the model where it was."""
    task = make()
    start, (theta, _) = task.theta, elsewhere(task)
    point = torch.tensor(theta, requires_grad=True)
    (expected,) = torch.autograd.grad(with_weights(task, point), point)
    gradient = task.gradient(theta)
    assert gradient.dtype == np.float64
    assert np.abs(gradient - expected.numpy()).max() < ROUND_OFF
    assert np.array_equal(task.theta, start)
    assert all(parameter.grad is None for parameter in task.model.parameters())


@pytest.mark.slow
@every_kind
def test_hessian_is_autograds(make):
    """Assert that the Hessian at any θ, and its product with a vector, are those of torch.autograd.functional."""
    task = make()
    theta, vector = elsewhere(task)
    point = torch.tensor(theta)
    expected = torch.autograd.functional.hessian(partial(with_weights, task), point, vectorize=True).numpy()
    assert np.abs(task.hessian(theta) - expected).max() < ROUND_OFF
    assert np.abs(task.hvp(theta, vector) - expected @ vector).max() < ROUND_OFF * np.sqrt(len(theta))


def test_squared_loss_gradient_by_finite_differences():
    """Assert that the gradient is the slope of the loss that training sees, along a random line."""
    task = TINY["squared"]()
    theta, vector = elsewhere(task)
    spacing = np.cbrt(np.finfo(float).eps)  # the central difference's best: its error is then of the order spacing²

    def loss(point):
        other = task.fresh()
        other.set_theta(point)
        return other.loss(0).item()

    slope = (loss(theta + spacing * vector) - loss(theta - spacing * vector)) / (2 * spacing)
    assert slope == pytest.approx(task.gradient(theta) @ vector, abs=10 * spacing**2 * (vector @ vector))


def test_quadratic_in_closed_form():
    """Assert that loss, gradient and Hessian of the quadratic are ½Σh(θ−θ⋆)², h(θ−θ⋆) and diag(h)."""
    h, optimum, theta = np.array([1.0, 3.0, 0.0]), np.array([0.5, -1.0, 2.0]), np.array([1.0, -2.0, 0.5])
    task = quadratic(h, optimum, start=theta)
    assert task.loss(0).item() == pytest.approx(0.5 * (h * (theta - optimum) ** 2).sum(), rel=ROUND_OFF)
    assert np.array_equal(task.gradient(theta), h * (theta - optimum))
    assert np.array_equal(task.hessian(theta), np.diag(h))
    assert [name for name, _ in task.model.named_parameters()] == ["theta"]


def test_a_loss_without_curvature():
    """Assert that gradient and product are right where the loss is linear in θ or constant, also under no_grad."""
    slope = torch.tensor([2.0, -1.0], dtype=torch.float64)
    task = quadratic((1.0, 1.0))
    linear = replace(task, full_loss=lambda model: slope @ model())
    constant = replace(task, full_loss=lambda model: slope.sum())
    with torch.no_grad():
        assert linear.gradient((3.0, 4.0)).tolist() == [2.0, -1.0]
        assert task.hvp((3.0, 4.0), (1.0, 2.0)).tolist() == [1.0, 2.0]
        for flat in (linear, constant):
            assert flat.hvp((3.0, 4.0), (1.0, 2.0)).tolist() == [0.0, 0.0]
    assert constant.gradient((3.0, 4.0)).tolist() == [0.0, 0.0]


def noise_of(task, *steps):
    """The gradient of each step's loss less that of the full loss, shape (steps, n)."""
    weights = list(task.model.parameters())
    gradients = [torch.autograd.grad(task.loss(step), weights)[0].numpy() for step in steps]
    return np.array(gradients) - task.gradient(task.theta)


@pytest.mark.slow
def test_noise_has_the_stated_deviation():
    """Assert that the gradient noise has mean 0 and the standard deviation asked for, weight by weight."""
    deviation, steps = np.array([0.5, 2.0, 0.0]), 2000
    task = quadratic((1, 3, 0.1), noise=deviation, seed=3)
    noise = noise_of(task, *range(steps))
    assert (np.abs(noise.mean(axis=0)) <= STANDARD_ERRORS * deviation / math.sqrt(steps) + ROUND_OFF).all()
    error = np.abs(noise.std(axis=0) - deviation)
    assert (error <= STANDARD_ERRORS * deviation / math.sqrt(2 * steps) + ROUND_OFF).all()
    correlation = (noise[1:, 0] * noise[:-1, 0]).mean() / deviation[0] ** 2
    assert abs(correlation) < STANDARD_ERRORS / math.sqrt(steps)


def test_noise_is_a_function_of_seed_and_step():
    """Assert that the noise of a step is the same in any order of steps, and another for another step or seed."""
    task, again = quadratic((1, 2), noise=1.0, seed=1), quadratic((1, 2), noise=1.0, seed=1)
    forwards = noise_of(task, 0, 1, 2)
    backwards = noise_of(again, 2, 1, 0)
    assert np.array_equal(forwards, backwards[::-1])
    assert not np.array_equal(forwards[0], forwards[1])
    assert not np.array_equal(forwards[0], noise_of(quadratic((1, 2), noise=1.0, seed=2), 0)[0])


def test_batches_do_not_depend_on_the_order_of_calls():
    """Assert that step 7's batch loss is the same first or last, and that full batch ignores the step."""
    task, again = tanh_network(samples=40, batch_size=10), tanh_network(samples=40, batch_size=10)
    losses = [task.loss(step).item() for step in range(8)]
    assert again.loss(7).item() == losses[7]
    assert len(set(losses)) == len(losses)
    full = tanh_network(samples=40)
    assert full.loss(0).item() == full.loss(7).item() == full.full_loss(full.model).item()


def test_batches_are_drawn_without_replacement():
    """Assert that a batch holds no image twice, and differs between steps and between seeds."""
    drawn = batch(samples=50, batch_size=30, seed=0, step=4)
    assert len(set(drawn.tolist())) == 30
    assert not torch.equal(drawn, batch(50, 30, seed=0, step=5))
    assert not torch.equal(drawn, batch(50, 30, seed=4, step=0))
    assert not torch.equal(drawn, batch(50, 30, seed=2**32, step=4))


def test_minibatch_losses_average_to_the_full_loss():
    """Assert that a batch of all images has the full loss, whatever order it is drawn in."""
    task = logistic_regression(samples=30, batch_size=30)
    assert task.loss(3).item() == pytest.approx(task.full_loss(task.model).item(), rel=ROUND_OFF)


@pytest.mark.parametrize("samples", [1, 7, 500])
def test_digits_are_standardised(samples):
    """Assert that each pixel has mean 0 and variance 1 over the samples, or is 0 where it never changes."""
    images, labels = digits(samples)
    deviation = images.std(axis=0)
    assert images.shape == (samples, 64)
    assert labels.shape == (samples,)
    assert np.abs(images.mean(axis=0)).max() < ROUND_OFF
    assert (np.isclose(deviation, 1, rtol=0, atol=ROUND_OFF) | (np.abs(images).max(axis=0) == 0)).all()


@pytest.mark.parametrize("name", ["logistic", "network", "network-minibatch"])
def test_loss_decreases_on_digits(name):
    """Assert that twenty steps of gradient descent lower the full loss by a third."""
    task = TASKS[name]()
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.3)
    before = task.full_loss(task.model).item()
    for step in range(20):
        optimizer.zero_grad()
        task.loss(step).backward()
        optimizer.step()
    assert task.full_loss(task.model).item() < before * 2 / 3


@every_named
def test_start_is_a_function_of_the_seed(name):
    """Assert that a task is made from seed and device, equally each time, without touching torch's global generator."""
    before = torch.get_rng_state()
    task, again, other = TASKS[name](seed=1, device="cpu"), TASKS[name](seed=1), TASKS[name](seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(task.theta, again.theta)
    assert name == "quadratic" or not np.array_equal(task.theta, other.theta)
    assert task.name == name
    assert json.loads(json.dumps(task.description)) == task.description


def test_initial_weights_are_torchs_default_scheme():
    """Assert that weights and biases fill ±1/√(number of inputs), layer by layer, and have its variance."""
    layers = [layer for layer in tanh_network().model if isinstance(layer, torch.nn.Linear)]
    for layer in layers:
        bound = layer.in_features**-0.5
        everything = torch.cat([layer.weight.flatten(), layer.bias]).detach()
        assert everything.abs().max() <= bound
        # the kurtosis of the uniform distribution, 9/5, makes the variance of a squared draw .8 times its mean squared
        error = STANDARD_ERRORS * math.sqrt(0.8 / len(everything))
        assert (everything**2).mean().item() == pytest.approx(bound**2 / 3, rel=error)


@every_named
def test_theta_round_trip_and_fresh(name):
    """Assert that θ can be read, put back and moved, and that a fresh task's model is its own."""
    task = TASKS[name](dtype=torch.float64)  # θ + 1 is rounded in float32
    start = task.theta
    other = task.fresh()
    other.set_theta(start + 1)
    assert np.array_equal(other.theta, start + 1)
    assert np.array_equal(task.theta, start)
    copied = task.theta
    copied += 1
    assert np.array_equal(task.theta, start)
    assert other.batch_loss is task.batch_loss


def test_single_precision():
    """Assert that a float32 model starts at the same weights and gives float64 arrays of float32 accuracy."""
    double, single = tanh_network(samples=20), tanh_network(samples=20, dtype=torch.float32)
    assert next(single.model.parameters()).dtype == torch.float32
    assert np.abs(single.theta - double.theta).max() < ROUND_OFF_SINGLE
    gradient = single.gradient(double.theta)
    assert gradient.dtype == np.float64
    assert np.abs(gradient - double.gradient(double.theta)).max() < ROUND_OFF_SINGLE


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: quadratic((1, -1)), r"spectrum = -1.0 is not allowed: it must lie in \[0, inf\)"),
        (lambda: quadratic((1, math.nan)), "spectrum = nan is not allowed"),
        (lambda: quadratic((1, math.inf)), "spectrum = inf is not allowed"),
        (lambda: quadratic(3.0), r"spectrum has shape \(\): give one curvature per weight"),
        (lambda: quadratic(()), r"spectrum has shape \(0,\)"),
        (lambda: quadratic(((1, 2), (3,))), "spectrum = .* is not a number"),
        (lambda: quadratic((1, 2, 3), start=(1, 2)), r"start has shape \(2,\), but the spectrum has 3 curvatures"),
        (lambda: quadratic((1, 2), optimum=math.nan), "optimum = nan is not allowed"),
        (lambda: quadratic((1, 2), noise=-1), "noise = -1.0 is not allowed"),
        (lambda: quadratic((1, 2), seed=-1), "seed = -1 is not allowed: it must be a whole number ≥ 0"),
        (lambda: quadratic((1, 2), dtype=torch.int64), "dtype = torch.int64 is not allowed"),
        (lambda: quadratic((1, 2), device="abacus"), "device = 'abacus' .* cannot be used"),
        (lambda: tanh_network(samples=1798), "samples = 1798 is not allowed: it must be a whole number from 1 to 1797"),
        (lambda: tanh_network(samples=2.5), "samples = 2.5 is not allowed"),
        (lambda: tanh_network(samples=20, batch_size=21), "batch_size = 21 .* a whole number from 1 to 20"),
        (lambda: tanh_network(hidden=(0,)), "hidden width = 0 is not allowed"),
        (lambda: tanh_network(hidden=16), "hidden = 16 is not allowed: it must be the widths"),
        (lambda: tanh_network(loss="crossentropy"), "unknown loss 'crossentropy'; known: cross-entropy, squared"),
        (lambda: logistic_regression(seed=0.5), "seed = 0.5 is not allowed"),
        (
            lambda: quadratic((1, 2)).gradient((1, 2, 3)),
            r"theta has shape \(3,\), but the task 'quadratic' has 2 weights",
        ),
        (lambda: quadratic((1, 2)).hvp((1, 2), (1,)), r"vector has shape \(1,\)"),
        (lambda: quadratic((1, 2)).set_theta(1.0), r"theta has shape \(\)"),
    ],
)
def test_errors_are_clear(make, message):
    """Assert that what cannot be used is refused with its value and what is allowed."""
    with pytest.raises(InputError, match=message):
        make()


def test_unknown_task_lists_the_known():
    """Assert that a mistyped task name is answered with the names there are, nearest first."""
    with pytest.raises(UnknownName, match="unknown task 'quadratc'; known: quadratic"):
        TASKS["quadratc"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_named
def test_the_same_start_and_batches_on_a_gpu(name):
    """Assert that start and batches on a CUDA device are those on the CPU."""
    here, there = (TASKS[name](seed=1, device=device, dtype=torch.float64) for device in ("cpu", "cuda"))
    assert np.array_equal(here.theta, there.theta)
    assert there.loss(3).item() == pytest.approx(here.loss(3).item(), rel=ROUND_OFF)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
def test_the_same_derivatives_on_a_gpu(make):
    """Assert that derivatives on a CUDA device are those on the CPU."""
    here, there = make(seed=1), make(seed=1, device="cuda")
    theta, vector = elsewhere(here)
    gradient, product = here.gradient(theta), here.hvp(theta, vector)
    assert np.abs(gradient - there.gradient(theta)).max() < ROUND_OFF * max(1, np.abs(gradient).max())
    error = np.abs(product - there.hvp(theta, vector)).max()
    assert error < ROUND_OFF * np.sqrt(len(theta)) * max(1, np.abs(product).max())


@pytest.mark.parametrize("name", ["logistic", "network", "network-minibatch"])
def test_a_task_on_digits_is_described_by_its_name(name):
    """Assert that the description, which recordings keep, has the name by which the task was made."""
    assert TASKS[name]().description["task"] == name == TASKS[name]().name
