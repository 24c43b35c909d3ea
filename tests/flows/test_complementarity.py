"""The complementarity problem of symmetric matrices, by the conditions that only its solution meets."""

import numpy as np
import pytest

from swd_dynamics.flows.complementarity import solve_complementarity


def problem(k: int, seed: int):
    """A random symmetric constant, and S → Σ tr(TᵢS)Tᵢ of more random Tᵢ than S has entries, which is monotone."""
    generator = np.random.default_rng(seed)
    constant = generator.standard_normal((k, k))
    tensors = generator.standard_normal((k * (k + 1), k, k)) * generator.uniform(0.1, 10, (k * (k + 1), 1, 1))
    tensors = (tensors + tensors.swapaxes(1, 2)) / 2
    return constant + constant.T, lambda s: np.einsum("aij,akl,kl->ij", tensors, tensors, s)


@pytest.mark.parametrize("k", range(1, 7))
@pytest.mark.parametrize("seed", range(5))
def test_conditions(k, seed):
    """Assert that S and F are symmetric and not negative, and that their product is 0."""
    constant, slope = problem(k, seed)
    s = solve_complementarity(constant, slope)
    f = constant + slope(s)
    size_s, size_f = max(np.abs(s).max(), 1e-300), np.abs(constant).max()
    assert np.abs(s - s.T).max() <= 1e-12 * size_s
    assert np.linalg.eigvalsh(s)[0] >= -1e-12 * size_s
    assert np.linalg.eigvalsh((f + f.T) / 2)[0] >= -1e-9 * size_f
    assert np.abs(s @ f).max() <= 1e-9 * size_s * size_f  # the search ends at 1e-13 of the constant


def test_one_direction_in_closed_form():
    """Assert that of one direction S is −constant/slope, or 0 where the constant is positive, at any scale."""
    for constant in (-3e-7, 2.0, -5e4):
        found = solve_complementarity(np.array([[constant]]), lambda s: 1e-4 * s)
        assert found[0, 0] == pytest.approx(max(0.0, -constant / 1e-4), rel=1e-9)


def test_directions_that_do_not_oscillate_take_no_part():
    """Assert that nothing oscillates where the gap stays open, and that no direction is a problem too."""
    assert not solve_complementarity(np.eye(3), lambda s: s).any()
    assert solve_complementarity(np.zeros((0, 0)), lambda s: s).shape == (0, 0)
