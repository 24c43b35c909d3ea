"""The words of a rule: one meaning for floats, numpy, torch, sympy, and for weights in several tensors."""

import math

import numpy as np
import pytest
import sympy
import torch
from tolerances import ROUND_OFF

from swd_dynamics.arithmetic import (
    Tensors,
    absolute,
    clip,
    decayed,
    each,
    matmul,
    maximum,
    mean,
    norm,
    rounded,
    sign,
    sqrt,
    transpose,
    where,
)
from swd_dynamics.errors import InputError
from swd_dynamics.symbolic.notation import with_laws

VALUES = (-2.5, 0.0, 0.75)
X = sympy.Symbol("x", real=True)
# Each word of one weight, and its plain meaning for one number.
WORDS = {
    "sqrt": (lambda x: sqrt(x * x), abs),
    "absolute": (absolute, abs),
    "where": (lambda x: where(x > -1, x, 2 * x), lambda x: x if x > -1 else 2 * x),
    "sign": (sign, lambda x: float(x > 0) - float(x < 0)),
    "maximum": (lambda x: maximum(x, 0.5 * x), lambda x: max(x, 0.5 * x)),
    "clip": (lambda x: clip(x, -1.0, 0.5), lambda x: min(max(x, -1.0), 0.5)),
    "mean": (mean, lambda x: x),
    "norm": (norm, abs),
    "matmul": (lambda x: matmul(x, x + 1), lambda x: x * (x + 1)),
    "transpose": (transpose, lambda x: x),
    "decayed": (lambda x: decayed(x, 3), lambda x: x**3),
}
ONE_WEIGHT = {
    "mean": lambda x: x,
    "norm": abs,
    "maximum": max,
    "clip": lambda x, low, high: min(max(x, low), high),
    "matmul": lambda a, b: a * b,
    "transpose": lambda x: x,
    "sign": lambda x: float(sympy.sign(x)),
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_one_weight(word, value):
    """Assert that a word means the same for a float, for one weight in numpy and torch, and for a symbol."""
    apply, plain = WORDS[word]
    by_sympy = sympy.lambdify(X, with_laws(apply(X)), [ONE_WEIGHT, "math"])(value)
    shape = (1, 1) if word in ("matmul", "transpose") else (1,)
    by_numpy = np.ravel(apply(np.full(shape, value)))
    by_torch = np.ravel(apply(torch.full(shape, value, dtype=torch.float64)))
    assert [apply(value), *by_numpy, *by_torch, by_sympy] == pytest.approx([plain(value)] * 4, abs=ROUND_OFF)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_rounding_is_torchs(dtype):
    """Assert that numbers of every size, ties, zeros, infinities and NaN are rounded as torch rounds them."""
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=20_000) * 10.0 ** generator.integers(-45, 40, 20_000)
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-24, 1 + 3 * 2**-24])
    given = np.concatenate([numbers, ties, -ties, [0.0, np.inf, -np.inf, np.nan, 1e300]])
    expected = torch.from_numpy(given).to(getattr(torch, dtype)).double().numpy()
    np.testing.assert_array_equal(rounded(given, dtype), expected)
    np.testing.assert_array_equal(rounded(torch.from_numpy(given), dtype).numpy(), expected)
    assert rounded(X, dtype) == X and isinstance(rounded(0.1, dtype), float)


@pytest.mark.parametrize("kind", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_words_of_matrices(kind):
    """Assert that product, transpose and norm of a matrix are those worked out by hand, also for a stack of two."""
    matrix = kind([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]])
    assert matmul(transpose(matrix), matrix).tolist() == [[5.0, 10.0], [10.0, 20.0]]
    assert float(norm(matrix)) == 5.0
    assert tuple(transpose(kind([[[1.0, 2.0]], [[3.0, 4.0]]])).shape) == (2, 2, 1)


def test_sign_of_zero():
    """Assert that sign(0) is 0 in all four arithmetics."""
    signs = sign(0.0), sign(np.zeros(1))[0], sign(torch.zeros(1))[0], sign(sympy.Integer(0))
    assert [float(number) for number in signs] == [0.0] * 4


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_words_of_several_tensors(kind):
    """Assert that a word of several tensors is the word of the flat vector, cut up again."""
    flat = np.array([1.0, -2.0, 0.0, 4.0, 0.5])
    tensors = Tensors([kind(flat[:4].reshape(2, 2)), kind(flat[4:])])

    def joined(found):
        return np.concatenate([np.ravel(tensor) for tensor in found])

    for word in (sign, absolute, lambda x: sqrt(x * x), lambda x: clip(x, -1.0, high=1.0), lambda x: maximum(x, -x)):
        assert np.array_equal(joined(word(tensors)), word(flat))
    assert float(mean(tensors)) == pytest.approx(flat.mean(), abs=ROUND_OFF)
    assert float(norm(tensors)) == pytest.approx(math.sqrt(21.25), abs=ROUND_OFF)
    assert [float(number) for number in each(mean, tensors)] == [0.75, 0.5]


def test_operators_of_several_tensors():
    """Assert that + - * / of several tensors act on every tensor, with a number on either side, numpy's too."""
    one, two = np.array([[2.0, 4.0]]), np.array([8.0])
    for number in (2.0, np.float64(2.0), np.array(2.0)):
        x = Tensors([one, two])
        for found, expected in [
            (x + number, lambda v: v + 2), (number + x, lambda v: v + 2), (x - number, lambda v: v - 2),
            (number - x, lambda v: 2 - v), (x * number, lambda v: 2 * v), (number * x, lambda v: 2 * v),
            (x / number, lambda v: v / 2), (number / x, lambda v: 2 / v), (-x, lambda v: -v), (x - x, lambda v: 0 * v),
        ]:  # fmt: skip
            assert [tensor.tolist() for tensor in found] == [expected(one).tolist(), expected(two).tolist()]


def test_numbers_of_tensors_that_differ():
    """Assert that two and three tensors are not added."""
    with pytest.raises(InputError, match="2 and 3 tensors"):
        Tensors([1.0, 2.0]) + Tensors([1.0, 2.0, 3.0])
