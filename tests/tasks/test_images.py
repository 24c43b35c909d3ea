"""The convolutional network: its images, its layers and its start against their formulas, its batches, its errors."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from swd_dynamics.errors import InputError
from swd_dynamics.tasks import convolutional_network
from swd_dynamics.tasks.digits import digits, held_out
from swd_dynamics.tasks.images import enlarged

# Round-off of a float64 sum of some hundred terms, each of the order of 1.
ROUND_OFF = 1e-12
# Rounding a float64 to float32.
SINGLE = np.finfo(np.float32).eps / 2
# A test of a mean square from N draws is wrong once in a million seeds.
STANDARD_ERRORS = 5

small = partial(convolutional_network, channels=(3, 4), hidden=8, samples=130, batch_size=20, dtype=torch.float64)


def inputs_and_labels(samples):
    images, labels = digits(samples)
    return enlarged(images), torch.tensor(labels)


def test_images_are_enlarged_by_linear_interpolation():
    """Assert that pixels are interpolated in each direction, between the centres of the old ones, and clamped outside.

    Pixel i of 28 has its centre at (i + ½)·8/28 − ½ of the old pixels.
    """
    image = np.random.default_rng(0).normal(size=(8, 8))
    weights = np.array([np.interp((np.arange(28) + 0.5) * 8 / 28 - 0.5, np.arange(8), row) for row in np.eye(8)])
    assert np.abs(enlarged(image.reshape(1, 64))[0, 0].numpy() - weights.T @ image @ weights).max() < ROUND_OFF


def by_hand(model, image):
    """Scores of one image, shape (28, 28), by correlations, maxima and products in numpy."""
    kernels, shift, more_kernels, more_shift, *linear = (weight.detach().numpy() for weight in model.parameters())
    planes = image[None]
    for bank, bias in ((kernels, shift), (more_kernels, more_shift)):
        sums = [sum(map(partial(correlate2d, mode="valid"), planes, kernel)) for kernel in bank]
        planes = np.maximum(np.array(sums) + bias[:, None, None], 0)
    pooled = planes.reshape(len(planes), 12, 2, 12, 2).max(axis=(2, 4)).ravel()
    return linear[2] @ np.maximum(linear[0] @ pooled + linear[1], 0) + linear[3]


def test_scores_by_hand():
    """Assert that the network is two convolutions, a maximum of every 2 × 2 and two linear layers, ReLU between."""
    task = small()
    images, _ = inputs_and_labels(2)
    expected = np.array([by_hand(task.model, image[0].numpy()) for image in images])
    assert np.abs(task.model(images).detach().numpy() - expected).max() < ROUND_OFF


@pytest.mark.parametrize(("first", "second", "hidden"), [(32, 64, 128), (1, 2, 3)])
def test_number_of_weights(first, second, hidden):
    """Assert that there are 10c₁ + 9c₁c₂ + c₂ + (144c₂ + 1)h + 10(h + 1) weights."""
    counted = 10 * first + 9 * first * second + second + (144 * second + 1) * hidden + 10 * (hidden + 1)
    assert convolutional_network((first, second), hidden, samples=1, batch_size=1).theta.size == counted


def test_initial_weights_are_torchs_default_scheme():
    """Assert that weights and biases fill ±1/√(number of inputs), layer by layer, and have its variance."""
    weights = list(convolutional_network(samples=1, batch_size=1).model.parameters())
    for inputs, *pair in zip((9, 32 * 9, 64 * 144, 128), weights[::2], weights[1::2], strict=True):
        everything = torch.cat([part.flatten() for part in pair]).detach().double()
        # the kurtosis of the uniform distribution, 9/5, makes the variance of a squared draw .8 times its mean squared
        error = STANDARD_ERRORS * math.sqrt(0.8 / len(everything))
        assert everything.abs().max() <= inputs**-0.5 * (1 + SINGLE)
        assert (everything**2).mean().item() == pytest.approx(1 / (3 * inputs), rel=error)


def test_start_in_single_precision():
    """Assert that a float32 network starts at the float64 one's weights, rounded."""
    double, single = small().theta, small(dtype=torch.float32).theta
    assert (np.abs(single - double) <= SINGLE * np.abs(double)).all()


def test_full_loss_is_over_all_samples():
    """Assert that the full loss, made in pieces of which the last is smaller, is −log softmax over all samples."""
    task = small()
    images, labels = inputs_and_labels(130)
    scores = task.model(images).detach().numpy()
    expected = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(130), labels]
    assert task.full_loss(task.model).item() == pytest.approx(expected.mean(), rel=ROUND_OFF)


def test_batch_loss_is_a_function_of_seed_and_step():
    """Assert that step 7's loss is the same first or last, and that a batch of all samples has the full loss."""
    task, again = small(), small()
    losses = [task.loss(step).item() for step in range(8)]
    assert again.loss(7).item() == losses[7]
    assert len(set(losses)) == len(losses)
    whole = small(batch_size=130)
    assert whole.loss(3).item() == pytest.approx(whole.full_loss(whole.model).item(), rel=ROUND_OFF)


@pytest.mark.slow
def test_training_reads_held_out_digits():
    """Assert that thirty steps of AdamW halve the loss, and then most of the digits left over are read."""
    task = small()
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=0.01)
    before = task.full_loss(task.model).item()
    for step in range(30):
        optimizer.zero_grad()
        task.loss(step).backward()
        optimizer.step()
    images, labels = held_out(130)
    read = task.model(enlarged(images[:200])).argmax(dim=1).numpy()
    assert task.full_loss(task.model).item() < before / 2
    assert (read == labels[:200]).mean() > 1 / 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channels": 32}, "channels = 32 is not allowed: it must be two numbers"),
        ({"channels": (1, 2, 3)}, r"channels = \(1, 2, 3\) is not allowed"),
        ({"channels": (0, 2)}, "number of channels = 0 is not allowed"),
        ({"hidden": 0}, "hidden = 0 is not allowed: it must be a whole number ≥ 1"),
        ({"samples": 1798}, "samples = 1798 is not allowed: it must be a whole number from 1 to 1797"),
        ({"batch_size": 131}, "batch_size = 131 is not allowed: it must be a whole number from 1 to 130"),
        ({"batch_size": None}, "batch_size = None is not allowed"),
        ({"seed": -1}, "seed = -1 is not allowed"),
        ({"dtype": torch.int64}, "dtype = torch.int64 is not allowed"),
        ({"device": "abacus"}, "device = 'abacus' .* cannot be used"),
    ],
)
def test_errors_are_clear(wrong, message):
    """Assert that what cannot be used is refused with its value and what is allowed."""
    with pytest.raises(InputError, match=message):
        small(**wrong)
