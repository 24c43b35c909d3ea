"""A smooth loss of four coupled weights, f = ½θᵀHθ + ¼c·Σθ⁴: its gradient, its products, and where runs start."""

from typing import Any

import numpy as np
import torch

COUPLING = np.array([[1.0, 0.2, 0.1, 0.0], [0.2, 0.8, 0.0, 0.1], [0.1, 0.0, 1.2, 0.2], [0.0, 0.1, 0.2, 0.9]])
CUBIC, START = 0.1, np.array([1.0, 1.2, 1.4, 1.1])  # c; at the start all gradients are positive and of one size


def gradient(theta: Any) -> Any:
    """∇f = Hθ + cθ³ at many θ, shape (cells, 4), as arrays or tensors.

    Examples
    --------
    At θ = (1, 0, 0, 0) it is the first row of H, and c on its diagonal:

    >>> gradient(np.array([[1.0, 0.0, 0.0, 0.0]])).tolist()
    [[1.1, 0.2, 0.1, 0.0]]
    """
    coupling = torch.as_tensor(COUPLING) if isinstance(theta, torch.Tensor) else COUPLING
    return theta @ coupling + CUBIC * theta**3


def hvp(theta: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The products of the Hessian with vectors, Hv + 3cθ²v at many θ, shape (cells, 4).

    Examples
    --------
    >>> hvp(np.array([[1.0, 0.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 0.0, 0.0]])).tolist()
    [[1.3, 0.2, 0.1, 0.0]]
    """
    return vectors @ COUPLING + 3 * CUBIC * theta**2 * vectors
