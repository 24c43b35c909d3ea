"""How the features of weight decay are read from a measured response."""

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.auditing.features import (
    LATE,
    MOSTLY,
    NONLINEAR,
    RESIDUE,
    SAME_RATIO,
    AuditFeatures,
    Phase,
    quantiles,
)
from swd_dynamics.auditing.rates import Reader
from swd_dynamics.bench.precision import DOUBLE, TYPES

if TYPE_CHECKING:
    from swd_dynamics.bench.drive import Shape
    from swd_dynamics.bench.interventions import Track
    from swd_dynamics.bench.response import MeasuredResponse

CLEAR = 10.0  # in units of the round-off: what is smaller cannot be told from 0, or one kind from another
IDLE = 1e-3  # of the mean rate: a rate below this counts as no decay
# Of what λ does to the weights: two runs that differ by less take the same steps. Their sums are formed in another
# order, in some optimizers in float32.
JOINED = 1e-5


def features_of(response: "MeasuredResponse") -> tuple[AuditFeatures, dict[str, NDArray]]:
    """The features of a response; and R over the steps: ``median``, ``low`` and ``high``, each of shape (steps,).

    The three are the median, the 5th and the 95th percentile over the weights that decay.
    """
    from swd_dynamics.bench.response import ENOUGH

    with np.errstate(all="ignore"):
        alive = np.any(response.base.after != response.base.before[0], axis=0)
        moved = _parameters_moved(response, alive)
        decayed = np.repeat(moved, _sizes(response.shapes))
        reader = Reader(response.readable, response.pace * ENOUGH, held=response.held)
        reader = replace(reader, oscillates=not response.held and _oscillates(reader, response, decayed))
        raw = reader.steps(response.moved)
        net = raw - (np.zeros_like(raw) if response.control is None else reader.steps(response.control))
        effective_lr, unfollowed = _known_effective_lrs(response, alive)
        windows = {"first step": slice(0, 1), **response.windows()}
        phases = {
            name: _phase(reader, response, name, window, effective).of(decayed)
            for (name, window), effective in zip(windows.items(), effective_lr, strict=True)
        }
        lr, weight_decay = _of_first(response)
        kept = _kept(reader, response)
        features = AuditFeatures(
            lr=lr,
            weight_decay=weight_decay,
            given=response.given,
            still=not alive.any(),
            oscillates=reader.oscillates,
            held=response.held,
            coarse=response.coarse,
            rounded=TYPES.get(response.unit, ""),
            ascends=response.ascends,
            noise=response.noise,
            phases=phases,
            **_memory(response, decayed),
            **_exponents(reader, response, decayed),
            mismatch=_difference(reader, response, response.halved),
            coupling=_difference(reader, response, response.other),
            idle=0.0 if reader.oscillates else _idle(net[windows["settled"]][:, decayed], response.noise),
            **_done_by_hand(response, decayed),
            displaced=response.displaced is not None and bool(np.any(response.displaced.after)),
            proportional=_proportional(response, net[0]),
            by_parameter=_by_parameter(phases["settled"].decay_rate, moved, response),
            **_without_decay(response, moved, alive, kept),
            kept=kept,
            unfollowed=unfollowed,
            pushed=response.impulses.push.strength if response.impulses.push.strong else np.nan,
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


def _oscillates(reader: Reader, response: "MeasuredResponse", decayed: NDArray) -> bool:
    """Whether δ of most weights changes its sign, and does not do so with λ = 0."""
    changes = reader.changes_sign(response.moved)
    if response.control is not None:
        changes &= ~reader.changes_sign(response.control)
    return bool(np.mean(changes[decayed]) > 0.5)


def _control_rate(reader: Reader, response: "MeasuredResponse", window: slice, like: NDArray) -> NDArray:
    return np.zeros_like(like) if response.control is None else reader.mean(response.control, window)


def _phase(reader: Reader, response: "MeasuredResponse", name: str, window: slice, effective_lr: NDArray) -> Phase:
    """The rates of all weights in one phase."""
    raw = reader.rates(response.moved, window)
    control = _control_rate(reader, response, window, raw)
    nominal = response.lr * response.weight_decay * (0.5 if name == "lr / 2" else 1.0)
    return Phase(raw - control, control, effective_lr, nominal, response.weight_decay, response.noise)


def _of_first(response: "MeasuredResponse") -> tuple[float, float]:
    """η and λ of the first weight whose λ is not 0, or of the first weight."""
    first = int(np.argmax(np.nan_to_num(response.weight_decay) != 0))
    return float(response.lr[first]), float(response.weight_decay[first])


def _known_effective_lrs(response: "MeasuredResponse", alive: NDArray) -> tuple[NDArray, str]:
    """η_eff of each phase and weight, NaN where it is unknown, as in the first step; and the reason.

    Weights that never move are left out. Of an optimizer that ascends, η_eff is that of the descent with −g.
    """
    alive = alive if alive.any() else ~alive
    impulses = response.impulses
    found = np.where(alive, -impulses.effective_lr if response.ascends else impulses.effective_lr, np.nan)
    share, even = impulses.allowed.share, impulses.even
    if impulses.push.strong:
        found = np.where(even, found, np.nan)
        alive = alive & even if np.mean(even[alive]) >= share else alive
    positive = np.mean((found > 0)[:, alive], axis=1) >= share
    complete = np.mean((np.abs(impulses.unfinished) < impulses.allowed.missing)[:, alive], axis=1) >= share
    is_even = np.mean(even[alive]) >= share
    reason = "" if complete.all() else LATE
    if not is_even:
        reason = "a large change of a gradient does not move the weights in proportion to a small one"
    if not positive.all():
        reason = "steps do not follow a small change of a gradient"
    known = positive & is_even & complete
    later = np.where(known[:, None] & (found > 0), found, np.nan)
    return np.vstack([np.full(found.shape[1], np.nan), later]), reason


def _sizes(shapes) -> list[int]:
    return [prod(shape) for shape in shapes]


def _by_shape(shapes, values: NDArray) -> list[NDArray]:
    """The values of all weights, parameter by parameter."""
    return np.split(values, np.cumsum(_sizes(shapes))[:-1], axis=-1)


def _parameters_moved(response: "MeasuredResponse", alive: NDArray) -> NDArray:
    """Which parameters λ moves; all parameters that move if λ moves none, or cannot be set to 0."""
    moving = _has_any(response, alive)
    if response.displaced is None:
        return moving if moving.any() else ~moving
    affected = np.any(response.displaced.after, axis=0) & (response.weight_decay != 0)
    moved = _has_any(response, affected)
    return next(filter(np.any, (moved, moving)), ~moving)


def _has_any(response: "MeasuredResponse", of_weights: NDArray) -> NDArray:
    """For each parameter, whether something is true of any of its weights."""
    return np.array([bool(np.any(part)) for part in _by_shape(response.shapes, of_weights)])


def _kept(reader: Reader, response: "MeasuredResponse") -> list[tuple["Shape", float]]:
    """The parameters that λ does not move, and whose perturbation shrinks with λ = 0, each with its median R.

    In every phase nearly all of their weights must shrink. Where a step only depends on ‖θ‖, as many grow.
    """
    if np.isnan(response.weight_decay).all():
        return []
    track = response.moved if response.control is None else response.control
    rates = [reader.mean(track, window) for window in response.windows().values()]
    shrink = np.min(rates, axis=0) > response.noise
    idle = np.zeros(len(shrink)) if response.displaced is None else np.any(response.displaced.after, axis=0)
    parts = (_by_shape(response.shapes, values) for values in (shrink, idle, rates[0]))
    return [
        (shape, float(np.nanmedian(rate)))
        for shape, shrinks, moved, rate in zip(response.shapes, *parts, strict=True)
        if not moved.any() and 100 * shrinks.mean() >= MOSTLY
    ]


def _without_decay(response: "MeasuredResponse", moved: NDArray, alive: NDArray, kept: list) -> dict[str, Any]:
    """The shapes of the parameters that move and do not decay, and of those that never move."""
    each = list(zip(response.shapes, moved, _has_any(response, alive), strict=True))
    decaying = [shape for shape, _ in kept]
    return {
        "undecayed": [shape for shape, decays, moves in each if moves and not decays and shape not in decaying],
        "unmoved": [shape for shape, _, moves in each if not moves],
    }


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
    if not size > response.noise:
        return {"memory": 0.0, "delay": 0.0}
    return {"memory": max(0.0, after - response.noise) / size, "delay": 0.0 - signed / size}


def _exponent(rates: NDArray, halved: NDArray, decayed: NDArray) -> float:
    """a of R ∝ xᵃ, from the rates of the run with x halved."""
    ratio = (rates / halved)[decayed]
    known = ratio[np.isfinite(ratio) & (ratio > 0)]
    return float(np.log2(np.median(known))) if len(known) else float("nan")


def _exponents(reader: Reader, response: "MeasuredResponse", decayed: NDArray) -> dict[str, float]:
    """The exponents of η and λ. That of η is unknown if the control responds, which has no run with η halved."""
    found = {"lr_exponent": np.nan, "decay_exponent": np.nan}
    window = response.compared()
    raw = reader.mean(response.moved, window)
    control = _control_rate(reader, response, window, raw)
    if response.half_lr is not None and quantiles(np.abs(control)[None])[0, 0] <= response.noise:
        found["lr_exponent"] = _exponent(raw, reader.mean(response.half_lr, window), decayed)
    if response.half_decay is not None:
        halved = reader.mean(response.half_decay, window) - control
        found["decay_exponent"] = _exponent(raw - control, halved, decayed)
    return found


def _difference(reader: Reader, response: "MeasuredResponse", other: "Track") -> float:
    """The relative difference of two rates that nearly all weights stay below.

    A difference is relative to the weight's own rate, or to the median rate if that is larger.
    """
    one, two = (reader.rates(change, response.compared()) for change in (response.moved, other))
    known = np.isfinite(one) & np.isfinite(two)
    if not known.any():
        return 0.0
    median = np.median(np.abs(one[known]))
    scale = np.maximum(np.abs(one), median)
    if not scale[known].all() or (response.unit > DOUBLE and median < response.noise):
        return 0.0
    return float(np.percentile((np.abs(one - two) / scale)[known], MOSTLY))


def _idle(rates: NDArray, noise: float) -> float:
    """The share of steps and weights without decay; 0 where rates cannot be told from round-off."""
    known = np.abs(rates[np.isfinite(rates)])
    if not len(known) or known.mean() < CLEAR * noise:
        return 0.0
    return float(np.mean(known <= noise + IDLE * known.mean()))


def _rounding(response: "MeasuredResponse", steps: int) -> float:
    """How far two runs may differ after some steps by round-off alone."""
    return response.noise * response.size * steps**0.5


def _done_by_hand(response: "MeasuredResponse", decayed: NDArray) -> dict[str, Any]:
    """Whether a run with λ = 0 takes the same steps, if λθ joins the gradients or the weights are multiplied."""
    if response.displaced is None or response.joined is None or response.shrunk is None:
        return {"joins_gradient": False, "by_hand": False, "masked": np.nan, "follows": ""}
    steps = len(response.joined.after)
    joined = np.abs(response.joined.after).max(axis=0)
    moved = np.abs(response.displaced.after[:steps, decayed]).max()
    rounding = _rounding(response, steps) if response.unit > DOUBLE else 0.0

    def is_same(distance: NDArray) -> bool:
        return bool(distance[decayed].max() <= JOINED * moved + rounding) and bool(moved > CLEAR * rounding)

    return {
        "joins_gradient": is_same(joined),
        "by_hand": any(map(is_same, response.shrunk)),
        "masked": next((unit for unit, distance in response.masked if is_same(distance)), np.nan),
        "follows": next((name for name, distance in response.followed.items() if is_same(distance)), ""),
    }


def _proportional(response: "MeasuredResponse", first: NDArray) -> bool:
    """Whether λ moved the weights in the first step by −Rθ, with θ before the step or after the step."""
    if response.displaced is None:
        return True
    displaced, first = response.displaced.after[0], np.nan_to_num(first)
    for theta in (response.base.before[0], response.base.after[0] - displaced):
        allowed = SAME_RATIO * np.max(np.abs(first * theta)) + response.noise * max(response.size, np.abs(theta).max())
        if (np.abs(displaced + first * theta) <= allowed).all():
            return True
    return False


def _diverged(response: "MeasuredResponse") -> int | None:
    finite = np.isfinite(response.base.after).all(axis=1)
    return None if finite.all() else int(np.argmin(finite))
