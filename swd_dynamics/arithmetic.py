"""All that a rule may use besides ``+ - * /``: the same five words for floats, numpy, torch and sympy.

torch tensors answer by their own methods, numbers and arrays by numpy. A sympy expression answers with an algebraic
root, or with an *opaque* function of the word's name, to which :mod:`swd_dynamics.symbolic` gives its laws. Neither
torch nor sympy is imported here: an argument of theirs can only exist where they have been imported already.
"""

import sys

import numpy as np

OPAQUE = ("mean", "maximum", "clip", "decayed")  # the words that sympy meets as functions without a body


def is_symbolic(*values) -> bool:
    """Whether any of the values is a sympy expression."""
    sympy = sys.modules.get("sympy")
    return sympy is not None and any(isinstance(value, sympy.Basic) for value in values)


def _opaque(word: str, *arguments):
    return sys.modules["sympy"].Function(word)(*arguments)


def _is_tensor(value) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def sqrt(x):
    """√x, elementwise."""
    if is_symbolic(x):
        return sys.modules["sympy"].sqrt(x)
    return x.sqrt() if _is_tensor(x) else np.sqrt(x)


def mean(x):
    """The mean over all weights; a single number is its own mean."""
    if is_symbolic(x):
        return _opaque("mean", x)
    return x.mean() if _is_tensor(x) else np.mean(x)


def maximum(held, new):
    """The larger of two, elementwise; ``held`` is the one that is remembered when it wins."""
    if is_symbolic(held, new):
        return _opaque("maximum", held, new)
    return held.maximum(new) if _is_tensor(held) else np.maximum(held, new)


def clip(x, low, high):
    """x, no smaller than ``low`` and no larger than ``high``, elementwise."""
    if is_symbolic(x, low, high):
        return _opaque("clip", x, low, high)
    return x.clip(low, high) if _is_tensor(x) else np.clip(x, low, high)


def decayed(beta, step):
    """βᵏ, what is left after k steps of something that decays by β a step; to sympy, a function whose limit is 0."""
    return _opaque("decayed", beta, step) if is_symbolic(step) else beta**step
