"""Does an optimizer take the steps of a rule in weights of a short type, to what rounding to that type allows?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from swd_dynamics.auditing.precision import InType, in_type
from swd_dynamics.crosscheck.causes import NO_CAUSE, changed_by, likely_cause
from swd_dynamics.crosscheck.near_rules import AlteredRule, NearRule
from swd_dynamics.errors import InputError
from swd_dynamics.rules.decay import mode_of
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.verdict import NOTHING, Status, Verdict
from swd_dynamics.verification.altered import altered_for, own_numbers
from swd_dynamics.verification.coverage import decay_rates
from swd_dynamics.verification.single_steps import Departures, LacksState, Roundings, single_steps

if TYPE_CHECKING:
    import xarray

# How often torch's kernels round, where they round most. Weights: the factor 1 − R, the product, the sum. Step: √v, the
# factor √(1 − β₂ᵏ), the quotient, + ε, η/(1 − β₁ᵏ), · m. State: a factor, the product, the sum. Gradient: λ, λθ, the
# sum. One rounding fewer of the weights would refute torch's own foreach kernel on a CPU.
MOST = {"weights": 3, "rate": 1, "step": 6, "state": 3, "gradient": 3}
SHARE = 0.2  # allowed of the shrinkage by decay, as an audit calls a share of .8 kept; and three standard errors
SCATTERS = 3
SEEN = 0.5  # of a step: an error that is larger must be seen in some step, or nothing was tested


@dataclass(frozen=True)
class Rounded:
    """A recorded scenario in a short type, the rule for it, and the errors divided by what rounding allows."""

    recording: "xarray.Dataset"
    altered: AlteredRule
    found: Departures

    @property
    def excess(self) -> np.ndarray:
        """The largest error of a weight or of its state in each step, divided by its limit, shape (steps,)."""
        worst = np.maximum(self.found.weights, self.found.state).max(axis=1)
        return np.nan_to_num(worst, nan=np.inf, posinf=np.inf)

    @property
    def first(self) -> int | None:
        """The first wrong step, from 1."""
        outside = self.excess > 1
        return int(np.argmax(outside)) + 1 if outside.any() else None


def verify_in_type(
    factory: Callable[..., Any],
    rule: UpdateRule,
    dtype: Any,
    *,
    steps: int,
    seed: int,
    allowed: Sequence[NearRule] = (),
) -> Verdict:
    """Compare an optimizer with a rule in weights and gradients of a type with few digits.

    There each step is judged by itself, from the recorded θ, gradient *and* state of the optimizer, weight by weight,
    as in :func:`~swd_dynamics.verification.single_steps.single_steps`: a state in a short type drifts from the exact
    state. A decay that is rounded away is within the rounding of every single step, but has one sign in all steps. So
    the optimizer also runs with decay and without, and the share of the decay that is left must be 1 ± .2.

    Returns
    -------
    Verdict
        ``measured`` is the largest error, of a step or of that share, divided by its limit. If all steps are right and
        the decay is not, ``cause`` says how it is lost and what to do. Evidence: ``excess`` and ``recording``,
        dictionaries over the scenarios, and ``in_type``.

    Raises
    ------
    InputError
        As :func:`~swd_dynamics.verification.verify.verify`.

    Notes
    -----
    Two scenarios with moderate numbers, because float16 holds no square below 6e-8. Memories other than those of SGD,
    Adam, AMSGrad and RMSprop are not known here: the verdict is then inconclusive.

    Examples
    --------
    torch's fused kernel rounds decay and step together, and so keeps the decay of R = 1e-4:

    >>> import torch
    >>> from swd_dynamics.rules import CATALOG
    >>> fused = lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.01, fused=True)
    >>> rule = CATALOG["AdamW"](lr=0.01, weight_decay=0.01)
    >>> verify_in_type(fused, rule, torch.bfloat16, steps=20, seed=0).status
    'confirmed'
    """
    from swd_dynamics.bench.scenarios import MODERATE, run_scenario
    from swd_dynamics.tensors.rounding import name_of

    recordings = [run_scenario(factory, scenario, steps, seed, dtype) for scenario in MODERATE]
    roundings = _roundings(dtype)
    name = f"verify {recordings[0].attrs['optimizer']} in {name_of(dtype)}"
    claim = f"{name.removeprefix('verify ')} takes the steps of {rule.name}, to rounding"
    reason = "; ".join(filter(None, dict.fromkeys(each.attrs["raised"] for each in recordings)))
    try:
        driven = [] if reason else [_rounded(rule, each, roundings, allowed) for each in recordings]
    except LacksState as error:
        reason = _unnamed(error.names, name_of(dtype))
    except InputError as error:
        reason = str(error)
    if reason:
        return Verdict(name, claim, 0.0, np.nan, NOTHING, "No step was compared", "inconclusive", cause=reason)
    left = _left(factory, rule, dtype)
    return _verdict(name, claim, driven, left, lambda: _cause(rule, driven, roundings, allowed))


def _unnamed(names: Sequence[str], dtype: str) -> str:
    """What to do about a piece of the optimizer's state that has none of the names by which it is found."""
    return (
        f"in {dtype} each step is judged from the optimizer's own state, but this optimizer has no state"
        f" {' or '.join(names)}: name the state as torch does (exp_avg and exp_avg_sq in Adam, momentum_buffer in"
        f" SGD), or use audit in {dtype}, which needs no names"
    )


def _roundings(dtype: Any) -> Roundings:
    from swd_dynamics.tensors.rounding import format_of

    digits, least_exponent = format_of(dtype)
    return Roundings(digits, **MOST, steps_by_stored=True, least_exponent=least_exponent)


def _rounded(
    rule: UpdateRule, recording: "xarray.Dataset", roundings: Roundings, allowed: Sequence[NearRule]
) -> Rounded:
    altered = altered_for(rule, recording, allowed)
    return Rounded(recording, altered, _departures(altered, recording, roundings))


def _departures(altered: AlteredRule, recording: "xarray.Dataset", roundings: Roundings) -> Departures:
    """The errors, with the step from the state as it was stored or before, whichever fits better."""
    ways = [replace(roundings, steps_by_stored=stored) for stored in (True, False)]
    with np.errstate(all="ignore"):
        found = [single_steps(altered, recording, each) for each in ways]
    return min(found, key=lambda each: np.nan_to_num(each.weights, nan=np.inf).max())


def _left(factory: Callable[..., Any], rule: UpdateRule, dtype: Any) -> InType | None:
    """What is left of the decay in this type; None if the rule has none or it cannot be measured."""
    from swd_dynamics.bench.interventions import bench_for
    from swd_dynamics.bench.streams import DROP

    if not np.any(rule.weight_decay):
        return None
    try:
        bench = bench_for(factory)
        rate = float(np.median(decay_rates(rule, bench.stream[1][:DROP])))
        return in_type(bench, dtype, rate, joins_gradient=mode_of(rule.decay) == "L2")
    except InputError:
        return None


def _cause(rule: UpdateRule, driven: Sequence[Rounded], roundings: Roundings, allowed: Sequence[NearRule]) -> str:
    """What explains wrong steps: the optimizer's own numbers, weights that are not finite, or a near rule."""
    own = own_numbers(
        rule,
        [each.recording for each in driven],
        lambda changed, recording: _rounded(changed, recording, roundings, allowed).first is None,
    )
    if own and own.explains:
        return own.said
    diverged = [each.recording for each in driven if each.recording.attrs["diverged_at_step"] >= 0]
    if diverged:
        return (
            f"the weights are not finite after step {diverged[0].attrs['diverged_at_step']} with"
            f" {diverged[0].attrs['scenario']}: numbers overflow, or a small square and ε are 0 in this type"
        )

    def explains(causes: Sequence[NearRule]) -> bool:
        for each in driven:
            changed = changed_by(each.altered, causes)
            if changed is None:
                return False
            try:
                found = Rounded(each.recording, changed, _departures(changed, each.recording, roundings))
            except InputError:  # a changed rule with another memory
                return False
            if found.first is not None:
                return False
        return True

    return likely_cause(explains, pairs=False)


def _verdict(
    name: str, claim: str, driven: Sequence[Rounded], left: InType | None, cause: Callable[[], str]
) -> Verdict:
    wrong = [each.first for each in driven if each.first is not None]
    worst = max(float(each.excess.max(initial=0.0)) for each in driven)
    off = 0.0 if left is None or left.verdict == "unknown" else abs(left.decay - 1) / (SHARE + SCATTERS * left.scatter)
    visible = 1 / max(float(np.nanmax(each.found.moves, initial=1e-300)) for each in driven)
    status, found = _status(bool(wrong), off, visible, left, cause)
    said = [
        _only_the_decay(left) if left is not None and off > 1 and not wrong else "",
        f"Largest error of a step: {worst:.2g} times what {MOST['weights']} roundings of the weights allow (limit: 1).",
        f"A step that is off by {100 * visible:.2g} % would be seen.",
        _decay_in_words(left, found),
        "Not tested: large and very small numbers.",
    ]
    return Verdict(
        name,
        claim,
        predicted=0.0,
        measured=max(worst, off),
        allowed=1.0,
        why=" ".join(filter(None, said)).removesuffix("."),
        status=status,
        first_departure=min(wrong, default=None),
        cause=found or None,
        evidence={
            "excess": {each.recording.attrs["scenario"]: each.excess for each in driven},
            "recording": {each.recording.attrs["scenario"]: each.recording for each in driven},
            "in_type": left,
        },
    )


def _status(
    is_wrong: bool, off: float, visible: float, left: InType | None, cause: Callable[[], str]
) -> tuple[Status, str]:
    """The status and, if the claim is not confirmed, why."""
    decay = "" if left is None else left.words
    if is_wrong:
        found = cause()
        also = f". And {decay}" if left is not None and left.is_lost and found == NO_CAUSE else ""
        return "refuted", f"{found}{also}"
    if off > 1:
        return "refuted", decay
    if visible > SEEN:
        seen = f"an error of {100 * visible:.2g} % of the largest step would not be seen"
        return "inconclusive", f"{seen}: most of each step is rounding"
    return ("inconclusive", decay) if left is not None and left.verdict == "unknown" else ("confirmed", "")


def _only_the_decay(left: InType) -> str:
    """The first sentence of a refutation whose largest error of a step is within its limit."""
    what = {"partly": "partly lost", "stronger": "too strong"}.get(left.verdict, "lost")
    return f"Each step is within rounding, but over {left.steps} steps the weight decay is {what}."


def _decay_in_words(left: InType | None, cause: str) -> str:
    """What is left of the decay, unless the cause says it."""
    if left is None:
        return "The weight decay is 0, so that its place was not tested."
    return "" if left.words in cause else f"{_sentence(left.words)}."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
