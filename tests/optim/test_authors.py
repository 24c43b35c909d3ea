"""The optimizers against the authors' own trajectories, and against values computed independently."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import swd_dynamics
from swd_dynamics import optim

# Agreement with the authors' code: 200 float64 steps of weights of order 1 round to well below this, and an ε of 1e-8
# in the wrong place is well above it.
AUTHORS = 1e-12
# Agreement with values printed to 15 digits, after up to 100 steps of round-off.
PRINTED = 1e-13

REFERENCE = Path(swd_dynamics.__file__).parent / "studies" / "reference" / "authors_open_loop.npz"
CASES = ["sgds_heavy_ball", "sgds_dampened", "sgds_nesterov", "adams", "adams_amsgrad", "adais"]


def parameters(theta, sizes):
    """θ as parameter tensors of the given sizes."""
    return [torch.tensor(piece, requires_grad=True) for piece in np.split(theta, np.cumsum(sizes)[:-1])]


def flat(tensors):
    return torch.cat([tensor.detach() for tensor in tensors]).numpy()


def trajectory(optimizer, tensors, gradients):
    """The weights before the first and after every step."""
    points = [flat(tensors)]
    for gradient in torch.tensor(gradients):
        for tensor, piece in zip(tensors, gradient.split([len(tensor) for tensor in tensors]), strict=True):
            tensor.grad = piece.clone()
        optimizer.step()
        points.append(flat(tensors))
    return np.array(points)


def split(tensors, groups):
    """The tensors as parameter groups: all in one, or the first apart from the others."""
    return tensors if groups == 1 else [{"params": tensors[:1]}, {"params": tensors[1:]}]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_reproduces_the_authors(case, groups):
    """Assert that 200 steps on the authors' gradient stream are theirs, however the tensors are grouped."""
    with np.load(REFERENCE, allow_pickle=False) as data:
        theta0, gradients, sizes = data["theta0"], data["gradients"], data["sizes"]
        expected, meta = data[f"trajectory/{case}"], json.loads(str(data["meta"]))[case]
    tensors = parameters(theta0, sizes)
    optimizer = getattr(optim, meta["optimizer"])(split(tensors, groups), **meta["kwargs"])
    assert np.abs(trajectory(optimizer, tensors, gradients) - expected).max() < AUTHORS


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        (
            "AdamS",
            {},
            {
                2: (0.979946019392986, -1.97988759048464, 0.479977563999566),
                100: (0.223308697380118, -1.09414834975667, -0.00391627328353006),
            },
        ),
        (
            "SGDS",
            {"momentum": 0.9},
            {
                2: (0.969121, -1.823922, 0.497552),
                100: (-0.00268720306243615, 0.00449918530936056, 0.164941965787327),
            },
        ),
    ],
)
def test_three_weights_on_a_quadratic(name, arguments, expected):
    """Assert that the weights on ½θᵀdiag(1, 3, .1)θ are those computed independently after 2 and after 100 steps."""
    theta = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    curvature = torch.tensor([1.0, 3.0, 0.1], dtype=torch.float64)
    optimizer = getattr(optim, name)([theta], lr=0.01, weight_decay=0.01, **arguments)
    for step in range(1, 101):
        theta.grad = curvature * theta.detach()
        optimizer.step()
        if step in expected:
            assert np.abs(flat([theta]) - expected[step]).max() < PRINTED
