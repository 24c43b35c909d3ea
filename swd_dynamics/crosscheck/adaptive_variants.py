"""Variants of the adaptive directions: lines that real optimizers are known to write in another way.

With nothing changed each variant is the direction that it is made of.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import numpy as np

from swd_dynamics.arithmetic import absolute, decayed, maximum, sqrt
from swd_dynamics.rules.directions import AdaBelief, Adagrad, Adamax, NAdam, RAdam, RMSprop

OUTSIDE, INSIDE, BEFORE, IN_STEP, NONE = "outside", "inside", "before", "in step", "none"


def root_with_eps(v: Any, bias: Any, eps: Any, eps_at: str) -> Any:
    """√v̂ with ε, where v̂ = v/bias: √v̂ + ε, √(v̂ + ε), (√v + ε)/√bias, or without ε.

    Examples
    --------
    >>> [float(root_with_eps(3.0, 0.75, 5.0, at)) for at in ("outside", "inside", "none")]
    [7.0, 3.0, 2.0]
    """
    v_hat = v / bias
    roots = {OUTSIDE: lambda: sqrt(v_hat) + eps, INSIDE: lambda: sqrt(v_hat + eps),
             BEFORE: lambda: (sqrt(v) + eps) / sqrt(bias), NONE: lambda: sqrt(v_hat)}  # fmt: skip
    return roots[eps_at]()


@dataclass(frozen=True)
class RMSpropVariant(RMSprop):
    """RMSprop, where ε may stand elsewhere and v may start at another number than 0, as TensorFlow's does at 1."""

    places: ClassVar = (INSIDE, NONE)
    eps_at: str = OUTSIDE
    first_v: float = 0.0

    def rest(self, theta):
        memory = super().rest(theta)
        return memory._replace(v=memory.v + self.first_v)

    def divisor(self, memory, step):
        return root_with_eps(self.second_moment(memory), 1.0, self.eps, self.eps_at)


@dataclass(frozen=True)
class AdagradVariant(Adagrad):
    """Adagrad, where ε may stand elsewhere."""

    places: ClassVar = (INSIDE, NONE)
    eps_at: str = OUTSIDE

    def divisor(self, memory, step):
        return root_with_eps(memory.v, 1.0, self.eps, self.eps_at)


@dataclass(frozen=True)
class AdamaxVariant(Adamax):
    """Adamax, where ε may be added to u in the move, or nowhere."""

    places: ClassVar = (IN_STEP, NONE)
    eps_at: str = OUTSIDE

    def remember(self, memory, step):
        new = super().remember(memory, step)
        if self.eps_at == OUTSIDE:
            return new
        return new._replace(u=maximum(absolute(step.gradient), self.betas[1] * memory.u))

    def move(self, memory, step):
        return super().move(memory._replace(u=memory.u + self.eps) if self.eps_at == IN_STEP else memory, step)


@dataclass(frozen=True)
class NAdamVariant(NAdam):
    """NAdam, where ε may stand elsewhere, the momentum may have no schedule, and Π may be kept in float32."""

    places: ClassVar = (INSIDE, BEFORE, NONE)
    eps_at: str = OUTSIDE
    scheduled: bool = True
    product_in_float32: bool = False

    def mu(self, k):
        return super().mu(k) if self.scheduled else self.betas[0]

    def remember(self, memory, step):
        new = super().remember(memory, step)
        if not self.product_in_float32:
            return new
        product = np.float32(memory.mu_product) * np.float32(self.mu(step.k))
        return new._replace(mu_product=product.astype(float))

    def divisor(self, memory, step):
        return root_with_eps(memory.v, 1 - decayed(self.betas[1], step.k), self.eps, self.eps_at)


@dataclass(frozen=True)
class RAdamVariant(RAdam):
    """RAdam, where ε may stand elsewhere, and v may be used from another number of effective terms on."""

    places: ClassVar = (OUTSIDE, INSIDE, NONE)
    eps_at: str = BEFORE
    few: float = RAdam.few  # pyright: ignore[reportIncompatibleVariableOverride] - a number of this variant

    def divisor(self, memory, step):
        return root_with_eps(memory.v, 1 - decayed(self.betas[1], step.k), self.eps, self.eps_at)


@dataclass(frozen=True)
class AdaBeliefVariant(AdaBelief):
    """AdaBelief, where ε may not be added to s, and the other ε may stand elsewhere."""

    places: ClassVar = (INSIDE, BEFORE, NONE)
    eps_at: str = OUTSIDE
    eps_in_s: bool = True

    def remember(self, memory, step):
        new, beta2 = super().remember(memory, step), self.betas[1]
        if self.eps_in_s:
            return new
        return new._replace(s=beta2 * memory.s + (1 - beta2) * (step.gradient - new.m) * (step.gradient - new.m))

    def divisor(self, memory, step):
        return root_with_eps(memory.s, 1 - decayed(self.betas[1], step.k), self.eps, self.eps_at)


VARIANTS: dict[type, Any] = {
    RMSprop: RMSpropVariant,
    Adagrad: AdagradVariant,
    Adamax: AdamaxVariant,
    NAdam: NAdamVariant,
    RAdam: RAdamVariant,
    AdaBelief: AdaBeliefVariant,
}


def adaptive_variant(direction: Any) -> Any:
    """The direction as a variant with nothing changed; None if it has no variant here.

    Examples
    --------
    >>> adaptive_variant(RMSprop(alpha=0.5)).first_v, adaptive_variant("SGD")
    (0.0, None)
    """
    if type(direction) in VARIANTS.values():
        return direction
    kind = VARIANTS.get(type(direction))
    own = {field.name: getattr(direction, field.name) for field in fields(cast(Any, direction))} if kind else {}
    return kind and kind(**own)
