"""The contract of a direction, which turns gradients into moves of the weights."""

from typing import Any, NamedTuple, Protocol


class Step(NamedTuple):
    """The input of a direction for one step.

    Attributes
    ----------
    theta : θ, the weights before the step
    gradient : G, like ``theta`` — the gradient of the loss at θ; with L2 decay, λθ is added to it
    lr : η, the learning rate of this step
    k : the number of the step, from 1

    Examples
    --------
    Heavy ball's η_eff is η/(1−β) at every step:

    >>> from swd_dynamics.rules import HeavyBall
    >>> HeavyBall(0.5).effective_lr(memory=None, step=Step(theta=1.0, gradient=1.0, lr=0.25, k=2))
    0.5
    """

    theta: Any
    gradient: Any
    lr: Any
    k: Any


class Direction(Protocol):
    """The contract of a direction. Any object with these four methods is one; a new one need not inherit anything.

    1. ``rest(theta)`` returns the memory before the first gradient: a NamedTuple whose entries are shaped like θ
       (``0 * theta`` is a zero for floats, arrays, tensors and symbols alike).
    2. ``remember(memory, step)`` returns the memory after this step's gradient, a tuple of the same type. ``step`` is a
       :class:`Step`.
    3. ``move(memory, step)`` returns the vector that is multiplied by −η and added to the weights; ``memory`` is the
       *new* memory.
    4. ``effective_lr(memory, step)`` returns η_eff: how far a unit of gradient moves a weight in the end, with the
       preconditioner frozen and the momentum summed over all later steps. ``memory`` is the new memory. η_eff is one
       number for all weights, or one number for each tensor where the method has one for each.
    5. All four use only ``+ - * /`` and the functions of :mod:`swd_dynamics.arithmetic`, so that they accept floats,
       arrays, tensors and sympy symbols. Use ``decayed(beta, step.k)`` for bias correction and ``mean`` for an average
       over weights: the derivations have rules for these functions. There is one exception: ``if step.k == 1`` may
       treat the first step differently, as torch does when it starts its momentum. Derivations assume a later step.
    6. Hyperparameters are fields of a frozen dataclass: floats and tuples of floats become symbols in a derivation,
       anything else (an int, a bool) keeps its value. ``__post_init__`` may refuse values out of range with
       :func:`swd_dynamics.checks.check`.
    7. The new value of a memory entry may use the new values of other entries, but not in a circle: if the new ``b``
       uses the new ``a``, the new ``a`` must not use the new ``b``.
    8. A direction with a preconditioner may have a fifth method, ``effective_lr_by_weight(memory, step)``: η_eff of
       each weight, where ``effective_lr`` is one number for all. Preconditioned decay asks for it.
    9. θ may be several tensors, each with its own shape (:class:`swd_dynamics.arithmetic.Tensors`). A direction that
       treats every weight alike needs nothing for this. A direction that treats a tensor as a matrix applies a function
       to each tensor with ``each``. If that function looks at shapes, the direction has no derivation, and its class
       says ``by_tensor = True``: replay and verify then give θ as the tensors that the optimizer has.

    Examples
    --------
    Normalised gradient descent, which moves by g/√⟨g²⟩, where ⟨⟩ is the mean over all weights:

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
    ...     def remember(self, memory, step):
    ...         return Squares(step.gradient * step.gradient)
    ...
    ...     def move(self, memory, step):
    ...         return step.gradient / sqrt(mean(memory.v))
    ...
    ...     def effective_lr(self, memory, step):
    ...         return step.lr / sqrt(mean(memory.v))
    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Normalised())
    >>> rule(rule.start(np.ones(2)), np.array([8.0, -8.0])).theta.tolist()
    [0.75, 1.25]
    """

    def rest(self, theta) -> Any: ...

    def remember(self, memory, step: Step) -> Any: ...

    def move(self, memory, step: Step) -> Any: ...

    def effective_lr(self, memory, step: Step) -> Any: ...


def effective_lr_by_weight(direction: Any, memory: Any, step: Step) -> Any:
    """η_eff of each weight, from the direction's own method; without one, the η_eff that all weights share.

    Examples
    --------
    >>> from swd_dynamics.rules import HeavyBall
    >>> effective_lr_by_weight(HeavyBall(0.5), None, Step(theta=1.0, gradient=1.0, lr=0.25, k=2))
    0.5
    """
    return getattr(direction, "effective_lr_by_weight", direction.effective_lr)(memory, step)
