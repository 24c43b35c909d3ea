"""How gradients become a step, and how far a unit of gradient moves a weight in the end.

In what follows g is the gradient a direction is given (with L2, λθ is in it already), k the number of the step, from 1.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from swd_dynamics.arithmetic import clip, decayed, maximum, mean, sqrt
from swd_dynamics.hyperparameter import check, check_pair


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
       :func:`swd_dynamics.hyperparameter.check`.
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


class Nothing(NamedTuple):
    """The memory of a direction without memory."""


class Momentum(NamedTuple):
    m: Any


class Moments(NamedTuple):
    m: Any
    v: Any


class MaxMoments(NamedTuple):
    m: Any
    v: Any
    v_max: Any


class AdaptiveMomentum(NamedTuple):
    v: Any
    beta1_product: Any
    m: Any


@dataclass(frozen=True)
class SGD:
    """Gradient descent: step g, η_eff = η.

    Examples
    --------
    On f = ½θ², whose gradient is θ, a step of η = ½ halves θ:

    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.5, SGD())
    >>> rule(rule.start(8.0), 8.0).theta
    4.0
    """

    def rest(self, theta):
        return Nothing()

    def remember(self, memory, gradient, step):
        return memory

    def step(self, memory, gradient, step):
        return gradient

    def effective_lr(self, lr, memory, step):
        return lr


@dataclass(frozen=True)
class HeavyBall:
    """Heavy-ball momentum: m ← βm + (1−τ)g, step m, η_eff = η(1−τ)/(1−β).

    torch seeds m with the *undamped* first gradient, and so does this.

    Source: Polyak 1964; torch.optim.SGD.

    Examples
    --------
    Under a gradient that stays 1, m rises as 1, 1½, 1¾, …, towards η_eff/η = 2:

    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, HeavyBall(0.5))
    >>> rule(rule(rule.start(1.0), 1.0), 1.0)
    State(theta=0.375, memory=Momentum(m=1.5), step=2)
    >>> rule.direction.effective_lr(0.25, memory=None, step=2)
    0.5
    """

    momentum: Any
    dampening: Any = 0.0

    def __post_init__(self):
        check("momentum", self.momentum, "(0, 1)")
        check("dampening", self.dampening, "[0, 1)")

    def rest(self, theta):
        return Momentum(0 * theta)

    def remember(self, memory, gradient, step):
        if step == 1:
            return Momentum(gradient)
        return Momentum(self.momentum * memory.m + (1 - self.dampening) * gradient)

    def step(self, memory, gradient, step):
        return memory.m

    def effective_lr(self, lr, memory, step):
        return lr * (1 - self.dampening) / (1 - self.momentum)


@dataclass(frozen=True)
class Nesterov:
    """Nesterov momentum as torch writes it: m ← βm + g, step g + βm, η_eff = η/(1−β).

    Source: Sutskever et al. 2013; torch.optim.SGD(nesterov=True), which allows no dampening.

    Examples
    --------
    Under a gradient that stays 1, the steps are η·1½, η·1¾, …, towards η_eff = 2η:

    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Nesterov(0.5))
    >>> rule(rule(rule.start(1.0), 1.0), 1.0)
    State(theta=0.1875, memory=Momentum(m=1.5), step=2)
    """

    momentum: Any

    def __post_init__(self):
        check("momentum", self.momentum, "(0, 1)")

    def rest(self, theta):
        return Momentum(0 * theta)

    def remember(self, memory, gradient, step):
        return Momentum(self.momentum * memory.m + gradient)

    def step(self, memory, gradient, step):
        return gradient + self.momentum * memory.m

    def effective_lr(self, lr, memory, step):
        return lr / (1 - self.momentum)


@dataclass(frozen=True)
class Adam:
    """Adam: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², step m̂/(√v̂ + ε), η_eff = η/√v̄.

    m̂ = m/(1−β₁ᵏ), v̂ = v/(1−β₂ᵏ); v̄ is the mean of v̂ over all weights. ε stands outside the root, as in the paper and
    in torch, and is no part of η_eff.

    Source: Kingma & Ba 2015, 1412.6980; η_eff: Xie, Sato & Sugiyama 2020, 2011.11152.

    Examples
    --------
    The first step is η·sign(g), whatever the size of g; η_eff = η/|g|:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Adam(betas=(0.5, 0.75), eps=0.0))
    >>> state = rule(rule.start(np.ones(2)), np.array([4.0, -4.0]))
    >>> state.theta.tolist(), float(rule.direction.effective_lr(0.25, state.memory, state.step))
    ([0.75, 1.25], 0.0625)
    """

    betas: tuple[Any, Any] = (0.9, 0.999)
    eps: Any = 1e-8

    def __post_init__(self):
        check_pair("betas", self.betas, ("[0, 1)", "[0, 1)"))
        check("eps", self.eps, "[0, inf)")

    def rest(self, theta):
        return Moments(0 * theta, 0 * theta)

    def remember(self, memory, gradient, step):
        beta1, beta2 = self.betas
        return Moments(
            m=beta1 * memory.m + (1 - beta1) * gradient,
            v=beta2 * memory.v + (1 - beta2) * gradient * gradient,
        )

    def step(self, memory, gradient, step):
        beta1, beta2 = self.betas
        return memory.m / (1 - decayed(beta1, step)) / (sqrt(memory.v / (1 - decayed(beta2, step))) + self.eps)

    def effective_lr(self, lr, memory, step):
        return lr / sqrt(mean(memory.v / (1 - decayed(self.betas[1], step))))


@dataclass(frozen=True)
class AMSGrad:
    """AMSGrad: Adam with v̂ replaced by the largest v so far, divided by 1−β₂ᵏ; η_eff = η/√(mean of that).

    The maximum is taken before the bias correction, as torch and the authors of stable decay do.

    Source: Reddi, Kale & Kumar 2018, 1904.09237; torch.optim.Adam(amsgrad=True).

    Examples
    --------
    After a gradient of 4 and one of 0, v has fallen and its largest value has not:

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, AMSGrad(betas=(0.5, 0.75)))
    >>> rule(rule(rule.start(np.ones(1)), np.array([4.0])), np.array([0.0])).memory
    MaxMoments(m=array([1.]), v=array([3.]), v_max=array([4.]))
    """

    betas: tuple[Any, Any] = (0.9, 0.999)
    eps: Any = 1e-8

    def __post_init__(self):
        check_pair("betas", self.betas, ("[0, 1)", "[0, 1)"))
        check("eps", self.eps, "[0, inf)")

    def rest(self, theta):
        return MaxMoments(0 * theta, 0 * theta, 0 * theta)

    def remember(self, memory, gradient, step):
        beta1, beta2 = self.betas
        v = beta2 * memory.v + (1 - beta2) * gradient * gradient
        return MaxMoments(beta1 * memory.m + (1 - beta1) * gradient, v, maximum(memory.v_max, v))

    def step(self, memory, gradient, step):
        beta1, beta2 = self.betas
        return memory.m / (1 - decayed(beta1, step)) / (sqrt(memory.v_max / (1 - decayed(beta2, step))) + self.eps)

    def effective_lr(self, lr, memory, step):
        return lr / sqrt(mean(memory.v_max / (1 - decayed(self.betas[1], step))))


@dataclass(frozen=True)
class Adai:
    """Adaptive inertia: the momentum of each weight adapts, the learning rate does not; η_eff = η.

    v ← β₂v + (1−β₂)g², β₁ = clip(1 − β₀ v̂/v̄, 0, 1−ε), m ← β₁m + (1−β₁)g, step m/(1 − Πβ₁).
    ``betas`` is (β₀, β₂).

    Source: Xie et al. 2022, 2006.15815.

    Examples
    --------
    The weight with the larger gradients has the smaller β₁: of 0 and 4, v̂/v̄ = 0 and 2, and β₁ = 1 − ε and 1 − 2β₀.

    >>> import numpy as np
    >>> from swd_dynamics.rules import UpdateRule
    >>> rule = UpdateRule(0.25, Adai(betas=(0.25, 0.75), eps=0.125))
    >>> rule(rule.start(np.ones(2)), np.array([0.0, 4.0])).memory.beta1_product.tolist()
    [0.875, 0.5]
    """

    betas: tuple[Any, Any] = (0.1, 0.99)
    eps: Any = 1e-3

    def __post_init__(self):
        check_pair("betas", self.betas, ("(0, inf)", "[0, 1)"))
        check("eps", self.eps, "(0, 1)")

    def rest(self, theta):
        return AdaptiveMomentum(v=0 * theta, beta1_product=0 * theta + 1, m=0 * theta)

    def remember(self, memory, gradient, step):
        beta0, beta2 = self.betas
        v = beta2 * memory.v + (1 - beta2) * gradient * gradient
        v_hat = v / (1 - decayed(beta2, step))
        beta1 = clip(1 - beta0 * v_hat / mean(v_hat), 0, 1 - self.eps)
        return AdaptiveMomentum(v, memory.beta1_product * beta1, beta1 * memory.m + (1 - beta1) * gradient)

    def step(self, memory, gradient, step):
        return memory.m / (1 - memory.beta1_product)

    def effective_lr(self, lr, memory, step):
        return lr
