"""How the features of weight decay are read from a measured response."""

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.auditing.features import (
    MOSTLY,
    NONLINEAR,
    NOTHING,
    RESIDUE,
    SAME_RATIO,
    AuditFeatures,
    Phase,
    quantiles,
)

if TYPE_CHECKING:
    from swd_dynamics.bench.interventions import Track
    from swd_dynamics.bench.response import MeasuredResponse

# The smallest perturbation that is read. Round-off of weights of order 1 is 1e-6 of it, 1e-5 of a decay rate of .1.
READABLE = 1e-10
ENOUGH = 10  # steps of a window that must be readable for a rate
COMPLETE = 0.02  # the largest share of η_eff that may be missing, as rates within .02 count as equal
# The smallest singular value, relative to the largest, for fitting a recurrence of two steps. A perturbation that
# shrinks by one factor satisfies many such recurrences, up to a round-off of 1e-9.
SINGULAR = 1e-6
IDLE = 1e-3  # of the mean rate: a rate below this counts as no decay
# Of what λ does to the weights: two runs that differ by less take the same steps. Their sums are formed in another
# order, in some optimizers in float32.
JOINED = 1e-5
MOST = 0.9  # the share of the weights that must follow an impulse if η_eff is to be known


def step_rates(change: "Track") -> NDArray:
    """R of each step and weight, 1 − δ′/δ; NaN where the perturbation has died out. Shape (steps, n)."""
    with np.errstate(all="ignore"):
        rate = 1 - change.after / change.before
    return np.where(np.abs(change.before) > READABLE, rate, np.nan)


def window_rate(change: "Track", window: slice) -> NDArray:
    """R of each weight over W steps, 1 − (|δ_end|/|δ_start|)^(1/W), as long as δ can be read. Shape (n,)."""
    before, after = change.before[window], change.after[window]
    if len(before) == 1:
        return step_rates(change)[window][0]
    readable = np.abs(before) > READABLE
    last = len(before) - 1 - np.argmax(readable[::-1], axis=0)
    with np.errstate(all="ignore"):
        left = np.abs(np.take_along_axis(after, last[None], axis=0)[0] / before[0])
        rate = 1 - left ** (1 / (last + 1))
    return np.where(readable[0] & (last + 1 >= ENOUGH), rate, np.nan)


def envelope_rate(change: "Track", window: slice) -> NDArray:
    """R of the envelope of each weight's perturbation, if it satisfies δ″ = aδ′ − bδ with b > 0. Shape (n,).

    1 − √b where the recurrence has complex roots; 1 − the larger root where both roots are real.
    """
    course = np.nan_to_num(change.before[window].T, posinf=0.0, neginf=0.0)
    pairs = np.stack([course[:, 1:-1], -course[:, :-2]], axis=-1)
    a, b = (np.linalg.pinv(pairs, rcond=SINGULAR) @ course[:, 2:, None])[..., 0].T
    with np.errstate(all="ignore"):
        real = (np.abs(a) + np.sqrt(np.maximum(a**2 - 4 * b, 0.0))) / 2
        return 1 - np.where(b > 0, np.where(a**2 < 4 * b, np.sqrt(b), real), np.nan)


def features_of(response: "MeasuredResponse") -> tuple[AuditFeatures, dict[str, NDArray]]:
    """The features of a response; and R over the steps: ``median``, ``low`` and ``high``, each of shape (steps,).

    The three are the median, the 5th and the 95th percentile over the weights that decay.
    """
    from swd_dynamics.bench.response import COMPARED, WINDOWS

    with np.errstate(all="ignore"):
        raw = step_rates(response.moved)
        control = np.zeros_like(raw) if response.control is None else step_rates(response.control)
        net, moved = raw - control, _parameters_moved(response)
        decayed = np.repeat(moved, _sizes(response.shapes))
        oscillates = _oscillates(response, decayed)
        effective_lr, unfollowed = _known_effective_lrs(response)
        windows = {"first step": slice(0, 1), **WINDOWS}
        phases = {
            name: _phase(response, name, window, effective, oscillates).of(decayed)
            for (name, window), effective in zip(windows.items(), effective_lr, strict=True)
        }
        lr, weight_decay = _of_first(response)
        features = AuditFeatures(
            lr=lr,
            weight_decay=weight_decay,
            still=not np.any(response.base.after - response.base.before[0]),
            oscillates=oscillates,
            coarse=response.coarse,
            phases=phases,
            **_memory(response, decayed),
            **_exponents(response, decayed, COMPARED),
            mismatch=_difference(response.moved, response.halved, COMPARED, oscillates),
            coupling=_difference(response.moved, response.other, COMPARED, oscillates),
            idle=0.0 if oscillates else _idle(net[WINDOWS["settled"]][:, decayed]),
            **_done_by_hand(response, decayed),
            displaced=response.displaced is not None and bool(np.any(response.displaced.after)),
            proportional=_proportional(response, net[0]),
            by_parameter=_by_parameter(phases["settled"].decay_rate, moved, response),
            undecayed=[shape for shape, moves in zip(response.shapes, moved, strict=True) if not moves],
            unfollowed=unfollowed,
            diverged=_diverged(response),
        )
        course = quantiles(net[:, decayed])
        return _meaningful(features), dict(zip(("median", "low", "high"), course, strict=True))


def _meaningful(features: AuditFeatures) -> AuditFeatures:
    """Without exponents and delay where they mean nothing: δ oscillates or is not followed, or R is a residue."""
    settled = features.phases["settled"]
    linear = not features.coarse and features.mismatch < NONLINEAR
    if linear and not features.oscillates and abs(settled.typical) > settled.residue:
        return features
    return replace(features, lr_exponent=np.nan, decay_exponent=np.nan, delay=np.nan)


def _changes_sign(change: "Track") -> NDArray:
    """Whether δ of each weight changes its sign in a step, shape (n,)."""
    with np.errstate(all="ignore"):
        return np.any((change.before * change.after < 0) & (np.abs(change.before) > READABLE), axis=0)


def _oscillates(response: "MeasuredResponse", decayed: NDArray) -> bool:
    """Whether δ of most weights changes its sign, and does not do so with λ = 0."""
    changes = _changes_sign(response.moved)
    if response.control is not None:
        changes &= ~_changes_sign(response.control)
    return bool(np.mean(changes[decayed]) > 0.5)


def _rates(change: "Track", window: slice, oscillates: bool) -> NDArray:
    """R of each weight over a window, or R of the envelope where δ oscillates."""
    rate = window_rate(change, window)
    if not oscillates or len(change.before[window]) == 1:
        return rate
    envelope = envelope_rate(change, window)
    return np.where(np.isfinite(envelope) & np.isfinite(rate), envelope, rate)


def _control_rate(response: "MeasuredResponse", window: slice, like: NDArray) -> NDArray:
    return np.zeros_like(like) if response.control is None else window_rate(response.control, window)


def _phase(response: "MeasuredResponse", name: str, window: slice, effective_lr: NDArray, oscillates: bool) -> Phase:
    """The rates of all weights in one phase."""
    raw = _rates(response.moved, window, oscillates)
    control = _control_rate(response, window, raw)
    nominal = response.lr * response.weight_decay * (0.5 if name == "lr / 2" else 1.0)
    return Phase(raw - control, control, effective_lr, nominal, response.weight_decay)


def _of_first(response: "MeasuredResponse") -> tuple[float, float]:
    """η and λ of the first weight whose λ is not 0, or of the first weight."""
    first = int(np.argmax(np.nan_to_num(response.weight_decay) != 0))
    return float(response.lr[first]), float(response.weight_decay[first])


def _known_effective_lrs(response: "MeasuredResponse") -> tuple[NDArray, str]:
    """η_eff of each phase and weight, NaN where it is unknown, as in the first step; and the reason."""
    found = response.effective_lr
    with np.errstate(all="ignore"):
        even = np.mean(np.abs(response.hard_pushed / found[0] - 1) < SAME_RATIO) >= MOST
    positive = np.mean(found > 0, axis=1) >= MOST
    complete = np.mean(np.abs(response.unfinished) < COMPLETE, axis=1) >= MOST
    known = positive & even & complete
    reason = "" if complete.all() else "the effect of a gradient lasts longer than it was followed"
    if not even:
        reason = "a change of a gradient 100 times as large does not move the weights 100 times as far"
    if not positive.all():
        reason = "steps do not follow a small change of a gradient"
    later = np.where(known[:, None] & (found > 0), found, np.nan)
    return np.vstack([np.full(found.shape[1], np.nan), later]), reason


def _sizes(shapes) -> list[int]:
    return [prod(shape) for shape in shapes]


def _by_shape(shapes, values: NDArray) -> list[NDArray]:
    """The values of all weights, parameter by parameter."""
    return np.split(values, np.cumsum(_sizes(shapes))[:-1], axis=-1)


def _parameters_moved(response: "MeasuredResponse") -> NDArray:
    """Which parameters λ moves; all parameters if λ moves none, or cannot be set to 0."""
    if response.displaced is None:
        return np.ones(len(response.shapes), bool)
    affected = np.any(response.displaced.after, axis=0) & (response.weight_decay != 0)
    moved = np.array([bool(np.any(part)) for part in _by_shape(response.shapes, affected)])
    return moved if moved.any() else ~moved


def _by_parameter(rates: NDArray, moved: NDArray, response: "MeasuredResponse") -> list[tuple[tuple[int, ...], float]]:
    """The shape of each parameter that decays, and its median R."""
    shapes = [shape for shape, moves in zip(response.shapes, moved, strict=True) if moves]
    parts = _by_shape(shapes, rates)
    return [(shape, float(quantiles(part[None])[0, 0])) for shape, part in zip(shapes, parts, strict=True)]


def _memory(response: "MeasuredResponse", decayed: NDArray) -> dict[str, float]:
    """The decay that comes after a perturbation was undone, in steps of decay: its size, and with its sign."""
    left, subtracted = (part[decayed] for part in response.echo)
    if response.control_echo is not None:
        idle = response.control_echo.left[decayed]
        left = np.sign(left - idle) * np.maximum(np.abs(left - idle) - RESIDUE * np.abs(idle), 0)
        subtracted = subtracted - response.control_echo.subtracted[decayed]
    size, after, signed = quantiles(np.array([np.abs(subtracted), np.abs(left), left]))[0]
    if not size > NOTHING:
        return {"memory": 0.0, "delay": 0.0}
    return {"memory": after / size, "delay": 0.0 - signed / size}


def _exponent(rates: NDArray, halved: NDArray, decayed: NDArray) -> float:
    """a of R ∝ xᵃ, from the rates of the run with x halved."""
    ratio = (rates / halved)[decayed]
    known = ratio[np.isfinite(ratio) & (ratio > 0)]
    return float(np.log2(np.median(known))) if len(known) else float("nan")


def _exponents(response: "MeasuredResponse", decayed: NDArray, window: slice) -> dict[str, float]:
    """The exponents of η and λ. That of η is unknown if the control responds, which has no run with η halved."""
    found = {"lr_exponent": np.nan, "decay_exponent": np.nan}
    raw = window_rate(response.moved, window)
    control = _control_rate(response, window, raw)
    if response.half_lr is not None and quantiles(np.abs(control)[None])[0, 0] <= NOTHING:
        found["lr_exponent"] = _exponent(raw, window_rate(response.half_lr, window), decayed)
    if response.half_decay is not None:
        halved = window_rate(response.half_decay, window) - control
        found["decay_exponent"] = _exponent(raw - control, halved, decayed)
    return found


def _difference(change: "Track", other: "Track", window: slice, oscillates: bool) -> float:
    """The relative difference of two rates that nearly all weights stay below.

    A difference is relative to the weight's own rate, or to the median rate if that is larger.
    """
    one, two = _rates(change, window, oscillates), _rates(other, window, oscillates)
    known = np.isfinite(one) & np.isfinite(two)
    if not known.any():
        return 0.0
    scale = np.maximum(np.abs(one), np.median(np.abs(one[known])))
    if not scale[known].all():
        return 0.0
    return float(np.percentile((np.abs(one - two) / scale)[known], MOSTLY))


def _idle(rates: NDArray) -> float:
    """The share of steps and weights without decay."""
    known = rates[np.isfinite(rates)]
    return float(np.mean(np.abs(known) <= NOTHING + IDLE * np.abs(known).mean())) if len(known) else 0.0


def _done_by_hand(response: "MeasuredResponse", decayed: NDArray) -> dict[str, bool]:
    """Whether a run with λ = 0 takes the same steps, if λθ joins the gradients or the weights are multiplied."""
    if response.displaced is None or response.joined is None or response.shrunk is None:
        return {"joins_gradient": False, "by_hand": False}
    joined = np.abs(response.joined.after).max(axis=0)
    moved = np.abs(response.displaced.after[: len(response.joined.after), decayed]).max()
    distances = np.array([joined, *response.shrunk])[:, decayed].max(axis=1)
    same = (distances <= JOINED * moved) & (moved > 0)
    return {"joins_gradient": bool(same[0]), "by_hand": bool(same[1:].any())}


def _proportional(response: "MeasuredResponse", first: NDArray) -> bool:
    """Whether λ moved the weights in the first step by −Rθ, with θ before the step or after the step."""
    if response.displaced is None:
        return True
    displaced = response.displaced.after[0]
    for theta in (response.base.before[0], response.base.after[0] - displaced):
        allowed = SAME_RATIO * np.max(np.abs(first * theta)) + NOTHING
        if (np.abs(displaced + first * theta) <= allowed).all():
            return True
    return False


def _diverged(response: "MeasuredResponse") -> int | None:
    finite = np.isfinite(response.base.after).all(axis=1)
    return None if finite.all() else int(np.argmin(finite))
