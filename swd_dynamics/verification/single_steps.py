"""Does each step of a low-precision run follow a rule, to the rounding of its arithmetic?

In bfloat16 an optimizer's state is rounded as coarsely as its weights, so that its running means drift from those of
exact arithmetic. So each step is judged by itself: from the weights, the gradient and the state that were recorded
before it, weight by weight, and each line of the step is judged from the inputs that the optimizer had for it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from swd_dynamics.crosscheck.near_rules import JOINS, AlteredRule
from swd_dynamics.errors import InputError
from swd_dynamics.rules.update import Parts, State, Step

if TYPE_CHECKING:
    import xarray

LEAST_EXPONENT = -125  # of a normal number, as frexp counts: bfloat16 has float32's
FLOAT32 = 2.0**-24  # the largest relative change by one rounding to float32, in which bfloat16 kernels compute
# Roundings to float32 of a sum of the weights, and of the optimizer's own step s: √v, √(1 − β₂ᵏ), their quotient, + ε,
# η/(1 − β₁ᵏ), · m, the division, and the sum.
IN_WEIGHTS, IN_STEP = 3, 8
# Relative error of R in units of a rounding to float32: v̄ is a sum, and its running mean has a hundred terms.
IN_RATE = 64
# The recorded state that is each entry of a direction's memory, by the names that torch's optimizers give it.
STATES_OF = {
    "m": ("state_exp_avg", "state_momentum_buffer"),
    "v": ("state_exp_avg_sq", "state_square_avg"),
    "v_max": ("state_max_exp_avg_sq",),
}
LARGEST = "v_max"  # computed from v where it is not recorded


class LacksState(InputError):
    """A recording without a piece of the optimizer's state; ``names`` are the names that this piece may have."""

    def __init__(self, entry: str, names: tuple[str, ...]):
        super().__init__(
            f"the recording lacks the optimizer's {entry} of each step ({' or '.join(names)}), from which the next"
            " step is judged: record it with trajectory=True"
        )
        self.names = tuple(name.removeprefix("state_") for name in names)


@dataclass(frozen=True)
class Roundings:
    """How often a kernel rounds to the dtype of the weights; everything else it computes in float32.

    Attributes
    ----------
    digits : int — binary digits of the dtype: 8 of bfloat16
    weights : int — roundings of the weights: one for each time that they are stored, or that a part of them is
    rate : int — roundings of R
    step : int — roundings in the optimizer's own step before it is added to the weights
    state : int — roundings of each piece of the state
    steps_by_stored : bool — whether the step is computed from the state as it was stored, or before it was rounded
    least_exponent : int — of a normal number, as frexp counts
    gradient : int — roundings of λθ and of its sum with the gradient

    Examples
    --------
    Half a unit in the last place of bfloat16 at 1, and just below 1:

    >>> BFLOAT16["AdamW", "fused"].half_unit(np.array([1.0, 0.99])) * 2**9
    array([2., 1.])
    """

    digits: int
    weights: int
    rate: int
    step: int
    state: int
    steps_by_stored: bool
    least_exponent: int = LEAST_EXPONENT
    gradient: int = 0

    def half_unit(self, values: np.ndarray) -> np.ndarray:
        """Half a unit in the last place of some values; of 0 and of denormal numbers, half the smallest number."""
        exponent = np.where(values == 0, self.least_exponent, np.frexp(values)[1])
        return np.ldexp(0.5, np.maximum(exponent, self.least_exponent) - self.digits)


# In bfloat16. fused: the weights and the state are stored once, and the step uses the state before that. foreach: √v̂
# is stored three times, as √v, after its division, and after + ε; (1 − R)θ is stored, then the sum; β₂v is stored, then
# the sum. AdamS applies R, as a bfloat16 number, in a pass of its own before torch's kernel. These are the kernels of a
# GPU: on a CPU foreach also rounds inside the running means.
BFLOAT16 = {
    ("AdamW", "fused"): Roundings(8, weights=1, rate=0, step=0, state=1, steps_by_stored=False),
    ("AdamS", "fused"): Roundings(8, weights=2, rate=1, step=0, state=1, steps_by_stored=False),
    ("AdamW", "foreach"): Roundings(8, weights=2, rate=0, step=3, state=2, steps_by_stored=True),
    ("AdamS", "foreach"): Roundings(8, weights=2, rate=1, step=3, state=2, steps_by_stored=True),
}


class Departures:
    """Errors of a rule, step by step, each divided by what the roundings allow.

    Attributes
    ----------
    weights : array, shape (steps, n)
    state : array, shape (steps, n) — the larger of all pieces of the state
    moves : array, shape (steps, n) — not an error: the move of each weight, divided by the same
    """

    def __init__(self, rows: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]):
        self.weights, self.state, self.moves = map(np.array, zip(*rows, strict=True))


def single_steps(rule: AlteredRule, recording: "xarray.Dataset", roundings: Roundings) -> Departures:
    """Compare each recorded step with a rule's.

    Two lines of a step are judged, each from its recorded inputs::

        m′ = remember(m, g)            m and g as recorded
        θ′ = (1 − R)θ − η·move(m′)     θ as recorded; R by the rule's own memory of all gradients

    m′ is the recorded memory where the kernel steps by what it stored, and else remember(m, g).

    Parameters
    ----------
    rule : AlteredRule
        Whose memory is that of SGD, Adam, AMSGrad or RMSprop.
    recording : xarray.Dataset
        ``theta`` (iterate, weight), ``gradient`` and ``state_…`` (step, weight), from the first step on.
    roundings : Roundings
        Those of the kernel that made the recording.

    Raises
    ------
    InputError
        If the recording lacks the state of each step, or the rule has another memory.

    Examples
    --------
    A step of Adam without momentum from θ = 1 with g = 1, where v = 1: θ ← 1 − ¼, exact in bfloat16.

    >>> import xarray
    >>> from swd_dynamics.rules import CATALOG
    >>> rule = CATALOG["AdamW"](lr=0.25, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0)
    >>> ones = (("step", "weight"), [[1.0]])
    >>> made = {"theta": (("iterate", "weight"), [[1.0], [0.75]]), "gradient": ones, "state_exp_avg": ones}
    >>> one = AlteredRule(rule, np.zeros(1, int), np.zeros(1, int))
    >>> run = xarray.Dataset(made | {"state_exp_avg_sq": ones})
    >>> single_steps(one, run, BFLOAT16["AdamW", "fused"]).weights
    array([[0.]])
    """
    return Departures(_rows(rule, recording, roundings))


def _rows(
    rule: AlteredRule, recording: Any, roundings: Roundings
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    theta, gradients = (np.asarray(recording[name], float) for name in ("theta", "gradient"))
    direction = rule.rule.direction
    own = before = direction.rest(theta[0])
    states = {name: _recorded(recording, name) for name in own._fields if name != LARGEST or _has(recording, name)}
    for k, gradient in enumerate(gradients):
        parts = rule.rule.parts(State(theta[k], own, k), rule.sign * gradient)
        own, rate, off = parts.memory, _rate(rule, parts), _off_gradient(rule, theta[k], gradient, roundings)
        exact, shaken = (direction.remember(before, each) for each in (parts.step, off(parts.step)))
        after = exact._replace(**{name: state[k] for name, state in states.items()})
        in_state = _state_departure(states, (exact, shaken), before, after, roundings) + 0 * theta[k]
        used = (after, after) if roundings.steps_by_stored else (exact, shaken)
        moves = (direction.move(memory, each) for memory, each in zip(used, (parts.step, off(parts.step)), strict=True))
        step, other = (parts.step.lr * move for move in moves)
        predicted = JOINS[rule.join](theta[k], rate, step)
        allowed = _allowed(theta[k], theta[k + 1], step, rate, roundings) + np.abs(other - step)
        yield np.abs(predicted - theta[k + 1]) / allowed, in_state, np.abs(theta[k + 1] - theta[k]) / allowed
        before = after


def _rate(rule: AlteredRule, parts: Parts) -> Any:
    """R of a step, with the changes of the rule."""
    rate = parts.decay_rate
    for change in rule.rate_changes:
        rate = change(rate, parts.step.lr)
    return rate


def _off_gradient(
    rule: AlteredRule, theta: np.ndarray, gradient: np.ndarray, roundings: Roundings
) -> Callable[[Step], Step]:
    """What moves the gradient of a step as far as the rounding of g + λθ may."""
    added = np.abs(rule.rule.decay.added_gradient(theta) + 0 * theta)
    most = roundings.gradient * roundings.half_unit(np.maximum(np.abs(gradient), added))
    return lambda step: step._replace(gradient=step.gradient + np.where(added > 0, most, 0.0))


def _has(recording: Any, name: str) -> list[str]:
    """The recorded states that may be an entry of the memory."""
    states = [state for state in STATES_OF[name] if state in recording]
    return [state for state in states if recording[state].dims == ("step", "weight")]


def _recorded(recording: Any, name: str) -> np.ndarray:
    if name not in STATES_OF:
        raise InputError(
            f"a memory with {name} cannot be judged in a short type: the state of SGD, Adam, AMSGrad and RMSprop can"
        )
    for state in _has(recording, name):
        return np.asarray(recording[state], float)
    raise LacksState(name, STATES_OF[name])


def _allowed(before: np.ndarray, after: np.ndarray, step: np.ndarray, rate: Any, roundings: Roundings) -> np.ndarray:
    """How far the weights may be from the exact step."""
    stored = roundings.weights * roundings.half_unit(np.maximum(np.abs(before), np.abs(after)))
    step, before = np.abs(step), np.abs(before)
    parts = 2.0**-roundings.digits * (roundings.step * step + roundings.rate * rate * before)
    computed = IN_WEIGHTS * before + IN_STEP * step + IN_RATE * rate * before
    return stored + parts + FLOAT32 * computed


def _state_departure(
    names: Iterable[str], predicted: tuple[Any, Any], before: Any, after: Any, roundings: Roundings
) -> np.ndarray:
    """The largest error of a piece of the state, divided by what is allowed."""
    found = [np.zeros(())]
    for name in names:
        exact, old, new = (getattr(memory, name) for memory in (predicted[0], before, after))
        largest = np.maximum.reduce([np.abs(old), np.abs(new), np.abs(new - old)])
        allowed = roundings.state * roundings.half_unit(largest) + FLOAT32 * IN_STEP * largest
        allowed = allowed + np.abs(getattr(predicted[1], name) - exact)
        with np.errstate(invalid="ignore"):
            found.append(np.where(exact == new, 0.0, np.abs(exact - new) / allowed))
    return np.maximum.reduce(np.broadcast_arrays(*found))
