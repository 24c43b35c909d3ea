"""Optimizers of every kind, weights to train, and gradients that are a function of the step."""

import torch

from swd_dynamics.optim import SGDS, AdaiS, AdamS

# Round-off of a handful of float64 operations on numbers of order 1, where the order of summation may differ.
ROUND_OFF = 1e-14

OPTIMIZERS = {
    "SGDS": lambda params, **other: SGDS(params, **{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, **other}),
    "SGDS plain": lambda params, **other: SGDS(params, **{"lr": 0.1, "weight_decay": 0.1, **other}),
    "SGDS Nesterov": lambda params, **other: SGDS(
        params, **{"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, **other}
    ),
    "AdamS": lambda params, **other: AdamS(params, **{"lr": 0.1, "weight_decay": 0.1, **other}),
    "AdamS AMSGrad": lambda params, **other: AdamS(
        params, **{"lr": 0.1, "weight_decay": 0.1, "amsgrad": True, "betas": (0.9, 0.5), **other}
    ),
    "AdaiS": lambda params, **other: AdaiS(params, **{"lr": 0.1, "weight_decay": 0.1, **other}),
}


def weights(*sizes, dtype=torch.float64, device="cpu"):
    """Parameters with fixed random weights of order 1."""
    random = torch.Generator().manual_seed(0)
    return [
        torch.randn(size, generator=random, dtype=torch.float64).to(device, dtype).requires_grad_() for size in sizes
    ]


def take_steps(optimizer, tensors, steps, first=0):
    """Steps on gradients that are a function of the step."""
    for step in range(first, first + steps):
        random = torch.Generator().manual_seed(step)
        for tensor in tensors:
            gradient = torch.randn(tensor.shape, generator=random, dtype=torch.float64)
            tensor.grad = gradient.to(tensor.device, tensor.dtype)
        optimizer.step()


def largest_difference(tensors, others):
    return max(float((a - b).detach().abs().max()) for a, b in zip(tensors, others, strict=True))
