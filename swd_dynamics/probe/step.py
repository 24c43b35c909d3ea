"""One step as it was before the optimizer took it: copies of the weights and gradients, learning rates, loss."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.probe.rows import Row
from swd_dynamics.probe.steps import closure_of
from swd_dynamics.tensors.weights import Layout


class Step:
    """What a step starts from, copied before the optimizer changes it.

    theta : list of Tensor — the weights before the step
    lr : list of float — one for each group
    first : list of bool — whether a parameter has no momentum buffer yet
    gradients : list of Tensor or None — None where the step used none; not read yet, if the whole is None
    """

    def __init__(self, optimizer: torch.optim.Optimizer, layout: Layout, loss: float):
        self.optimizer, self.layout, self.loss = optimizer, layout, loss
        self.theta = [parameter.detach().clone() for parameter in layout.parameters]
        self.lr = [float(group["lr"]) if "lr" in group else math.nan for group in optimizer.param_groups]
        states = (optimizer.state.get(parameter, {}) for parameter in layout.parameters)
        self.first = [state.get("momentum_buffer") is None for state in states]
        self.gradients: list[Tensor | None] | None = None
        self.has_closure = False

    def read_gradients(self) -> None:
        """Copy the gradients the step will use; none, if a gradient scaler has found an infinity: then it is void."""
        found_inf, scale = (getattr(self.optimizer, name, None) for name in ("found_inf", "grad_scale"))
        void = found_inf is not None and bool(found_inf)
        self.gradients = [None if void else _gradient(parameter, scale) for parameter in self.layout.parameters]

    def with_gradients(self, args: tuple, kwargs: dict) -> tuple | None:
        """Copy the gradients now, or return the arguments of ``step`` with a closure that copies them when called."""
        closure = closure_of(args, kwargs)
        self.has_closure = closure is not None
        if closure is None:
            self.read_gradients()
            return None
        if len(args) > 1:
            return (args[0], self.watched(closure), *args[2:]), kwargs
        return args, kwargs | {"closure": self.watched(closure)}

    def watched(self, closure: Callable) -> Callable:
        """The closure, whose first call, still at the old weights, gives the gradient and the loss."""

        def observed():
            loss = closure()
            if self.gradients is None:
                self.read_gradients()
                self.loss = as_number(loss) if math.isnan(self.loss) and loss is not None else self.loss
            return loss

        return observed

    def filled_gradients(self) -> list[Tensor]:
        """The gradients, zeros where there was none."""
        pairs = zip(self.gradients or [], self.theta, strict=True)
        return [torch.zeros_like(theta) if gradient is None else gradient for gradient, theta in pairs]

    def scalars(self) -> Row:
        """Norms, loss and learning rates of the step just taken."""
        pairs = zip(self.layout.parameters, self.theta, strict=True)
        return {
            "theta_norm": _norm(self.theta),
            "gradient_norm": _norm(gradient for gradient in self.gradients or [] if gradient is not None),
            "update_norm": _norm(after.detach().double() - before.double() for after, before in pairs),
            "loss": self.loss,
            "lr": self.lr,
            "had_gradient": [gradient is not None for gradient in self.gradients or []],
        }


def _gradient(parameter: Tensor, scale: Tensor | None) -> Tensor | None:
    if parameter.grad is None:
        return None
    gradient = parameter.grad.detach()
    gradient = gradient.to_dense() if gradient.is_sparse else gradient.clone()
    return gradient if scale is None else gradient / scale


def _norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm of all entries of all tensors, in double precision; 0 of none."""
    return math.hypot(*(float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) for tensor in tensors))


def as_number(loss: Tensor | float) -> float:
    """A loss as a float, detached; refused if it is not one number."""
    try:
        return float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"the loss must be one number, not {_described(loss)}") from None


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
