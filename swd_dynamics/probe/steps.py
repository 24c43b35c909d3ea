"""The steps of an optimizer as torch announces them: its hooks, called once a step, and the closure of a step."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch


class StepHooks:
    """Hooks before and after each step of an optimizer, until :meth:`remove`.

    torch calls the hooks in ``step`` of a class once it has made an object of that class. If such a ``step`` calls the
    one of its base class, and the base class has objects, too, torch calls the hooks again inside the step. These hooks
    are called for the outermost step only. It has ended when torch calls the hook after it; where it raised, torch does
    not, and the next step that is not inside another one of the same optimizer is a new step.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    before : callable (optimizer, args, kwargs) → None or (args, kwargs)
        Called before each step, as torch calls a pre-hook.
    after : callable (optimizer, args, kwargs) → None
        Called after each step whose ``before`` was called, unless it raised.

    Examples
    --------
    >>> class Named(torch.optim.SGD):
    ...     def step(self, closure=None):
    ...         return super().step(closure)
    >>> base, named = (kind([torch.nn.Parameter(torch.zeros(1))]) for kind in (torch.optim.SGD, Named))
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
        self._handles = [optimizer.register_step_pre_hook(self._begin), optimizer.register_step_post_hook(self._end)]

    def remove(self) -> None:
        """Take the hooks away."""
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
            return  # attached in the middle of this step
        if self._is_nested and _is_inside_step(sys._getframe(1), optimizer):
            return
        self._is_pending = False
        self._after(optimizer, args, kwargs)


def _is_inside_step(frame: FrameType, optimizer: torch.optim.Optimizer) -> bool:
    """Whether the frame, in which torch calls the hooks, is inside another such frame of the same optimizer.

    Asked of the stack, as a count would be wrong after a step that raised; and no frame is kept, which would keep alive
    what the functions that called a step which raised had made.
    """
    outer = frame.f_back
    while outer is not None:
        # All wrapped steps share one code object; ``self`` is the optimizer, in torch's own words.
        if outer.f_code is frame.f_code and outer.f_locals.get("self") is optimizer:
            return True
        outer = outer.f_back
    return False


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
