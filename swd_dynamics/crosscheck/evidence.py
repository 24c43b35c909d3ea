"""What a measured response shows of weight decay: rates, η_eff, memory, exponents, and what it can be replaced by."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.crosscheck.decay_kind import MOSTLY, NOTHING, RATIO, RESIDUE, Phase, Seen, quantiles

if TYPE_CHECKING:
    from swd_dynamics.probe.response import Course, Response

FLOOR = 1e-10  # a change of θ smaller than this is not read: round-off would be a per mille of a rate of .1
ENOUGH = 10  # steps of a window that must be readable
UNFINISHED = 0.02  # share of η_eff in the last tenth of the steps followed: that of a momentum of .97
IDLE = 1e-3  # of the mean rate: less is nothing
JOINED = 1e-5  # of what λ does to the weights: two orders of adding up may differ by, some optimizers in float32
MOST = 0.9  # of the weights must follow an impulse if η_eff is to be known


def decay_rate(change: "Course") -> NDArray:
    """R of each step and weight, 1 − δ′/δ; NaN where the change has died out. Shape (steps, n)."""
    with np.errstate(all="ignore"):
        rate = 1 - change.after / change.before
    return np.where(np.abs(change.before) > FLOOR, rate, np.nan)


def seen_in(response: "Response") -> tuple[Seen, dict[str, NDArray]]:
    """What the runs showed; and R over the steps: median, 5th and 95th percentile over the weights that are decayed."""
    from swd_dynamics.probe.response import COMPARED, WINDOWS

    with np.errstate(all="ignore"):
        raw = decay_rate(response.moved)
        control = np.zeros_like(raw) if response.control is None else decay_rate(response.control)
        net, moved = raw - control, _moved(response)
        decayed = np.repeat(moved, [int(np.prod(shape)) for shape in response.shapes])
        effective_lr, unfollowed = _effective_lrs(response)
        windows = {"first step": slice(0, 1), **WINDOWS}
        phases = {
            name: Phase(_mean(net[window]), _mean(control[window]), effective).of(decayed)
            for (name, window), effective in zip(windows.items(), effective_lr, strict=True)
        }
        seen = Seen(
            lr=response.lr,
            weight_decay=response.weight_decay,
            phases=phases,
            **_memory(response, decayed),
            **_exponents(response, raw, control, decayed, COMPARED),
            mismatch=_difference(raw, decay_rate(response.halved), COMPARED),
            coupling=_difference(raw, decay_rate(response.other), COMPARED),
            idle=_idle(net[WINDOWS["settled"]][:, decayed]),
            **_done_by_hand(response, decayed),
            displaced=response.displaced is not None and bool(np.any(response.displaced.after)),
            proportional=_proportional(response, net[0]),
            by_parameter=_by_parameter(response, _mean(net[WINDOWS["settled"]]), moved),
            undecayed=[shape for shape, moves in zip(response.shapes, moved, strict=True) if not moves],
            unfollowed=unfollowed,
            diverged=_diverged(response),
        )
        return seen, dict(zip(("median", "low", "high"), quantiles(net[:, decayed]), strict=True))


def _mean(rates: NDArray) -> NDArray:
    """Mean over the steps that can be read; NaN where they are too few."""
    readable = np.isfinite(rates)
    count = readable.sum(axis=0)
    total = np.where(readable, rates, 0.0).sum(axis=0)
    return np.where(count >= min(ENOUGH, len(rates)), total / np.maximum(count, 1), np.nan)


def _effective_lrs(response: "Response") -> tuple[NDArray, str]:
    """η_eff of each phase and weight, NaN where it is unknown, as in the first step; and why it is."""
    found = response.effective_lr
    with np.errstate(all="ignore"):
        even = np.mean(np.abs(response.half_pushed / found[0] - 1) < RATIO) >= MOST
    positive = np.mean(found > 0, axis=1) >= MOST
    done = np.mean(np.abs(response.unfinished) < UNFINISHED, axis=1) >= MOST
    known = positive & even & done
    reason = "what a gradient moves is not done within the steps it was followed" if not done.all() else ""
    if not (even and positive.all()):
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
    moved = np.array([bool(np.any(part)) for part in _split(response, response.displaced.after)])
    return moved if moved.any() else ~moved


def _by_parameter(response: "Response", rates: NDArray, moved: NDArray) -> list[tuple[tuple[int, ...], float]]:
    """The shape of each parameter that is decayed, and its median R."""
    parts = zip(response.shapes, _split(response, rates), moved, strict=True)
    return [(shape, float(quantiles(part[None])[0, 0])) for shape, part, moves in parts if moves]


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
    ratio = (_mean(rates) / _mean(halved))[decayed]
    known = ratio[np.isfinite(ratio) & (ratio > 0)]
    return float(np.log2(np.median(known))) if len(known) else float("nan")


def _exponents(
    response: "Response", raw: NDArray, control: NDArray, decayed: NDArray, window: slice
) -> dict[str, float]:
    """Of η and λ; that of η is unknown where the control responds too, since it was not run with half of η."""
    unknown = float("nan")
    found = {"lr_exponent": unknown, "decay_exponent": unknown}
    if response.half_lr is not None and quantiles(np.abs(control[window].ravel())[None])[0, 0] <= NOTHING:
        found["lr_exponent"] = _exponent(raw[window], decay_rate(response.half_lr)[window], decayed)
    if response.half_decay is not None:
        halved = decay_rate(response.half_decay)[window] - control[window]
        found["decay_exponent"] = _exponent((raw - control)[window], halved, decayed)
    return found


def _difference(rates: NDArray, others: NDArray, window: slice) -> float:
    """How far the rates of nearly all weights are within, relative to the weight's own or the median."""
    one, two = _mean(rates[window]), _mean(others[window])
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
