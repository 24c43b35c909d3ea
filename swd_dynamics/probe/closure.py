"""The arguments of ``optimizer.step``: a closure in them, watched for its first call."""

from collections.abc import Callable
from typing import Any


def closure_of(args: tuple, kwargs: dict) -> Callable | None:
    """The closure among the arguments of ``step``, the optimizer itself first, if there is one."""
    return args[1] if len(args) > 1 else kwargs.get("closure")


def watched(args: tuple, kwargs: dict, first_call: Callable[[Any], None]) -> tuple[tuple, dict] | None:
    """The arguments with a closure that says when it was first called, and with what loss; None if there is no closure.

    At that moment, still at the old weights, the gradient is the one that the step uses.

    Parameters
    ----------
    args, kwargs
        Of ``step``, the optimizer itself first, as torch hands them to a hook.
    first_call : callable
        Takes the loss; must not raise.
    """
    closure = closure_of(args, kwargs)
    if closure is None:
        return None
    calls = iter([first_call])

    def observed():
        loss = closure()
        for tell in calls:
            tell(loss)
            break
        return loss

    if len(args) > 1:
        return (args[0], observed, *args[2:]), kwargs
    return args, kwargs | {"closure": observed}
