"""Does an optimizer do what its paper says? It takes steps, and each of them is compared with the rule's step."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from swd_dynamics.arithmetic import is_symbolic
from swd_dynamics.checks import whole_number
from swd_dynamics.crosscheck.causes import (
    cause_in_words,
    changed_by,
    explaining,
    not_all,
    takes_every_step,
)
from swd_dynamics.crosscheck.near_rules import NEAR_RULES, AlteredRule, NearRule
from swd_dynamics.crosscheck.recorded_rule import rule_of_optimizer
from swd_dynamics.crosscheck.stepping import departure_of, largest_error, own_steps, relative, wrong_by
from swd_dynamics.errors import InputError
from swd_dynamics.rules.catalog import Entry
from swd_dynamics.rules.decay import DECAYS
from swd_dynamics.rules.gate import entry_of
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.verdict import NOTHING, Verdict, judge
from swd_dynamics.verification.altered import OwnNumbers, altered_for, chosen_near_rules, own_numbers
from swd_dynamics.verification.coverage import Exercised, exercised, not_tested, record_scenarios
from swd_dynamics.verification.in_type import verify_in_type
from swd_dynamics.verification.round_off import allowed_round_off

if TYPE_CHECKING:
    import xarray

# In some step the weights must move by so many times what rounding can explain. With a tenth of it, a step that is 1 %
# off would be confirmed.
RESOLVED = 1000.0
ASK_AUDIT = "If the difference is in the weight decay, audit may name it"
READ_GROUPS = (
    "The steps are right with one group at constant η: check that lr and weight_decay are read from the parameter group"
    " in each step, and that a gradient which the optimizer keeps is a copy"
)
MOST_STEPS = 100_000  # of a scenario: their gradients are a few dozen megabytes, and pairs of near rules take minutes


def verify(
    factory: Callable[..., Any],
    rule: UpdateRule | Entry | str,
    *,
    steps: int = 200,
    seed: int = 0,
    allow: str | Sequence[str] = (),
    dtype: Any = None,
    **arguments: Any,
) -> Verdict:
    """Compare a torch optimizer with a rule, step by step: does it do what its paper says?

    The optimizer is put through the scenarios of :data:`swd_dynamics.bench.scenarios.SCENARIOS`, in float64. The
    gradients are fixed beforehand: large and small, of changing sign, with zeros. There is one parameter group first,
    then two groups with their own η and λ on a schedule, then large weights and gradients, tensors of up to four
    dimensions and a λ that makes R large, in half as many steps. Every step is compared as in
    :func:`~swd_dynamics.crosscheck.replay.replay`, from the optimizer's own θ. Where the steps differ, the rule is
    tried with the optimizer's own numbers (η, λ, β, ε, … of its parameter group), then the near rules of
    :data:`~swd_dynamics.crosscheck.near_rules.NEAR_RULES`, and pairs of near rules. A change of the rule is the
    cause if the changed rule takes *every* step, to round-off.

    Parameters
    ----------
    factory : callable (parameters, **arguments) → torch.optim.Optimizer
        The optimizer's class, or a function. It takes parameters, or parameter groups. If it takes no groups, there is
        one group.
    rule : UpdateRule, or the name of a rule in CATALOG
        With one η and one λ, the numbers that the factory gives the optimizer. A name, as "AdamW", stands for the rule
        with the optimizer's own numbers.
    steps : int
        Number of steps of each scenario, from 2 to 100 000. Bias corrections may last longer than 200 steps, for
        example with β₂ = .999. Then give more steps, because later steps are not tested.
    seed : int
        Seed of the weights and the gradients.
    allow : str or sequence of str
        Names of near rules that do not count as a mistake, for example "eps-on-mean-root": the rule is changed so
        before it is compared.
    dtype : torch.dtype or str, optional
        Type of the weights and gradients, if not float64: "float32", "bfloat16" or "float16". Every step is then
        compared with what rounding to that type allows, and the decay over many steps besides, see
        :func:`~swd_dynamics.verification.in_type.verify_in_type`.
    **arguments
        Arguments of the optimizer, as ``lr=1e-2``, in place of a factory that has them.

    Returns
    -------
    Verdict
        Confirmed if the error is at most 8·eps·√k at every step k (where the rule is ill-conditioned, more: see
        :func:`~swd_dynamics.verification.round_off.allowed_round_off`); ``measured`` is the largest error divided by
        this limit. Else refuted: ``first_departure`` is the first wrong step (from 1) in any scenario, ``cause``
        a change of the rule that explains all steps, or "unknown"; ``near_rules`` has its name for ``allow``.
        Inconclusive, with the reason as ``cause``, if the
        optimizer cannot be driven, or if no step moves the weights by a thousand times what rounding can explain.
        ``why`` says what was not tested. Evidence: ``departure``, ``allowed`` and ``recording``, dictionaries over
        the scenarios; where no step is wrong also ``exercised``, the largest numbers that occurred.

    Raises
    ------
    InputError
        If the factory makes no torch optimizer, or splits its parameters into groups; if the rule has a schedule or
        arrays, or ``allow`` has no place in the rule.

    Notes
    -----
    A rule without weight decay cannot tell where decay enters. Parameters without any gradient are not tested: torch
    does not change them, and counts their steps separately, but a rule has one count for all. Causes are looked for
    in plain SGD, heavy ball, Nesterov, Adam and AMSGrad; in other directions only the decay is changed.

    Examples
    --------
    >>> import torch
    >>> from swd_dynamics.rules import CATALOG
    >>> adamw = lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1)
    >>> verify(adamw, CATALOG["AdamW"](lr=0.01, weight_decay=0.1), steps=20).passed
    True
    >>> verdict = verify(adamw, CATALOG["AdamS"](lr=0.01, weight_decay=0.1), steps=20)
    >>> verdict.first_departure, verdict.cause
    (1, 'weight decay is decoupled: R = ηλ; this is AdamW')
    >>> single = lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.01, foreach=False)
    >>> verify(single, "AdamW", steps=20, dtype="bfloat16").cause.split(":")[0]
    'in bfloat16 the weight decay is rounded away'
    """
    from swd_dynamics.bench.drive import with_arguments  # torch only when it is needed
    from swd_dynamics.tensors.rounding import DTYPES, dtype_of

    factory = with_arguments(factory, arguments)
    rule = rule_of_optimizer(rule, factory)
    _check(rule)
    steps, seed = whole_number("steps", steps, 2, MOST_STEPS), whole_number("seed", seed)
    allowed = chosen_near_rules(allow, rule)
    wanted = None if dtype is None else dtype_of(dtype)
    if wanted not in (None, DTYPES["float64"]):
        return verify_in_type(factory, rule, wanted, steps=steps, seed=seed, allowed=allowed)
    driven = [_compared(rule, recording, allowed) for recording in record_scenarios(factory, rule, steps, seed)]
    return _verdict(rule, driven, _own_numbers(rule, driven, allowed))


class Comparison(NamedTuple):
    """A recorded scenario, the rule with the scenario's factors on η and λ, and their difference at each step.

    departure, allowed : array, shape (steps,) — the difference and the largest allowed one, relative to ‖θ‖
    """

    recording: "xarray.Dataset"
    altered: AlteredRule
    departure: np.ndarray
    allowed: np.ndarray

    @property
    def scenario(self) -> str:
        """The name of the scenario."""
        return self.recording.attrs["scenario"]

    @property
    def excess(self) -> np.ndarray:
        """Each error divided by its limit, shape (steps,)."""
        return np.nan_to_num(self.departure / self.allowed, nan=np.inf, posinf=np.inf)

    @property
    def moves(self) -> float:
        """The largest move of the weights in a step, divided by the change that rounding can explain."""
        theta = self.recording["theta"].values
        moves = [relative(one, other, theta, k) for k, (one, other) in enumerate(pairwise(theta))]
        return float(np.nan_to_num(moves / self.allowed, nan=np.inf).max(initial=0.0))

    @property
    def first(self) -> int | None:
        """The first wrong step, from 1."""
        outside = self.excess > 1
        return int(np.argmax(outside)) + 1 if outside.any() else None

    @property
    def wrong_groups(self) -> str:
        """The parameter groups, from 1, whose weights are wrong in the first wrong step; nothing if there is one."""
        group = self.recording["weight_group"].values
        if self.first is None or not group.any():
            return ""
        theta, k = self.recording["theta"].values, self.first - 1
        own = next(islice(own_steps(self.altered, theta, self.recording["gradient"].values), k, None))
        off = ~(np.abs(own - theta[k + 1]) <= self.allowed[k] * np.abs(theta[k]).max())
        wrong = [str(i + 1) for i in np.unique(group[off])]
        return f", in parameter group {' and '.join(wrong)}" if wrong else ""

    def is_explained(self, causes: Sequence[NearRule]) -> bool:
        """Whether the rule with these changes takes every recorded step, to round-off."""
        changed = changed_by(self.altered, causes)
        if changed is None:
            return False
        theta, gradients = (self.recording[name].values for name in ("theta", "gradient"))
        return takes_every_step(changed, theta, gradients, self.allowed)


def _is_large(compared: Comparison) -> bool:
    """Whether this is the scenario with large numbers, which an optimizer may fail in without a verdict on it."""
    return bool(compared.recording.attrs.get("optional", False))


def _compared(rule: UpdateRule, recording, allowed: Sequence[NearRule]) -> Comparison:
    """The rule with the scenario's factors and what the user allows, compared with the recording."""
    altered = altered_for(rule, recording, allowed)
    theta, gradients = recording["theta"].values, recording["gradient"].values
    own = list(own_steps(altered, theta, gradients))
    departure = np.array([departure_of(after, theta, k) for k, after in enumerate(own)])
    return Comparison(recording, altered, departure, allowed_round_off(altered, theta, gradients, own, departure))


def _own_numbers(rule: UpdateRule, driven: Sequence[Comparison], allowed: Sequence[NearRule]) -> OwnNumbers | None:
    """The rule with the numbers of the optimizer's parameter group; None if they are the rule's or no step is wrong."""
    if all(compared.first is None for compared in driven):
        return None
    recordings = [each.recording for each in driven]
    return own_numbers(rule, recordings, lambda changed, each: _compared(changed, each, allowed).first is None)


def _check(rule: UpdateRule) -> None:
    for name, value in (("lr", rule.lr), ("weight_decay", rule.weight_decay)):
        if callable(value) or np.ndim(value) or is_symbolic(value):
            raise InputError(
                f"{name} = {value} is not one number, but verify makes the schedule and the groups itself: give the"
                " value of the first group at the first step"
            )


def _verdict(rule: UpdateRule, driven: list[Comparison], own: OwnNumbers | None) -> Verdict:
    name, steps = driven[0].recording.attrs["optimizer"], " + ".join(str(len(each.departure)) for each in driven)
    wrong = [each for each in driven if each.first is not None]
    earliest = min(wrong, key=lambda each: each.first or 0, default=None)
    seen = None if wrong else exercised(driven[-1].altered, [each.recording for each in driven])
    verdict = judge(
        f"verify {name}",
        f"{name} takes the steps of {rule.name}: {steps} steps in {len(driven)} scenarios",
        predicted=0.0,
        measured=max(float(each.excess.max(initial=0.0)) for each in driven),
        allowed=1.0,
        why=" ".join(_sentences(rule, driven, earliest, own, seen)).removesuffix("."),
        first_departure=earliest and earliest.first,
        evidence={
            "departure": {each.scenario: each.departure for each in driven},
            "allowed": {each.scenario: each.allowed for each in driven},
            "recording": {each.scenario: each.recording for each in driven},
            **({"exercised": seen} if seen else {}),
        },
    )
    if wrong:
        if own and own.explains:
            return replace(verdict, status="refuted", cause=own.said)
        found = explaining(lambda causes: all(each.is_explained(causes) for each in driven))
        hints = [] if found else [*[READ_GROUPS] * _only_groups_are_wrong(driven), ASK_AUDIT]
        why = ". ".join([verdict.why, *hints])
        names = found[0] if found else ()
        cause = cause_in_words(found) + _entry_in_words(rule, found)
        return replace(verdict, status="refuted", cause=cause, why=why, near_rules=names)
    if raised := _raised(driven):
        return replace(verdict, status="inconclusive", cause=raised, **_until_it_raised(driven))
    reasons = _unresolved(driven)
    return replace(verdict, status="inconclusive", cause=reasons) if reasons else verdict


def _entry_in_words(rule: UpdateRule, found: Sequence[tuple[str, ...]]) -> str:
    """The entry of the catalogue that the rule is with the decay mode that is the cause; nothing if there is none."""
    names = found[0] if len(found) == 1 else ()
    if len(names) != 1 or names[0] not in DECAYS or NEAR_RULES[names[0]].line != "decay":
        return ""
    entry = entry_of(rule.direction, DECAYS[names[0]])
    return f"; this is {entry.name}" if entry else ""


def _only_groups_are_wrong(driven: Sequence[Comparison]) -> bool:
    """Whether every step is right with one group at constant η, and not with two groups on a schedule."""
    first, second = driven[:2]
    return first.first is None and second.first is not None and not second.recording.attrs["ungrouped"]


def _raised(driven: Sequence[Comparison]) -> str:
    """The errors with which the optimizer ended a scenario, other than that of large numbers; nothing if none did."""
    raised = dict.fromkeys(each.recording.attrs["raised"] for each in driven if not _is_large(each))
    return "; ".join(filter(None, raised))


def _until_it_raised(driven: Sequence[Comparison]) -> dict[str, Any]:
    """What a verdict says of an optimizer that raised: of the steps before, and nothing of what they did not show."""
    steps = sum(len(each.departure) for each in driven)
    if steps == 0:
        return {"measured": np.nan, "allowed": NOTHING, "why": "No step was compared"}
    worst = max(float(each.excess.max(initial=0.0)) for each in driven)
    return {"why": f"{largest_error(worst)} Only the {steps} steps before the error were compared"}


def _unresolved(driven: Sequence[Comparison]) -> str:
    """Why the steps are too small to tell the rule from others; nothing if they are large enough."""
    moves = max(each.moves for each in driven)
    if moves < RESOLVED:
        return f"the weights move by at most {moves:.2g} times what rounding can explain, so that any rule would pass"
    if all(each.is_explained([NEAR_RULES["ascent"]]) for each in driven):
        return "only the weight decay moves the weights by more than rounding: the gradients have no visible effect"
    return ""


def _in_which(names: Sequence[str], scenarios: int) -> str:
    return "in all of them" if len(names) == scenarios > 1 else f"with {' and with '.join(names)}"


def _sentences(
    rule: UpdateRule,
    driven: list[Comparison],
    earliest: Comparison | None,
    own: OwnNumbers | None,
    seen: Exercised | None,
) -> Iterator[str]:
    """What was measured, and what a reader of the verdict should know besides."""
    yield largest_error(max(float(each.excess.max(initial=0.0)) for each in driven))
    if earliest is not None and earliest.first is not None:
        yield wrong_by(earliest.departure[earliest.first - 1])
    yield f"Scenarios: {'; '.join(each.scenario for each in driven)}."
    if earliest is not None and earliest.first is not None:
        names = [each.scenario for each in driven if each.first is not None]
        yield f"Steps are wrong {_in_which(names, len(driven))}."
        yield f"The first wrong step is step {earliest.first} with {earliest.scenario}{earliest.wrong_groups}."
        for name, dtype in json.loads(earliest.recording.attrs["in_lower_precision"]).items():
            yield f"The optimizer's {name} is {dtype}, with fewer digits than the weights."
    if own and not own.explains:
        yield not_all(own.said)
    for attrs in (each.recording.attrs for each in driven):
        if attrs["diverged_at_step"] >= 0:
            yield f"With {attrs['scenario']} the weights diverged at step {attrs['diverged_at_step']}."
        if earliest is not None and attrs["raised"]:
            yield f"With {attrs['scenario']} the steps ended with an error: {attrs['raised']}."
    if any(each.recording.attrs["ungrouped"] for each in driven):
        yield "The optimizer takes no parameter groups, so that groups were not tested."
    if any(each.recording.attrs["matrices"] for each in driven):
        yield "The optimizer takes matrices only, so that tensors of other dimensions were not tested."
    if not np.any(rule.weight_decay):
        yield "The weight decay is 0, so that the place where it enters was not tested."
    for empty in filter(None, (each.recording.attrs.get("empty", "") for each in driven)):
        yield f"With a tensor that has no weights: {empty}."
    if seen is None:
        return
    if any(each.recording.attrs["raised"] and _is_large(each) for each in driven):
        yield f"Large numbers were not tested: {driven[-1].recording.attrs['raised']}."
    if np.any(rule.weight_decay) and all(each.is_explained([NEAR_RULES["no-decay"]]) for each in driven):
        yield "The weight decay is too small to be seen, so that the place where it enters was not tested."
    yield not_tested(seen, rule)
