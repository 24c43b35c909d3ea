"""What an optimizer says about itself: its groups' arguments, and how many steps it has taken."""

from typing import Any

import torch

# Results of a step that an optimizer publishes in its groups.
PUBLISHED = ("decay_rate", "effective_lr")


def arguments(group: dict) -> dict[str, Any]:
    """A parameter group's arguments, as JSON can hold them.

    Without the parameters, and without the results of a step that an optimizer publishes in its
    groups. A single one of these names is a hyperparameter.

    Examples
    --------
    >>> arguments({"params": [], "lr": 0.5, "decay_rate": -0.8})
    {'lr': 0.5, 'decay_rate': -0.8}
    >>> arguments({"params": [], "lr": 0.5, "decay_rate": 0.1, "effective_lr": 0.5})
    {'lr': 0.5}
    """
    published = PUBLISHED if all(name in group for name in PUBLISHED) else ()
    omitted = ("params", *published)
    return {name: _as_json(value) for name, value in group.items() if name not in omitted}


def steps_before(optimizer: torch.optim.Optimizer) -> int:
    """The number of steps that were taken, from the optimizer's state.

    It is 0 if the optimizer is new, and −1 if it has a state but does not count its steps.
    """
    found = optimizer.state.values()
    states = [state for state in found if isinstance(state, dict) and _is_begun(state)]
    counts = [int(state["step"]) for state in states if "step" in state]
    return max(counts) if counts else -1 if states else 0


def _is_begun(state: dict) -> bool:
    return any(value is not None for value in state.values())


def _as_json(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_as_json(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
