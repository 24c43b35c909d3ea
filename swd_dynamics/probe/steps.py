"""The steps of an optimizer as torch announces them: by hooks, and by a step's closure."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch


class StepHooks:
    """Hooks before and after each step of an optimizer, until :meth:`remove`.

    torch calls the hooks in the ``step`` of a class once the class has an object. If such a
    ``step`` calls the ``step`` of its base class, and the base class has objects, too, torch calls
    the hooks again inside the step. The hooks here are called for the outermost step only. A step
    ends when torch calls the hook after it. torch does not call that hook if the step raises; then
    the next step that is not inside another step of the same optimizer is a new step.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    before : callable (optimizer, args, kwargs) → None or (args, kwargs)
        Called before each step, as torch calls a pre-hook.
    after : callable (optimizer, args, kwargs) → None
        Called after each step for which ``before`` was called, unless the step raised.

    Examples
    --------
    >>> class Named(torch.optim.SGD):
    ...     def step(self, closure=None):
    ...         return super().step(closure)
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> base, named = torch.optim.SGD([weight]), Named([weight])
    >>> once, twice = [], []
    >>> hooks = StepHooks(named, lambda *_: once.append("before"), lambda *_: once.append("after"))
    >>> with named.register_step_pre_hook(lambda *_: twice.append("before")):
    ...     named.step()
    >>> once, twice
    (['before', 'after'], ['before', 'before'])
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        before: Callable[[torch.optim.Optimizer, tuple, dict], tuple | None],
        after: Callable[[torch.optim.Optimizer, tuple, dict], None],
    ):
        self._before, self._after = before, after
        self._is_pending = self._is_nested = False
        self._handles = [
            optimizer.register_step_pre_hook(self._begin),
            optimizer.register_step_post_hook(self._end),
        ]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _begin(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> tuple | None:
        if self._is_pending and _is_inside_step(sys._getframe(1), optimizer):
            self._is_nested = True
            return None
        self._is_pending = self._is_nested = False
        changed = self._before(optimizer, args, kwargs)
        self._is_pending = True
        return changed

    def _end(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if not self._is_pending:
            return  # the hooks were registered during this step
        if self._is_nested and _is_inside_step(sys._getframe(1), optimizer):
            return
        self._is_pending = False
        self._after(optimizer, args, kwargs)


def _is_inside_step(frame: FrameType, optimizer: torch.optim.Optimizer) -> bool:
    """Whether the frame in which torch calls the hooks is inside a step of the same optimizer.

    The stack is searched because a counter would be wrong after a step that raised. No frame is
    kept, because a frame keeps alive the variables of all functions that called the step.
    """
    outer = frame.f_back
    while outer is not None:
        # All steps that torch has wrapped share one code object, in which self is the optimizer.
        if outer.f_code is frame.f_code and outer.f_locals.get("self") is optimizer:
            return True
        outer = outer.f_back
    return False


def closure_of(args: tuple, kwargs: dict) -> Callable | None:
    """The closure among the arguments of ``step``, of which the first is the optimizer; or None."""
    return args[1] if len(args) > 1 else kwargs.get("closure")


def watched(
    args: tuple,
    kwargs: dict,
    first_call: Callable[[Any], None],
) -> tuple[tuple, dict] | None:
    """The arguments of ``step`` with a closure that reports its first call; or None.

    There is nothing to report without a closure. At the first call the weights are still those
    before the step, and the gradient is the one that the step uses.

    Parameters
    ----------
    args, kwargs
        The arguments of ``step``, of which the first is the optimizer, as torch gives them to a
        hook.
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
