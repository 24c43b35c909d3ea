"""The rule that a recording claims to follow: its name is given, its numbers come from the recording."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from swd_dynamics.checks import shown
from swd_dynamics.errors import InputError
from swd_dynamics.rules.catalog import Entry
from swd_dynamics.rules.gate import as_entry, as_rule
from swd_dynamics.rules.shaped import is_by_tensor, shaped
from swd_dynamics.rules.update import UpdateRule

if TYPE_CHECKING:
    import xarray


def rule_of_recording(given: Any, recording: "xarray.Dataset") -> UpdateRule:
    """The rule that is given; for the name of an optimizer or its entry, the rule with the recording's numbers."""
    if isinstance(given, str | Entry):
        return recorded_rule(given, recording)
    if isinstance(given, list | tuple):
        raise InputError(
            f'{shown(given)} is not one rule: replay("AdamW", recording) takes the recording\'s own numbers, also those'
            " of several groups"
        )
    return as_rule(given)


def rule_of_optimizer(given: Any, factory: Callable[..., Any]) -> UpdateRule:
    """The rule that is given; for the name of an optimizer or its entry, the rule with the numbers of a factory's."""
    from swd_dynamics.bench.scenarios import default_arguments  # torch only when it is needed

    if isinstance(factory, UpdateRule | Entry):
        raise InputError("the optimizer comes first and the rule second: verify(factory, rule)")
    if isinstance(given, str | Entry):
        as_entry(given)  # a wrong name is refused before foreign code runs
        return named_rule(given, default_arguments(factory))
    return as_rule(given)


def recorded_rule(name: str | Entry, recording: "xarray.Dataset") -> UpdateRule:
    """The catalogue's rule of that name with the arguments of a recorded optimizer.

    Learning rate and decay of several groups become arrays over the weights; a learning rate that changed along the run
    becomes the schedule that was recorded.

    Raises
    ------
    UnknownName
        If the catalogue has no such entry.
    InputError
        If the recording does not say with which arguments it was made, or its groups differ in more than lr and weight
        decay.

    Examples
    --------
    The numbers with which an SGD was made, read from its recording:

    >>> import torch
    >>> from swd_dynamics.probe import record
    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> sgd = torch.optim.SGD([weight], lr=0.5, weight_decay=0.25)
    >>> recorded_rule("SGD", record(sgd, lambda k: weight.square().sum() / 2, steps=2))
    UpdateRule(lr=0.5, direction=SGD(), decay=L2(weight_decay=0.25))
    """
    entry = as_entry(name)
    groups = groups_of(recording)
    directions = direction_arguments(entry, groups)
    if any(direction != directions[0] for direction in directions):
        accepted = sorted(inspect.signature(entry.family).parameters)
        raise InputError(
            f"the groups differ in {', '.join(accepted)}, but a rule has the same numbers for all groups,"
            " except for lr and weight_decay"
        )
    decay = per_weight([group.get("weight_decay", 0.0) for group in groups], recording)
    return entry(recorded_lr(recording), weight_decay=decay, **directions[0], **_of_decay(entry, groups[0]))


def direction_arguments(entry: Entry, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The arguments of the entry's direction that each group of an optimizer has.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> direction_arguments(CATALOG["SGD"], [{"lr": 0.5, "momentum": 0.25, "fused": None}])
    [{'momentum': 0.25}]
    """
    accepted = set(inspect.signature(entry.family).parameters)
    return [{key: _tuple(value) for key, value in group.items() if key in accepted} for group in groups]


def with_shapes(rule: UpdateRule, recording: "xarray.Dataset") -> UpdateRule:
    """The rule over the vector of all recorded weights, for a rule that looks at the shapes of the optimizer's tensors.

    Raises
    ------
    InputError
        If the rule needs the shapes and the recording does not say them.

    Examples
    --------
    >>> import xarray
    >>> from swd_dynamics.rules import Muon
    >>> recording = xarray.Dataset(attrs={"parameter_shapes": "[[2, 3], [4, 1]]"})
    >>> with_shapes(UpdateRule(0.1, Muon()), recording).direction.shapes
    ((2, 3), (4, 1))
    """
    if not is_by_tensor(rule):
        return rule
    try:
        shapes = tuple(map(tuple, json.loads(recording.attrs["parameter_shapes"])))
    except (KeyError, ValueError, TypeError):
        raise InputError(
            f"the recording does not say the shapes of its tensors (attribute parameter_shapes), but a step of"
            f" {type(rule.direction).__name__} depends on them"
        ) from None
    return shaped(rule, shapes)


def named_rule(name: str | Entry, arguments: dict[str, Any]) -> UpdateRule:
    """The catalogue's rule of that name, with those of an optimizer's arguments that a rule has.

    Without ``weight_decay`` among them it is 0.

    Raises
    ------
    UnknownName
        If the catalogue has no such entry.
    InputError
        If there is no ``lr``, or a value is out of range or not a number.

    Examples
    --------
    >>> named_rule("AdamW", {"lr": 0.5, "betas": [0.5, 0.75], "foreach": True})
    UpdateRule(lr=0.5, direction=Adam(betas=(0.5, 0.75), eps=1e-08), decay=Decoupled(weight_decay=0.0))
    """
    entry = as_entry(name)
    if not isinstance(arguments.get("lr"), int | float):
        raise InputError(
            f"the optimizer's lr is {arguments.get('lr')!r}, which is not a number: give lr=1e-3, for example"
        )
    parameters = inspect.signature(entry.family).parameters
    accepted = {"lr", *parameters}
    taken = {key: tuple(v) if isinstance(v, list) else v for key, v in arguments.items() if key in accepted}
    taken["weight_decay"] = arguments.get("weight_decay", 0.0)
    for key, value in taken.items():
        if not _is_numbers(value) and not (key in parameters and _is_choice(parameters[key].default)):
            raise InputError(
                f"the optimizer's {key} is {value!r}, which the rule {entry.name} cannot take: it needs numbers;"
                f" if the optimizer takes numbers too, give them with --args {key}=…"
            )
    return entry(**taken, **_of_decay(entry, arguments))


def _of_decay(entry: Entry, group: dict[str, Any]) -> dict[str, Any]:
    """What a group says of the entry's decay besides λ: η_max, which a learning rate that was recorded does not say."""
    return {name: group[name] for name in entry.decay_arguments if name in group}


def groups_of(recording) -> list[dict]:
    """The arguments of each parameter group of a recorded optimizer."""
    try:
        groups = json.loads(recording.attrs["optimizer_arguments"])
        return [dict(group) for group in groups]
    except (KeyError, ValueError, TypeError):
        raise InputError(
            "the recording does not say with which arguments its optimizer was made (attribute optimizer_arguments):"
            " replay it against an UpdateRule of your own"
        ) from None


def spans_of(recording) -> np.ndarray:
    """How many steps each row of a recording stands for: those since the last row, shape (rows,).

    Before the first row they are as many as ``every``, the attribute with which the probe recorded.

    Examples
    --------
    Every fifth step was recorded, and later every tenth:

    >>> import xarray
    >>> spans_of(xarray.Dataset(coords={"step": [5, 10, 20]}, attrs={"every": 5}))
    array([ 5,  5, 10])
    """
    steps = np.asarray(recording["step"], dtype=int)
    return np.diff(steps, prepend=steps[:1] - int(recording.attrs.get("every", 1)))


def recorded_lr(recording):
    """The recorded η: a number, an array over the weights, or a schedule of either."""
    lr = np.asarray(recording["lr"], dtype=float) if "lr" in recording else np.empty((0, 0))
    if not lr.size:
        raise InputError("the recording lacks lr (step, group), which replay needs")
    if (lr == lr[0]).all():
        return per_weight(lr[0].tolist(), recording)
    return RecordedSchedule(tuple(per_weight(row.tolist(), recording) for row in lr))


@dataclass(frozen=True)
class RecordedSchedule:
    """The learning rate of every recorded step: a number, or one for each weight."""

    rows: tuple = field(repr=False)

    def __call__(self, step):
        return self.rows[int(step)]

    def __str__(self) -> str:
        return f"as recorded in {len(self.rows)} steps"

    __repr__ = __str__


def per_weight(values: list[float], recording):
    """The numbers of the groups as an array over the weights; one number if all are the same."""
    if all(value == values[0] for value in values):
        return values[0]
    if "weight_group" not in recording:
        raise InputError(
            "the recording does not say to which parameter group each weight belongs (variable weight_group), which a"
            " rule needs where the groups have different lr or weight_decay: record it with trajectory=True (on the"
            " command line: --trajectory)"
        )
    return np.asarray(values)[np.asarray(recording["weight_group"], dtype=int)]


def _is_numbers(value: Any) -> bool:
    return all(isinstance(each, int | float) for each in (value if isinstance(value, tuple) else [value]))


def _is_choice(default: Any) -> bool:
    """Whether an argument may be something else than numbers, as its default shows; the direction checks its value."""
    return not _is_numbers(default)


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value
