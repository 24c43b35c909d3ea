"""How a curvature of the loss changes with the weights: third derivatives along one direction."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from swd_dynamics.tensors.curvature import check_loss, check_used
from swd_dynamics.tensors.evaluation import differentiable_twice


def slope_of_curvature(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    direction: Tensor,
) -> tuple[Tensor, Tensor]:
    """∇L and ∇(uᵀ∇²L u) at the present weights, for a direction u that does not depend on them.

    With a unit eigenvector u of ∇²L, the second is the gradient ∇S of the eigenvalue S. It takes a
    forward pass and three backward passes. Gradients and torch's random generators do not change.

    Parameters
    ----------
    loss : callable () → Tensor, shape ()
        The loss on a fixed batch. Assumes that torch can differentiate it three times, with attention
        computed by matrix products (``SDPBackend.MATH``) and without compiled code.
    parameters : sequence of Tensor
    direction : Tensor, shape (n,)
        u, in the order of the parameters.

    Returns
    -------
    gradient, slope : Tensor, shape (n,)

    Raises
    ------
    InputError
        If the loss is not one number that depends on some of the parameters.

    Examples
    --------
    L = θ⁴ has ∇L = 4θ³, and its curvature 12θ² has the slope 24θ:

    >>> theta = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    >>> slope_of_curvature(lambda: theta.pow(4).sum(), [theta], torch.ones(1, dtype=torch.float64))
    (tensor([0.5000], dtype=torch.float64), tensor([12.], dtype=torch.float64))
    """
    first = parameters[0]
    devices = [first.device] if first.is_cuda else []
    rounded = direction.to(first.dtype)
    with (
        differentiable_twice(first.device.type),
        torch.random.fork_rng(devices=devices),
        torch.enable_grad(),
    ):
        value = loss()
        check_loss(value)
        found = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
        check_used(parameters, found)
        pieces = zip(parameters, found, strict=True)
        gradient = _joined([torch.zeros_like(p) if each is None else each for p, each in pieces])
        column = _joined(_derivative(gradient @ rounded, parameters, create_graph=True))
        slope = _joined(_derivative(column @ rounded, parameters))
    return gradient.detach().to(direction.dtype), slope.detach().to(direction.dtype)


def _derivative(value: Tensor, parameters: Sequence[Tensor], create_graph: bool = False) -> Sequence[Tensor]:
    if not value.requires_grad:  # the derivative before was constant
        return [torch.zeros_like(parameter) for parameter in parameters]
    return torch.autograd.grad(value, parameters, create_graph=create_graph, materialize_grads=True)


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return torch.cat([piece.reshape(-1) for piece in pieces])
