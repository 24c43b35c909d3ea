"""What the three optimizers share: the outside of a torch optimizer, and means over all weights."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


class StableDecayOptimizer(torch.optim.Optimizer, ABC):
    """A torch optimizer with stable weight decay: θ ← (1 − R)θ − η·(step), R = λη_eff.

    After each step, every parameter group holds two floats:

    * ``group["decay_rate"]``, R, the fraction of the weights that this step took off;
    * ``group["effective_lr"]``, η_eff, how far a unit of gradient moves a weight in the end.

    A parameter without gradient skips the step: neither its weights nor its state change.

    A new member gives two methods:

    1. ``check_group(group)`` refuses arguments outside their range with an :class:`~swd_dynamics.errors.InputError`.
    2. ``update(work)`` takes the step. ``work`` pairs every parameter group, empty ones too, with its parameters that
       have a gradient, all of them real and dense. It calls :meth:`publish` once for every group.
    """

    @abstractmethod
    def check_group(self, group: dict[str, Any]) -> None: ...

    @abstractmethod
    def update(self, work: list[tuple[dict[str, Any], list[Tensor]]]) -> None: ...

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; what it does not say is taken from the optimizer's defaults.

        Raises
        ------
        InputError
            If an argument is outside its range.
        """
        self.check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the loss and its gradients anew; it runs before the step, and its loss is returned.

        Raises
        ------
        RuntimeError
            If a gradient is sparse or complex; nothing has changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update([(group, self._with_gradient(group)) for group in self.param_groups])
        return loss

    def publish(self, group: dict[str, Any], effective_lr: float) -> None:
        """Write η_eff and R = λη_eff into the parameter group."""
        group["effective_lr"] = float(effective_lr)
        group["decay_rate"] = float(group["weight_decay"]) * float(effective_lr)

    def remembered(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Every parameter that ever had a gradient, with its group."""
        for group in self.param_groups:
            yield from ((parameter, group) for parameter in group["params"] if self.state.get(parameter))

    def _with_gradient(self, group: dict[str, Any]) -> list[Tensor]:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in parameters:
            if parameter.grad.is_sparse:
                raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
            if parameter.is_complex():
                raise RuntimeError(f"{type(self).__name__} does not support complex parameters")
        return parameters


def loss_gradient(parameter: Tensor, group: dict[str, Any]) -> Tensor:
    """The gradient to descend along; with ``maximize`` it is that of −loss."""
    assert parameter.grad is not None
    return -parameter.grad if group["maximize"] else parameter.grad


def mean_over_weights(tensors: Iterable[Tensor]) -> float:
    """The mean over all weights of all tensors: one sum per tensor in float64, divided by their number at the end.

    0 if there are none.

    Examples
    --------
    >>> mean_over_weights([torch.ones(3), torch.zeros(1)])
    0.75
    """
    total, count = 0.0, 0
    for tensor in tensors:
        total += float(tensor.sum(dtype=torch.float64))
        count += tensor.numel()
    return total / count if count else 0.0
