"""The steps of an optimizer as torch announces them: by hooks, and by a step's closure."""

# pyright: reportPrivateImportUsage=false
# torch marks the steps of its own optimizers in the same way; only the decorator's name is private.

import os
import sys
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch

from swd_dynamics.errors import InputError
from swd_dynamics.probe.warned import UNATTACHED

# All steps that torch has wrapped share this code, in which self is the optimizer.
STEP = torch.optim.Optimizer.profile_hook_step(lambda self: None).__code__


class StepHooks:
    """Hooks before and after each step of an optimizer, until :meth:`remove`.

    torch calls the hooks in the ``step`` of a class once the class has an object. If such a
    ``step`` calls the ``step`` of its base class, and the base class has objects, too, torch calls
    the hooks again inside the step. The hooks here are called for the outermost step only. A step
    ends when torch calls the hook after it. torch does not call that hook if the step raises; then
    the next step that is not inside another step of the same optimizer is a new step.

    Of all hooks of the optimizer, the hook before a step is called last and the hook after the step
    first, also where other hooks are registered later: they see what the step itself uses and does.
    A process that is forked while the hooks are registered does not call them.

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
        self._optimizer = optimizer
        optimizer._patch_step_function()  # some classes do not call the constructor that does it
        pre, post = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
        self._handles = [
            optimizer.register_step_pre_hook(self._begin),
            optimizer.register_step_post_hook(self._end),
        ]
        _move_behind(post, *(key for key in post if key != self._handles[1].id))
        register = optimizer.register_step_pre_hook

        def register_before(hook: Any) -> Any:
            handle = register(hook)
            if self._handles:
                _move_behind(pre, self._handles[0].id)
            return handle

        # Replaced in this object only, as torch's schedulers replace its step.
        self._replaced = vars(optimizer).get("register_step_pre_hook")
        self._replacement = optimizer.register_step_pre_hook = register_before
        _REGISTERED.add(self)

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        own = vars(self._optimizer)
        if own.get("register_step_pre_hook") is self._replacement:
            del own["register_step_pre_hook"]
            if self._replaced is not None:
                own["register_step_pre_hook"] = self._replaced

    def _begin(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> tuple | None:
        if torch.compiler.is_compiling():
            return _uncompiled(self._begin_now, optimizer, args, kwargs)
        return self._begin_now(optimizer, args, kwargs)

    def _end(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if torch.compiler.is_compiling():
            return _uncompiled(self._end_now, optimizer, args, kwargs)
        return self._end_now(optimizer, args, kwargs)

    def _begin_now(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> Any:
        if self._is_pending and _is_inside_step(optimizer):
            self._is_nested = True
            return None
        self._is_pending = self._is_nested = False
        changed = self._before(optimizer, args, kwargs)
        self._is_pending = True
        return changed

    def _end_now(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if not self._is_pending:
            return  # the hooks were registered during this step
        if self._is_nested and _is_inside_step(optimizer):
            return
        self._is_pending = False
        self._after(optimizer, args, kwargs)


_REGISTERED: WeakSet[StepHooks] = WeakSet()


def _forget() -> None:
    """Remove all hooks in a forked process: its steps are not those of the run."""
    for hooks in list(_REGISTERED):
        hooks.remove()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@torch._disable_dynamo
def _uncompiled(hook: Callable, *arguments: Any) -> Any:
    """Call a hook outside of the graph where the step is compiled."""
    return hook(*arguments)


def _move_behind(hooks: dict, *keys: int) -> None:
    """Move hooks behind all others; some libraries keep them in a plain dict."""
    for key in keys:
        if key in hooks:
            hooks[key] = hooks.pop(key)


def _is_inside_step(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the step for which torch calls the hooks is inside a step of the same optimizer.

    The stack is searched because a counter would be wrong after a step that raised. No frame is
    kept, because a frame keeps alive the variables of all functions that called the step.
    """
    frame, steps = sys._getframe(), 0
    while frame is not None and steps < 2:
        steps += frame.f_code is STEP and frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return steps == 2


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


def check_attached(process: int | None) -> None:
    """Refuse a probe that no process has attached."""
    if process is None:
        raise InputError(UNATTACHED)
