"""What a measured response shows of weight decay: rates, η_eff, memory, exponents, and what it can be replaced by."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.auditing.kind import (
    MOSTLY,
    NONLINEAR,
    NOTHING,
    RATIO,
    RESIDUE,
    Phase,
    Seen,
    quantiles,
)

if TYPE_CHECKING:
    from swd_dynamics.bench.response import Course, Response

FLOOR = 1e-10  # a change of θ smaller than this is not read: round-off would be a per mille of a rate of .1
ENOUGH = 10  # steps of a window that must be readable
UNFINISHED = 0.02  # share of η_eff that may be missing: as far as rates that are one may differ
SINGULAR = 1e-6  # a change that shrinks by one factor follows many rules of two steps; beside round-off of 1e-9
IDLE = 1e-3  # of the mean rate: less is nothing
JOINED = 1e-5  # of what λ does to the weights: two orders of adding up may differ by, some optimizers in float32
MOST = 0.9  # of the weights must follow an impulse if η_eff is to be known


def decay_rate(change: "Course") -> NDArray:
    """R of each step and weight, 1 − δ′/δ; NaN where the change has died out. Shape (steps, n)."""
    with np.errstate(all="ignore"):
        rate = 1 - change.after / change.before
    return np.where(np.abs(change.before) > FLOOR, rate, np.nan)


def window_rate(change: "Course", window: slice) -> NDArray:
    """R of each weight over a window, 1 − (|δ_end|/|δ_start|)^(1/W), as long as δ can be read. Shape (n,)."""
    before, after = change.before[window], change.after[window]
    if len(before) == 1:
        return decay_rate(change)[window][0]
    readable = np.abs(before) > FLOOR
    last = len(before) - 1 - np.argmax(readable[::-1], axis=0)
    with np.errstate(all="ignore"):
        left = np.abs(np.take_along_axis(after, last[None], axis=0)[0] / before[0])
        rate = 1 - left ** (1 / (last + 1))
    return np.where(readable[0] & (last + 1 >= ENOUGH), rate, np.nan)


def envelope_rate(change: "Course", window: slice) -> NDArray:
    """1 − √b of each weight whose δ″ = aδ′ − bδ, b > 0, has complex roots; 1 − the larger one of real roots."""
    course = np.nan_to_num(change.before[window].T, posinf=0.0, neginf=0.0)
    pairs = np.stack([course[:, 1:-1], -course[:, :-2]], axis=-1)
    a, b = (np.linalg.pinv(pairs, rcond=SINGULAR) @ course[:, 2:, None])[..., 0].T
    with np.errstate(all="ignore"):
        real = (np.abs(a) + np.sqrt(np.maximum(a**2 - 4 * b, 0.0))) / 2
        return 1 - np.where(b > 0, np.where(a**2 < 4 * b, np.sqrt(b), real), np.nan)


def _crossing(change: "Course") -> NDArray:
    """Which weights' δ changes its sign in a step."""
    with np.errstate(all="ignore"):
        return np.any((change.before * change.after < 0) & (np.abs(change.before) > FLOOR), axis=0)


def _oscillates(response: "Response", decayed: NDArray) -> bool:
    """Whether δ of most weights changes its sign, and does not with λ = 0."""
    crossing = _crossing(response.moved)
    if response.control is not None:
        crossing &= ~_crossing(response.control)
    return bool(np.mean(crossing[decayed]) > 0.5)


def _windowed(change: "Course", window: slice, oscillates: bool) -> NDArray:
    """R of each weight over a window, that of the envelope where δ oscillates."""
    rate = window_rate(change, window)
    if not oscillates or len(change.before[window]) == 1:
        return rate
    envelope = envelope_rate(change, window)
    return np.where(np.isfinite(envelope) & np.isfinite(rate), envelope, rate)


def seen_in(response: "Response") -> tuple[Seen, dict[str, NDArray]]:
    """What the runs showed; and R over the steps: median, 5th and 95th percentile over the weights that are decayed."""
    from swd_dynamics.bench.response import COMPARED, WINDOWS

    with np.errstate(all="ignore"):
        raw = decay_rate(response.moved)
        control = np.zeros_like(raw) if response.control is None else decay_rate(response.control)
        net, moved = raw - control, _moved(response)
        decayed = np.repeat(moved, [int(np.prod(shape)) for shape in response.shapes])
        oscillates = _oscillates(response, decayed)
        effective_lr, unfollowed = _effective_lrs(response)
        windows = {"first step": slice(0, 1), **WINDOWS}
        phases = {
            name: _phase(response, name, window, effective, oscillates).of(decayed)
            for (name, window), effective in zip(windows.items(), effective_lr, strict=True)
        }
        lr, weight_decay = _of_first(response)
        mismatch = _difference(response.moved, response.halved, COMPARED, oscillates)
        seen = Seen(
            lr=lr,
            weight_decay=weight_decay,
            still=not np.any(response.base.after - response.base.before[0]),
            oscillates=oscillates,
            coarse=response.coarse,
            phases=phases,
            **_memory(response, decayed),
            **_exponents(response, decayed, COMPARED),
            mismatch=mismatch,
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
        return _telling(seen), dict(zip(("median", "low", "high"), quantiles(net[:, decayed]), strict=True))


def _telling(seen: Seen) -> Seen:
    """Without exponents and delay where they say nothing: δ oscillates, is not followed, or R is a residue."""
    settled = seen.phases["settled"]
    linear = not seen.coarse and seen.mismatch < NONLINEAR
    if linear and not seen.oscillates and abs(settled.typical) > settled.residue:
        return seen
    return replace(seen, lr_exponent=np.nan, decay_exponent=np.nan, delay=np.nan)


def _phase(response: "Response", name: str, window: slice, effective_lr: NDArray, oscillates: bool) -> Phase:
    """What was seen of all weights in one phase."""
    raw = _windowed(response.moved, window, oscillates)
    control = np.zeros_like(raw) if response.control is None else window_rate(response.control, window)
    nominal = response.lr * response.weight_decay * (0.5 if name == "lr / 2" else 1.0)
    return Phase(raw - control, control, effective_lr, nominal, response.weight_decay)


def _of_first(response: "Response") -> tuple[float, float]:
    """η and λ of the first weight that has a λ other than 0, or of the first."""
    first = int(np.argmax(np.nan_to_num(response.weight_decay) != 0))
    return float(response.lr[first]), float(response.weight_decay[first])


def _effective_lrs(response: "Response") -> tuple[NDArray, str]:
    """η_eff of each phase and weight, NaN where it is unknown, as in the first step; and why it is."""
    found = response.effective_lr
    with np.errstate(all="ignore"):
        even = np.mean(np.abs(response.hard_pushed / found[0] - 1) < RATIO) >= MOST
    positive = np.mean(found > 0, axis=1) >= MOST
    done = np.mean(np.abs(response.unfinished) < UNFINISHED, axis=1) >= MOST
    known = positive & even & done
    reason = "what a gradient moves is not done within the steps it was followed" if not done.all() else ""
    if not even:
        reason = "a change of a gradient 100 times as large does not move the weights 100 times as far"
    if not positive.all():
        reason = "steps do not follow a small change of a gradient"
    later = np.where(known[:, None] & (found > 0), found, np.nan)
    return np.vstack([np.full(found.shape[1], np.nan), later]), reason


def _split(response: "Response", values: NDArray) -> list[NDArray]:
    """Values of all weights, parameter by parameter."""
    sizes = [int(np.prod(shape)) for shape in response.shapes]
    return np.split(values, np.cumsum(sizes)[:-1], axis=-1)


def _moved(response: "Response") -> NDArray:
    """Which parameters λ moves at all; all of them where it moves none, or cannot be set to 0."""
    if response.displaced is None:
        return np.ones(len(response.shapes), bool)
    affected = np.any(response.displaced.after, axis=0) & (response.weight_decay != 0)
    moved = np.array([bool(np.any(part)) for part in _split(response, affected)])
    return moved if moved.any() else ~moved


def _by_parameter(rates: NDArray, moved: NDArray, response: "Response") -> list[tuple[tuple[int, ...], float]]:
    """The shape of each parameter that is decayed, and its median R."""
    shapes = [shape for shape, moves in zip(response.shapes, moved, strict=True) if moves]
    parts = np.split(rates, np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
    return [(shape, float(quantiles(part[None])[0, 0])) for shape, part in zip(shapes, parts, strict=True)]


def _memory(response: "Response", decayed: NDArray) -> dict[str, float]:
    """Steps' worth of decay that come after a change was taken back."""
    left, taken_off = (part[decayed] for part in response.echo)
    if response.control_echo is not None:
        idle = response.control_echo.left[decayed]
        left = np.sign(left - idle) * np.maximum(np.abs(left - idle) - RESIDUE * np.abs(idle), 0)
        taken_off = taken_off - response.control_echo.taken_off[decayed]
    size, after, signed = quantiles(np.array([np.abs(taken_off), np.abs(left), left]))[0]
    if not size > NOTHING:
        return {"memory": 0.0, "delay": 0.0}
    return {"memory": after / size, "delay": 0.0 - signed / size}


def _exponent(rates: NDArray, halved: NDArray, decayed: NDArray) -> float:
    """a of R ∝ ηᵃ, from the run with half of it."""
    ratio = (rates / halved)[decayed]
    known = ratio[np.isfinite(ratio) & (ratio > 0)]
    return float(np.log2(np.median(known))) if len(known) else float("nan")


def _exponents(response: "Response", decayed: NDArray, window: slice) -> dict[str, float]:
    """Of η and λ; that of η is unknown where the control responds too, since it was not run with half of η."""
    unknown = float("nan")
    found = {"lr_exponent": unknown, "decay_exponent": unknown}
    raw = window_rate(response.moved, window)
    control = np.zeros_like(raw) if response.control is None else window_rate(response.control, window)
    if response.half_lr is not None and quantiles(np.abs(control)[None])[0, 0] <= NOTHING:
        found["lr_exponent"] = _exponent(raw, window_rate(response.half_lr, window), decayed)
    if response.half_decay is not None:
        halved = window_rate(response.half_decay, window) - control
        found["decay_exponent"] = _exponent(raw - control, halved, decayed)
    return found


def _difference(change: "Course", other: "Course", window: slice, oscillates: bool) -> float:
    """How far the rates of nearly all weights are within, relative to the weight's own or the median."""
    one, two = _windowed(change, window, oscillates), _windowed(other, window, oscillates)
    known = np.isfinite(one) & np.isfinite(two)
    if not known.any() or not (scale := np.maximum(np.abs(one), np.median(np.abs(one[known]))))[known].all():
        return 0.0
    return float(np.percentile((np.abs(one - two) / scale)[known], MOSTLY))


def _idle(rates: NDArray) -> float:
    """The share of steps and weights in which nothing is taken off."""
    known = rates[np.isfinite(rates)]
    return float(np.mean(np.abs(known) <= NOTHING + IDLE * np.abs(known).mean())) if len(known) else 0.0


def _done_by_hand(response: "Response", decayed: NDArray) -> dict[str, bool]:
    """Whether λθ in the gradients, or weights made smaller, with λ = 0 lead where λ does."""
    if response.displaced is None or response.joined is None or response.shrunk is None:
        return {"joins_gradient": False, "by_hand": False}
    joined = np.abs(response.joined.after).max(axis=0)
    moved = np.abs(response.displaced.after[: len(response.joined.after), decayed]).max()
    distances = np.array([joined, *response.shrunk])[:, decayed].max(axis=1)
    same = (distances <= JOINED * moved) & (moved > 0)
    return {"joins_gradient": bool(same[0]), "by_hand": bool(same[1:].any())}


def _proportional(response: "Response", first: NDArray) -> bool:
    """Whether λ moved the weights in the first step by −Rθ, θ before the step or after it."""
    if response.displaced is None:
        return True
    displaced = response.displaced.after[0]
    for theta in (response.base.before[0], response.base.after[0] - displaced):
        allowed = RATIO * np.max(np.abs(first * theta)) + NOTHING
        if (np.abs(displaced + first * theta) <= allowed).all():
            return True
    return False


def _diverged(response: "Response") -> int | None:
    finite = np.isfinite(response.base.after).all(axis=1)
    return None if finite.all() else int(np.argmin(finite))
