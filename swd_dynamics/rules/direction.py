"""How gradients become a step, and how far a unit of gradient moves a weight in the end.

In what follows g is the gradient a direction is given (with L2, λθ is in it already), k the number of the step, from 1.
"""

from typing import Any, Protocol


class Direction(Protocol):
    """The contract of a direction. Any object with these four methods is one; a new one need not inherit anything.

    1. ``rest(theta)`` returns the memory before the first gradient: a NamedTuple whose entries are shaped like θ
       (``0 * theta`` is a zero for floats, arrays, tensors and symbols alike).
    2. ``remember(memory, gradient, step)`` returns the memory after this gradient, a tuple of the same type.
    3. ``step(memory, gradient, step)`` returns what is multiplied by −η and added to the weights; ``memory`` is the
       *new* one.
    4. ``effective_lr(lr, memory, step)`` returns η_eff, one number for all weights: how far a unit of gradient moves a
       weight in the end, the preconditioner held and the momentum summed out.
    5. All four use ``+ - * /`` and the words of :mod:`swd_dynamics.arithmetic` (``sqrt``, ``mean``, ``maximum``,
       ``clip``, ``decayed``) and nothing else. Bias correction goes through ``decayed(beta, step)``, averages over
       weights through ``mean``, so that sympy can read them. One exception: ``if step == 1`` may treat the first step
       apart, as torch seeds its momentum; a derivation is made at a later one.
    6. Hyperparameters are fields of a frozen dataclass: floats and tuples of floats become letters in a derivation,
       anything else (an int, a bool) is taken as structure. ``__post_init__`` may refuse what is out of range with
       :func:`swd_dynamics.checks.check`.
    7. Memory entries build one on another: none feeds on a later one's *new* value in a circle.

    Examples
    --------
    Normalised gradient descent, whose step is g/√ḡ² with ḡ² the mean of g² over all weights:

    >>> from dataclasses import dataclass
    >>> from typing import Any, NamedTuple
    >>> from swd_dynamics.arithmetic import mean, sqrt
    >>> class Squares(NamedTuple):
    ...     v: Any
    >>> @dataclass(frozen=True)
    ... class Normalised:
    ...     def rest(self, theta):
    ...         return Squares(0 * theta)
    ...
    ...     def remember(self, memory, gradient, step):
    ...         return Squares(gradient * gradient)
    ...
    ...     def step(self, memory, gradient, step):
    ...         return gradient / sqrt(mean(memory.v))
    ...
    ...     def effective_lr(self, lr, memory, step):
    ...         return lr / sqrt(mean(memory.v))
    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Normalised())
    >>> rule(rule.start(np.ones(2)), np.array([8.0, -8.0])).theta.tolist()
    [0.75, 1.25]
    """

    def rest(self, theta) -> Any: ...

    def remember(self, memory, gradient, step) -> Any: ...

    def step(self, memory, gradient, step) -> Any: ...

    def effective_lr(self, lr, memory, step) -> Any: ...
