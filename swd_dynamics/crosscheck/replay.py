"""Does a recorded run follow a rule? The rule takes a step with each recorded gradient, and the steps are compared."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from swd_dynamics.crosscheck.recorded_rule import rule_of_recording
from swd_dynamics.errors import InputError
from swd_dynamics.rules.catalog import Entry
from swd_dynamics.rules.update import State, UpdateRule
from swd_dynamics.verdict import Verdict, judge

if TYPE_CHECKING:
    import xarray

CHANGED = 1e-5  # relative: two sums of squares in float32 agree to 1e-6, however many weights there are
ROUND_OFFS = 8.0  # two dozen roundings a step, in two orders of evaluation, add up to a few units in the last place


def replay(rule: UpdateRule | Entry | str, recording: "xarray.Dataset", *, name: str = "replay") -> Verdict:
    """Compare a rule with a recording, step by step, by the norm of the difference.

    Every step starts from the *recorded* θ, so that a small difference cannot grow from step to step in a chaotic run.
    The rule's memory (momentum, second moment) is always the rule's own, never the recorded one::

        departure(k) = ‖rule(θ(k), memory, g(k)) − θ(k+1)‖ / max(‖θ(0)‖, ‖θ(k)‖, ‖θ(k+1)‖), θ as recorded

    Parameters
    ----------
    rule : UpdateRule, or the name of a rule in CATALOG
        A name, as "AdamW", stands for the rule with the recording's own numbers, see
        :func:`~swd_dynamics.crosscheck.recorded_rule.recorded_rule`. The learning rate and decay of an UpdateRule may
        be arrays of shape (n,) for parameter groups, its learning rate a schedule.
    recording : xarray.Dataset
        With ``theta`` (iterate, weight), ``gradient`` (step, weight), from the optimizer's first step on.

    Returns
    -------
    Verdict
        Confirmed if departure(k) ≤ 8·eps·√k at every step, eps that of the recorded dtype; ``first_departure`` is the
        number of the first step (from 1) that departs further. Evidence: ``departure`` and ``allowed``, shape (steps,).

    Raises
    ------
    InputError
        If the recording lacks what replay needs, or does not begin at the optimizer's first step.

    Examples
    --------
    A recording made by hand: one step of η = .5 from 1 with gradient 1 leads to .5, as the rule says.

    >>> import xarray
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> made = {"theta": (("iterate", "weight"), [[1.0], [0.5]]), "gradient": (("step", "weight"), [[1.0]])}
    >>> replay(UpdateRule(0.5, SGD()), xarray.Dataset(made)).status
    'confirmed'
    """
    theta, gradients = _trajectory(recording)
    eps = np.finfo(np.result_type(recording["theta"].dtype, np.float16)).eps
    allowed = allowed_departure(len(gradients), eps)
    rule = rule_of_recording(rule, recording)
    _check_fit(rule, theta.shape[1])
    departure = np.array(list(departures(rule, theta, gradients)))
    outside = ~(departure <= allowed)
    worst = float(np.max(departure / allowed)) if np.isfinite(departure).all() else float("inf")
    verdict = judge(
        name,
        f"The recorded {recording.attrs.get('optimizer', 'run')} steps as {getattr(rule, 'name', 'the rule')} does,"
        f" {len(gradients)} times",
        predicted=0.0,
        measured=worst,
        allowed=1.0,
        why=f"departures in units of {ROUND_OFFS:g}·eps·√k: two orders of evaluation differ in their last digits"
        + _unseen(rule, len(gradients)),
        first_departure=int(np.argmax(outside)) + 1 if outside.any() else None,
        evidence={"departure": departure, "allowed": allowed},
    )
    if np.isfinite(worst):
        return verdict
    return replace(verdict, status="refuted", cause="the rule's own steps are not finite")


def _unseen(rule: UpdateRule, steps: int) -> str:
    """What a replay of one learning rate and one weight decay cannot see, in words."""
    lr = rule.lr_at(0)
    constant = not rule.has_schedule or all(np.array_equal(lr, rule.lr_at(k)) for k in range(1, steps))
    alike = all(np.all(np.equal(values, np.ravel(values)[0])) for values in (lr, rule.weight_decay))
    unseen = ["groups"] * alike + ["schedules"] * constant
    return f"; faults with {' or '.join(unseen)} cannot be seen in this run" if unseen else ""


class Stepping(Protocol):
    """What replay compares with a recording: an update rule, or any object with the same two methods."""

    def start(self, theta) -> State: ...

    def __call__(self, state: State, gradient) -> State: ...


def allowed_departure(steps: int, eps: float) -> np.ndarray:
    """8·eps·√k for the steps 1 … ``steps``."""
    return ROUND_OFFS * eps * np.sqrt(np.arange(1, steps + 1))


def own_steps(rule: Stepping, theta: np.ndarray, gradients: np.ndarray) -> Iterator[np.ndarray]:
    """θ after each of the rule's own steps, every one from the *recorded* θ, while its memory runs on."""
    state = rule.start(theta[0])
    for k, gradient in enumerate(gradients):
        with np.errstate(all="ignore"):  # a wrong pairing may run anywhere: that is its result
            state = rule(State(theta[k], state.memory, k), gradient)
        yield state.theta


def departures(rule: Stepping, theta: np.ndarray, gradients: np.ndarray) -> Iterator[float]:
    """departure(k) of :func:`replay`, one step after another, 0 where neither result is finite."""
    for k, own in enumerate(own_steps(rule, theta, gradients)):
        yield departure_of(own, theta, k)


def departure_of(own: np.ndarray, theta: np.ndarray, k: int) -> float:
    """The departure of one step: of the rule's own weights after it from the recorded ones."""
    both_left = not np.isfinite(_norms(np.array([own, theta[k + 1]]))).any()
    return 0.0 if both_left else relative(own, theta[k + 1], theta, k)


def relative(one: np.ndarray, other: np.ndarray, theta: np.ndarray, k: int) -> float:
    """‖one − other‖ / max(‖θ(0)‖, ‖θ(k)‖, ‖θ(k+1)‖)."""
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(one - other) / max(*_norms(theta[[0, k, k + 1]]), 1e-300))


def _norms(theta: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.linalg.norm(theta, axis=1)


def _check_fit(rule: UpdateRule, weights: int) -> None:
    for name, values in (("lr", rule.lr_at(0)), ("weight_decay", rule.weight_decay)):
        if np.shape(values) not in ((), (weights,)):
            raise InputError(f"{name} has shape {np.shape(values)}, the recording {weights} weights: give ({weights},)")


def _check_every_step_taken(recording) -> None:
    """Refuse a recording that no rule can follow: a rule changes all weights in every step, and only in steps."""
    took = np.asarray(recording["had_gradient"]) if "had_gradient" in recording else np.ones((0, 1), bool)
    left = np.nonzero(~took.astype(bool).all(axis=1))[0]
    if len(left):
        raise InputError(
            f"step {_number(recording, left[0])} was not taken with all parameters (without gradient, or voided"
            " by a gradient scaler), but a rule changes all parameters in every step: train without these parameters,"
            " or use verify on the optimizer"
        )
    changed = _changed_outside(recording)
    if changed.any():
        raise InputError(
            f"the weights were changed from outside before step {_number(recording, int(changed.argmax()))} (clipped,"
            " projected, exchanged, loaded): a rule knows of its own steps only"
        )


def _number(recording, row: int) -> int:
    """The number of the step in a row."""
    return int(recording["step"].values[row]) if "step" in recording else row + 1


def _changed_outside(recording) -> np.ndarray:
    """For each step, whether the weights were changed by something other than a step before it, shape (steps,).

    If the recording does not say so, the weights count as changed where ‖θ‖ before the step differs from the norm of
    the recorded weights.
    """
    steps = len(recording["gradient"])
    counts = np.asarray(recording["changed_outside"]) if "changed_outside" in recording else np.full(steps, np.nan)
    if "theta_norm" not in recording or not np.isnan(counts).any():
        return counts > 0
    with np.errstate(all="ignore"):  # of a run that diverged
        norms = _norms(np.asarray(recording["theta"], float)[:-1])
        differ = np.abs(recording["theta_norm"].values - norms) > CHANGED * norms
    return np.where(np.isnan(counts), differ, counts > 0)


def _trajectory(recording) -> tuple[np.ndarray, np.ndarray]:
    if not hasattr(recording, "attrs"):
        raise InputError(f"replay(rule, recording) needs an xarray.Dataset as its recording, not {recording!r}")
    missing = [variable for variable in ("theta", "gradient") if variable not in recording]
    if missing:
        raise InputError(
            f"the recording lacks {' and '.join(missing)}, which replay needs: record it with trajectory=True"
        )
    before = int(recording.attrs.get("steps_before", 0))
    if before != 0:
        raise InputError(
            "the recording does not begin at the optimizer's first step, so that its memory is unknown:"
            " attach the probe earlier"
        )
    if "iterate" in recording.coords and np.any(np.diff(recording["iterate"].values) != 1):
        raise InputError("the recording lacks some of its steps: replay needs every step from the first")
    _check_every_step_taken(recording)
    theta, gradients = np.asarray(recording["theta"], float), np.asarray(recording["gradient"], float)
    if len(gradients) == 0:
        raise InputError("the recording holds no step: replay needs at least one")
    if theta.ndim != 2 or len(theta) != len(gradients) + 1 or theta.shape[1:] != gradients.shape[1:]:
        raise InputError(
            f"theta {theta.shape} and gradient {gradients.shape} do not fit: need (steps + 1, n) and (steps, n)"
        )
    bad = np.nonzero(~np.isfinite(_norms(theta)))[0]
    if len(bad):
        raise InputError(f"the recorded run diverged: ‖θ‖ is not finite after step {bad[0]}; replay what came before")
    poor = np.nonzero(~np.isfinite(gradients).all(axis=1))[0]
    if len(poor):
        raise InputError(f"the recorded gradient of step {poor[0] + 1} is not finite; replay what came before")
    return theta, gradients
