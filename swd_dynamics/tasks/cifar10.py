"""ResNet-18 on CIFAR-10, for readers who have the images on disk. Nothing is downloaded.

The images are read from the archive's binary version, the folder cifar-10-batches-bin. It holds plain bytes, while the
version for Python is made of pickles, which may run any code when they are loaded.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Identity, Linear, Module, ReLU, Sequential

from swd_dynamics.checks import as_path, whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.tasks.classification import classification
from swd_dynamics.tasks.seeds import generator
from swd_dynamics.tasks.task import Task, check_placement

COLOURS, SIDE, CLASSES = 3, 32, 10
RECORD = 1 + COLOURS * SIDE**2  # bytes of an image: its label, then its red, green and blue pixels, row by row
TRAINING, TEST = tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)
BLOCKS = (2, 2, 2, 2)  # blocks of each stage; the layers of the network are 1 + 2·Σ + 1 = 18


def cifar10(
    folder: str | os.PathLike,
    width: int = 64,
    batch_size: int = 128,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Task:
    """A ResNet-18 for images of 32 × 32 pixels on CIFAR-10, cross-entropy, without augmentation.

    A 3 × 3 convolution to ``width`` channels, then four stages of two residual blocks, with 1, 2, 4 and 8 times as many
    channels at a stride of 1, 2, 2 and 2, then the mean over the pixels and a linear layer: 11,173,962 weights by
    default. Every convolution is followed by batch norm. Each colour is standardised with the mean and the deviation of
    all training images.

    Source: He, Zhang, Ren & Sun 2015, arXiv 1512.03385; Krizhevsky 2009.

    Parameters
    ----------
    folder : str or path
        The folder cifar-10-batches-bin, with data_batch_1.bin to data_batch_5.bin and test_batch.bin.
    width : int
        Channels of the first stage.
    batch_size : int
        Images in a step, drawn without replacement and independently in every step.
    seed : int
        Seed of the initial weights and of the batches. Convolutions are drawn by He's scheme, normal with a variance of
        2/(number of outputs), batch norms are 1 and 0, and the linear layer is uniform in ±1/√(number of inputs).
    device, dtype
        Device and dtype of the model. Random numbers are drawn on the CPU, the same for every device.

    Raises
    ------
    InputError
        If a file is missing or does not hold whole images with labels from 0 to 9, or another argument is out of range.

    Examples
    --------
    >>> cifar10("no such folder")
    Traceback (most recent call last):
    swd_dynamics.errors.InputError: cannot read no such folder/data_batch_1.bin: No such file or directory; ...
    """
    check_placement(device, dtype)
    path = as_path("folder", folder)
    training, test = cifar10_images(path, TRAINING), cifar10_images(path, TEST)
    whole_number("batch_size", batch_size, 1, len(training[0]))
    pixels = training[0].transpose(1, 0, 2, 3).reshape(COLOURS, -1)
    model = Sequential(Standardise(pixels.mean(axis=1), pixels.std(axis=1)), resnet18(width, generator(seed)))
    description = {
        "task": "cifar10",
        "data": "CIFAR-10",
        "samples": len(training[0]),
        "batch_size": batch_size,
        "width": width,
        "loss": "cross-entropy",
        "seed": int(seed),
        "device": str(device),
        "dtype": str(dtype),
    }
    return classification(
        model.to(device=device, dtype=dtype),
        _tensors(training, device),
        _tensors(test, device),
        batch_size=batch_size,
        seed=seed,
        name="cifar10",
        description=description,
    )


def cifar10_images(folder: Path, files: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of some files of the binary version.

    Returns
    -------
    images : array of uint8, shape (images, 3, 32, 32)
    labels : array of uint8, shape (images,)

    Raises
    ------
    InputError
        If a file cannot be read, does not hold whole images, or has a label above 9.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     written = Path(folder, "test_batch.bin").write_bytes(bytes([7]) + bytes(3 * 1024))
    ...     images, labels = cifar10_images(Path(folder), TEST)
    >>> images.shape, labels.tolist()
    ((1, 3, 32, 32), [7])
    """
    records = np.concatenate([_records(folder / name) for name in files])
    return records[:, 1:].reshape(-1, COLOURS, SIDE, SIDE), records[:, 0]


def _records(path: Path) -> np.ndarray:
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; give the folder cifar-10-batches-bin, CIFAR-10's binary version"
        ) from None
    if not len(content) or len(content) % RECORD:
        raise InputError(f"{path} has {len(content)} bytes: it must hold images of {RECORD} bytes; unpack it again")
    records = content.reshape(-1, RECORD)
    if (largest := records[:, 0].max()) >= CLASSES:
        raise InputError(f"{path} has the label {largest}: labels of CIFAR-10 are 0 to 9; unpack it again")
    return records


def _tensors(data: tuple[np.ndarray, np.ndarray], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Images as bytes, a quarter of the memory of float32, and labels."""
    images, labels = data
    return torch.tensor(images, device=device), torch.tensor(labels, dtype=torch.int64, device=device)


class Standardise(Module):
    """Images of bytes, standardised colour by colour: (image − mean)/deviation.

    Examples
    --------
    >>> Standardise([1.0], [2.0])(torch.tensor([[[[1, 5]]]], dtype=torch.uint8)).tolist()
    [[[[0.0, 2.0]]]]
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Sequence[float] | np.ndarray, deviation: Sequence[float] | np.ndarray):
        super().__init__()
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.deviation


class ResidualBlock(Module):
    """Two 3 × 3 convolutions with batch norm, to which the input is added: relu(b(relu(a(x))) + x).

    Where the shape changes, a 1 × 1 convolution with batch norm brings x into the new shape.

    Examples
    --------
    >>> ResidualBlock(4, 8, stride=2)(torch.zeros(1, 4, 6, 6)).shape
    torch.Size([1, 8, 3, 3])
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        first, second = _convolution(inputs, outputs, 3, stride), _convolution(outputs, outputs, 3, 1)
        self.branch = Sequential(*first, ReLU(), *second)
        same = inputs == outputs and stride == 1
        self.shortcut = Identity() if same else Sequential(*_convolution(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


def resnet18(width: int, random: torch.Generator) -> Sequential:
    """A ResNet-18 for images of 32 × 32 pixels, drawn as :func:`cifar10` says.

    Raises
    ------
    InputError
        If ``width`` is not a whole number ≥ 1.

    Examples
    --------
    The linear layer at its end has 8 inputs for each channel of the first stage.

    >>> resnet18(2, generator(0))[-1]
    Linear(in_features=16, out_features=10, bias=True)
    """
    channels = whole_number("width", width, 1)
    layers: list[Module] = [*_convolution(COLOURS, channels, 3, 1), ReLU()]
    for stage, blocks in enumerate(BLOCKS):
        outputs = width * 2**stage
        for block in range(blocks):
            layers.append(ResidualBlock(channels, outputs, stride=2 if stage and not block else 1))
            channels = outputs
    network = Sequential(*layers, AdaptiveAvgPool2d(1), Flatten(), torch.nn.utils.skip_init(Linear, channels, CLASSES))
    for module in network.modules():
        if isinstance(module, Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=random)
        elif isinstance(module, Linear):
            for parameter in module.parameters():
                torch.nn.init.uniform_(parameter, -(channels**-0.5), channels**-0.5, generator=random)
    return network


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[Module, Module]:
    """A convolution, not yet drawn, and its batch norm."""
    shape = {"kernel_size": kernel, "stride": stride, "padding": kernel // 2, "bias": False}
    return torch.nn.utils.skip_init(Conv2d, inputs, outputs, **shape), BatchNorm2d(outputs)
