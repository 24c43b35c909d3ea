"""Near rules: a rule with one line changed, as optimizers in the wild are found to differ from their paper."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np

from swd_dynamics.arithmetic import mean
from swd_dynamics.rules.decay import DECAYS, Decay, NoDecay
from swd_dynamics.rules.directions import Adam, AMSGrad, HeavyBall, Nesterov
from swd_dynamics.rules.update import State, UpdateRule
from swd_dynamics.tables import Table
from swd_dynamics.verification.variants import AdamDialect, MomentumDialect

JOINS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "as it is": lambda theta, rate, step: (1 - rate) * theta - step,
    "after": lambda theta, rate, step: (1 - rate) * (theta - step),
    "constant": lambda theta, rate, step: theta - rate - step,
}


@dataclass(frozen=True)
class Variant:
    """A rule over the weights of a recording, and what about its step is not an :class:`UpdateRule`'s.

    rule : UpdateRule
    tensor, group : array of int, shape (n,) — whose each weight is
    join : str — how decay rate and step become the new weights, one of ``JOINS``
    sign : float — what the gradient is multiplied by
    lr_in_momentum : bool — whether m sums ηg, so that a new η does not reach what it holds
    rates : tuple of callable — what becomes of R, given R and η
    """

    rule: UpdateRule
    tensor: np.ndarray
    group: np.ndarray
    join: str = "as it is"
    sign: float = 1.0
    lr_in_momentum: bool = False
    rates: tuple[Callable[[Any, Any], Any], ...] = ()

    def start(self, theta) -> State:
        """The state before the first step."""
        return self.rule.start(theta)

    def __call__(self, state: State, gradient) -> State:
        """The state one step later."""
        if self.lr_in_momentum and state.step > 0:
            slower = self.rule.lr_at(state.step - 1) / self.rule.lr_at(state.step)
            state = state._replace(memory=state.memory._replace(m=state.memory.m * slower))
        parts, lr = self.rule.parts(state, self.sign * gradient), self.rule.lr_at(state.step)
        rate = parts.decay_rate
        for change in self.rates:
            rate = change(rate, lr)
        theta = JOINS[self.join](state.theta, rate, lr * parts.move)
        return parts.state._replace(theta=theta)

    def with_direction(self, direction) -> "Variant":
        """The same with another direction."""
        return replace(self, rule=replace(self.rule, direction=direction))

    def with_decay(self, decay: Decay) -> "Variant":
        """The same with another decay."""
        return replace(self, rule=replace(self.rule, decay=decay))


class Near(NamedTuple):
    """What is said of a near rule, the line of the step that it changes, and the change; None where it has no place."""

    cause: str
    line: str
    change: Callable[[Variant], Variant | None]


def _rate(variant: Variant) -> Any:
    return getattr(variant.rule.decay, "weight_decay", None)


def _is_stable(variant: Variant) -> bool:
    return isinstance(variant.rule.decay, DECAYS["stable"])


def _decays_as(name: str) -> Callable[[Variant], Variant | None]:
    kind: Any = DECAYS[name]

    def change(variant: Variant) -> Variant | None:
        if _rate(variant) is None or isinstance(variant.rule.decay, kind):
            return None
        return variant.with_decay(kind() if kind is NoDecay else kind(_rate(variant)))

    return change


def _with_rate(change: Callable[[Any, Any], Any], stable_only: bool = False) -> Callable[[Variant], Variant | None]:
    def changed(variant: Variant) -> Variant | None:
        decays = _is_stable(variant) or (isinstance(variant.rule.decay, DECAYS["decoupled"]) and not stable_only)
        return replace(variant, rates=(*variant.rates, change)) if decays else None

    return changed


def _decay_of_first_group(variant: Variant) -> Variant | None:
    rate = _rate(variant)
    if np.ndim(rate) == 0:
        return None
    return variant.with_decay(replace(cast(Any, variant.rule.decay), weight_decay=np.full_like(rate, rate[0])))


def _undampened_decay(variant: Variant) -> Variant | None:
    dampening = getattr(variant.rule.direction, "dampening", 0.0)
    return _with_rate(lambda rate, lr: rate / (1 - dampening), stable_only=True)(variant) if dampening else None


def _first_lr(variant: Variant) -> Variant:
    return replace(variant, rule=replace(variant.rule, lr=variant.rule.lr_at(0)))


def _momentum(change: Callable[[MomentumDialect], MomentumDialect | None]) -> Callable[[Variant], Variant | None]:
    def changed(variant: Variant) -> Variant | None:
        direction = variant.rule.direction
        if isinstance(direction, HeavyBall | Nesterov):
            direction = MomentumDialect.of(direction)
        new = change(direction) if isinstance(direction, MomentumDialect) else None
        return new and variant.with_direction(new)

    return changed


def _adam(stable_only: bool = False, **changed) -> Callable[[Variant], Variant | None]:
    def change(variant: Variant) -> Variant | None:
        direction = variant.rule.direction
        if isinstance(direction, Adam | AMSGrad):
            direction = AdamDialect.of(direction)
        if not isinstance(direction, AdamDialect) or (stable_only and not _is_stable(variant)):
            return None
        new = {name: value(variant) if name == "average" else value for name, value in changed.items()}
        return variant.with_direction(replace(direction, **new))

    return change


def _mean_within(labels: str) -> Callable[[Variant], Callable]:
    """A mean over each tensor or each group, given to each of its weights."""

    def average(variant: Variant) -> Callable:
        index = getattr(variant, labels)
        return lambda v: (np.bincount(index, v) / np.bincount(index))[index]

    return average


def _mean_of_means(variant: Variant) -> Callable:
    index = variant.tensor
    return lambda v: mean(np.bincount(index, v) / np.bincount(index))


NEAR_RULES = Table(
    "near rule",
    **{
        "L2": Near("weight decay joins the gradient (L2)", "decay", _decays_as("L2")),
        "decoupled": Near("weight decay is decoupled: it takes off ηλ", "decay", _decays_as("decoupled")),
        "stable": Near("weight decay is stable: it takes off λ times the effective η", "decay", _decays_as("stable")),
        "no-decay": Near("there is no weight decay", "decay", _decays_as("none")),
        "decay-without-lr": Near("weight decay is not multiplied by η", "rate", _with_rate(lambda rate, lr: rate / lr)),
        "decay-undampened": Near("the decay's effective η leaves the dampening out", "rate", _undampened_decay),
        "decay-up-to-2": Near(
            "a decay rate above 2 is not taken", "limit",
            _with_rate(lambda rate, lr: np.where(rate > 2, 0.0, rate), stable_only=True),
        ),
        "decay-of-first-group": Near("every group decays with the λ of the first", "λ", _decay_of_first_group),
        "decay-after": Near(
            "weight decay comes after the step: it is taken off the new weights", "join",
            lambda variant: replace(variant, join="after"),
        ),
        "decay-constant": Near(
            "weight decay is not multiplied by the weights: it takes the same off each", "join",
            lambda variant: replace(variant, join="constant"),
        ),
        "ascent": Near("the gradient has the other sign", "sign", lambda variant: replace(variant, sign=-1.0)),
        "first-lr": Near("the learning rate stays what it was in the first step", "lr", _first_lr),
        "lr-in-momentum": Near(
            "η is inside the momentum buffer, so that a new η does not reach what it holds", "lr in m",
            lambda variant: _momentum(lambda m: m)(variant) and replace(variant, lr_in_momentum=True),
        ),
        "momentum-average": Near(
            "the momentum is a running mean from 0: gradients enter with weight 1 − β, the first one too", "m",
            _momentum(lambda m: replace(m, gain=1 - m.momentum, first=1 - m.momentum)),
        ),
        "momentum-average-seeded": Near(
            "the momentum is a running mean: gradients enter with weight 1 − β, only the first one undiminished", "m",
            _momentum(lambda m: replace(m, gain=1 - m.momentum)),
        ),
        "first-gradient-dampened": Near(
            "the first gradient is dampened as well", "m",
            _momentum(lambda m: None if m.gain == 1 else replace(m, first=m.gain)),
        ),
        "no-dampening": Near(
            "dampening does nothing", "m", _momentum(lambda m: None if m.gain == 1 else replace(m, gain=1.0))
        ),
        "nesterov": Near(
            "the step looks ahead (Nesterov)", "ahead",
            _momentum(lambda m: None if m.nesterov else replace(m, nesterov=True)),
        ),
        "heavy-ball": Near(
            "the step does not look ahead (heavy ball)", "ahead",
            _momentum(lambda m: replace(m, nesterov=False) if m.nesterov else None),
        ),
        "no-momentum": Near(
            "there is no momentum", "m", _momentum(lambda m: replace(m, momentum=0.0, gain=1.0))
        ),
        "eps-inside": Near("ε is inside the square root", "ε", _adam(eps_at="inside")),
        "eps-before-correction": Near("ε is added before v is bias-corrected", "ε", _adam(eps_at="before")),
        "no-eps": Near("there is no ε", "ε", _adam(eps_at="none")),
        "no-correction": Near("the bias correction of both moments is missing", "correction", _adam(corrects="")),
        "no-correction-of-m": Near("the bias correction of m is missing", "correction", _adam(corrects="v")),
        "no-correction-of-v": Near("the bias correction of v is missing", "correction", _adam(corrects="m")),
        "corrected-in-place": Near(
            "the bias corrections of both moments are written back into the state (modified in place)", "stored",
            _adam(stored="mv"),
        ),
        "m-corrected-in-place": Near(
            "the bias correction of m is written back into the state (modified in place)", "stored", _adam(stored="m")
        ),
        "v-corrected-in-place": Near(
            "the bias correction of v is written back into the state (modified in place)", "stored", _adam(stored="v")
        ),
        "amsgrad": Near("a maximum of v is kept (AMSGrad)", "maximum", _adam(amsgrad="before")),
        "amsgrad-corrected": Near(
            "the maximum is taken of the bias-corrected v", "maximum", _adam(amsgrad="after")
        ),
        "no-amsgrad": Near("no maximum of v is kept", "maximum", _adam(amsgrad="no")),
        "eps-on-mean-root": Near("ε is added to √v̄", "mean ε", _adam(True, mean_eps_at="outside")),
        "eps-in-mean-root": Near("ε is added to v̄, inside its root", "mean ε", _adam(True, mean_eps_at="inside")),
        "mean-uncorrected": Near("v̄ is without bias correction", "mean", _adam(True, mean_corrected=False)),
        "mean-of-tensor": Near(
            "v̄ is a mean over each tensor, not over all weights", "average", _adam(True, average=_mean_within("tensor"))
        ),
        "mean-of-group": Near(
            "v̄ is a mean over each group, not over all weights", "average", _adam(True, average=_mean_within("group"))
        ),
        "mean-of-means": Near(
            "v̄ is a mean of the tensors' means, not of all weights", "average", _adam(True, average=_mean_of_means)
        ),
    },
)  # fmt: skip
