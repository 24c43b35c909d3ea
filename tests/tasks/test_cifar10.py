"""ResNet-18 on CIFAR-10: its bytes, its layers and its start against formulas, and damaged folders."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

from swd_dynamics.errors import InputError
from swd_dynamics.tasks.cifar10 import TEST, TRAINING, cifar10, cifar10_images, resnet18
from swd_dynamics.tasks.seeds import generator

IMAGES = 4  # in each file


@pytest.fixture
def folder(tmp_path):
    """A folder with the files of the binary version, of few images with random pixels, and the bytes in them."""
    drawn = np.random.default_rng(0)
    for name in (*TRAINING, *TEST):
        labels, pixels = drawn.integers(0, 10, (IMAGES, 1)), drawn.integers(0, 256, (IMAGES, 3072))
        (tmp_path / name).write_bytes(np.hstack([labels, pixels]).astype(np.uint8).tobytes())
    return tmp_path


tiny = partial(cifar10, width=2, batch_size=5, dtype=torch.float64)


def test_pixels_are_read_plane_by_plane(folder):
    """Assert that byte 1 + 1024·c + 32·y + x of an image is colour c of the pixel in row y and column x."""
    images, labels = cifar10_images(folder, TRAINING)
    content = (folder / TRAINING[2]).read_bytes()
    assert images.shape == (5 * IMAGES, 3, 32, 32)
    assert labels[2 * IMAGES + 1] == content[3073]
    assert images[2 * IMAGES + 1, 2, 7, 30] == content[3073 + 1 + 1024 * 2 + 32 * 7 + 30]


@pytest.mark.parametrize(("width", "weights"), [(64, 11_173_962), (2, None)])
def test_number_of_weights(width, weights):
    """Assert that there are as many weights as the shapes of a ResNet-18 add up to; 11,173,962 at 64 channels."""
    counted = sum(weight.numel() for weight in resnet18(width, generator(0)).parameters())
    stages = [width * 2**i for i in range(4)]
    norms = 2 * (stages[0] + sum(4 * c for c in stages) + sum(stages[1:]))
    first = 27 * width + 9 * 4 * width**2
    later = sum(9 * (a * b + 3 * b * b) + a * b for a, b in pairwise(stages))
    assert counted == first + later + norms + 10 * stages[-1] + 10
    assert weights in (None, counted)


def by_hand(task, images):
    """The scores in training mode, by torch's functions on the weights in their order."""
    weights = iter(task.model.parameters())

    def normed(x, stride=1):
        kernel, scale, shift = next(weights), next(weights), next(weights)
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]

    x = normed(images).relu()
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage and not block else 1
            branch = normed(normed(x, stride).relu())
            x = (branch + (normed(x, stride) if stride == 2 else x)).relu()
    return functional.linear(x.mean((2, 3)), next(weights), next(weights))


@pytest.mark.slow
def test_scores_by_hand(folder):
    """Assert that the network in training is a ResNet-18 on images standardised over all that it trains on."""
    task = tiny(folder)
    pixels = cifar10_images(folder, TRAINING)[0] / 1.0
    mean, deviation = pixels.mean((0, 2, 3), keepdims=True), pixels.std((0, 2, 3), keepdims=True)
    images = torch.tensor(((pixels - mean) / deviation)[:6])
    found = task.model(torch.tensor(cifar10_images(folder, TRAINING)[0][:6]))
    torch.testing.assert_close(found, by_hand(task, images), rtol=1e-5, atol=1e-5)  # the mean is kept in float32


def test_the_start_is_hes(folder):
    """Assert that convolutions have a variance of 2/(outputs of a kernel), and depend on the seed alone."""
    network = resnet18(32, generator(1))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 5000:
            expected = 2 / (module.weight.shape[0] * module.weight[0, 0].numel())
            error = 5 * np.sqrt(2 / module.weight.numel())  # five standard errors of a variance of normal numbers
            assert module.weight.var().item() == pytest.approx(expected, rel=error)
    before = torch.get_rng_state()
    same, other = tiny(folder, seed=1), tiny(folder, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(same.theta, tiny(folder, seed=1).theta)
    assert not np.array_equal(same.theta, other.theta)


@pytest.mark.slow
def test_evaluation_leaves_the_running_means(folder):
    """Assert that losses on all data use the running means and do not move them, and a training step does."""
    task = tiny(folder)

    def running():
        return torch.cat([value.flatten() for name, value in task.model.named_buffers() if "running" in name])

    before = running().clone()
    task.full_loss(task.model), task.test_error(task.model), task.gradient(task.theta)
    assert torch.equal(running(), before) and task.model.training
    task.loss(0).backward()
    assert not torch.equal(running(), before)


@pytest.mark.slow
def test_training_lowers_the_loss(folder):
    """Assert that twenty steps on the few images lower the loss of their batches by a third."""
    task = tiny(folder, batch_size=20)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    losses = []
    for step in range(20):
        optimizer.zero_grad()
        losses.append(task.loss(step))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < losses[0].item() * 2 / 3


@pytest.mark.parametrize(
    ("content", "said"),
    [(bytes(3072), "3072 bytes"), (b"", "0 bytes"), (bytes([10]) + bytes(3072), "label 10"), (None, "cannot read")],
)
def test_damaged_files(folder, content, said):
    """Assert that a missing file, a part of an image and an impossible label are refused, with the file's name."""
    path = folder / TEST[0]
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=f"(?s){TEST[0]}.*{said}|{said}.*{TEST[0]}"):
        tiny(folder)


@pytest.mark.parametrize("arguments", [{"batch_size": 21}, {"width": 0}, {"seed": -1}])
def test_arguments_out_of_range(folder, arguments):
    """Assert that sizes that the data do not have are refused."""
    with pytest.raises(InputError):
        tiny(folder, **arguments)
