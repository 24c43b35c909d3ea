"""A small transformer that predicts the next character of real text, that of Python's ``help()`` on its topics.

The text is the standard library's ``pydoc_data.topics``, so nothing is downloaded. Versions of Python differ in it.
"""

import platform
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import GELU, Embedding, LayerNorm, Linear, Sequential, functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from swd_dynamics.checks import whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.tasks.seeds import generator
from swd_dynamics.tasks.task import DrawnLoss, Task, check_placement

DEVIATION = 0.02  # of the initial weights


class Corpus(NamedTuple):
    """A text as the codes of its characters.

    alphabet : str
        The characters, sorted; a character's place in it is its code.
    training, held_out : torch.Tensor of int64
        The first nine tenths of the text, and the rest.
    """

    alphabet: str
    training: Tensor
    held_out: Tensor


@cache
def corpus() -> Corpus:
    """The text of ``pydoc_data.topics``, topic after topic with a new line between two.

    Examples
    --------
    >>> alphabet, training, held_out = corpus()
    >>> "".join(alphabet[code] for code in training[:22])
    'The "assert" statement'
    >>> len(training) == (len(training) + len(held_out)) * 9 // 10
    True
    """
    from pydoc_data.topics import topics

    characters = np.frombuffer("\n".join(topics.values()).encode("utf-32-le"), dtype="<u4")
    alphabet, codes = np.unique(characters, return_inverse=True)
    text = torch.from_numpy(codes.astype(np.int64))
    training = len(text) * 9 // 10
    return Corpus("".join(map(chr, alphabet)), text[:training], text[training:])


def character_transformer(
    width: int = 128,
    layers: int = 5,
    heads: int = 4,
    length: int = 64,
    windows: int = 256,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Task:
    """A decoder-only transformer on characters: each is predicted from those before it in its window.

    Pre-norm blocks of causal attention and an MLP with 4·width units and GELU; learned positions; LayerNorm and a
    linear layer at the end. The loss is the mean cross-entropy over the characters of all windows, in nats. With V
    characters in the alphabet there are layers·(12·width² + 13·width) + (2V + length + 2)·width + V weights: about a
    million by default.

    Weights start from N(0, 0.02²), those that write into the residual stream divided by √(2·layers), biases at 0, the
    gains of the LayerNorms at 1.

    Parameters
    ----------
    width, layers, heads : int
        The length of each position's vector, the number of blocks, and of attention heads in each; ``heads`` divides
        ``width``.
    length : int
        Characters that a window predicts; it has one more.
    windows : int
        The number of windows over which ``full_loss`` is the mean, always the same ones. They are tiles of the
        training text at equal distances; tile i predicts the characters i·length + 1 to (i + 1)·length, counted from
        0. By default about every 25th tile is taken. This loss has second derivatives.
    batch_size : int
        Windows in a step, each from anywhere in the training text, drawn in every step. Where torch fuses
        attention, as on a CPU, this loss has no second derivatives, except under
        ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
    seed : int
        Seed of the initial weights and of the batches.
    device, dtype
        Device and dtype of the model. Random numbers are drawn on the CPU, the same for every device.

    Raises
    ------
    InputError
        If a size is not a whole number ≥ 1, ``heads`` does not divide ``width``, the text is too short for such
        windows, ``seed`` is not a whole number ≥ 0, or the device is not there.

    Source: Radford et al. 2019, "Language models are unsupervised multitask learners" (GPT-2): the architecture, and
    the division by the root of the number of residual layers; the deviation is that of its code.

    Examples
    --------
    Without weights every character is as likely: L = log V.

    >>> from math import isclose, log
    >>> task = character_transformer(width=4, layers=1, heads=2, length=4, dtype=torch.float64)
    >>> task.set_theta(0 * task.theta)
    >>> isclose(task.loss(step=0).item(), log(task.description["vocabulary"]))
    True
    """
    check_placement(device, dtype)
    alphabet, training, held_out = corpus()
    whole_number("length", length, 1, len(held_out) - 1)
    whole_number("windows", windows, 1, _tiles(training, length))
    sizes = {"width": width, "layers": layers, "heads": heads, "length": length, "windows": windows}
    for name, size in (sizes | {"batch_size": batch_size}).items():
        whole_number(name, size, 1)
    _check_heads(heads, width)
    model = Decoder(len(alphabet), width, layers, heads, length, generator(seed)).to(device=device, dtype=dtype)
    every = _spread(training, length, windows).to(device)
    unseen = _spread(held_out, length, min(windows, _tiles(held_out, length))).to(device)

    def full_loss(model: torch.nn.Module) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernel of the CPU cannot be differentiated twice
            return _loss(model, every)

    def draw(step: int) -> tuple[Tensor]:
        starts = torch.randint(len(training) - length, (batch_size,), generator=generator(seed, step))
        return (_windows(training, starts, length).to(device),)

    def test_error(model: torch.nn.Module) -> Tensor:
        return _loss(model, unseen)

    description = {
        "task": "transformer",
        "data": "pydoc_data.topics",
        "python": platform.python_version(),
        "characters": len(training) + len(held_out),
        "vocabulary": len(alphabet),
        **sizes,
        "batch_size": batch_size,
        "loss": "cross-entropy",
        "seed": int(seed),
        "device": str(device),
        "dtype": str(dtype),
    }
    return Task("transformer", model, DrawnLoss(draw, _loss), full_loss, description, test_error)


class Decoder(torch.nn.Module):
    """Codes, shape (…, length), to scores of the next character, shape (…, length, vocabulary).

    The initial weights are float64, on the CPU, and a function of the random generator that is given.
    """

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, length: int, random: torch.Generator):
        super().__init__()
        with torch.device("meta"):  # torch's own initial weights are not drawn
            self.token, self.position = Embedding(vocabulary, width), Embedding(length, width)
            self.blocks = Sequential(*(DecoderBlock(width, heads) for _ in range(layers)))
            self.norm, self.head = LayerNorm(width), Linear(width, vocabulary)
        self.to(torch.float64).to_empty(device="cpu")
        self._draw(random)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.token(codes) + self.position.weight[: codes.shape[-1]]
        return self.head(self.norm(self.blocks(x)))

    @torch.no_grad()
    def _draw(self, random: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, LayerNorm):
                module.reset_parameters()
            if isinstance(module, Linear):
                module.bias.zero_()
            if isinstance(module, (Linear, Embedding)):
                module.weight.normal_(std=DEVIATION, generator=random)
            if isinstance(module, Residual):
                module.weight.div_((2 * len(self.blocks)) ** 0.5)


class Residual(Linear):
    """A linear layer whose output is added to the residual stream; each block has two."""


class DecoderBlock(torch.nn.Module):
    """x + attention(norm(x)) = y, then y + MLP(norm(y)); attention looks at no later position."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention = Sequential(LayerNorm(width), Linear(width, 3 * width))
        self.mixed = Residual(width, width)
        self.mlp = Sequential(LayerNorm(width), Linear(width, 4 * width), GELU(), Residual(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.attention(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mixed(seen.transpose(-3, -2).flatten(-2))
        return x + self.mlp(x)


def _check_heads(heads: int, width: int) -> None:
    if width % heads:
        divisors = ", ".join(str(number) for number in range(1, width + 1) if width % number == 0)
        raise InputError(f"heads = {heads} is not allowed: it must divide width = {width}; give one of {divisors}")


def _tiles(text: Tensor, length: int) -> int:
    """The number of windows that tile a text: they predict each character once, except the first and a rest."""
    return (len(text) - 1) // length


def _spread(text: Tensor, length: int, count: int) -> Tensor:
    """Some of the windows that tile a text, at equal distances, shape (count, length + 1)."""
    return _windows(text, torch.arange(count) * _tiles(text, length) // count * length, length)


def _windows(text: Tensor, starts: Tensor, length: int) -> Tensor:
    return text[starts[:, None] + torch.arange(length + 1)]


def _loss(model: torch.nn.Module, windows: Tensor) -> Tensor:
    return functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
