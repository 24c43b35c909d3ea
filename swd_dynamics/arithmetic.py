"""The words that a rule may use besides ``+ - * /``, the same for floats, numpy, torch and sympy.

``sqrt``, ``sign``, ``absolute``, ``heaviside``, ``maximum``, ``clip``, ``where`` and ``rounded`` act on every weight,
``matmul`` and ``transpose`` on matrices; ``mean`` and ``norm`` are over all weights; ``decayed`` is for bias
corrections, ``each`` for weights in several tensors.

torch tensors answer with their own methods, numbers and arrays with numpy. A sympy expression answers with a function
of sympy (√, sign, |·|, cases), or with an *opaque* function of the word's name, to which
:mod:`swd_dynamics.symbolic` gives laws.
Neither torch nor sympy is imported here, because an argument of theirs exists only where they are imported already.
"""

import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial, wraps

import numpy as np

from swd_dynamics.errors import InputError

# The words that are functions without a body to sympy.
OPAQUE = ("mean", "maximum", "clip", "decayed", "matmul", "transpose", "norm")


class Tensors:
    """Weights in several tensors, each with a shape of its own: ``+ - * /`` act on every tensor.

    The other operand is a number for all tensors, or one number or tensor for each.

    Examples
    --------
    >>> matrix, vector = Tensors([np.ones((2, 2)), np.ones(3)]) * Tensors([0.5, 2.0])
    >>> matrix.tolist(), vector.tolist()
    ([[0.5, 0.5], [0.5, 0.5]], [2.0, 2.0, 2.0])
    """

    __array_ufunc__ = None  # a numpy number on the left leaves the arithmetic to this class

    def __init__(self, tensors: Iterable):
        self.tensors = tuple(tensors)

    def __iter__(self) -> Iterator:
        return iter(self.tensors)

    def __repr__(self) -> str:
        return f"Tensors({list(self.tensors)!r})"

    def __add__(self, other):
        return each(operator.add, self, other)

    def __radd__(self, other):
        return each(operator.add, other, self)

    def __sub__(self, other):
        return each(operator.sub, self, other)

    def __rsub__(self, other):
        return each(operator.sub, other, self)

    def __mul__(self, other):
        return each(operator.mul, self, other)

    def __rmul__(self, other):
        return each(operator.mul, other, self)

    def __truediv__(self, other):
        return each(operator.truediv, self, other)

    def __rtruediv__(self, other):
        return each(operator.truediv, other, self)

    def __neg__(self):
        return each(operator.neg, self)


def each(function: Callable, *values, **options):
    """A function applied tensor by tensor, or once where no value is of several tensors.

    A value that is a number or an array goes to every call, and so do the options.

    Raises
    ------
    InputError
        If the values have different numbers of tensors.

    Examples
    --------
    The mean of each tensor, where :func:`mean` is one number for all of them:

    >>> weights = Tensors([np.array([1.0, 3.0]), np.array([8.0])])
    >>> [float(number) for number in each(mean, weights)], float(mean(weights))
    ([2.0, 8.0], 4.0)
    """
    counts = {len(value.tensors) for value in values if isinstance(value, Tensors)}
    if not counts:
        return function(*values, **options)
    if len(counts) > 1:
        raise InputError(f"values of {' and '.join(map(str, sorted(counts)))} tensors do not fit: give as many")
    (count,) = counts
    columns = [value if isinstance(value, Tensors) else [value] * count for value in values]
    return Tensors(function(*row, **options) for row in zip(*columns, strict=True))


def is_symbolic(*values) -> bool:
    """Whether any of the values is a sympy expression."""
    sympy = sys.modules.get("sympy")
    return sympy is not None and any(isinstance(value, sympy.Basic) for value in values)


def _opaque(word: str, *arguments):
    return sys.modules["sympy"].Function(word)(*arguments)


def _is_tensor(value) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _on_each_tensor(word: Callable) -> Callable:
    return wraps(word)(partial(each, word))


@_on_each_tensor
def sqrt(x):
    """√x, elementwise."""
    if is_symbolic(x):
        return sys.modules["sympy"].sqrt(x)
    return x.sqrt() if _is_tensor(x) else np.sqrt(x)


@_on_each_tensor
def sign(x):
    """−1, 0 or 1, elementwise; 0 where x is 0."""
    if is_symbolic(x):
        return sys.modules["sympy"].sign(x)
    return x.sign() if _is_tensor(x) else np.sign(x)


@_on_each_tensor
def absolute(x):
    """|x|, elementwise."""
    return abs(x)


@_on_each_tensor
def heaviside(x):
    """1 where x ≥ 0 and 0 elsewhere, elementwise.

    To sympy it is ½(1 + sign x), which is the same but where x is exactly 0.

    Examples
    --------
    >>> heaviside(np.array([-2.0, 0.0, 3.0])).tolist()
    [0.0, 1.0, 1.0]
    """
    if is_symbolic(x):
        return (1 + sign(x)) / 2
    return (x >= 0).to(x.dtype) if _is_tensor(x) else (x >= 0) * 1.0


@_on_each_tensor
def where(condition, then, otherwise):
    """``then`` where a comparison holds and ``otherwise`` elsewhere, elementwise; both are computed everywhere."""
    if is_symbolic(condition, then, otherwise):
        return sys.modules["sympy"].Piecewise((then, condition), (otherwise, True))
    if not np.ndim(condition):
        return then if condition else otherwise
    choose = sys.modules["torch"].where if _is_tensor(condition) else np.where
    return choose(condition, then, otherwise)


@_on_each_tensor
def maximum(held, new):
    """The larger of two, elementwise; ``held`` is the value that was remembered."""
    if is_symbolic(held, new):
        return _opaque("maximum", held, new)
    return held.maximum(new) if _is_tensor(held) else np.maximum(held, new)


@_on_each_tensor
def clip(x, low, high):
    """x, raised to ``low`` where it is smaller and lowered to ``high`` where it is larger, elementwise."""
    if is_symbolic(x, low, high):
        return _opaque("clip", x, low, high)
    return x.clip(low, high) if _is_tensor(x) else np.clip(x, low, high)


@_on_each_tensor
def rounded(x, dtype: str):
    """x as a number of a coarser type, "bfloat16" or "float32", to nearest and ties to even, elementwise.

    The result has the type of x. A formula knows no rounding: for a sympy expression it is the expression itself.

    Examples
    --------
    Next to 1 the numbers of bfloat16 are 2⁻⁷ apart:

    >>> rounded(np.array([1 + 0.4 * 2**-7, 1 + 0.6 * 2**-7]), "bfloat16").tolist()
    [1.0, 1.0078125]
    """
    if is_symbolic(x):
        return x
    if _is_tensor(x):
        return x.to(getattr(sys.modules["torch"], dtype)).to(x.dtype)
    with np.errstate(over="ignore"):  # beyond the largest float32 is ∞
        single = np.asarray(x, np.float32)
    if dtype == "bfloat16":  # the upper half of a float32: almost half a unit carries into it where x is rounded up
        bits = single.view(np.uint32)
        upper = (bits + (0x7FFF + (bits >> 16 & 1))) & 0xFFFF0000
        single = np.where(np.isnan(single), single, upper.astype(np.uint32).view(np.float32))
    return single.astype(np.result_type(x, float))[()]


@_on_each_tensor
def matmul(a, b):
    """The product of two matrices; a single number is a matrix of one row and one column."""
    if is_symbolic(a, b):
        return _opaque("matmul", a, b)
    return a @ b if np.ndim(a) else a * b


@_on_each_tensor
def transpose(x):
    """A matrix with rows and columns exchanged; a single number is its own transpose."""
    if is_symbolic(x):
        return _opaque("transpose", x)
    return x.swapaxes(-1, -2) if np.ndim(x) else x


def mean(x):
    """The mean over all weights, of all tensors together; a single number is its own mean."""
    if isinstance(x, Tensors):
        return sum(map(_sum, x)) / sum(tensor.numel() if _is_tensor(tensor) else np.size(tensor) for tensor in x)
    if is_symbolic(x):
        return _opaque("mean", x)
    return x.mean() if _is_tensor(x) else np.mean(x)


def norm(x):
    """√(Σx²) over all weights, of all tensors together: the Frobenius norm of a matrix, |x| of a single number."""
    if is_symbolic(x):
        return _opaque("norm", x)
    squares = x * x
    return sqrt(sum(map(_sum, squares)) if isinstance(x, Tensors) else _sum(squares))


def _sum(x):
    return x.sum() if np.ndim(x) else x


def decayed(beta, k):
    """βᵏ, what k steps leave of a quantity that one step multiplies by β; to sympy, a function whose limit is 0."""
    return _opaque("decayed", beta, k) if is_symbolic(k) else beta**k
