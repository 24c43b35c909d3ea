"""Does a recorded run follow a rule? The rule takes a step with each recorded gradient, and the steps are compared."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from swd_dynamics.crosscheck.causes import NO_CAUSE, explanation
from swd_dynamics.crosscheck.recorded_rule import rule_of_recording, with_shapes
from swd_dynamics.crosscheck.stepping import allowed_departure, departures, largest_error, norms_of, wrong_by
from swd_dynamics.errors import InputError
from swd_dynamics.rules.catalog import Entry
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.verdict import Verdict, judge

if TYPE_CHECKING:
    import xarray

CHANGED = 1e-5  # relative: two sums of squares in float32 agree to 1e-6, however many weights there are


def replay(
    rule: UpdateRule | Entry | str,
    recording: "xarray.Dataset",
    *,
    name: str = "replay",
    causes: bool = True,
) -> Verdict:
    """Compare a rule with a recording, step by step, and name the cause of a difference.

    The rule takes a step with each recorded gradient. Each step starts from the *recorded* θ, so that a small
    difference cannot grow from step to step in a chaotic run. The rule computes its own state (momentum, second
    moment) from the gradients::

        error(k) = ‖rule(θ(k), state, g(k)) − θ(k+1)‖ / max(‖θ(0)‖, ‖θ(k)‖, ‖θ(k+1)‖), θ as recorded

    Where the steps differ, the rule is tried with the recording's own numbers and parameter groups, then with the
    changes of :data:`~swd_dynamics.crosscheck.near_rules.NEAR_RULES`. What makes *every* step agree is the cause.
    A known difference cannot be allowed here: to confirm an optimizer that has one, call
    :func:`~swd_dynamics.verification.verify.verify` with ``allow``.

    Parameters
    ----------
    rule : UpdateRule, or the name of a rule in CATALOG
        A name, as "AdamW", stands for the rule with the recording's own numbers, see
        :func:`~swd_dynamics.crosscheck.recorded_rule.recorded_rule`. The learning rate and decay of an UpdateRule may
        be arrays of shape (n,) for parameter groups, its learning rate a schedule.
    recording : xarray.Dataset
        With ``theta`` (iterate, weight), ``gradient`` (step, weight), from the optimizer's first step on.
    name : str
        The verdict's name.
    causes : bool
        Whether to look for the cause of a difference. With many weights this takes several seconds.

    Returns
    -------
    Verdict
        Confirmed if error(k) ≤ 8·eps·√k at every step, with the eps of the recorded dtype: this much can be explained
        by rounding. ``measured`` is the largest error divided by this limit. Else refuted: ``first_departure`` is the
        number of the first wrong step (from 1), ``cause`` is what explains every step, or "unknown". Evidence:
        ``departure``, the error, and ``allowed``, each of shape (steps,).

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
    departure = np.array(list(departures(with_shapes(rule, recording), theta, gradients)))
    outside = ~(departure <= allowed)
    worst = float(np.max(departure / allowed)) if np.isfinite(departure).all() else float("inf")
    steps = f"{len(gradients)} step{'s' * (len(gradients) != 1)}"
    verdict = judge(
        name,
        f"The recorded {recording.attrs.get('optimizer', 'run')} follows {getattr(rule, 'name', 'the rule')}: {steps}",
        predicted=0.0,
        measured=worst,
        allowed=1.0,
        why=f"{largest_error(worst)} {_unseen(rule, len(gradients))}".strip().removesuffix("."),
        first_departure=int(np.argmax(outside)) + 1 if outside.any() else None,
        evidence={"departure": departure, "allowed": allowed},
    )
    if verdict.first_departure is None:
        return verdict
    cause, remark = explanation(rule, recording, theta, gradients, allowed) if causes else (None, "")
    if not np.isfinite(worst):
        known = cause not in (None, NO_CAUSE)
        cause = "the rule's own steps are not finite" + f", but the recorded steps are: {cause}" * known
    said = [largest_error(worst), wrong_by(departure[verdict.first_departure - 1]), remark]
    return replace(verdict, status="refuted", cause=cause, why=" ".join(filter(None, said)).removesuffix("."))


def _unseen(rule: UpdateRule, steps: int) -> str:
    """What a replay of one learning rate and one weight decay cannot show, in a sentence."""
    lr = rule.lr_at(0)
    constant = not rule.has_schedule or all(np.array_equal(lr, rule.lr_at(k)) for k in range(1, steps))
    alike = all(np.all(np.equal(values, np.ravel(values)[0])) for values in (lr, rule.weight_decay))
    unseen = ["groups"] * alike + ["schedules"] * constant
    return f"Mistakes with {' or '.join(unseen)} cannot be seen in this run." if unseen else ""


def _check_fit(rule: UpdateRule, weights: int) -> None:
    for name, values in (("lr", rule.lr_at(0)), ("weight_decay", rule.weight_decay)):
        if np.shape(values) not in ((), (weights,)):
            raise InputError(
                f"{name} has shape {np.shape(values)}, but the recording has {weights} weights:"
                f" give a number, or an array of shape ({weights},)"
            )


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
            " projected, exchanged, loaded), but a rule changes them only in its own steps"
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
        norms = norms_of(np.asarray(recording["theta"], float)[:-1])
        differ = np.abs(recording["theta_norm"].values - norms) > CHANGED * norms
    return np.where(np.isnan(counts), differ, counts > 0)


def _trajectory(recording) -> tuple[np.ndarray, np.ndarray]:
    if not hasattr(recording, "attrs"):
        raise InputError(f"replay(rule, recording) needs an xarray.Dataset as its recording, not {recording!r}")
    missing = [variable for variable in ("theta", "gradient") if variable not in recording]
    if missing:
        raise InputError(
            f"the recording lacks {' and '.join(missing)}, which replay needs: record it with trajectory=True (on the"
            " command line: --trajectory)"
        )
    before = int(recording.attrs.get("steps_before", 0))
    if before != 0:
        raise InputError(
            "the recording does not begin at the optimizer's first step, so that the optimizer's state is unknown:"
            " attach the probe before the first step"
        )
    if "iterate" in recording.coords and np.any(np.diff(recording["iterate"].values) != 1):
        raise InputError("the recording lacks some of its steps: replay needs every step from the first")
    _check_every_step_taken(recording)
    theta, gradients = np.asarray(recording["theta"], float), np.asarray(recording["gradient"], float)
    if len(gradients) == 0:
        raise InputError("the recording holds no step: replay needs at least one")
    if theta.ndim != 2 or len(theta) != len(gradients) + 1 or theta.shape[1:] != gradients.shape[1:]:
        raise InputError(
            f"theta {theta.shape} and gradient {gradients.shape} do not fit together: give arrays of shape"
            " (steps + 1, n) and (steps, n)"
        )
    bad = np.nonzero(~np.isfinite(norms_of(theta)))[0]
    if len(bad):
        raise InputError(
            f"the recorded run diverged: ‖θ‖ is not finite after step {bad[0]}; replay the steps before it"
        )
    poor = np.nonzero(~np.isfinite(gradients).all(axis=1))[0]
    if len(poor):
        raise InputError(f"the recorded gradient of step {poor[0] + 1} is not finite; replay the steps before it")
    return theta, gradients
