"""Near rules: a rule with one line changed, in ways in which real optimizers are known to differ from their papers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np

from swd_dynamics.arithmetic import mean
from swd_dynamics.crosscheck.adaptive_variants import adaptive_variant
from swd_dynamics.crosscheck.variants import AdamVariant, MomentumVariant
from swd_dynamics.rules.decay import DECAYS, Decay, NoDecay
from swd_dynamics.rules.directions import Adam, AMSGrad, HeavyBall, Nesterov, RMSprop
from swd_dynamics.rules.update import State, UpdateRule
from swd_dynamics.tables import Table

JOINS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "as it is": lambda theta, decay_rate, move: (1 - decay_rate) * theta - move,
    "after": lambda theta, decay_rate, move: (1 - decay_rate) * (theta - move),
    "constant": lambda theta, decay_rate, move: theta - decay_rate - move,
}


@dataclass(frozen=True)
class AlteredRule:
    """A rule over the weights of a recording, with changes of the step that an :class:`UpdateRule` cannot express.

    rule : UpdateRule
    tensor, group : array of int, shape (n,) — the tensor and the parameter group of each weight
    join : str — how R and the move become the new weights, one of ``JOINS``
    sign : float — multiplies the gradient
    lr_in_momentum : bool — whether m sums ηg, so that a change of η does not affect the gradients in m
    rate_changes : tuple of callable — each gives a new R for R and η
    dimensions : array of int, shape (n,), or None — how many dimensions the tensor of each weight has, if known
    built_with : (η, λ) or None — the arguments of the optimizer, from which groups and schedules depart, if known
    """

    rule: UpdateRule
    tensor: np.ndarray
    group: np.ndarray
    join: str = "as it is"
    sign: float = 1.0
    lr_in_momentum: bool = False
    rate_changes: tuple[Callable[[Any, Any], Any], ...] = ()
    dimensions: np.ndarray | None = None
    built_with: tuple[float, float] | None = None

    def start(self, theta) -> State:
        """The state before the first step."""
        return self.rule.start(theta)

    def __call__(self, state: State, gradient) -> State:
        """The state one step later."""
        if self.lr_in_momentum and state.step > 0:
            slower = self.rule.lr_at(state.step - 1) / self.rule.lr_at(state.step)
            state = state._replace(memory=state.memory._replace(m=state.memory.m * slower))
        parts, lr = self.rule.parts(state, self.sign * gradient), self.rule.lr_at(state.step)
        decay_rate = parts.decay_rate
        for change in self.rate_changes:
            decay_rate = change(decay_rate, lr)
        theta = JOINS[self.join](state.theta, decay_rate, lr * parts.move)
        return parts.state._replace(theta=theta)

    def with_direction(self, direction) -> "AlteredRule":
        """The same rule with another direction."""
        return replace(self, rule=replace(self.rule, direction=direction))

    def with_decay(self, decay: Decay) -> "AlteredRule":
        """The same rule with another decay."""
        return replace(self, rule=replace(self.rule, decay=decay))


class NearRule(NamedTuple):
    """A rule with one line changed.

    cause : str — the change in words
    line : str — the line of the step that it changes; two near rules of one line exclude each other
    change : callable — the change of a rule; None if the rule has no such line
    """

    cause: str
    line: str
    change: Callable[[AlteredRule], AlteredRule | None]


def _weight_decay(altered: AlteredRule) -> Any:
    return getattr(altered.rule.decay, "weight_decay", None)


def _is_stable(altered: AlteredRule) -> bool:
    return isinstance(altered.rule.decay, DECAYS["stable"])


def _decays_as(name: str) -> Callable[[AlteredRule], AlteredRule | None]:
    kind: Any = DECAYS[name]

    def change(altered: AlteredRule) -> AlteredRule | None:
        if _weight_decay(altered) is None or isinstance(altered.rule.decay, kind):
            return None
        return altered.with_decay(kind() if kind is NoDecay else kind(_weight_decay(altered)))

    return change


def _with_rate(
    change: Callable[[Any, Any], Any], stable_only: bool = False
) -> Callable[[AlteredRule], AlteredRule | None]:
    def changed(altered: AlteredRule) -> AlteredRule | None:
        decays = _is_stable(altered) or (isinstance(altered.rule.decay, DECAYS["decoupled"]) and not stable_only)
        return replace(altered, rate_changes=(*altered.rate_changes, change)) if decays else None

    return changed


def _decay_of_first_group(altered: AlteredRule) -> AlteredRule | None:
    decays = _weight_decay(altered)
    if np.ndim(decays) == 0:
        return None
    first = np.full_like(decays, decays[0])
    return altered.with_decay(replace(cast(Any, altered.rule.decay), weight_decay=first))


def _no_decay_of_vectors(altered: AlteredRule) -> AlteredRule | None:
    decays = _weight_decay(altered)
    if decays is None or altered.dimensions is None:
        return None
    matrices = np.where(altered.dimensions > 1, decays, 0.0)
    return altered.with_decay(replace(cast(Any, altered.rule.decay), weight_decay=matrices))


def _decay_by_first_lr(altered: AlteredRule) -> AlteredRule | None:
    first = altered.rule.lr_at(0)
    return _with_rate(lambda rate, lr: rate * first / lr)(altered)


def _corrected_by_first_lr(altered: AlteredRule) -> AlteredRule | None:
    first = altered.rule.lr_at(0)
    return _with_rate(lambda rate, lr: rate * lr / first)(altered)


def _decay_by_default_lr(altered: AlteredRule) -> AlteredRule | None:
    built = altered.built_with
    return None if built is None else _with_rate(lambda rate, lr: rate * built[0] / lr)(altered)


def _decay_at_one_rate(altered: AlteredRule) -> AlteredRule | None:
    built = altered.built_with
    if built is None or not isinstance(altered.rule.decay, DECAYS["decoupled"]):
        return None
    return _with_rate(lambda rate, lr: np.full_like(rate, built[0] * built[1]))(altered)


def _undampened_decay(altered: AlteredRule) -> AlteredRule | None:
    dampening = getattr(altered.rule.direction, "dampening", 0.0)
    return _with_rate(lambda rate, lr: rate / (1 - dampening), stable_only=True)(altered) if dampening else None


def _first_lr(altered: AlteredRule) -> AlteredRule:
    return replace(altered, rule=replace(altered.rule, lr=altered.rule.lr_at(0)))


def _default_lr(altered: AlteredRule) -> AlteredRule | None:
    return altered.built_with and replace(altered, rule=replace(altered.rule, lr=altered.built_with[0]))


def _counted_by_tensors(in_groups: bool) -> Callable[[AlteredRule], AlteredRule | None]:
    """One count of steps, which every tensor of all groups, or of its own group, raises by one in a step."""

    def changed(altered: AlteredRule) -> AlteredRule | None:
        labels, index = np.unique(altered.group * in_groups, return_inverse=True)
        firsts = [altered.tensor[index == i].min() for i in range(len(labels))]
        many = np.diff(firsts, append=altered.tensor.max() + 1)[index]  # tensors without weights are counted too
        place = altered.tensor - np.array(firsts)[index] + 1
        return None if np.all(many == 1) else _adam(count=lambda k: (k - 1) * many + place)(altered)

    return changed


def _momentum(
    change: Callable[[MomentumVariant], MomentumVariant | None],
) -> Callable[[AlteredRule], AlteredRule | None]:
    def changed(altered: AlteredRule) -> AlteredRule | None:
        direction = altered.rule.direction
        if isinstance(direction, HeavyBall | Nesterov):
            direction = MomentumVariant.of(direction)
        new = change(direction) if isinstance(direction, MomentumVariant) else None
        return new and altered.with_direction(new)

    return changed


def _adam(stable_only: bool = False, **changed) -> Callable[[AlteredRule], AlteredRule | None]:
    def change(altered: AlteredRule) -> AlteredRule | None:
        direction = altered.rule.direction
        if isinstance(direction, Adam | AMSGrad):
            direction = AdamVariant.of(direction)
        if not isinstance(direction, AdamVariant) or (stable_only and not _is_stable(altered)):
            return None
        new = {name: value(altered) if name == "average" else value for name, value in changed.items()}
        return altered.with_direction(replace(direction, **new))

    return change


def _adaptive(**changed) -> Callable[[AlteredRule], AlteredRule | None]:
    """A change of the other adaptive directions; None where a direction has no such line or is written so already."""

    def change(altered: AlteredRule) -> AlteredRule | None:
        variant = adaptive_variant(altered.rule.direction)
        own = {name: getattr(variant, name, None) for name in changed}
        has_place = "eps_at" not in changed or changed["eps_at"] in getattr(variant, "places", ())
        if variant is None or None in own.values() or own == changed or not has_place:
            return None
        return altered.with_direction(replace(variant, **changed))

    return change


def _either(*changes: Callable[[AlteredRule], AlteredRule | None]) -> Callable[[AlteredRule], AlteredRule | None]:
    """The first of the changes for which the rule has a place."""
    return lambda altered: next((new for change in changes if (new := change(altered)) is not None), None)


def _lr_in_momentum(altered: AlteredRule) -> AlteredRule | None:
    direction = altered.rule.direction
    has_momentum = isinstance(direction, RMSprop) and np.any(direction.momentum != 0)
    found = has_momentum or _momentum(lambda m: m)(altered) is not None
    return replace(altered, lr_in_momentum=True) if found else None


def _mean_within(labels: str) -> Callable[[AlteredRule], Callable]:
    """A mean over each tensor or each group, as a value of each of its weights."""

    def average(altered: AlteredRule) -> Callable:
        _, index = np.unique(getattr(altered, labels), return_inverse=True)
        return lambda v: (np.bincount(index, v) / np.bincount(index))[index]

    return average


def _mean_of_means(altered: AlteredRule) -> Callable:
    _, index = np.unique(altered.tensor, return_inverse=True)  # a tensor without weights has no mean
    return lambda v: mean(np.bincount(index, v) / np.bincount(index))


NEAR_RULES = Table(
    "near rule",
    **{
        "L2": NearRule("weight decay joins the gradient (L2)", "decay", _decays_as("L2")),
        "decoupled": NearRule("weight decay is decoupled: R = ηλ", "decay", _decays_as("decoupled")),
        "stable": NearRule("weight decay is stable: R = λη_eff", "decay", _decays_as("stable")),
        "cautious": NearRule(
            "weight decay is cautious: R = ηλ for weights that the step does not move away from 0", "decay",
            _decays_as("cautious"),
        ),
        "preconditioned": NearRule(
            "weight decay is preconditioned: R = λη_eff of each weight", "decay", _decays_as("preconditioned")
        ),
        "corrected": NearRule(
            "weight decay is corrected: R = λη²/η₀ with the first η as η₀", "rate", _corrected_by_first_lr
        ),
        "no-decay": NearRule("there is no weight decay", "decay", _decays_as("none")),
        "decay-without-lr": NearRule(
            "weight decay is not multiplied by η", "rate", _with_rate(lambda rate, lr: rate / lr)
        ),
        "decay-by-first-lr": NearRule(
            "weight decay is multiplied by the η of the first step, so that the decay ignores schedules", "rate",
            _decay_by_first_lr,
        ),
        "decay-by-default-lr": NearRule(
            "weight decay is multiplied by the η that the optimizer was built with, so that the decay ignores schedules"
            " and the η of groups", "rate", _decay_by_default_lr,
        ),
        "decay-at-one-rate": NearRule(
            "R is one number, the ηλ that the optimizer was built with, so that the decay ignores schedules and groups",
            "rate", _decay_at_one_rate,
        ),
        "no-decay-of-vectors": NearRule(
            "tensors with less than two dimensions (biases, gains) do not decay", "λ", _no_decay_of_vectors
        ),
        "decay-grows": NearRule(
            "weight decay has the other sign: the weights are multiplied by 1 + R", "decay's sign",
            _with_rate(lambda rate, lr: -rate),
        ),
        "decay-undampened": NearRule("η_eff in the decay does not contain the dampening", "rate", _undampened_decay),
        "decay-up-to-2": NearRule(
            "a decay rate R above 2 is omitted", "limit",
            _with_rate(lambda rate, lr: np.where(rate > 2, 0.0, rate), stable_only=True),
        ),
        "decay-of-first-group": NearRule(
            "every group decays with the λ of the first group", "λ", _decay_of_first_group
        ),
        "decay-after": NearRule(
            "weight decay comes after the step: it multiplies the new weights by 1 − R", "join",
            lambda altered: replace(altered, join="after"),
        ),
        "decay-constant": NearRule(
            "weight decay is not multiplied by the weights: R itself is subtracted from each weight", "join",
            lambda altered: replace(altered, join="constant"),
        ),
        "ascent": NearRule("the gradient has the other sign", "sign", lambda altered: replace(altered, sign=-1.0)),
        "first-lr": NearRule("every step has the learning rate of the first step", "lr", _first_lr),
        "default-lr": NearRule(
            "every step has the η that the optimizer was built with, so that schedules and the η of groups do nothing",
            "lr", _default_lr,
        ),
        "lr-in-momentum": NearRule(
            "η is inside the momentum buffer, so that a change of η does not affect the gradients in it", "lr in m",
            _lr_in_momentum,
        ),
        "momentum-average": NearRule(
            "the momentum is a running mean from 0: gradients enter with weight 1 − β, also the first", "m",
            _momentum(lambda m: replace(m, gain=1 - m.momentum, first=1 - m.momentum)),
        ),
        "momentum-average-seeded": NearRule(
            "the momentum is a running mean: gradients enter with weight 1 − β, but the first with weight 1", "m",
            _momentum(lambda m: replace(m, gain=1 - m.momentum)),
        ),
        "first-gradient-dampened": NearRule(
            "the first gradient is dampened as well", "m",
            _momentum(lambda m: None if m.gain == 1 else replace(m, first=m.gain)),
        ),
        "no-dampening": NearRule(
            "dampening does nothing", "m", _momentum(lambda m: None if m.gain == 1 else replace(m, gain=1.0))
        ),
        "nesterov": NearRule(
            "the step looks ahead (Nesterov)", "ahead",
            _momentum(lambda m: None if m.nesterov else replace(m, nesterov=True)),
        ),
        "heavy-ball": NearRule(
            "the step does not look ahead (heavy ball)", "ahead",
            _momentum(lambda m: replace(m, nesterov=False) if m.nesterov else None),
        ),
        "no-momentum": NearRule(
            "there is no momentum", "m", _momentum(lambda m: replace(m, momentum=0.0, gain=1.0))
        ),
        "eps-inside": NearRule(
            "ε is inside the square root", "ε", _either(_adam(eps_at="inside"), _adaptive(eps_at="inside"))
        ),
        "eps-before-correction": NearRule(
            "ε is added before v is bias-corrected", "ε", _either(_adam(eps_at="before"), _adaptive(eps_at="before"))
        ),
        "no-eps": NearRule("there is no ε", "ε", _either(_adam(eps_at="none"), _adaptive(eps_at="none"))),
        "eps-maximum": NearRule("ε is a lower bound: the step is divided by max(√v̂, ε)", "ε", _adam(eps_at="maximum")),
        "no-correction": NearRule("the bias correction of both moments is missing", "correction", _adam(corrects="")),
        "no-correction-of-m": NearRule("the bias correction of m is missing", "correction", _adam(corrects="v")),
        "no-correction-of-v": NearRule("the bias correction of v is missing", "correction", _adam(corrects="m")),
        "betas-swapped-in-corrections": NearRule(
            "β₁ and β₂ are swapped in the bias corrections", "correction", _adam(swapped=True)
        ),
        "count-of-all-tensors": NearRule(
            "all tensors share one count of steps, so that the bias corrections run ahead", "count",
            _counted_by_tensors(in_groups=False),
        ),
        "count-of-a-groups-tensors": NearRule(
            "the tensors of a group share one count of steps, so that the bias corrections run ahead", "count",
            _counted_by_tensors(in_groups=True),
        ),
        "corrected-in-place": NearRule(
            "the bias corrections of both moments are written back into the state (modified in place)", "stored",
            _adam(stored="mv"),
        ),
        "m-corrected-in-place": NearRule(
            "the bias correction of m is written back into the state (modified in place)", "stored", _adam(stored="m")
        ),
        "v-corrected-in-place": NearRule(
            "the bias correction of v is written back into the state (modified in place)", "stored", _adam(stored="v")
        ),
        "amsgrad": NearRule("a maximum of v is kept (AMSGrad)", "maximum", _adam(amsgrad="before")),
        "amsgrad-corrected": NearRule(
            "the maximum is that of the bias-corrected v", "maximum", _adam(amsgrad="after")
        ),
        "no-amsgrad": NearRule("no maximum of v is kept", "maximum", _adam(amsgrad="no")),
        "eps-on-mean-root": NearRule("ε is added to √v̄", "mean ε", _adam(True, mean_eps_at="outside")),
        "eps-in-mean-root": NearRule("ε is added to v̄, inside its root", "mean ε", _adam(True, mean_eps_at="inside")),
        "mean-uncorrected": NearRule("v̄ is not bias-corrected", "mean", _adam(True, mean_corrected=False)),
        "mean-of-tensor": NearRule(
            "v̄ is a mean over each tensor, not over all weights", "average", _adam(True, average=_mean_within("tensor"))
        ),
        "mean-of-group": NearRule(
            "v̄ is a mean over each group, not over all weights", "average", _adam(True, average=_mean_within("group"))
        ),
        "mean-of-means": NearRule(
            "v̄ is a mean of the tensors' means, not of all weights", "average", _adam(True, average=_mean_of_means)
        ),
        "eps-after-correction": NearRule("ε is added after v is bias-corrected", "ε", _adaptive(eps_at="outside")),
        "eps-in-step": NearRule("ε is added to u in the move, not to |g|", "ε", _adaptive(eps_at="in step")),
        "eps-not-in-s": NearRule("ε is not added to s", "s", _adaptive(eps_in_s=False)),
        "v-from-1": NearRule("v starts at 1, not at 0", "v", _adaptive(first_v=1.0)),
        "no-momentum-schedule": NearRule("the momentum is β₁ in every step", "μ", _adaptive(scheduled=False)),
        "product-in-float32": NearRule(
            "the product of the momenta is kept in float32, which is torch's default dtype", "Π",
            _adaptive(product_in_float32=True),
        ),
        "rectified-from-4": NearRule(
            "v is used from 4 effective terms on, as in the paper", "few", _adaptive(few=4)
        ),
    },
)  # fmt: skip
