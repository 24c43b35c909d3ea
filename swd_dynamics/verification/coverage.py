"""What an optimizer was put through when it was verified, and what was therefore not tested."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import ceil, frexp, log
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from swd_dynamics.rules.shaped import shaped
from swd_dynamics.rules.update import State, UpdateRule

if TYPE_CHECKING:
    import xarray

    from swd_dynamics.crosscheck.near_rules import AlteredRule

LEFT = 0.5  # a power βᵏ above this has not had its bias correction tested; below .3 most of it has been
UNTIL = 0.3
MOST_DOUBLINGS = 60  # of λ: beyond, R is not large because η is almost 0
NOT_TRIED = "other types than float64, sparse gradients, and parameters without gradient"


class Exercised(NamedTuple):
    """The largest numbers that occurred in the scenarios of a verification.

    theta, gradient : float — |θ| and |g|
    decay_rate : float — R in the last scenario, which has the largest
    dimensions : int — of a tensor
    steps : int — of one scenario
    """

    theta: float
    gradient: float
    decay_rate: float
    dimensions: int
    steps: int


def record_scenarios(factory: Callable[[Any], Any], rule: UpdateRule, steps: int, seed: int) -> "list[xarray.Dataset]":
    """The optimizer's runs through all scenarios.

    The scenario with large numbers has half as many steps, and a λ in its first group so that the rule's R comes to
    between ½ and 1. It is omitted if another scenario raised, and repeated without its empty tensor if it raises or
    diverges. Its recording has the attributes ``optional``, as the other scenarios may be judged where it raises, and
    ``empty``: what an empty tensor did, or nothing.
    """
    from swd_dynamics.bench.scenarios import LARGE, SCENARIOS, run_scenario  # torch only when it is needed

    recordings = [run_scenario(factory, scenario, steps, seed) for scenario in SCENARIOS]
    if any(recording.attrs["raised"] for recording in recordings):
        return recordings
    steps = max(2, steps // 2)
    large = LARGE.of_matrices() if recordings[0].attrs["matrices"] else LARGE
    factor = _decay_factor(shaped(rule, large.all_shapes), large.gradients(steps, seed))
    large = replace(large, weight_decay=(factor, 1.0))
    recording, empty = run_scenario(factory, large, steps, seed), ""
    ended = _ended(recording)
    if ended:
        recording = run_scenario(factory, large.without_empty_tensors(), steps, seed)
        empty = "" if _ended(recording) else ended
    return [*recordings, recording.assign_attrs(optional=1, empty=empty)]


def _ended(recording: "xarray.Dataset") -> str:
    """Why a run ended before its last step; nothing if it did not."""
    diverged = recording.attrs["diverged_at_step"]
    return recording.attrs["raised"] or (f"the weights diverge at step {diverged}" if diverged >= 0 else "")


def exercised(last: "AlteredRule", recordings: "Sequence[xarray.Dataset]") -> Exercised:
    """The largest numbers that occurred; R by the rule of the last scenario."""
    return Exercised(
        theta=_largest(recording["theta"].values for recording in recordings),
        gradient=_largest(recording["gradient"].values for recording in recordings),
        decay_rate=_largest([decay_rates(last.rule, recordings[-1]["gradient"].values)]),
        dimensions=max(recording.attrs["dimensions"] for recording in recordings),
        steps=max(recording.sizes["step"] for recording in recordings),
    )


def decay_rates(rule: UpdateRule, gradients: np.ndarray) -> np.ndarray:
    """The largest R of each step under these gradients; ηλ where decay joins the gradient. Shape (steps,).

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> decay_rates(CATALOG["SGDS"](lr=0.5, momentum=0.5, weight_decay=0.25), np.ones((2, 3))).tolist()
    [0.25, 0.25]
    """
    state, found = rule.start(np.zeros(gradients.shape[1])), np.zeros(len(gradients))
    for k, gradient in enumerate(gradients):
        with np.errstate(all="ignore"):
            parts = rule.parts(State(0 * state.theta, state.memory, k), gradient)
        state = parts.state
        rate = np.max(np.abs(parts.decay_rate)) or np.max(np.abs(rule.lr_at(k) * rule.weight_decay))
        found[k] = rate if np.isfinite(rate) else 0.0
    return found


def _decay_factor(rule: UpdateRule, gradients: np.ndarray) -> float:
    """The power of 2 by which λ must be multiplied so that the largest R is above ½, and at most 1."""
    largest = float(decay_rates(rule, gradients).max(initial=0.0))
    doublings = -frexp(largest)[1] if largest > 0 else 0  # frexp gives the exponent of the power of 2 above
    return 2.0**doublings if abs(doublings) <= MOST_DOUBLINGS else 1.0


def _largest(values: "Iterable[np.ndarray]") -> float:
    """The largest absolute value, among those that are finite."""
    finite = [np.abs(each[np.isfinite(each)]).max(initial=0.0) for each in values]
    return float(max(finite))


def not_tested(seen: Exercised, rule: UpdateRule) -> str:
    """What a confirmed rule may still do otherwise, in a sentence."""
    limits = [f"|θ| > {seen.theta:.2g}", f"|g| > {seen.gradient:.2g}"]
    if seen.decay_rate:
        limits.append(f"R > {seen.decay_rate:.2g}")
    limits += [f"tensors of more than {seen.dimensions} dimensions", NOT_TRIED]
    limits.append(f"steps after the first {seen.steps} of a scenario")
    said = f"Not tested: {', '.join(limits)}"
    return f"{said} ({'; '.join(_unfinished(rule, seen.steps))})." if any(_unfinished(rule, seen.steps)) else f"{said}."


def _unfinished(rule: UpdateRule, steps: int) -> Iterator[str]:
    """The running mean that has not settled after so many steps, and how many steps it would need."""
    betas = getattr(rule.direction, "betas", ())
    slowest = max((float(beta) for beta in betas if 0 < beta < 1), default=0.0)
    if slowest and slowest**steps > LEFT:
        needed = ceil(log(UNTIL) / log(slowest))
        left = f"{slowest:g}^{steps} = {slowest**steps:.2g}"
        yield f"bias corrections have not ended, because {left}: give steps={needed}, or --steps {needed}"
