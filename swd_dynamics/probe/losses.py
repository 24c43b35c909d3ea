"""Which step a loss belongs to, and whether it is one number."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.probe.warned import SEVERAL, warn


def with_loss_by_name(observe: Callable[..., None]) -> Callable[..., None]:
    """A method that answers a call without ``loss=`` with a sentence."""

    @wraps(observe)
    def answered(*arguments: Any, **named: Any) -> None:
        if len(arguments) != 1 or not {"loss"} <= set(named) <= {"loss", "of"}:
            extra = sorted(set(named) - {"loss", "of"})
            wrong = f"has no argument {extra[0]!r}" if extra else "takes the loss by its name"
            raise InputError(f"observe {wrong}: write probe.observe(loss=loss), and of='last' or of='next' if needed")
        observe(*arguments, **named)

    return answered


class Losses:
    """The losses of the steps: observed before or after their step, or given by the step's closure.

    If ``observe`` is first called before any step, then either losses come before their steps, or
    they come after them and a gradient scaler has skipped the first. The second loss tells: if it
    was computed before the step that was taken in between, losses come after their steps. Only a
    tensor with a gradient says when it was computed.

    Parameters
    ----------
    amend : callable (loss) → bool
        Replaces the loss of the last row, and returns false if that row is not there any more.

    Examples
    --------
    >>> row = []
    >>> losses = Losses(lambda loss: not row.append(loss))
    >>> losses.begin(in_closure=False)
    >>> losses.recorded()
    nan
    >>> losses.observe(0.5, None)
    >>> row
    [0.5]
    """

    def __init__(self, amend: Callable[[Tensor | float], bool]):
        self._amend = amend
        self._value: Tensor | float | None = None  # of the next row
        self._comes_after: bool | None = None
        self._is_sure = self._is_told = True  # whether that is decided, and by a tensor
        self._begun: int | None = None  # what autograd had counted when the last step began
        self._has_stepped = self._in_closure = self._is_seen = self._awaits = False
        self._rows = self._missing = 0
        self.observed = 0  # losses since the probe was attached
        self._since = 0  # losses since the last step
        self._several_before = False  # whether the last step had several
        self.warns = True  # whether to warn, once, where several losses are observed before each step

    def attach(self) -> None:
        """Begin to take losses: no row waits for its loss."""
        self._in_closure = self._awaits = self._several_before = False
        self.observed = self._since = 0

    def observe(self, loss: Tensor | float, of: Literal["next", "last"] | None) -> None:
        """Take a loss; ``of`` as in :meth:`Probe.observe`."""
        value = loss_value(loss)
        self.observed += 1
        if self._in_closure:
            self._value = self._value if self._is_seen else value
            return
        if of is None and self._belongs_to_last(loss):
            of = "last"
        if of != "last":
            self._value = value
            self._watch()
        elif self._awaits and self._amend(value):
            self._missing -= 1
        # A second loss has no row: it belongs to a step that a scaler did not call.
        self._awaits = False

    def _watch(self) -> None:
        """Warn once if two steps in a row have several losses; a single one has them after a scaler skipped a step."""
        self._since += 1
        if self._since > 1 and self._several_before and self.warns:
            self.warns = False
            warn(SEVERAL)

    def _belongs_to_last(self, loss: Tensor | float) -> bool:
        if self._comes_after is None:
            self._comes_after = self._has_stepped
            self._is_sure = self._is_told = self._has_stepped
        elif not self._is_sure and self._begun is not None:
            self._is_sure = True
            computed = _counted(loss)
            self._is_told = computed is not None
            if computed is not None and computed < self._begun:
                self._comes_after = True
                self._missing += self._awaits  # the row has the loss of a step that was skipped
        return bool(self._comes_after)

    def begin(self, in_closure: bool) -> None:
        """A step begins."""
        self._has_stepped, self._awaits, self._is_seen = True, False, False
        self._several_before, self._since = self._since > 1, 0
        if self._in_closure:  # the last step raised an error: its closure's loss has no row
            self._value = None
        self._in_closure = in_closure
        if not self._is_sure:
            self._begun = _counted_now()

    def at_gradient(self, loss: Any) -> None:
        """The step's closure was called for the first time, and has returned this."""
        self._is_seen = True
        if loss is not None and not self._comes_after and self._value is None:
            self._value = loss_value(loss)

    def end(self) -> None:
        """The step has ended."""
        self._in_closure, self._value = False, None

    def recorded(self) -> Tensor | float:
        """The loss for the row of the step that is ending."""
        self._rows, self._awaits = self._rows + 1, True
        if self._value is None:
            self._missing += 1
        return math.nan if self._value is None else self._value

    @property
    def reasons(self) -> list[str]:
        """Why some rows have no loss, or may have another step's loss."""
        found = []
        if self._missing:
            how = "call observe(loss=…) once for each step, or give a closure to step"
            found.append(f"no loss was given for {self._missing} of {self._rows} rows: {how}")
        if not self._is_told and self._value is not None and self._rows:
            how = "if losses are observed after their steps, say so by observe(…, of='last')"
            found.append(f"a loss was observed before the first step, and one after the last: {how}")
        return found


def _counted(loss: Any) -> int | None:
    """What autograd had counted when a loss was computed; None if the loss does not say it."""
    node = loss.grad_fn if isinstance(loss, Tensor) else None
    count = getattr(node, "_sequence_nr", None)
    return None if count is None else count()


def _counted_now() -> int | None:
    """What autograd has counted so far in this thread."""
    with torch.enable_grad():
        return _counted(torch.zeros((), requires_grad=True).neg())


def as_number(loss: Any) -> float:
    """A loss as a float, detached; refused if it is not one real number.

    Examples
    --------
    >>> as_number(np.array([0.5]))
    0.5
    """
    value = loss.detach() if isinstance(loss, Tensor) else loss
    if isinstance(value, Tensor | np.ndarray | np.generic):
        is_number = _size(value) == 1 and _is_real(value)
        value = value.item() if is_number else None
    try:
        if value is None or isinstance(value, str | bytes | bytearray | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(f"the loss must be one number, not {_described(loss)}") from None


def _described(loss: Any) -> str:
    if not isinstance(loss, Tensor | np.ndarray):
        return repr(loss)
    kind = "a tensor" if isinstance(loss, Tensor) else "an array"
    return f"{kind} of shape {tuple(loss.shape)} and type {str(loss.dtype).removeprefix('torch.')}"


def loss_value(loss: Any) -> Tensor | float:
    """A loss that can be kept without waiting for it; refused if it is not one number."""
    if not isinstance(loss, Tensor) or loss.device.type == "cpu":
        return as_number(loss)
    is_number = loss.numel() == 1 and _is_real(loss)
    return loss.detach().reshape(()) if is_number else as_number(loss)


def _size(value: Tensor | np.ndarray | np.generic) -> int:
    return value.numel() if isinstance(value, Tensor) else value.size


def _is_real(value: Tensor | np.ndarray | np.generic) -> bool:
    if isinstance(value, Tensor):
        return not value.is_complex() and value.dtype is not torch.bool
    return value.dtype.kind in "fiu"
