"""What a torch optimizer says of itself: the arguments of its parameter groups, and the steps it has taken."""

from typing import Any

import torch

PUBLISHED = ("decay_rate", "effective_lr")  # results of a step that an optimizer keeps beside its arguments


def arguments(group: dict) -> dict[str, Any]:
    """A parameter group's arguments, as JSON can hold them: without the parameters and what the last step published."""
    return {name: _as_json(value) for name, value in group.items() if name not in ("params", *PUBLISHED)}


def steps_before(optimizer: torch.optim.Optimizer) -> int:
    """The steps already taken, from the optimizer's state: 0 if it is fresh, −1 if it is not but does not count."""
    states = [state for state in optimizer.state.values() if isinstance(state, dict) and _is_begun(state)]
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
